"""Grading: an honest run passes, each kind of tampering is named, exercises are told apart. The course is small."""

import copy
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from small_course import (
    EXERCISE,
    edit_copy,
    edit_record,
    failures,
    forge_output,
    make_course,
    opened,
    sha256,
)

from cliniqure_utils import cli
from cliniqure_utils.course.chain import run_chain
from cliniqure_utils.course.grade import (
    as_json,
    as_junit,
    as_table,
    grade_run,
    make_reference,
    open_run,
    read_reference,
    write_reference,
)
from cliniqure_utils.course.grade.cells import answers, is_course_cell
from cliniqure_utils.course.grade.exercises import find_exercises, try_again, verdict
from cliniqure_utils.course.grade.grading import check_record
from cliniqure_utils.course.grade.recompute import same_text, shown_text
from cliniqure_utils.course.grade.reference import check_reference
from cliniqure_utils.project import CannotStart


def test_an_honest_run_passes_and_its_exercises_are_told_apart(course, run_folder):
    said = []
    grade = grade_run(opened(course, run_folder), echo=said.append)
    assert failures(grade.checks) == {} and grade.passed and "07_evaluate again" in said[0]
    assert [(e.step, e.verdict, e.answer, e.again) for e in grade.exercises] == [
        ("01_data", "solved", "2 * 3", "solved"),
        ("02_model", "wrong", "5.0", "wrong"),
        ("07_evaluate", "unsolved", "None", "unsolved"),
    ]
    names = {check.name for check in grade.checks if check.step == "07_evaluate"}
    assert names >= {"finished", "executed copy", "top to bottom", "code", "outputs", "parameters", "inputs"}
    assert names >= {"numbers worked out again", "table7.csv", "claims.csv", "report.html", "printed outputs"}
    notes = [check.message for check in grade.checks if check.status == "note"]
    assert notes == ["there is no reference for profile demo", "wrong: 5.0", "unsolved"]

    table = "\n".join(as_table(grade))
    assert "Exercises: 1 solved, 1 unsolved, 1 wrong" in table and "Passed: " in table and "FAIL" not in table
    values = as_json(grade)
    assert json.loads(json.dumps(values)) == values and values["passed"] and values["seed"] == 7
    suite = ElementTree.fromstring(as_junit(grade))
    assert suite.get("failures") == "0" and suite.get("tests") == str(len(grade.checks)) == str(len(list(suite)))
    assert suite.get("skipped") == "3" == str(len(suite.findall(".//skipped")))


@pytest.mark.chain
def test_a_run_in_real_kernels_is_graded_alike(tmp_path):
    notebooks, package, folder = make_course(tmp_path)
    forge_output(folder, "07_evaluate", "table7.csv", "metric,value\nright,0.95\n")
    grade = grade_run(open_run(folder, notebooks, package))
    assert list(failures(grade.checks)) == [("07_evaluate", "table7.csv")]
    assert [e.verdict for e in grade.exercises] == ["solved", "wrong", "unsolved"]
    (folder / "02_model" / "predictions.csv").unlink()
    found = failures(grade_run(open_run(folder, notebooks, package)).checks)
    words = "07_evaluate cannot work with the run's files: FileNotFoundError"
    assert words in found["07_evaluate", "numbers worked out again"]


def test_metrics_edited_together_with_their_hash_are_caught(course, run_folder):
    forge_output(run_folder, "07_evaluate", "metrics.json", json.dumps({"table7/right": 0.95, "text/n": 4}))
    run = opened(course, run_folder)
    assert ("07_evaluate", "outputs") not in failures(check_record(run))  # the hash agrees
    found = failures(grade_run(run).checks)
    message = found["07_evaluate", "numbers worked out again"]
    assert message == "table7/right is 0.9500 in metrics.json, 0.7500 from the files"


def test_everything_of_the_evaluation_forged_alike_is_caught_item_by_item(course, run_folder):
    forge_output(run_folder, "07_evaluate", "table7.csv", "metric,value\nright,0.95\n")
    forge_output(run_folder, "07_evaluate", "report.html", "<p>Share right: 0.950</p>")
    forge_output(run_folder, "07_evaluate", "claims.csv", "claim,status\nall right,reproduced\n")
    edit_copy(run_folder, "07_evaluate", "share right: 0.750", "share right: 0.950", forged=True)
    found = failures(grade_run(opened(course, run_folder)).checks)
    assert {name for _, name in found} == {"table7.csv", "report.html", "claims.csv", "printed outputs"}
    assert "'share right: 0.950' instead of 'share right: 0.750'" in found["07_evaluate", "printed outputs"]
    assert "0.950" in found["07_evaluate", "report.html"]


