"""All checks of one run, in order."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cliniqure_utils.course.grade.exercises import Exercise, check_exercises, find_exercises
from cliniqure_utils.course.grade.integrity import (
    check_chain,
    check_executed,
    check_finished,
    check_outputs,
    check_parameters,
)
from cliniqure_utils.course.grade.own_checks import run_own_checks
from cliniqure_utils.course.grade.recompute import STEP, recompute
from cliniqure_utils.course.grade.reference import check_reference, make_reference, read_reference
from cliniqure_utils.course.grade.rework import work_again
from cliniqure_utils.course.grade.run_folder import FAIL, Check, Run, open_run
from cliniqure_utils.project import CannotStart


@dataclass(frozen=True)
class Grade:
    """The result of grading one run."""

    run: Run
    checks: list[Check]
    exercises: list[Exercise]

    @property
    def passed(self) -> bool:
        return not any(check.status == FAIL for check in self.checks)


def check_record(run: Run) -> list[Check]:
    """Everything that needs no notebook to run: finished, executed in order, unchanged, the profile's parameters."""
    return [
        *check_finished(run),
        *check_executed(run),
        *check_outputs(run),
        *check_parameters(run),
        *check_chain(run),
    ]


def write_reference(runs: Sequence[Run], path: str | Path | None = None) -> Path:
    """`make_reference` of runs that are whole and unchanged; default path: data/reference/PROFILE.json.

    Raises:
        CannotStart: A run that would not pass, or see `make_reference`.
    """
    for run in runs:
        for check in check_record(run):
            if check.status == FAIL:
                raise CannotStart(f"{run.folder} cannot be a reference: {check.step}, {check.name}: {check.message}")
    path = Path(path) if path else runs[0].reference_path
    make_reference(runs, path)
    return path


def grade_run(
    run: Run,
    reference: str | Path | None = None,
    require_exercises: bool = False,
    checks_dir: str | Path | None = None,
    echo: Callable[[str], None] = lambda line: None,
    seed: int | None = None,
) -> Grade:
    """Grade a run.

    Args:
        run: From `open_run`.
        reference: Reference file; None: data/reference/PROFILE.json where it is there.
        require_exercises: An unsolved or wrong exercise fails.
        checks_dir: An instructor's own checks.
        echo: Told before the step that takes long.
        seed: Draws the films that are worked out again (`work_again`). None: another seed each time.

    Raises:
        CannotStart: It cannot be graded: a broken reference, no text encoder, a folder without checks.
    """
    ranges = None
    if reference is not None:
        ranges = read_reference(reference)
    elif run.reference_path.is_file():
        ranges = read_reference(run.reference_path)
    own = list(run_own_checks(run, checks_dir)) if checks_dir is not None else []
    checks = check_record(run)
    echo(f"running {STEP} again on the run's files, about half a minute for the demo")
    again, metrics = recompute(run)
    exercises = find_exercises(run)
    checks += work_again(run, secrets.randbelow(10**6) if seed is None else seed)
    checks += [*again, *check_reference(run, metrics, ranges), *check_exercises(exercises, require_exercises), *own]
    return Grade(run, checks, exercises)


@dataclass(frozen=True)
class Result:
    """One folder of a class. `grade` is None where it could not be graded, for the reason in `problem`."""

    folder: str
    grade: Grade | None
    problem: str = ""


def grade_class(folders: Sequence[str], echo: Callable[[str], None] = lambda line: None, **options) -> list[Result]:
    """Grade the runs of a class; what is wrong with one of them stays its own.

    Args:
        folders: Run folders; a folder that holds one run folder, as an unpacked archive does, stands for it.
        echo: Told which run is looked at.
        options: Of `grade_run`.
    """
    options["seed"] = secrets.randbelow(10**6) if options.get("seed") is None else options["seed"]
    results = []
    for folder in folders:
        echo(f"{folder}:")
        try:
            results.append(Result(folder, grade_run(open_run(_run_below(Path(folder))), echo=echo, **options)))
        except Exception as error:  # what a student hands in may be anything
            kind = "" if isinstance(error, CannotStart) else f"{type(error).__name__}: "
            results.append(Result(folder, None, f"{kind}{error}".splitlines()[0][:300]))
    return results


def _run_below(folder: Path) -> Path:
    below = [path.parent for path in folder.glob("*/run.json")]
    return below[0] if not (folder / "run.json").is_file() and len(below) == 1 else folder
