"""One picture in every grey scale that headers describe must load as one picture."""

import re

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from cliniqure_utils import dicom

RAMP = np.linspace(0, 4095, 64 * 48).reshape(64, 48).astype(np.uint16)  # 12 bits, dark to bright


def test_polarity_does_not_change_the_picture(write, tmp_path):
    plain = dicom.load_cxr(write(tmp_path / "a.dcm"))
    assert plain.dtype == np.float32 and plain[0, 0] == 0 and plain[-1, -1] == 1
    mirrored = dicom.load_cxr(write(tmp_path / "b.dcm", 4095 - RAMP, "MONOCHROME1"))
    np.testing.assert_allclose(mirrored, plain, atol=1e-6)


def test_window_comes_before_polarity(write, tmp_path):
    plain = dicom.load_cxr(write(tmp_path / "a.dcm", WindowCenter=1200, WindowWidth=800))
    mirrored = dicom.load_cxr(write(tmp_path / "b.dcm", 4095 - RAMP, "MONOCHROME1", WindowCenter=2896, WindowWidth=800))
    np.testing.assert_allclose(plain, mirrored, atol=2 / 255)
    # PS3.3 C.11.2.1.2.1: value 1200 lies at (1200 - 1199.5) / 799 + 0.5
    position = np.unravel_index(np.abs(RAMP.astype(int) - 1200).argmin(), RAMP.shape)
    expected = (float(RAMP[position]) - 1199.5) / 799 + 0.5
    assert plain[position] == pytest.approx(expected, abs=1e-5)


UNUSABLE_WINDOWS = [
    ({"WindowCenter": 2000, "WindowWidth": 0}, "centre [2000.0], width [0.0]"),
    ({"WindowCenter": 2000}, "centre [2000.0], width empty"),
    ({"WindowCenter": 2000, "WindowWidth": -5}, "centre [2000.0], width [-5.0]"),
    ({"WindowCenter": "", "WindowWidth": ""}, "centre empty, width empty"),
]


@pytest.mark.parametrize(("window", "words"), UNUSABLE_WINDOWS)
def test_unusable_windows_fall_back_to_the_full_range_with_a_warning(write, tmp_path, window, words):
    path = write(tmp_path / "odd.dcm", **window)
    with pytest.warns(UserWarning, match=re.escape(f"odd.dcm: unusable window ({words})")):
        image = dicom.load_cxr(path)
    np.testing.assert_allclose(image, RAMP / 4095, atol=1e-5)


def test_padding_is_left_out_of_the_range_and_black(write, tmp_path):
    pixels = np.clip(RAMP, 1000, 3000)
    pixels[:8] = 4095
    image = dicom.load_cxr(write(tmp_path / "a.dcm", pixels, PixelPaddingValue=4095))
    assert (image[:8] == 0).all() and image[8:].max() == 1 and image[8:].min() == 0


def test_percentiles_clip_instead_of_the_window(write, tmp_path):
    image = dicom.load_cxr(write(tmp_path / "a.dcm", WindowCenter=1, WindowWidth=2), percentiles=(10, 90))
    assert np.isclose((image == 0).mean(), 0.1, atol=0.01) and np.isclose((image == 1).mean(), 0.1, atol=0.01)


def test_values_in_the_upper_bits_and_headers_with_too_few_bits_do_not_turn_into_noise(write, tmp_path):
    plain = dicom.load_cxr(write(tmp_path / "plain.dcm", WindowCenter=2048, WindowWidth=4096))
    upper = dicom.load_cxr(write(tmp_path / "upper.dcm", RAMP << 4, HighBit=15, WindowCenter=2048, WindowWidth=4096))
    np.testing.assert_array_equal(upper, plain)
    with pytest.warns(UserWarning, match="wide.dcm: pixels use more than the 12 bits"):
        wide = dicom.load_cxr(write(tmp_path / "wide.dcm", RAMP * 8))
    np.testing.assert_allclose(wide, RAMP / 4095, atol=1e-5)


