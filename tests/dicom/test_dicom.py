"""DICOM: one picture saved in every way scanners save it must load as one picture; broken files say why."""

import base64
import io
import json
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLSLossless,
    RLELossless,
)
from scipy.ndimage import gaussian_filter

from cliniqure_utils import dicom
from cliniqure_utils.dicom.archive import run_guarded
from cliniqure_utils.dicom.pixels import decode_pixels, stream_facts

SHARED = Path(__file__).parents[3] / "shared" / "cases"
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


def test_values_in_the_upper_bits_and_headers_with_too_few_bits_do_not_turn_into_noise(tmp_path):
    plain = dicom.load_cxr(write(tmp_path / "plain.dcm", WindowCenter=2048, WindowWidth=4096))
    upper = dicom.load_cxr(write(tmp_path / "upper.dcm", RAMP << 4, HighBit=15, WindowCenter=2048, WindowWidth=4096))
    np.testing.assert_array_equal(upper, plain)
    with pytest.warns(UserWarning, match="wide.dcm: pixels use more than the 12 bits"):
        wide = dicom.load_cxr(write(tmp_path / "wide.dcm", RAMP * 8))
    np.testing.assert_allclose(wide, RAMP / 4095, atol=1e-5)


@pytest.mark.parametrize("bits", [12, 16])
def test_signed_values(tmp_path, bits):
    values = (RAMP.astype(int) - 2048).astype(np.int16)
    image = dicom.load_cxr(
        write(tmp_path / "a.dcm", values, PixelRepresentation=1, BitsStored=bits, HighBit=bits - 1, WindowCenter=0,
              WindowWidth=2000)
    )  # fmt: skip
    np.testing.assert_allclose(image, np.clip((values + 0.5) / 1999 + 0.5, 0, 1), atol=1e-5)
    unextended = dicom.load_cxr(
        write(
            tmp_path / "b.dcm", values.view(np.uint16) & 0xFFF, PixelRepresentation=1, WindowCenter=0, WindowWidth=2000
        )
    )  # the sign in bit 11 only
    np.testing.assert_allclose(unextended, image, atol=1e-6)


def test_rescale_comes_before_the_window(tmp_path):
    path = write(tmp_path / "a.dcm", RescaleSlope=2, RescaleIntercept=-100, WindowCenter=4000, WindowWidth=3000)
    values = RAMP * 2.0 - 100
    np.testing.assert_allclose(dicom.load_cxr(path), np.clip((values - 3999.5) / 2999 + 0.5, 0, 1), atol=1e-5)
    inverse = dicom.load_cxr(write(tmp_path / "b.dcm", RescaleSlope=-1, RescaleIntercept=4095))
    np.testing.assert_allclose(inverse, 1 - RAMP / 4095, atol=1e-5)


def test_window_functions(tmp_path):
    def load(function):
        return dicom.load_cxr(write(tmp_path / "a.dcm", WindowCenter=2000, WindowWidth=1000, VOILUTFunction=function))

    np.testing.assert_allclose(load("LINEAR_EXACT"), np.clip((RAMP - 2000.0) / 1000 + 0.5, 0, 1), atol=1e-5)
    np.testing.assert_allclose(load("SIGMOID"), 1 / (1 + np.exp(-4 * (RAMP - 2000.0) / 1000)), atol=1e-5)


def test_the_first_usable_window_of_several_is_taken(tmp_path):
    several = dicom.load_cxr(write(tmp_path / "a.dcm", WindowCenter=[900, 2000, 1], WindowWidth=[0, 3000, 2]))
    one = dicom.load_cxr(write(tmp_path / "b.dcm", WindowCenter=2000, WindowWidth=3000))
    np.testing.assert_array_equal(several, one)
    with pytest.warns(UserWarning, match="unusable window"):  # it lies far above every pixel
        off = dicom.load_cxr(write(tmp_path / "c.dcm", WindowCenter=20000, WindowWidth=100))
    np.testing.assert_allclose(off, RAMP / 4095, atol=1e-5)


