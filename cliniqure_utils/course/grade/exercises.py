"""How the exercises were answered: solved, unsolved or wrong."""

import ast
import contextlib
import io
import operator
from collections.abc import Iterator
from dataclasses import dataclass

from cliniqure_utils.course.grade.cells import answers, joined
from cliniqure_utils.course.grade.run_folder import FAIL, NOTE, PASS, Check, Run

SOLVED, UNSOLVED, WRONG = "solved", "unsolved", "wrong"
MOST_PARTS = 2000  # of a plain answer: nodes of its syntax tree; the course's longest has some dozens
LARGEST = 1000  # characters of a text, bits of a whole number
_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


class NotPlain(ValueError):
    """An answer that is not worked out from numbers alone."""


@dataclass(frozen=True)
class Exercise:
    """One exercise cell. `number` counts within the notebook, from 1; `answer`: as the student wrote it.

    `again`: the verdict of the course's own cell on that answer, None where the answer is not plain enough to try.
    """

    step: str
    number: int
    verdict: str
    answer: str
    again: str | None


def find_exercises(run: Run) -> list[Exercise]:
    """Every cell of the course with `my_... = None`, as it stands in the executed copies, wherever it stands there."""
    found = []
    for notebook in run.notebooks:
        number = 0
        for course, cell in zip(notebook.code, run.matched[notebook.name].cells, strict=True):
            if not answers(course):
                continue
            number += 1
            if cell is None:
                found.append(Exercise(notebook.name, number, UNSOLVED, "", None))
                continue
            printed = "".join(joined(o.get("text")) for o in cell["outputs"] if o.get("name") == "stdout")
            given = answers(cell["source"])
            found.append(Exercise(notebook.name, number, verdict(printed), shown(given), try_again(course, given)))
    return found


def shown(given: dict[str, ast.expr]) -> str:
    """The answers as text, cut short."""
    try:
        return "; ".join(ast.unparse(value) for value in given.values())[:80]
    except (RecursionError, ValueError):  # ValueError: a whole number of thousands of digits
        return "an answer too long to show"


def verdict(printed: str) -> str:
    """What the exercise cell printed, as one word. Every exercise prints Correct, Not yet or Not answered yet."""
    if "Not yet" in printed:
        return WRONG
    if "Not answered yet" in printed or not printed.strip():
        return UNSOLVED
    return SOLVED if "Correct" in printed else WRONG


def try_again(course: str, given: dict[str, ast.expr]) -> str | None:
    """The course's cell run on the student's answers, where those are plain values; no code of the student runs."""
    import math

    import numpy as np
    import pandas as pd

    try:
        values = {name: plain_value(value) for name, value in given.items()}
    except NotPlain:
        return None
    tree, names = ast.parse(course), answers(course)
    if set(values) != set(names):
        return None
    kept = [s for s in tree.body if not (isinstance(s, ast.Assign) and ast.unparse(s.targets[0]) in names)]
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            code = compile(ast.Module(kept, []), "exercise", "exec")
            exec(code, {"np": np, "pd": pd, "math": math, **values})  # the course's own code on plain values
    except Exception:  # it needs names from the notebook, or does not take such an answer
        return None
    return verdict(printed.getvalue())


def plain_value(node: ast.expr):
    """Numbers, text, True, False, None, lists and sums of them; of a size that a check takes in no time.

    Raises:
        NotPlain: Anything else, or more than MOST_PARTS parts, or a number or text larger than LARGEST.
    """
    if sum(1 for _ in ast.walk(node)) > MOST_PARTS:
        raise NotPlain(f"more than {MOST_PARTS} parts")
    try:
        return _plain_value(node)
    except (ArithmeticError, RecursionError) as error:
        raise NotPlain(type(error).__name__) from None


def _plain_value(node: ast.expr):
    value = None
    if isinstance(node, ast.Constant):
        value = node.value
    elif isinstance(node, (ast.List, ast.Tuple)):
        return [_plain_value(item) for item in node.elts]
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        value = _OPERATORS[type(node.op)](_number(node.left), _number(node.right))
    elif isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
        value = _OPERATORS[type(node.op)](_number(node.operand))
    else:
        raise NotPlain(type(node).__name__)
    if isinstance(value, str):
        plain = len(value) <= LARGEST
    elif isinstance(value, int):
        plain = value.bit_length() <= LARGEST
    else:
        plain = value is None or isinstance(value, float)
    if not plain:
        raise NotPlain(f"{type(value).__name__} is not plain, or too large")
    return value


def _number(node: ast.expr) -> int | float:
    value = _plain_value(node)
    if not isinstance(value, (int, float)):
        raise NotPlain("arithmetic with something that is no number")
    return value


def check_exercises(exercises: list[Exercise], required: bool) -> Iterator[Check]:
    """Checks of the exercises: a printed verdict that does not follow from the answer always fails; an exercise that is
    unsolved or wrong fails only where `required`."""
    for exercise in exercises:
        name = f"exercise {exercise.number}"
        if exercise.again is not None and exercise.again != exercise.verdict:
            message = f"its output says {exercise.verdict}, but the answer {exercise.answer} is {exercise.again}"
            yield Check(exercise.step, name, FAIL, message)
        elif exercise.verdict == SOLVED:
            yield Check(exercise.step, name, PASS, SOLVED)
        else:
            said = f"{exercise.verdict}: {exercise.answer}" if exercise.verdict == WRONG else exercise.verdict
            yield Check(exercise.step, name, FAIL if required else NOTE, said)
