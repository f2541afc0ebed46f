"""Figures of notebook 01 about reading films: the museum of mistakes."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from cliniqure_utils.figures import new_figure, show_film


def damage(exhibits: Mapping[str, np.ndarray], right: str) -> pd.DataFrame:
    """What each way to read a film does to it.

    Args:
        exhibits: Name -> film, float (height, width) in [0, 1], all of one shape.
        right: Name of the film that the others are compared with.

    Returns:
        DataFrame, a row per exhibit: correlation (of the pixels with the right film's, -1 to 1), grey_error (mean
        absolute difference in steps of 255), saturated (share of pixels that are plain black or white).
    """
    truth = np.asarray(exhibits[right], float)
    rows = {}
    for name, film in exhibits.items():
        film = np.asarray(film, float)
        rows[name] = {
            "correlation": float(np.corrcoef(film.ravel(), truth.ravel())[0, 1]),
            "grey_error": float(255 * np.abs(film - truth).mean()),
            "saturated": float(((film <= 0) | (film >= 1)).mean()),
        }
    return pd.DataFrame(rows).T


def plot_museum(exhibits: Mapping[str, np.ndarray], measured: pd.DataFrame):
    """The films of `damage` side by side, the damage below each. Figure."""
    figure, axes = new_figure(1, len(exhibits), width=2.05 * len(exhibits), height=2.9)
    for axis, (name, film) in zip(axes[0], exhibits.items(), strict=True):
        show_film(axis, np.asarray(film, float), name)
        row = measured.loc[name]
        axis.set_xlabel(f"correlation {row.correlation:.2f}\nblack or white {row.saturated:.0%}", fontsize=8)
    return figure
