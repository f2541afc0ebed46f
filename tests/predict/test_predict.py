"""The prediction path on films: own pictures, broken files, and real X-rays where they are at hand."""

import contextlib
import json
import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from cliniqure_utils import cli, cmn
from cliniqure_utils.predict import dicom_objects, pages, reports
from cliniqure_utils.predict.films import describe_films, find_films, refusal
from cliniqure_utils.project import MissingInput
from cliniqure_utils.reports import clean_field
from cliniqure_utils.runs import write_json
from cliniqure_utils.vision import classification, detection
from cliniqure_utils.vocabulary import CLASSES

torch.set_num_threads(1)
REAL = Path(__file__).parents[3] / "shared" / "real"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run folder with untrained models of the demo's kind, only smaller."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    settings = dict(backbone="tiny", image_size=96, anchor_scales=[12, 48], neck="topdown", head_width=16)
    detector = detection.build_detector(**settings)
    detector.network.roi_heads.score_thresh = 0.0
    detection.save_detector(detector, folder / "02_detect", settings)
    classifier = classification.build_classifier("seresnet_tiny")
    classification.save_classifier(
        classifier, folder / "03_classify", {"model_name": "seresnet_tiny", "image_size": 96}
    )
    trunk = cmn.build_extractor("tiny")
    config = cmn.CMNConfig(visual_extractor="tiny", d_vf=trunk.channels, d_model=16, d_ff=16, num_heads=2, num_layers=1,
                           topk=4, cmm_size=8, cmm_dim=16, max_length=8)  # fmt: skip
    reporter = cmn.R2GenCMN(cmn.Tokenizer.from_reports(["the lungs are clear ."], threshold=1), config, trunk)
    cmn.save(reporter, folder / "04_crude_report")
    write_json(folder / "03_classify" / "thresholds.json", dict.fromkeys(CLASSES, 0.4))
    write_json(folder / "02_detect" / "box_threshold.json", {"score": 0.05})
    writing = {"base_model": "tiny-random", "models_dir": str(folder / "models"), "max_new_tokens": 8}
    notebooks = {
        "06_generate_report": {"parameters": writing | {"max_prompt_tokens": 700}},
        "07_evaluate": {"parameters": {"report_system": "base"}},
    }
    write_json(
        folder / "run.json", {"profile": "tiny", "seed": 1, "data": {"kind": "simulated"}, "notebooks": notebooks}
    )
    return folder


def check(film):
    assert list(film["probabilities"]) == list(CLASSES)
    assert all(0 <= p <= 1 for p in film["probabilities"].values())
    boxes = film["boxes"]
    assert (boxes.x_max <= film["columns"] + 0.1).all() and (boxes.y_max <= film["rows"] + 0.1).all()
    assert boxes.class_name.isin(CLASSES[:14]).all()
    assert isinstance(film["crude_report"], str)


def test_pictures_of_any_shape_get_findings_and_broken_files_a_reason(run_dir, tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (300, 200), dtype=np.uint8)).save(tmp_path / "tall.png")
    (tmp_path / "broken.dcm").write_bytes(b"nothing")
    films, rejected = describe_films([tmp_path / "tall.png", tmp_path / "broken.dcm"], run_dir, "cpu")
    assert [f["source"] for f in films] == ["tall.png"] and rejected.source.tolist() == ["broken.dcm"]
    assert (films[0]["rows"], films[0]["columns"]) == (300, 200)
    check(films[0])


def test_a_run_without_models_is_named(tmp_path):
    with pytest.raises(MissingInput, match="run notebooks/02_detect.ipynb first"):
        describe_films([], tmp_path)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real X-rays are not beside this checkout")
def test_real_x_rays(run_dir):
    paths = sorted([*REAL.glob("*.png"), *REAL.glob("*.dcm")])
    films, rejected = describe_films(paths, run_dir, "cpu")
    assert len(films) == 3 and rejected.empty
    for film in films:
        assert min(film["rows"], film["columns"]) >= 512
        check(film)


# The command

GREY = np.random.default_rng(1).integers(0, 255, (120, 90), dtype=np.uint8)
PRIVATE = {
    "PatientName": "Secretperson^Anna", "PatientID": "MRN-778899", "PatientBirthDate": "19510203",
    "StudyDate": "20190304", "StudyInstanceUID": "1.2.840.99.7.1", "AccessionNumber": "ACC-5566",
    "InstitutionName": "Hospital of Nowhere", "ReferringPhysicianName": "Referrer^Bob",
    "SeriesDescription": "seen by Secretperson", "PatientComments": "neighbour of Secretperson",
}  # fmt: skip


