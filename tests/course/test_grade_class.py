"""A class: three students' folders graded in one go, with a table; and the sample of films that is worked out again."""

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from small_course import ANSWERED, edit_record, failures, forge_output, opened, write_course

from cliniqure_utils import cli
from cliniqure_utils.course.chain import run_chain
from cliniqure_utils.course.grade import Check, Grade, Result, as_class_table, grade_run
from cliniqure_utils.course.grade.rework import (
    NAME,
    compare_boxes,
    compare_probabilities,
    draw,
    work_again,
)
from cliniqure_utils.course.grade.run_folder import Run
from cliniqure_utils.course.handout import make_handout
from cliniqure_utils.notebooks import find_notebooks
from cliniqure_utils.record import read_record
from cliniqure_utils.runs import read_jsonl, read_table, write_json, write_jsonl, write_table
from cliniqure_utils.vocabulary import CLASSES


@pytest.fixture
def as_the_course(course, monkeypatch):
    """The command grades against the small course."""
    monkeypatch.setattr("cliniqure_utils.course.grade.run_folder.REPOSITORY", course[0].parent)


def test_a_class_of_three(course, tmp_path, as_the_course, capsys):
    """As an instructor does it: hand out, take in three folders, grade them at once."""
    notebooks, package, _ = course

    def student(name, answers, until=None, change=lambda cells: None):
        make_handout(tmp_path / name / "notebooks", notebooks)
        for path in (tmp_path / name / "notebooks").glob("*.ipynb"):
            content = json.loads(path.read_text())
            for cell in content["cells"]:
                cell["source"] = "".join(cell["source"]).replace(
                    "my_answer = None", answers.get(path.stem, "my_answer = None")
                )
            change(content["cells"])
            path.write_text(json.dumps(content))
        run_chain(
            notebooks_dir=tmp_path / name / "notebooks", package_dir=package, run_dir=tmp_path / "class" / name,
            until=until, echo=lambda line: None,
        )  # fmt: skip

    def scratch(cells):
        blank = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
        cells.insert(2, blank | {"id": "mine", "source": "1 + 1"})
        cells.append(blank | {"id": "empty", "source": ""})

    right = dict.fromkeys(("01_data", "02_model", "07_evaluate"), "my_answer = 6")
    student("adams", right, change=scratch)
    student("baker", {"01_data": "my_answer = 5"}, until="02")
    student("clark", right)
    (tmp_path / "class" / "adams" / ".DS_Store").write_text("x")
    shutil.copytree(tmp_path / "class" / "adams", tmp_path / "class" / "davis" / "demo")  # as an archive unpacks
    clark = tmp_path / "class" / "clark"
    forge_output(clark, "02_model", "predictions.csv", "1\n0\n1\n1")
    forge_output(clark, "07_evaluate", "metrics.json", json.dumps({"table7/right": 1.0, "text/n": 4}))
    (tmp_path / "class" / "marks.csv").write_text("name,mark\n")

    written = tmp_path / "class.json", tmp_path / "class.xml"
    folders = sorted(map(str, (tmp_path / "class").iterdir()))
    code = cli.main(["grade", *folders, "--json", str(written[0]), "--junit", str(written[1])])
    said = capsys.readouterr().out
    rows = [line.split("  ") for line in said.splitlines()[-6:]]
    table = {Path(row[0]).name: [cell.strip() for cell in row[1:] if cell.strip()] for row in rows}
    assert table["run"] == ["result", "checks", "solved", "unsolved", "wrong", "first problem"]
    for name in ("adams", "davis"):
        assert table[name][0] == "passed" and table[name][2:] == ["3", "0", "0"]
    assert table["baker"][0] == "FAILED" and table["baker"][2:5] == ["0", "2", "1"]
    assert table["baker"][5] == "07_evaluate, finished: not run; expected done"
    # That 07 was run with other files than lie there now may be a mistake; this is none.
    assert table["clark"][0] == "FAILED"
    assert table["clark"][5].startswith("07_evaluate, table7.csv: is not what the files give")
    assert table["marks.csv"][0] == "not graded" and "is no run folder" in table["marks.csv"][1]
    assert "07_evaluate  numbers worked out again: not worked out: it has not run" in said
    assert "the package has changed since the run" not in said
    assert code == 2  # one of them cannot be graded
    values = json.loads(written[0].read_text())
    assert [value["passed"] for value in values] == [True, False, False, True, False]
    assert [Path(value["run"]).name for value in values] == ["adams", "baker", "clark", "davis", "marks.csv"]
    suites = ElementTree.parse(written[1]).getroot().findall("testsuite")
    assert [suite.get("errors") for suite in suites] == ["0"] * 4 + ["1"]
    assert cli.main(["grade", *folders[:3]]) == 1 and cli.main(["grade", folders[0], folders[3]]) == 0


