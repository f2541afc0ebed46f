"""What leaves a header: facts, hashes and exact names, never an identity."""

import json
import warnings

import numpy as np
import pydicom
import pytest

from cliniqure_utils import dicom

RAMP = np.linspace(0, 4095, 64 * 48).reshape(64, 48).astype(np.uint16)  # 12 bits, dark to bright


@pytest.mark.parametrize("tag, years", [("000Y", None), ("045Y", 45), ("018M", 1.5), ("", None), ("ABCD", None)])
def test_ages(write, tmp_path, tag, years):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = dicom.read_header(write(tmp_path / "a.dcm", PatientAge=tag, PatientSex="m", PatientID="Mrs Miller"))
    assert header["age_years"] == years and header["sex"] == "M"
    assert "Miller" not in json.dumps(header), "no identity leaves the file"


@pytest.mark.parametrize(
    "missing", ["SamplesPerPixel", "PixelRepresentation", "BitsStored", "BitsAllocated", "HighBit"]
)
def test_a_missing_tag_that_leaves_no_doubt(write, tmp_path, missing):
    path = write(tmp_path / "a.dcm")
    data = pydicom.dcmread(path)
    delattr(data, missing)
    data.save_as(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_allclose(dicom.load_cxr(path), RAMP / 4095, atol=1e-5)


def test_patients_and_identifiers_leave_as_hashes_only(write, tmp_path):
    secret = "1.2.840.20240131.77"
    header = dicom.read_header(write(tmp_path / "a.dcm", PatientID="K-4711", PatientName="Doe^Jane", uid=secret))
    text = json.dumps(header)
    assert not any(word in text for word in ("4711", "Doe", "Jane", "20240131"))
    same = dicom.read_header(write(tmp_path / "b.dcm", PatientID="K-4711"))
    assert same["patient_key"] == header["patient_key"] and len(header["patient_key"]) == 16
    for name in ("", "ANONYMOUS", "unknown", "0"):  # what anonymisers write for everybody is nobody
        assert dicom.read_header(write(tmp_path / "c.dcm", PatientID=name))["patient_key"] is None


def test_exact_stems():
    assert dicom.image_id_of("x/a.b.c.dicom") == "a.b.c" and dicom.image_id_of("1.2.840.113") == "1.2.840.113"
    assert dicom.image_id_of(" lead space.DCM") == " lead space"
