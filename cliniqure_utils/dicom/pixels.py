"""Decoding a DICOM data set to the values that the scanner stored."""

import io
import re
import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from cliniqure_utils.dicom.header import UnreadableImage, check_shape, get, integer, padding_range

RLE = "1.2.840.10008.1.2.5"
JPEG_2000_PLUGIN = "pylibjpeg"
MAX_REDUCTION = 3  # halvings; Pillow refuses more, and from there on decoding is no longer the slow part
SPARE = 1.25  # a reduced film keeps this many times the side wanted: real films then match the full decode to 51 dB


def decode_pixels(path: Path, data, notes: list[str], longest_side: int | None = None) -> tuple[np.ndarray, int]:
    """Decode the stored values; sets in `data` what the header left out where there is no doubt about it.

    Args:
        path: Names the file in messages.
        data: pydicom data set with pixels.
        notes: Gets what was odd.
        longest_side: Where the stream holds smaller versions of the film (JPEG 2000), the smallest one is decoded whose
            longest side is still a quarter longer than this, in pixels. None decodes the full size.

    Returns:
        (stored, n): integers of any type, (rows, columns) each divided by 2**n and rounded up. Sample i of a side
        stands for the surroundings of pixel i * 2**n, not of the middle of its 2**n pixels.

    Raises:
        UnreadableImage: With file and reason.
    """
    if not get(data, "PixelData"):
        raise UnreadableImage(f"{path.name}: {_without_pixels(data)}")
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
        order = "<" if syntax.is_little_endian else ">"
        words = np.frombuffer(raw, f"{order}u{data.BitsAllocated // 8}", count=rows * columns).reshape(rows, columns)
        return _stored_values(data, words.astype(words.dtype.newbyteorder("="), copy=False), notes), 0
    if integer(data, "HighBit") is None:
        data.HighBit = (integer(data, "BitsStored") or 8) - 1
    if syntax == RLE or (not syntax.is_encapsulated and data.BitsAllocated == 8):
        return _stored_values(data, _words(path, data, ""), notes), 0
    if not syntax.is_encapsulated:
        return _plain(path, data, notes), 0
    frame, found, plugin = _check_stream(path, data, rows, columns)
    if found["family"] == "JPEG" and not found["lossless"] and found["bits"] > 8:
        return _stored_values(data, _lossy_12_bits(path, data, frame, found), notes), 0
    if plugin != JPEG_2000_PLUGIN:
        return _stored_values(data, _words(path, data, plugin), notes), 0
    reduction = _reduction(data, found, longest_side)
    reduced = _decode_reduced(frame, found, reduction) if reduction else None
    return (_plain(path, data, notes, plugin), 0) if reduced is None else (reduced, reduction)


def _without_pixels(data) -> str:
    """What a data set without Pixel Data is."""
    from pydicom.uid import UID, MediaStorageDirectoryStorage

    kind = str(get(data, "SOPClassUID") or get(data.file_meta, "MediaStorageSOPClassUID") or "")
    if kind == MediaStorageDirectoryStorage:
        return "a DICOMDIR, which lists the files of a medium; give the files themselves"
    if "FloatPixelData" in data or "DoubleFloatPixelData" in data:
        return "the pixels are floating-point numbers (a computed map); expected the integers of a film"
    if "PixelDataProviderURL" in data:
        return "the pixels are not in the file but on a server"
    name = UID(kind).name
    if name != kind and "Image" not in name:
        return f"no picture, but {name}"
    return "the pixel data are missing"


def _plain(path: Path, data, notes: list[str], plugin: str = "") -> np.ndarray:
    """Pixels as pydicom gives them: for uncompressed pixels of 1 bit, and for JPEG 2000, the only stream that says
    itself whether values are signed; pydicom compares that with the header."""
    pixels, _ = _decode(path, data, plugin)
    bits = integer(data, "BitsStored")
    return _film_bits(data, pixels, bits, notes) if bits and bits < 8 * pixels.itemsize else pixels


