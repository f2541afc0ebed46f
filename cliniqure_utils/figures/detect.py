"""Figures of notebook 02: boxes on films, and free-response curves."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cliniqure_utils.figures.shared import LINES
from cliniqure_utils.figures.style import CYCLE, draw_boxes, new_figure, show_film
from cliniqure_utils.vocabulary import BOX


def plot_films(
    films: Sequence[np.ndarray], tables: Sequence[Mapping[str, pd.DataFrame]], titles: Sequence[str], columns: int = 4
):
    """Films with boxes.

    Args:
        films: uint8 (height, width) each.
        tables: Per film: kind of box (a key of `style.BOX_STYLES`) -> DataFrame with class_name, the four coordinates
            in pixels of the film that is shown, and for predictions a score.
        titles: One per film.

    Returns:
        Figure.
    """
    rows = -(-len(films) // columns)
    figure, axes = new_figure(rows, columns, width=2.45 * columns, height=2.7 * rows)
    for axis in axes.flat:
        axis.axis("off")
    for axis, film, table, title in zip(axes.flat, films, tables, titles, strict=False):
        axis.axis("on")
        show_film(axis, film, title)
        for kind, boxes in table.items():
            if kind == "predicted":
                texts = [f"{n} {s:.2f}" for n, s in zip(boxes.class_name, boxes.score, strict=True)]
            else:
                texts = list(boxes.class_name)
            draw_boxes(axis, boxes[BOX].to_numpy(), texts, kind)
    return figure


def plot_froc(curves: Mapping[str, pd.DataFrame], points: Sequence[float], title: str):
    """Free-response curves, false boxes per film on a logarithmic axis.

    Args:
        curves: Name of the detector -> curve of `metrics.froc` (false_per_image, sensitivity).
        points: False boxes per film at which the score is read; dotted lines.

    Returns:
        Figure.
    """
    figure, axes = new_figure(1, 1, width=5.2, height=3.4)
    axis = axes[0, 0]
    left, right = min(points) / 1.6, max(points) * 1.6
    for i, (name, curve) in enumerate(curves.items()):
        # A curve is a staircase: what has been found stays found until the next box is let through.
        near = curve[curve.false_per_image <= right]
        x = np.r_[left, near.false_per_image.clip(left), right]
        y = np.r_[0.0, near.sensitivity, near.sensitivity.iloc[-1] if len(near) else 0.0]
        axis.step(x, y, where="post", color=CYCLE[i % len(CYCLE)], ls=LINES[i % len(LINES)], lw=1.5, label=name)
    for point in points:
        axis.axvline(point, color="grey", ls=":", lw=0.7)
    axis.set_xscale("log", base=2)
    axis.set_xticks(points, [f"{point:g}" for point in points])
    axis.minorticks_off()
    axis.set_xlim(left, right)
    axis.set_ylim(0, 1)
    axis.set_xlabel("false boxes per film")
    axis.set_ylabel("share of reference boxes found")
    axis.legend(fontsize=8, loc="upper left")
    axis.set_title(title, fontsize=10)
    return figure


def plot_detectability(panels: Mapping[str, Mapping[str, pd.DataFrame]], title: str):
    """Recall against what a lesion is like, one panel each.

    Args:
        panels: Label of the x axis -> name of the line -> table of `metrics.recall_by`.

    Returns:
        Figure; points lie at the median of a group, bars are its 95 % interval.
    """
    figure, axes = new_figure(1, len(panels), width=4.2 * len(panels), height=3.2, sharey=True)
    for axis, (label, lines) in zip(axes[0], panels.items(), strict=True):
        for i, (name, table) in enumerate(lines.items()):
            reach = np.stack([table.recall - table.recall_low, table.recall_high - table.recall])
            axis.errorbar(
                table["median"], table.recall, yerr=reach, color=CYCLE[i % len(CYCLE)], ls=LINES[i % len(LINES)],
                marker="o", ms=4, lw=1.3, capsize=3, label=name,
            )  # fmt: skip
        axis.set_xlabel(label)
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
        if len(lines) > 1:
            axis.legend(fontsize=8, loc="best")
    axes[0, 0].set_ylim(-0.02, 1.02)
    axes[0, 0].set_ylabel("share of lesions found")
    figure.suptitle(title, fontsize=10)
    return figure
