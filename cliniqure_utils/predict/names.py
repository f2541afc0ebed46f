"""Names of films: as they are shown, and as their reports are called."""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from cliniqure_utils import dicom

LONGEST = 200  # bytes of a name without ending; file systems take 255


def printable(text: str) -> str:
    """A text without what no terminal, page or table can hold: control characters and bytes that are no text become
    escapes such as `\\x1b`."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shown_names(paths: Iterable[Path]) -> dict[Path, str]:
    """How each file is called on pages and lines: by its name, and by folders where others have the same one."""
    shown: dict[Path, str] = {}
    left, depth = list(paths), 1
    while left:
        names = {path: Path(*path.parts[-depth:]).as_posix() for path in left}
        shared = Counter(names.values())
        alone = [path for path in left if shared[names[path]] == 1 or depth >= len(path.parts)]
        shown |= {path: printable(names[path]) for path in alone}
        left = [path for path in left if path not in shown]
        depth += 1
    return shown


def report_names(paths: Iterable[Path]) -> dict[Path, str]:
    """A file name for each film: its own without the extension, made safe, and different from the others'."""
    names: dict[Path, str] = {}
    taken = {"index", "rejected"}
    for number, path in enumerate(paths, start=1):
        name = dicom.image_id_of(path)
        name = name if dicom.safe_name(name) and len(name.encode()) < LONGEST else f"film_{number:04d}"
        while _folded(name) in taken:
            name = f"{name}_{number:04d}"
        taken.add(_folded(name))
        names[path] = name
    return names


def _folded(name: str) -> str:
    """The name as file systems compare it that tell neither capitals apart nor two spellings of one accent."""
    return unicodedata.normalize("NFC", name).casefold()