def write_dicom(path: Path, **tags) -> Path:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.99.7.2"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.840.99.7.2"
    data.Rows, data.Columns = GREY.shape
    data.SamplesPerPixel, data.PixelRepresentation, data.PhotometricInterpretation = 1, 0, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
    data.PixelData = GREY.tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path


def write_png(path: Path, pixels: np.ndarray = GREY) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def coded(meaning: str) -> list[Dataset]:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "99TEST", meaning
    return [item]


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """A folder with a private DICOM, a picture with an evil name, things to refuse, and a text file."""
    folder = tmp_path_factory.mktemp("films")
    write_dicom(
        folder / "one.dcm", **PRIVATE, Modality="DX", ViewPosition="PA", BodyPartExamined="CHEST", PatientAge="091Y",
        PatientSex="F",
    )  # fmt: skip
    write_png(folder / "<img src=x onerror=alert(1)>.png")
    (folder / "sub").mkdir()
    write_dicom(folder / "sub" / "one")  # no ending, and a name that is there already
    write_dicom(folder / "side.dcm", ViewPosition="LL", **PRIVATE)
    photo = np.dstack([GREY, np.roll(GREY, 5), GREY[::-1]])
    Image.fromarray(photo).save(folder / "photo.jpg")
    (folder / "README.md").write_text("no film")
    return folder


@pytest.fixture(scope="module")
def predicted(films, run_dir, tmp_path_factory):
    """One call with a language model: (exit code, output folder)."""
    out = tmp_path_factory.mktemp("predicted") / "out"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # pydicom and highdicom warn where a value breaks the standard
        warnings.filterwarnings("ignore", module="transformers|torch|peft")
        code = cli.main(
            ["predict", str(films), "--run-dir", str(run_dir), "--out", str(out), "--symptoms", "<b>cough</b> & fever"]
        )
    return code, out


def test_every_film_gets_five_files_and_the_rest_a_reason(predicted):
    code, out = predicted
    assert code == 1
    names = ("one", "one_0005", "<img src=x onerror=alert(1)>")
    for name in names:
        for ending in ("_report.html", "_report.json", "_overlay.png", "_overlay.dcm", "_report.dcm"):
            assert (out / f"{name}{ending}").is_file(), name + ending
    assert len(list(out.iterdir())) == 5 * len(names) + 2
    rejected = pd.read_csv(out / "rejected.csv")
    assert list(rejected.columns) == ["source", "row", "image_id", "reason"]
    assert rejected.set_index("source").reason.to_dict() == {
        "photo.jpg": "photo.jpg: a colour picture; expected a grey chest film",
        "side.dcm": "side.dcm: a lateral view (ViewPosition LL); expected a frontal one (PA or AP)",
    }


def test_the_report_is_facts_checked_prose_and_table_text(predicted, run_dir):
    report = json.loads((predicted[1] / "one_report.json").read_text())
    settings = reports.read_settings(run_dir)
    assert "not for clinical use" in report["disclaimer"] and report["image_id"] == "one"
    assert report["film"] == {
        "rows": 120, "columns": 90, "view": "PA", "age_years": None, "sex": "F", "notes": [],
    }  # fmt: skip
    assert [entry["name"] for entry in report["findings"]] == list(CLASSES)
    for entry in report["findings"]:
        assert entry["present"] == (entry["probability"] >= 0.4 == settings.thresholds[entry["name"]])
    assert all(box["score"] >= settings.box_threshold for box in report["boxes"])
    assert len({(box["class_name"], box["place"]) for box in report["boxes"]}) == len(report["boxes"])
    present = [e["name"] for e in report["findings"] if e["present"] and e["name"] != "No finding"]
    assert all(name.split("/")[0].split()[-1].lower() in report["report"]["facts"].lower() for name in present)
    assert report["report"]["system"] == "base" and report["report"]["checked"]
    assert report["symptoms"] == "cough & fever"  # marks that a prompt or a page could mistake for its own are gone
    assert report["made_by"]["simulated"] is True


