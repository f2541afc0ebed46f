"""What made a report: when, which program, and the weights of which run."""

import datetime
import hashlib
import importlib.metadata
import subprocess
from collections.abc import Iterable
from pathlib import Path

from cliniqure_utils.project import REPOSITORY


def provenance(run_dir: str | Path, weights: Iterable[str]) -> dict:
    """What a page must say so that its report can be traced.

    Args:
        run_dir: The run whose models are used.
        weights: Their files in it.

    Returns:
        made (UTC, ISO 8601), program (name and version), commit (of the repository; ends in "-dirty" where files were
        changed since; None outside a repository), weights (file -> sha256).
    """
    return {
        "made": now(),
        "program": f"cliniqure {_version()}",
        "commit": _commit(),
        "weights": {name: _sha256(Path(run_dir) / name) for name in weights},
    }


def digest_of(tensors: Iterable) -> str:
    """sha256 of the numbers of tensors: for weights that may lie in more than one kind of file."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def now() -> str:
    """This second, UTC, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _version() -> str:
    try:
        return importlib.metadata.version("cliniqure")
    except importlib.metadata.PackageNotFoundError:  # run from a folder, not installed
        return "of no known version"


def _commit() -> str | None:
    if not (REPOSITORY / ".git").exists():  # else git would take the repository of a folder above
        return None
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
