"""`cliniqure compare`: do two runs give the same numbers, and if not, what differs between them?

Two runs of one seed on one machine give identical numbers. On another machine, or with other package versions, sums are
taken in another order, and training carries the last digit far: there a tolerance applies.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cliniqure_utils.project import CannotStart
from cliniqure_utils.record import parameters_of, read_record
from cliniqure_utils.runs import STEPS, sha256_file

# Tolerance between machines, relative to the larger of the two numbers, or to 1 if that is larger. Ours: fifty times
# what two instruction sets of one processor make of the demo (COURSE.md), to leave room for a GPU.
ACROSS_MACHINES = 0.05
PLACES = ("run_dir", "data_dir")  # where files lie changes no number
SHOWN = 5  # numbers shown per notebook


@dataclass(frozen=True)
class Difference:
    """One number that is not the same. None: not there."""

    step: str
    name: str
    first: object
    second: object
    within: bool


@dataclass(frozen=True)
class Comparison:
    """What differs between two runs.

    Attributes:
        settings: What differs in run.json, one line each, most likely cause first.
        states: How far each run is.
        counts: step -> how many numbers were compared.
        differences: Numbers that are not identical.
        missing: Steps that only one of the runs has finished.
        tolerance: Largest difference that counted as the same.
        why: The reason for that tolerance, in words.
    """

    settings: list[str]
    states: list[str]
    counts: dict[str, int]
    differences: list[Difference]
    missing: list[str]
    tolerance: float
    why: str

    @property
    def same(self) -> bool:
        return not self.missing and all(difference.within for difference in self.differences)


def read_metrics(run_dir: str | Path, step: str, record: Mapping) -> dict | None:
    """A finished step's metrics.json; None where the step was not finished or writes none.

    Raises:
        CannotStart: The file is not the one that the run wrote.
    """
    entry = record["notebooks"].get(step, {})
    path = Path(run_dir) / step / "metrics.json"
    written = entry.get("outputs", {}).get("metrics.json")
    if entry.get("status") != "done" or written is None:
        return None
    if not path.is_file():
        raise CannotStart(f"{step}/metrics.json is gone from {run_dir}")
    if sha256_file(path) != written.get("sha256"):
        raise CannotStart(f"{step}/metrics.json in {run_dir} was changed after the run")
    return json.loads(path.read_text(encoding="utf-8"))


def compare_runs(first: str | Path, second: str | Path, tolerance: float | None = None) -> Comparison:
    """Compare the numbers of two runs, and what run.json says about how they were made.

    Args:
        tolerance: Largest difference that counts as the same, relative to the larger number or to 1; None: 0 where
            platform, device and versions agree, `ACROSS_MACHINES` where they do not.

    Raises:
        CannotStart: A folder is no run, a metrics file was changed after its run, or no step is finished in both.
    """
    records = read_record(first), read_record(second)
    machine = _machine(*records)
    if tolerance is not None:
        why = "as asked for"
    elif machine:
        tolerance, why = ACROSS_MACHINES, "another machine or other versions"
    else:
        tolerance, why = 0.0, "one machine, one set of versions: identical numbers are expected"
    counts, differences, missing = {}, [], []
    for step in STEPS:
        pair = [read_metrics(run, step, record) for run, record in zip((first, second), records, strict=True)]
        if pair == [None, None]:
            continue
        if None in pair:
            missing.append(f"{step} is finished in {Path(second if pair[0] is None else first).name} only")
            continue
        names = sorted(set(pair[0]) | set(pair[1]))
        counts[step] = len(names)
        for name in names:
            values = [metrics.get(name) for metrics in pair]
            if values[0] != values[1] or (name in pair[0]) != (name in pair[1]):
                differences.append(Difference(step, name, *values, within=close(*values, tolerance)))
    if not counts:
        raise CannotStart(f"no notebook is finished in both {Path(first).name} and {Path(second).name}")
    states = [f"profile {_show(r.get('profile'))}, seed {_show(r.get('seed'))}, {r.get('status')}" for r in records]
    return Comparison(_settings(*records) + machine, states, counts, differences, missing, tolerance, why)


def close(first, second, tolerance: float) -> bool:
    """Whether two values are the same within a tolerance; anything but two numbers must be equal."""
    numbers = [isinstance(value, (int, float)) and not isinstance(value, bool) for value in (first, second)]
    if not all(numbers):
        return first == second
    if first == second:
        return True
    return math.isfinite(first - second) and abs(first - second) <= tolerance * max(1, abs(first), abs(second))


def lines(comparison: Comparison, first: str | Path, second: str | Path) -> list[str]:
    """The comparison in words."""
    out = [
        f"{letter}: {run} ({state})"
        for letter, run, state in zip("AB", (first, second), comparison.states, strict=True)
    ]
    if any(not state.endswith(", done") for state in comparison.states):
        out.append("A run that is not done may hold numbers of an earlier one in its later notebooks.")
    out.append("")
    out.append("What differs in how they were made (A | B):" if comparison.settings else "Both were made alike.")
    out += [f"  {line}" for line in comparison.settings]
    out.append("")
    for step, count in comparison.counts.items():
        found = [difference for difference in comparison.differences if difference.step == step]
        outside = sum(not difference.within for difference in found)
        said = "identical" if not found else f"{len(found)} differ, {outside} by more than the tolerance"
        out.append(f"{step:<20} {count:4d} numbers, {said}")
        found.sort(key=lambda difference: (difference.within, -_size(difference)))
        for difference in found[:SHOWN]:
            mark = " " if difference.within else "!"
            out.append(f"  {mark} {difference.name:<44} {_show(difference.first)} | {_show(difference.second)}")
        if len(found) > SHOWN:
            out.append(f"    and {len(found) - SHOWN} more")
    out += comparison.missing
    out += ["", f"Tolerance {comparison.tolerance:g} ({comparison.why})."]
    if comparison.same:
        out.append(f"The same: {sum(comparison.counts.values())} numbers.")
    else:
        out.append("Different.")
        steps = [difference.step for difference in comparison.differences if not difference.within]
        if steps:
            out[-1] = f"Different, from {steps[0]} on."
        if not comparison.settings:
            out.append("Nothing in run.json explains it: one seed on one machine should give the same numbers.")
    return out


def _settings(first: Mapping, second: Mapping) -> list[str]:
    """What was asked for, the data and the code."""
    found = []
    for name in ("profile", "seed"):
        if first.get(name) != second.get(name):
            found.append(f"{name}: {_show(first.get(name))} | {_show(second.get(name))}")
    for step in STEPS:
        pair = [parameters_of(record, step) for record in (first, second)]
        for name in sorted(set(pair[0]) | set(pair[1])):
            values = [parameters.get(name, "(not there)") for parameters in pair]
            said = name in PLACES or (name == "seed" and first.get("seed") != second.get("seed"))
            if values[0] != values[1] and not said:
                found.append(f"parameter {step}.{name}: {_show(values[0])} | {_show(values[1])}")
    found += _data(first.get("data", {}), second.get("data", {}))
    code: dict[str, list[str]] = {"notebook": [], "package": []}
    for step in STEPS:
        parts = [record["notebooks"].get(step, {}).get("parts") for record in (first, second)]
        for part, steps in code.items():
            if all(parts) and parts[0].get(part) != parts[1].get(part):
                steps.append(step)
    if code["notebook"]:
        found.append(f"code of {', '.join(code['notebook'])}")
    if code["package"]:
        found.append(f"code of the package, as used by {', '.join(code['package'])}")
    return found


def _data(first: Mapping, second: Mapping) -> list[str]:
    if first == second:
        return []
    if first.get("kind") != second.get("kind"):
        return [f"data: {first.get('kind')} | {second.get('kind')}"]
    tables = [data.get("tables", {}) for data in (first, second)]
    changed = [name for name in sorted(set(tables[0]) | set(tables[1])) if tables[0].get(name) != tables[1].get(name)]
    if first.get("cohort") != second.get("cohort"):
        changed.insert(0, "how the cohort was simulated (cohort.json)")
    if first.get("names_and_sizes") != second.get("names_and_sizes"):
        changed.append(f"the films ({first.get('n_files')} | {second.get('n_files')} files)")
    return [f"data: {', '.join(changed) or 'its fingerprint'}"]


def _machine(first: Mapping, second: Mapping) -> list[str]:
    found = []
    versions = [record.get("versions", {}) for record in (first, second)]
    for name in sorted(set(versions[0]) | set(versions[1])):
        pair = [known.get(name, "(not there)") for known in versions]
        if pair[0] != pair[1]:
            found.append(f"version of {name}: {pair[0]} | {pair[1]}")
    for name in ("platform", "device", "processor"):
        if first.get(name) != second.get(name):
            found.append(f"{name}: {_show(first.get(name))} | {_show(second.get(name))}")
    return found


def _size(difference: Difference) -> float:
    try:
        return abs(difference.first - difference.second)
    except TypeError:
        return math.inf


def _show(value) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return " and ".join(map(str, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
