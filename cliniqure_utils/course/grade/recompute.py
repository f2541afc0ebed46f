"""The numbers of notebook 07, worked out again by the course's notebook from the run's prediction and report files.

The notebook itself is run again, in a folder of its own that only points to the run's other steps, so that no second
version of its arithmetic is needed. What it makes is compared with what the run folder holds.
"""

import contextlib
import io
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cliniqure_utils.course.chain import NotebookFailed
from cliniqure_utils.course.chain.execute import execute
from cliniqure_utils.course.compare import close
from cliniqure_utils.course.grade.cells import joined, match_cells, tidy_cell
from cliniqure_utils.course.grade.integrity import strange_parameters, usable_parameters
from cliniqure_utils.course.grade.run_folder import FAIL, PASS, Check, Run
from cliniqure_utils.notebooks import Notebook
from cliniqure_utils.project import CannotStart
from cliniqure_utils.record import parameters_of

STEP = "07_evaluate"
NUMBERS, PRINTED = "numbers worked out again", "printed outputs"
# The text encoder's sums may differ from processor to processor in the sixth digit. The numbers are exact otherwise.
TOLERANCE = 1e-4
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
PICTURE = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=]*")
HERE = ("data_dir", "device", "n_jobs")  # parameters that belong to the machine; the notebook's defaults stand for them
CELL_SECONDS = 1800  # that a cell may take; the demo's longest takes some ten seconds
TEXT_FILES = ("table7.csv", "claims.csv", "report.html")


def recompute(run: Run) -> tuple[list[Check], dict | None]:
    """Run the last notebook again.

    Returns:
        (checks, its metrics; None where it could not run on the run's files).

    Raises:
        CannotStart: It cannot run here, whatever the files are: the text encoder is not installed.
    """
    notebook = next((n for n in run.notebooks if n.name == STEP), None)
    if notebook is None:
        return [], None
    if not run.entry(STEP):
        return [Check(STEP, NUMBERS, FAIL, "not worked out: it has not run")], None
    with tempfile.TemporaryDirectory() as place:
        # The notebook prints the folder's name, as it was then: a run that is handed in may be renamed.
        recorded = parameters_of(run.record, STEP).get("run_dir")
        name = Path(recorded).name if isinstance(recorded, str) else ""
        folder = Path(place) / (name if re.fullmatch(r"[\w.-]*\w[\w.-]*", name) else "run")
        folder.mkdir()
        for other in run.notebooks:
            source = run.folder.resolve() / other.name
            if other.name != STEP and source.is_dir():
                (folder / other.name).symlink_to(source, target_is_directory=True)
        (folder / "run.json").symlink_to(run.folder.resolve() / "run.json")  # the page says what it says of the run
        copy = folder / "notebooks" / f"{STEP}.ipynb"
        problems = strange_parameters(run, STEP)
        try:
            parameters = usable_parameters(run, STEP)
        except CannotStart as error:
            problems.append(str(error))
        if problems:  # with two million resamples, say, it would run for days
            return [Check(STEP, NUMBERS, FAIL, f"not worked out: {problems[0]}")], None
        kept = parameters.keys() - HERE
        changed = {key: parameters[key] for key in kept if parameters[key] != notebook.defaults[key]}
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                execute(notebook, copy, changed | {"run_dir": folder.as_posix()}, cell_seconds=CELL_SECONDS)
        except NotebookFailed as failed:
            if failed.failure.error == "MissingEncoder":
                raise CannotStart(f"{STEP} cannot run here: {failed.failure.message}") from None
            message = f"{STEP} cannot work with the run's files: {failed.failure.error}: {failed.failure.message}"
            return [Check(STEP, NUMBERS, FAIL, message.splitlines()[0][:300])], None
        metrics = json.loads((folder / STEP / "metrics.json").read_text(encoding="utf-8"))
        cells = map(tidy_cell, json.loads(copy.read_text(encoding="utf-8"))["cells"])
        again = [cell for cell in cells if cell is not None]
        checks = [_compare_metrics(run, metrics), *_compare_files(run, folder), _compare_copy(run, notebook, again)]
    return checks, metrics


