"""Shared by the tests of predict: films of every kind, and one call of the command on them."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cliniqure_utils import cli
from cliniqure_utils.predict import provenance

torch.set_num_threads(1)
GREY = np.random.default_rng(1).integers(0, 255, (120, 90), dtype=np.uint8)


@pytest.fixture(scope="session")
def grey() -> np.ndarray:
    """A grey picture, uint8 (120, 90)."""
    return GREY


@pytest.fixture(scope="session")
def private() -> dict[str, str]:
    """DICOM tags that must not leave a file."""
    return {
        "PatientName": "Secretperson^Anna", "PatientID": "MRN-778899", "PatientBirthDate": "19510203",
        "StudyDate": "20190304", "StudyInstanceUID": "1.2.840.99.7.1", "AccessionNumber": "ACC-5566",
        "InstitutionName": "Hospital of Nowhere", "ReferringPhysicianName": "Referrer^Bob",
        "SeriesDescription": "seen by Secretperson", "PatientComments": "neighbour of Secretperson",
    }  # fmt: skip


@pytest.fixture
def same_time(monkeypatch):
    """Reports are made at one moment, so that two calls can be compared."""
    monkeypatch.setattr(provenance, "now", lambda: "2026-11-30T22:17:00Z")


@pytest.fixture(scope="session")
def run_dir(finished_run) -> Path:
    return finished_run / "run"


@pytest.fixture(scope="session")
def films(tmp_path_factory, write_dicom, private) -> Path:
    """A folder with a private DICOM, a picture with an evil name, things to refuse, and a text file."""
    folder = tmp_path_factory.mktemp("films")
    write_dicom(
        folder / "one.dcm", GREY, **private, Modality="DX", ViewPosition="PA", BodyPartExamined="CHEST",
        PatientAge="091Y", PatientSex="F",
    )  # fmt: skip
    Image.fromarray(GREY).save(folder / "<img src=x onerror=alert(1)>.png")
    (folder / "sub").mkdir()
    write_dicom(folder / "sub" / "one", GREY)  # no ending, and a name that is there already
    write_dicom(folder / "side.dcm", GREY, ViewPosition="LL", **private)
    photo = np.dstack([GREY, np.roll(GREY, 5), GREY[::-1]])
    Image.fromarray(photo).save(folder / "photo.jpg")
    (folder / "README.md").write_text("no film")
    return folder


@pytest.fixture(scope="session")
def predicted(films, run_dir, tmp_path_factory) -> tuple[int, Path]:
    """One call with a language model, its films read by two processes: (exit code, output folder)."""
    out = tmp_path_factory.mktemp("predicted") / "out"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # pydicom and highdicom warn where a value breaks the standard
        warnings.filterwarnings("ignore", module="transformers|torch|peft")
        command = ["predict", str(films), "--run-dir", str(run_dir), "--out", str(out), "--n-jobs", "2"]
        code = cli.main([*command, "--symptoms", "<b>cough</b> & fever"])
    return code, out
