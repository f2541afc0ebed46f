"""The film with the detector's boxes and the disclaimer drawn on it."""

import numpy as np

from cliniqure_utils.vocabulary import DISCLAIMER

OVERLAY_INCHES = 5.12  # longest side: text keeps its share of the film whatever its size in pixels


def draw_overlay(film: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Draw on a film.

    Args:
        film: uint8 (height, width).
        boxes: (n, 4) in pixels of this film.

    Returns:
        uint8 (height, width, 3): pixel for pixel the film, boxes dashed and numbered from 1.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from cliniqure_utils.figures.style import number_boxes, show_film

    height, width = film.shape
    dpi = max(width, height) / OVERLAY_INCHES
    figure = Figure(figsize=((width + 0.01) / dpi, (height + 0.01) / dpi), dpi=dpi)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    show_film(axes, film)
    axes.axis("off")
    number_boxes(axes, boxes, side=0.05 * max(width, height))
    axes.text(
        0.01, 0.01, DISCLAIMER, transform=axes.transAxes, color="white", fontsize=9, va="bottom",
        bbox={"facecolor": "black", "alpha": 0.7, "pad": 1.5, "edgecolor": "none"},
    )  # fmt: skip
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    return np.ascontiguousarray(pixels[:height, :width])
