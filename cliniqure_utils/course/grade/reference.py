"""Reference ranges: where the headline numbers of a correct run lie, made from runs with several seeds."""

import json
import math
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from cliniqure_utils.course.grade.run_folder import FAIL, NOTE, PASS, Check, Run, show_values
from cliniqure_utils.project import CannotStart
from cliniqure_utils.runs import write_json

STEP = "07_evaluate"
# Few numbers on purpose: with hundreds, nearly every correct run would lie outside some range.
HEADLINE = (
    "table7/*",
    "classification/macro_auroc",
    "classification/macro_f1",
    "detection/map_40",
    "detection/f1",
    "text/finding_f1_*",
)
FALSE_ALARM = 0.05  # share of correct runs that may have any number outside, divided among all numbers
LEAST_SPREAD = 0.005  # standard deviation that is assumed where the seeds happen to agree more closely
LEAST_RUNS = 3


def read_reference(path: str | Path) -> dict:
    """Raises CannotStart where the file is missing or not what `make_reference` writes."""
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for name, entry in content["ranges"].items():
            if not float(entry["low"]) <= float(entry["high"]):
                raise ValueError(f"{name}: low is above high")
        str(content["profile"])
        return content
    except OSError as error:
        raise CannotStart(f"the reference {path} cannot be opened ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CannotStart(f"{path.name} is no reference file ({type(error).__name__}: {error})") from None


def make_reference(runs: Sequence[Run], path: str | Path) -> dict:
    """Write the ranges of several runs.

    A range is the interval in which the number of one more run of the same kind lies with a probability so high that
    all numbers together do so in 95 of 100 runs: mean and standard deviation of the seeds, Student's t for their small
    number, Bonferroni for the number of numbers. Assumes that seeds scatter like a normal distribution. Source: ours.

    Raises:
        CannotStart: Fewer than three runs, two with one seed, of two profiles, or a number that not all of them have.
    """
    from scipy.stats import t

    if len(runs) < LEAST_RUNS:
        raise CannotStart(f"a reference needs at least {LEAST_RUNS} runs with different seeds, found {len(runs)}")
    profiles = sorted({show_values(run.profile) for run in runs})
    if len(profiles) > 1:
        raise CannotStart(f"the runs are of different profiles: {', '.join(profiles)}")
    if isinstance(runs[0].profile, list):
        raise CannotStart(f"the notebooks of each run are of different profiles: {profiles[0]}")
    seeds = [run.seed for run in runs]
    if len(set(map(str, seeds))) < len(seeds):
        raise CannotStart(f"two of the runs have one seed; the seeds are {', '.join(map(str, seeds))}")
    tables = [run.metrics.get(STEP, {}) for run in runs]
    names = [name for name in tables[0] if any(fnmatch(name, pattern) for pattern in HEADLINE)]
    if not names:
        raise CannotStart(f"{runs[0].folder.name} has none of the headline numbers in {STEP}/metrics.json")
    n = len(runs)
    reach = t.ppf(1 - FALSE_ALARM / len(names) / 2, n - 1) * math.sqrt(1 + 1 / n)
    ranges = {}
    for name in names:
        values = [table.get(name) for table in tables]
        if not all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values):
            raise CannotStart(f"{name} is not a number in every run")
        mean = sum(values) / n
        spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
        low, high = (mean + sign * reach * max(spread, LEAST_SPREAD) for sign in (-1, 1))
        if 0 <= min(values) and max(values) <= 1:
            low, high = max(low, 0), min(high, 1)
        ranges[name] = {key: round(v, 4) for key, v in (("low", low), ("high", high), ("mean", mean), ("sd", spread))}
    content = {
        "profile": profiles[0],
        "how": f"mean and standard deviation of {n} seeds; range: prediction interval for one more run, 95% for all "
        f"{len(names)} numbers together (Student's t, Bonferroni), standard deviation taken as at least {LEAST_SPREAD}",
        "runs": [
            {"seed": run.seed, **{key: run.record.get(key) for key in ("platform", "device", "started")}}
            for run in runs
        ],
        "ranges": ranges,
    }
    write_json(path, content)
    return content


def check_reference(run: Run, metrics: dict | None, reference: dict | None) -> Iterator[Check]:
    """The headline numbers against their ranges. `metrics`: worked out again where that was possible."""
    profile = show_values(run.profile)
    if reference is None:
        yield Check("run", "reference ranges", NOTE, f"there is no reference for profile {profile}")
        return
    if reference["profile"] != profile:
        message = f"the reference is for profile {reference['profile']}, the run is of profile {profile}"
        yield Check("run", "reference ranges", FAIL, message)
        return
    metrics = metrics if metrics is not None else run.metrics.get(STEP, {})
    outside = 0
    for name, entry in reference["ranges"].items():
        value = metrics.get(name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and entry["low"] <= value <= entry["high"]:
            continue
        outside += 1
        said = f"{value:.4f}" if isinstance(value, float) else str(value)
        yield Check(STEP, f"range of {name}", FAIL, f"{said} is outside {entry['low']:g} to {entry['high']:g}")
    if not outside:
        n = len(reference["ranges"])
        yield Check(STEP, "reference ranges", PASS, f"{n} numbers inside the ranges of {len(reference['runs'])} seeds")