def test_text_cannot_become_part_of_a_page(predicted):
    for page in predicted[1].glob("*.html"):
        text = page.read_text()
        assert "not for clinical use" in text and "<script" not in text and "<img src=x" not in text
        assert "default-src 'none'" in text and "simulated films" in text
    index = (predicted[1] / "index.html").read_text()
    assert "%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E_report.html" in index
    assert "&lt;img src=x onerror=alert(1)&gt;" in index and "a lateral view" in index


def test_a_hostile_model_text_is_escaped_on_the_page(predicted):
    report = json.loads((predicted[1] / "one_report.json").read_text())
    evil = "</blockquote><script>alert(1)</script>"
    report["crude_report"] = report["report"]["facts"] = evil
    report["report"]["checked"] = [{"sentence": evil, "status": "neutral"}]
    page = pages.film_page(report, b"", {})
    assert "<script" not in page and page.count("&lt;script&gt;") == 3


def test_nothing_private_leaves_the_file(predicted):
    code, out = predicted
    for path in out.iterdir():
        content = path.read_bytes()
        for value in (*PRIVATE.values(), "1.2.840.99.7.2", "Secretperson", "091Y"):
            assert value.encode() not in content, f"{path.name} holds {value}"


def test_dicom_objects_read_back(predicted):
    import highdicom

    _, out = predicted
    report = json.loads((out / "one_report.json").read_text())
    capture = pydicom.dcmread(out / "one_overlay.dcm")
    assert capture.SOPClassUID.name == "Secondary Capture Image Storage"
    with Image.open(out / "one_overlay.png") as png:
        np.testing.assert_array_equal(capture.pixel_array, np.asarray(png))
    assert capture.pixel_array.shape == (120, 90, 3)

    structured = highdicom.sr.srread(out / "one_report.dcm")
    assert (structured.StudyInstanceUID, structured.PatientID) == (capture.StudyInstanceUID, capture.PatientID)
    assert structured.CompletionFlag == "PARTIAL" and structured.VerificationFlag == "UNVERIFIED"
    regions = structured.content.get_planar_roi_measurement_groups()
    assert len(regions) == len(report["boxes"]) > 0
    for group, box in zip(regions, report["boxes"], strict=True):
        assert group.finding_type.meaning == box["class_name"]
        assert group.get_measurements()[0].value == pytest.approx(box["score"])
        outline = group.roi.value
        assert outline.min(axis=0).tolist() == pytest.approx([box["x_min"], box["y_min"]], abs=0.1)
        assert outline.max(axis=0).tolist() == pytest.approx([box["x_max"], box["y_max"]], abs=0.1)
        shown_on = group.roi.ContentSequence[0].ReferencedSOPSequence[0]
        assert shown_on.ReferencedSOPInstanceUID == capture.SOPInstanceUID
    whole = structured.content.get_image_measurement_groups()
    stated = {g.finding_type.meaning: g.get_measurements()[0].value for g in whole}
    present = {e["name"]: e["probability"] for e in report["findings"] if e["present"] and e["name"] != "No finding"}
    assert stated == pytest.approx(present) or list(stated) == ["No finding"]
    contained = [item for item in structured.ContentSequence if item.RelationshipType == "CONTAINS"]
    texts = [item.TextValue for item in contained if item.ValueType == "TEXT"]
    assert "not for clinical use" in texts[0] and report["report"]["facts"] in texts
    assert clean_field(report["report"]["text"]) in texts  # any character that the model wrote


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian package dicom3tools) is not installed")
def test_dciodvfy_finds_no_error(predicted):
    for name in ("one_overlay.dcm", "one_report.dcm"):
        result = subprocess.run(["dciodvfy", str(predicted[1] / name)], capture_output=True, text=True)
        assert "Error" not in result.stderr + result.stdout, result.stderr


