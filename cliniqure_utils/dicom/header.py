"""Opening a file and reading single values of its header."""

import warnings
from pathlib import Path

MAX_PIXELS = 120_000_000  # a film has 4-12 million; a header that announces more is refused before memory is taken
MIN_SIDE = 8  # pixels
MAX_ASPECT = 8  # longer pictures are strips, not films
EXTENSIONS = (".dicom", ".dcm", ".dic", ".png", ".jpg", ".jpeg")


class UnreadableImage(ValueError):
    """A file is not a readable frontal film; the message names the file and the reason."""


def image_id_of(path: str | Path) -> str:
    """The exact stem of a file name: only a known extension is taken off, so `a.b.c.dicom` is `a.b.c`."""
    name = Path(path).name
    return name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in EXTENSIONS else name


def is_picture(path: Path) -> bool:
    """True for a PNG or JPEG, by its first bytes. Raises UnreadableImage where the file cannot be opened."""
    try:
        with open(path, "rb") as file:
            start = file.read(8)
    except FileNotFoundError:
        raise UnreadableImage(f"{path.name}: there is no such file") from None
    except OSError as error:
        raise UnreadableImage(f"{path.name}: cannot be opened ({error.strerror})") from error
    return start.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"))


def check_shape(path: Path, rows: int, columns: int) -> None:
    """Refuse sizes that no film has."""
    if rows * columns > MAX_PIXELS:
        raise UnreadableImage(f"{path.name}: {columns} x {rows} pixels announced, more than any film has")
    if min(rows, columns) < MIN_SIDE or max(rows, columns) > MAX_ASPECT * min(rows, columns):
        raise UnreadableImage(f"{path.name}: {columns} x {rows} pixels is a strip, not a film")


def read_dataset(path: Path, notes: list[str], header_only: bool = False):
    """pydicom data set with a transfer syntax; adds to `notes` what was odd. Raises UnreadableImage."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.errors import InvalidDicomError
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                data = pydicom.dcmread(path, stop_before_pixels=header_only)
            except InvalidDicomError:  # no preamble: old files start with the data set at once
                data = pydicom.dcmread(path, stop_before_pixels=header_only, force=True)
                if "Rows" not in data or "Columns" not in data:
                    raise UnreadableImage(f"{path.name}: not a DICOM file") from None
                notes.append("no DICOM preamble; read as a bare data set")
    except UnreadableImage:
        raise
    except Exception as error:  # a damaged header fails in many ways; each means the same to the user
        raise UnreadableImage(f"{path.name}: the header cannot be read ({type(error).__name__}: {error})") from error
    if "TransferSyntaxUID" not in (data.file_meta or ()):
        implicit, little = data.original_encoding
        syntax = ImplicitVRLittleEndian if implicit in (True, None) else ExplicitVRLittleEndian
        if little is False:
            syntax = ExplicitVRBigEndian
        data.file_meta = data.file_meta if data.file_meta is not None else FileMetaDataset()
        data.file_meta.TransferSyntaxUID = syntax
        notes.append(f"no transfer syntax in the header; read as {syntax.name}")
    return data


def get(data, name: str):
    """A header value, None where it is absent, empty or cannot be parsed."""
    try:
        value = data.get(name)
    except Exception:  # pydicom parses on access, and a broken value raises whatever its parser raises
        return None
    return None if value is None or value == "" else value


def integer(data, name: str) -> int | None:
    """A header value as int, None where it is absent or no number."""
    try:
        return int(get(data, name))
    except (TypeError, ValueError, OverflowError):
        return None


def numbers(value) -> list[float]:
    """Numbers of a header value that may hold one, several or none; NaN for a part that is none."""
    if value is None:
        return []
    parts = [value] if isinstance(value, (str, int, float)) or not hasattr(value, "__iter__") else list(value)
    out = []
    for part in parts:
        try:
            out.append(float(part))
        except (TypeError, ValueError):
            out.append(float("nan"))
    return out


def padding_range(data) -> tuple[int, int] | None:
    """Lowest and highest stored value that is no part of the film; None where the header names none."""
    value, limit = integer(data, "PixelPaddingValue"), integer(data, "PixelPaddingRangeLimit")
    return None if value is None else tuple(sorted((value, value if limit is None else limit)))
