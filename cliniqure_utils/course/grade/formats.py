"""The result of grading: a table on screen, JSON, and JUnit XML for grading systems."""

import re
from collections import Counter
from xml.etree import ElementTree

from cliniqure_utils.course.grade.grading import Grade
from cliniqure_utils.course.grade.run_folder import FAIL, NOTE

MARKS = {"fail": "FAIL", "note": "note"}


def as_table(grade: Grade) -> list[str]:
    """Lines for the screen: per notebook what passed, in one line, and every failure and note in a line of its own."""
    steps = list(dict.fromkeys(check.step for check in grade.checks))
    width = max(map(len, steps))
    lines = []
    for step in steps:
        checks = [check for check in grade.checks if check.step == step]
        passed = [check.name for check in checks if check.status == "pass"]
        if passed:
            lines.append(f"pass  {step:<{width}}  {', '.join(passed)}")
        lines += [f"{MARKS[c.status]}  {step:<{width}}  {c.name}: {c.message}" for c in checks if c.status != "pass"]
    counts = Counter(check.status for check in grade.checks)
    solved = Counter(exercise.verdict for exercise in grade.exercises)
    if grade.exercises:
        lines += ["", "Exercises: " + ", ".join(f"{solved[v]} {v}" for v in ("solved", "unsolved", "wrong"))]
    failed = counts[FAIL]
    lines.append(f"{'Failed' if failed else 'Passed'}: {counts['pass']} of {counts['pass'] + failed} checks passed.")
    return lines


def as_json(grade: Grade) -> dict:
    """The same as plain values."""
    return {
        "run": grade.run.folder.resolve().name,
        "profile": grade.run.profile,
        "seed": grade.run.seed,
        "passed": grade.passed,
        "checks": [vars(check) for check in grade.checks],
        "exercises": [
            {"step": e.step, "number": e.number, "verdict": e.verdict, "answer": e.answer} for e in grade.exercises
        ],
    }


def as_junit(grade: Grade) -> str:
    """JUnit XML: one test case per check; a note is a skipped one."""
    counts = Counter(check.status for check in grade.checks)
    suite = ElementTree.Element(
        "testsuite",
        name="cliniqure grade",
        tests=str(len(grade.checks)),
        failures=str(counts[FAIL]),
        errors="0",
        skipped=str(counts[NOTE]),
    )
    for check in grade.checks:
        case = ElementTree.SubElement(suite, "testcase", classname=_legal(check.step), name=_legal(check.name))
        if check.status == FAIL:
            ElementTree.SubElement(case, "failure", message=_legal(check.message))
        elif check.status == NOTE:
            ElementTree.SubElement(case, "skipped", message=_legal(check.message))
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _legal(text: str) -> str:
    """Without the control characters that XML has no way to write."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text)
