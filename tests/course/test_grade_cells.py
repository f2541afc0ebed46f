"""What a student's notebook may look like: cells of their own, answers of any size, files in any state."""

import json
import time

import pytest
from small_course import EXERCISE, edit_record, failures, make_course, opened, sha256, write_course

from cliniqure_utils import cli
from cliniqure_utils.course.chain import run_chain
from cliniqure_utils.course.grade import as_json, grade_run, open_run
from cliniqure_utils.course.grade.cells import answers, is_course_cell, match_cells, tidy_cell
from cliniqure_utils.course.grade.exercises import find_exercises, plain_value, try_again
from cliniqure_utils.course.grade.grading import check_record


def code(source, cell_id="x", **more):
    return tidy_cell({"cell_type": "code", "id": cell_id, "source": source} | more)


def student_run(course, tmp_path, change):
    """A student's run of the small course whose notebook 01_data was changed before it ran."""
    notebooks, package, _ = course
    student = write_course(tmp_path / "student", {"01_data": "my_answer = 6"})
    path = student / "01_data.ipynb"
    content = json.loads(path.read_text())
    change(content["cells"])
    path.write_text(json.dumps(content))
    run_chain(
        notebooks_dir=student, package_dir=package, run_dir=tmp_path / "outputs", overrides={"all.seed": 7},
        echo=lambda line: None,
    )  # fmt: skip
    return open_run(tmp_path / "outputs", notebooks, package)


def own(source):
    return {"cell_type": "code", "id": "of-a-student", "metadata": {}, "source": source, "outputs": []}


def empty_at_the_end(cells):
    cells.append(own(""))


def scratch_above_the_exercise(cells):
    cells.insert(2, own("1 + 1"))


def comment_on_top(cells):
    cells.insert(0, own("# my notes"))


def exercise_twice(cells):
    cells.append({**cells[-1], "id": "copied"})


def first_try_left_above(cells):
    cells.insert(2, own(EXERCISE.replace("None", "5", 1)))


def answered_in_a_copy(cells):
    cells.append({**cells[2], "id": "copied"})
    cells[2] = {**cells[2], "source": EXERCISE}


def exercise_moved_up(cells):
    cells.insert(1, cells.pop(2))


def other_ids(cells):
    for cell in cells:
        del cell["id"]


def course_cell_twice(cells):
    cells.insert(2, {**cells[1], "id": "copied"})


@pytest.mark.parametrize(
    "change, noted",
    [
        (empty_at_the_end, None), (scratch_above_the_exercise, "code cell 4, `1 + 1`"),
        (comment_on_top, "code cell 1, `# my notes`"), (exercise_twice, "code cell 4, `my_answer = 6`"),
        (first_try_left_above, "code cell 4, `my_answer = 5`"), (answered_in_a_copy, "code cell 4, `my_answer = None`"),
        (exercise_moved_up, None),
        (other_ids, None), (course_cell_twice, "code cell 4, `from pathlib import Path`"),
    ],
)  # fmt: skip
def test_cells_of_a_student_are_a_note(course, tmp_path, change, noted):
    run = student_run(course, tmp_path, change)
    grade = grade_run(run)
    assert failures(grade.checks) == {}
    assert [e.verdict for e in grade.exercises if e.step == "01_data"] == ["solved"]
    notes = [c.message for c in grade.checks if (c.step, c.name) == ("01_data", "own cells")]
    assert notes == ([] if noted is None else [f"not of the course: {noted}"])


def test_of_several_answers_the_last_one_counts(course, tmp_path):
    def twice(cells):
        cells.append({**cells[2], "id": "copied", "source": EXERCISE.replace("None", "7", 1)})

    exercises = find_exercises(student_run(course, tmp_path, twice))
    assert [(e.verdict, e.answer) for e in exercises if e.step == "01_data"] == [("wrong", "7")]


def test_a_cell_of_the_course_that_is_gone_or_changed_still_fails(course, tmp_path):
    run = student_run(course, tmp_path, lambda cells: cells.insert(0, own("x = 1")))
    path = run.folder / "notebooks" / "01_data.ipynb"
    content = json.loads(path.read_text())
    gone = [cell for cell in content["cells"] if cell.get("id") != "01_data-1"]
    path.write_text(json.dumps(content | {"cells": gone}))
    found = failures(check_record(opened(course, run.folder)))
    assert found["01_data", "code"] == "it lacks code cell 2 of the course, `from pathlib import Path`"
    for cell in content["cells"]:
        cell["source"] = "".join(cell["source"]).replace("4 films", "9 films")
    path.write_text(json.dumps(content))
    assert failures(check_record(opened(course, run.folder)))["01_data", "code"] == "code cell 2 is not the course's"


def test_a_second_cell_with_papermills_tag_is_no_hiding_place(course, run_folder):
    path = run_folder / "notebooks" / "02_model.ipynb"
    content = json.loads(path.read_text())
    content["cells"].append(own("truth = 9") | {"metadata": {"tags": ["injected-parameters"]}, "execution_count": 5})
    path.write_text(json.dumps(content))
    edit_record(run_folder, lambda record: record["notebooks"]["02_model"].update(copy_sha256=sha256(path)))
    notes = [c.message for c in check_record(opened(course, run_folder)) if c.name == "own cells"]
    assert notes == ["not of the course: code cell 5, `truth = 9`"]