@pytest.mark.parametrize(
    "tags, reason",
    [
        ({"Modality": "CT"}, "modality CT; expected a radiograph"),
        ({"ViewPosition": "LATERAL"}, "a lateral view (ViewPosition LATERAL)"),
        ({"ViewPosition": "LAO"}, "the view is LAO; expected a frontal one"),
        ({"ViewCodeSequence": coded("left lateral")}, "a lateral view by its ViewCodeSequence"),
        ({"SeriesDescription": "Chest_LAT Secretperson"}, "a lateral view by its SeriesDescription; expected"),
        ({"BodyPartExamined": "KNEE"}, "the body part is KNEE; expected CHEST"),
        ({"BodyPartExamined": "CHESTABDOMEN"}, "the body part is CHESTABDOMEN"),
        ({"AnatomicRegionSequence": coded("Hand")}, "the body part is HAND"),
        ({"BurnedInAnnotation": "YES"}, "the picture itself shows text about the patient"),
    ],
)
def test_the_header_refuses(tmp_path, tags, reason):
    found = refusal(write_dicom(tmp_path / "x.dcm", **tags))
    assert found.startswith("x.dcm: ") and reason in found and "Secretperson" not in found


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"Modality": "CR", "ViewPosition": "AP", "BodyPartExamined": "CHEST"},
        {"ViewPosition": "PA ERECT", "BodyPartExamined": "PORT CHEST", "BurnedInAnnotation": "NO"},
        {"SeriesDescription": "Chest PA and lateral", "BodyPartExamined": "THORAX"},
        {"SeriesDescription": "CHEST, PLATE 2", "BodyPartExamined": "UNKNOWN"},
        {"ViewCodeSequence": coded("postero-anterior")},
    ],
)
def test_the_header_allows(tmp_path, tags):
    assert refusal(write_dicom(tmp_path / "x.dcm", **tags)) is None


@pytest.mark.parametrize("backend", ["loky", "dask"])
def test_workers_say_the_same_as_one_process(films, run_dir, backend):
    from dask.distributed import Client, LocalCluster
    from joblib import parallel_config

    paths = [films / "one.dcm", films / "photo.jpg", films / "sub" / "one"]
    alone, refused = describe_films(paths, run_dir, "cpu")
    with contextlib.ExitStack() as around:
        if backend == "dask":
            cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
            around.enter_context(Client(around.enter_context(cluster)))
            around.enter_context(parallel_config(backend="dask"))
        spread, refused_too = describe_films(paths, run_dir, "cpu", n_jobs=2)
    pd.testing.assert_frame_equal(refused, refused_too)
    for film, other in zip(alone, spread, strict=True):
        pd.testing.assert_frame_equal(film.pop("boxes"), other.pop("boxes"))
        np.testing.assert_array_equal(film.pop("shown"), other.pop("shown"))
        assert film == other


