"""A coarse body made from formulas, and a folder with two small shards of films."""

import numpy as np
import pytest

from cliniqure_utils.cohort.anatomy import anatomy_from_phantom
from cliniqure_utils.pretraining import films
from cliniqure_utils.pretraining.simulation import WideBody


@pytest.fixture(scope="session")
def body() -> WideBody:
    return WideBody.of(anatomy_from_phantom(seed=3, spacing=4.0))


@pytest.fixture(scope="session")
def bodies(tmp_path_factory):
    """Coarse bodies in the place of the CT and of the fine phantoms."""
    folder = tmp_path_factory.mktemp("bodies")
    for number in range(films.N_PHANTOMS + 1):
        anatomy_from_phantom(seed=number, spacing=4.0).save(folder / f"phantom-{number}.npz")
    return folder


@pytest.fixture()
def coarse(bodies, monkeypatch):
    """Two films in a shard, from coarse bodies."""
    monkeypatch.setattr(films, "SHARD", 2)
    monkeypatch.setattr(films, "body_path", lambda anatomy_dir, number: bodies / f"phantom-{number}.npz")
    return bodies


@pytest.fixture()
def shards(coarse, tmp_path):
    """Paths of three shards: cohort, wide, phantom."""
    films.simulate_films(tmp_path / "films", coarse, 6, seed=5, n_jobs=1)
    return [films.shard_path(tmp_path / "films", number) for number in range(3)]


@pytest.fixture()
def rng():
    return np.random.default_rng(0)
