"""Reports say when and by what they were made; DICOM ids follow their content; no result is read as a film."""

import hashlib
import importlib.metadata
import json
import shutil

import numpy as np
import pydicom
import pytest
from PIL import Image

from cliniqure_utils import cli
from cliniqure_utils.predict import provenance
from cliniqure_utils.predict.folders import find_films
from cliniqure_utils.predict.inputs import refusal
from cliniqure_utils.project import REPOSITORY

PROGRAM = f"cliniqure {importlib.metadata.version('cliniqure')}"


def test_every_page_says_when_and_by_what_it_was_made(predicted, run_dir):
    out = predicted[1]
    made_by = json.loads((out / "one_report.json").read_text())["made_by"]
    names = [f"{name}/model.safetensors" for name in ("02_detect", "03_classify", "04_crude_report")]
    assert made_by["weights"] == {name: hashlib.sha256((run_dir / name).read_bytes()).hexdigest() for name in names}
    assert made_by["made"].endswith("Z") and made_by["program"] == PROGRAM
    assert made_by["run"] == "run" and made_by["run_started"] == json.loads((run_dir / "run.json").read_text()).get(
        "started"
    )
    for page in ("one_report.html", "index.html"):
        text = (out / page).read_text()
        for value in (made_by["made"], made_by["program"], made_by["commit"] or "not known", "run run"):
            assert value in text, (page, value)
        for digest in made_by["weights"].values():
            assert digest[:12] in text, page
    structured = pydicom.dcmread(out / "one_report.dcm")
    assert structured.SoftwareVersions == PROGRAM
    assert any(made_by["weights"][names[0]] in item.get("TextValue", "") for item in structured.ContentSequence)


@pytest.mark.skipif(not (REPOSITORY / ".git").exists(), reason="no git repository")
def test_the_commit_is_that_of_the_repository(tmp_path, monkeypatch):
    commit = provenance.provenance(tmp_path, [])["commit"]
    assert len(commit.removesuffix("-dirty")) == 40
    monkeypatch.setattr(provenance, "REPOSITORY", REPOSITORY / "tests")  # a folder in another's repository
    assert provenance.provenance(tmp_path, [])["commit"] is None


def test_ids_of_dicom_objects_follow_their_content(films, run_dir, tmp_path):
    def ids(name, film, *options):
        out = tmp_path / name
        assert cli.main(["predict", str(film), "--run-dir", str(run_dir), "--out", str(out), "--no-llm", *options]) == 0
        overlay, report = (pydicom.dcmread(next(out.glob(f"*_{kind}.dcm"))) for kind in ("overlay", "report"))
        assert overlay.StudyInstanceUID == report.StudyInstanceUID
        return report.StudyInstanceUID, overlay.SOPInstanceUID, report.SOPInstanceUID, report.SeriesInstanceUID

    first = ids("first", films / "one.dcm")
    shutil.copy(films / "one.dcm", tmp_path / "other_name.dcm")
    assert ids("again", films / "one.dcm") == ids("copy", tmp_path / "other_name.dcm") == first
    told = ids("told", films / "one.dcm", "--symptoms", "cough")
    assert told[:2] == first[:2] and told[2] != first[2] and told[3] != first[3]
    other = ids("other", films / "sub" / "one")
    assert not set(other) & set(first)


def test_results_are_no_films_when_their_folder_is_given_again(predicted, tmp_path):
    out = predicted[1]
    paths, unread, passed = find_films([out])
    assert paths == [] == unread and passed == len(list(out.iterdir()))
    for ending in ("overlay.png", "overlay.dcm", "report.dcm"):
        renamed = tmp_path / f"film.{ending.split('.')[1]}"
        shutil.copy(out / f"one_{ending}", renamed)
        assert find_films([tmp_path])[0] == [renamed]
        assert refusal(renamed) == f"{renamed.name}: a result of an earlier predict; expected a film"
        renamed.unlink()
    film = tmp_path / "my_overlay.png"
    Image.fromarray(np.eye(64, dtype=np.uint8)).save(film)
    assert find_films([tmp_path])[0] == [film] and refusal(film) is None, "a film of that name is a film"
