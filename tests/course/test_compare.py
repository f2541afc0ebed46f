"""Comparing runs: the same numbers, other numbers, and what in run.json explains them. Run folders are made up."""

import contextlib
import copy
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time

import pytest

from cliniqure_utils import cli
from cliniqure_utils.course.compare import close, compare_runs

METRICS = {
    "01_preprocess": {"data/n_films": 600, "boxes/kind": "paper"},
    "02_detect": {"detection/map_40": 0.125, "detection/nothing": None},
    "03_classify": {"classification/micro_f1": 0.5, "classification/macro_auroc": 0.7},
}
RECORD = {
    "profile": "demo", "status": "done", "seed": 2024, "platform": "Linux-x", "device": "cpu",
    "versions": {"python": "3.11.7", "torch": "2.14.1"},
    "data": {"kind": "simulated", "cohort": "c1", "tables": {"train.csv": "t1"}},
}  # fmt: skip
PARAMETERS = {
    step: {"run_dir": "../outputs/a", "data_dir": "../data/demo", "seed": 2024, "n_epochs": 3} for step in METRICS
}


def make_run(folder, metrics=METRICS, parameters=PARAMETERS, **changes):
    """A run folder with nothing but numbers and their record."""
    record = copy.deepcopy(RECORD) | changes
    record["notebooks"] = {}
    folder.mkdir()
    for step, values in metrics.items():
        text = json.dumps(values)
        (folder / step).mkdir()
        (folder / step / "metrics.json").write_text(text)
        record["notebooks"][step] = {
            "status": "done", "parameters": parameters[step], "parts": {"notebook": "n1", "package": "p1"},
            "outputs": {"metrics.json": {"sha256": hashlib.sha256(text.encode()).hexdigest()}},
        }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def changed(step, name, value):
    metrics = copy.deepcopy(METRICS)
    metrics[step][name] = value
    return metrics


def compare(capsys, *arguments):
    code = cli.main(["compare", *map(str, arguments)])
    return code, capsys.readouterr()


def test_the_same_numbers_are_0_wherever_they_lie(tmp_path, capsys):
    first = make_run(tmp_path / "a")
    parameters = copy.deepcopy(PARAMETERS)
    for values in parameters.values():
        values |= {"run_dir": "/elsewhere/b", "data_dir": "/elsewhere/data"}
    second = make_run(tmp_path / "b", parameters=parameters)
    code, said = compare(capsys, first, second)
    assert code == 0 and "Both were made alike." in said.out and "The same: 6 numbers." in said.out
    assert f"A: {first} (profile demo, seed 2024, done)" in said.out and "not done" not in said.out


def test_a_run_that_goes_on_is_compared_with_a_warning(tmp_path, capsys):
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b", status="running")
    code, said = compare(capsys, first, second)
    assert code == 0 and "A run that is not done may hold numbers of an earlier one" in said.out


def test_another_number_on_one_machine_is_1_and_unexplained(tmp_path, capsys):
    first = make_run(tmp_path / "a")
    second = make_run(tmp_path / "b", changed("02_detect", "detection/map_40", 0.1250001))
    code, said = compare(capsys, first, second)
    assert code == 1 and "Different, from 02_detect on." in said.out
    assert "! detection/map_40" in said.out and "0.125 | 0.125" in said.out
    assert "Nothing in run.json explains it" in said.out
    assert cli.main(["compare", str(first), str(second), "--tolerance", "0.001"]) == 0


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"seed": 7}, "seed: 2024 | 7"),
        ({"profile": "smoke"}, "profile: demo | smoke"),
        ({"versions": {"python": "3.11.7", "torch": "2.15.0"}}, "version of torch: 2.14.1 | 2.15.0"),
        ({"platform": "Darwin"}, "platform: Linux-x | Darwin"),
        ({"processor": "DEFAULT"}, "processor: none | DEFAULT"),
        ({"device": "cuda"}, "device: cpu | cuda"),
        ({"data": {"kind": "archive"}}, "data: simulated | archive"),
        ({"data": {"kind": "simulated", "cohort": "c1", "tables": {"train.csv": "t2"}}}, "data: train.csv"),
        (
            {"data": {"kind": "simulated", "cohort": "c2", "tables": {"train.csv": "t1"}}},
            "how the cohort was simulated",
        ),
        (
            {"parameters": PARAMETERS | {"02_detect": {"n_epochs": 5, "seed": 2024}}},
            "parameter 02_detect.n_epochs: 3 | 5",
        ),
    ],
)
def test_what_differs_is_named(tmp_path, capsys, changes, words):
    first = make_run(tmp_path / "a")
    second = make_run(tmp_path / "b", changed("03_classify", "classification/micro_f1", 0.9), **changes)
    code, said = compare(capsys, first, second)
    assert code == 1 and words in said.out
    assert said.out.count("seed: 2024 | 7") == (words == "seed: 2024 | 7")
    assert "Nothing in run.json explains" not in said.out


def test_code_is_named_with_its_notebooks(tmp_path, capsys):
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    record = json.loads((second / "run.json").read_text())
    record["notebooks"]["02_detect"]["parts"]["notebook"] = "n2"
    record["notebooks"]["03_classify"]["parts"]["package"] = "p2"
    (second / "run.json").write_text(json.dumps(record))
    code, said = compare(capsys, first, second)
    assert code == 0  # other code, same numbers
    assert "code of 02_detect" in said.out and "code of the package, as used by 03_classify" in said.out