def with_lut(path, descriptor, entries, **tags):
    item = Dataset()
    item.LUTDescriptor = descriptor
    item["LUTDescriptor"].VR = "US"
    item.add_new("LUTData", "OW", np.asarray(entries, "<u2").tobytes())
    data = pydicom.dcmread(write(path, **tags))
    data.VOILUTSequence = [item]
    data.save_as(path)
    return path


def test_lookup_table(tmp_path):
    curve = np.rint(np.sqrt(np.arange(4096) / 4095) * 1023)
    wanted = curve[RAMP] / 1023
    told = dicom.load_cxr(with_lut(tmp_path / "a.dcm", [4096, 0, 10], curve, WindowCenter=1, WindowWidth=9))
    np.testing.assert_allclose(told, wanted, atol=1e-5, err_msg="the table comes before the window")
    # 10 bits announced as 16: a literal reading gives a film of at most 1.6 % grey.
    np.testing.assert_allclose(dicom.load_cxr(with_lut(tmp_path / "b.dcm", [4096, 0, 16], curve)), wanted, atol=1e-5)
    for entries in (curve[:10], curve * 0):
        with pytest.warns(UserWarning, match="c.dcm: unusable VOI LUT"):
            image = dicom.load_cxr(with_lut(tmp_path / "c.dcm", [4096, 0, 10], entries))
        np.testing.assert_allclose(image, RAMP / 4095, atol=1e-5)


def test_percentiles_are_those_of_the_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 4096, (40, 30)).astype(np.uint16) // 7 * 7
    image = dicom.load_cxr(write(tmp_path / "a.dcm", pixels), percentiles=(3, 88.5))
    low, high = np.percentile(pixels, (3, 88.5))
    np.testing.assert_allclose(image, np.clip((pixels - low) / (high - low), 0, 1), atol=1e-6)


