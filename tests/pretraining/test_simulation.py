"""Wide films: deterministic, varied, and nothing but the findings depends on the findings."""

from dataclasses import replace

import numpy as np
import pytest

from cliniqure_utils.cohort.patient import CARDIOTHORACIC_LIMIT, simulate
from cliniqure_utils.pretraining import simulation
from cliniqure_utils.pretraining.simulation import simulate_wide

SIZE = 96


def test_the_same_seed_is_the_same_film_and_another_is_another(body):
    first, again, other = (simulate_wide(body, ["Nodule/Mass"], [seed], SIZE) for seed in (1, 1, 2))
    assert np.array_equal(first.pixels, again.pixels) and first.findings == again.findings
    assert not np.array_equal(first.pixels, other.pixels)
    assert first.pixels.shape == (SIZE, SIZE) and first.pixels.dtype == np.uint8
    assert len(np.unique(first.pixels)) > 50, "a film without grey values"


def test_machine_stance_and_devices_do_not_depend_on_findings(body, monkeypatch):
    seen = []

    def record(shadows, size, look, pixel_mm, is_portable, rng):
        seen.append((look, pixel_mm, is_portable, rng.bit_generator.state["state"]["state"]))
        return develop(shadows, size, look, pixel_mm, is_portable, rng)

    develop = simulation.develop
    monkeypatch.setattr(simulation, "develop", record)
    for findings in ([], ["Pleural effusion", "Cardiomegaly"], ["Pneumothorax", "ILD", "Nodule/Mass"]):
        for seed in range(4):
            simulate_wide(body, findings, [seed], SIZE)
    assert seen[:4] == seen[4:8] == seen[8:]
    assert len({look for look, *_ in seen}) == 4


def test_a_finding_changes_the_film_where_it_lies(body):
    """With the machine's own noise and processing held still, a film with a nodule differs from the one without it in
    the nodule's box and hardly outside."""
    for seed in range(20):
        sick, well = (simulate_wide(body, findings, [seed], SIZE) for findings in (["Nodule/Mass"], []))
        boxes = [row for row in sick.findings if row["class_name"] == "Nodule/Mass"]
        if not boxes:
            continue
        inside = np.zeros((SIZE, SIZE), bool)
        for row in boxes:
            inside[row["y_min"] - 2 : row["y_max"] + 2, row["x_min"] - 2 : row["x_max"] + 2] = True
        change = np.abs(sick.pixels.astype(float) - well.pixels)
        assert change[inside].mean() > 3 * change[~inside].mean()
        return
    raise AssertionError("no nodule was visible on twenty films")


def test_films_vary_in_field_and_portable_ones_are_there(body, monkeypatch):
    seen = []
    develop = simulation.develop
    monkeypatch.setattr(simulation, "develop", lambda *given: seen.append(given[3:5]) or develop(*given))
    for seed in range(25):
        simulate_wide(body, [], [seed], 48)
    fields = np.array([pixel_mm * 48 for pixel_mm, _ in seen])
    portable = np.mean([is_portable for _, is_portable in seen])
    assert fields.min() < 315 and fields.max() > 400 and fields.max() <= 430
    assert 0.1 < portable < 0.5


def test_a_heart_is_large_from_another_ratio_on_portable_films(body, monkeypatch):
    limits = {}
    place = simulation.place_findings
    develop = simulation.develop

    def record(*given, **named):
        limits[len(limits)] = given[-1]
        return place(*given, **named)

    portable = []
    monkeypatch.setattr(simulation, "place_findings", record)
    monkeypatch.setattr(simulation, "develop", lambda *given: portable.append(given[4]) or develop(*given))
    for seed in range(12):
        film = simulate_wide(body, [], [seed], 48)
        named = any(row["class_name"] == "Cardiomegaly" for row in film.findings)
        assert (
            named == (film.measures["cardiothoracic_ratio"] > limits[seed])
            or abs(film.measures["cardiothoracic_ratio"] - limits[seed]) < 1e-4
        )
    assert {limits[k] for k in range(12) if portable[k]} == {0.55}
    assert {limits[k] for k in range(12) if not portable[k]} == {CARDIOTHORACIC_LIMIT}


def test_an_abdomen_lies_below_the_diaphragm_alone(body, monkeypatch):
    plain = replace(simulation.Look.draw(np.random.default_rng(1)), stout=0.0, haze=0.0, base_haze=0.0)
    shadows = []
    develop = simulation.develop
    monkeypatch.setattr(simulation, "develop", lambda *given: shadows.append(given[0].copy()) or develop(*given))
    for mm in (0.0, 100.0):
        monkeypatch.setattr(simulation.Look, "draw", lambda rng, mm=mm: replace(plain, abdomen=mm))
        simulate_wide(body, [], [1], SIZE)
    added = shadows[1] - shadows[0]
    n = len(added)
    middle = slice(int(0.35 * n), int(0.65 * n))
    assert added[-2:, middle].mean() == pytest.approx(100, abs=5), "mm of water at the lower edge"
    assert added[: n // 3].max() < 3, "nothing above"
    assert (np.diff(added[:, middle].mean(1)) > -2).all(), "it grows downwards"


def test_scatter_that_reaches_everywhere_hides_what_lies_behind_much_tissue():
    """The grey step from 250 to 300 mm of water, as a share of that from 50 to 100 mm."""
    bands = np.repeat(np.array([50, 100, 250, 300], np.float32), 16)[None].repeat(64, 0)
    look = replace(
        simulation.Look.draw(np.random.default_rng(1)), habitus=0.0, breasts=None, scatter=0.0, photons=1e9,
        contrast=1.0, middle_detail=1.0, fine_detail=1.0, low=0.0, high=100.0, gamma=2.0, centre=0.5,
    )  # fmt: skip

    def share(veil):
        film = simulation.develop(bands, 64, replace(look, veil=veil), 5.0, False, np.random.default_rng(4))
        grey = np.median(film[20:50].reshape(30, 4, 16)[:, :, 4:12], axis=(0, 2))
        return (grey[3] - grey[2]) / (grey[1] - grey[0])

    assert share(0.004) > 2 * share(0.1) > 0


def test_lesions_go_down_to_smaller_ones_than_the_cohorts(body):
    def smallest(make):
        boxes = [row for seed in range(15) for row in make([seed]).findings if row["class_name"] == "Nodule/Mass"]
        return min(row["extent"] for row in boxes)

    wide = smallest(lambda seed: simulate_wide(body, ["Nodule/Mass"], seed, 64))
    plain = smallest(lambda seed: simulate(body.anatomy, ["Nodule/Mass"], seed, 64))
    assert plain >= 22 > wide >= 11  # mm: the cohort's least diameter, and half of it


def test_an_unknown_finding_is_refused(body):
    with pytest.raises(ValueError, match="cannot simulate Hangover"):
        simulate_wide(body, ["Hangover"], [0], 48)


def test_wide_films_are_as_often_normal_as_planned(body):
    """No build makes a finding: of films planned without one, nearly all have none (a heart may measure large)."""
    named = [row["class_name"] for seed in range(12) for row in simulate_wide(body, [], [seed], 48).findings]
    assert "Aortic enlargement" not in named
    assert set(named) <= {"Cardiomegaly"}