def test_another_machine_has_a_tolerance_that_is_said(tmp_path, capsys):
    first = make_run(tmp_path / "a")
    near = make_run(tmp_path / "near", changed("02_detect", "detection/map_40", 0.16), platform="Darwin")
    far = make_run(tmp_path / "far", changed("02_detect", "detection/map_40", 0.18), platform="Darwin")
    code, said = compare(capsys, first, near)
    assert code == 0 and "Tolerance 0.05 (another machine or other versions)." in said.out
    assert "1 differ, 0 by more than the tolerance" in said.out
    assert compare(capsys, first, far)[0] == 1
    assert compare(capsys, first, near, "--tolerance", "0")[0] == 1


def test_a_step_or_a_number_that_only_one_has_is_a_difference(tmp_path, capsys):
    first = make_run(tmp_path / "a")
    shorter = make_run(tmp_path / "b", {step: METRICS[step] for step in ("01_preprocess", "02_detect")})
    code, said = compare(capsys, first, shorter)
    assert code == 1 and "03_classify is finished in a only" in said.out
    more = make_run(tmp_path / "c", changed("02_detect", "detection/new", None))
    assert [d.name for d in compare_runs(first, more).differences] == ["detection/new"]


def test_what_cannot_be_compared_is_2_in_one_line(tmp_path, capsys):
    first = make_run(tmp_path / "a")
    empty = make_run(tmp_path / "empty", {})
    edited = make_run(tmp_path / "edited")
    (edited / "02_detect" / "metrics.json").write_text(json.dumps(METRICS["02_detect"] | {"detection/map_40": 0.9}))
    broken = make_run(tmp_path / "broken")
    (broken / "run.json").write_text('{"notebooks": [1]}')
    for other, words in (
        (tmp_path / "nowhere", "is no run folder: it has no run.json"),
        (empty, "no notebook is finished in both a and empty"),
        (edited, "02_detect/metrics.json in"),
        (broken, "run.json cannot be read"),
    ):
        code, said = compare(capsys, first, other)
        assert code == 2 and words in said.err and said.err.count("\n") == 1
    with pytest.raises(SystemExit) as stop:
        compare(capsys, first, first, "--tolerance", "2")
    assert stop.value.code == 2


@pytest.mark.parametrize(
    "place, value, words",
    [
        ((), [], "the file is not"),
        (("notebooks",), [], "notebooks is not"),
        (("notebooks", "02_detect"), "done", "notebooks/02_detect is not"),
        (("notebooks", "02_detect", "outputs"), [], "notebooks/02_detect/outputs is not"),
        (("notebooks", "02_detect", "parts"), None, "notebooks/02_detect/parts is not"),
        (("notebooks", "02_detect", "outputs", "metrics.json"), "h", "notebooks/02_detect/outputs/metrics.json is not"),
        (("notebooks", "02_detect", "parameters"), [], "notebooks/02_detect/parameters is not"),
        (("versions",), [], "versions is not"),
    ],
)
def test_a_record_of_another_shape_is_2_in_one_line(tmp_path, capsys, place, value, words):
    run = make_run(tmp_path / "a")
    record = json.loads((run / "run.json").read_text())
    inner = record
    for key in place[:-1]:
        inner = inner[key]
    if place:
        inner[place[-1]] = value
    (run / "run.json").write_text(json.dumps(record if place else value))
    for command in (["grade", str(run)], ["compare", str(run), str(run)]):
        assert cli.main(command) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1, said


def test_close():
    assert close(1000, 1040, 0.05) and not close(1000, 1060, 0.05)
    assert close(0.0, 0.05, 0.05) and not close(0.0, 0.06, 0.05)
    assert close("a", "a", 0) and not close("a", "b", 0.9) and not close(None, 0.0, 0.9) and not close(True, 0.99, 0.5)
    assert not close(float("inf"), 1.0, 0.5) and not close(0.1, float("nan"), 0.5)


@pytest.mark.chain
@pytest.mark.timeout(900)
def test_a_chain_that_is_killed_twice_ends_with_the_same_numbers(tmp_path, smoke_run, run_environment):
    """kill -9 of the chain while detector and classifier train; the kernel is left to itself. Training is where chance
    could enter: one seed on one machine gives the numbers of an unbroken run, with and without a stop."""
    assert smoke_run.returncode == 0, smoke_run.log[-2000:]
    command = [sys.executable, "-m", "cliniqure_utils.cli", "run", "--profile", "smoke", "--until", "03", "--run-dir"]
    options = {"cwd": tmp_path, "env": run_environment | {"OMP_NUM_THREADS": "1"}, "text": True}
    killed = tmp_path / "killed"  # 01 is done in it
    shutil.copytree(smoke_run.run_dir / "01_preprocess", killed / "01_preprocess")
    shutil.copytree(smoke_run.run_dir / "notebooks", killed / "notebooks")
    record = json.loads((smoke_run.run_dir / "run.json").read_text())
    whole, record["notebooks"] = record["notebooks"], {"01_preprocess": record["notebooks"]["01_preprocess"]}
    (killed / "run.json").write_text(json.dumps(record))

    def status(step):
        try:
            return json.loads((killed / "run.json").read_text())["notebooks"][step]["status"]
        except (OSError, KeyError, ValueError):
            return None

    for step, moment in (("02_detect", 0.6), ("03_classify", 0.45)):  # moment: share of the time that the notebook took
        process = subprocess.Popen(
            [*command, "killed"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options
        )
        try:
            while process.poll() is None and status(step) != "running":
                time.sleep(0.05)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(moment * min(10, whole[step]["seconds"]))
        finally:
            process.kill()
        assert process.wait() == -signal.SIGKILL, f"it ended before it was killed in {step}"
        assert status(step) == "running"
    result = subprocess.run([*command, "killed"], capture_output=True, **options)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    assert "01_preprocess: skipped" in result.stdout
    comparison = compare_runs(smoke_run.run_dir, killed)
    assert comparison.differences == [] and comparison.tolerance == 0
    assert len(comparison.counts) == 3 and comparison.counts["02_detect"] > 5
