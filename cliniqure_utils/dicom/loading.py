"""Reading one film from one file."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from cliniqure_utils.dicom.grey import grey_scale, keeps_under_averaging
from cliniqure_utils.dicom.header import (
    UnreadableImage,
    check_shape,
    dataset_facts,
    is_picture,
    picture_facts,
    read_dataset,
)
from cliniqure_utils.dicom.pixels import decode_pixels
from cliniqure_utils.dicom.shrink import GreyScale, shrink


def load_cxr(path: str | Path, size: int | None = None, percentiles: tuple[float, float] | None = None) -> np.ndarray:
    """Read one film.

    Args:
        path: Single-frame grey-scale DICOM file, or a grey PNG or JPEG of 8 or 16 bits (told apart by content).
        size: Longest side of the result in pixels; areas are averaged, and a film is never enlarged. None keeps it.
        percentiles: Clip at these two percentiles of the pixels in place of the header's window.

    Returns:
        float32 (height, width) in [0, 1]; dense tissue is bright, whichever way it was stored. The grey scale is
        the header's VOI LUT or first usable window, else the full range of the pixels (padding is left out of it and
        black in the result). An odd but unambiguous header is read with a warning that names the file.

    Raises:
        UnreadableImage: With file and reason.
    """
    film, _, notes = load_film(Path(path), size, percentiles)
    for note in notes:
        warnings.warn(f"{Path(path).name}: {note}", stacklevel=2)
    return film


def _picture(path: Path, percentiles) -> GreyScale:
    """A PNG or JPEG of 8 or 16 bits: its pixels, and the grey of each of their levels, bright as stored.

    8 bits are read as they are (255 = 1). With 16 bits nobody knows how many are used, so the full range of the pixels
    becomes 0 to 1, as in a DICOM file without a window.

    Raises:
        UnreadableImage: Not a picture, a coloured or an animated one, or one flat grey.
    """
    try:
        with Image.open(path) as image:
            frames, mode = getattr(image, "n_frames", 1), image.mode
            check_shape(path, image.height, image.width)
            image.load()
            array = np.asarray(
                image.convert("RGB") if mode not in ("1", "L", "I", "F") and "I;16" not in mode else image
            )
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
    if array.min() == array.max():
        raise UnreadableImage(f"{path.name}: every pixel has the value {array.min()}; the export is probably broken")
    if percentiles is not None:
        low, high = np.percentile(array, percentiles)
        if high <= low:
            raise UnreadableImage(f"{path.name}: percentiles {percentiles} are the same grey value {low:g}")
    elif array.dtype == np.uint8:
        low, high = 0, 255
    else:
        low, high = array.min(), array.max()
    levels = np.arange(int(array.min()), int(array.max()) + 1)
    grey = np.clip((levels - float(low)) / (float(high) - float(low)), 0, 1)
    return GreyScale.of(array.astype(np.uint8) if array.dtype == bool else array, levels, grey)


def load_film(path: Path, size: int | None, percentiles) -> tuple[np.ndarray, dict, list[str]]:
    """Film, header facts (`read_header`) and notes on what was odd."""
    notes: list[str] = []
    if is_picture(path):
        picture = _picture(path, percentiles)
        facts = picture_facts(path, *picture.pixels.shape)
        film = shrink(picture, picture.pixels.shape, 0, size)
    else:
        data = read_dataset(path, notes)
        facts = dataset_facts(path, data)
        film = _film(path, data, size, percentiles, notes)
    return film, facts, notes


def _film(path: Path, data, size: int | None, percentiles, notes: list[str]) -> np.ndarray:
    """DICOM data set -> film, float32 (height, width) in [0, 1], with a longest side of `size`."""
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
