"""Figures that several notebooks draw."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from cliniqure_utils.figures.style import BLUE, CYCLE, HATCHES, ORANGE, new_figure

LINES = ("-", "--", "-.", ":")


def plot_history(history: pd.DataFrame, curves: Mapping[str, str], title: str):
    """Training curves: one panel per column of `curves` (column name -> axis label), against epochs. Figure."""
    figure, axes = new_figure(1, len(curves), width=3.4 * len(curves), height=2.5)
    for axis, (column, label), colour in zip(axes[0], curves.items(), CYCLE, strict=False):
        known = history[history[column].notna()]
        axis.plot(known.epoch, known[column], color=colour, marker="o", ms=3)
        axis.set_xlabel("epoch")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    figure.suptitle(title, fontsize=10)
    return figure


def plot_starts(histories: Mapping[str, pd.DataFrame], curves: Mapping[str, str], title: str):
    """The same training from different weights: one panel per column of `curves` (column -> axis label), one line per
    start (name -> history, with epoch 0 before the first step where it is known). Figure."""
    figure, axes = new_figure(1, len(curves), width=3.6 * len(curves), height=2.8)
    for axis, (column, label) in zip(axes[0], curves.items(), strict=True):
        for i, (name, history) in enumerate(histories.items()):
            known = history[history[column].notna()]
            axis.plot(known.epoch, known[column], color=CYCLE[i], ls=LINES[i], marker="o", ms=4, label=name)
        axis.set_xlabel("epoch")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure


def plot_per_class(scores: pd.DataFrame, label: str, title: str, reference: float | None = None):
    """Horizontal bars per class; one bar per column of `scores` (index: class names), told apart by hatching too.

    `reference` draws a dashed line, such as chance level. Figure.
    """
    crowd = max(1.0, scores.shape[1] / 3)  # bars stay thick enough for their hatching
    figure, axes = new_figure(1, 1, width=6.5, height=0.6 + 0.34 * crowd * len(scores))
    axis = axes[0, 0]
    step = 0.8 / scores.shape[1]
    for i, (name, values) in enumerate(scores.items()):
        positions = np.arange(len(scores)) + (i - (scores.shape[1] - 1) / 2) * step
        axis.barh(positions, values, height=step * 0.92, label=name, color=(BLUE, ORANGE, *CYCLE[2:])[i],
                  hatch=HATCHES[i], edgecolor="white")  # fmt: skip
    axis.set_yticks(np.arange(len(scores)), scores.index, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel(label)
    axis.set_xlim(0, 1)
    if reference is not None:
        axis.axvline(reference, color="black", ls="--", lw=1)
    if scores.shape[1] > 1:  # outside: bars may be as long as the axis
        figure.legend(fontsize=8, loc="outside lower center", ncols=2)
        figure.set_figheight(figure.get_figheight() + 0.2 * -(-scores.shape[1] // 2))
    axis.set_title(title, fontsize=10)
    return figure
