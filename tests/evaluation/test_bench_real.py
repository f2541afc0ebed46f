"""Scores on real films, with made-up labels and probabilities in place of NIH's."""

import importlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from cliniqure_utils.vocabulary import CLASSES


@pytest.fixture
def bench_real(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module("bench_real")


@pytest.fixture
def table() -> pd.DataFrame:
    """180 films of 60 patients in the shape of NIH's table; those of the last thirty patients are not in the folder."""
    rng = np.random.default_rng(0)
    labels = ["No Finding", "Effusion", "Mass|Nodule", "Pneumonia", "Effusion|Pleural_Thickening", "Hernia"]
    return pd.DataFrame(
        {
            "image_id": [f"{n:08d}_000" for n in range(180)],
            "labels": rng.choice(labels, 180),
            "view": rng.choice(["PA", "AP"], 180),
            "patient": np.arange(180) // 3,
            "age": rng.integers(20, 90, 180),
            "sex": rng.choice(["F", "M"], 180),
        }
    )


@pytest.fixture
def probabilities(table) -> pd.DataFrame:
    said = pd.DataFrame(np.random.default_rng(1).random((90, 15)), columns=list(CLASSES))
    said.insert(0, "image_id", table.image_id[:90])
    return said.sample(frac=1, random_state=0)  # in another order than the table's


def test_each_finding_is_held_against_its_own_labels(bench_real, table, probabilities):
    scores = bench_real.score(probabilities, table, n_resamples=50).set_index(["finding", "view"])
    films = table.merge(probabilities, on="image_id")
    expected = {
        "any finding": (films.labels != "No Finding", 1 - films["No finding"]),
        "Pleural effusion": (films.labels.str.contains("Effusion"), films["Pleural effusion"]),
        "Nodule/Mass": (films.labels == "Mass|Nodule", films["Nodule/Mass"]),
        "Pleural thickening": (films.labels.str.contains("Thick"), films["Pleural thickening"]),
        "Lung Opacity": (films.labels == "Pneumonia", films["Lung Opacity"]),
    }
    for name, (truth, said) in expected.items():
        for view in ("all", "PA", "AP"):
            kept = (films["view"] == view) | (view == "all")
            row = scores.loc[name, view]
            assert (row.films, row.positives) == (kept.sum(), truth[kept].sum())
            assert row.auroc == pytest.approx(roc_auc_score(truth[kept], said[kept]))
            assert row.low <= row.auroc <= row.high
    assert np.isnan(scores.loc["Cardiomegaly", "all"].auroc) and "| Cardiomegaly | 0 | - | - | - |" in (
        bench_real.markdown(scores.reset_index())
    )
    # A film that NIH's table does not list has no truth.
    other = pd.concat([probabilities, probabilities.head(1).assign(image_id="mine")])
    pd.testing.assert_frame_equal(
        bench_real.score(other, table, n_resamples=50), scores.reset_index(), check_exact=True
    )


def test_age_sex_and_view_alone_know_nothing_of_the_films(bench_real, table, probabilities):
    """Old patients are sick in this table: age alone finds them, whatever the classifier says."""
    table["labels"] = np.where(table.age > 55, "Effusion", "No Finding")
    scores = bench_real.score(probabilities, table, n_resamples=5).set_index(["finding", "view"])
    assert scores.loc["any finding", "all"].trivial > 0.95 > 0.8 > scores.loc["any finding", "all"].auroc
    assert np.isnan(scores.loc["Cardiomegaly", "all"].trivial)


def test_the_installed_table_is_nihs(bench_real):
    """112,120 films of 30,805 patients, 60,361 without a finding (Wang et al. 2017 and NIH's read-me)."""
    pytest.importorskip("torchxrayvision")
    table = bench_real.nih_table()
    assert (len(table), table.patient.nunique(), (table.labels == "No Finding").sum()) == (112120, 30805, 60361)
    assert set(table["view"]) == {"PA", "AP"} and set(table.sex) == {"F", "M"} and table.age.between(0, 100).all()
