"""Figures of notebook 01, in its order: the simulated films, how common findings are, rules that fuse readers' boxes,
what each wrong way to read a film does to it, and box sizes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from cliniqure_utils.annotations import rescale_boxes
from cliniqure_utils.dicom import load_cxr
from cliniqure_utils.figures.style import (
    BLACK,
    BLUE,
    BOX_STYLES,
    GREEN,
    HATCHES,
    ORANGE,
    RED,
    draw_boxes,
    new_figure,
    show_film,
)
from cliniqure_utils.runs import read_table
from cliniqure_utils.vocabulary import BOX, CLASSES, FINDINGS, NO_FINDING


def plot_findings(data_dir: str | Path, n_columns: int = 5):
    """One film of each finding with its true boxes. Figure.

    Of the films with the fewest other findings, the one whose finding has the median size is shown.
    """
    truth = _read_truth(data_dir)
    n_findings = truth.groupby("image_id").class_name.nunique()
    area = (truth.x_max - truth.x_min) * (truth.y_max - truth.y_min)
    shown = []
    for name in FINDINGS:
        rows = truth[truth.class_name == name]
        if rows.empty:
            continue
        largest = area[rows.index].groupby(rows.image_id, sort=False).max()
        table = pd.DataFrame({"n": n_findings[largest.index], "area": largest})
        fewest = table[table.n == table.n.min()]
        shown.append((name, fewest.sort_values("area", kind="stable").index[len(fewest) // 2]))
    return _sheet(data_dir, truth, shown, n_columns)


def plot_normals(data_dir: str | Path, n_films: int = 12, n_columns: int = 6):
    """The first `n_films` films without a finding; no two patients have the same shape. Figure."""
    truth = _read_truth(data_dir)
    normal = truth[truth.class_name == NO_FINDING].image_id.drop_duplicates()[:n_films]
    if normal.empty:
        raise ValueError(f"{data_dir}/truth.csv: found no film without a finding")
    return _sheet(data_dir, truth, [("", image_id) for image_id in normal], n_columns)


def _read_truth(data_dir: str | Path) -> pd.DataFrame:
    return read_table(Path(data_dir) / "truth.csv")


def _sheet(data_dir: str | Path, truth: pd.DataFrame, shown: list[tuple[str, str]], n_columns: int):
    """Films in rows; of each the true boxes of the named finding, with side and zone."""
    n_rows = max(1, -(-len(shown) // n_columns))  # a cohort of normal films shows an empty sheet
    figure, axes = new_figure(n_rows, n_columns, width=2.0 * n_columns, height=2.2 * n_rows)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (name, image_id) in zip(axes.flat, shown, strict=False):
        show_film(axis, load_cxr(Path(data_dir) / "train" / f"{image_id}.dicom"), name)
        rows = truth[(truth.image_id == image_id) & (truth.class_name == name)]
        places = [side if isinstance(side, str) else "" for side in rows.side]
        draw_boxes(axis, rows[BOX].to_numpy(float), places, "truth")
    return figure


def plot_prevalence(tables: Mapping[str, pd.DataFrame]):
    """Share of films on which any reader marked each class, one bar per data set (reader rows). Figure."""
    shares = {}
    for name, rows in tables.items():
        n_films = rows.image_id.nunique()
        shares[name] = rows.groupby("class_name").image_id.nunique() / n_films
    figure, axes = new_figure(1, 1, width=7, height=4.6)
    axis = axes[0, 0]
    for i, (name, share) in enumerate(shares.items()):
        position = np.arange(len(CLASSES)) + (i - 0.5) * 0.4
        values = share.reindex(CLASSES).fillna(0)
        axis.barh(position, values, 0.38, label=name, color=(BLUE, ORANGE)[i], hatch=HATCHES[i], edgecolor="white")
    axis.set_yticks(np.arange(len(CLASSES)), CLASSES, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("share of films")
    axis.legend(fontsize=8)
    return figure


def plot_lab(table: pd.DataFrame, ceiling: pd.DataFrame):
    """Scores of the rules that fuse readers' boxes, best F1 on top, beside what one reader alone reaches.

    Left, precision and recall against the reader left out. Right, F1 over all boxes, with its range over the readers
    left out, and the mean of the F1 of each finding. Grey bands: the same two numbers for one reader against another,
    from the lowest pair to the highest.

    Args:
        table: As `annotations.leave_one_out` returns it.
        ceiling: As `annotations.reader_ceiling` returns it for the same films.

    Returns:
        Figure.
    """
    from matplotlib.ticker import MaxNLocator

    table = table.sort_values("f1", ascending=False, kind="stable")
    rows = np.arange(len(table))
    figure, axes = new_figure(1, 2, width=8.8, height=1.7 + 0.28 * len(table), sharey=True)
    left, right = axes[0]
    left.hlines(rows, table.precision, table.recall, color="0.6", lw=1.5)
    left.plot(table.precision, rows, ls="", marker=">", ms=7, color=BLUE, label="precision")
    left.plot(table.recall, rows, ls="", marker="s", ms=6, mfc="white", mec=RED, mew=1.6, label="recall")
    left.set_xlabel("share of boxes that match", fontsize=9)

    spread = np.stack([table.f1 - table.f1_low, table.f1_high - table.f1])
    all_boxes = right.errorbar(
        table.f1, rows, xerr=spread, ls="", marker="o", ms=6, color=BLACK, elinewidth=1.2, capsize=3,
        label="all boxes; bar: range over readers",
    )  # fmt: skip
    low, high = ceiling.f1.min(), ceiling.f1.max()
    one_reader = right.axvspan(low, high, color="0.8", lw=1, zorder=0, label="one reader against another")
    (per_finding,) = right.plot(
        table.macro_f1, rows, ls="", marker="D", ms=6, mfc="white", mec=GREEN, mew=1.6, label="mean over findings"
    )
    low, high = ceiling.macro_f1.min(), ceiling.macro_f1.max()
    one_reader_per_finding = right.axvspan(
        low, high, facecolor="none", edgecolor="0.6", hatch="////", lw=1, zorder=0, label="one reader against another"
    )
    right.set_xlabel("F1", fontsize=9)
    for row, count in enumerate(table.boxes_per_image):
        right.annotate(f"{count:.1f}", (1.02, row), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    right.annotate("boxes\nper film", (1.01, 1.01), xycoords="axes fraction", va="bottom", fontsize=7.5)

    left.set_yticks(rows, table.index)
    left.set_ylim(len(table) - 0.5, -0.5)
    for axis, handles in ((left, None), (right, [all_boxes, one_reader, per_finding, one_reader_per_finding])):
        axis.grid(axis="x", alpha=0.3)
        axis.tick_params(labelsize=8)
        axis.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axis.legend(
            handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, fontsize=7.5, frameon=False
        )
    return figure


def plot_readers(
    image_ids: Sequence[str], image_dir: Path, index: pd.DataFrame, readers: pd.DataFrame, merged: pd.DataFrame
):
    """Per film: above the boxes of up to three readers, below the merged ones with their names.

    Args:
        image_ids: Films, one column each.
        image_dir: Folder of the cached films.
        index: index.csv (DICOM and cached sizes).
        readers, merged: Boxes in DICOM pixels.

    Returns:
        Figure.
    """
    from matplotlib.lines import Line2D

    sizes = index.set_index("image_id")
    names = sorted(set(readers[readers.image_id.isin(image_ids)].rad_id), key=lambda r: (len(r), r))
    kinds = {reader: f"reader_{n % 3 + 1}" for n, reader in enumerate(names)}
    figure, axes = new_figure(2, len(image_ids), width=2.7 * len(image_ids), height=5.9)
    for column, image_id in enumerate(image_ids):
        size = sizes.loc[image_id]
        film = np.asarray(Image.open(Path(image_dir) / f"{image_id}.png"))
        rows = readers[(readers.image_id == image_id) & (readers.class_name != NO_FINDING)]
        show_film(axes[0, column], film, f"film {column + 1}: readers")
        for reader, drawn in rows.groupby("rad_id"):
            draw_boxes(axes[0, column], _on_cached_film(drawn, size), None, kinds[reader])
        show_film(axes[1, column], film, "merged")
        joined = merged[merged.image_id == image_id]
        draw_boxes(axes[1, column], _on_cached_film(joined, size), list(joined.class_names), "merged")
    lines = [
        Line2D([], [], color=BOX_STYLES[kind][0], ls=BOX_STYLES[kind][1], lw=2, label=reader)
        for reader, kind in kinds.items()
    ]
    legend = figure.legend(handles=lines, loc="outside lower center", ncols=max(1, len(lines)), fontsize=8)
    legend.get_frame().set_facecolor("0.35")  # yellow lines need a dark ground
    for text in legend.get_texts():
        text.set_color("white")
    return figure


def _on_cached_film(rows: pd.DataFrame, size: pd.Series) -> np.ndarray:
    """Boxes from DICOM pixels to pixels of the cached film."""
    return rescale_boxes(rows[BOX], (size["columns"], size["rows"]), (size["width"], size["height"]))


def damage(exhibits: Mapping[str, np.ndarray], right: str) -> pd.DataFrame:
    """Measure what each way to read a film does to it.

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


