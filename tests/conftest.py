"""Shared by all tests: one thread per process, no network look-ups, and where the project lies."""

import os
import sys
from pathlib import Path

# Before numpy and torch are imported. Two shared cores: spinning threads would slow every small operation down.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The project's top folder."""
    return REPOSITORY


@pytest.fixture(scope="session")
def anatomy_dir(repository) -> Path:
    """The demo cohort's anatomy cache, made once below data/ and shared by every test that simulates films."""
    from cliniqure_utils.cohort.anatomy import ensure_anatomy

    folder = repository / "data" / "demo" / "anatomy"
    ensure_anatomy(folder)
    return folder


@pytest.fixture(scope="session")
def vindr():
    """The readers' boxes of VinDr-CXR's 15,000 training films (Kaggle's file inside torchxrayvision), read once."""
    from cliniqure_utils.annotations import vindr_annotations

    return vindr_annotations()


@pytest.fixture(scope="session")
def run_environment() -> dict[str, str]:
    """A user's environment for notebooks run by a test: without what is set above for this process."""
    own = {"OMP_NUM_THREADS", "MPLBACKEND", "HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM", "PYTEST_CURRENT_TEST"}
    kept = {name: value for name, value in os.environ.items() if name not in own}
    return kept | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])}
