"""Shards of films: resumable, the same whoever makes them, of patients that no cohort has."""

import numpy as np

from cliniqure_utils.cohort.patient import Film
from cliniqure_utils.cohort.plan import plan_patient
from cliniqure_utils.pretraining import films


def content(folder, number):
    pixels, truth = films.read_shard(films.shard_path(folder, number))
    return pixels.tobytes(), repr(truth)


def test_shards_are_the_same_with_two_workers_and_after_a_stop(coarse, tmp_path):
    films.simulate_films(tmp_path / "one", coarse, 6, seed=5, n_jobs=1)
    films.simulate_films(tmp_path / "stopped", coarse, 2, seed=5, n_jobs=1)
    first = films.shard_path(tmp_path / "stopped", 0)
    written = first.stat().st_mtime_ns
    assert films.simulate_films(tmp_path / "stopped", coarse, 5, seed=5, n_jobs=1) == 6  # whole shards
    assert first.stat().st_mtime_ns == written, "a finished shard was made again"
    for number in range(3):
        assert content(tmp_path / "one", number) == content(tmp_path / "stopped", number)


def test_each_shard_says_what_it_shows(shards):
    kinds = set()
    for path in shards:
        pixels, truth = films.read_shard(path)
        assert pixels.shape == (2, films.SIZE, films.SIZE) and pixels.dtype == np.uint8 and len(truth) == 2
        for film in truth:
            kinds.add(film["kind"])
            assert film["report"]["text"]
            for row in film["findings"]:
                assert 0 <= row["x_min"] < row["x_max"] <= films.SIZE and 0 <= row["y_min"] < row["y_max"] <= films.SIZE
    assert kinds == {"cohort", "wide", "phantom"}


def test_another_seed_is_other_patients(coarse, tmp_path):
    for seed in (5, 6):
        films.simulate_films(tmp_path / str(seed), coarse, 2, seed=seed, n_jobs=1)
    assert content(tmp_path / "5", 0) != content(tmp_path / "6", 0)


def test_the_body_of_the_phantom_test_set_is_not_among_the_bodies():
    """Notebook 03 measures on phantom 0; the CT is body 0 here, phantoms begin with seed 1."""
    assert films.KINDS.count("phantom") > 0
    used = {films.body_of(number) for number in range(200)}
    assert used == set(range(films.N_PHANTOMS + 1))
    assert {films.body_of(n) for n in range(200) if films.KINDS[n % len(films.KINDS)] != "phantom"} == {0}


def test_shards_of_another_version_or_seed_are_made_anew(coarse, tmp_path, monkeypatch):
    films.simulate_films(tmp_path / "new", coarse, 2, seed=6, n_jobs=1)
    folder = tmp_path / "films"
    for seed, version in ((5, films.VERSION), (6, films.VERSION), (6, films.VERSION + 1)):
        monkeypatch.setattr(films, "VERSION", version)
        path = films.shard_path(folder, 0)
        before = path.stat().st_mtime_ns if path.is_file() else None
        films.simulate_films(folder, coarse, 2, seed=seed, n_jobs=1)
        assert path.stat().st_mtime_ns != before, "an old shard was kept"
    assert content(folder, 0) == content(tmp_path / "new", 0)


def test_films_with_findings_get_more_of_the_small_ones_and_normal_films_stay_normal(coarse, tmp_path, monkeypatch):
    asked = []

    def simulate(body, findings, seed, *_, **__):
        asked.append((seed[1], findings))
        return Film(np.zeros((films.SIZE, films.SIZE), np.uint16), [], {})

    monkeypatch.setattr(films, "simulate", simulate)
    monkeypatch.setattr(films, "simulate_wide", simulate)
    films.simulate_films(tmp_path, coarse, 1200, seed=5, n_jobs=1)
    more, could = 0, 0
    for index, findings in asked:
        planned = plan_patient(5, index)[0]
        added = set(findings) - set(planned)
        assert set(planned) <= set(findings) and added <= set(films.SMALL)
        assert planned or not findings, "a normal film was given a finding"
        assert findings == sorted(findings, key=films.FINDINGS.index)
        more += len(added)
        could += len(set(films.SMALL) - set(planned)) if planned else 0
    assert len(asked) == 1200
    assert abs(more / could - films.MORE_SMALL) < 0.03
