"""What a run shows: its lines and paths, and what the cells of a notebook print."""

import logging
import os
import re
import sys
import threading
from pathlib import Path

from tqdm import tqdm

ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
BOOKKEEPING = (
    "Executing Cell ",
    "Ending Cell ",
    "Executing notebook",
    "Input Notebook",
    "Output Notebook",
    "Working directory",
)


def print_line(line: str) -> None:
    """Print a line at once, above a progress bar; a reader that has gone away (`| head`) does not stop the run."""
    try:
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the rest of the process


def short_path(path: Path) -> str:
    """Relative to the caller's folder when it is below it."""
    here = Path.cwd()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else path.as_posix()


class cell_output_on_screen:
    """While it lasts, papermill's log is printed by `_Screen` and by nothing else; afterwards it is as before.

    Args:
        stopping: Once it is set, nothing more is printed.
    """

    def __init__(self, stopping: threading.Event):
        self._stopping = stopping

    def __enter__(self) -> None:
        self.logger = logging.getLogger("papermill")
        self.before = (self.logger.handlers[:], self.logger.level, self.logger.propagate)
        self.logger.handlers[:] = [_Screen(self._stopping)]
        self.logger.setLevel(logging.INFO)
        self.logger.propagate = False

    def __exit__(self, *_) -> None:
        self.logger.handlers[:], level, self.logger.propagate = self.before
        self.logger.setLevel(level)


class _Screen(logging.Handler):
    """What cells print, indented, above the progress bar; papermill's own bookkeeping is left out."""

    def __init__(self, stopping: threading.Event):
        super().__init__()
        self._stopping = stopping

    def emit(self, record: logging.LogRecord) -> None:
        if self._stopping.is_set():
            return
        text = ANSI.sub("", record.getMessage())
        if text.startswith(BOOKKEEPING) or text.startswith("<Figure size"):
            return
        for line in text.splitlines():
            line = line.split("\r")[-1].rstrip()
            if line:
                print_line(f"    {line}")
