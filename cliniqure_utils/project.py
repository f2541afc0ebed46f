"""What every part of the project uses: where its repository lies, and the errors that a user sees."""

import importlib.metadata
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


class CannotStart(ValueError):
    """A command cannot do what was asked; the message is one line. The command exits with 2."""


class MissingInput(FileNotFoundError):
    """A file that an earlier notebook makes is not there."""


class MissingWeights(RuntimeError):
    """Weights are not on this machine and cannot be fetched; the message says what to do."""


def require(run_dir: str | Path, relative: str) -> Path:
    """Path of a file or folder that a notebook has made below a run folder, such as `01_preprocess/splits.csv`.

    Raises:
        MissingInput: It is not there; the message names it and the notebook that makes it.
    """
    path = Path(run_dir) / relative
    if not path.exists():
        notebook = relative.split("/")[0]
        raise MissingInput(
            f"{relative} is missing in the run folder {Path(run_dir).name}: run notebooks/{notebook}.ipynb first"
        )
    return path


def program() -> str:
    """This program and its version, such as "cliniqure 0.1.0"."""
    try:
        return f"cliniqure {importlib.metadata.version('cliniqure')}"
    except importlib.metadata.PackageNotFoundError:  # run from a folder, not installed
        return "cliniqure of no known version"


def commit_of(repository: Path) -> str | None:
    """Full hash of a repository's commit, with "-dirty" where files were changed since; None outside a repository."""
    if not (repository / ".git").exists():  # else git would take the repository of a folder above
        return None
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None
