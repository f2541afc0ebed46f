"""Figures of notebook 03: scores with intervals, curves, calibration, heat maps beside the true box."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cliniqure_utils.figures.shared import LINES
from cliniqure_utils.figures.style import BLUE, CYCLE, HATCHES, ORANGE, draw_boxes, new_figure, show_film

MARKERS = ("o", "s", "^", "D")


def plot_intervals(table: pd.DataFrame, name: str, label: str, title: str, reference: float | pd.Series | None = None):
    """Score of each class with its interval, best on top.

    Args:
        table: Index class names; columns `name`, `name`_low, `name`_high, as `metrics.per_class_intervals` returns.
        reference: What guessing scores, one number or one per class; drawn dashed or as crosses.

    Returns:
        Figure.
    """
    table = table[table[name].notna()].sort_values(name, ascending=False)
    figure, axes = new_figure(1, 1, width=6.5, height=0.8 + 0.28 * len(table))
    axis, rows = axes[0, 0], np.arange(len(table))
    reach = np.abs(np.stack([table[name] - table[f"{name}_low"], table[f"{name}_high"] - table[name]]))
    axis.errorbar(table[name], rows, xerr=np.nan_to_num(reach), fmt="o", color=BLUE, capsize=3, ms=5, lw=1.2)
    if isinstance(reference, pd.Series):
        axis.plot(reference[table.index], rows, "x", color=ORANGE, ms=6, label="guessing")
        axis.legend(fontsize=8, loc="lower right")
    elif reference is not None:
        axis.axvline(reference, color="black", ls="--", lw=1)
    axis.set_yticks(rows, [f"{n} ({int(p)})" for n, p in table.positives.items()], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.grid(axis="x", alpha=0.3)
    axis.set_xlabel(label)
    axis.set_title(title, fontsize=10)
    return figure


def plot_reliability(tables: Mapping[str, pd.DataFrame], title: str):
    """Frequency against stated probability, and how many answers stand behind each point.

    Args:
        tables: Name -> `metrics.reliability`, such as before and after calibration.

    Returns:
        Figure with two panels: the curve (the diagonal is perfect calibration), and the number of answers per group.
    """
    figure, axes = new_figure(2, 1, width=4.4, height=4.8, height_ratios=[3, 1], sharex=True)
    top, below = axes[:, 0]
    top.plot([0, 1], [0, 1], color="black", ls=":", lw=1, label="honest")
    width = 0.9 / max(len(tables), 1)
    for i, (name, table) in enumerate(tables.items()):
        known = table[table.n > 0]
        colour, marker = CYCLE[i % len(CYCLE)], MARKERS[i % len(MARKERS)]
        top.plot(known.confidence, known.frequency, color=colour, marker=marker, ms=4, lw=1.2, label=name)
        step = table.high - table.low
        below.bar(
            table.low + step * (0.05 + width * (i + 0.5)), table.n, width=step * width, color=colour,
            hatch=HATCHES[i % len(HATCHES)], edgecolor="white", lw=0.3,
        )  # fmt: skip
    top.set_ylabel("share that is there")
    top.set_xlim(0, 1)
    top.set_ylim(0, 1)
    top.grid(alpha=0.3)
    top.legend(fontsize=8, loc="upper left")
    below.set_yscale("log")
    below.set_ylabel("answers")
    below.set_xlabel("stated probability")
    top.set_title(title, fontsize=10)
    return figure


def plot_gradcam(
    films: Sequence[np.ndarray],
    maps: Sequence[np.ndarray],
    boxes: Sequence,
    titles: Sequence[str],
    hits: Sequence[float],
):
    """Grad-CAM on films beside the reference boxes.

    Args:
        films: uint8 (height, width) each.
        maps: (height, width) in [0, 1], of the same size.
        boxes: Per film (k, 4) in its pixels, the reference of the class that is explained.
        titles: One per film.
        hits: What `vision.gradcam.pointing_game` says of each: 1, 0 or NaN.

    Returns:
        Figure: above the film with its box, below the map with contours at .5 and .8, the box, and its strongest place
        as a cross.
    """
    figure, axes = new_figure(2, len(films), width=2.3 * len(films), height=5.0)
    words = {1.0: "points into the box", 0.0: "points beside it"}
    for column, (film, heat, box, title, hit) in enumerate(zip(films, maps, boxes, titles, hits, strict=True)):
        show_film(axes[0, column], film, title)
        draw_boxes(axes[0, column], box, None, "truth")
        axis = axes[1, column]
        show_film(axis, film, words.get(hit, "no box"))
        axis.imshow(heat, cmap="cividis", alpha=0.45, vmin=0, vmax=1)
        if heat.max() > heat.min():
            axis.contour(heat, levels=[0.5, 0.8], colors="white", linewidths=0.8)
            y, x = np.unravel_index(np.argmax(heat), heat.shape)
            axis.plot(x, y, "x", color="white", ms=9, mew=2.5)
            axis.plot(x, y, "x", color="black", ms=8, mew=1.2)
        draw_boxes(axis, box, None, "truth")
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
