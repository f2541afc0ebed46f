"""Which of the given files and folders hold films."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from cliniqure_utils import dicom
from cliniqure_utils.predict.own import ENDINGS, is_own
from cliniqure_utils.project import CannotStart


def find_films(
    inputs: Iterable[str | Path], out_dir: str | Path | None = None
) -> tuple[list[Path], list[tuple[Path, str]], int]:
    """The films among files and folders.

    Args:
        inputs: A file is taken as it is; of a folder, everything below it that is a film by its ending, or by its first
            bytes where the ending is another or there is none. Links to files are followed, links to folders are not.
        out_dir: A folder below an input that is left out: results of an earlier call.

    Returns:
        (paths, unread, number of files that were passed over: no films, hidden, or results of an earlier call).
        unread: (path, reason) of what may be a film and cannot be opened. A file that is reached twice is taken once.

    Raises:
        CannotStart: An input is not there.
    """
    out_dir = os.path.realpath(out_dir) if out_dir else None
    found: dict[str, Path] = {}
    unread: list[tuple[Path, str]] = []
    passed = 0
    for entry in map(Path, inputs):
        if not os.path.isdir(entry):
            if os.path.isfile(entry):
                found.setdefault(os.path.realpath(entry), entry)
            else:
                unread.append((entry, _no_file(entry)))
            continue
        for path, reason in sorted(_below(entry, out_dir)):
            reason = reason or _why_not(path)
            if reason is None:
                found.setdefault(os.path.realpath(path), path)
            elif reason:
                unread.append((path, reason))
            else:
                passed += 1
    return list(found.values()), unread, passed


def _below(folder: Path, left_out: str | None) -> Iterator[tuple[Path, str]]:
    """(path, "") of every file below a folder, and (path, reason) of the folders in which nothing can be looked for."""
    closed: list[OSError] = []
    for name, folders, files in os.walk(folder, onerror=closed.append):
        here = Path(name)
        if left_out and Path(os.path.realpath(here)).is_relative_to(left_out):
            folders.clear()
            continue
        for name in files:
            yield here / name, ""
        for name in folders:
            if (here / name).is_symlink() and os.path.realpath(here / name) != left_out:
                yield here / name, "a link to a folder, which is not followed; give the folder itself"
    for error in closed:
        yield Path(error.filename), f"a folder that cannot be opened ({error.strerror})"


def _why_not(path: Path) -> str | None:
    """None for a film, "" for a file that is none, else why nobody can tell."""
    if path.name.startswith("."):
        return ""
    known = path.suffix.lower() in dicom.EXTENSIONS
    # Archives name files by number or identifier: "IM0001", "1.2.840.113619.2.5".
    may_be = known or not path.suffix.removeprefix(".").rstrip("0123456789")
    if not os.path.isfile(path):
        why = _no_file(path)
    elif known:
        return "" if path.name.endswith(tuple(ENDINGS.values())) and is_own(path) else None
    else:
        try:
            return None if starts_as_dicom(path) else ""
        except OSError as error:
            why = f"cannot be opened ({error.strerror})"
    return why if may_be else ""


def _no_file(path: Path) -> str:
    """Why a path is neither a file nor a folder. Raises CannotStart where nothing is there."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        raise CannotStart(f"there is no file or folder {path}") from None
    except OSError as error:
        return f"cannot be opened ({error.strerror})"
    return "a link that leads to no file" if path.is_symlink() else "neither a file nor a folder"


def starts_as_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM does. Raises OSError where it cannot be opened."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"