def test_printed_numbers_are_compared_whatever_stands_above(course, run_folder):
    """An empty cell on top moves all places; the forged output below it is still seen."""
    path = run_folder / "notebooks" / "07_evaluate.ipynb"
    content = json.loads(path.read_text().replace("share right: 0.750", "share right: 0.950"))
    content["cells"].insert(0, own(""))
    path.write_text(json.dumps(content))
    found = failures(grade_run(opened(course, run_folder)).checks)
    assert "'share right: 0.950' instead of 'share right: 0.750'" in found["07_evaluate", "printed outputs"]


@pytest.mark.parametrize(
    "source", ["%cd /content/cliniqure/notebooks", "!pip install x", "x = !ls", "%%bash\necho $HOME", "%%time\nx = 1",
               "print?", "what is this"]
)  # fmt: skip
def test_a_cell_that_is_not_python_stops_nothing_before_it_runs(tmp_path, source):
    notebooks, package, _ = make_course(tmp_path / "project")
    path = notebooks / "01_data.ipynb"
    content = json.loads(path.read_text())
    content["cells"].insert(0, own(source))
    path.write_text(json.dumps(content))
    said = []
    run_chain(notebooks_dir=notebooks, package_dir=package, run_dir=tmp_path / "run", dry_run=True, echo=said.append)
    assert said[0] == "01_data: would run, not run before"
    copy = [tidy_cell(cell) for cell in content["cells"]]
    course = [cell["source"] for cell in copy[1:]]
    assert match_cells(course, [None] * 3, copy).cells == copy[1:]


# Answers of any size

HUGE = {
    "900 terms": "+".join(["1"] * 900),
    "20,000 terms": "+".join(["1"] * 20_000),
    "brackets": "[" * 80 + "]" * 80,
    "many brackets": "(" * 3000 + "1" + ")" * 3000,
    "signs": "-" * 5000 + "1",
    "a long list": "[" + "1," * 100_000 + "]",
    "a long number": "9" * 4000,
    "a number longer than Python reads": "9" * 5000,
    "a product of large numbers": "*".join(["9" * 300] * 50),
    "a power": "9 ** 9 ** 9",
    "a long text": "'" + "x" * 10_000 + "'",
    "text times a number": "'x' * 10 ** 9",
    "a list times a number": "[0] * 10 ** 9",
    "a null character": "'\0'",
    "a complex number": "1j",
    "calls": "f(" * 200 + ")" * 200,
    "shift": "1 << 10 ** 9",
}


@pytest.mark.parametrize("answer", HUGE.values(), ids=HUGE)
def test_an_answer_of_any_size_is_judged_in_no_time(answer):
    course, given = EXERCISE, EXERCISE.replace("None", answer, 1)
    began = time.monotonic()
    assert is_course_cell(given, course) in (True, False)
    assert try_again(course, answers(given)) in (None, "wrong")
    cells = [code(given, "a"), code("x = 1"), code(given, "b")]
    match_cells([course], ["a"], cells)
    assert time.monotonic() - began < 5


def test_values_within_the_bounds_stay_plain():
    value = answers("my_answer = [2 * 3 - 1, -4.5, 'text', None, [True, 7 // 2, 7 % 4]]")["my_answer"]
    assert plain_value(value) == [5, -4.5, "text", None, [True, 3, 3]]
    assert plain_value(answers("my_answer = 2 * " + "9" * 100)["my_answer"]) == 2 * int("9" * 100)


# Files in any state


def set_in_cells(key, value):
    def change(content):
        for cell in content["cells"]:
            cell[key] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        *(set_in_cells(key, value) for key in ("outputs", "metadata", "source", "execution_count", "id")
          for value in (None, 3, "text", [None, 3, [3]], {"a": None})),
        set_in_cells("outputs", [{"output_type": "stream", "name": "stdout", "text": None}]),
        set_in_cells("outputs", [{"output_type": "display_data", "data": None}]),
        set_in_cells("outputs", [{"output_type": "display_data", "data": {"text/plain": [None]}}]),
        set_in_cells("outputs", [{"output_type": "error"}]),
        set_in_cells("metadata", {"tags": None, "papermill": None}),
        lambda content: content.update(cells=None), lambda content: content.update(cells=[None, 3, "x", []]),
        lambda content: content.update(cells={"a": 1}),
    ],
)  # fmt: skip
def test_a_notebook_file_in_any_state_gets_its_grade(course, run_folder, change):
    path = run_folder / "notebooks" / "02_model.ipynb"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    grade = grade_run(opened(course, run_folder))
    assert not grade.passed and json.dumps(as_json(grade))
    assert {step for step, _ in failures(grade.checks)} == {"02_model"}


@pytest.mark.parametrize("file", ["run.json", "notebooks/02_model.ipynb", "02_model/metrics.json"])
@pytest.mark.parametrize("content", ["[" * 100_000, "\ufeff{}", "", "null", '{"cells": ' + "9" * 5000 + "}"])
def test_json_that_cannot_be_read_is_no_traceback(course, run_folder, file, content, monkeypatch, capsys):
    monkeypatch.setattr("cliniqure_utils.course.grade.run_folder.REPOSITORY", course[0].parent)
    (run_folder / file).write_text(content, encoding="utf-8")
    code = cli.main(["grade", str(run_folder)])
    said = capsys.readouterr()
    assert code == (2 if file == "run.json" else 1) and "Traceback" not in said.err
