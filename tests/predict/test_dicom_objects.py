"""DICOM objects of a report: they read back, keep to the standard, and repeat."""

import json
import shutil
import subprocess

import numpy as np
import pydicom
import pytest
from PIL import Image

from cliniqure_utils.predict import dicom_objects
from cliniqure_utils.predict.writing import NOTEBOOKS
from cliniqure_utils.reports import clean_field, load_knowledge, recommendations
from cliniqure_utils.reports.reading import impression, reading_order
from cliniqure_utils.vocabulary import DISCLAIMER, FINDINGS


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
    assert texts[0].startswith(DISCLAIMER)
    verified = clean_field(" ".join(entry["sentence"] for entry in report["report"]["verified"]))
    assert (verified in texts) == bool(verified), "an untrained model's text may leave nothing after the check"
    assert clean_field(report["report"]["text"]) in texts  # any character that the model wrote


def meaning(item) -> str:
    return item.ConceptNameCodeSequence[0].CodeMeaning


def sections(structured) -> list[tuple[str, list[str]]]:
    """Headings below the root, in order, each with its lines."""
    found = []
    for item in structured.ContentSequence:
        if item.ValueType == "CONTAINER":
            inside = getattr(item, "ContentSequence", [])
            found.append((meaning(item), [str(i.get("TextValue", "")) for i in inside]))
    return found


def test_the_report_is_read_from_the_top_urgent_findings_first():
    zone = {"side": "left", "zone": "lower"}
    reading = reading_order(
        [{"name": "ILD", "probability": 0.99, "boxes": []},
         {"name": "Pneumothorax", "probability": 0.6, "boxes": [zone | {"score": 0.8, "box": [1.0, 2.0, 30.0, 40.0]}]},
         {"name": "Calcification", "probability": None, "boxes": [zone | {"score": 0.5, "box": [5.0, 5.0, 9.0, 9.0]}]}],
        dict.fromkeys(FINDINGS, 0.5), 50,
    )  # fmt: skip
    knowledge = load_knowledge(NOTEBOOKS.parent / "data" / "knowledge.csv")
    boxes = [{"class_name": e["name"], "score": b["score"], "place": b["place"]} for e in reading for b in e["boxes"]]
    report = {
        "impression": impression(reading), "reading": reading, "findings": [], "boxes": boxes, "crude_report": "x",
        "film": {"warning": ""},
        "report": {"system": "template", "text": "", "recommendations": recommendations(FINDINGS, knowledge)},
        "made_by": {"program": "p", "learnt_from": "", "run": "r", "commit": None, "weights": {}},
    }  # fmt: skip
    capture = dicom_objects.secondary_capture(np.zeros((50, 40, 3), np.uint8), "f" * 64, "p", boxes)
    assert "Box 1: Pneumothorax, left lower zone. Box 2: Calcification" in capture.ImageComments
    corners = np.array([box["box"] for entry in reading for box in entry["boxes"]])
    structured = dicom_objects.structured_report(report, corners, capture, "content")
    named = sections(structured)
    assert [name for name, _ in named] == ["Impressions", "Findings", "Imaging Measurements", "Recommendations"]
    lines = dict(named)
    assert lines["Impressions"] == report["impression"] and lines["Impressions"][0].startswith(
        "Urgent: possible pneumo"
    )
    assert lines["Findings"] == [
        "Urgent: Possible pneumothorax in the left lower zone. Box 1.",
        "Very probable interstitial lung disease, without a box.",
        "Possible calcification in the left lower zone, seen by the detector alone. Box 2.",
    ]
    advice = lines["Recommendations"]
    assert [line.split(",")[0] for line in advice] == ["Pneumothorax", "ILD", "Calcification"]
    assert all("in general, not of this patient" in line and " Sources: http" in line for line in advice)
    assert not any(knowledge.treatment_options["Pneumothorax"] in line for line in lines["Findings"])

    measured = next(item for item in structured.ContentSequence if meaning(item) == "Imaging Measurements")
    groups = [
        {
            meaning(item): item.ConceptCodeSequence[0].CodeMeaning
            for item in group.ContentSequence
            if item.ValueType == "CODE"
        }
        for group in measured.ContentSequence
    ]
    assert [group["Finding"] for group in groups] == ["Pneumothorax", "Pneumothorax", "ILD", "Calcification"]
    assert [group["Certainty"] for group in groups] == ["possible", "possible", "very probable", "possible"]
    assert ["Urgency" in group for group in groups] == [True, True, False, False]


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian package dicom3tools) is not installed")
def test_dciodvfy_finds_no_error(predicted):
    for name in ("one_overlay.dcm", "one_report.dcm"):
        result = subprocess.run(["dciodvfy", str(predicted[1] / name)], capture_output=True, text=True)
        assert "Error" not in result.stderr + result.stdout, result.stderr


def test_uids_repeat_and_say_nothing():
    first = dicom_objects.uid("abc", "overlay")
    assert first == dicom_objects.uid("abc", "overlay") != dicom_objects.uid("abd", "overlay")
    assert len(first) <= 64 and "abc" not in first
