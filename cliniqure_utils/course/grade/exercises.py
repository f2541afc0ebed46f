"""How the exercises were answered: solved, unsolved or wrong."""

import ast
import contextlib
import io
import operator
from collections.abc import Iterator
from dataclasses import dataclass

from cliniqure_utils.course.grade.integrity import answers, is_answered
from cliniqure_utils.course.grade.run_folder import FAIL, NOTE, PASS, Check, Run, is_injected, joined
from cliniqure_utils.notebooks import cell_source

SOLVED, UNSOLVED, WRONG = "solved", "unsolved", "wrong"
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
    """Every cell of the course with `my_... = None`, as it stands in the executed copies."""
    found = []
    for notebook in run.notebooks:
        copy = [cell for cell in run.copies[notebook.name] or [] if not is_injected(cell)]
        number = 0
        for place, course in enumerate(notebook.code):
            if not answers(course):
                continue
            number += 1
            own = cell_source(copy[place]) if place < len(copy) else ""
            if own.strip() != course.strip() and not is_answered(own, course):
                found.append(Exercise(notebook.name, number, UNSOLVED, "", None))
                continue
            printed = "".join(
                joined(o.get("text", "")) for o in copy[place].get("outputs", []) if o.get("name") == "stdout"
            )
            given = answers(own)
            shown = "; ".join(ast.unparse(value) for value in given.values())[:80]
            found.append(Exercise(notebook.name, number, verdict(printed), shown, try_again(course, given)))
    return found


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
        tree = ast.parse(course)
    except (NotPlain, SyntaxError):
        return None
    names = answers(course)
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
    """Numbers, text, True, False, None, lists and sums of them.

    Raises:
        NotPlain: Anything else.
    """
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, (ast.List, ast.Tuple)):
        return [plain_value(item) for item in node.elts]
    try:
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            pair = plain_value(node.left), plain_value(node.right)
            if all(isinstance(value, (int, float)) for value in pair):
                return _OPERATORS[type(node.op)](*pair)
        if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
            value = plain_value(node.operand)
            if isinstance(value, (int, float)):
                return _OPERATORS[type(node.op)](value)
    except ArithmeticError as error:
        raise NotPlain(str(error)) from None
    raise NotPlain(ast.unparse(node)[:80])


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
