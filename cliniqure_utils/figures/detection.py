"""Figures of notebooks 02 and 03: boxes on films, training history, scores per class beside a baseline."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cliniqure_utils.figures import BLUE, CYCLE, HATCHES, ORANGE, draw_boxes, new_figure, show_film
from cliniqure_utils.loaders import BOX

LINES = ("-", "--", "-.", ":")


def plot_films(
    films: Sequence[np.ndarray], tables: Sequence[Mapping[str, pd.DataFrame]], titles: Sequence[str], columns: int = 4
):
    """Films with boxes.

    Args:
        films: uint8 (height, width) each.
        tables: Per film: kind of box (a key of figures.BOX_STYLES) -> DataFrame with class_name, the four coordinates
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


def plot_per_class(scores: pd.DataFrame, label: str, title: str, reference: float | None = None):
    """Horizontal bars per class; one bar per column of `scores` (index: class names), told apart by hatching too.

    `reference` draws a dashed line, such as chance level. Figure.
    """
    figure, axes = new_figure(1, 1, width=6.5, height=0.6 + 0.34 * len(scores))
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
    if scores.shape[1] > 3:  # too many names to lie beside the bars
        figure.legend(fontsize=8, loc="outside lower center", ncols=2)
        figure.set_figheight(figure.get_figheight() + 0.5)
    elif scores.shape[1] > 1:
        axis.legend(fontsize=8, loc="lower right")
    axis.set_title(title, fontsize=10)
    return figure


def plot_curves(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], x_label: str, y_label: str, title: str):
    """Lines told apart by style as well as colour: name -> (x, y). Figure."""
    figure, axes = new_figure(1, 1, width=4.6, height=3.4)
    axis = axes[0, 0]
    for i, (name, (x, y)) in enumerate(curves.items()):
        axis.plot(x, y, color=CYCLE[i % len(CYCLE)], ls=LINES[i % len(LINES)], lw=1.3, label=name)
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    axis.set_title(title, fontsize=10)
    return figure


def plot_heatmaps(films: Sequence[np.ndarray], maps: Sequence[np.ndarray], boxes: Sequence, titles: Sequence[str]):
    """Film, and the same film under its heat map (values in [0, 1], contours so that it reads in grey). Figure."""
    figure, axes = new_figure(2, len(films), width=2.3 * len(films), height=4.9)
    for column, (film, heat, box, title) in enumerate(zip(films, maps, boxes, titles, strict=True)):
        show_film(axes[0, column], film, title)
        draw_boxes(axes[0, column], box, None, "truth")
        show_film(axes[1, column], film)
        extent = (0, film.shape[1], film.shape[0], 0)
        grid = np.linspace(0, 1, heat.shape[0] * 2 + 1)[1::2] * film.shape[0]
        axes[1, column].imshow(heat, cmap="cividis", alpha=0.45, extent=extent, vmin=0, vmax=1)
        axes[1, column].contour(grid, grid, heat, levels=[0.25, 0.5, 0.75], colors="white", linewidths=0.9)
        draw_boxes(axes[1, column], box, None, "truth")
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
