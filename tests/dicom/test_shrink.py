"""Films shrink by areas, whatever kind of pixel they have, and never grow."""

import numpy as np
import pytest

from cliniqure_utils import dicom


def test_films_shrink_by_averaging_and_never_grow(write, tmp_path):
    path = write(tmp_path / "a.dcm")
    small = dicom.load_cxr(path, size=32)
    assert small.shape == (32, 24)
    full = dicom.load_cxr(path)
    np.testing.assert_allclose(small, full.reshape(32, 2, 24, 2).mean((1, 3)), atol=1e-5)
    assert dicom.load_cxr(path, size=1000).shape == (64, 48)


def test_shrinking_by_an_odd_factor_keeps_areas_and_the_mean(write, tmp_path):
    image = dicom.load_cxr(write(tmp_path / "a.dcm"))
    small = dicom.load_cxr(tmp_path / "a.dcm", size=40)  # 64 x 48 -> 40 x 30: each pixel covers 1.6
    fine = np.repeat(np.repeat(image.astype(float), 5, 0), 5, 1)  # 8 by 8 of these make one new pixel
    np.testing.assert_allclose(small, fine.reshape(40, 8, 30, 8).mean((1, 3)), atol=1e-6)


@pytest.mark.parametrize("old, new", [((64, 48), 40), ((61, 47), 60), ((97, 31), 7), ((30, 200), 33)])
@pytest.mark.parametrize("kind", ["u1", "u2", "i2", "u4", "i4"])
def test_every_kind_of_pixel_shrinks_by_areas(write, tmp_path, old, new, kind):
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
