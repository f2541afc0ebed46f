"""Files that cannot be used say why and which; pictures load like DICOM files."""

import numpy as np
import pydicom
import pytest
from PIL import Image

from cliniqure_utils import dicom

RAMP = np.linspace(0, 4095, 64 * 48).reshape(64, 48).astype(np.uint16)  # 12 bits, dark to bright


def cut(write, tmp_path, **changes):
    path = write(tmp_path / "bad.dcm")
    data = pydicom.dcmread(path)
    for name, value in changes.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    data.save_as(path)
    return path


@pytest.mark.parametrize("changes, reason", [
    ({"PixelData": None}, "missing"),
    ({"PixelData": b""}, "missing"),
    ({"PixelData": RAMP.tobytes()[:2000]}, "cut short"),
    ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "colour"),
    ({"NumberOfFrames": 2}, "frames"),
    ({"Rows": 60000, "Columns": 60000}, "more than any film"),
    ({"Rows": 1, "Columns": 3072}, "strip"),
    ({"PixelData": np.full(64 * 48, 7, "<u2").tobytes()}, "every pixel"),
])  # fmt: skip
def test_unusable_files_say_why_and_which(write, tmp_path, changes, reason):
    path = cut(write, tmp_path, **changes)
    with pytest.raises(dicom.UnreadableImage, match=reason) as error:
        dicom.load_cxr(path)
    assert "bad.dcm" in str(error.value)


def test_not_a_dicom_file_and_no_file(tmp_path):
    (tmp_path / "text.dcm").write_text("hello" * 100)
    for name, reason in (("text.dcm", "text.dcm"), ("none.dcm", "no such file")):
        with pytest.raises(dicom.UnreadableImage, match=reason):
            dicom.load_cxr(tmp_path / name)


def test_pictures(tmp_path):
    Image.fromarray((RAMP // 16).astype(np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(RAMP).save(tmp_path / "b.png")
    assert dicom.load_cxr(tmp_path / "a.png").max() == 1
    assert dicom.load_cxr(tmp_path / "b.png").max() == 1, "12 bits in a 16-bit PNG are not a black film"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "c.png")
    with pytest.raises(dicom.UnreadableImage, match="colour"):
        dicom.load_cxr(tmp_path / "c.png")


@pytest.mark.parametrize("changes, reason", [
    ({"FloatPixelData": RAMP.astype("<f4").tobytes()}, "floating-point numbers"),
    ({"DoubleFloatPixelData": RAMP.astype("<f8").tobytes()}, "floating-point numbers"),
    ({"SOPClassUID": "1.2.840.10008.1.3.10"}, "a DICOMDIR, which lists the files of a medium"),
    ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.33"}, "no picture, but Comprehensive SR Storage"),
    ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1"}, "no picture, but Encapsulated PDF Storage"),
    ({"SOPClassUID": "1.2.3.4"}, "the pixel data are missing"),
    ({"PixelDataProviderURL": "http://server/film"}, "on a server"),
])  # fmt: skip
def test_a_file_without_pixels_says_what_it_is(write, tmp_path, changes, reason):
    with pytest.raises(dicom.UnreadableImage, match=f"bad.dcm: .*{reason}"):
        dicom.load_cxr(cut(write, tmp_path, PixelData=None, **changes))


def test_a_real_dicomdir_is_named():
    from pydicom.data import get_testdata_file

    with pytest.raises(dicom.UnreadableImage, match="DICOMDIR: a DICOMDIR"):
        dicom.load_cxr(get_testdata_file("DICOMDIR", download=False))
