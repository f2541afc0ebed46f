"""What a run shows: its lines and paths, and what the cells of a notebook print."""

import json
import logging
import os
import re
import sys
import threading
from collections.abc import Mapping
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


def closing_lines(run_dir: Path, entries: Mapping[str, Mapping], first: str) -> list[str]:
    """The end of a run: what `first` says, time and memory of each notebook, where to look, and table 7.

    Args:
        entries: notebook -> its entry in run.json.
    """
    lines = ["", first]
    for name, entry in entries.items():
        memory = entry.get("peak_memory_mb") or 0
        lines.append(f"  {name:<20} {entry['status']:<12} {entry.get('seconds') or 0:7.1f} s {memory:7.0f} MB")
    lines.append(f"Executed notebooks: {short_path(run_dir / 'notebooks')}")
    evaluation = run_dir / "07_evaluate"
    if (evaluation / "report.html").is_file():
        lines.append(f"Report:             {short_path(evaluation / 'report.html')}")
    if (evaluation / "metrics.json").is_file():
        metrics = json.loads((evaluation / "metrics.json").read_text(encoding="utf-8"))
        table = {key.split("/", 1)[1]: value for key, value in metrics.items() if key.startswith("table7/")}
        lines += ["Table 7 of the paper, this run:"] if table else []
        for key, value in table.items():
            lines.append(f"  {key:<28} {value:.3f}" if isinstance(value, float) else f"  {key:<28} {value}")
    return lines


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
