"""Simulated readers err as the model says, and agree as real ones do."""

import numpy as np
import pandas as pd
import pytest

from cliniqure_utils.annotations import label_matrix, reader_ceiling
from cliniqure_utils.cohort.plan import (
    plan_patient,
)
from cliniqure_utils.cohort.readers import READERS, ReaderModel, annotate, measure, measure_vindr
from cliniqure_utils.vocabulary import BOX, FINDINGS


def careful(**changes) -> ReaderModel:
    """Readers who all name everything and draw it exactly, but for the changes."""
    n = len(FINDINGS)
    exact = {
        "seen": np.tile([0.0, 0, 1], (n, 1)),
        "confused": np.zeros((n, n)),
        "jitter": np.zeros(n),
        "loose": np.zeros(n),
    }
    return ReaderModel(**{**exact, **changes})


def read(truths, model, size=320, seed=0):
    rows = [
        {"image_id": f"{i:05d}", **row}
        for i, truth in enumerate(truths)
        for row in annotate(truth, size, np.random.default_rng([seed, i]), model)
    ]
    table = pd.DataFrame(rows)
    table[BOX] = table[BOX].astype(float)
    return table


def boxes_of(*names):
    return [
        {"x_min": 40 + 60 * n, "y_min": 80, "x_max": 90 + 60 * n, "y_max": 160, "class_name": name}
        for n, name in enumerate(names)
    ]


def test_careful_readers_copy_the_truth(monkeypatch):
    monkeypatch.setattr("cliniqure_utils.cohort.readers.EXTRA", 0)
    monkeypatch.setattr("cliniqure_utils.cohort.readers.MISSED_BY_ALL", 0)
    truth = boxes_of("Consolidation", "Pneumothorax")
    rows = annotate(truth, 320, np.random.default_rng(0), careful())
    expected = [{**box, "rad_id": reader} for reader in READERS for box in truth]
    assert [{k: row[k] for k in expected[0]} for row in rows] == expected
    nothing = annotate([], 320, np.random.default_rng(0), careful())
    assert [(row["rad_id"], row["class_name"], row["x_min"]) for row in nothing] == [
        (r, "No finding", None) for r in READERS
    ]


def test_readers_err_as_the_model_says(monkeypatch):
    monkeypatch.setattr("cliniqure_utils.cohort.readers.EXTRA", 0)
    monkeypatch.setattr("cliniqure_utils.cohort.readers.MISSED_BY_ALL", 0)
    names = FINDINGS
    seen = np.tile([0.5, 0.3, 0.2], (len(names), 1))
    seen[names.index("Cardiomegaly")] = [0, 0, 1]  # so that nobody is left without a box
    confused = np.zeros((len(names),) * 2)
    confused[names.index("Consolidation"), names.index("Infiltration")] = 0.4
    jitter = np.full(len(names), 0.06)
    model = careful(seen=seen, confused=confused, jitter=jitter)
    table = read([boxes_of("Consolidation", "Cardiomegaly")] * 1500, model)
    per_film = table[table.class_name == "Consolidation"].groupby("image_id").rad_id.nunique()
    shares = per_film.value_counts(normalize=True).sort_index()
    assert shares.tolist() == pytest.approx([0.5, 0.3, 0.2], abs=0.04)
    unnamed = 3 * 1500 - (table.class_name == "Consolidation").sum()
    assert (table.class_name == "Infiltration").sum() / unnamed == pytest.approx(0.4, abs=0.04)
    edges = table[table.class_name == "Consolidation"].x_min
    assert edges.mean() == pytest.approx(40, abs=0.3) and edges.std() == pytest.approx(0.06 * 50, rel=0.15)


def test_loosely_drawn_boxes_no_longer_match():
    loose = np.ones(len(FINDINGS))
    table = read([boxes_of("Nodule/Mass")] * 300, careful(loose=loose))
    drawn = table[table.class_name == "Nodule/Mass"]
    area = (drawn.x_max - drawn.x_min) * (drawn.y_max - drawn.y_min) / (50 * 80)
    assert (np.minimum(area, 1 / area)).median() < 0.4 and 0.4 < (area < 1).mean() < 0.6


