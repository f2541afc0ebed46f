"""A film is upright however it is stored: DICOM's PatientOrientation, a picture's Exif or XMP Orientation, alpha."""

import io
import itertools
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from cliniqure_utils import dicom
from cliniqure_utils.dicom.upright import AS_STORED, EXIF_TURNS

FILM = np.random.default_rng(0).integers(0, 256, (30, 24)).astype(np.uint8)
FILM[0, 0], FILM[0, 1] = 0, 255
# The patient's left on the right, feet below: what each way to store the film does to the array.
STORED = {
    "L\\F": FILM, "R\\F": FILM[:, ::-1], "L\\H": FILM[::-1], "R\\H": FILM[::-1, ::-1],
    "F\\L": FILM.T, "F\\R": FILM[:, ::-1].T, "H\\L": FILM[::-1].T, "H\\R": FILM[::-1, ::-1].T,
    "LP\\FA": FILM, "RPH\\HA": FILM[::-1, ::-1],
    "A\\F": FILM, "P\\F": FILM, "A\\H": FILM[::-1], "F\\A": FILM.T,
}  # fmt: skip


def load(path, size=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dicom.load_cxr(path, size)


def eight(write, path, pixels, **tags):
    tags |= {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelData": pixels.tobytes()}
    return write(path, pixels, **tags)


@pytest.mark.parametrize("way", STORED)
def test_patient_orientation_is_applied(write, tmp_path, way):
    stored = np.ascontiguousarray(STORED[way])
    path = eight(write, tmp_path / "a.dcm", stored, PatientOrientation=way.split("\\"), PixelSpacing=[0.1, 0.2])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        np.testing.assert_allclose(dicom.load_cxr(path), FILM / 255, atol=1e-6)
    turned = not np.array_equal(stored, FILM)
    assert ["turned upright" in str(w.message) for w in said] == [True] * turned
    facts = dicom.read_header(path)
    assert (facts["rows"], facts["columns"], facts["turned"]) == (30, 24, turned)
    assert facts["spacing_mm"] == ((0.2, 0.1) if stored.shape == (24, 30) else (0.1, 0.2))
    small = load(eight(write, tmp_path / "b.dcm", FILM), 15)
    np.testing.assert_allclose(load(path, 15), small, atol=1e-6)


@pytest.mark.parametrize("way", [None, "", ["", ""], ["L"], ["L", "P"], ["L", "R"], ["H", "F"], ["X", "F"], "L"])
def test_an_orientation_that_says_nothing_changes_nothing(write, tmp_path, way):
    tags = {} if way is None else {"PatientOrientation": way}
    np.testing.assert_allclose(load(eight(write, tmp_path / "a.dcm", FILM, **tags)), FILM / 255, atol=1e-6)


def test_a_compressed_film_is_turned_too(write, tmp_path):
    from pydicom.uid import JPEG2000Lossless

    y, x = np.mgrid[:900, :700]
    film = (2000 + 1500 * np.sin(x / 90) * np.cos(y / 120)).astype(np.uint16)
    window = {"WindowCenter": 2000, "WindowWidth": 3800}
    upright = dicom.load_cxr(write(tmp_path / "a.dcm", film, **window), 100)
    path = write(tmp_path / "b.dcm", film[:, ::-1].T, PatientOrientation=["F", "R"], syntax=JPEG2000Lossless, **window)
    with pytest.warns(UserWarning, match="turned upright"):
        turned = dicom.load_cxr(path, 100)
    assert turned.shape == upright.shape and np.mean((turned - upright) ** 2) < 10**-4.5, (
        "as good as any reduced decode"
    )


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def exif_of(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def saved(path, image: Image.Image, value: int, place: str):
    """A picture whose Orientation stands in one of the places where programs put it."""
    xmp = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="{value}"/></x:xmpmeta>'.encode()
    if place == "jpeg":
        image.save(path, "JPEG", quality=100, exif=exif_of(value))
    elif place == "jpeg xmp":
        image.save(path, "JPEG", quality=100, xmp=xmp)
    elif place == "png":
        image.save(path, "PNG", exif=exif_of(value))
    else:
        stream = io.BytesIO()
        image.save(stream, "PNG")
        whole = stream.getvalue()
        if place == "png behind the pixels":
            chunk = png_chunk(b"eXIf", exif_of(value).tobytes().removeprefix(b"Exif\0\0"))
        elif place == "png text of ImageMagick":
            hexed = exif_of(value).tobytes().hex()
            chunk = png_chunk(b"tEXt", f"Raw profile type exif\0\nexif\n{len(hexed) // 2:8}\n{hexed}\n".encode())
        else:  # png xmp
            chunk = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
        path.write_bytes(whole[:-12] + chunk + whole[-12:])
    return path


PLACES = ["jpeg", "jpeg xmp", "png", "png behind the pixels", "png text of ImageMagick", "png xmp"]


@pytest.mark.parametrize("place, value", list(itertools.product(PLACES, range(1, 9))))
def test_exif_orientation_is_applied(tmp_path, place, value):
    smooth = np.add.outer(np.arange(40) * 4, np.arange(32) * 3).astype(np.uint8)
    path = saved(tmp_path / "a", Image.fromarray(smooth), value, place)
    exif = {"exif": exif_of(value)}
    Image.fromarray(smooth).save(tmp_path / "wanted.png", **exif)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "wanted.png")))  # Pillow's own
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        image = dicom.load_cxr(path)
    np.testing.assert_allclose(image, wanted / 255, atol=4 / 255 if place.startswith("jpeg") else 1e-6)
    assert len(said) == (value > 1)
    facts = dicom.read_header(path)
    assert (facts["rows"], facts["columns"], facts["turned"]) == (*wanted.shape, value > 1)


