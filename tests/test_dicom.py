"""DICOM: one picture saved in every way scanners save it must load as one picture; broken files say why."""

import json
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from cliniqure_utils import dicom

SHARED = Path(__file__).parents[2] / "shared" / "cases"
NO_SHARED = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared cases are not beside this checkout")
RAMP = np.linspace(0, 4095, 64 * 48).reshape(64, 48).astype(np.uint16)  # 12 bits, dark to bright


def write(path, pixels=RAMP, photometric="MONOCHROME2", syntax=None, **tags):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, tags.pop("uid", "1.2.3")
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PixelRepresentation = 1, 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PhotometricInterpretation = photometric
    data.PixelData = pixels.astype("<u2").tobytes()
    data["PixelData"].VR = "OW"
    for name, value in tags.items():
        setattr(data, name, value)
    if syntax is not None:
        data.compress(syntax, generate_instance_uid=False)
    data.save_as(path, enforce_file_format=True)
    return path


def test_polarity_does_not_change_the_picture(tmp_path):
    plain = dicom.load_cxr(write(tmp_path / "a.dcm"))
    assert plain.dtype == np.float32 and plain[0, 0] == 0 and plain[-1, -1] == 1
    mirrored = dicom.load_cxr(write(tmp_path / "b.dcm", 4095 - RAMP, "MONOCHROME1"))
    np.testing.assert_allclose(mirrored, plain, atol=1e-6)


def test_window_comes_before_polarity(tmp_path):
    plain = dicom.load_cxr(write(tmp_path / "a.dcm", WindowCenter=1200, WindowWidth=800))
    mirrored = dicom.load_cxr(write(tmp_path / "b.dcm", 4095 - RAMP, "MONOCHROME1", WindowCenter=2896, WindowWidth=800))
    np.testing.assert_allclose(plain, mirrored, atol=2 / 255)
    # PS3.3 C.11.2.1.2.1: value 1200 lies at (1200 - 1199.5) / 799 + 0.5
    position = np.unravel_index(np.abs(RAMP.astype(int) - 1200).argmin(), RAMP.shape)
    expected = (float(RAMP[position]) - 1199.5) / 799 + 0.5
    assert plain[position] == pytest.approx(expected, abs=1e-5)


UNUSABLE_WINDOWS = [
    {"WindowCenter": 2000, "WindowWidth": 0},
    {"WindowCenter": 2000},
    {"WindowCenter": 2000, "WindowWidth": -5},
    {"WindowCenter": "", "WindowWidth": ""},
]


@pytest.mark.parametrize("window", UNUSABLE_WINDOWS)
def test_unusable_windows_fall_back_to_the_full_range_with_a_warning(tmp_path, window):
    path = write(tmp_path / "odd.dcm", **window)
    with pytest.warns(UserWarning, match="odd.dcm: unusable window"):
        image = dicom.load_cxr(path)
    np.testing.assert_allclose(image, RAMP / 4095, atol=1e-5)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_lossless_compression_changes_nothing(tmp_path, syntax):
    packed = dicom.load_cxr(write(tmp_path / "packed.dcm", syntax=syntax))
    np.testing.assert_array_equal(packed, dicom.load_cxr(write(tmp_path / "plain.dcm")))


def test_padding_is_left_out_of_the_range_and_black(tmp_path):
    pixels = np.clip(RAMP, 1000, 3000)
    pixels[:8] = 4095
    image = dicom.load_cxr(write(tmp_path / "a.dcm", pixels, PixelPaddingValue=4095))
    assert (image[:8] == 0).all() and image[8:].max() == 1 and image[8:].min() == 0


def test_percentiles_clip_instead_of_the_window(tmp_path):
    image = dicom.load_cxr(write(tmp_path / "a.dcm", WindowCenter=1, WindowWidth=2), percentiles=(10, 90))
    assert np.isclose((image == 0).mean(), 0.1, atol=0.01) and np.isclose((image == 1).mean(), 0.1, atol=0.01)


def test_films_shrink_by_averaging_and_never_grow(tmp_path):
    path = write(tmp_path / "a.dcm")
    small = dicom.load_cxr(path, size=32)
    assert small.shape == (32, 24)
    full = dicom.load_cxr(path)
    np.testing.assert_allclose(small, full.reshape(32, 2, 24, 2).mean((1, 3)), atol=1e-5)
    assert dicom.load_cxr(path, size=1000).shape == (64, 48)


def cut(tmp_path, **changes):
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
def test_unusable_files_say_why_and_which(tmp_path, changes, reason):
    path = cut(tmp_path, **changes)
    with pytest.raises(dicom.UnreadableImage, match=reason) as error:
        dicom.load_cxr(path)
    assert "bad.dcm" in str(error.value)


