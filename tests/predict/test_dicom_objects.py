"""DICOM objects of a report: they read back, keep to the standard, and repeat."""

import json
import shutil
import subprocess

import numpy as np
import pydicom
import pytest
from PIL import Image

from cliniqure_utils.predict import dicom_objects
from cliniqure_utils.reports import clean_field
from cliniqure_utils.vocabulary import DISCLAIMER


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
    assert texts[0].startswith(DISCLAIMER) and report["report"]["facts"] in texts
    assert clean_field(report["report"]["text"]) in texts  # any character that the model wrote


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian package dicom3tools) is not installed")
def test_dciodvfy_finds_no_error(predicted):
    for name in ("one_overlay.dcm", "one_report.dcm"):
        result = subprocess.run(["dciodvfy", str(predicted[1] / name)], capture_output=True, text=True)
        assert "Error" not in result.stderr + result.stdout, result.stderr


def test_uids_repeat_and_say_nothing():
    first = dicom_objects.uid("abc", "overlay")
    assert first == dicom_objects.uid("abc", "overlay") != dicom_objects.uid("abd", "overlay")
    assert len(first) <= 64 and "abc" not in first
