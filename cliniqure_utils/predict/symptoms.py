"""The table of symptoms: which film each row means."""

import csv
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from cliniqure_utils import dicom
from cliniqure_utils.predict.names import printable, shown_names
from cliniqure_utils.project import CannotStart

COLUMNS = ("image_id", "symptoms")


def read_symptoms(table: str | Path, paths: Iterable[Path]) -> tuple[dict[Path, str], list[str]]:
    """Symptoms of films from a CSV.

    Args:
        table: UTF-8, with the columns image_id and symptoms. An image id is a film's file name, with or without its
            ending; where two films have one name, with the folders that tell them apart: `patient_a/IM0001`.
        paths: The films.

    Returns:
        (film -> symptoms, image ids that name no film here).

    Raises:
        CannotStart: The table cannot be read, a row has too many or too few fields, an image id names several films, or
            a film has two different texts.
    """
    table, paths = Path(table), list(paths)
    called: dict[str, set[Path]] = {}
    for path in paths:
        for name in _names_of(path):
            called.setdefault(name, set()).add(path)
    texts: dict[Path, str] = {}
    unknown: dict[str, str] = {}
    for image_id, text in _rows(table):
        meant = called.get(_plain(image_id), set())
        if len(meant) > 1:
            names = sorted(shown_names(path for path in paths if path in meant).values())
            raise CannotStart(
                f"{table.name}: {printable(image_id)} may be any of {len(meant)} films; expected one of "
                f"{', '.join(names[:5])}"
            )
        key, said = (meant.pop(), texts) if meant else (image_id, unknown)
        if said.setdefault(key, text) != text:
            raise CannotStart(f"{table.name}: {printable(image_id)} is there twice, with two texts")
    return texts, sorted(unknown)


def _rows(table: Path) -> Iterator[tuple[str, str]]:
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            header = [name.strip() for name in next(lines, [])]
            if set(COLUMNS) - set(header):
                found = ", ".join(map(printable, header)) or "nothing"
                raise CannotStart(f"{table.name}: expected columns image_id and symptoms, found {found}")
            for fields in lines:
                if fields and len(fields) != len(header):
                    raise CannotStart(
                        f"{table.name}, line {lines.line_num}: expected {len(header)} fields, found {len(fields)}; a "
                        "text with a comma in it stands in double quotes"
                    )
                if any(field.strip() for field in fields):
                    row = dict(zip(header, fields, strict=True))
                    yield row["image_id"].strip() or "(no image id)", row["symptoms"].strip()
    except CannotStart:
        raise
    except (OSError, ValueError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise CannotStart(f"the symptoms in {table} cannot be read: {why}") from None


def _names_of(path: Path) -> set[str]:
    """What a row may call a film: name and name without ending, each with any number of its folders before it."""
    names = set()
    for name in (path.name, dicom.image_id_of(path)):
        names |= {_plain(Path(*path.parts[n:-1], name).as_posix()) for n in range(len(path.parts))}
    return names


def _plain(name: str) -> str:
    """One spelling of a name: accents as one character each, no blanks around it, and / between folders."""
    return unicodedata.normalize("NFC", name).strip().replace("\\", "/")
