"""run.json: which notebooks ran, with what, and what they wrote.

The head holds what is true of the folder as a whole: profile and seed (one, or a list where notebooks ran with
different ones), the data folder that was read, installed versions, platform, device, and the processor's instruction
set as torch sees it. Each notebook's entry holds the profile and the parameters with which it ran, the program's
version and commit, and when it started; a later command does not change them.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from cliniqure_utils.project import CannotStart


def read_record(run_dir: str | Path) -> dict:
    """run.json of a run.

    Raises:
        CannotStart: It is not there or is not a run's record. It may have been edited, so its shape is checked.
    """
    path = Path(run_dir) / "run.json"
    if not path.is_file():
        raise CannotStart(f"{run_dir} is no run folder: it has no run.json")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CannotStart(f"{path} cannot be read: expected JSON as cliniqure run writes it, {error}") from None
    problem = _shape_problem(record)
    if problem:
        raise CannotStart(f"{path} cannot be read: {problem} is not what cliniqure run writes, expected a mapping")
    return record


def _shape_problem(record) -> str | None:
    """The first place of run.json that should be a mapping and is not."""
    if not isinstance(record, dict):
        return "the file"
    for key in ("notebooks", *(key for key in ("versions", "data") if key in record)):
        if not isinstance(record.get(key), dict):
            return key
    for name, entry in record["notebooks"].items():
        if not isinstance(entry, dict):
            return f"notebooks/{name}"
        for key in ("parameters", "outputs", "parts"):
            if not isinstance(entry.get(key, {}), dict):
                return f"notebooks/{name}/{key}"
        for file, written in entry.get("outputs", {}).items():
            if not isinstance(written, dict):
                return f"notebooks/{name}/outputs/{file}"
    return None


def said_of_the_run(run_dir: str | Path, notebook: str) -> str:
    """What made the page that a notebook writes: program, commit, profile and start, as run.json says.

    The same words until the notebook is run again, so that the page can be made again and compared.
    """
    try:
        entry = read_record(run_dir)["notebooks"].get(notebook, {})
    except CannotStart:
        entry = {}
    words = {"program": "{}", "commit": "commit {}", "profile": "profile {}", "start": "started {}"}
    said = [words[key].format(entry[key]) for key in words if entry.get(key)]
    return ", ".join(said) or "not known: the notebook was not run by `cliniqure run`"


def parameters_of(record: Mapping, notebook: str) -> dict:
    """All parameters with which a notebook last ran; empty where the record does not say."""
    return record.get("notebooks", {}).get(notebook, {}).get("parameters", {})


def profile_and_seed(record: Mapping) -> dict:
    """{"profile": ..., "seed": ...} of the notebooks as they ran.

    Each is the one value that all of them have, a list where they differ, and None where no notebook says.
    """
    notebooks = record.get("notebooks", {})
    profiles = [entry["profile"] for entry in notebooks.values() if "profile" in entry]
    seeds = [parameters_of(record, name)["seed"] for name in notebooks if "seed" in parameters_of(record, name)]
    return {"profile": _one_or_all(profiles), "seed": _one_or_all(seeds)}


def _one_or_all(values: list):
    different = [value for place, value in enumerate(values) if value not in values[:place]]
    return different[0] if len(different) == 1 else different or None