def _reduction(data, found: dict, longest_side: int | None) -> int:
    """How often the sides of a JPEG 2000 stream may be halved and still have `longest_side` pixels."""
    as_announced = (
        not found["signed"] and data.PixelRepresentation == 0 and found["bits"] == integer(data, "BitsStored")
    )
    if longest_side is None or not as_announced or not found["at_origin"] or found["bits"] > 16:
        return 0
    longest = max(found["rows"], found["columns"])
    needed = SPARE * longest_side
    possible = [n for n in range(min(found["levels"], MAX_REDUCTION) + 1) if -(-longest // 2**n) >= needed]
    return max(possible, default=0)


def _decode_reduced(frame: bytes, found: dict, reduction: int) -> np.ndarray | None:
    """The `reduction`-times halved version within a JPEG 2000 stream; None where Pillow cannot make it.

    Each halving is the low band of one wavelet step, which leaves out the fine bands, most of the bytes.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size was checked before
            with Image.open(io.BytesIO(frame)) as image:
                image.reduce = reduction
                pixels = np.asarray(image)
    except (OSError, ValueError, SyntaxError):
        return None
    sides = tuple(-(-found[name] // 2**reduction) for name in ("rows", "columns"))
    if pixels.shape != sides or pixels.dtype not in (np.uint8, np.uint16):
        return None
    return pixels >> (pixels.dtype.itemsize * 8 - found["bits"])  # Pillow spreads the values over the whole word


def _decode(path: Path, data, plugin: str) -> tuple[np.ndarray, list[str]]:
    """pydicom's decoding by one plug-in ("": its own choice), and what it warned of."""
    from pydicom.pixels import pixel_array

    syntax = data.file_meta.TransferSyntaxUID
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pixels = pixel_array(data, decoding_plugin=plugin)
    except Exception as error:  # each decoder has errors of its own; each means the same to the user
        reason = " ".join(str(error).split())[:250] or type(error).__name__
        raise UnreadableImage(f"{path.name}: the pixels cannot be decoded as {syntax.name} ({reason})") from error
    if pixels.ndim != 2:
        raise UnreadableImage(f"{path.name}: expected one grey frame, found an array of shape {pixels.shape}")
    return pixels, [str(warning.message) for warning in caught]


def _words(path: Path, data, plugin: str) -> np.ndarray:
    """Words as they were packed, all bits of them; which bits count is decided as for uncompressed words."""
    word, names = data.BitsAllocated, ("BitsStored", "HighBit", "PixelRepresentation")
    given = [getattr(data, name) for name in names]
    data.BitsStored, data.HighBit, data.PixelRepresentation = word, word - 1, 0
    words, said = _decode(path, data, plugin)
    data.BitsStored, data.HighBit, data.PixelRepresentation = given
    # A little padding is accepted, as in uncompressed files; more means pixels that the header does not announce.
    lengths = [pair for text in said for pair in re.findall(r"(\d+) vs\. (\d+) bytes", text)]
    if any(int(found) > int(wanted) + max(int(wanted) // 50, 16) for found, wanted in lengths):
        raise UnreadableImage(f"{path.name}: the RLE stream holds more pixels than the header announces")
    return words.astype(f"u{word // 8}", copy=False)


def _lossy_12_bits(path: Path, data, frame: bytes, found: dict) -> np.ndarray:
    """Words of a JPEG Extended stream of 12 bits, by gdcm itself.

    pydicom refuses to ask gdcm for these; asked for the bits that the stream announces, it returns the same pixels as
    libjpeg-turbo.
    """
    import gdcm

    fragment, fragments = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
    fragment.SetByteStringValue(frame)
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((found["columns"], found["rows"], 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, found["bits"], found["bits"] - 1, 0))
    raw = image.GetBuffer().encode("utf-8", "surrogateescape")  # gdcm hands bytes over as text
    if len(raw) != 2 * found["rows"] * found["columns"]:
        raise UnreadableImage(f"{path.name}: the pixels cannot be decoded as {data.file_meta.TransferSyntaxUID.name}")
    return np.frombuffer(raw, "<u2").reshape(found["rows"], found["columns"])


def _check_stream(path: Path, data, rows: int, columns: int) -> tuple[bytes, dict, str]:
    """Compare a JPEG, JPEG-LS or JPEG 2000 stream with the header.

    Returns:
        (stream, `stream_facts` of it, the pydicom plug-in to decode it with).

    Decoders take the header's word for size, kind and bits: where it is wrong they return noise, and gdcm ends the
    whole process. They are asked only for what the stream itself says it holds.
    """
    from pydicom.encaps import get_frame

    syntax = data.file_meta.TransferSyntaxUID
    try:
        frame = get_frame(data.PixelData, 0, number_of_frames=1)
    except Exception as error:  # the fragments are damaged in one of many ways
        raise UnreadableImage(f"{path.name}: the compressed pixels are damaged ({error})") from error
    found = stream_facts(frame)
    declared = next((name for name in ("JPEG 2000", "JPEG-LS", "JPEG") if name in syntax.name), syntax.name)
    if found is None:
        raise UnreadableImage(f"{path.name}: declared as {syntax.name}, but the pixels are no {declared} stream")
    if found["family"] != declared:
        raise UnreadableImage(f"{path.name}: declared as {syntax.name}, but the pixels are {found['family']}")
    if found["components"] != 1:
        raise UnreadableImage(f"{path.name}: a colour picture; expected a grey chest film")
    if (found["columns"], found["rows"]) != (columns, rows):
        raise UnreadableImage(
            f"{path.name}: the {declared} stream holds {found['columns']} x {found['rows']} pixels, the header "
            f"announces {columns} x {rows}"
        )
    if found["bits"] > data.BitsAllocated:
        raise UnreadableImage(
            f"{path.name}: the {declared} stream holds {found['bits']}-bit values, the header has room for "
            f"{data.BitsAllocated} bits"
        )
    # The end marker, padding aside. Some decoders fill up what is missing.
    if b"\xff\xd9" not in frame.rstrip(b"\0")[-16:]:
        raise UnreadableImage(f"{path.name}: the {syntax.name} stream is cut short")
    # gdcm only where nothing else decodes: damaged streams can make it end the process.
    plugin = {"JPEG 2000": JPEG_2000_PLUGIN, "JPEG-LS": "pyjpegls"}.get(found["family"], "gdcm")
    if plugin == "gdcm" and found["bits"] == 8 and not found["lossless"]:
        plugin = "pillow"
    return frame, found, plugin


def stream_facts(frame: bytes) -> dict | None:
    """What a compressed stream says of itself; None where it is none of the three kinds or ends inside its header.

    Returns:
        family ("JPEG", "JPEG-LS" or "JPEG 2000"), rows, columns, components, bits; of JPEG, lossless (another decoder);
        of JPEG 2000, signed, levels (how often its sides can be halved), at_origin (no offset of its grid).

    Source: ITU-T T.81 annex B (JPEG), T.87 annex C (JPEG-LS), T.800 annex A (JPEG 2000, markers SIZ and
    COD).
    """
    try:
        start = frame.find(b"\xff\x4f\xff\x51", 0, 1024)  # 0, or behind the boxes of a JP2 file
        if start >= 0:
            x1, y1, x0, y0 = struct.unpack_from(">4I", frame, start + 8)
            (components,), depth = struct.unpack_from(">H", frame, start + 40), frame[start + 42]
            at = start + 2
            while (code := struct.unpack_from(">H", frame, at)[0]) != 0xFF52:
                if not 0xFF50 <= code <= 0xFF6F:
                    return None
                at += 2 + struct.unpack_from(">H", frame, at + 2)[0]
            return dict(family="JPEG 2000", rows=y1 - y0, columns=x1 - x0, components=components,
                        bits=(depth & 0x7F) + 1, lossless=False, signed=depth > 0x7F, levels=frame[at + 9],
                        at_origin=not x0 and not y0)  # fmt: skip
        at = 2 if frame.startswith(b"\xff\xd8") else len(frame)
        while True:
            mark, code, length = struct.unpack_from(">BBH", frame, at)
            if mark != 0xFF:
                return None
            if code == 0xFF:  # a fill byte
                at += 1
            elif code == 0xF7 or (0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC)):
                bits, rows, columns, components = struct.unpack_from(">BHHB", frame, at + 4)
                return dict(family="JPEG-LS" if code == 0xF7 else "JPEG", rows=rows, columns=columns,
                            components=components, bits=bits, lossless=code in (0xC3, 0xC7, 0xCB, 0xCF))  # fmt: skip
            else:
                at += 2 + length
    except (struct.error, IndexError):
        return None


def _stored_values(data, words: np.ndarray, notes: list[str]) -> np.ndarray:
    """Words (unsigned, BitsAllocated wide) to stored values.

    Not pydicom's `pixel_array`: it cuts the values to BitsStored, so that a header with too few bits, or one whose
    values lie in the upper bits of the word, silently turns the film into noise.
    """
    word = data.BitsAllocated
    bits = min(max(integer(data, "BitsStored") or word, 1), word)
    shift = min(max(integer(data, "HighBit") or 0, bits - 1), word - 1) + 1 - bits
    if shift and (not (words & (2**shift - 1)).any() or words.max() >= 2**bits):
        words = words >> shift  # early scanners kept the values in the upper bits
    if data.PixelRepresentation != 1:
        return _film_bits(data, words, bits, notes)
    values = words.view(f"i{word // 8}")
    if words.max() < 2**bits:  # the sign is in the highest stored bit only
        return _low_bits(values, bits)
    return _film_bits(data, values, bits, notes)


def _low_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """The lowest bits of each value, the highest of them its sign where the type has one."""
    unused = 8 * values.itemsize - bits
    return values << unused >> unused


def _film_bits(data, values: np.ndarray, bits: int, notes: list[str]) -> np.ndarray:
    """Values of the film, where some need more than the announced bits (the padding value may).

    Either the header announces too few bits, or the bits above are none of the film's: an overlay, or rubbish, which
    PS3.5 section 8.1.1 allows. Where the upper part changes by one, neighbours tell: a film goes on smoothly, in the
    first case from 4095 to 4096, in the second without regard to the upper part. A film of mere noise does neither; for
    it, upper parts without a gap are taken as the film's.
    """
    low = _low_bits(values, bits)
    padding = padding_range(data)
    if padding is not None:
        low = np.where((values >= padding[0]) & (values <= padding[1]), values, low)
    if np.array_equal(low, values):
        return values
    wide = np.int64 if values.itemsize > 2 else np.int32
    whole, low_wide = values.astype(wide), low.astype(wide)
    upper = (whole - low_wide) >> bits
    crossings = smooth = 0
    for axis in (0, 1):
        crossed = np.abs(np.diff(upper, axis=axis)) == 1
        step, low_step = (np.abs(np.diff(v, axis=axis)[crossed]) for v in (whole, low_wide))
        crossings += crossed.sum()
        smooth += (step < low_step).sum()
    found = np.unique(upper)
    without_gap = found[-1] - found[0] < len(found)
    if smooth > crossings / 2 or (without_gap and smooth > crossings / 16):
        notes.append(f"pixels use more than the {bits} bits that the header announces")
        return values
    notes.append(f"bits above the {bits} that the header announces are set in places; they are no part of the film")
    return low


def _check_native(path: Path, data, raw: bytes, n_pixels: int, notes: list[str]) -> None:
    """Refuse uncompressed pixel data that do not have the announced length; a little padding is accepted."""
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


def _polarity(path: Path, data, notes: list[str]) -> str:
    given = str(get(data, "PhotometricInterpretation") or "")
    written = given.strip().upper() or "MONOCHROME2"
    if written not in ("MONOCHROME1", "MONOCHROME2"):
        raise UnreadableImage(f"{path.name}: expected a grey film, found {written}")
    if given != written:
        data.PhotometricInterpretation = written
        notes.append(f"photometric interpretation {given!r}; taken as {written}")
    return written