def test_an_edited_notebook_output_is_caught(course, run_folder):
    edit_copy(run_folder, "01_data", '"4 films\\n"', '"9 films\\n"', forged=False)
    found = failures(check_record(opened(course, run_folder)))
    assert list(found) == [("01_data", "executed copy")]
    assert "changed after the run" in found["01_data", "executed copy"]


def skip_cleanly(folder):
    """As if the notebook had never been there."""
    edit_record(folder, lambda record: record["notebooks"].pop("02_model"))
    (folder / "notebooks" / "02_model.ipynb").unlink()


def skip_but_claim(folder):
    (folder / "notebooks" / "02_model.ipynb").unlink()


def skip_and_hand_in_the_empty_one(folder):
    path = folder / "notebooks" / "02_model.ipynb"
    notebook = json.loads(path.read_text())
    for cell in notebook["cells"]:
        cell |= {"execution_count": None, "outputs": []}
    path.write_text(json.dumps(notebook))
    edit_record(folder, lambda record: record["notebooks"]["02_model"].update(copy_sha256=sha256(path)))


def stop_half_way(folder):
    edit_record(folder, lambda record: record["notebooks"]["02_model"].update(status="interrupted"))


@pytest.mark.parametrize(
    "skip, name, words",
    [
        (skip_cleanly, "finished", "not run; expected done"),
        (skip_cleanly, "executed copy", "notebooks/02_model.ipynb is missing or no notebook"),
        (skip_but_claim, "executed copy", "notebooks/02_model.ipynb is missing or no notebook"),
        (skip_and_hand_in_the_empty_one, "top to bottom", "code cell 1 has count None; expected 1"),
        (stop_half_way, "finished", "interrupted; expected done"),
    ],
)
def test_a_skipped_notebook_is_caught(course, run_folder, skip, name, words):
    skip(run_folder)
    assert failures(check_record(opened(course, run_folder)))["02_model", name] == words


def out_of_order(folder):
    edit_copy(folder, "02_model", '"execution_count": 3', '"execution_count": 7', forged=True)


def with_an_error(folder):
    path = folder / "notebooks" / "02_model.ipynb"
    notebook = json.loads(path.read_text())
    notebook["cells"][-1]["outputs"] = [{"output_type": "error", "ename": "ValueError", "evalue": "", "traceback": []}]
    path.write_text(json.dumps(notebook))


def other_code(folder):
    edit_copy(folder, "02_model", "folder.mkdir(", "folder.mkdir(mode=0o777, ", forged=True)


def other_checker(folder):
    edit_copy(folder, "02_model", "abs(my_answer - 6)", "abs(my_answer - 5)", forged=True)


def cell_left_out(folder):
    path = folder / "notebooks" / "02_model.ipynb"
    notebook = json.loads(path.read_text())
    notebook["cells"].pop()
    path.write_text(json.dumps(notebook))


def file_changed(folder):
    (folder / "02_model" / "predictions.csv").write_text("1\n0\n1\n1")


def file_gone(folder):
    (folder / "02_model" / "predictions.csv").unlink()


def file_added(folder):
    (folder / "02_model" / "more.csv").write_text("x")


def promised_file_unlisted(folder):
    (folder / "07_evaluate" / "claims.csv").unlink()
    edit_record(folder, lambda record: record["notebooks"]["07_evaluate"]["outputs"].pop("claims.csv"))


def other_parameter(folder):
    edit_record(folder, lambda record: record["notebooks"]["02_model"]["parameters"].update(n_right=4))


def no_parameters(folder):
    edit_record(folder, lambda record: record["notebooks"]["02_model"].pop("parameters"))


def other_profile(folder):
    edit_record(folder, lambda record: record["notebooks"]["02_model"].update(profile="nothing"))


def other_inputs(folder):
    """The data were made anew after the model had run."""
    forge_output(folder, "01_data", "truth.csv", "0\n0\n0\n1\n")