def test_shrinking_by_an_odd_factor_keeps_areas_and_the_mean(tmp_path):
    image = dicom.load_cxr(write(tmp_path / "a.dcm"))
    small = dicom.load_cxr(tmp_path / "a.dcm", size=40)  # 64 x 48 -> 40 x 30: each pixel covers 1.6
    fine = np.repeat(np.repeat(image.astype(float), 5, 0), 5, 1)  # 8 by 8 of these make one new pixel
    np.testing.assert_allclose(small, fine.reshape(40, 8, 30, 8).mean((1, 3)), atol=1e-6)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_compressed_streams_padded_and_cut(tmp_path, syntax):
    path = write(
        tmp_path / "a.dcm", np.random.default_rng(0).integers(0, 4096, (64, 48)).astype(np.uint16), syntax=syntax
    )
    whole, data = dicom.load_cxr(path), pydicom.dcmread(path)
    frame = get_frame(data.PixelData, 0, number_of_frames=1)
    for stream, readable in ((frame + bytes(10), True), (frame[: len(frame) // 2], False), (frame[:-40], False)):
        data.PixelData = encapsulate([stream])
        data["PixelData"].is_undefined_length = True
        data.save_as(path)
        if readable:
            np.testing.assert_array_equal(dicom.load_cxr(path), whole)
        else:
            with pytest.raises(dicom.UnreadableImage, match="a.dcm"):
                dicom.load_cxr(path)


def test_big_endian(tmp_path):
    from pydicom.uid import ExplicitVRBigEndian

    data = Dataset()
    for element in pydicom.dcmread(write(tmp_path / "little.dcm")):
        data.add(element)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = "1.2.3", "1.2.3"
    data.PixelData = RAMP.astype(">u2").tobytes()
    data.save_as(tmp_path / "big.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(dicom.load_cxr(tmp_path / "big.dcm"), dicom.load_cxr(tmp_path / "little.dcm"))


@pytest.mark.parametrize(
    "missing", ["SamplesPerPixel", "PixelRepresentation", "BitsStored", "BitsAllocated", "HighBit"]
)
def test_a_missing_tag_that_leaves_no_doubt(tmp_path, missing):
    path = write(tmp_path / "a.dcm")
    data = pydicom.dcmread(path)
    delattr(data, missing)
    data.save_as(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_allclose(dicom.load_cxr(path), RAMP / 4095, atol=1e-5)


def test_patients_and_identifiers_leave_as_hashes_only(tmp_path):
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


def test_two_files_with_one_image_id(tmp_path):
    for folder, pixels in (("one", RAMP), ("two", 4095 - RAMP)):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "film.dcm", pixels)
    paths = [tmp_path / folder / "film.dcm" for folder in ("one", "two")]
    index, rejected = dicom.convert_archive(paths, tmp_path / "out", 32, n_jobs=2)
    assert index.image_id.tolist() == ["film"] and "second file" in rejected.reason[0]
    kept = np.asarray(Image.open(tmp_path / "out" / "film.png"))
    assert kept[0, 0] < kept[-1, -1], "the first file is the one that is kept"


def test_a_film_that_changed_is_converted_again_and_one_that_broke_loses_its_picture(tmp_path):
    path, out = tmp_path / "a.dcm", tmp_path / "out"
    write(path, WindowWidth=0, WindowCenter=5)
    index, _ = dicom.convert_archive([path], out, 32, n_jobs=1)
    assert "unusable window" in index.notes[0]
    before = np.asarray(Image.open(out / "a.png"))
    write(path, 4095 - RAMP)
    dicom.convert_archive([path], out, 32, n_jobs=1)
    assert (np.asarray(Image.open(out / "a.png")) != before).any()
    path.write_bytes(path.read_bytes()[:-3000])
    index, rejected = dicom.convert_archive([path], out, 32, n_jobs=1)
    assert index.empty and len(rejected) == 1 and not (out / "a.png").exists()


def test_pictures(tmp_path):
    Image.fromarray((RAMP // 16).astype(np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(RAMP).save(tmp_path / "b.png")
    assert dicom.load_cxr(tmp_path / "a.png").max() == 1
    assert dicom.load_cxr(tmp_path / "b.png").max() == 1, "12 bits in a 16-bit PNG are not a black film"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "c.png")
    with pytest.raises(dicom.UnreadableImage, match="colour"):
        dicom.load_cxr(tmp_path / "c.png")


def change(path, target, stream=None, **tags):
    """A copy of a file with other header values, and another compressed stream."""
    data = pydicom.dcmread(path)
    for name, value in tags.items():
        setattr(data, name, value)
    if stream is not None:
        data.PixelData = encapsulate([stream])
        data["PixelData"].is_undefined_length = True
    data.save_as(target)
    return target


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize("tags, reason", [
    ({"Rows": 48, "Columns": 64}, "stream holds 48 x 64 pixels, the header announces 64 x 48"),
    ({"Rows": 32}, "announces 48 x 32"),
    ({"Columns": 96}, "announces 96 x 64"),
    ({"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}, "12-bit values, the header has room for 8 bits"),
])  # fmt: skip
def test_a_stream_that_is_not_what_the_header_says_never_becomes_noise(tmp_path, syntax, tags, reason):
    path = change(write(tmp_path / "a.dcm", syntax=syntax), tmp_path / "b.dcm", **tags)
    with pytest.raises(dicom.UnreadableImage, match=f"b.dcm: .*{reason}"):
        dicom.load_cxr(path)


@pytest.mark.parametrize("real", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize("declared", [RLELossless, JPEG2000Lossless, JPEGLSLossless, JPEGBaseline8Bit, JPEGLossless])
def test_compressed_pixels_declared_as_another_kind_are_refused(tmp_path, real, declared):
    data = pydicom.dcmread(write(tmp_path / "a.dcm", syntax=real))
    data.file_meta.TransferSyntaxUID = declared
    data.save_as(tmp_path / "a.dcm")
    if real == declared:
        np.testing.assert_allclose(dicom.load_cxr(tmp_path / "a.dcm"), RAMP / 4095, atol=1e-6)
    else:
        with pytest.raises(dicom.UnreadableImage, match=f"a.dcm: .*declared as|decoded as {declared.name}"):
            dicom.load_cxr(tmp_path / "a.dcm")


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_a_header_with_too_few_bits_does_not_spoil_a_compressed_film(tmp_path, syntax):
    path = change(write(tmp_path / "a.dcm", syntax=syntax), tmp_path / "b.dcm", BitsStored=10, HighBit=9)
    with pytest.warns(UserWarning, match="b.dcm: pixels use more than the 10 bits"):
        image = dicom.load_cxr(path)
    np.testing.assert_allclose(image, RAMP / 4095, atol=1e-6)


def test_run_length_data_with_more_rows_than_announced(tmp_path):
    path = change(write(tmp_path / "a.dcm", syntax=RLELossless), tmp_path / "b.dcm", Rows=32)
    with pytest.raises(dicom.UnreadableImage, match="more pixels than the header announces"):
        dicom.load_cxr(path)


def gdcm_compress(path, target, syntax):
    gdcm = pytest.importorskip("gdcm")
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    changer = gdcm.ImageChangeTransferSyntax()
    changer.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    changer.SetInput(reader.GetImage())
    assert changer.Change()
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetImage(changer.GetOutput())
    writer.SetFileName(str(target))
    assert writer.Write()
    return target


@pytest.mark.parametrize("syntax", ["JPEGLosslessProcess14", "JPEGLosslessProcess14_1"])
def test_lossless_jpeg(tmp_path, syntax):
    path = gdcm_compress(write(tmp_path / "a.dcm"), tmp_path / "b.dcm", syntax)
    assert "JPEG Lossless" in dicom.read_header(path)["transfer_syntax"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # 16 bits in the stream for 12 in the header are usual here
        np.testing.assert_allclose(dicom.load_cxr(path), RAMP / 4095, atol=1e-6)
    with pytest.raises(dicom.UnreadableImage, match="announces 48 x 63"):
        dicom.load_cxr(change(path, tmp_path / "c.dcm", Rows=63))


def test_baseline_jpeg(tmp_path):
    grey = (RAMP // 16).astype(np.uint8)
    stream, colours = io.BytesIO(), io.BytesIO()
    Image.fromarray(grey).save(stream, "JPEG", quality=95)
    Image.fromarray(np.stack([grey] * 3, 2)).save(colours, "JPEG")
    path = write(tmp_path / "a.dcm", syntax=JPEGLSLossless)
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
    data.save_as(path)
    image = dicom.load_cxr(change(path, tmp_path / "b.dcm", stream.getvalue()))
    np.testing.assert_allclose(image, grey / 255, atol=4 / 255)
    with pytest.raises(dicom.UnreadableImage, match="colour"):
        dicom.load_cxr(change(path, tmp_path / "c.dcm", colours.getvalue()))


@pytest.mark.parametrize("name, family, bits", [
    ("JPEG2000.dcm", "JPEG 2000", 16), ("MR_small_jp2klossless.dcm", "JPEG 2000", 16),
    ("MR_small_jpeg_ls_lossless.dcm", "JPEG-LS", 16), ("JPEGLSNearLossless_08.dcm", "JPEG-LS", 8),
    ("JPEG-lossy.dcm", "JPEG", 12), ("SC_rgb_jpeg_gdcm.dcm", "JPEG", 8),
])  # fmt: skip
def test_stream_headers_of_foreign_files(name, family, bits):
    from pydicom.data import get_testdata_file

    data = pydicom.dcmread(get_testdata_file(name, download=False))
    frame = get_frame(data.PixelData, 0, number_of_frames=1)
    facts = stream_facts(frame)
    assert (facts["family"], facts["bits"]) == (family, bits)
    assert (facts["rows"], facts["columns"], facts["components"]) == (data.Rows, data.Columns, data.SamplesPerPixel)
    for length in range(12):
        assert stream_facts(frame[:length]) is None, "a stream that ends inside its header says nothing"


def test_a_film_that_ends_its_worker_is_refused_and_the_others_are_converted():
    paths = [Path(f"film{k:02d}.dcm") for k in range(40)]

    def work(path):  # a local function: workers get a copy and need not import this file
        if path.stem in ("film05", "film33"):
            os.abort()
        return path, {"image_id": path.stem}, None

    out = list(run_guarded(work, paths, n_jobs=2))
    assert [path for path, _, _ in out] == paths
    assert {path.stem: reason for path, _, reason in out if reason} == {
        name: f"{name}.dcm: the decoder ended the worker process; the file is damaged" for name in ("film05", "film33")
    }


def test_file_names_that_cannot_be_used_are_rows_of_the_rejected_table(tmp_path):
    good = write(tmp_path / "good.dcm")
    long = write(tmp_path / f"{'x' * 240}.dcm")
    paths = [long, good]
    try:
        no_text = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.dcm"))
        no_text.write_bytes(good.read_bytes())
        paths.append(no_text)
    except (OSError, UnicodeError):
        no_text = None  # a file system that takes text only
    index, rejected = dicom.convert_archive(paths, tmp_path / "out", 32, n_jobs=1)
    assert index.image_id.tolist() == ["good"]
    assert rejected.image_id.tolist() == ["x" * 240] + (["bad\\udcff"] if no_text else [])
    assert rejected.reason.str.contains("cannot be a file name").all()


@pytest.mark.parametrize("damage", ["note", "picture"])
def test_a_damaged_cache_is_made_again(tmp_path, damage):
    path, out = write(tmp_path / "a.dcm"), tmp_path / "out"
    dicom.convert_archive([path], out, 32, n_jobs=1)
    whole = (out / "a.png").read_bytes()
    if damage == "note":
        (out / ".facts" / "a.json").write_text('{"stamp": ')
    else:
        (out / "a.png").write_bytes(whole[:40])
    index, rejected = dicom.convert_archive([path], out, 32, n_jobs=1)
    assert len(index) == 1 and rejected.empty and (out / "a.png").read_bytes() == whole


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


@NO_SHARED
def test_shared_probes_of_the_window():
    for case, name, key in (("C02", "mono2_win", "probe"), ("C03", "twelve_in_sixteen", "probe_if_windowed")):
        stored = pydicom.dcmread(SHARED / case / f"{name}.dicom").pixel_array
        (image,) = shared(case, name)
        for probe in json.loads((SHARED / case / "expected.json").read_text())[key]:
            at = np.unravel_index(np.abs(stored.astype(int) - probe["stored"]).argmin(), stored.shape)
            if stored[at] == probe["stored"]:
                assert abs(image[at] * 255 - probe["u8"]) <= 1
        order = np.argsort(stored, axis=None)
        assert (np.diff(image.ravel()[order]) >= 0).all() and len(np.unique(np.rint(image * 255))) >= 100


@NO_SHARED
@pytest.mark.parametrize("case", ["C01", "C02", "C03", "C06", "C10", "C13", "C14"])
def test_shared_films_have_a_bright_spine_and_marker_and_dark_lungs(case):
    expected = json.loads((SHARED / case / "expected.json").read_text())
    for name in expected["files"]:
        (image,) = shared(case, name.removesuffix(".dicom"))

        def mean(key, image=image):
            x0, y0, x1, y1 = expected[key]
            return image[y0:y1, x0:x1].mean()

        assert list(image.shape) == expected["shape"]
        assert mean("brighter_box") > mean("darker_box") and mean("marker_box_bright") > 0.6


@NO_SHARED
def test_shared_identical_films_are_reported_and_stay_together(tmp_path):
    expected = json.loads((SHARED / "C24" / "expected.json").read_text())
    with pytest.warns(UserWarning, match="share the unique identifier"):
        index, _ = dicom.convert_archive(sorted((SHARED / "C24").glob("*.dicom")), tmp_path, 64, n_jobs=1)
    assert len(index) == expected["n_out"] == len(list(tmp_path.glob("*.png")))
    twins = index[index.same_pixels_as != ""]
    assert {*twins.image_id, *twins.same_pixels_as} == set(expected["identical_pixels"])


@NO_SHARED
def test_shared_awkward_names(tmp_path):
    paths = [p for p in (SHARED / "C25").iterdir() if p.suffix.lower() in dicom.EXTENSIONS]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        index, rejected = dicom.convert_archive(paths, tmp_path, 64, n_jobs=1)
    stems = json.loads((SHARED / "C25" / "expected.json").read_text())["stems"]
    assert sorted(index.image_id) == sorted(stems) and rejected.empty
    assert all((tmp_path / f"{stem}.png").is_file() for stem in stems)


# RAMP as a High-Throughput JPEG 2000 stream of 16 bits, made with OpenJPH (imagecodecs 2026.3.6, reversible).
HTJ2K = (
    "/0//UQApQAAAAAAwAAAAQAAAAAAAAAAAAAAAMAAAAEAAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCIkJCQkJCQkJCQ"
    "kJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAZoAAf+TwAArAAEAt+2l/1vaAsM0AMAAEcAAE4AbcwAiKZIAw1QAwAAVUAAF"
    "UCACIP4A/y575gCQhASSwClAjLYAwAAWlAABaAAAEoAEIAFIAElCyULJQqKx6wBGGjFixIiR/AAg9kIB7LkAwAAXXQAAW4AAKAAKgAKgACgACoAC"
    "oAkoXqFkoXqFkoXqFkoXqFkoXqFkoXqFkoXqFlYDEeACHj08PDw8PDw8PDw8/v9ygxge/Yxge/Yxgey/AMAAL6WgABdbAACYAAAAAAAAAAAAAAAA"
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA0heoXqF6hdIXqF6heoXSF6heoXqF0heoXqF6hdIXqF6heoXSF6heoXqF0heoXqF6hdIXqF6heoXSF6h"
    "eoXqF0heoXqF6hdIXqF6heoXSF6heoXqF0heoXqF6hdIXqF6heoXSF6heoXqFtgMQGIDEeIHft/3fd/3fd/3fd/3fd/3fd/3/398BCB79hCB79hC"
    "B79hCB79hCB79hCB7LsB/v9/lEUA/9k="
)


def film_like(rows=900, columns=700):
    """Smooth shapes, the blurred edges of bones and noise, 12 bits."""
    y, x = np.mgrid[:rows, :columns]
    edges = gaussian_filter(400.0 * ((x // 150 + y // 200) % 2), 2)
    grey = 1900 + 1300 * np.sin(x / 90) * np.cos(y / 120) + edges
    noise = np.random.default_rng(3).normal(0, 12, grey.shape)
    return np.clip(np.rint(grey + noise), 0, 4095).astype(np.uint16)


def test_high_throughput_jpeg_2000(tmp_path):
    data = pydicom.dcmread(write(tmp_path / "a.dcm", BitsStored=16, HighBit=15, WindowCenter=2048, WindowWidth=4096))
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.201"
    data.PixelData = encapsulate([base64.b64decode(HTJ2K)])
    data["PixelData"].is_undefined_length = True
    data.save_as(tmp_path / "ht.dcm")
    np.testing.assert_array_equal(dicom.load_cxr(tmp_path / "ht.dcm"), dicom.load_cxr(tmp_path / "a.dcm"))
    half = dicom.load_cxr(tmp_path / "ht.dcm", size=32)
    np.testing.assert_allclose(half, dicom.load_cxr(tmp_path / "a.dcm", size=32), atol=0.01)


def test_jpeg_extended_of_12_bits():
    from pydicom.data import get_testdata_file

    path = Path(get_testdata_file("JPEG-lossy.dcm", download=False))  # comes with pydicom
    stored, _ = decode_pixels(path, pydicom.dcmread(path), [])
    # libjpeg-turbo (imagecodecs 2026.3.6) on the same stream gives these.
    assert (stored.shape, int(stored.max()), int(stored.sum())) == ((1024, 256), 264, 3767007)
    assert dicom.load_cxr(path).shape == (1024, 256)


@pytest.mark.parametrize(
    "size, halvings", [(1000, 0), (900, 0), (361, 0), (360, 1), (181, 1), (180, 2), (91, 2), (90, 3), (20, 3)]
)
def test_jpeg_2000_is_decoded_no_finer_than_needed(tmp_path, size, halvings):
    path = write(tmp_path / "a.dcm", film_like(), syntax=JPEG2000Lossless, WindowCenter=2000, WindowWidth=3800)
    stored, found = decode_pixels(path, pydicom.dcmread(path), [], longest_side=size)
    assert found == halvings  # of 900, 450, 225 and 113 pixels the smallest that has a quarter more than asked
    assert stored.shape == (-(-900 // 2**halvings), -(-700 // 2**halvings))


@pytest.mark.parametrize("size", [360, 300, 225, 180, 100, 90, 56])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_jpeg_2000_by_levels_looks_like_the_full_decode(tmp_path, size, photometric):
    window = dict(photometric=photometric, WindowCenter=2000, WindowWidth=3800)
    for pixels in (film_like(), film_like(901, 703)):
        whole = dicom.load_cxr(write(tmp_path / "plain.dcm", pixels, **window), size)
        levels = dicom.load_cxr(write(tmp_path / "packed.dcm", pixels, syntax=JPEG2000Lossless, **window), size)
        assert levels.shape == whole.shape
        assert np.mean((levels - whole) ** 2) < 10**-4.5, "45 decibel"


@pytest.mark.parametrize(
    "tags, percentiles",
    [({}, None), ({"WindowCenter": 9, "WindowWidth": 0}, None), ({"WindowCenter": 2000, "WindowWidth": 3800}, (1, 99)),
     ({"WindowCenter": 2000, "WindowWidth": 3800, "PixelPaddingValue": 4095}, None)],
)  # fmt: skip
def test_jpeg_2000_is_decoded_in_full_where_single_pixels_matter(tmp_path, tags, percentiles):
    pixels = film_like()
    pixels[:5, :5], pixels[400, 300] = 4095, 4000  # one bright pixel sets the full range
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        plain = dicom.load_cxr(write(tmp_path / "plain.dcm", pixels, **tags), 100, percentiles)
        packed = dicom.load_cxr(
            write(tmp_path / "packed.dcm", pixels, syntax=JPEG2000Lossless, **tags), 100, percentiles
        )
    np.testing.assert_array_equal(packed, plain)


@pytest.mark.parametrize("old, new", [((64, 48), 40), ((61, 47), 60), ((97, 31), 7), ((30, 200), 33)])
@pytest.mark.parametrize("kind", ["u1", "u2", "i2", "u4", "i4"])
def test_every_kind_of_pixel_shrinks_by_areas(tmp_path, old, new, kind):
    """Against areas worked out pixel by pixel from a picture enlarged so that every border falls on a pixel's."""
    pixels = np.random.default_rng(1).integers(0, 200, old).astype(kind) - (100 if kind[0] == "i" else 0)
    bits = 8 * pixels.dtype.itemsize
    path = write(
        tmp_path / "a.dcm", BitsAllocated=bits, BitsStored=bits, HighBit=bits - 1, Rows=old[0], Columns=old[1],
        PixelRepresentation=int(kind[0] == "i"), PixelData=pixels.tobytes() + b"\0" * (pixels.nbytes % 2),
    )  # fmt: skip
    grey = (pixels - float(pixels.min())) / float(np.ptp(pixels.astype(int)))
    height, width = (max(1, round(side * new / max(old))) for side in old)
    fine = np.repeat(np.repeat(grey, height, 0), width, 1).reshape(height, old[0], width, old[1]).mean((1, 3))
    np.testing.assert_allclose(dicom.load_cxr(path, new), fine, atol=2e-6)


def test_a_dask_cluster_converts_what_one_process_converts(tmp_path):
    from dask.distributed import Client, LocalCluster
    from joblib import parallel_config

    rng = np.random.default_rng(5)
    paths = [
        write(tmp_path / f"f{n}.dcm", rng.integers(0, 4096, (64, 48)).astype(np.uint16), uid=f"1.2.{n}")
        for n in range(40)
    ]
    paths.insert(7, tmp_path / "broken.dcm")
    paths[7].write_bytes(b"no film")
    one = dicom.convert_archive(paths, tmp_path / "one", 32, n_jobs=1)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster),
        parallel_config(backend="dask"),
    ):
        spread = dicom.convert_archive(paths, tmp_path / "spread", 32, n_jobs=-1)
    for found, wanted in zip(spread, one, strict=True):
        pd.testing.assert_frame_equal(found, wanted)
    assert len(one[0]) == 40 and one[1].source.tolist() == ["broken.dcm"]
    for picture in (tmp_path / "one").glob("*.png"):
        assert (tmp_path / "spread" / picture.name).read_bytes() == picture.read_bytes()