@pytest.mark.parametrize("bits", [12, 16])
def test_signed_values(write, tmp_path, bits):
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


def test_rescale_comes_before_the_window(write, tmp_path):
    path = write(tmp_path / "a.dcm", RescaleSlope=2, RescaleIntercept=-100, WindowCenter=4000, WindowWidth=3000)
    values = RAMP * 2.0 - 100
    np.testing.assert_allclose(dicom.load_cxr(path), np.clip((values - 3999.5) / 2999 + 0.5, 0, 1), atol=1e-5)
    inverse = dicom.load_cxr(write(tmp_path / "b.dcm", RescaleSlope=-1, RescaleIntercept=4095))
    np.testing.assert_allclose(inverse, 1 - RAMP / 4095, atol=1e-5)


def test_window_functions(write, tmp_path):
    def load(function):
        return dicom.load_cxr(write(tmp_path / "a.dcm", WindowCenter=2000, WindowWidth=1000, VOILUTFunction=function))

    np.testing.assert_allclose(load("LINEAR_EXACT"), np.clip((RAMP - 2000.0) / 1000 + 0.5, 0, 1), atol=1e-5)
    np.testing.assert_allclose(load("SIGMOID"), 1 / (1 + np.exp(-4 * (RAMP - 2000.0) / 1000)), atol=1e-5)


def test_the_first_usable_window_of_several_is_taken(write, tmp_path):
    several = dicom.load_cxr(write(tmp_path / "a.dcm", WindowCenter=[900, 2000, 1], WindowWidth=[0, 3000, 2]))
    one = dicom.load_cxr(write(tmp_path / "b.dcm", WindowCenter=2000, WindowWidth=3000))
    np.testing.assert_array_equal(several, one)
    with pytest.warns(UserWarning, match="unusable window"):  # it lies far above every pixel
        off = dicom.load_cxr(write(tmp_path / "c.dcm", WindowCenter=20000, WindowWidth=100))
    np.testing.assert_allclose(off, RAMP / 4095, atol=1e-5)


def with_lut(write, path, descriptor, entries, **tags):
    item = Dataset()
    item.LUTDescriptor = descriptor
    item["LUTDescriptor"].VR = "US"
    item.add_new("LUTData", "OW", np.asarray(entries, "<u2").tobytes())
    data = pydicom.dcmread(write(path, **tags))
    data.VOILUTSequence = [item]
    data.save_as(path)
    return path


def test_lookup_table(write, tmp_path):
    curve = np.rint(np.sqrt(np.arange(4096) / 4095) * 1023)
    wanted = curve[RAMP] / 1023
    told = dicom.load_cxr(with_lut(write, tmp_path / "a.dcm", [4096, 0, 10], curve, WindowCenter=1, WindowWidth=9))
    np.testing.assert_allclose(told, wanted, atol=1e-5, err_msg="the table comes before the window")
    # 10 bits announced as 16: a literal reading gives a film of at most 1.6 % grey.
    np.testing.assert_allclose(
        dicom.load_cxr(with_lut(write, tmp_path / "b.dcm", [4096, 0, 16], curve)), wanted, atol=1e-5
    )
    for entries in (curve[:10], curve * 0):
        with pytest.warns(UserWarning, match="c.dcm: unusable VOI LUT"):
            image = dicom.load_cxr(with_lut(write, tmp_path / "c.dcm", [4096, 0, 10], entries))
        np.testing.assert_allclose(image, RAMP / 4095, atol=1e-5)


def test_percentiles_are_those_of_the_pixels(write, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 4096, (40, 30)).astype(np.uint16) // 7 * 7
    image = dicom.load_cxr(write(tmp_path / "a.dcm", pixels), percentiles=(3, 88.5))
    low, high = np.percentile(pixels, (3, 88.5))
    np.testing.assert_allclose(image, np.clip((pixels - low) / (high - low), 0, 1), atol=1e-6)