@pytest.mark.parametrize(
    "spoil, step, name, words",
    [
        (out_of_order, "02_model", "top to bottom", "code cell 3 has count 7; expected 3"),
        (with_an_error, "02_model", "top to bottom", "code cell 4 stopped: ValueError"),
        (other_code, "02_model", "code", "code cell 2 is not the course's"),
        (other_checker, "02_model", "code", "code cell 3 is not the course's"),
        (cell_left_out, "02_model", "code", "it lacks code cell 3 of the course, `my_answer = None`"),
        (file_changed, "02_model", "outputs", "predictions.csv was changed after the run"),
        (file_gone, "02_model", "outputs", "predictions.csv is missing"),
        (file_added, "02_model", "outputs", "more.csv was not written by the run"),
        (promised_file_unlisted, "07_evaluate", "outputs", "claims.csv is missing"),
        (other_parameter, "02_model", "parameters", "n_right is 4, in profile demo 3"),
        (other_parameter, "02_model", "parameters", "n_right was 3 in the executed copy, 4 in run.json"),
        (no_parameters, "02_model", "parameters", "run.json does not say with which parameters"),
        (other_profile, "02_model", "parameters", "unknown profile nothing"),
        (other_inputs, "02_model", "inputs", "it was run with other files than lie there now"),
    ],
)
def test_what_is_not_as_the_run_left_it_is_named(course, run_folder, spoil, step, name, words):
    assert failures(check_record(opened(course, run_folder))) == {}
    spoil(run_folder)
    assert words in failures(check_record(opened(course, run_folder)))[step, name]


def test_notebooks_of_two_profiles_are_judged_by_their_own(course, run_folder, tmp_path):
    """The demo's run, then `--profile other --from 02`: what 01 did is no fault, but one reference cannot judge it."""
    notebooks, package, _ = course
    run_chain(
        "other", run_folder, start="2", overrides={"all.seed": 7}, notebooks_dir=package.parent / "student",
        package_dir=package, echo=lambda line: None,
    )  # fmt: skip
    run = opened(course, run_folder)
    assert run.profile == ["demo", "other"] and run.seed == 7
    checks = check_record(run)
    assert failures(checks) == {}
    notes = [c.message for c in checks if c.status == "note"]
    assert notes == ["its notebooks ran with different profiles: demo and other"]
    reference = {"profile": "demo", "runs": [], "ranges": {}}
    found = failures(check_reference(run, None, reference))
    assert found["run", "reference ranges"] == "the reference is for profile demo, the run is of profile demo and other"
    with pytest.raises(CannotStart, match="the notebooks of each run are of different profiles: demo and other"):
        make_reference([run] * 3, tmp_path / "demo.json")


def test_a_changed_package_makes_inputs_a_note(course, run_folder):
    edit_record(run_folder, lambda record: record["notebooks"]["02_model"]["parts"].update(package="older"))
    checks = check_record(opened(course, run_folder))
    assert failures(checks) == {}
    assert [c.message for c in checks if c.status == "note"] == [
        "not compared for 02_model: the package has changed since the run"
    ]


def test_exercises_count_only_when_required(course, run_folder):
    run = opened(course, run_folder)
    from cliniqure_utils.course.grade.exercises import check_exercises

    exercises = find_exercises(run)
    assert failures(check_exercises(exercises, required=False)) == {}
    assert failures(check_exercises(exercises, required=True)) == {
        ("02_model", "exercise 1"): "wrong: 5.0", ("07_evaluate", "exercise 1"): "unsolved",
    }  # fmt: skip
    edit_copy(run_folder, "02_model", "Not yet: 2 times 3.\\n", "Correct\\n", forged=True)
    found = failures(check_exercises(find_exercises(opened(course, run_folder)), required=False))
    assert found == {("02_model", "exercise 1"): "its output says solved, but the answer 5.0 is wrong"}


def test_answers_are_tried_without_running_a_students_code():
    def tried(answer):
        return try_again(EXERCISE, answers(EXERCISE.replace("None", answer, 1)))

    assert [tried(text) for text in ("2 * 3", "6", "-(-6)", "7", "12 / 2")] == ["solved"] * 3 + ["wrong", "solved"]
    assert tried("open('/etc/passwd').read()") is None and tried("9 ** 9 ** 9") is None and tried("1 / 0") is None
    assert tried("'text'") is None  # the cell does not take it
    assert verdict("") == "unsolved" and verdict("something else") == "wrong"
    with_numpy = 'my_answer = None\nprint("Correct" if np.allclose(my_answer, [1, 2]) else "Not yet")'
    assert try_again(with_numpy, answers("my_answer = [1, 2.0]")) == "solved"


