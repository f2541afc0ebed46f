"""Makes `line.py` importable, here and in the processes that a test starts; and many small trainings quick."""

import gc
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True, scope="module")
def imported_modules_are_no_garbage():
    """accelerate looks for garbage when a training begins: .3 s among all that torch and transformers import."""
    gc.freeze()
    yield
    gc.unfreeze()