def plot_box_sizes(readers: pd.DataFrame, index: pd.DataFrame, real: pd.DataFrame):
    """Longest side of the readers' boxes per finding, this run's data beside VinDr-CXR's; log axes. Figure."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    figure, axes = new_figure(1, 2, width=8.4, height=4.0, sharey=True)
    for axis, (rows, title) in zip(
        axes[0], ((readers, "this run's data"), (real, "VinDr-CXR (films about 10 times larger)")), strict=True
    ):
        found = rows[rows.class_name != NO_FINDING]
        side = np.maximum(found.x_max - found.x_min, found.y_max - found.y_min)
        groups = [side[found.class_name == name].to_numpy() for name in FINDINGS]
        axis.boxplot(
            groups, orientation="horizontal", showfliers=False, widths=0.6, medianprops={"color": ORANGE, "lw": 2}
        )
        axis.set_yticks(np.arange(1, len(FINDINGS) + 1), FINDINGS, fontsize=8)
        if found.empty:
            axis.set_xlim(1, 1000)  # an axis without a box has no range of its own, and a logarithm needs one
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel("longest side of the box in DICOM pixels")
        axis.set_title(title, fontsize=9)
        axis.grid(axis="x", alpha=0.3)
    axes[0, 0].invert_yaxis()
    return figure
