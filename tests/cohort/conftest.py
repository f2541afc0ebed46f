"""A coarse body made from formulas, and a small cohort of it: a film takes a twentieth of a second."""

import pytest

from cliniqure_utils import cohort
from cliniqure_utils.cohort import anatomy as anatomy_module
from cliniqure_utils.cohort.anatomy import Anatomy, anatomy_from_phantom

SIZE, N, SEED = 96, 12, 5  # patient 5 has a second film


@pytest.fixture(scope="session")
def phantom() -> Anatomy:
    return anatomy_from_phantom(seed=0, spacing=4.0)


@pytest.fixture(scope="session")
def phantom_dir(phantom, tmp_path_factory):
    folder = tmp_path_factory.mktemp("anatomy")
    phantom.save(folder / "phantom.npz")
    return folder


@pytest.fixture()
def make(phantom_dir, monkeypatch):
    """ensure_cohort on the phantom, N small films."""
    monkeypatch.setattr(anatomy_module, "ct_paths", lambda: None)

    def run(data_dir, n_patients=N, seed=SEED, n_jobs=1, layout="kaggle"):
        with pytest.warns(UserWarning, match="the chest CT is missing"):
            return cohort.ensure_cohort(data_dir, n_patients, SIZE, seed, n_jobs, phantom_dir, layout)

    return run


@pytest.fixture(scope="session")
def made(phantom_dir, tmp_path_factory):
    """One finished cohort that no test changes."""
    folder = tmp_path_factory.mktemp("cohort")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anatomy_module, "ct_paths", lambda: None)
        with pytest.warns(UserWarning, match="the chest CT is missing"):
            cohort.ensure_cohort(folder, N, SIZE, SEED, n_jobs=1, anatomy_dir=phantom_dir)
    return folder
