"""DICOM files of chest films: grey values, header facts, and the conversion of an archive to a cache.

Order of steps (DICOM PS3.3, C.7.6.3.1.2 and C.11.2): modality LUT, then VOI LUT or window, then polarity. Decoders:
pydicom with python-gdcm (JPEG family, BSD), pyjpegls and pylibjpeg-openjpeg (MIT); RLE and deflate are pydicom's own.
"""

import hashlib
import re
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from cliniqure_utils.runs import atomic_path, write_json

MAX_PIXELS = 120_000_000  # a film has 4-12 million; a header that announces more is refused before memory is taken
MIN_SIDE = 16  # pixels; thinner pictures are strips, not films
MAX_ASPECT = 8
PICTURES = (".png", ".jpg", ".jpeg")


class UnreadableImage(ValueError):
    """A file that is no readable frontal film; the message names the file and the reason."""


def load_cxr(path: str | Path, size: int | None = None, percentiles: tuple[float, float] | None = None) -> np.ndarray:
    """Read one film.

    Args:
        path: Single-frame grey-scale DICOM file, or a grey PNG or JPEG of 8 or 16 bits.
        size: Longest side of the result in pixels; a film is never enlarged. None keeps the size.
        percentiles: Clip at these two percentiles of the pixels in place of the header's window.

    Returns:
        float32 (height, width) in [0, 1]; dense tissue is bright, whichever way it was stored. The grey scale is
        the header's VOI LUT or window where it is usable, else the full range of the pixels (padding is left out of it
        and black in the result).

    Raises:
        UnreadableImage: With file and reason.
    """
    path = Path(path)
    if path.suffix.lower() in PICTURES:
        return _fit(load_image(path, percentiles), size)
    data = _read(path)
    pixels = _decode(path, data)
    polarity = _polarity(path, data)
    stored = pixels
    padding = _padding(data, stored)
    values = _modality(data, stored)
    scaled = None
    if percentiles is None:
        scaled = _window(path, data, values, stored)
    if scaled is None:
        inside = values[~padding] if padding is not None else values
        if inside.size == 0:
            raise UnreadableImage(f"{path.name}: every pixel is padding")
        low, high = np.percentile(inside, percentiles) if percentiles else (inside.min(), inside.max())
        if high <= low:
            raise UnreadableImage(f"{path.name}: every pixel has the value {low:g}; the export is probably broken")
        scaled = np.clip((values.astype(np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)
    if polarity == "MONOCHROME1":
        scaled = 1 - scaled
    if padding is not None:
        scaled[padding] = 0
    return _fit(scaled.astype(np.float32, copy=False), size)


def load_image(path: str | Path, percentiles: tuple[float, float] | None = None) -> np.ndarray:
    """A PNG or JPEG of 8 or 16 bits, grey -> float32 (height, width) in [0, 1], bright as stored.

    Raises:
        UnreadableImage: Not a picture, or a coloured one.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            image.load()
            array = np.asarray(image.convert("RGB") if image.mode in ("P", "RGBA", "LA", "CMYK") else image)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableImage(f"{path.name}: not a readable picture ({error})") from error
    if array.ndim == 3:
        if int(np.ptp(array[..., :3].astype(np.int32), axis=2).max()) > 12:
            raise UnreadableImage(f"{path.name}: a colour picture; expected a grey chest film")
        array = array[..., 0]
    _check_shape(path, *array.shape)
    full = 1 if array.dtype == bool else 255 if array.dtype == np.uint8 else 65535
    scaled = array.astype(np.float32) / full
    if percentiles is not None:
        low, high = np.percentile(scaled, percentiles)
        if high <= low:
            raise UnreadableImage(f"{path.name}: every pixel has the same value")
        scaled = np.clip((scaled - low) / (high - low), 0, 1).astype(np.float32)
    return scaled


def _fit(image: np.ndarray, size: int | None) -> np.ndarray:
    """Shrink to a longest side, by averaging areas; never enlarge."""
    height, width = image.shape
    if size is None or max(height, width) <= size:
        return image
    factor = size / max(height, width)
    new = (max(1, round(width * factor)), max(1, round(height * factor)))
    resized = Image.fromarray(image).resize(new, Image.Resampling.BOX)
    return np.clip(np.asarray(resized, np.float32), 0, 1)


# ---- header


def _read(path: Path):
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        try:
            data = pydicom.dcmread(path)
        except InvalidDicomError:
            data = pydicom.dcmread(path, force=True)
            if "Rows" not in data or "Columns" not in data:
                raise UnreadableImage(f"{path.name}: not a DICOM file") from None
    except UnreadableImage:
        raise
    except FileNotFoundError:
        raise UnreadableImage(f"{path.name}: there is no such file") from None
    except Exception as error:  # a damaged header fails in many ways; each means the same to the reader
        raise UnreadableImage(f"{path.name}: the header cannot be read ({type(error).__name__}: {error})") from error
    if data.file_meta is None or "TransferSyntaxUID" not in data.file_meta:
        from pydicom.dataset import FileMetaDataset
        from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

        meta = data.file_meta if data.file_meta is not None else FileMetaDataset()
        implicit = data.original_encoding[0] if data.original_encoding[0] is not None else True
        meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        data.file_meta = meta
        warnings.warn(
            f"{path.name}: no transfer syntax in the header; read as {meta.TransferSyntaxUID.name}", stacklevel=3
        )
    return data


def _check_shape(path: Path, rows: int, columns: int) -> None:
    if rows * columns > MAX_PIXELS:
        raise UnreadableImage(f"{path.name}: {columns} x {rows} pixels announced, more than any film has")
    if min(rows, columns) < MIN_SIDE or max(rows, columns) > MAX_ASPECT * min(rows, columns):
        raise UnreadableImage(f"{path.name}: {columns} x {rows} pixels is a strip, not a film")


def _decode(path: Path, data) -> np.ndarray:
    if "PixelData" not in data and "FloatPixelData" not in data:
        raise UnreadableImage(f"{path.name}: the pixel data are missing")
    if not data.get("PixelData"):
        raise UnreadableImage(f"{path.name}: the pixel data are missing (length 0)")
    rows, columns = int(data.get("Rows") or 0), int(data.get("Columns") or 0)
    if int(data.get("SamplesPerPixel") or 1) != 1:
        raise UnreadableImage(f"{path.name}: a colour picture; expected a grey chest film")
    if int(data.get("NumberOfFrames") or 1) != 1:
        raise UnreadableImage(f"{path.name}: {data.NumberOfFrames} frames; expected one")
    _check_shape(path, rows, columns)
    syntax = data.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        start = bytes(data.PixelData[:16])
        if start[:4] == b"\xfe\xff\x00\xe0" or b"\xff\x4f\xff\x51" in bytes(data.PixelData[:64]):
            raise UnreadableImage(f"{path.name}: compressed pixels declared as {syntax.name}")
        wanted = rows * columns * int(data.get("BitsAllocated") or 16) // 8
        if len(data.PixelData) < wanted:
            raise UnreadableImage(
                f"{path.name}: the pixel data are cut short ({len(data.PixelData)} bytes, expected {wanted})"
            )
    _polarity(path, data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels = data.pixel_array
    except UnreadableImage:
        raise
    except Exception as error:  # each decoder has errors of its own; each means the same to the reader
        first = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise UnreadableImage(f"{path.name}: the pixels cannot be decoded as {syntax.name} ({first})") from error
    if pixels.ndim != 2:
        raise UnreadableImage(f"{path.name}: expected one grey frame, found an array of shape {pixels.shape}")
    if "2000" in syntax.name and _cut_code_stream(data):
        raise UnreadableImage(f"{path.name}: the JPEG 2000 code stream is cut short")
    return pixels


def _cut_code_stream(data) -> bool:
    """True when a JPEG 2000 code stream does not end with its end marker (FF D9), padding aside."""
    from pydicom.encaps import get_frame

    frame = get_frame(data.PixelData, 0, number_of_frames=1)
    return b"\xff\xd9" not in frame[-4:]


def _polarity(path: Path, data) -> str:
    written = str(data.get("PhotometricInterpretation") or "").strip().upper()
    if not written:
        warnings.warn(f"{path.name}: no photometric interpretation; taken as MONOCHROME2", stacklevel=3)
        written = "MONOCHROME2"
    if written not in ("MONOCHROME1", "MONOCHROME2"):
        raise UnreadableImage(f"{path.name}: expected a grey film, found {written}")
    if data.get("PhotometricInterpretation") != written:
        data.PhotometricInterpretation = written
    return written


def _padding(data, stored: np.ndarray) -> np.ndarray | None:
    value = data.get("PixelPaddingValue")
    if value is None:
        return None
    limit = data.get("PixelPaddingRangeLimit")
    low, high = sorted((int(value), int(limit if limit is not None else value)))
    mask = (stored >= low) & (stored <= high)
    return mask if mask.any() else None


def _modality(data, stored: np.ndarray) -> np.ndarray:
    from pydicom.pixels import apply_modality_lut

    if data.get("ModalityLUTSequence"):
        return apply_modality_lut(stored, data)
    slope, intercept = _number(data.get("RescaleSlope")), _number(data.get("RescaleIntercept"))
    if slope in (None, 0) and intercept is None or (slope, intercept) == (1, 0):
        return stored
    return stored.astype(np.float32) * np.float32(slope or 1) + np.float32(intercept or 0)


def _window(path: Path, data, values: np.ndarray, stored: np.ndarray) -> np.ndarray | None:
    """Grey values in [0, 1] by the header's VOI LUT or window; None where it has none that is usable."""
    from pydicom.pixels import apply_voi

    if data.get("VOILUTSequence"):
        try:
            looked_up = apply_voi(values, data)
            bits = int(data.VOILUTSequence[0].LUTDescriptor[2])
            return looked_up.astype(np.float32) / np.float32(2**bits - 1)
        except Exception as error:  # an unusable table falls back to the window or the full range
            warnings.warn(f"{path.name}: unusable VOI LUT ({type(error).__name__}); not used", stacklevel=3)
    if "WindowCenter" not in data and "WindowWidth" not in data:
        return None
    centre, width = _number(data.get("WindowCenter")), _number(data.get("WindowWidth"))
    if centre is None or width is None or width <= 0 or not np.isfinite([centre, width]).all():
        warnings.warn(
            f"{path.name}: unusable window (centre {centre}, width {width}); the full range is used", stacklevel=3
        )
        return None
    values = values.astype(np.float32)
    function = str(data.get("VOILUTFunction") or "LINEAR").strip().upper()
    if function == "SIGMOID":
        scaled = 1 / (1 + np.exp(-4 * (values - centre) / width))
    elif function == "LINEAR_EXACT" or width <= 1:
        scaled = (values - centre) / width + 0.5
    else:
        scaled = (values - (centre - 0.5)) / (width - 1) + 0.5
    scaled = np.clip(scaled, 0, 1).astype(np.float32)
    if scaled.max() - scaled.min() < 0.02:
        warnings.warn(f"{path.name}: the window misses the pixels; the full range is used", stacklevel=3)
        return None
    return scaled


def _number(value) -> float | None:
    """First number of a header value; None where there is none."""
    if value is None or value == "":
        return None
    if not isinstance(value, str) and hasattr(value, "__iter__"):
        value = next(iter(value), None)
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def read_header(path: str | Path) -> dict:
    """Facts from the header; what it does not say is None, never a guess.

    Returns:
        image_id (the file's stem, exactly), rows, columns, age_years (float; months, weeks and days are converted, 000Y
        and unreadable ages are None), sex ("F", "M" or None), view, spacing_mm (row, column at the detector),
        transfer_syntax, photometric, uid, patient_key (a hash; no name, id or date leaves the file).

    Raises:
        UnreadableImage: With file and reason.
    """
    path = Path(path)
    return _facts(path, _read(path))


def _facts(path: Path, data) -> dict:
    sex = str(data.get("PatientSex") or "").strip().upper()
    patient = str(data.get("PatientID") or "").strip()
    spacing = data.get("PixelSpacing") or data.get("ImagerPixelSpacing")
    try:
        spacing = tuple(float(v) for v in spacing) if spacing else None
    except (TypeError, ValueError):
        spacing = None
    return {
        "image_id": path.stem,
        "rows": int(data.get("Rows") or 0) or None,
        "columns": int(data.get("Columns") or 0) or None,
        "age_years": _age(data.get("PatientAge")),
        "sex": sex if sex in ("F", "M") else None,
        "view": str(data.get("ViewPosition") or "").strip().upper() or None,
        "spacing_mm": spacing if spacing and len(spacing) == 2 else None,
        "transfer_syntax": data.file_meta.TransferSyntaxUID.name,
        "photometric": str(data.get("PhotometricInterpretation") or "").strip() or None,
        "uid": str(data.get("SOPInstanceUID") or "") or None,
        "patient_key": hashlib.sha256(f"cliniqure {patient}".encode()).hexdigest()[:16] if patient else None,
    }


def _age(value) -> float | None:
    text = str(value or "").strip().upper()
    match = re.fullmatch(r"(\d{1,3})([DWMY]?)", text)
    if not match or int(match[1]) == 0:
        return None
    if not match[2] and len(match[1]) == 3 and not 0 < int(match[1]) <= 120:
        return None
    years = int(match[1]) / {"D": 365.25, "W": 52.18, "M": 12, "Y": 1, "": 1}[match[2]]
    return round(years, 2) if years <= 120 else None


# ---- archive


def safe_name(image_id: str) -> bool:
    """True where an image id may become a file name: no path separator, no parent folder, not empty, no NUL."""
    return bool(image_id.strip()) and image_id not in (".", "..") and not re.search(r"[/\\\x00]", image_id)


def convert_archive(
    paths: Iterable[str | Path], out_dir: str | Path, size: int, n_jobs: int = -1
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Convert films to 8-bit PNG.

    Films that are there already and whose source has not changed are kept, so an interrupted run goes on.

    Args:
        paths: DICOM files (or PNG, JPEG).
        out_dir: Gets `<image_id>.png`, image_id being the exact stem of the file name.
        size: Longest side in pixels; films are never enlarged.
        n_jobs: joblib workers, -1 for one per core. joblib's Dask backend spreads them over a cluster.

    Returns:
        (index, rejected). index: image_id, source (file name), rows, columns (DICOM pixels), height, width (PNG),
        age_years, sex, view, patient_key (hash; the image id where the header names no patient), transfer_syntax,
        duplicate_of (first film with the same unique identifier, else empty). rejected: source, image_id, reason.
    """
    from joblib import Parallel, delayed
    from tqdm.auto import tqdm

    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = [Path(p) for p in paths]
    batches = [paths[k : k + 16] for k in range(0, len(paths), 16)]
    work = Parallel(n_jobs=n_jobs, return_as="generator")(delayed(_convert_batch)(b, out_dir, size) for b in batches)
    results = []
    with tqdm(total=len(paths), desc="converting films", unit="film") as bar:
        for batch in work:
            results += batch
            bar.update(len(batch))
    index, rejected, seen = [], [], {}
    for path, facts, reason in results:
        if reason is None and facts["image_id"] in seen:
            reason = f"a second file with the image id of {seen[facts['image_id']]}"
        if reason is not None:
            rejected.append({"source": path.name, "image_id": path.stem, "reason": reason})
            continue
        seen[facts["image_id"]] = path.name
        index.append({**facts, "source": path.name})
    columns = ["image_id", "source", "rows", "columns", "height", "width", "age_years", "sex", "view", "patient_key",
               "transfer_syntax", "duplicate_of"]  # fmt: skip
    table = pd.DataFrame(index, columns=[*columns, "uid"])
    first = table[table.uid.notna()].drop_duplicates("uid").set_index("uid").image_id
    original = table.uid.map(first)
    table["duplicate_of"] = original.where(original.notna() & (original != table.image_id), "")
    n_shared = int((table.duplicate_of != "").sum())
    if n_shared:
        warnings.warn(f"{n_shared} films share the unique identifier of another film; see duplicate_of", stacklevel=2)
    table["patient_key"] = table.patient_key.fillna(table.image_id)
    return table[columns], pd.DataFrame(rejected, columns=["source", "image_id", "reason"])


def _convert_batch(paths: list[Path], out_dir: Path, size: int) -> list[tuple[Path, dict | None, str | None]]:
    out = []
    for path in paths:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                out.append((path, _convert(path, out_dir, size), None))
        except UnreadableImage as error:
            out.append((path, None, str(error)))
    return out


def _convert(path: Path, out_dir: Path, size: int) -> dict:
    import json

    image_id = path.stem
    if not safe_name(image_id):
        raise UnreadableImage(f"{path.name}: the image id {image_id!r} cannot be a file name")
    try:
        state = path.stat()
    except FileNotFoundError:
        raise UnreadableImage(f"{path.name}: there is no such file") from None
    stamp = f"{state.st_size} {state.st_mtime_ns} {size}"
    target, note = out_dir / f"{image_id}.png", out_dir / ".facts" / f"{image_id}.json"
    if target.is_file() and note.is_file():
        known = json.loads(note.read_text(encoding="utf-8"))
        if known.pop("stamp") == stamp:
            return known
    if path.suffix.lower() in PICTURES:
        film = load_image(path)
        facts = dict.fromkeys(("age_years", "sex", "view", "uid", "patient_key", "transfer_syntax"))
        facts |= {"image_id": image_id, "rows": film.shape[0], "columns": film.shape[1]}
        film = _fit(film, size)
    else:
        facts = {k: v for k, v in read_header(path).items() if k not in ("spacing_mm", "photometric")}
        film = load_cxr(path, size)
    facts |= {"height": film.shape[0], "width": film.shape[1]}
    with atomic_path(target) as temporary:
        Image.fromarray(np.uint8(np.rint(film * 255))).save(temporary, format="PNG", compress_level=3)
    write_json(note, {**facts, "stamp": stamp})
    return facts
