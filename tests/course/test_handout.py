"""The students' notebooks: no solution, no output, the same code, and still notebooks that the chain takes."""

import json

import nbformat
import pytest

from cliniqure_utils import cli
from cliniqure_utils.course.chain import run_chain
from cliniqure_utils.course.handout import make_handout, student_version
from cliniqure_utils.notebooks import find_notebooks
from cliniqure_utils.project import CannotStart
from cliniqure_utils.runs import STEPS

SOLVED = "<details><summary>Solution</summary>\n\nIt is 6.\n</details>\n"


def cell(kind, source, **more):
    return {"cell_type": kind, "id": "a", "metadata": {}, "source": source, **more}


def code(source, outputs=(), count=3):
    return cell("code", source, outputs=list(outputs), execution_count=count)


def text_of(notebook):
    return ["".join(cell["source"]) for cell in notebook["cells"]]


def test_the_real_notebooks_lose_solutions_and_outputs_and_nothing_else(repository, tmp_path, capsys):
    assert cli.main(["handout", "--student", str(tmp_path / "student")]) == 0
    said = capsys.readouterr().out
    assert said.count("taken out") == len(STEPS) and " 0 solutions" not in said
    made, source = find_notebooks(tmp_path / "student"), find_notebooks(repository / "notebooks")
    assert [notebook.name for notebook in made] == list(STEPS)
    for student, teacher in zip(made, source, strict=True):
        assert student.code == teacher.code and student.defaults == teacher.defaults
        content = nbformat.read(student.path, 4)
        nbformat.validate(content)
        assert all(c.outputs == [] and c.execution_count is None for c in content.cells if c.cell_type == "code")
        prose = "\n".join(c.source for c in content.cells if c.cell_type == "markdown")
        whole = "\n".join(c.source for c in nbformat.read(teacher.path, 4).cells if c.cell_type == "markdown")
        assert "Solution</summary>" in whole and "solution</summary>" not in prose.lower()
        assert prose.count("<details>") == prose.count("</details>") == whole.count("Hint</summary>")
        assert "What was written" in prose and "## Exercise" in prose
    profiles = sorted(path.name for path in (repository / "notebooks" / "profiles").glob("*.yaml"))
    assert sorted(path.name for path in (tmp_path / "student" / "profiles").iterdir()) == profiles
    lines = []
    run_chain(
        notebooks_dir=tmp_path / "student", run_dir=tmp_path / "run", profile="smoke", dry_run=True, echo=lines.append
    )
    assert lines[0].startswith("01_preprocess: would run")


@pytest.mark.parametrize(
    "before, after",
    [
        (SOLVED + "\n## Next", "## Next"),
        ("Text\n\n" + SOLVED, "Text"),
        ("<details><summary>Hint</summary>\n\nCount.\n</details>\n" + SOLVED,
         "<details><summary>Hint</summary>\n\nCount.\n</details>"),
        ("<details>\n<summary><b>Solutions 1 and 2</b></summary>\nx\n</details>\nrest", "rest"),
        ("<details open><summary>SOLUTION</summary>x</details>", None),
        ("A solution of salt, <details><summary>More</summary>x</details>", "same"),
    ],
)  # fmt: skip
def test_what_is_folded_as_a_solution_goes(before, after):
    result, taken = student_version({"cells": [cell("markdown", before), code("x = 1")]}, "01_x")
    assert text_of(result)[0] == (before if after == "same" else after or "x = 1")
    assert taken == (after != "same") and len(result["cells"]) == 2 - (after is None)


def test_an_answer_left_in_the_source_is_taken_out():
    result, _ = student_version(
        {"cells": [code("my_answer = 6\nmy_box = [1, 2]\nif my_answer == 6:\n    pass")]}, "01_x"
    )
    assert text_of(result) == ["my_answer = None\nmy_box = None\nif my_answer == 6:\n    pass"]


def test_a_solution_that_does_not_end_is_refused():
    broken = {"cells": [cell("markdown", "<details><summary>Solution</summary>\n6")]}
    with pytest.raises(CannotStart, match="01_x, cell 1: a solution does not end"):
        student_version(broken, "01_x")


def test_no_work_is_overwritten(repository, tmp_path, capsys):
    (tmp_path / "01_preprocess.ipynb").write_text(json.dumps({"cells": []}))
    assert cli.main(["handout", "--student", str(tmp_path)]) == 2
    assert "is not empty: choose a new folder" in capsys.readouterr().err
    with pytest.raises(CannotStart, match="is not empty"):
        make_handout(repository / "notebooks")
    assert json.loads((tmp_path / "01_preprocess.ipynb").read_text()) == {"cells": []}