def test_an_answer_may_add_lines_but_not_take_any_away():
    assert is_course_cell("x = 3\nmy_answer = 2 * x\n" + EXERCISE.split("\n", 1)[1], EXERCISE)
    assert not is_course_cell('my_answer = 6\nprint("Correct")', EXERCISE)
    assert not is_course_cell("y = 2", "y = 1")  # no exercise


def test_a_function_is_an_answer_whose_code_is_not_run():
    course = 'my_double = None\nprint("Not answered yet" if my_double is None else "Correct")'
    function = "def my_double(x):\n    return 2 * x\n"
    for own in (course.replace("my_double = None\n", function), course.replace("None\n", "None\n" + function, 1)):
        assert is_course_cell(own, course) and list(answers(own)) == ["my_double"]
        assert try_again(course, answers(own)) is None  # its printed verdict counts
    taken_back = course.replace("my_double = None\n", function + "my_double = None\n")
    assert try_again(course, answers(taken_back)) == "unsolved"


def test_text_is_compared_number_by_number():
    assert same_text("F1 0.123 of 4", "F1 0.124 of 4") and not same_text("F1 0.123", "F1 0.133")
    assert not same_text("4 films", "5 films") and not same_text("a 1.0", "b 1.0") and not same_text("1.0", "1.0 2.0")
    assert same_text("1e-07", "1e-07") and not same_text("1.0e-07", "2.0")


# Reference ranges


def numbers_only(folder: Path, seed: int, value: float, course, profile="demo"):
    """A run folder with nothing but metrics."""
    (folder / "07_evaluate").mkdir(parents=True)
    metrics = {"table7/right": value, "detection/map_40": 0.2, "text/finding_f1_base": value / 2, "data/n": 4}
    (folder / "07_evaluate" / "metrics.json").write_text(json.dumps(metrics))
    entry = {"profile": profile, "parameters": {"seed": seed}, "status": "done"}
    (folder / "run.json").write_text(json.dumps({"notebooks": {"07_evaluate": entry}}))
    return opened(course, folder)


def test_a_line_that_a_busy_kernel_sends_in_pieces_is_one_line():
    def cell(*texts):
        return {"outputs": [{"output_type": "stream", "name": "stdout", "text": text} for text in texts]}

    whole = cell("loss 0.5\ndone\n")
    for pieces in (("loss 0.5\ndone", "\n"), ("loss", " 0.5\n", "done\n"), (["loss 0.5\n", "do"], "ne")):
        assert shown_text(cell(*pieces)) == shown_text(whole) == "loss 0.5\ndone"
    assert shown_text(cell("loss 0.5\n", "done more\n")) != shown_text(whole)
    shown = {"output_type": "execute_result", "data": {"text/plain": ["a\n", "b"]}}
    assert shown_text({"outputs": [*whole["outputs"], shown]}) == "loss 0.5\ndone\na\nb"


def test_a_reference_holds_the_spread_of_its_seeds(course, tmp_path):
    values = (0.50, 0.52, 0.54, 0.56)
    runs = [numbers_only(tmp_path / str(n), n, value, course) for n, value in enumerate(values)]
    made = make_reference(runs, tmp_path / "r" / "demo.json")
    assert made == read_reference(tmp_path / "r" / "demo.json")
    assert set(made["ranges"]) == {"table7/right", "detection/map_40", "text/finding_f1_base"}
    entry = made["ranges"]["table7/right"]
    assert entry["mean"] == pytest.approx(0.53) and entry["sd"] == pytest.approx(0.0258, abs=1e-4)
    # Student's t with 3 degrees of freedom at 1 - 0.05 / 3 / 2 is 4.857; times sqrt(1 + 1/4) and 0.0258.
    assert entry["high"] == pytest.approx(0.53 + 4.857 * 1.118 * 0.02582, abs=2e-3)
    same = made["ranges"]["detection/map_40"]
    assert same["sd"] == 0 and same["low"] < 0.2 < same["high"] < 0.25
    assert [run["seed"] for run in made["runs"]] == [0, 1, 2, 3] and "4 seeds" in made["how"]


