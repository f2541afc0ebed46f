"""Figures of notebook 07: Table 7 beside its baselines, what a text metric is worth, the claim ledger, test cases."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cliniqure_utils.figures.style import BLACK, BLUE, CYCLE, HATCHES, ORANGE, draw_boxes, new_figure, show_film
from cliniqure_utils.vocabulary import BOX

MARKERS = ("v", "o", "s", "^", "D", "P", "X", "*")


def plot_table7(table: pd.DataFrame):
    """Plot each row of Table 7: bars for this run and the best trivial baseline, a diamond for the paper's value.

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
    """Raw BERTScore in context: the spread of random pairs of reports, and where each system's mean lies.

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


def plot_stress(order: pd.DataFrame, verdicts: pd.DataFrame, names: Mapping[str, str] | None = None):
    """Heat map of the stress panel: how often each metric (row) puts a harmless change above a harmful one (column).

    Dark means the right order. The number stands in each cell, and a frame marks the kinds that a metric notices, so
    that the figure can be read without colour.

    Args:
        order: From `evaluation.stress.order_table`: metric, kind, share in [0, 1], told.
        verdicts: From `evaluation.stress.verdicts`: metric, verdict.
        names: metric -> how to write it; None: `evaluation.stress.METRICS`.

    Returns:
        Figure.
    """
    from matplotlib.patches import Rectangle

    from cliniqure_utils.evaluation.stress import METRICS

    names = METRICS if names is None else names
    rows, kinds = list(dict.fromkeys(order.metric)), list(dict.fromkeys(order.kind))
    share = order.pivot(index="metric", columns="kind", values="share").loc[rows, kinds].to_numpy()
    told = order.pivot(index="metric", columns="kind", values="told").loc[rows, kinds].to_numpy()
    figure, axes = new_figure(1, 1, width=8.2, height=1.7 + 0.38 * len(rows))
    axis = axes[0, 0]
    picture = axis.imshow(share, cmap="Greys", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(share.shape):
        dark = share[row, column] > 0.55
        axis.text(column, row, f"{share[row, column]:.2f}", ha="center", va="center", fontsize=8,
                  color="white" if dark else "black")  # fmt: skip
        if told[row, column]:
            axis.add_patch(Rectangle((column - 0.45, row - 0.42), 0.9, 0.84, fill=False, ec=ORANGE, lw=2))
    axis.set_xticks(range(len(kinds)), [kind.replace(" ", "\n", 1) for kind in kinds], fontsize=8)
    axis.set_yticks(range(len(rows)), [names.get(name, name) for name in rows], fontsize=8)
    axis.tick_params(length=0)
    said = verdicts.set_index("metric").verdict
    right = axis.secondary_yaxis("right")
    right.set_yticks(range(len(rows)), [said[name] for name in rows], fontsize=8)
    right.tick_params(length=0)
    axis.set_title("Share of pairs in the right order: harmless change above harmful one", fontsize=9)
    bar = figure.colorbar(picture, ax=axis, location="bottom", shrink=0.5, aspect=40)
    bar.set_label("0: wrong way round    0.5: blind    1: always right    (frame: noticed)", fontsize=8)
    bar.ax.tick_params(labelsize=7)
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
    columns = min(3, len(films))
    n_rows = -(-len(films) // columns)
    figure, axes = new_figure(n_rows, columns, width=2.9 * columns + 0.2, height=3.1 * n_rows)
    for axis in axes.flat[len(films) :]:
        axis.axis("off")
    for axis, film, truth, predicted, title in zip(axes.flat, films, truths, predictions, titles, strict=False):
        show_film(axis, film, title)
        draw_boxes(axis, truth[BOX].to_numpy(), list(truth.class_name), "truth")
        texts = [f"{name} {score:.2f}" for name, score in zip(predicted.class_name, predicted.score, strict=True)]
        draw_boxes(axis, predicted[BOX].to_numpy(), texts, "predicted")
    return figure
