"""`cliniqure grade`: is this folder a whole, unchanged run of the course, and what are its results?

What is looked at: every notebook ran from its first cell to its last without an error; its executed copy, its outputs
and its parameters are the ones that run.json records; notebook 07's numbers are worked out again from the prediction
and report files; the headline numbers lie inside the reference ranges; and how the exercises were answered.

What a grader cannot see: whether prediction files were made by the notebook that they are said to come from, when they
were replaced together with their hashes. Only running the chain again tells.
"""

from cliniqure_utils.course.grade.formats import (
    as_class_table,
    as_json,
    as_junit,
    as_table,
    class_as_json,
    class_as_junit,
)
from cliniqure_utils.course.grade.grading import Grade, Result, grade_class, grade_run, write_reference
from cliniqure_utils.course.grade.reference import make_reference, read_reference
from cliniqure_utils.course.grade.run_folder import Check, Run, open_run

__all__ = [
    "Check",
    "Grade",
    "Result",
    "Run",
    "as_class_table",
    "as_json",
    "as_junit",
    "as_table",
    "class_as_json",
    "class_as_junit",
    "grade_class",
    "grade_run",
    "make_reference",
    "open_run",
    "read_reference",
    "write_reference",
]