def test_one_run_that_breaks_the_grader_leaves_the_others_their_grade(
    course, run_folder, as_the_course, monkeypatch, capsys
):
    from cliniqure_utils.course.grade import grading

    plain = grading.check_record

    def broken(run):
        if run.folder.name == "jones":
            raise PermissionError(13, "Permission denied", "x")
        return plain(run)

    monkeypatch.setattr(grading, "check_record", broken)
    shutil.copytree(run_folder, run_folder.parent / "jones")
    assert cli.main(["grade", str(run_folder.parent / "jones"), str(run_folder)]) == 2
    last = capsys.readouterr().out.splitlines()[-2:]
    assert "not graded" in last[0] and "Permission denied" in last[0] and "passed" in last[1]


def test_the_first_problem_of_a_class_is_the_one_that_no_mistake_explains(course, run_folder):
    names = ["inputs", "outputs", "table7.csv", "finished", NAME]
    checks = [Check(step, name, "fail", "x") for step in ("01_data", "02_model") for name in names]
    for name in (NAME, "finished", "table7.csv", "inputs"):
        row = as_class_table([Result("adams", Grade(opened(course, run_folder), checks, []))])[1]
        assert row.endswith(f"01_data, {name}: x")
        checks = [check for check in checks if check.name != name]


# What is worked out again is bounded


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": {"run_dir": "../outputs/demo", "seed": 7, "n_random_pairs": 2_000_000}},
        {"parameters": {"run_dir": "../outputs/demo", "seed": "7"}},
        {"parameters": {"run_dir": "../outputs/demo", "seed": 7, "x": int("9" * 4000)}},
        {"profile": ["demo", {}]},
    ],
)
def test_a_run_with_other_parameters_is_not_worked_out(course, run_folder, change, monkeypatch):
    """With n_random_pairs = 2000000 the notebook would run for days."""
    from cliniqure_utils.course.grade import recompute

    monkeypatch.setattr(recompute, "execute", lambda *_, **__: pytest.fail("the notebook was run"))
    edit_record(run_folder, lambda record: record["notebooks"]["07_evaluate"].update(change))
    found = failures(grade_run(opened(course, run_folder)).checks)
    assert found["07_evaluate", "numbers worked out again"].startswith(
        ("not worked out: ", "07_evaluate.seed: expected")
    )


@pytest.mark.chain
def test_a_cell_that_takes_too_long_ends(tmp_path):
    from cliniqure_utils.course.chain import NotebookFailed
    from cliniqure_utils.course.chain.execute import execute

    notebooks = write_course(tmp_path / "notebooks", ANSWERED)
    content = json.loads((notebooks / "01_data.ipynb").read_text())
    content["cells"][1]["source"] = "import time\ntime.sleep(600)"
    (notebooks / "01_data.ipynb").write_text(json.dumps(content))
    with pytest.raises(NotebookFailed, match="stopped in cell 2 of 3: CellTimeoutError: the cell took more than 1 s"):
        execute(find_notebooks(notebooks)[0], tmp_path / "copy.ipynb", {}, cell_seconds=1)


# Ten films worked out again


def test_films_are_drawn_from_each_split_in_turn():
    splits = pd.DataFrame(
        {"image_id": [f"{n:03}" for n in range(90)], "split": ["train"] * 60 + ["val"] * 10 + ["test"] * 20}
    )
    drawn = draw(splits, 20, seed=5)
    assert {split: len(ids) for split, ids in drawn.items()} == {"test": 4, "val": 3, "train": 3}
    assert draw(splits, 20, 5) == drawn != draw(splits, 20, 6)
    assert all(image_id < "020" for image_id in drawn["train"]), "only films that the run was trained on"
    few = draw(splits[splits.split != "val"].tail(3), None, 1)
    assert {split: len(ids) for split, ids in few.items()} == {"test": 3, "val": 0, "train": 0}