def test_a_cut_jpeg_2000_stream_is_refused(tmp_path):
    from pydicom.encaps import encapsulate, get_frame

    path = write(tmp_path / "a.dcm", np.random.default_rng(0).integers(0, 4095, (64, 48), dtype=np.uint16),
                 syntax=JPEG2000Lossless)  # fmt: skip
    data = pydicom.dcmread(path)
    frame = get_frame(data.PixelData, 0, number_of_frames=1)
    data.PixelData = encapsulate([frame[: len(frame) // 2]])
    data.save_as(path)
    with pytest.raises(dicom.UnreadableImage):
        dicom.load_cxr(path)


def test_not_a_dicom_file_and_no_file(tmp_path):
    (tmp_path / "text.dcm").write_text("hello" * 100)
    for name, reason in (("text.dcm", "text.dcm"), ("none.dcm", "no such file")):
        with pytest.raises(dicom.UnreadableImage, match=reason):
            dicom.load_cxr(tmp_path / name)


@pytest.mark.parametrize("tag, years", [("000Y", None), ("045Y", 45), ("018M", 1.5), ("", None), ("ABCD", None)])
def test_ages(tmp_path, tag, years):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = dicom.read_header(write(tmp_path / "a.dcm", PatientAge=tag, PatientSex="m", PatientID="Mrs Miller"))
    assert header["age_years"] == years and header["sex"] == "M"
    assert "Miller" not in json.dumps(header), "no identity leaves the file"


def test_archive_keeps_going_resumes_and_lists_what_it_refused(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    names = ["a.b.c", " lead space", "tên ảnh 01", "x-ray (copy) #2"]
    for n, name in enumerate(names):
        write(source / f"{name}.dicom", uid=f"1.2.{n}", PatientID=f"P{n}")
    (source / "broken.dicom").write_bytes(b"nothing")
    paths = sorted(source.iterdir())
    index, rejected = dicom.convert_archive(paths, out, size=32, n_jobs=1)
    assert sorted(index.image_id) == sorted(names) and rejected.image_id.tolist() == ["broken"]
    assert {p.stem for p in out.glob("*.png")} == set(names)
    assert (index.height == 32).all() and (index.width == 24).all() and (index["rows"] == 64).all()
    assert index.patient_key.is_unique and not index.patient_key.str.startswith("P").any()
    with Image.open(out / "a.b.c.png") as image:
        assert image.mode == "L" and image.size == (24, 32)
    before = (out / "a.b.c.png").stat().st_mtime_ns
    (out / "tên ảnh 01.png").unlink()
    again, _ = dicom.convert_archive(paths, out, size=32, n_jobs=2)
    assert (out / "a.b.c.png").stat().st_mtime_ns == before, "what is there is kept"
    assert (out / "tên ảnh 01.png").is_file()
    assert again.image_id.tolist() == index.image_id.tolist()


def test_shared_identifiers_are_reported_and_nothing_is_overwritten(tmp_path):
    for name in ("one", "two"):
        write(tmp_path / f"{name}.dcm", uid="1.2.9")
    with pytest.warns(UserWarning, match="share the unique identifier"):
        index, _ = dicom.convert_archive(sorted(tmp_path.glob("*.dcm")), tmp_path / "out", 32, n_jobs=1)
    assert len(index) == 2 and index.duplicate_of.tolist() == ["", "one"]


def test_an_image_id_never_leaves_the_folder():
    for name in ("../x", "a/b", "a\\b", "", " ", "..", "a\0b"):
        assert not dicom.safe_name(name)
    assert dicom.safe_name("a.b.c")


def test_pictures(tmp_path):
    Image.fromarray((RAMP // 16).astype(np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(RAMP).save(tmp_path / "b.png")
    assert dicom.load_cxr(tmp_path / "a.png").max() == 1
    assert dicom.load_cxr(tmp_path / "b.png").max() == pytest.approx(4095 / 65535, abs=1e-4)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "c.png")
    with pytest.raises(dicom.UnreadableImage, match="colour"):
        dicom.load_cxr(tmp_path / "c.png")


def shared(case, *names):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [dicom.load_cxr(SHARED / case / f"{name}.dicom") for name in names]


@NO_SHARED
def test_shared_files_that_must_be_equal():
    for case, plain, others, tolerance in (
        ("C01", "mono2", ["mono1"], 2 / 255),
        ("C02", "mono2_win", ["mono1_win"], 2 / 255),
        ("C06", "plain", ["width_zero", "centre_only", "both_empty", "width_negative"], 3 / 255),
        ("C10", "plain", ["rle12"], 0),
        ("C13", "plain", ["no_preamble_implicit", "no_transfer_syntax"], 1 / 255),
        ("C14", "plain", ["no_photometric", "odd_case"], 1e-6),
    ):
        wanted, *found = shared(case, plain, *others)
        for image in found:
            np.testing.assert_allclose(image, wanted, atol=tolerance)


@NO_SHARED
@pytest.mark.parametrize("case", ["C11", "C12", "C20", "C28"])
def test_shared_broken_files_are_refused_and_the_good_one_loads(case, tmp_path):
    paths = sorted((SHARED / case).glob("*.dicom"))
    index, rejected = dicom.convert_archive(paths, tmp_path, 64, n_jobs=1)
    assert index.image_id.tolist() == ["good"]
    assert len(rejected) == len(paths) - 1 and (rejected.reason.str.len() > 10).all()


@NO_SHARED
def test_shared_ages_and_sexes():
    table = json.loads((SHARED / "C22" / "expected.json").read_text())["table"]
    for name, wanted in table.items():
        header = dicom.read_header(SHARED / "C22" / name)
        assert header["sex"] == wanted["sex"]
        if not isinstance(wanted["age_years"], str):
            assert header["age_years"] == wanted["age_years"]
