"""Figures of notebook 06: the systems' reports side by side, and what the evidence says of their sentences."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cliniqure_utils.figures.style import HATCHES, draw_boxes, new_figure, show_film
from cliniqure_utils.reports import MARKS


def plot_side_by_side(film: np.ndarray, boxes: np.ndarray, names: Sequence[str], reports: Mapping[str, list[dict]]):
    """The paper's figure 4 with the film: each system's sentences, marked by what the evidence says.

    Args:
        film: uint8 (height, width). boxes: (n, 4) in pixels of the film.
        reports: system -> checked sentences (`reports.check_sentences`).

    Returns:
        Figure.
    """
    columns = 1 + len(reports)
    figure, axes = new_figure(1, columns, width=3.0 * columns, height=3.4)
    show_film(axes[0, 0], film, "film, detected boxes")
    draw_boxes(axes[0, 0], boxes, names, "predicted")
    for axis, (system, sentences) in zip(axes[0, 1:], reports.items(), strict=True):
        axis.axis("off")
        axis.set_title(system, fontsize=9)
        lines = []
        for entry in sentences:
            lines += textwrap.wrap(f"{MARKS[entry['status']]} {entry['sentence']}", 44)
        axis.text(0, 1, "\n".join(lines[:19]), fontsize=7, va="top", ha="left", transform=axis.transAxes)
    return figure


def plot_statuses(shares: pd.DataFrame):
    """Share of sentences per status (columns) and system (index), stacked. Figure."""
    figure, axes = new_figure(1, 1, width=6.4, height=0.9 + 0.45 * len(shares))
    axis, left = axes[0, 0], np.zeros(len(shares))
    for i, status in enumerate(shares.columns):
        colour = ("#009E73", "#D55E00", "#E69F00", "#999999")[i]
        axis.barh(shares.index, shares[status], left=left, label=status, color=colour, hatch=HATCHES[i], ec="white")
        left = left + shares[status].to_numpy()
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.set_xlabel("share of sentences")
    axis.legend(fontsize=7, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure
