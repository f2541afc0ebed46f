"""The result of grading: a table on screen, JSON, and JUnit XML for grading systems."""

import re
from collections import Counter
from collections.abc import Sequence
from xml.etree import ElementTree

from cliniqure_utils.course.grade.grading import Grade, Result
from cliniqure_utils.course.grade.recompute import NUMBERS, PRINTED, TEXT_FILES
from cliniqure_utils.course.grade.rework import NAME
from cliniqure_utils.course.grade.run_folder import FAIL, NOTE

# Failures that a class table shows before others: files that contradict the weights or the files they follow from. A
# notebook that has not run stands before what could not be worked out for that reason.
FIRST = (NAME, "finished", NUMBERS, *TEXT_FILES, PRINTED)
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


def as_class_table(results: Sequence[Result]) -> list[str]:
    """A class on screen: per run the result, its checks and exercises, and the gravest failure."""
    rows = [("run", "result", "checks", "solved", "unsolved", "wrong", "first problem")]
    for result in results:
        if result.grade is None:
            rows.append((result.folder, "not graded", "", "", "", "", result.problem))
            continue
        counts = Counter(check.status for check in result.grade.checks)
        solved = Counter(exercise.verdict for exercise in result.grade.exercises)
        steps = [check.step for check in result.grade.checks]
        failed = [check for check in result.grade.checks if check.status == FAIL]
        failed.sort(key=lambda c: (FIRST.index(c.name) if c.name in FIRST else len(FIRST), steps.index(c.step)))
        first = f"{failed[0].step}, {failed[0].name}: {failed[0].message}" if failed else ""
        rows.append(
            (result.folder, "passed" if result.grade.passed else "FAILED",
             f"{counts['pass']} of {counts['pass'] + counts[FAIL]}",
             *(str(solved[verdict]) for verdict in ("solved", "unsolved", "wrong")), first)
        )  # fmt: skip
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]) - 1)]
    return [
        "  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    ]


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


def class_as_json(results: Sequence[Result]) -> list[dict]:
    """`as_json` of each run, under the folder that was given; of one that could not be graded, why."""
    return [
        {**(as_json(r.grade) if r.grade else {"passed": False, "problem": r.problem}), "run": r.folder} for r in results
    ]


def class_as_junit(results: Sequence[Result]) -> str:
    """JUnit XML: a suite per run; one that could not be graded is an error."""
    suites = ElementTree.Element("testsuites", name="cliniqure grade")
    for result in results:
        if result.grade:
            suite = _suite(result.grade)
            suite.set("name", _legal(result.folder))
        else:
            suite = ElementTree.Element(
                "testsuite", name=_legal(result.folder), tests="1", failures="0", errors="1", skipped="0"
            )
            case = ElementTree.SubElement(suite, "testcase", classname="run", name="graded")
            ElementTree.SubElement(case, "error", message=_legal(result.problem))
        suites.append(suite)
    return _xml(suites)


def as_junit(grade: Grade) -> str:
    """JUnit XML: one test case per check; a note is a skipped one."""
    return _xml(_suite(grade))


def _xml(root: ElementTree.Element) -> str:
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _suite(grade: Grade) -> ElementTree.Element:
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
    return suite


def _legal(text: str) -> str:
    """Without the control characters that XML has no way to write."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text)
