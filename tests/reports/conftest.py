"""Shared by the tests of reports: what is known about one film."""

import sys
from pathlib import Path

import pytest

from cliniqure_utils.reports import Evidence

sys.path.insert(0, str(Path(__file__).parent))  # planted.py


@pytest.fixture
def evidence():
    return Evidence(
        "a",
        findings=[("Cardiomegaly", 0.91), ("Pleural effusion", 0.75)],
        boxes=[("Pleural effusion", 0.8, "left lower zone")],
        crude_report="the heart is enlarged .",
        age_years=54.0,
        sex="F",
        symptoms="swollen ankles",
    )