def test_the_command_uses_the_workers_of_a_cluster_and_says_when_there_is_none(films, run_dir, tmp_path, capsys):
    from dask.distributed import LocalCluster

    command = ["predict", str(films / "one.dcm"), str(films / "photo.jpg"), "--run-dir", str(run_dir), "--no-llm"]
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        assert cli.main([*command, "--out", str(tmp_path / "spread"), "--dask", address]) == 1  # the photo is refused
        assert cli.main([*command, "--out", str(tmp_path / "alone")]) == 1
    one, other = (json.loads((tmp_path / name / "one_report.json").read_text()) for name in ("spread", "alone"))
    assert one == other
    with LocalCluster(n_workers=0, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        assert cli.main([*command, "--out", str(tmp_path / "none"), "--dask", address]) == 2
    assert f"the Dask scheduler at {address} has no worker" in capsys.readouterr().err
    assert cli.main([*command, "--out", str(tmp_path / "none"), "--dask", "nowhere"]) == 2
    assert "no Dask scheduler answers at nowhere" in capsys.readouterr().err


def test_facts_alone_and_symptoms_by_film(films, run_dir, tmp_path, capsys):
    table = tmp_path / "symptoms.csv"
    table.write_text("image_id,symptoms\none,short of breath\nnobody,none\n")
    command = ["predict", str(films / "one.dcm"), "--run-dir", str(run_dir), "--out", str(tmp_path / "o"), "--no-llm"]
    assert cli.main([*command, "--symptoms-csv", str(table)]) == 0
    report = json.loads((tmp_path / "o" / "one_report.json").read_text())
    assert report["report"]["system"] == "template" and report["symptoms"] == "short of breath"
    assert report["report"]["text"] == report["report"]["facts"]
    assert "1 rows with symptoms name no film here, the first nobody" in capsys.readouterr().out
    again = {p.name: p.read_bytes() for p in (tmp_path / "o").iterdir() if p.suffix != ".dcm"}
    assert cli.main([*command, "--symptoms-csv", str(table)]) == 0
    assert {p.name: p.read_bytes() for p in (tmp_path / "o").iterdir() if p.suffix != ".dcm"} == again


def test_nothing_readable_is_1_and_says_so(run_dir, tmp_path):
    write_dicom(tmp_path / "hand.dcm", BodyPartExamined="HAND")
    out = tmp_path / "out"
    assert cli.main(["predict", str(tmp_path), "--run-dir", str(run_dir), "--out", str(out), "--no-llm"]) == 1
    assert sorted(path.name for path in out.iterdir()) == ["index.html", "rejected.csv"]
    assert "the body part is HAND" in (out / "index.html").read_text()


def test_a_file_that_is_no_picture_is_not_called_dicom(run_dir, tmp_path, capsys):
    (tmp_path / "letter.txt").write_text("Dear colleague")
    (tmp_path / "saved.png").write_text("<html>")
    inputs = [str(tmp_path / name) for name in ("letter.txt", "saved.png")]
    assert cli.main(["predict", *inputs, "--run-dir", str(run_dir), "--out", str(tmp_path / "o"), "--no-llm"]) == 1
    said = capsys.readouterr().out
    for name in ("letter.txt", "saved.png"):
        assert f"not read: {name}: neither DICOM nor PNG nor JPEG by its content" in said
    assert "0 reports, 2 files not read" in said


def test_what_cannot_start_is_2_in_one_line(films, run_dir, tmp_path, capsys):
    one = str(films / "one.dcm")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "bad.csv").write_text("name,text\na,b\n")
    (tmp_path / "twice.csv").write_text("image_id,symptoms\na,b\na,c\n")
    broken = tmp_path / "broken"
    shutil.copytree(run_dir, broken)
    (broken / "03_classify" / "model.safetensors").unlink()
    needs_adapter = tmp_path / "needs_adapter"
    shutil.copytree(run_dir, needs_adapter)
    record = json.loads((needs_adapter / "run.json").read_text())
    record["notebooks"]["07_evaluate"]["parameters"]["report_system"] = "causal_lm"
    write_json(needs_adapter / "run.json", record)

    def said(*arguments, run=run_dir, out=tmp_path / "out"):
        assert cli.main(["predict", *map(str, arguments), "--run-dir", str(run), "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("cliniqure: ") and error.count("\n") == 1, error
        return error

    assert "there is no file or folder" in said(tmp_path / "nowhere")
    assert "no DICOM, PNG or JPEG file in" in said(tmp_path / "empty")
    assert "there is no run folder" in said(one, run=tmp_path / "nowhere")
    assert "run notebooks/02_detect.ipynb first" in said(one, run=tmp_path / "empty")
    assert "run notebooks/03_classify.ipynb first" in said(one, "--no-llm", run=broken)
    assert "causal_lm: no adapter there; run notebooks/05" in said(one, run=needs_adapter)
    assert "is a file; expected a folder" in said(one, out=tmp_path / "file")
    assert "is one of the folders with films" in said(films, out=films)
    assert "expected columns image_id and symptoms, found name, text" in said(
        one, "--symptoms-csv", tmp_path / "bad.csv"
    )
    assert "a is there twice" in said(one, "--symptoms-csv", tmp_path / "twice.csv")
    assert "cannot be used (Not a directory)" in said(one, "--no-llm", out=tmp_path / "file" / "below")
    assert "unknown device gpu: expected auto, cpu, cuda or mps" in said(one, "--device", "gpu")
    if not torch.cuda.is_available():
        assert "there is no device cuda on this machine" in said(one, "--device", "cuda", "--no-llm")
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit) as stop:
        cli.main(["predict", one, "--run-dir", str(run_dir), "--out", "o", "--n-jobs", "0"])
    assert stop.value.code == 2 and "expected a whole number from 1" in capsys.readouterr().err


def test_films_are_found_once_and_results_are_left_out(films):
    found, passed = find_films([films, films / "one.dcm", films / "sub"])
    assert len(found) == len(set(found)) == 5 and passed == 1
    inside, _ = find_films([films], out_dir=films / "sub")
    assert len(inside) == 4


def test_an_overlay_keeps_the_films_pixels():
    film = np.tile(np.linspace(0, 255, 301).astype(np.uint8), (207, 1))
    report = {"boxes": [], "film": {"rows": 414, "columns": 602}}
    overlay = pages.draw_overlay(film, report)
    assert overlay.shape == (207, 301, 3)
    np.testing.assert_allclose(overlay[:150], np.repeat(film[:150, :, None], 3, axis=2), atol=1)


def test_uids_repeat_and_say_nothing():
    first = dicom_objects.uid("abc", "overlay")
    assert first == dicom_objects.uid("abc", "overlay") != dicom_objects.uid("abd", "overlay")
    assert len(first) <= 64 and "abc" not in first
