"""From a DICOM data set to the values that the scanner stored."""

import re
import warnings
from pathlib import Path

import numpy as np

from cliniqure_utils.dicom.header import UnreadableImage, check_shape, get, integer


def decode_pixels(path: Path, data, notes: list[str]) -> np.ndarray:
    """Stored values (rows, columns), any integer type; sets in `data` what the header left out but leaves no doubt."""
    if not get(data, "PixelData"):
        raise UnreadableImage(f"{path.name}: the pixel data are missing")
    raw, syntax = data.PixelData, data.file_meta.TransferSyntaxUID
    if (integer(data, "SamplesPerPixel") or 1) != 1:
        raise UnreadableImage(f"{path.name}: a colour picture; expected a grey chest film")
    if (integer(data, "NumberOfFrames") or 1) != 1:
        raise UnreadableImage(f"{path.name}: {data.NumberOfFrames} frames; expected one")
    rows, columns = integer(data, "Rows") or 0, integer(data, "Columns") or 0
    if not rows or not columns:
        raise UnreadableImage(f"{path.name}: the header does not say how many rows and columns there are")
    check_shape(path, rows, columns)
    _polarity(path, data, notes)
    if syntax.is_encapsulated and not raw.startswith(b"\xfe\xff\x00\xe0"):
        raise UnreadableImage(f"{path.name}: declared as {syntax.name}, but the pixels are not compressed")
    if not syntax.is_encapsulated:
        _check_native(path, data, raw, rows * columns, notes)
    for name, usual in (("SamplesPerPixel", 1), ("PixelRepresentation", 0), ("BitsStored", data.get("BitsAllocated"))):
        if integer(data, name) is None and usual is not None:
            setattr(data, name, usual)
            notes.append(f"no {name} in the header; taken as {usual}")
    if not syntax.is_encapsulated and data.BitsAllocated in (16, 32):
        return _native(data, raw, rows, columns, notes)
    if integer(data, "HighBit") is None:
        data.HighBit = (integer(data, "BitsStored") or 8) - 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels = data.pixel_array
    except Exception as error:  # each decoder has errors of its own; each means the same to the reader
        reason = " ".join(str(error).split())[:250] or type(error).__name__
        raise UnreadableImage(f"{path.name}: the pixels cannot be decoded as {syntax.name} ({reason})") from error
    if pixels.ndim != 2:
        raise UnreadableImage(f"{path.name}: expected one grey frame, found an array of shape {pixels.shape}")
    if syntax.is_encapsulated and re.match("JPEG|High-Throughput", syntax.name) and not _ends(data):
        raise UnreadableImage(f"{path.name}: the {syntax.name} stream is cut short")
    return pixels


def _native(data, raw: bytes, rows: int, columns: int, notes: list[str]) -> np.ndarray:
    """Uncompressed words to stored values.

    Not pydicom's `pixel_array`: it cuts the values to BitsStored, so that a header with too few bits, or one whose
    values lie in the upper bits of the word, turns the film into noise without a word.
    """
    word, signed = data.BitsAllocated, data.PixelRepresentation == 1
    order = "<" if data.file_meta.TransferSyntaxUID.is_little_endian else ">"
    pixels = np.frombuffer(raw, f"{order}u{word // 8}", count=rows * columns).reshape(rows, columns)
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    bits = min(max(integer(data, "BitsStored") or word, 1), word)
    shift = min(max(integer(data, "HighBit") or 0, bits - 1), word - 1) + 1 - bits
    if shift and not (pixels & (2**shift - 1)).any():
        pixels = pixels >> shift  # early scanners kept the values in the upper bits
    if signed:
        above = pixels >> bits if bits < word else 0
        if bits < word and not np.any(above):  # the sign is in the highest stored bit only
            return (pixels.astype(np.int64) ^ (1 << (bits - 1))) - (1 << (bits - 1))
        return pixels.view(f"i{word // 8}")
    if bits < word and pixels.max() >= 2**bits:
        if (0x6000, 0x0102) in data and (0x6000, 0x3000) not in data:
            return pixels & (2**bits - 1)  # a drawing is kept in the unused bits
        notes.append(f"pixels use more than the {bits} bits that the header announces")
    return pixels


def _check_native(path: Path, data, raw: bytes, n_pixels: int, notes: list[str]) -> None:
    """Uncompressed pixel data have exactly the announced length; a little padding is let pass."""
    bits = integer(data, "BitsAllocated")
    wanted = n_pixels * (bits or 8 * max(1, len(raw) // n_pixels)) // 8
    if raw.startswith(b"\xfe\xff\x00\xe0") or (
        len(raw) != wanted and (b"\xff\x4f\xff\x51" in raw[:128] or raw.startswith(b"\xff\xd8\xff"))
    ):
        raise UnreadableImage(
            f"{path.name}: compressed pixels, declared as {data.file_meta.TransferSyntaxUID.name}, which holds none"
        )
    if len(raw) < wanted:
        raise UnreadableImage(f"{path.name}: the pixel data are cut short ({len(raw)} bytes, expected {wanted})")
    if len(raw) > wanted + max(wanted // 50, 2):
        raise UnreadableImage(f"{path.name}: {len(raw)} bytes of pixel data, the header announces {wanted}")
    if bits is None:
        data.BitsAllocated = 8 * wanted // n_pixels
        notes.append(f"no BitsAllocated in the header; {data.BitsAllocated} by the number of bytes")


def _ends(data) -> bool:
    """Whether a JPEG or JPEG 2000 stream holds its end marker, padding aside. Some decoders fill up what is missing."""
    from pydicom.encaps import get_frame

    return b"\xff\xd9" in get_frame(data.PixelData, 0, number_of_frames=1).rstrip(b"\0")[-16:]


def _polarity(path: Path, data, notes: list[str]) -> str:
    given = str(get(data, "PhotometricInterpretation") or "")
    written = given.strip().upper() or "MONOCHROME2"
    if written not in ("MONOCHROME1", "MONOCHROME2"):
        raise UnreadableImage(f"{path.name}: expected a grey film, found {written}")
    if given != written:
        data.PhotometricInterpretation = written
        notes.append(f"photometric interpretation {given!r}; taken as {written}")
    return written