@pytest.mark.parametrize("value", [0, 9, 77])
def test_an_exif_orientation_out_of_range_changes_nothing(tmp_path, value):
    Image.fromarray(FILM).save(tmp_path / "a.png", exif=exif_of(value))
    np.testing.assert_allclose(dicom.load_cxr(tmp_path / "a.png"), FILM / 255, atol=1e-6)


def test_damaged_exif_data_do_not_cost_the_picture(tmp_path):
    for n, exif in enumerate(
        (b"Exif\0\0II*\0", b"Exif\0\0nonsense", b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01" * 9)
    ):
        Image.fromarray(FILM).save(tmp_path / f"{n}.png", exif=exif)
        np.testing.assert_allclose(load(tmp_path / f"{n}.png"), FILM / 255, atol=1e-6)


def test_sixteen_bits_are_turned_too(tmp_path):
    wide = FILM.astype(np.uint16) * 16
    Image.fromarray(wide[::-1].copy()).save(tmp_path / "a.png", exif=exif_of(4))
    with pytest.warns(UserWarning, match="Exif Orientation 4"):
        np.testing.assert_allclose(dicom.load_cxr(tmp_path / "a.png"), FILM / 255, atol=1e-6)


def test_no_two_turns_are_the_same():
    assert len({*EXIF_TURNS.values(), AS_STORED}) == 8


ALPHA = np.zeros_like(FILM)
ALPHA[4:-4, 3:-3] = 255
HALF = np.where(ALPHA, 128, 0).astype(np.uint8)


def transparent(kind: str) -> tuple[Image.Image, dict, np.ndarray]:
    """A picture with white under what is hidden, options to save it, and what has to be seen (0-255)."""
    seen = np.where(ALPHA, FILM, 0)
    white = np.where(ALPHA, np.clip(FILM, 0, 254), 255).astype(np.uint8)
    grey, alpha = Image.fromarray(white), Image.fromarray(ALPHA)
    if kind == "LA":
        return Image.merge("LA", [grey, alpha]), {}, np.clip(seen, 0, 254)
    if kind == "RGBA":
        return Image.merge("RGBA", [grey, grey, grey, alpha]), {}, np.clip(seen, 0, 254)
    if kind == "coloured under the border":
        red = Image.fromarray(np.where(ALPHA, white, 9).astype(np.uint8))
        return Image.merge("RGBA", [grey, red, red, alpha]), {}, np.clip(seen, 0, 254)
    if kind == "half":
        return Image.merge("LA", [grey, Image.fromarray(HALF)]), {}, np.clip(seen, 0, 254) * (128 / 255)
    if kind in ("L", "RGB"):  # one grey is transparent
        image = grey.convert(kind)
        return image, {"transparency": 255 if kind == "L" else (255, 255, 255)}, np.clip(seen, 0, 254)
    if kind == "P":
        image = grey.copy()
        image.putpalette([n // 3 for n in range(768)])
        return image, {"transparency": 255}, np.clip(seen, 0, 254)
    wide = np.where(ALPHA, FILM.astype(np.uint16) * 16, 65535)  # "I;16"
    return Image.fromarray(wide.astype(np.uint16)), {"transparency": 65535}, seen


@pytest.mark.parametrize("kind", ["LA", "RGBA", "coloured under the border", "half", "L", "RGB", "P", "I;16"])
def test_what_is_transparent_is_black(tmp_path, kind):
    image, options, seen = transparent(kind)
    image.save(tmp_path / "a.png", **options)
    with pytest.warns(UserWarning, match="a.png: the picture has transparent parts"):
        found = dicom.load_cxr(tmp_path / "a.png")
    if kind == "I;16":
        inside = FILM[ALPHA > 0].astype(float)
        seen = np.where(ALPHA, (FILM - inside.min()) / np.ptp(inside) * 255, 0)
    np.testing.assert_allclose(found * 255, seen, atol=0.51)


def test_a_picture_that_is_all_transparent_is_refused(tmp_path):
    Image.merge("LA", [Image.fromarray(FILM), Image.new("L", FILM.shape[::-1])]).save(tmp_path / "a.png")
    with pytest.raises(dicom.UnreadableImage, match="every pixel has the value 0"):
        dicom.load_cxr(tmp_path / "a.png")


def test_an_alpha_channel_that_hides_nothing_is_not_odd(tmp_path):
    Image.merge("LA", [Image.fromarray(FILM), Image.new("L", FILM.shape[::-1], 255)]).save(tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(dicom.load_cxr(tmp_path / "a.png"), FILM / 255, atol=1e-6)