def test_a_reference_is_refused_from_too_little(course, tmp_path):
    a, b, c = (numbers_only(tmp_path / str(n), n, 0.5, course) for n in range(3))
    twin = numbers_only(tmp_path / "twin", 1, 0.5, course)
    other = numbers_only(tmp_path / "other", 5, 0.5, course, profile="smoke")
    for runs, words in (
        ([a, b], "at least 3 runs with different seeds, found 2"),
        ([a, b, twin], "two of the runs have one seed"),
        ([a, b, other], "of different profiles: demo, smoke"),
    ):
        with pytest.raises(CannotStart, match=words):
            make_reference(runs, tmp_path / "demo.json")
    with pytest.raises(CannotStart, match="cannot be a reference: 01_data, finished: not run"):
        write_reference([a, b, c], tmp_path / "demo.json")
    assert not (tmp_path / "demo.json").exists()


@pytest.fixture
def as_the_course(course, monkeypatch):
    """The command grades against the small course."""
    monkeypatch.setattr("cliniqure_utils.course.grade.run_folder.REPOSITORY", course[0].parent)


def test_the_command_ends_with_0_1_and_2(course, run_folder, tmp_path, as_the_course, capsys):
    reference = {"profile": "demo", "runs": [1, 2, 3], "ranges": {"table7/right": {"low": 0.7, "high": 0.8}}}
    inside, outside, smoke = tmp_path / "in.json", tmp_path / "out.json", tmp_path / "smoke.json"
    inside.write_text(json.dumps(reference))
    outside.write_text(json.dumps(reference | {"ranges": {"table7/right": {"low": 0.8, "high": 0.9}}}))
    smoke.write_text(json.dumps(reference | {"profile": "smoke"}))
    checks = tmp_path / "checks"
    checks.mkdir()
    (checks / "check_mine.py").write_text(
        'def check_films(run):\n    """Four films"""\n    assert run.metrics["07_evaluate"]["text/n"] == 4\n'
        'def check_seed(run):\n    return "the seed is 7" if run.record["seed"] == 7 else None\n'
        "def check_broken(run):\n    return run.nothing\n"
    )
    written = tmp_path / "result.json", tmp_path / "result.xml"

    def grade(*arguments):
        code = cli.main(["grade", str(run_folder), *map(str, arguments)])
        return code, capsys.readouterr()

    code, said = grade("--reference", inside)
    assert code == 0 and "reference ranges" in said.out and "Passed" in said.out

    code, said = grade("--reference", outside, "--require-exercises", "--checks", checks, "--json", written[0],
                       "--junit", written[1])  # fmt: skip
    assert code == 1
    for words in (
        "range of table7/right: 0.7500 is outside 0.8 to 0.9", "exercise 1: wrong: 5.0", "exercise 1: unsolved",
        "seed: the seed is 7", "broken: AttributeError: 'Run' object has no attribute 'nothing'",
    ):  # fmt: skip
        assert words in said.out, words
    assert "pass  check_mine   Four films" in said.out
    result = json.loads(written[0].read_text())
    failed = [check["name"] for check in result["checks"] if check["status"] == "fail"]
    assert not result["passed"] and len(failed) == 5
    suite = ElementTree.parse(written[1]).getroot()
    assert suite.get("failures") == "5" == str(len(suite.findall(".//failure")))

    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "broken.json").write_text("{}")
    for arguments, words in (
        (("--reference", tmp_path / "nowhere.json"), "cannot be opened"),
        (("--reference", tmp_path / "broken.json"), "broken.json is no reference file"),
        (("--checks", empty), "no function check_...(run)"),
        (("--checks", tmp_path / "nowhere"), "there is no folder with checks"),
        (("--make-reference",), "at least 3 runs"),
    ):
        code, said = grade(*arguments)
        assert code == 2 and words in said.err and said.err.count("\n") == 1, said.err
    assert cli.main(["grade", str(empty)]) == 2
    assert "is no run folder: it has no run.json" in capsys.readouterr().err


def test_a_reference_for_another_profile_fails(course, run_folder):
    run = opened(course, run_folder)
    reference = {"profile": "smoke", "runs": [], "ranges": {}}
    assert (
        "the reference is for profile smoke"
        in failures(check_reference(run, None, reference))["run", "reference ranges"]
    )
    gone = copy.deepcopy(reference) | {"profile": "demo", "ranges": {"table7/new": {"low": 0, "high": 1}}}
    assert failures(check_reference(run, None, gone)) == {
        ("07_evaluate", "range of table7/new"): "None is outside 0 to 1"
    }