def _compare_metrics(run: Run, metrics: dict) -> Check:
    own = run.metrics.get(STEP)
    if own is None:
        return Check(STEP, NUMBERS, FAIL, "metrics.json is missing or cannot be read")
    wrong = [key for key in sorted(set(own) | set(metrics)) if not _same_entry(own, metrics, key)]
    if not wrong:
        return Check(STEP, NUMBERS, PASS, f"{len(metrics)} numbers of metrics.json follow from the files")
    wrong.sort(key=lambda key: not key.startswith("table7/"))
    shown = [f"{key} is {_show(own, key)} in metrics.json, {_show(metrics, key)} from the files" for key in wrong[:2]]
    more = f" (and {len(wrong) - 2} more)" if len(wrong) > 2 else ""
    return Check(STEP, NUMBERS, FAIL, "; ".join(shown) + more)


def _same_entry(own: dict, metrics: dict, key: str) -> bool:
    return key in own and key in metrics and close(own[key], metrics[key], TOLERANCE)


def _show(values: dict, key: str) -> str:
    if key not in values:
        return "missing"
    value = values[key]
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _compare_files(run: Run, folder: Path) -> Iterator[Check]:
    for name in TEXT_FILES:
        made = folder / STEP / name
        if not made.is_file():
            continue
        own = run.folder / STEP / name
        if not own.is_file():
            yield Check(STEP, name, FAIL, "missing")
            continue
        texts = [PICTURE.sub("", path.read_text(encoding="utf-8", errors="replace")) for path in (own, made)]
        if same_text(*texts):
            yield Check(STEP, name, PASS, "follows from the files")
        else:
            yield Check(STEP, name, FAIL, f"is not what the files give: {_first_difference(*texts)}")


def _compare_copy(run: Run, notebook: Notebook, again: list[dict]) -> Check:
    """What the executed copy shows, against what the notebook shows when it runs on the same files."""
    if run.copies[STEP] is None:
        return Check(STEP, PRINTED, FAIL, "there is no executed copy")
    made = match_cells(notebook.code, notebook.ids, again).cells
    for number, cells in enumerate(zip(run.matched[STEP].cells, made, strict=True), start=1):
        if None in cells or cells[0]["source"].strip() != cells[1]["source"].strip():  # an answered exercise
            continue
        texts = [shown_text(cell) for cell in cells]
        if not same_text(*texts):
            return Check(
                STEP, PRINTED, FAIL, f"code cell {number} shows what the files do not give: {_first_difference(*texts)}"
            )
    return Check(STEP, PRINTED, PASS, "follow from the files")


def shown_text(cell: dict) -> str:
    """Printed and displayed text of a cell; pictures, progress bars and warnings are left out."""
    text = ""
    for output in cell["outputs"]:
        if output.get("output_type") == "stream" and output.get("name") == "stdout":
            text += joined(output.get("text"))  # a busy kernel sends one line in pieces
        data = output.get("data", {})
        if not any(mime.startswith("image/") for mime in data):
            for mime in ("text/plain", "text/html"):
                text += f"\n{joined(data[mime])}\n" if mime in data else ""
    return "\n".join(line.rstrip() for line in text.splitlines() if line.strip())


def same_text(own: str, made: str) -> bool:
    """Equal words, and equal numbers but for the last digit that is printed."""
    if NUMBER.split(own) != NUMBER.split(made):
        return False
    return all(_same_number(a, b) for a, b in zip(NUMBER.findall(own), NUMBER.findall(made), strict=True))


def _same_number(a: str, b: str) -> bool:
    if a == b:
        return True
    mantissas = [re.split("[eE]", text)[0] for text in (a, b)]
    if not all("." in text for text in mantissas):
        return False
    if mantissas != [a, b]:  # written with an exponent: the printed digits say little
        return close(float(a), float(b), TOLERANCE)
    digits = min(len(text.split(".")[1]) for text in mantissas)
    return abs(float(a) - float(b)) <= 1.01 * max(10**-digits, TOLERANCE)


def _first_difference(own: str, made: str) -> str:
    """The first line that is not the same, cut short."""
    for mine, theirs in zip(own.splitlines(), made.splitlines(), strict=False):
        if not same_text(mine, theirs):
            at = next((i for i, (x, y) in enumerate(zip(mine, theirs, strict=False)) if x != y), 0)
            start = max(0, at - 30)
            return f"{mine[start : at + 40].strip()!r} instead of {theirs[start : at + 40].strip()!r}"
    return "one of them is longer"
