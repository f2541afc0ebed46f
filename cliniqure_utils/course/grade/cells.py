"""Which cell of an executed copy is which of the course's: found by content or cell id, never by place.

A student's notebook may hold more cells than the course's: an empty one at the end, a scratch cell, an exercise twice,
`%cd` on top. What was handed in may be damaged or made by hand, so nothing here fails on it.
"""

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass

LONGEST_CELL = 50_000  # characters; a cell of more is no answer to an exercise


@dataclass(frozen=True)
class Matched:
    """The code cells of a copy beside the course's.

    Attributes:
        cells: For each code cell of the course the cell of the copy, or None where it has none. An exercise that was
            answered in several cells: the last answer.
        changed: Places in the course, from 0, of cells that the copy has by their id, but with another code.
        extra: Places in the copy, from 0, of cells that are not the course's and not empty.
    """

    cells: list[dict | None]
    changed: list[int]
    extra: list[int]


def tidy_cell(cell) -> dict | None:
    """A code cell with the types of the notebook format, whatever the file holds; None for any other cell."""
    if not isinstance(cell, dict) or cell.get("cell_type") != "code":
        return None
    metadata = cell.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    tags, run = metadata.get("tags"), metadata.get("papermill")
    outputs = cell.get("outputs")
    outputs = [output for output in outputs if isinstance(output, dict)] if isinstance(outputs, list) else []
    return {
        "id": cell.get("id"),
        "source": joined(cell.get("source")),
        "execution_count": cell.get("execution_count"),
        "metadata": {
            "tags": tags if isinstance(tags, list) else [],
            "papermill": run if isinstance(run, dict) else {},
        },
        "outputs": [
            output | {"data": output["data"] if isinstance(output.get("data"), dict) else {}} for output in outputs
        ],
    }


def joined(value) -> str:
    """Text that the notebook format keeps as a text or as a list of lines; empty for anything else."""
    if isinstance(value, list):
        return "".join(line for line in value if isinstance(line, str))
    return value if isinstance(value, str) else ""


def injected(copy: Sequence[dict]) -> dict | None:
    """The cell that papermill puts behind the parameters cell: the first with its tag."""
    return next((cell for cell in copy if "injected-parameters" in cell["metadata"]["tags"]), None)


def match_cells(course: Sequence[str], ids: Sequence[str | None], copy: Sequence[dict]) -> Matched:
    """Find the course's cells in a copy, in their order; an exercise anywhere, since it needs no other cell.

    Args:
        course: The sources of the course's code cells.
        ids: Their cell ids.
        copy: `tidy_cell`s of the copy.
    """
    own = [(place, cell) for place, cell in enumerate(copy) if cell is not injected(copy)]
    found: list[int | None] = []
    start = 0
    for source in course:
        place = next((place for place, cell in own if place >= start and is_course_cell(cell["source"], source)), None)
        found.append(place)
        start = start if place is None else place + 1
    left = [(place, cell) for place, cell in own if place not in found and cell["source"].strip()]
    for number, source in enumerate(course):
        if not answers(source):
            continue
        twins = [place for place, cell in left if is_course_cell(cell["source"], source)]
        places = sorted([*twins, *([] if found[number] is None else [found[number]])])
        answered = [place for place in places if _written(copy[place]["source"]) != _written(source)]
        found[number] = next(iter([*reversed(answered), *places]), None)
    taken = {place for place in found if place is not None}
    left = [(place, cell) for place, cell in own if place not in taken and cell["source"].strip()]
    by_id = {cell["id"]: place for place, cell in left if isinstance(cell["id"], str)}
    changed = [n for n, place in enumerate(found) if place is None and ids[n] in by_id]
    known = taken | {by_id[ids[n]] for n in changed}
    extra = [place for place, _ in left if place not in known]
    return Matched([None if place is None else copy[place] for place in found], changed, extra)


def is_course_cell(own: str, course: str) -> bool:
    """Whether `own` is the course's cell, or its exercise with an answer: all its statements in order, other `my_...`
    values. Lines added to work the answer out are fine.
    """
    if own.strip() == course.strip():
        return True
    if not answers(course):
        return False
    statements, theirs = answer_free(course), answer_free(own)
    if statements is None or theirs is None:
        return False
    left = iter(theirs)
    return all(statement in left for statement in statements)


def parse(source: str) -> ast.Module | None:
    """The syntax tree of a cell; None where it is not Python, or longer or nested deeper than any answer."""
    if len(source) > LONGEST_CELL:
        return None
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # ValueError: a null character
        return None


def answer_free(source: str) -> list[str] | None:
    """The statements of a cell without `my_... = value`; None where it is not Python."""
    tree = parse(source)
    try:
        return tree and [ast.dump(statement) for statement in tree.body if not _answer_name(statement)]
    except RecursionError:
        return None


def answers(source: str) -> dict[str, ast.expr]:
    """`my_... = value` at the top level of a cell: name -> value; the last one of a name counts.

    A function `def my_...` is an answer too; its value is the bare name, since a student's code is not run.
    """
    tree = parse(source)
    found = {}
    for statement in tree.body if tree else ():
        if _answer_name(statement):
            found[_answer_name(statement)] = statement.value
        elif isinstance(statement, ast.FunctionDef) and statement.name.startswith("my_"):
            found[statement.name] = ast.Name(statement.name)
    return found


def _written(source: str) -> dict[str, str] | None:
    """`answers` as text, to be compared; None where they are nested deeper than any answer."""
    try:
        return {name: ast.dump(value) for name, value in answers(source).items()}
    except RecursionError:
        return None


def _answer_name(statement: ast.stmt) -> str | None:
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
        if isinstance(target, ast.Name) and re.match(r"my_\w", target.id):
            return target.id
    return None
