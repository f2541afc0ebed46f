"""Reading one film from one file."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from cliniqure_utils.dicom.facts import dataset_facts, picture_facts
from cliniqure_utils.dicom.grey import grey_scale, keeps_under_averaging
from cliniqure_utils.dicom.header import UnreadableImage, check_shape, is_picture, read_dataset
from cliniqure_utils.dicom.pixels import decode_pixels
from cliniqure_utils.dicom.shrink import GreyScale, shrink
from cliniqure_utils.dicom.upright import Turn, turn_of, turn_of_picture


def load_cxr(path: str | Path, size: int | None = None, percentiles: tuple[float, float] | None = None) -> np.ndarray:
    """Read one film.

    Args:
        path: Single-frame grey-scale DICOM file, or a grey PNG or JPEG of 8 or 16 bits (told apart by content).
        size: Longest side of the result in pixels; areas are averaged, and a film is never enlarged. None keeps it.
        percentiles: Clip at these two percentiles of the pixels in place of the header's window.

    Returns:
        float32 (height, width) in [0, 1]; dense tissue is bright, and the film upright, whichever way it was stored
        (DICOM's PatientOrientation, a picture's Exif Orientation). The grey scale is
        the header's VOI LUT or first usable window, else the full range of the pixels (padding is left out of it and
        black in the result). An odd but unambiguous header is read with a warning that names the file.

    Raises:
        UnreadableImage: With file and reason.
    """
    film, _, notes = load_film(Path(path), size, percentiles)
    for note in notes:
        warnings.warn(f"{Path(path).name}: {note}", stacklevel=2)
    return film


def _picture(path: Path, percentiles, notes: list[str]) -> tuple[GreyScale, Turn]:
    """A PNG or JPEG of 8 or 16 bits as stored: its pixels and the grey of each of their levels; how it is turned.

    8 bits are read as they are (255 = 1). With 16 bits nobody knows how many are used, so the full range of the pixels
    becomes 0 to 1, as in a DICOM file without a window. What is transparent is black: the pixels under it were not
    meant to be seen.

    Raises:
        UnreadableImage: Not a picture, a coloured or an animated one, or one flat grey.
    """
    try:
        with Image.open(path) as image:
            frames = getattr(image, "n_frames", 1)
            check_shape(path, image.height, image.width)
            image.load()
            turn = turn_of_picture(image, notes)
            array, hidden = _visible(image, notes)
    except UnreadableImage:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImage(f"{path.name}: not a readable picture ({error})") from error
    if frames != 1:
        raise UnreadableImage(f"{path.name}: {frames} frames; expected one")
    if array.ndim == 3:
        if int(np.ptp(array.astype(np.int16), axis=2).max()) > 12:  # JPEG leaves a trace of colour in grey pictures
            raise UnreadableImage(f"{path.name}: a colour picture; expected a grey chest film")
        array = array[..., 0]
    seen = array if hidden is None else array[array != hidden]
    if seen.size == 0 or seen.min() == seen.max():
        value = "hidden" if seen.size == 0 else seen.min()
        raise UnreadableImage(f"{path.name}: every pixel has the value {value}; the export is probably broken")
    if percentiles is not None:
        low, high = np.percentile(seen, percentiles)
        if high <= low:
            raise UnreadableImage(f"{path.name}: percentiles {percentiles} are the same grey value {low:g}")
    elif array.dtype == np.uint8:
        low, high = 0, 255
    else:
        low, high = seen.min(), seen.max()
    levels = np.arange(int(array.min()), int(array.max()) + 1)
    grey = np.clip((levels - float(low)) / (float(high) - float(low)), 0, 1)
    grey[levels == hidden] = 0
    return GreyScale.of(array.astype(np.uint8) if array.dtype == bool else array, levels, grey), turn


def _visible(image: Image.Image, notes: list[str]) -> tuple[np.ndarray, int | None]:
    """Pixels (rows, columns) or (rows, columns, 3), transparent ones on black; of 16 bits the level that is hidden."""
    hidden = None
    if image.mode in ("I", "F") or "I;16" in image.mode:
        # Pillow opens no picture of 16 bits with an alpha channel as such: one level may be transparent.
        pixels, hidden = np.asarray(image), image.info.get("transparency")
        in_part = hidden is not None and bool((pixels == hidden).any())
    elif image.has_transparency_data:
        pixels = np.asarray(image.convert("RGBA")).astype(np.uint16)
        in_part = bool((pixels[..., 3] < 255).any())
        pixels = ((pixels[..., :3] * pixels[..., 3:] + 127) // 255).astype(np.uint8)
    else:
        pixels, in_part = np.asarray(image if image.mode in ("1", "L") else image.convert("RGB")), False
    if in_part:
        notes.append("the picture has transparent parts; they are taken as black")
    return pixels, hidden


def load_film(path: Path, size: int | None, percentiles) -> tuple[np.ndarray, dict, list[str]]:
    """Film, header facts (`read_header`) and notes on what was odd."""
    notes: list[str] = []
    if is_picture(path):
        picture, turn = _picture(path, percentiles, notes)
        facts = picture_facts(path, *picture.pixels.shape, turn)
        film = shrink(picture, picture.pixels.shape, 0, size)
    else:
        data = read_dataset(path, notes)
        turn = turn_of(data, notes)
        facts = dataset_facts(path, data, turn)
        film = _film(path, data, size, percentiles, notes)
    return turn.applied(film), facts, notes


def _film(path: Path, data, size: int | None, percentiles, notes: list[str]) -> np.ndarray:
    """DICOM data set -> film as stored, float32 (height, width) in [0, 1], with a longest side of `size`."""
    # Percentiles, the full range and padding depend on single pixels, so such films are decoded at full size.
    small = size if percentiles is None and keeps_under_averaging(data) else None
    said = len(notes)
    stored, reduction = decode_pixels(path, data, notes, small)
    film = grey_scale(path, data, stored, percentiles, notes)
    if reduction and not film.from_header:
        del notes[said:]
        stored, reduction = decode_pixels(path, data, notes)
        film = grey_scale(path, data, stored, percentiles, notes)
    return shrink(film, (data.Rows, data.Columns), reduction, size)
