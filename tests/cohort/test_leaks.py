"""Can a model tell who is ill without looking at the body? What a film shows beside it must say nothing about findings.

Everything tested here is drawn before a film is made, so the test needs no films.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pydicom
import pytest

from cliniqure_utils import cohort
from cliniqure_utils.cohort.files import draw_header
from cliniqure_utils.cohort.making import image_id_of
from cliniqure_utils.cohort.patient import draw_day
from cliniqure_utils.cohort.plan import has_follow_up, plan_patient
from cliniqure_utils.vocabulary import FINDINGS

SIZE, N, SEED = 96, 12, 5  # the cohort of conftest.py; patient 5 has a second film
N_FOLDS = 5
RIDGE = 10.0


def draw_nuisances(seed: int, n_patients: int) -> pd.DataFrame:
    """What surrounds the body on each film of a cohort: a row per film, index image_id.

    Columns: fov_mm, top_margin_mm (field of view), photons (noise), scatter, bone, detail, contrast, gamma (beam and
    processing), marker, marker_left, marker_top (lead letter; places 0 without one), inverted, kind, odd (header).
    Age, sex and what follows from sex (breasts) are not here: they may go with a disease.
    """
    rows = {}
    for index in range(n_patients):
        for visit in range(1 + has_follow_up(index)):
            pose, x = draw_day([seed, index], visit)
            header = draw_header(seed, index, visit)
            rows[image_id_of(seed, index, visit)] = {
                "fov_mm": pose.fov, "top_margin_mm": pose.top_margin, "photons": x.photons, "scatter": x.scatter,
                "bone": x.bone, "detail": x.detail, "contrast": x.contrast, "gamma": x.gamma, "marker": x.marker,
                "marker_left": x.marker_left * x.marker, "marker_top": x.marker_top * x.marker,
                "inverted": header.inverted, "kind": header.kind, "odd": header.odd or "none",
            }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("image_id")


def leak_test(
    nuisances: pd.DataFrame, labels: pd.DataFrame, level: float = 0.01, n_permutations: int = 5000, seed: int = 0
) -> pd.DataFrame:
    """Cross-validate a classifier of each label on nuisances alone, against the same with labels shuffled.

    The classifier is ridge regression on all columns, their squares and products with `inverted`; its scores are
    ranked.

    Args:
        nuisances: One row per film, as `draw_nuisances` returns them.
        labels: 0/1, one column per label, rows named as those of `nuisances` (others are left out).
        level: Chance that any label is suspected where nothing leaks; shared among the labels (Bonferroni).
        n_permutations: Shuffles; at least a few times the number of labels over `level`.
        seed: Of folds and shuffles.

    Returns:
        DataFrame, index label: films (with it), auroc (cross-validated), limit (that quantile of the shuffles), leaks.
    """
    labels = labels.loc[labels.index.isin(nuisances.index)]
    columns = features(nuisances.loc[labels.index])
    rng = np.random.default_rng(seed)
    n = len(labels)
    fold = rng.permutation(n) % N_FOLDS
    # Scores are linear in the labels: one matrix serves every label and every shuffle.
    hat = np.zeros((n, n))
    for k in range(N_FOLDS):
        test, train = np.flatnonzero(fold == k), np.flatnonzero(fold != k)
        x = columns[train]
        solve = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), (x - x.mean(0)).T)
        hat[np.ix_(test, train)] = columns[test] @ solve
    order = np.argsort(rng.random((n_permutations, n)), axis=1).T
    rows = {}
    for name in labels.columns:
        y = labels[name].to_numpy(float)
        area = auroc(hat @ y[:, None], y[:, None], fold)[0]
        null = auroc(hat @ y[order], y[order], fold)
        limit = float(np.quantile(null, 1 - level / labels.shape[1]))
        rows[name] = {"films": int(y.sum()), "auroc": float(area), "limit": limit, "leaks": bool(area > limit)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("label")


def features(table: pd.DataFrame) -> np.ndarray:
    """Columns of mean 0 and spread 1: numbers, their squares, one column per category, and products with `inverted`."""
    texts = [name for name in table.columns if not pd.api.types.is_numeric_dtype(table[name])]
    numbers = table.drop(columns=texts).astype(float).to_numpy()
    numbers = standard(numbers)
    categories: Sequence = [pd.get_dummies(table[name]).to_numpy(float) for name in texts]
    inverted = table[["inverted"]].to_numpy(float) - table.inverted.mean()
    return standard(np.hstack([numbers, numbers**2, numbers * inverted, *categories]))


def standard(x: np.ndarray) -> np.ndarray:
    spread = x.std(0)
    return (x - x.mean(0)) / np.where(spread > 1e-9, spread, np.inf)


def auroc(scores: np.ndarray, y: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Of each column, the mean over folds of the area under the curve: scores of different folds are not compared."""
    total, weight = np.zeros(scores.shape[1]), np.zeros(scores.shape[1])
    for k in range(N_FOLDS):
        s, t = scores[fold == k], y[fold == k]
        ranks = s.argsort(0).argsort(0) + 1
        positive = t.sum(0)
        negative = len(t) - positive
        pairs = positive * negative
        area = ((ranks * t).sum(0) - positive * (positive + 1) / 2) / np.maximum(pairs, 1)
        total, weight = total + area * pairs, weight + pairs
    return total / np.maximum(weight, 1)


@pytest.fixture(scope="module")
def planned_labels():
    plans = [plan_patient(2024, i)[0] for i in range(600)]
    ids = [image_id_of(2024, i) for i in range(600)]
    return pd.DataFrame([[int(n in plan) for n in FINDINGS] for plan in plans], ids, [*FINDINGS])


def test_nothing_beside_the_body_tells_who_is_ill(planned_labels):
    nuisances = draw_nuisances(2024, 600)
    assert {"photons", "fov_mm", "inverted", "marker", "kind"} < set(nuisances.columns)
    table = leak_test(nuisances, planned_labels, n_permutations=3000)
    assert table.films.tolist() == planned_labels.sum().tolist()
    assert not table.leaks.any(), table
    assert table.limit.between(0.55, 0.75).all()


def test_a_leak_is_found(planned_labels):
    nuisances = draw_nuisances(2024, 600)
    ill = planned_labels.Calcification == 1
    with_leak = nuisances.copy()
    with_leak.loc[ill.index[ill], "photons"] *= 0.7
    assert leak_test(with_leak, planned_labels, n_permutations=1000).leaks.Calcification
    with_leak = nuisances.copy()
    with_leak.loc[ill.index[ill][::2], "kind"] = "rle"
    assert leak_test(with_leak, planned_labels, n_permutations=1000).leaks.Calcification


def test_drawn_nuisances_are_those_of_the_films(made):
    nuisances = draw_nuisances(SEED, N)
    assert list(nuisances.index) == cohort.image_ids(SEED, N)
    for row in nuisances.itertuples():
        header = pydicom.dcmread(made / "train" / f"{row.Index}.dicom", stop_before_pixels=True)
        assert (header.PhotometricInterpretation == "MONOCHROME1") == row.inverted
        assert header.PixelSpacing[0] == pytest.approx(row.fov_mm / SIZE, abs=1e-4)
        assert ("RLE" in header.file_meta.TransferSyntaxUID.name) == (row.kind == "rle")
