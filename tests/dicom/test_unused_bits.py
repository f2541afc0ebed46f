"""Bits above the announced ones: rubbish there changes nothing, a header with too few bits cuts no film."""

import warnings

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from cliniqure_utils import dicom

Y, X = np.mgrid[:90, :70]
NOISE = np.random.default_rng(3).normal(0, 12, Y.shape)
EDGES = 400 * ((X // 15 + Y // 20) % 2)
FILM = (1900 + 1300 * np.sin(X / 9) * np.cos(Y / 12) + EDGES + NOISE).clip(0, 4095).astype(np.uint16)  # 12 bits
SCATTERED = [5, 8, 13]  # what stands above: bits 12 and 14; 15; 12, 14 and 15


def rubbish(shape=FILM.shape, values=SCATTERED):
    above = np.zeros(shape, np.uint16)
    for n, value in enumerate(values):
        above[10 + 20 * n : 25 + 20 * n, 8 : 40 + 5 * n] = value
    return above


def read(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dicom.load_cxr(path)


def bits_of(bits):
    return {"BitsStored": bits, "HighBit": bits - 1}


def encode(path, how, gdcm_compress):
    """The same words in another encoding."""
    if how in ("JPEGLosslessProcess14", "JPEGLosslessProcess14_1"):
        return gdcm_compress(path, path.with_stem(f"{path.stem}-packed"), how)
    data = pydicom.dcmread(path)
    if how == "big endian":
        copy, words = Dataset(), np.frombuffer(data.PixelData, "<u2").astype(">u2")
        copy.update({element.tag: element for element in data})
        copy.file_meta = FileMetaDataset()
        copy.file_meta.MediaStorageSOPClassUID, copy.file_meta.MediaStorageSOPInstanceUID = "1.2.3", "1.2.3"
        copy.file_meta.TransferSyntaxUID, copy.PixelData = ExplicitVRBigEndian, words.tobytes()
        data = copy
    elif how == "deflated":
        data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("bits", range(8, 16))
@pytest.mark.parametrize("signed", [0, 1])
def test_rubbish_above_the_stored_bits_changes_nothing(write, tmp_path, bits, signed):
    film = FILM >> (12 - bits) if bits < 12 else FILM << (bits - 12)
    words = film if not signed else (film.astype(int) - 2 ** (bits - 1)) & (2**bits - 1)
    dirty = words | np.uint16(2**15) * (rubbish() > 0) | (rubbish() << bits) & 0xFFFF
    tags = bits_of(bits) | {"PixelRepresentation": signed, "WindowCenter": 100, "WindowWidth": 2**bits}
    clean = read(write(tmp_path / "clean.dcm", words, **tags))
    path = write(tmp_path / "dirty.dcm", dirty, **tags)
    with pytest.warns(UserWarning, match=f"dirty.dcm: bits above the {bits} .* are no part of the film"):
        np.testing.assert_array_equal(dicom.load_cxr(path), clean)
    seen = np.clip((pydicom.dcmread(path).pixel_array - 99.5) / (2**bits - 1) + 0.5, 0, 1)  # PS3.3 C.11.2.1.2.1
    np.testing.assert_allclose(clean, seen, atol=1e-6)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("how", ["big endian", "deflated", RLELossless, JPEG2000Lossless, JPEGLSLossless,
                                 "JPEGLosslessProcess14", "JPEGLosslessProcess14_1"])  # fmt: skip
def test_rubbish_in_every_encoding(write, gdcm_compress, tmp_path, how, photometric):
    clean = read(write(tmp_path / "clean.dcm", FILM, photometric))
    # Compressors refuse words that need more bits than announced: the header is wrong only afterwards.
    path = write(tmp_path / "a.dcm", FILM | rubbish() << 12, photometric, **bits_of(16),
                 syntax=how if how in (RLELossless, JPEG2000Lossless, JPEGLSLossless) else None)  # fmt: skip
    if how not in (RLELossless, JPEG2000Lossless, JPEGLSLossless):
        path = encode(path, how, gdcm_compress)
    data = pydicom.dcmread(path)
    data.BitsStored, data.HighBit = 12, 11
    data.save_as(path)
    np.testing.assert_array_equal(read(path), clean)


@pytest.mark.parametrize("above", [
    np.pad([[1]], ((30, 59), (40, 29))), np.pad([[15]], ((30, 59), (40, 29))), rubbish(values=[1]),
    rubbish(values=[1, 2, 3]), np.full(FILM.shape, 8), np.random.default_rng(0).integers(0, 16, FILM.shape),
    np.pad(np.ones((20, 70), int), ((30, 40), (0, 0))),
])  # fmt: skip
def test_one_dirty_pixel_an_overlay_and_noise_are_rubbish(write, tmp_path, above):
    clean = read(write(tmp_path / "clean.dcm", FILM))
    np.testing.assert_array_equal(read(write(tmp_path / "dirty.dcm", FILM | above << 12)), clean)


@pytest.mark.parametrize("missing", range(1, 5))
@pytest.mark.parametrize("signed", [0, 1])
def test_a_header_with_too_few_bits_does_not_cut_the_film(write, tmp_path, missing, signed):
    values = FILM.astype(int) - 2048 * signed
    right, few = ({**bits_of(bits), "PixelRepresentation": signed} for bits in (16, 12 - missing))
    wanted = read(write(tmp_path / "right.dcm", values, **right))
    with pytest.warns(UserWarning, match="few.dcm: pixels use more than the"):
        np.testing.assert_array_equal(dicom.load_cxr(write(tmp_path / "few.dcm", values, **few)), wanted)


def test_a_film_of_noise_with_too_few_bits_and_one_with_a_black_border(write, tmp_path):
    noise = np.random.default_rng(0).integers(0, 4096, (64, 48)).astype(np.uint16)
    border = np.pad(FILM[8:-8, 8:-8] // 2 + 2000, 8)  # 0, then 2000 and more: upper parts with a gap
    for pixels, bits in ((noise, 10), (noise, 8), (border, 10), (border, 9)):
        wanted = read(write(tmp_path / "right.dcm", pixels))
        np.testing.assert_array_equal(read(write(tmp_path / "few.dcm", pixels, **bits_of(bits))), wanted)


def test_padding_may_need_more_bits_than_the_film(write, tmp_path):
    film = np.pad(FILM[8:-8, 8:-8], 8, constant_values=65535)
    image = read(write(tmp_path / "a.dcm", film, PixelPaddingValue=65535))
    inside = FILM[8:-8, 8:-8].astype(float)
    wanted = np.pad((inside - inside.min()) / np.ptp(inside), 8)
    np.testing.assert_allclose(image, wanted, atol=1e-6)


def test_rubbish_below_and_in_words_of_eight_bits(write, tmp_path):
    clean = read(write(tmp_path / "clean.dcm", FILM))
    below = (FILM << 4) | np.random.default_rng(0).integers(0, 16, FILM.shape)
    np.testing.assert_array_equal(read(write(tmp_path / "below.dcm", below, HighBit=15)), clean)
    eight = {"BitsAllocated": 8, **bits_of(6)}
    grey = (FILM >> 6).astype(np.uint8)
    for name, words in (("six", grey), ("dirty", grey | (rubbish(values=[2, 3, 1]) << 6).astype(np.uint8))):
        path = write(tmp_path / f"{name}.dcm", grey, **eight, PixelData=words.tobytes())
        np.testing.assert_allclose(read(path), (grey - grey.min()) / np.ptp(grey.astype(float)), atol=1e-6)