@pytest.fixture
def trained(finished_run, tmp_path) -> Path:
    """A copy of `finished_run`'s run, with its three films in three splits."""
    folder = Path(shutil.copytree(finished_run / "run", tmp_path / "run"))
    splits = pd.DataFrame({"image_id": ["012", "compressed", "wide"], "split": ["train", "val", "test"]})
    write_table(folder / "01_preprocess" / "splits.csv", splits)
    record = read_record(folder)
    for name in ("02_detect", "03_classify", "04_crude_report"):
        record["notebooks"].setdefault(name, {"parameters": {}})["status"] = "done"
    write_json(folder / "run.json", record)
    return folder


def again(folder, repository, seed=1) -> dict[str, tuple[str, str]]:
    notebooks = repository / "notebooks"
    run = Run(folder, read_record(folder), find_notebooks(notebooks), notebooks, repository / "cliniqure_utils")
    return {check.step: (check.status, check.message) for check in work_again(run, seed) if check.name == NAME}


def test_honest_files_follow_from_the_saved_weights(trained, repository):
    found = again(trained, repository)
    assert {step: status for step, (status, _) in found.items()} == dict.fromkeys(
        ("02_detect", "03_classify", "04_crude_report"), "pass"
    )
    assert (
        found["03_classify"][1].startswith("3 films as the saved weights say, to ")
        and "(seed 1)" in found["03_classify"][1]
    )


def forge_everything(folder):
    """A training film's probability, a test film's boxes, a val film's report."""
    table = read_table(folder / "03_classify/probabilities.csv")
    table.loc[table.image_id == "012", "Pneumothorax"] = 0.999
    write_table(folder / "03_classify/probabilities.csv", table)
    boxes = read_table(folder / "02_detect/predictions.csv")
    better = pd.DataFrame([["wide", "Cardiomegaly", 0.99, 10.0, 20.0, 300.0, 200.0]], columns=boxes.columns)
    write_table(folder / "02_detect/predictions.csv", pd.concat([better, boxes]))
    crude = read_jsonl(folder / "04_crude_report/crude_reports.jsonl")
    crude[1]["text"] = "The heart is enlarged."
    write_jsonl(folder / "04_crude_report/crude_reports.jsonl", crude)


def damage_everything(folder):
    for step in ("02_detect", "03_classify", "04_crude_report"):
        (folder / step / "model.safetensors").write_bytes(b"no weights")


def take_everything(folder):
    (folder / "02_detect/predictions.csv").unlink()
    (folder / "03_classify/model.safetensors").unlink()
    (folder / "04_crude_report/crude_reports.jsonl").unlink()


def leave_rows_out(folder):
    table = read_table(folder / "03_classify/probabilities.csv")
    write_table(folder / "03_classify/probabilities.csv", table[table.image_id != "compressed"])
    boxes = read_table(folder / "02_detect/predictions.csv")
    write_table(folder / "02_detect/predictions.csv", boxes[boxes.image_id == "012"])
    write_jsonl(folder / "04_crude_report/crude_reports.jsonl", [])


def climb_out(folder):
    splits = read_table(folder / "01_preprocess/splits.csv")
    write_table(folder / "01_preprocess/splits.csv", splits.assign(image_id=["../../x", "../y", "/z"]))


@pytest.mark.parametrize("change", [forge_everything, damage_everything, take_everything, leave_rows_out, climb_out])
def test_forged_or_missing_files_of_any_split_fail(trained, repository, change):
    change(trained)
    if change is leave_rows_out and not len(read_table(trained / "02_detect/predictions.csv")):
        pytest.skip("the untrained detector found nothing to leave out")
    found = again(trained, repository)
    failed = {step for step, (status, _) in found.items() if status == "fail"}
    assert failed >= {"03_classify", "04_crude_report"}
    if change is not leave_rows_out:  # untrained, it draws no box that counts
        assert "02_detect" in failed
    if change is forge_everything:
        assert "film 012: Pneumothorax is 0.9990 in probabilities.csv, 0." in found["03_classify"][1]
        assert "film wide: Cardiomegaly with score 0.990 is in predictions.csv only" in found["02_detect"][1]
        assert "film compressed has the report 'The heart is enlarged.'" in found["04_crude_report"][1]


