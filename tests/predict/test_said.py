"""What a report says, it says once: on the page, as data and in DICOM; of children, and of what is no film."""

import json
import re
import shutil

import numpy as np
import pydicom
import pytest
from PIL import Image

from cliniqure_utils import cli
from cliniqure_utils.predict import pages
from cliniqure_utils.predict.films import has_few_greys
from cliniqure_utils.predict.writing import FEW_GREYS
from cliniqure_utils.reports.reading import NOTHING
from cliniqure_utils.runs import write_json
from cliniqure_utils.vocabulary import FINDINGS


@pytest.fixture
def call(run_dir, tmp_path):
    """Function: film, least probability of every class, least score of a box -> (report, its page, out folder)."""
    run = shutil.copytree(run_dir, tmp_path / "run")

    def call(film, least=0.4, box=0.0, *options):
        thresholds = json.loads((run_dir / "03_classify" / "thresholds.json").read_text())
        write_json(run / "03_classify" / "thresholds.json", dict.fromkeys(thresholds, least))
        record = json.loads((run_dir / "run.json").read_text())
        record["notebooks"]["06_generate_report"]["parameters"]["box_threshold"] = box
        write_json(run / "run.json", record)
        out = tmp_path / "out"
        assert cli.main(["predict", str(film), "--run-dir", str(run), "--out", str(out), "--no-llm", *options]) == 0
        name = film.stem
        report = json.loads((out / f"{name}_report.json").read_text())
        return report, (out / f"{name}_report.html").read_text(), out

    return call


def said_on(page: str) -> dict[str, str]:
    """The last column of the probabilities."""
    found = re.findall(r'<th scope="row">([^<]+)</th>(.*?)</tr>', page, flags=re.DOTALL)
    return {name: re.findall(r"<td>([^<]*)</td>", cells)[-1] for name, cells in found}


def test_a_finding_of_the_detector_alone_is_said_by_the_table_too(call, films):
    report, page, out = call(films / "one.dcm", least=1.1)
    boxed = {box["class_name"] for box in report["boxes"]}
    assert boxed and "There is" in report["report"]["facts"]
    assert said_on(page) == {**dict.fromkeys(FINDINGS, "no"), "No finding": "no"} | dict.fromkeys(boxed, "yes (box)")
    for entry in report["findings"]:
        assert (entry["present"], entry["detected"], entry["said"]) == (False, *[entry["name"] in boxed] * 2)
    structured = pydicom.dcmread(out / "one_report.dcm")
    assert "No finding" not in str(structured)


def test_no_finding_is_said_where_nothing_is_and_nowhere_else(call, films):
    report, page, out = call(films / "one.dcm", least=1.1, box=1.1)  # nor does "No finding" reach its threshold
    assert report["report"]["facts"] == "No finding is reported by the models."
    assert said_on(page) == {**dict.fromkeys(FINDINGS, "no"), "No finding": "yes"}
    assert "No finding" in str(pydicom.dcmread(out / "one_report.dcm"))
    assert report["impression"] == [NOTHING] and NOTHING in page and report["reading"] == []
    report, page, _ = call(films / "one.dcm", least=0.0, box=1.1)  # everything reaches it
    assert said_on(page) == {**dict.fromkeys(FINDINGS, "yes"), "No finding": "no"}


@pytest.mark.parametrize("age, words", [("003M", "3 months"), ("050Y", "50 years"), ("000Y", "age not given")])
def test_an_age_is_said_as_the_header_has_it(call, tmp_path, write_dicom, grey, age, words):
    film = write_dicom(tmp_path / "child.dcm", grey, PatientAge=age)
    assert f"<dd>{words}, sex not given</dd>" in call(film)[1]


def test_symptoms_that_are_cut_are_told(call, films):
    report, page, _ = call(films / "one.dcm", 0.4, 0.0, "--symptoms", "cough " * 1700)
    assert report["film"]["notes"] == ["the symptoms have 10199 characters; only the first 400 are kept"]
    assert report["film"]["notes"][0] in page and len(report["symptoms"]) <= 400


def test_two_films_of_one_name_are_told_apart(run_dir, tmp_path, grey):
    for folder in ("patient_a", "patient_b"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        Image.fromarray(grey).save(tmp_path / "in" / folder / "IM0001.png")
    (tmp_path / "s.csv").write_text("image_id,symptoms\npatient_b/IM0001,cough\n")
    arguments = ["predict", str(tmp_path / "in"), "--run-dir", str(run_dir), "--out", str(tmp_path / "out"), "--no-llm"]
    assert cli.main([*arguments, "--symptoms-csv", str(tmp_path / "s.csv")]) == 0
    found = [json.loads(path.read_text()) for path in sorted((tmp_path / "out").glob("*.json"))]
    assert {entry["source"]: entry["symptoms"] for entry in found} == {
        "patient_a/IM0001.png": "", "patient_b/IM0001.png": "cough",
    }  # fmt: skip
    index = (tmp_path / "out" / "index.html").read_text()
    assert "patient_a/IM0001.png" in index and "patient_b/IM0001.png" in index


def test_a_picture_of_few_greys_is_told(call, tmp_path):
    rng = np.random.default_rng(0)
    film = tmp_path / "fax.png"
    Image.fromarray(rng.integers(0, 255, (90, 80), dtype=np.uint8)).convert("1").save(film)
    report, page, out = call(film)
    assert report["film"]["warning"] == FEW_GREYS and "only a few grey values" in page
    assert "only a few grey values" in (out / "index.html").read_text()


@pytest.mark.parametrize("n, few", [(2, True), (15, True), (16, False), (200, False)])
@pytest.mark.parametrize("mode", ["L", "I;16", "RGB", "P", "LA"])
def test_greys_are_counted_in_the_file_itself(tmp_path, n, few, mode):
    levels = np.linspace(0, 255, n).astype(np.uint8)
    image = Image.fromarray(np.resize(levels, (40, 40)))
    image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    image.save(tmp_path / "x.png")
    assert has_few_greys(tmp_path / "x.png", np.zeros((2, 2), np.uint8)) is few


def test_pages_name_every_profile(predicted):
    report = json.loads((predicted[1] / "one_report.json").read_text())
    report["made_by"]["profile"] = ["demo", "paper"]
    assert "profile demo and paper" in pages.film_page(report, b"", {})
