"""What made a report: when, which program, and the weights of which run."""

import datetime
import hashlib
from collections.abc import Iterable
from pathlib import Path

from cliniqure_utils.project import REPOSITORY, commit_of, program
from cliniqure_utils.runs import sha256_file


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
        "program": program(),
        "commit": commit_of(REPOSITORY),
        "weights": {name: sha256_file(Path(run_dir) / name) for name in weights},
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
