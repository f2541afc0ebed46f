"""HTML pages: report.html of notebook 07, and the pages of `cliniqure predict`, from one base."""

from cliniqure_utils.pages.rendering import data_url, figure_png, film_with_boxes, pixels_png, render, thumbnail

__all__ = ["data_url", "figure_png", "film_with_boxes", "pixels_png", "render", "thumbnail"]
