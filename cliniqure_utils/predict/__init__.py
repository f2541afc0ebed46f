"""From X-ray files to reports: what `cliniqure predict` does with the models of a finished run."""

from cliniqure_utils.predict.films import describe_films, find_films, refusal

__all__ = ["describe_films", "find_films", "refusal"]
