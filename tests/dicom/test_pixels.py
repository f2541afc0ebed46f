"""Every way to compress a film gives its pixels; a stream that is not what the header says never becomes noise."""

import base64
import io
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLSLossless,
    RLELossless,
)
from scipy.ndimage import gaussian_filter

from cliniqure_utils import dicom
from cliniqure_utils.dicom.pixels import decode_pixels, stream_facts

RAMP = np.linspace(0, 4095, 64 * 48).reshape(64, 48).astype(np.uint16)  # 12 bits, dark to bright


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_lossless_compression_changes_nothing(write, tmp_path, syntax):
    packed = dicom.load_cxr(write(tmp_path / "packed.dcm", syntax=syntax))
    np.testing.assert_array_equal(packed, dicom.load_cxr(write(tmp_path / "plain.dcm")))


def test_a_cut_jpeg_2000_stream_is_refused(write, tmp_path):
    from pydicom.encaps import encapsulate, get_frame

    path = write(tmp_path / "a.dcm", np.random.default_rng(0).integers(0, 4095, (64, 48), dtype=np.uint16),
                 syntax=JPEG2000Lossless)  # fmt: skip
    data = pydicom.dcmread(path)
    frame = get_frame(data.PixelData, 0, number_of_frames=1)
    data.PixelData = encapsulate([frame[: len(frame) // 2]])
    data.save_as(path)
    with pytest.raises(dicom.UnreadableImage):
        dicom.load_cxr(path)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_compressed_streams_padded_and_cut(write, tmp_path, syntax):
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


def test_big_endian(write, tmp_path):
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
def test_a_stream_that_is_not_what_the_header_says_never_becomes_noise(write, tmp_path, syntax, tags, reason):
    path = change(write(tmp_path / "a.dcm", syntax=syntax), tmp_path / "b.dcm", **tags)
    with pytest.raises(dicom.UnreadableImage, match=f"b.dcm: .*{reason}"):
        dicom.load_cxr(path)


@pytest.mark.parametrize("real", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize("declared", [RLELossless, JPEG2000Lossless, JPEGLSLossless, JPEGBaseline8Bit, JPEGLossless])
def test_compressed_pixels_declared_as_another_kind_are_refused(write, tmp_path, real, declared):
    data = pydicom.dcmread(write(tmp_path / "a.dcm", syntax=real))
    data.file_meta.TransferSyntaxUID = declared
    data.save_as(tmp_path / "a.dcm")
    if real == declared:
        np.testing.assert_allclose(dicom.load_cxr(tmp_path / "a.dcm"), RAMP / 4095, atol=1e-6)
    else:
        with pytest.raises(dicom.UnreadableImage, match=f"a.dcm: .*declared as|decoded as {declared.name}"):
            dicom.load_cxr(tmp_path / "a.dcm")


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_a_header_with_too_few_bits_does_not_spoil_a_compressed_film(write, tmp_path, syntax):
    path = change(write(tmp_path / "a.dcm", syntax=syntax), tmp_path / "b.dcm", BitsStored=10, HighBit=9)
    with pytest.warns(UserWarning, match="b.dcm: pixels use more than the 10 bits"):
        image = dicom.load_cxr(path)
    np.testing.assert_allclose(image, RAMP / 4095, atol=1e-6)


def test_run_length_data_with_more_rows_than_announced(write, tmp_path):
    path = change(write(tmp_path / "a.dcm", syntax=RLELossless), tmp_path / "b.dcm", Rows=32)
    with pytest.raises(dicom.UnreadableImage, match="more pixels than the header announces"):
        dicom.load_cxr(path)


@pytest.mark.parametrize("syntax", ["JPEGLosslessProcess14", "JPEGLosslessProcess14_1"])
def test_lossless_jpeg(write, gdcm_compress, tmp_path, syntax):
    path = gdcm_compress(write(tmp_path / "a.dcm"), tmp_path / "b.dcm", syntax)
    assert "JPEG Lossless" in dicom.read_header(path)["transfer_syntax"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # 16 bits in the stream for 12 in the header are usual here
        np.testing.assert_allclose(dicom.load_cxr(path), RAMP / 4095, atol=1e-6)
    with pytest.raises(dicom.UnreadableImage, match="announces 48 x 63"):
        dicom.load_cxr(change(path, tmp_path / "c.dcm", Rows=63))


def test_baseline_jpeg(write, tmp_path):
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


def test_high_throughput_jpeg_2000(write, tmp_path):
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


def test_jpeg_2000_is_decoded_no_finer_than_needed(write, tmp_path):
    path = write(tmp_path / "a.dcm", film_like(), syntax=JPEG2000Lossless, WindowCenter=2000, WindowWidth=3800)
    sizes = {1000: 0, 900: 0, 361: 0, 360: 1, 181: 1, 180: 2, 91: 2, 90: 3, 20: 3}
    for size, halvings in sizes.items():
        stored, found = decode_pixels(path, pydicom.dcmread(path), [], longest_side=size)
        assert found == halvings, "of 900, 450, 225 and 113 pixels the smallest that has a quarter more than asked"
        assert stored.shape == (-(-900 // 2**halvings), -(-700 // 2**halvings))


@pytest.mark.parametrize("rows, columns", [(900, 700), (901, 703)])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_jpeg_2000_by_levels_looks_like_the_full_decode(write, tmp_path, rows, columns, photometric):
    tags = dict(pixels=film_like(rows, columns), photometric=photometric, WindowCenter=2000, WindowWidth=3800)
    plain, packed = (
        write(tmp_path / "plain.dcm", **tags),
        write(tmp_path / "packed.dcm", syntax=JPEG2000Lossless, **tags),
    )
    for size in (360, 300, 225, 180, 100, 90, 56):
        whole, levels = dicom.load_cxr(plain, size), dicom.load_cxr(packed, size)
        assert levels.shape == whole.shape
        assert np.mean((levels - whole) ** 2) < 10**-4.5, f"45 decibel at {size} pixels"


@pytest.mark.parametrize(
    "tags, percentiles",
    [({}, None), ({"WindowCenter": 9, "WindowWidth": 0}, None), ({"WindowCenter": 2000, "WindowWidth": 3800}, (1, 99)),
     ({"WindowCenter": 2000, "WindowWidth": 3800, "PixelPaddingValue": 4095}, None)],
)  # fmt: skip
def test_jpeg_2000_is_decoded_in_full_where_single_pixels_matter(write, tmp_path, tags, percentiles):
    pixels = film_like()
    pixels[:5, :5], pixels[400, 300] = 4095, 4000  # one bright pixel sets the full range
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        plain = dicom.load_cxr(write(tmp_path / "plain.dcm", pixels, **tags), 100, percentiles)
        packed = dicom.load_cxr(
            write(tmp_path / "packed.dcm", pixels, syntax=JPEG2000Lossless, **tags), 100, percentiles
        )
    np.testing.assert_array_equal(packed, plain)
