"""A run folder as the grader sees it, beside the course's own notebooks."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cliniqure_utils.course.grade.cells import Matched, match_cells, tidy_cell
from cliniqure_utils.notebooks import Notebook, find_notebooks
from cliniqure_utils.project import REPOSITORY
from cliniqure_utils.record import profile_and_seed, read_record

PASS, FAIL, NOTE = "pass", "fail", "note"


@dataclass(frozen=True)
class Check:
    """One line of the result. `step` is a notebook, or "run". `status`: pass, fail, or note (counts for nothing)."""

    step: str
    name: str
    status: str
    message: str


@dataclass(frozen=True)
class Run:
    """A run folder and the course's own notebooks, read once.

    Attributes:
        folder: The run folder.
        record: The content of run.json.
        notebooks: The course's notebooks, in order.
        notebooks_dir: Where they lie.
        package_dir: Where the helper package lies.
    """

    folder: Path
    record: dict
    notebooks: list[Notebook]
    notebooks_dir: Path
    package_dir: Path

    def entry(self, name: str) -> dict:
        """What run.json says about a notebook; empty where it says nothing."""
        return self.record["notebooks"].get(name, {})

    @property
    def profile(self) -> str | list[str] | None:
        """The profile of the notebooks as they ran; a list where they ran with different ones."""
        return profile_and_seed(self.record)["profile"]

    @property
    def seed(self) -> int | list[int] | None:
        """The seed of the notebooks as they ran; a list where they ran with different ones."""
        return profile_and_seed(self.record)["seed"]

    @property
    def reference_path(self) -> Path:
        """Where the course keeps the reference ranges of the run's profile."""
        return self.notebooks_dir.parent / "data" / "reference" / f"{show_values(self.profile)}.json"

    def copy_path(self, name: str) -> Path:
        return self.folder / "notebooks" / f"{name}.ipynb"

    @cached_property
    def copies(self) -> dict[str, list[dict] | None]:
        """Executed copies: name -> code cells (`tidy_cell`), None where the copy is missing or no notebook."""
        found = {}
        for notebook in self.notebooks:
            try:
                cells = map(tidy_cell, json.loads(self.copy_path(notebook.name).read_text(encoding="utf-8"))["cells"])
                found[notebook.name] = [cell for cell in cells if cell is not None]
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                found[notebook.name] = None
        return found

    @cached_property
    def matched(self) -> dict[str, Matched]:
        """Which cell of each executed copy is which of the course's; of no cell where there is no copy."""
        return {n.name: match_cells(n.code, n.ids, self.copies[n.name] or []) for n in self.notebooks}

    @cached_property
    def metrics(self) -> dict[str, dict]:
        """metrics.json of every step that has a readable one."""
        found = {}
        for notebook in self.notebooks:
            try:
                values = json.loads((self.folder / notebook.name / "metrics.json").read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError):
                continue
            if isinstance(values, dict):
                found[notebook.name] = values
        return found


def open_run(
    run_dir: str | Path, notebooks_dir: str | Path | None = None, package_dir: str | Path | None = None
) -> Run:
    """Raises CannotStart where the folder has no readable run.json."""
    notebooks_dir = Path(notebooks_dir or REPOSITORY / "notebooks").resolve()
    package_dir = Path(package_dir or REPOSITORY / "cliniqure_utils").resolve()
    return Run(Path(run_dir), read_record(run_dir), find_notebooks(notebooks_dir), notebooks_dir, package_dir)


def show_values(value) -> str:
    """A profile or a seed in words: all of them where notebooks ran with different ones."""
    return " and ".join(map(str, value)) if isinstance(value, list) else str(value)
