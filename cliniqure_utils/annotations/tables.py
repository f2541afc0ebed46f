"""A CSV of any usual dialect as a table of text, and numbers out of that text."""

import csv
import gzip
import io
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from cliniqure_utils.vocabulary import ANNOTATION_COLUMNS

MISSING = {"", "na", "n/a", "nan", "null", "none", "<na>"}
# Spellings of a column name, without case, blanks, hyphens and underscores: "Image ID" and "image_id" are the same.
_HEADER = {name.replace("_", ""): name for name in ANNOTATION_COLUMNS}
_ANNOUNCED = re.compile(r'\s*"?sep=([,;|\t])"?[ ,;|\t]*\n', re.IGNORECASE)
_FULL_LINE = re.compile(r"^.*\S.*$", re.MULTILINE)
_CHUNK = 50_000  # lines parsed with Python's csv module at a time: lists of small texts take much memory


class BadAnnotations(ValueError):
    """A file of annotations that cannot be used at all; the message names the file and what is wrong."""


class Table(NamedTuple):
    """Cells as text under their usual column names; per row why it cannot be read ("" where it can); the separator."""

    cells: pd.DataFrame
    reasons: np.ndarray
    separator: str


def read_table(path: Path) -> Table:
    """Read a CSV as text, nothing guessed and no row lost.

    Lines with as many separators as the header, and without a quotation mark, go through pandas' C parser; all others
    through Python's csv module. Pandas alone takes the first column for an index when rows are longer than the header,
    reads an id such as "NA" as missing, and stops at a row that has a cell too many.

    Raises:
        BadAnnotations: The file is missing, empty, no text, no table, or names a column twice.
    """
    if not path.is_file():
        raise BadAnnotations(f"{path.name}: there is no such file")
    text = _decode(_unpacked(path), path)
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    names, separator, start = _header(text, path)
    data = text[start:].encode()
    del text
    if data and not data.endswith(b"\n"):
        data += b"\n"
    codes = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(codes == ord("\n"))
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends

    def per_line(character: str) -> np.ndarray:
        places = np.flatnonzero(codes == ord(character))
        return np.diff(np.searchsorted(places, ends), prepend=0)

    count = per_line(separator)
    plain = count == len(names) - 1
    if b'"' in data:
        plain &= per_line('"') == 0
    full = np.ones(len(ends), bool)
    for n in np.flatnonzero(count == 0):
        full[n] = bool(data[starts[n] : ends[n]].decode().strip())
    odd = np.flatnonzero(full & ~plain)
    row_of = np.cumsum(full) - 1  # line -> row; empty lines do not count

    if len(odd) == 0 and full.all():
        parts = [_parsed(data, len(names), separator)]
    else:
        parts = [_parsed(codes[np.repeat(plain, ends + 1 - starts)].tobytes(), len(names), separator)]
    reasons = np.full(int(full.sum()), "", dtype=object)
    for n in range(0, len(odd), _CHUNK):
        lines = odd[n : n + _CHUNK]
        texts = [data[starts[k] : ends[k] + 1].decode() for k in lines]
        rows, why = [], []
        for row in _split(texts, separator, row_of[lines], path):
            extra = any(cell.strip() for cell in row[len(names) :])
            why.append(f"{len(row)} cells, the header has {len(names)}" if extra else "")
            # Spreadsheets leave out or add empty cells at the end of a row.
            rows.append(row[: len(names)] + [""] * (len(names) - len(row)))
        reasons[row_of[lines]] = why
        parts.append(pd.DataFrame(rows, columns=range(len(names)), dtype=str))
    cells = parts[0]
    if len(parts) > 1:
        order = np.argsort(np.concatenate([np.flatnonzero(plain), odd]), kind="stable")
        cells = pd.concat(parts, ignore_index=True).take(order).reset_index(drop=True)
    # A column without a name is an index that pandas wrote.
    named = [k for k, name in enumerate(names) if name and not re.fullmatch(r"Unnamed: \d+", name)]
    cells = cells[named]
    cells.columns = [names[k] for k in named]
    return Table(cells, reasons, separator)


def _header(text: str, path: Path) -> tuple[list[str], str, int]:
    """Column names in their usual spelling, the separator, and where the rows begin."""
    # Spreadsheets may announce the separator in a line of its own.
    announced = _ANNOUNCED.match(text)
    found = _FULL_LINE.search(text, announced.end() if announced else 0)
    if found is None:
        raise BadAnnotations(f"{path.name}: the file is empty")
    header_line, start = found[0], found.end() + 1
    separator = announced[1] if announced else max(",;\t|", key=header_line.count)
    if separator not in header_line:
        raise BadAnnotations(
            f"{path.name}: found one column, {header_line.strip()[:60]!r}; expected a comma-separated table"
        )
    try:
        header = next(csv.reader([header_line + "\n"], delimiter=separator))
    except csv.Error as error:
        raise BadAnnotations(f"{path.name}: the header is not readable ({error})") from error
    if any("\n" in name for name in header):
        raise BadAnnotations(f"{path.name}: a quotation mark opened in the header is not closed on its line")
    names = [_HEADER.get(re.sub(r"[\s_-]", "", name).lower(), name.strip()) for name in header]
    twice = sorted({name for name in names if names.count(name) > 1 and name in ANNOTATION_COLUMNS})
    if twice:
        raise BadAnnotations(f"{path.name}: column {', '.join(twice)} is there more than once")
    return names, separator, start


