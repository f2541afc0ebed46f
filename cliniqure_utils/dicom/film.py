"""One film from one file."""

import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from cliniqure_utils.dicom.grey import grey_values
from cliniqure_utils.dicom.header import (
    UnreadableImage,
    check_shape,
    dataset_facts,
    is_picture,
    picture_facts,
    read_dataset,
)
from cliniqure_utils.dicom.pixels import decode_pixels


def load_cxr(path: str | Path, size: int | None = None, percentiles: tuple[float, float] | None = None) -> np.ndarray:
    """Read one film.

    Args:
        path: Single-frame grey-scale DICOM file, or a grey PNG or JPEG of 8 or 16 bits (told apart by content).
        size: Longest side of the result in pixels; areas are averaged, and a film is never enlarged. None keeps it.
        percentiles: Clip at these two percentiles of the pixels in place of the header's window.

    Returns:
        float32 (height, width) in [0, 1]; dense tissue is bright, whichever way it was stored. The grey scale is
        the header's VOI LUT or first usable window, else the full range of the pixels (padding is left out of it and
        black in the result). A header that is odd but leaves no doubt is read with a warning that names the file.

    Raises:
        UnreadableImage: With file and reason.
    """
    film, _, notes = load_film(Path(path), size, percentiles)
    for note in notes:
        warnings.warn(f"{Path(path).name}: {note}", stacklevel=2)
    return film


def load_image(path: str | Path, percentiles: tuple[float, float] | None = None) -> np.ndarray:
    """A PNG or JPEG of 8 or 16 bits, grey -> float32 (height, width) in [0, 1], bright as stored.

    8 bits are read as they are (255 = 1). With 16 bits nobody knows how many are used, so the full range of the pixels
    becomes 0 to 1, as in a DICOM file without a window.

    Raises:
        UnreadableImage: Not a picture, a coloured or an animated one, or one flat grey.
    """
    path = Path(path)
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
    return np.clip((array.astype(np.float32) - np.float32(low)) / np.float32(float(high) - float(low)), 0, 1)


def load_film(path: Path, size: int | None, percentiles) -> tuple[np.ndarray, dict, list[str]]:
    """Film, header facts (`read_header`) and notes on what was odd."""
    notes: list[str] = []
    if is_picture(path):
        film = load_image(path, percentiles)
        facts = picture_facts(path, *film.shape)
    else:
        data = read_dataset(path, notes)
        facts = dataset_facts(path, data)
        film = grey_values(path, data, decode_pixels(path, data, notes), percentiles, notes)
    return _fit(film, size), facts, notes


def _fit(image: np.ndarray, size: int | None) -> np.ndarray:
    """Shrink to a longest side, by averaging areas; never enlarge."""
    height, width = image.shape
    if size is None or max(height, width) <= size:
        return image
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel, found {size}")
    factor = size / max(height, width)
    new = (max(1, round(height * factor)), max(1, round(width * factor)))
    across = _area_weights(width, new[1]) @ (_area_weights(height, new[0]) @ image).T
    return np.ascontiguousarray(np.clip(across.T, 0, 1), dtype=np.float32)


@lru_cache(maxsize=32)
def _area_weights(old: int, new: int):
    """Sparse (new, old): row i averages old pixels over [i, i + 1) * old / new, parts of pixels by their share.

    Pillow's box filter takes whole pixels only, which shows as uneven steps where the factor is near 1.
    """
    from scipy.sparse import csr_array

    edges = np.arange(new + 1) * (old / new)
    first = np.floor(edges[:-1] + 1e-9).astype(int)
    pixel = first[:, None] + np.arange(int(np.ceil(old / new)) + 1)
    share = np.minimum(pixel + 1, edges[1:, None]) - np.maximum(pixel, edges[:-1, None])
    share = np.where(pixel < old, np.clip(share, 0, None), 0)
    share /= share.sum(axis=1, keepdims=True)
    row = np.broadcast_to(np.arange(new)[:, None], pixel.shape)
    used = share > 0
    return csr_array((share[used].astype(np.float32), (row[used], pixel[used])), shape=(new, old))
