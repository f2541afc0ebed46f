"""Comparing the cohort with VinDr-CXR: how common each finding is, how large the boxes are, how far readers agree.

VinDr-CXR's numbers are measured on the packaged annotations each time; nothing of them is stored.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from cliniqure_utils.annotations import read_annotations, reader_ceiling, vindr_annotations
from cliniqure_utils.cohort.plan import target_shares, vindr_combinations
from cliniqure_utils.runs import read_table
from cliniqure_utils.vocabulary import FINDINGS

# VinDr-CXR's annotation file has no image sizes. This is the middle one of the three that the paper prints (table 2).
NOMINAL_FILM = (2336, 2836)


def prevalence_table(data_dir: str | Path) -> pd.DataFrame:
    """How common each finding is, index finding: shares of films.

    Columns: vindr (any of three readers, 15,000 films), planned (proportional to its square root, with a least share),
    cohort_truth, cohort_readers (any of three readers), cohort_films (number of films with it, by truth).
    """
    truth, drawn, n_films = _tables(data_dir)
    rate = vindr_combinations().rate

    def films(rows: pd.DataFrame) -> np.ndarray:
        return rows.groupby("class_name").image_id.nunique().reindex(FINDINGS, fill_value=0).to_numpy()

    table = pd.DataFrame(
        {
            "vindr": rate, "planned": target_shares(rate), "cohort_truth": films(truth) / n_films,
            "cohort_readers": films(drawn) / n_films, "cohort_films": films(truth),
        },
        index=pd.Index(FINDINGS, name="finding"),
    )  # fmt: skip
    return table


def compare_with_vindr(data_dir: str | Path) -> pd.DataFrame:
    """One table of a cohort and VinDr-CXR, index quantity, columns VinDr-CXR and cohort.

    Prevalences are shares of films on which any reader names the finding; agreement is the mean over pairs of R8, R9
    and R10 (`annotations.reader_ceiling`). Box areas are shares of the film: VinDr-CXR's of a nominal film of
    2336 x 2836 pixels, since its file holds no sizes; the cohort's films are cropped closer to the lungs, which makes
    its shares about twice as large for the same thing.
    """
    data_dir = Path(data_dir)
    _, drawn, n_films = _tables(data_dir)
    real = vindr_annotations()
    side = int(film_size(data_dir))
    quantities = {}
    prevalence = prevalence_table(data_dir)
    for name in FINDINGS:
        quantities[f"films with {name}"] = prevalence.loc[name, ["vindr", "cohort_readers"]].tolist()
    both = (
        (real[real.class_id < len(FINDINGS)], real, real.image_id.nunique(), NOMINAL_FILM[0] * NOMINAL_FILM[1]),
        (drawn, _read(data_dir), n_films, side**2),
    )
    columns = [_describe(*part) for part in both]
    for name in columns[0]:
        quantities[name] = [column[name] for column in columns]
    ranks = prevalence[["vindr", "cohort_readers", "cohort_truth"]].rank()
    quantities["rank correlation of prevalence, readers"] = [1.0, float(ranks.vindr.corr(ranks.cohort_readers))]
    quantities["rank correlation of prevalence, truth"] = [1.0, float(ranks.vindr.corr(ranks.cohort_truth))]
    return pd.DataFrame.from_dict(quantities, orient="index", columns=["VinDr-CXR", "cohort"]).rename_axis("quantity")


def film_size(data_dir: str | Path) -> int:
    """Side of a cohort's films in pixels, from cohort.json."""
    import json

    return json.loads((Path(data_dir) / "cohort.json").read_text(encoding="utf-8"))["size"]


def _describe(drawn: pd.DataFrame, rows: pd.DataFrame, n_films: int, film_area: float) -> dict[str, float]:
    n_abnormal = drawn.image_id.nunique()
    area = (drawn.x_max - drawn.x_min) * (drawn.y_max - drawn.y_min) / film_area
    quartiles = area.quantile([0.25, 0.5, 0.75])
    agreement = reader_ceiling(rows)[["f1", "macro_f1", "iou", "label_f1", "label_macro_f1", "label_kappa"]].mean()
    named = drawn.groupby("image_id").class_id.nunique().mean()
    return {
        "films without a finding": 1 - n_abnormal / n_films,
        "findings per film with any": float(named),
        "boxes per film with any and reader": len(drawn) / n_abnormal / 3,
        "box area, lower quartile": quartiles[0.25],
        "box area, median": quartiles[0.5],
        "box area, upper quartile": quartiles[0.75],
        "reader against reader: box F1 at IoU 0.4": agreement.f1,
        "reader against reader: box F1, mean over findings": agreement.macro_f1,
        "reader against reader: IoU of matched boxes": agreement.iou,
        "reader against reader: label F1": agreement.label_f1,
        "reader against reader: label F1, mean over findings": agreement.label_macro_f1,
        "reader against reader: label kappa": agreement.label_kappa,
    }


def _read(data_dir: Path) -> pd.DataFrame:
    from cliniqure_utils.cohort.making import LAYOUTS

    path = next(data_dir / name for name in LAYOUTS.values() if (data_dir / name).is_file())
    return read_annotations(path)[0]


def _tables(data_dir: str | Path) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """True boxes, readers' boxes, number of films."""
    data_dir = Path(data_dir)
    truth = read_table(data_dir / "truth.csv")
    rows = _read(data_dir)
    found = truth.class_id < len(FINDINGS)
    return truth[found], rows[rows.class_id < len(FINDINGS)], truth.image_id.nunique()
