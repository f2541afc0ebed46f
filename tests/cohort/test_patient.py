"""One simulated film: the finding is where its box is, on its side, and nothing else depends on it."""

from functools import partial

import numpy as np
import pydicom
import pytest

from cliniqure_utils.cohort import making, patient, projection
from cliniqure_utils.cohort.patient import CARDIOTHORACIC_LIMIT, simulate
from cliniqure_utils.cohort.plan import (
    CHRONIC,
    plan_visits,
)
from cliniqure_utils.vocabulary import FINDINGS

SIZE = 96

IN_LUNGS = [name for name in FINDINGS if name not in ("Cardiomegaly", "Aortic enlargement")]


def test_a_patients_second_film_shows_the_same_body_on_another_day(phantom):
    first, second, other = (
        simulate(phantom, ["Cardiomegaly"], [seed], SIZE, visit=v) for seed, v in ((1, 0), (1, 1), (2, 0))
    )
    ratios = [film.measures["cardiothoracic_ratio"] for film in (first, second, other)]
    assert abs(ratios[0] - ratios[1]) < 0.02 and abs(ratios[0] - ratios[2]) > 0.02
    assert np.abs(first.pixels.astype(float) - second.pixels).mean() > 50
    plans = [plan_visits(1, index) for index in range(5, 600, 40)]
    assert all(len(plan) == 2 and set(plan[1]) <= set(plan[0]) for plan in plans)
    assert all(set(plan[0]) & CHRONIC == set(plan[1]) & CHRONIC for plan in plans)
    assert any(len(plan[1]) < len(plan[0]) for plan in plans) and len(plan_visits(1, 6)) == 1


def test_exposure_and_header_do_not_depend_on_the_findings(made, make, tmp_path, monkeypatch):
    visits = plan_visits
    monkeypatch.setattr(making, "plan_visits", lambda seed, index: [[] for _ in visits(seed, index)])
    make(tmp_path)
    for path in (made / "train").iterdir():
        one, other = (pydicom.dcmread(p, stop_before_pixels=True) for p in (path, tmp_path / "train" / path.name))
        for tag in ("PhotometricInterpretation", "PixelSpacing", "PatientID", "PatientAge", "PatientSex"):
            assert one[tag].value == other[tag].value
        assert one.file_meta.TransferSyntaxUID == other.file_meta.TransferSyntaxUID


def with_and_without(phantom, finding, seed, monkeypatch):
    """The film with a finding, and what the finding adds to the projected soft tissue (mm of water)."""
    seen = []
    real = projection.expose

    def expose(soft, bone, size, exposure, rng, *rest):
        seen.append((soft.copy(), bone.copy(), (exposure, rng.bit_generator.state)))
        return real(soft, bone, size, exposure, rng, *rest)

    monkeypatch.setattr(patient, "expose", expose)
    film = simulate(phantom, [finding], seed, SIZE)
    simulate(phantom, [], seed, SIZE)
    (soft, bone, state), (healthy_soft, healthy_bone, healthy_state) = seen
    np.testing.assert_array_equal(bone, healthy_bone)  # same patient, same pose
    assert state == healthy_state  # same exposure
    return film, soft - healthy_soft


@pytest.mark.parametrize("finding", FINDINGS)
def test_boxes_lie_where_the_finding_changes_the_film(phantom, finding, monkeypatch):
    n_boxes = 0
    for seed in range(4):
        film, change = with_and_without(phantom, finding, [seed], monkeypatch)
        boxes = [row for row in film.findings if row["class_name"] == finding]
        n_boxes += len(boxes)
        if not boxes:
            continue
        scale = SIZE / len(change)
        centres = (np.arange(len(change)) + 0.5) * scale
        inside = np.zeros(change.shape, bool)
        for row in boxes:
            across = (centres > row["x_min"] - 2) & (centres < row["x_max"] + 2)
            down = (centres > row["y_min"] - 2) & (centres < row["y_max"] + 2)
            inside |= down[:, None] & across[None]
        change = np.abs(change)
        # Readers box the arch; the aorta is wider below it too.
        assert change[inside].sum() > (0.4 if finding == "Aortic enlargement" else 0.55) * change.sum()
        assert change[inside].mean() > 4 * change[~inside].mean()
    assert n_boxes >= 3


@pytest.mark.parametrize("finding", IN_LUNGS)
def test_sides_are_the_patients(phantom, finding):
    sides = set()
    for seed in range(10):
        for row in simulate(phantom, [finding], [seed], SIZE).findings:
            if row["class_name"] != finding:
                continue
            sides.add(row["side"])
            middle = (row["x_min"] + row["x_max"]) / 2
            assert (middle > SIZE / 2) == (row["side"] == "left"), f"{row} on seed {seed}"
            assert row["zone"] in ("upper", "mid", "lower")
    assert sides == {"left", "right"}


def test_heart_and_aorta_are_labelled_by_measurement(phantom):
    for planned in ([], ["Cardiomegaly"]):
        labelled = []
        for seed in range(8):
            film = simulate(phantom, planned, [seed], SIZE)
            names = {row["class_name"] for row in film.findings}
            ratio = film.measures["cardiothoracic_ratio"]
            assert ("Cardiomegaly" in names) == (ratio > CARDIOTHORACIC_LIMIT)
            assert ("Aortic enlargement" in names) == (film.measures["arch_width_mm"] > patient.ARCH_LIMIT)
            labelled.append("Cardiomegaly" in names)
        assert np.mean(labelled) > 0.7 if planned else np.mean(labelled) < 0.3
    # A plan is not enough: the same large heart in a chest whose limit it does not reach is no finding.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patient, "place_findings", partial(patient.place_findings, heart_limit=0.9))
        assert all(
            row["class_name"] != "Cardiomegaly" for row in simulate(phantom, ["Cardiomegaly"], [0], SIZE).findings
        )


def test_what_cannot_be_seen_is_not_labelled(phantom, monkeypatch):
    assert simulate(phantom, ["Nodule/Mass"], [0], SIZE).hidden == []
    monkeypatch.setattr(patient, "LEAST_SHADOW", 1e6)
    film = simulate(phantom, ["Nodule/Mass"], [0], SIZE)
    assert set(film.hidden) == {"Nodule/Mass"} and film.findings == []


def test_an_unknown_finding_is_refused(phantom):
    with pytest.raises(ValueError, match="cannot simulate Hangover"):
        simulate(phantom, ["Hangover"], [0], SIZE)


def test_a_film_uses_its_twelve_bits(phantom):
    pixels = simulate(phantom, [], [3], SIZE).pixels
    assert pixels.shape == (SIZE, SIZE) and pixels.dtype == np.uint16 and pixels.max() <= 4095
    assert len(np.unique(pixels)) > 1000 and np.ptp(np.percentile(pixels, [5, 95])) > 1500
