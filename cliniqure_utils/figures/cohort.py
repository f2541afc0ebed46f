"""Figures of the simulated cohort: every finding with its true boxes, films without any, how common findings are."""

from pathlib import Path

import numpy as np
import pandas as pd

from cliniqure_utils.dicom import load_cxr
from cliniqure_utils.figures import BLUE, ORANGE, draw_boxes, new_figure, show_film
from cliniqure_utils.vindr import BOX, FINDINGS, NO_FINDING


def plot_contact_sheet(data_dir: str | Path, n_per_finding: int = 2, n_columns: int = 6, only: str | None = None):
    """Films of a simulated cohort, finding by finding, with the true boxes of that finding.

    Args:
        data_dir: A finished cohort (`cohort.ensure_cohort`): reads truth.csv and train/.
        n_per_finding: Films for each finding and for "No finding"; of a finding those with the fewest other findings.
        n_columns: Films in a row.
        only: Name of a finding, or "No finding", to show that one only.

    Returns:
        Figure.

    Raises:
        ValueError: `only` is on no film.
    """
    truth = _truth(data_dir)
    names = [name for name in (*FINDINGS, NO_FINDING) if (truth.class_name == name).any() and only in (None, name)]
    if not names:
        raise ValueError(f"{data_dir}/truth.csv: found no film with {only!r}, expected one of the findings in it")
    n_findings = truth.groupby("image_id").class_name.nunique()
    shown = []
    for name in names:
        with_it = truth[truth.class_name == name].image_id.drop_duplicates()
        # Stable sort: among equals the order of the cohort, so that the sheet is the same every time.
        plain = with_it.iloc[np.argsort(n_findings[with_it].to_numpy(), kind="stable")]
        shown += [(name, image_id) for image_id in plain[:n_per_finding]]
    return _sheet(data_dir, truth, shown, n_columns)


def plot_findings(data_dir: str | Path, n_columns: int = 5):
    """One film of each finding with its true boxes: of those with the fewest other findings the middle one by size."""
    truth = _truth(data_dir)
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
    """The first films without a finding: no two patients have the same shape. Figure."""
    truth = _truth(data_dir)
    normal = truth[truth.class_name == NO_FINDING].image_id.drop_duplicates()[:n_films]
    if normal.empty:
        raise ValueError(f"{data_dir}/truth.csv: found no film without a finding")
    return _sheet(data_dir, truth, [("", image_id) for image_id in normal], n_columns)


def plot_rates(prevalence: pd.DataFrame):
    """How common each finding is in the cohort (truth) against VinDr-CXR, log axes, beside the square root.

    Args:
        prevalence: As `cohort.prevalence_table` returns it.

    Returns:
        Figure.
    """
    figure, axes = new_figure(1, 1, width=6.6, height=4.6)
    axis = axes[0, 0]
    table = prevalence[prevalence.cohort_truth > 0].sort_values("vindr")
    axis.plot(
        table.vindr, table.planned, color=ORANGE, ls="--", lw=1.5, label="planned: square root, with a least share"
    )
    axis.plot(table.vindr, table.cohort_truth, ls="", marker="o", color=BLUE, label="simulated")
    limits = [0.8 * table.vindr.min(), 1.3 * max(table.vindr.max(), table.cohort_truth.max())]
    axis.plot(limits, limits, color="0.6", lw=1, label="as common as in VinDr-CXR")
    for n, (name, row) in enumerate(table.iterrows()):
        axis.annotate(
            name, (row.vindr, row.cohort_truth), xytext=(0, 7 if n % 2 else -7), textcoords="offset points",
            fontsize=7, ha="center", va="bottom" if n % 2 else "top",
        )  # fmt: skip
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlim(limits[0] * 0.8, limits[1])
    axis.set_ylim(min(limits[0], table.cohort_truth.min()) * 0.8, limits[1])
    for line in (axis.xaxis, axis.yaxis):
        line.set_major_locator(_ticks())
        line.set_major_formatter("{x:g}")
        line.set_minor_formatter("")
    axis.set_xlabel("share of VinDr-CXR's films, any reader")
    axis.set_ylabel("share of the cohort's films")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="upper left")
    return figure


def _ticks():
    from matplotlib.ticker import LogLocator

    return LogLocator(subs=(1, 2, 5))


def _truth(data_dir: str | Path) -> pd.DataFrame:
    return pd.read_csv(Path(data_dir) / "truth.csv", dtype={"image_id": str})


def _sheet(data_dir: str | Path, truth: pd.DataFrame, shown: list[tuple[str, str]], n_columns: int):
    """Films in rows; of each the true boxes of the named finding, with side and zone."""
    n_rows = -(-len(shown) // n_columns)
    figure, axes = new_figure(n_rows, n_columns, width=2.0 * n_columns, height=2.2 * n_rows)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (name, image_id) in zip(axes.flat, shown, strict=False):
        show_film(axis, load_cxr(Path(data_dir) / "train" / f"{image_id}.dicom"), name)
        rows = truth[(truth.image_id == image_id) & (truth.class_name == name)]
        places = [side if isinstance(side, str) else "" for side in rows.side]
        draw_boxes(axis, rows[BOX].to_numpy(float), places, "truth")
    return figure