def test_the_model_is_measured_on_the_readers():
    """Three made-up readers: exact numbers."""
    box, far = [0, 0, 100, 100], [300, 0, 340, 100]
    rows = [
        ("a", "R8", 3, box), ("a", "R9", 3, box), ("a", "R10", 3, [10, 0, 110, 100]),
        ("b", "R8", 4, box), ("b", "R9", 6, box), ("b", "R10", 3, far),
        *(("c", reader, 14, [np.nan] * 4) for reader in READERS),
        ("d", "R8", 3, box),  # not read by all: left out
    ]  # fmt: skip
    table = pd.DataFrame([(i, r, c, *b) for i, r, c, b in rows], columns=["image_id", "rad_id", "class_id", *BOX])
    model = measure(table)
    np.testing.assert_allclose(model.seen[3], [0.5, 0, 0.5])
    np.testing.assert_allclose(model.seen[4], [1, 0, 0])
    np.testing.assert_allclose(model.seen[0], [1, 0, 0])  # nobody names it: then one reader would
    assert model.confused[4, 6] == 0.5 and model.confused[6, 4] == 0.5 and model.confused.sum() == 1
    assert model.loose[3] == 0  # on film a, where others name it too, all three boxes agree
    # Mean shift over the pairs: 2/3 of a tenth of the side at two of four edges; a normal's spread is 1.25 times that.
    assert model.jitter[3] == pytest.approx(2 / 3 * 0.1 / 2 * 1.25 / np.sqrt(2))


@pytest.fixture(scope="module")
def made_up_truths():
    """Boxes of 600 planned patients at made-up places: one or two of a finding, as large as the simulation's."""
    rng = np.random.default_rng(0)
    sides = np.array([[70, 90], [60, 40], [25, 28], [140, 130], [70, 75], [80, 180], [90, 100], [75, 80], [30, 32],
                      [60, 65], [100, 85], [50, 60], [95, 190], [95, 110]])  # fmt: skip
    films = []
    for index in range(600):
        films.append([])
        for name in plan_patient(2024, index)[0]:
            n = (
                2
                if name in ("ILD", "Pulmonary fibrosis", "Pleural effusion", "Nodule/Mass") and rng.random() < 0.4
                else 1
            )
            side = sides[FINDINGS.index(name)]
            for half in rng.permutation(2)[:n]:  # one in each half of the film
                low = np.array([160 * half + rng.integers(0, 160 - min(side[0], 159)), rng.integers(20, 300 - side[1])])
                corners = dict(zip(BOX, map(int, (*low, *(low + side))), strict=True))
                films[-1].append({"class_name": name, **corners})
    return films


def test_readers_agree_as_real_ones_do(made_up_truths, vindr):
    numbers = ["f1", "macro_f1", "iou", "label_f1"]
    real = reader_ceiling(vindr)[numbers].mean()
    ours = reader_ceiling(read(made_up_truths, measure_vindr()))[numbers].mean()
    assert ours.f1 == pytest.approx(real.f1, abs=0.05)
    assert ours.iou == pytest.approx(real.iou, abs=0.05)
    assert ours.label_f1 == pytest.approx(real.label_f1, abs=0.05)
    assert ours.macro_f1 == pytest.approx(real.macro_f1, abs=0.05)


def test_together_readers_miss_little(made_up_truths):
    table = read(made_up_truths, measure_vindr())
    ids = [f"{i:05d}" for i in range(len(made_up_truths))]
    named = label_matrix(table, ids)[[*FINDINGS]].to_numpy(bool)
    true = np.array([[n in {b["class_name"] for b in truth} for n in FINDINGS] for truth in made_up_truths])
    assert named[true].mean() > 0.95 and true[named].mean() > 0.8
    assert not named[~true.any(1)].any()  # as in VinDr-CXR, nobody draws on a normal film
    assert (table.groupby("image_id").rad_id.nunique() == 3).all()
