"""What a reader must know of the models: whether they saw a patient, and whether they know films of this kind."""

import json
import shutil

import numpy as np
import pydicom
import pytest
from PIL import Image

from cliniqure_utils import cli, pretrained
from cliniqure_utils.predict import writing
from cliniqure_utils.runs import write_json
from cliniqure_utils.vision.familiarity import Familiar

NEVER = "trained on simulated films and never saw a real patient"


@pytest.fixture
def run(run_dir, tmp_path):
    """A copy of the run that a test may change: `run(data=..., weights=...)`."""
    folder = shutil.copytree(run_dir, tmp_path / "run")

    def change(kind="simulated", weights=None):
        record = json.loads((run_dir / "run.json").read_text())
        record["data"] = {"kind": kind} if kind else {}
        record["notebooks"]["03_classify"] = {"status": "done", "parameters": {"weights": weights}}
        write_json(folder / "run.json", record)
        return folder

    return change


def written(films, run, out) -> dict[str, str]:
    assert cli.main(["predict", str(films / "one.dcm"), "--run-dir", str(run), "--out", str(out), "--no-llm"]) == 0
    text = {name: (out / name).read_text() for name in ("one_report.html", "index.html", "one_report.json")}
    items = pydicom.dcmread(out / "one_report.dcm").ContentSequence
    return text | {"structured": " ".join(item.TextValue for item in items if "TextValue" in item)}


def test_a_run_that_never_saw_a_patient_says_so_everywhere(films, run, tmp_path, monkeypatch):
    listed = {"real": {"any_finding": [0.713, 0.665, 0.758], "n_films": 538}}
    monkeypatch.setattr(pretrained, "settings_of", lambda part: listed)
    line = (
        f"The models were {NEVER}; on 538 real films (NIH ChestX-ray14) the eyes they started from reach any finding "
        "AUROC 0.71 (0.67 to 0.76; guessing: 0.50)."
    )
    for name, text in written(films, run(weights="pretrained"), tmp_path / "out").items():
        assert line in text.replace("\n", " "), name


def test_a_number_is_said_only_where_it_belongs_to_the_run(run, monkeypatch):
    monkeypatch.setattr(
        pretrained, "settings_of", lambda part: {"real": {"any_finding": [0.7, 0.6, 0.8], "n_films": 9}}
    )
    assert "on 9 real films" in writing.read_settings(run(weights="pretrained")).learnt_from
    assert writing.read_settings(run(weights=None)).learnt_from == f"The models were {NEVER}."
    monkeypatch.setattr(pretrained, "settings_of", lambda part: {"films": 6000})  # not measured
    assert writing.read_settings(run(weights="pretrained")).learnt_from == f"The models were {NEVER}."
    assert writing.read_settings(run(kind="vindr", weights="pretrained")).learnt_from == "", "it learnt from patients"


def test_without_a_record_the_simulated_truth_tells(run):
    folder = run(kind=None)
    assert writing.read_settings(folder).learnt_from == ""
    (folder / "01_preprocess" / "truth.csv").write_text("image_id\n")
    assert NEVER in writing.read_settings(folder).learnt_from


def test_a_film_of_another_kind_is_told_on_page_and_index(films, run, tmp_path, capsys):
    folder = run()
    familiar = Familiar(np.zeros(256), np.ones(256), np.zeros((0, 256)), np.zeros(0), 1.0, 1e-9)
    familiar.save(folder / "03_classify" / "familiar.npz")
    said = written(films, folder, tmp_path / "out")
    for name, text in said.items():
        assert writing.UNFAMILIAR in text.replace("&#39;", "'").replace("\n", " "), name
    assert "(unlike the films that the models know)" in capsys.readouterr().out
    assert json.loads(said["one_report.json"])["film"]["unfamiliar"] is True


def test_a_film_of_the_known_kind_is_not(films, run, tmp_path):
    from cliniqure_utils.dicom.archive import small_film
    from cliniqure_utils.vision.classification import load_classifier
    from cliniqure_utils.vision.familiarity import film_features
    from cliniqure_utils.vision.inference import FilmsInMemory

    folder = run()
    film = FilmsInMemory(["one"], [small_film(films / "one.dcm", 128)[0]], 96, "rank").film(0)
    mean = film_features(load_classifier(folder / "03_classify"), [film], "cpu")[0]
    familiar = Familiar(mean, np.ones(len(mean)), np.zeros((0, len(mean))), np.zeros(0), 1.0, 1.0)
    familiar.save(folder / "03_classify" / "familiar.npz")
    said = written(films, folder, tmp_path / "out")
    assert json.loads(said["one_report.json"])["film"]["unfamiliar"] is False
    assert not any("looks unlike" in text for text in said.values())


def test_a_film_with_the_identifier_of_another_says_so(write_dicom, grey, run_dir, tmp_path, capsys):
    for name, uid in (("a", "1.2.3"), ("b", "1.2.3"), ("c", "1.2.4")):
        write_dicom(tmp_path / f"{name}.dcm", np.roll(grey, ord(name), 0), SOPInstanceUID=uid)
    Image.fromarray(grey).save(tmp_path / "d.png")  # pictures have none, which is no common one
    Image.fromarray(grey).save(tmp_path / "e.png")
    out = tmp_path / "out"
    assert cli.main(["predict", str(tmp_path), "--run-dir", str(run_dir), "--out", str(out), "--no-llm"]) == 0
    said = "the same SOP Instance UID as a.dcm, which should be of one film alone"
    notes = {name: json.loads((out / f"{name}_report.json").read_text())["film"]["notes"] for name in "abcde"}
    assert [name for name in "abcde" if said in notes[name]] == ["b"]
    assert said in (out / "b_report.html").read_text().replace("\n", " ")
    assert [line for line in capsys.readouterr().out.splitlines() if said in line] == [f"note: b.dcm: {said}"]
