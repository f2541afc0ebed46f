"""Figures of notebook 07: Table 7 beside its baselines, what a BERTScore is worth, the claim ledger, test cases."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cliniqure_utils.figures import BLACK, BLUE, CYCLE, HATCHES, ORANGE, draw_boxes, new_figure, show_film

MARKERS = ("v", "o", "s", "^", "D", "P", "X", "*")


def plot_table7(table: pd.DataFrame):
    """Bars of this run and of the best trivial baseline, the paper's value as a diamond, for each row of Table 7.

    Args:
        table: metric (text), paper, this_run, low, high (95% interval, NaN where there is none), baseline; all numbers
            in [0, 1].

    Returns:
        Figure.
    """
    figure, axes = new_figure(1, 1, width=7.5, height=0.9 + 0.42 * len(table))
    axis, rows = axes[0, 0], np.arange(len(table))
    whisker = np.stack([table.this_run - table.low, table.high - table.this_run]).clip(0)
    axis.barh(rows - 0.19, table.this_run, height=0.36, color=BLUE, label="this run, 95% interval",
              xerr=np.nan_to_num(whisker), error_kw={"elinewidth": 1, "capsize": 2})  # fmt: skip
    axis.barh(rows + 0.19, table.baseline, height=0.36, color=ORANGE, hatch="//", edgecolor="white",
              label="best trivial baseline")  # fmt: skip
    axis.plot(table.paper, rows, ls="", marker="D", color=BLACK, ms=5, label="paper (other data)")
    axis.set_yticks(rows, table.metric, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.02)
    axis.set_xlabel("value")
    axis.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def plot_bertscore(random_pairs: np.ndarray, means: Mapping[str, float], paper: float | None = None):
    """What a raw BERTScore is worth: the spread of random pairs of reports, and where each system's mean lies.

    Args:
        random_pairs: Raw F1 of pairs of reports of different films.
        means: Name of a system or control -> its mean raw F1.
        paper: The paper's value, drawn as a dashed line.

    Returns:
        Figure.
    """
    figure, axes = new_figure(2, 1, width=7.0, height=2.6 + 0.28 * len(means), sharex=True,
                              gridspec_kw={"height_ratios": [1.5, 0.4 + 0.25 * len(means)]})  # fmt: skip
    top, bottom = axes[:, 0]
    top.hist(random_pairs, bins=40, color="0.75", edgecolor="white", lw=0.3)
    top.set_ylabel("random pairs")
    names = list(means)
    for row, name in enumerate(names):
        bottom.plot(means[name], row, marker=MARKERS[row % len(MARKERS)], color=CYCLE[row % len(CYCLE)], ms=7, ls="")
        # The label stands where there is room for it.
        shift, side = (-8, "right") if means[name] > 0.7 else (8, "left")
        text = f"{name}: {means[name]:.2f}"
        bottom.annotate(
            text, (means[name], row), (shift, 0), textcoords="offset points", ha=side, va="center", fontsize=8
        )
    bottom.set_yticks([])
    bottom.set_ylim(len(names) - 0.4, -0.6)
    bottom.set_xlim(min(0, *means.values()) if means else 0, 1.01)
    bottom.set_xlabel("raw BERTScore F1 against the reference report")
    for axis in (top, bottom):
        if paper is not None:
            axis.axvline(paper, color="black", ls="--", lw=1)
        axis.grid(axis="x", alpha=0.3)
    if paper is not None:
        top.annotate(f"paper: {paper:g}", (paper, 0.9), xycoords=("data", "axes fraction"), xytext=(-4, 0),
                     textcoords="offset points", ha="right", fontsize=8)  # fmt: skip
    return figure


def plot_ledger(counts: pd.Series):
    """How many claims have each status: one labelled bar per status. Figure."""
    figure, axes = new_figure(1, 1, width=6.5, height=0.7 + 0.3 * len(counts))
    axis, rows = axes[0, 0], np.arange(len(counts))
    for row, count in enumerate(counts):
        axis.barh(row, count, color=CYCLE[row % len(CYCLE)], hatch=HATCHES[row % len(HATCHES)], edgecolor="white")
        axis.text(count, row, f" {count}", va="center", fontsize=8)
    axis.set_yticks(rows, counts.index, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("claims of the paper")
    axis.margins(x=0.08)
    return figure


def plot_cases(films: Sequence[np.ndarray], truths: Sequence, predictions: Sequence, titles: Sequence[str]):
    """Films with their true boxes (solid) and predicted boxes (dashed, with score), three in a row.

    Args:
        films: uint8 (height, width) each.
        truths: Per film a DataFrame class_name, x_min, y_min, x_max, y_max in pixels of the film; NaN rows are skipped.
        predictions: The same and score.
        titles: One per film.

    Returns:
        Figure.
    """
    corners = ["x_min", "y_min", "x_max", "y_max"]
    columns = min(3, len(films))
    n_rows = -(-len(films) // columns)
    figure, axes = new_figure(n_rows, columns, width=2.9 * columns + 0.2, height=3.1 * n_rows)
    for axis in axes.flat[len(films) :]:
        axis.axis("off")
    for axis, film, truth, predicted, title in zip(axes.flat, films, truths, predictions, titles, strict=False):
        show_film(axis, film, title)
        draw_boxes(axis, truth[corners].to_numpy(), list(truth.class_name), "truth")
        texts = [f"{name} {score:.2f}" for name, score in zip(predicted.class_name, predicted.score, strict=True)]
        draw_boxes(axis, predicted[corners].to_numpy(), texts, "predicted")
    return figure
