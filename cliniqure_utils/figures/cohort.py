"""Contact sheet of the simulated cohort: films of every finding with their true boxes, and films without any."""

from pathlib import Path

import numpy as np
import pandas as pd

from cliniqure_utils.dicom import load_cxr
from cliniqure_utils.figures import draw_boxes, new_figure, show_film
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
    data_dir = Path(data_dir)
    truth = pd.read_csv(data_dir / "truth.csv", dtype={"image_id": str})
    names = [name for name in (*FINDINGS, NO_FINDING) if (truth.class_name == name).any() and only in (None, name)]
    if not names:
        raise ValueError(f"{data_dir / 'truth.csv'}: found no film with {only!r}, expected one of the findings in it")
    n_findings = truth.groupby("image_id").class_name.nunique()
    shown = []
    for name in names:
        with_it = truth[truth.class_name == name].image_id.drop_duplicates()
        # Stable sort: among equals the order of the cohort, so that the sheet is the same every time.
        plain = with_it.iloc[np.argsort(n_findings[with_it].to_numpy(), kind="stable")]
        shown += [(name, image_id) for image_id in plain[:n_per_finding]]

    n_rows = -(-len(shown) // n_columns)
    figure, axes = new_figure(n_rows, n_columns, width=2.0 * n_columns, height=2.2 * n_rows)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (name, image_id) in zip(axes.flat, shown, strict=False):
        show_film(axis, load_cxr(data_dir / "train" / f"{image_id}.dicom"), name)
        rows = truth[(truth.image_id == image_id) & (truth.class_name == name)]
        sides = [side if isinstance(side, str) else "" for side in rows.side]
        draw_boxes(axis, rows[BOX].to_numpy(float), sides, "truth")
    return figure
