"""The run folder: where a notebook reads its inputs and writes its outputs.

Every notebook opens with `step = RunStep(run_dir, "NN_name")` and closes with `step.summary()`.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cliniqure_utils.project import require

STEPS = (
    "01_preprocess",
    "02_detect",
    "03_classify",
    "04_crude_report",
    "05_finetune_llm",
    "06_generate_report",
    "07_evaluate",
)
# Columns of the run's tables that are names, never numbers; the last two are image_ids of other films.
ID_COLUMNS = ("image_id", "patient_key", "rad_id", "duplicate_of", "same_pixels_as")


def sha256_file(path: str | Path) -> str:
    """sha256 of a file's content, as 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block ends without an error.

    A reader therefore never sees half a file, and a killed run leaves the old one. Works for files and for folders that
    do not exist yet. What was written is removed when the block raises; what a killed process left, `clear_unfinished`
    removes. Source: ours.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:  # a user knows the file, not the hidden one beside it
        if error.filename is None or str(error.filename).startswith(str(temporary)):
            error.filename = str(path)
        raise
    finally:
        _remove(temporary)


def clear_unfinished(folder: str | Path) -> None:
    """Remove what `atomic_path` was writing below a folder when its process was killed; `*.png` would find it, too."""
    for path in sorted(Path(folder).rglob(".*"), reverse=True):
        if re.match(r"\.[0-9a-f]{8}\..", path.name):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def filling(folder: str | Path) -> Iterator[None]:
    """Make a shared folder, such as data/models, for one process at a time; the others wait until the block ends.

    Nobody else writes there meanwhile, so what `atomic_path` was writing when its process was killed is removed.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder / ".lock"):
        clear_unfinished(folder)
        yield


@contextmanager
def lock(path: str | Path, wait: bool = True) -> Iterator[None]:
    """Hold a lock file; it goes with the process, however it ends.

    Some network folders know no locks (NFS without its lock service: ENOLCK). There a line says so, and the work goes
    on without one.

    Args:
        path: The file, in a folder that exists.
        wait: Wait until the holder lets go.

    Raises:
        filelock.Timeout: Another process holds it, and `wait` is False.
    """
    from filelock import FileLock, Timeout

    held = FileLock(path)
    try:
        held.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise
        print(f"note: the file system of {Path(path).parent.name} knows no locks; start nothing else that writes there")
    try:
        yield
    finally:
        held.release()


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value) -> None:
    """Write indented JSON atomically; NaN is refused, since it is not JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=_plain) + "\n")


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> None:
    """Write one JSON object per line, atomically."""
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False, default=_plain) for row in rows]
    write_text(path, "".join(line + "\n" for line in lines))


def read_jsonl(path: str | Path) -> list[dict]:
    """Read one JSON object per line. An id is text, also where it is written as a whole number."""
    # Split at "\n" only: str.splitlines also splits inside a JSON text at U+2028.
    rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").split("\n") if line]
    return [
        {name: str(value) if name in ID_COLUMNS and isinstance(value, int) else value for name, value in row.items()}
        for row in rows
    ]


def write_table(path: str | Path, table) -> None:
    """Write a DataFrame as CSV without its index, atomically."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)


def read_table(path: str | Path):
    """Read a table that `write_table` wrote into a DataFrame.

    An id is text, always: `012` keeps its zero, and a film may be called "NA" or "null". Only an empty field is a
    missing value.
    """
    import pandas as pd

    return pd.read_csv(path, dtype=dict.fromkeys(ID_COLUMNS, str), keep_default_na=False, na_values=[""])


def _plain(value):
    """numpy scalars and arrays as plain Python, for json."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


class RunStep:
    """One notebook's place in a run folder.

    Args:
        run_dir: The run folder, `outputs/demo` by default; made when missing.
        name: One of `STEPS`.

    Attributes:
        dir: `run_dir/name`, made when missing, and cleared of half-written files of a killed run.
    """

    def __init__(self, run_dir: str | Path, name: str):
        if name not in STEPS:
            raise ValueError(f"unknown step {name!r}; expected one of {', '.join(STEPS)}")
        self.name = name
        self.run_dir = Path(run_dir)
        self.dir = self.run_dir / name
        self.dir.mkdir(parents=True, exist_ok=True)
        clear_unfinished(self.dir)
        self._written: list[str] = []

    def input(self, relative: str) -> Path:
        """Path of a file of an earlier step, such as `01_preprocess/splits.csv`.

        Raises:
            MissingInput: It is not there; the message names the file and the notebook that makes it.
        """
        return require(self.run_dir, relative)

    def read_table(self, relative: str):
        """The table of an earlier step, as `read_table` reads it; raises MissingInput as `input` does."""
        return read_table(self.input(relative))

    def read_json(self, relative: str):
        """The JSON of an earlier step; raises MissingInput as `input` does."""
        return json.loads(self.input(relative).read_text(encoding="utf-8"))

    def read_jsonl(self, relative: str) -> list[dict]:
        """The lines of an earlier step's .jsonl; raises MissingInput as `input` does."""
        return read_jsonl(self.input(relative))

    def path(self, relative: str) -> Path:
        """Path of an output of this step; its folder is made, and `summary` lists it."""
        path = self.dir / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        if relative not in self._written:
            self._written.append(relative)
        return path

    def write_table(self, relative: str, table) -> None:
        write_table(self.path(relative), table)

    def write_json(self, relative: str, value) -> None:
        write_json(self.path(relative), value)

    def write_jsonl(self, relative: str, rows: Iterable[dict]) -> None:
        write_jsonl(self.path(relative), rows)

    def write_text(self, relative: str, text: str) -> None:
        write_text(self.path(relative), text)

    def write_metrics(self, metrics: dict) -> None:
        """Write metrics.json: flat, names such as `classification/micro_f1`, plain finite numbers or null."""
        plain = {}
        for key, value in metrics.items():
            value = _plain(value) if hasattr(value, "tolist") else value
            plain[key] = None if isinstance(value, float) and value != value else value
        self.write_json("metrics.json", plain)

    def save_figure(self, name: str, figure) -> None:
        """Save a matplotlib figure as `figures/NAME.png`."""
        with atomic_path(self.path(f"figures/{name}.png")) as temporary:
            figure.savefig(temporary, format="png", dpi=110)

    def summary(self) -> None:
        """Print what this notebook wrote, one line per file, without absolute paths."""
        print(f"Written to {self.run_dir.name}/{self.name}:")
        for relative in self._written:
            print(f"  {relative}")