def _parsed(data: bytes, n_columns: int, separator: str) -> pd.DataFrame:
    """Lines that all have the same number of cells and no quotation mark."""
    # A header of our own keeps pandas from taking a byte-order mark off the first cell.
    header = separator.join(map(str, range(n_columns))).encode() + b"\n"
    table = pd.read_csv(
        io.BytesIO(header + data), sep=separator, header=0, index_col=False, dtype=str, na_filter=False,
        quoting=csv.QUOTE_NONE, skip_blank_lines=False, lineterminator="\n", encoding="utf-8", engine="c",
    )  # fmt: skip
    table.columns = range(n_columns)
    return table


def _split(lines: Sequence[str], separator: str, row_numbers: np.ndarray, path: Path) -> Iterator[list[str]]:
    """Cells per line; a quoted cell may not go over the end of its line, or one stray mark would swallow many rows."""
    reader = csv.reader(lines, delimiter=separator)
    for n in range(len(lines)):
        try:
            row = next(reader)
        except csv.Error as error:
            if reader.line_num <= n + 1:
                raise BadAnnotations(f"{path.name}: data row {row_numbers[n] + 1} is not readable ({error})") from error
            row = ["\n"]
        if any("\n" in cell for cell in row):
            raise BadAnnotations(
                f"{path.name}: a quotation mark opened in data row {row_numbers[n] + 1} is not closed on its line"
            )
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


def _decode(raw: bytes, path: Path) -> str:
    """Bytes to text: by the byte-order mark, else UTF-16 where every other byte is zero, else UTF-8."""
    start = raw[:200]
    if raw.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        encoding = "utf-32"
    elif raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif start.count(0) > len(start) // 4:
        encoding = "utf-16-le" if start[1::2].count(0) > start[::2].count(0) else "utf-16-be"
    else:
        encoding = "utf-8"
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise BadAnnotations(
            f"{path.name}: the text is neither UTF-8 nor UTF-16 (line {line}, byte 0x{raw[error.start]:02x}); "
            "save it as UTF-8"
        ) from None
    if "\0" in text:
        raise BadAnnotations(f"{path.name}: this is no text file; expected a CSV")
    return text.lstrip("\ufeff")


def to_numbers(text: pd.Series, decimal: str = ".") -> tuple[np.ndarray, np.ndarray]:
    """Text to float, and where a cell that is not empty is no number."""
    numbers = pd.to_numeric(text, errors="coerce").to_numpy(float, copy=True)
    odd = np.isnan(numbers) & (text != "").to_numpy(bool)
    # A point beside decimal commas is a mark of thousands or a slip: neither is guessed.
    pointed = np.zeros(len(text), bool)
    if decimal == ",":
        pointed = text.str.contains(".", regex=False).to_numpy(bool, copy=True)
    places = np.flatnonzero(odd & ~pointed)
    left = text.iloc[places].str.strip()
    if decimal == ",":
        left = left.str.replace(",", ".", regex=False)
    numbers[places] = pd.to_numeric(left, errors="coerce").to_numpy(float)
    numbers[pointed] = np.nan
    unreadable = pointed
    unreadable[places] = np.isnan(numbers[places]) & ~left.str.lower().isin(MISSING).to_numpy(bool)
    return numbers, unreadable


def decimal_mark(columns: Sequence[pd.Series], separator: str) -> tuple[str, bool]:
    """Which mark stands before the decimals, and whether it may as well be a mark of thousands.

    Where commas do not separate cells, numbers may be written 10.5 or 10,5: the mark that more cells have is taken, and
    cells with the other one are no numbers. When every mark has one or two digits before it and three after, 1,234 may
    be 1.234 or 1234.
    """
    if separator == ",":
        return ".", False
    marked = {mark: [text[text.str.contains(mark, regex=False).to_numpy(bool)] for text in columns] for mark in ",."}
    n_cells = {mark: sum(map(len, found)) for mark, found in marked.items()}
    decimal = "," if n_cells[","] >= max(n_cells["."], 1) else "."
    # Points as marks of thousands go with semicolons; in other tables a point is a decimal point.
    if n_cells[decimal] == 0 or (decimal == "." and separator != ";"):
        return decimal, False
    like_thousands = rf"\s*[+-]?[1-9]\d?{re.escape(decimal)}\d{{3}}\s*"
    return decimal, all(found.str.fullmatch(like_thousands).all() for found in marked[decimal])