def test_a_run_without_these_notebooks_has_nothing_to_work_out(course, run_folder):
    assert work_again(opened(course, run_folder), 1) == []


def table_of(value=0.5):
    table = pd.DataFrame(np.full((3, 15), value), columns=list(CLASSES))
    table.insert(0, "image_id", ["a", "b", "c"])
    return table


def test_digits_of_another_machine_pass_and_more_does_not():
    written, made = table_of(), table_of()
    made.loc[1, "ILD"] = 0.519
    assert compare_probabilities(written, made)[0] == "pass"
    made.loc[1, "ILD"] = 0.53
    assert compare_probabilities(written, made)[1].startswith("film b: ILD is 0.5000 in probabilities.csv, 0.5300 by")
    for spoilt in (written.iloc[:2], written.drop(columns="ILD"), written.assign(ILD="x"), written.assign(ILD=np.nan)):
        assert compare_probabilities(spoilt, table_of())[0] == "fail"


def test_a_box_needs_its_partner():
    columns = ["image_id", "class_name", "score", "x_min", "y_min", "x_max", "y_max"]
    made = pd.DataFrame([["a", "ILD", 0.9, 10, 10, 110, 110], ["a", "ILD", 0.09, 0, 0, 5, 5]], columns=columns)
    moved = made.assign(x_max=[114, 5], score=[0.89, 0.05])  # IoU 100 / 104
    assert compare_boxes(moved, made.assign(score=[0.9, 0.051]), 1) == (
        "pass", "4 boxes of 1 films compared, 4 as the saved weights say",
    )  # fmt: skip
    for other in (
        made.assign(x_max=125),
        made.assign(score=0.95),
        made.assign(class_name="Nodule/Mass"),
        made.iloc[:0],
    ):
        assert compare_boxes(other, made, 1)[0] == "fail"
    edge = made.assign(score=[0.101, 0.01])  # just above the score that counts as likely, its partner just below
    assert compare_boxes(edge, made.assign(score=[0.099, 0.01]), 1)[0] == "pass"
    edge = made.assign(score=[0.9, 0.0121])  # just above the least score that is compared, its partner just below
    assert compare_boxes(edge, made.assign(score=[0.9, 0.0119]), 1)[0] == "pass"


def boxes_of(score, n, class_name="ILD", x=0):
    """n boxes of one film that do not touch."""
    x_min = x + 20.0 * np.arange(n)
    box = {"x_min": x_min, "y_min": 0.0, "x_max": x_min + 10, "y_max": 10.0}
    return pd.DataFrame({"image_id": "a", "class_name": class_name, "score": score, **box})


def test_boxes_of_a_low_score_are_compared_too():
    """A detector that learnt little gives none above .1."""
    made = boxes_of(0.05, 10)
    assert compare_boxes(made, made, 1) == ("pass", "20 boxes of 1 films compared, 20 as the saved weights say")
    for forged in (boxes_of(0.05, 10, x=5), made.assign(score=0.07), made.assign(score=0.04), boxes_of(0.05, 9)):
        status, message = compare_boxes(forged, made, 1)
        assert status == "fail" and "film a: ILD with score 0.0" in message and "boxes compared" in message
    for nothing in (made.iloc[:0], made.assign(score=0.011)):
        assert compare_boxes(nothing, nothing, 3) == (
            "note", "no box compared: neither predictions.csv nor the saved weights have one on 3 films"
        )  # fmt: skip


def test_many_unlikely_boxes_do_not_hide_a_few_forged_ones():
    made = boxes_of(0.02, 300)
    forged = pd.concat([made, boxes_of(0.95, 3, "Nodule/Mass")])
    assert compare_boxes(forged, made, 1)[1] == (
        "film a: Nodule/Mass with score 0.950 is in predictions.csv only (and 2 more of 3 boxes compared)"
    )
