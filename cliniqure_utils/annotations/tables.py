"""Reading a CSV as a table of text, without guessing types or losing rows, and turning that text into numbers."""

import csv
import gzip
import io
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from cliniqure_utils.vocabulary import ANNOTATION_COLUMNS

MISSING = {"", "na", "n/a", "nan", "null", "none", "<na>"}
# Spellings of a column name, without case, blanks, hyphens and underscores: "Image ID" and "image_id" are the same.
_HEADER = {name.replace("_", ""): name for name in ANNOTATION_COLUMNS}


class BadAnnotations(ValueError):
    """A file of annotations that cannot be used at all; the message names the file and what is wrong."""


class Table(NamedTuple):
    """Cells as text under their usual column names; per row why it cannot be read ("" where it can)."""

    cells: pd.DataFrame
    reasons: np.ndarray


def read_table(path: Path) -> Table:
    """Read a CSV of the kinds that data sets and spreadsheets hold, also inside .gz or .zip.

    Commas or tabs between cells, UTF-8 or the UTF-16 of Excel's "Unicode text", any line end. Empty lines do not count.
    Python's csv module rather than pandas, which takes the first column for an index when rows are longer than the
    header, reads an id such as "NA" as missing, and stops at a row that has a cell too many.

    Raises:
        BadAnnotations: The file is missing, empty, not text, not a table, or names a column twice.
    """
    if not path.is_file():
        raise BadAnnotations(f"{path.name}: there is no such file")
    text = _decoded(_unpacked(path), path).replace("\r\n", "\n").replace("\r", "\n")
    lines = (line + "\n" for line in text.split("\n"))
    header_line = next((line for line in lines if line.strip()), None)
    if header_line is None:
        raise BadAnnotations(f"{path.name}: the file is empty")
    names, separator = _header(header_line, path)
    rows, reasons = [], []
    for row in _rows([line for line in lines if line.strip() or separator in line], separator, path):
        reason = ""
        if len(row) != len(names):
            if any(cell.strip() for cell in row[len(names) :]):
                reason = f"{len(row)} cells, the header has {len(names)}"
            # Spreadsheets leave out or add empty cells at the end of a row.
            row = row[: len(names)] + [""] * (len(names) - len(row))
        rows.append(row)
        reasons.append(reason)
    columns = zip(*rows, strict=True) if rows else ([] for _ in names)
    # A column without a name is an index that pandas wrote.
    named = {
        name: pd.array(list(column), dtype="str")
        for name, column in zip(names, columns, strict=True)
        if name and not re.fullmatch(r"Unnamed: \d+", name)
    }
    return Table(pd.DataFrame(named), np.array(reasons, dtype=object))


def _header(line: str, path: Path) -> tuple[list[str], str]:
    """Column names in their usual spelling, and the separator."""
    separator = max(",;\t", key=line.count)
    if separator == ";":
        raise BadAnnotations(
            f"{path.name}: the delimiter is a semicolon; save it with commas between cells and points before decimals"
        )
    if separator not in line:
        raise BadAnnotations(f"{path.name}: found one column, {line.strip()[:60]!r}; expected a comma-separated table")
    try:
        header = next(csv.reader([line], delimiter=separator))
    except csv.Error as error:
        raise BadAnnotations(f"{path.name}: the header is not readable ({error})") from error
    if any("\n" in name for name in header):
        raise BadAnnotations(f"{path.name}: a quotation mark opened in the header is not closed on its line")
    names = [_HEADER.get(re.sub(r"[\s_-]", "", name).lower(), name.strip()) for name in header]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise BadAnnotations(f"{path.name}: column {', '.join(twice)} is there more than once")
    return names, separator


def _rows(lines: list[str], separator: str, path: Path) -> Iterator[list[str]]:
    """Cells per line; a quoted cell may not go over the end of its line, or one stray mark would swallow many rows."""
    reader = csv.reader(lines, delimiter=separator)
    for n in range(len(lines)):
        try:
            row = next(reader)
        except csv.Error as error:
            if reader.line_num <= n + 1:
                raise BadAnnotations(f"{path.name}: data row {n + 1} is not readable ({error})") from error
            row = ["\n"]  # one cell spans so many lines that it is longer than csv allows
        if reader.line_num > n + 1 or row[-1].endswith("\n"):
            raise BadAnnotations(f"{path.name}: a quotation mark opened in data row {n + 1} is not closed on its line")
        yield row


def _unpacked(path: Path) -> bytes:
    """The bytes of a file, out of its .gz or .zip envelope."""
    raw = path.read_bytes()
    try:
        if raw.startswith(b"\x1f\x8b"):
            return gzip.decompress(raw)
        if raw.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(io.BytesIO(raw)) as archive:
                if "xl/workbook.xml" in archive.namelist():
                    raise BadAnnotations(f"{path.name}: this is a spreadsheet; expected a CSV, save it as one")
                # macOS puts a second, hidden entry beside each file.
                inside = [
                    name
                    for name in archive.namelist()
                    if name.lower().endswith(".csv") and not Path(name).name.startswith("._")
                ]
                if len(inside) != 1:
                    raise BadAnnotations(f"{path.name}: expected one .csv in the archive, found {len(inside)}")
                return archive.read(inside[0])
    except BadAnnotations:
        raise
    # zipfile raises RuntimeError for a password or an unknown method, ValueError and struct.error for a broken index.
    except (OSError, EOFError, ValueError, RuntimeError, struct.error, zlib.error, zipfile.BadZipFile) as error:
        raise BadAnnotations(f"{path.name}: the compressed file is damaged or locked ({error})") from error
    return raw


def _decoded(raw: bytes, path: Path) -> str:
    """Bytes to text: UTF-16 where its byte-order mark stands first, else UTF-8 with or without one."""
    encoding = "utf-16" if raw.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise BadAnnotations(
            f"{path.name}: the text is neither UTF-8 nor UTF-16 (line {line}, byte 0x{raw[error.start]:02x}); "
            "save it as UTF-8"
        ) from None
    if "\0" in text:
        raise BadAnnotations(f"{path.name}: this is no text file; expected a CSV in UTF-8")
    return text


def to_numbers(text: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Text (n,) -> float (n,), NaN where it is empty or not a number; and bool (n,), True where it is neither."""
    numbers = pd.to_numeric(text, errors="coerce").to_numpy(float, copy=True)
    odd = np.flatnonzero(np.isnan(numbers) & (text != "").to_numpy(bool))
    unreadable = np.zeros(len(text), bool)
    unreadable[odd] = ~text.iloc[odd].str.strip().str.lower().isin(MISSING).to_numpy(bool)
    return numbers, unreadable
