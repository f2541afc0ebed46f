"""The chain on small notebooks: what runs, what is skipped, what is refused, and how it goes on after a stop."""

import errno
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest.mock import Mock

import nbformat
import pytest

from cliniqure_utils import cli
from cliniqure_utils.course.chain import NotebookFailed, run_chain
from cliniqure_utils.course.chain.fingerprint import (
    data_fingerprint,
    earlier_steps,
    imported_modules,
    package_part,
    parameter_part,
    scan,
)
from cliniqure_utils.course.chain.parameters import coerce, resolve
from cliniqure_utils.notebooks import find_notebooks, load_notebook, parse_parameters, read_profile
from cliniqure_utils.project import CannotStart, program
from cliniqure_utils.record import parameters_of

PARAMETERS = 'run_dir = "../outputs/demo"  # here\nseed = 2024\n'
FIRST = """from pathlib import Path
folder = Path(run_dir) / "01_first"
folder.mkdir(parents=True, exist_ok=True)
(folder / "number.txt").write_text(str(n))"""
READER = """from pathlib import Path
number = int((Path(run_dir) / "01_first" / "number.txt").read_text())
folder = Path(run_dir) / "{name}"
folder.mkdir(parents=True, exist_ok=True)
(folder / "product.txt").write_text(str(number * factor))
print("product", number * factor)"""


def write_notebook(path: Path, parameters: str, *cells: str) -> None:
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell("# A title")]
        + [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
        + [nbformat.v4.new_code_cell(cell) for cell in cells]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


@pytest.fixture
def project(tmp_path):
    """Three notebooks; the second and the third read the first one's file, not each other's."""
    folder = tmp_path / "project" / "notebooks"
    write_notebook(folder / "01_first.ipynb", PARAMETERS + "n = 3\n", FIRST)
    for name in ("02_second", "03_third"):
        write_notebook(folder / f"{name}.ipynb", PARAMETERS + "factor = 2\n", READER.format(name=name))
    return folder


def run(notebooks_dir, **options):
    """Run the chain; return run.json's content, the names of the notebooks that ran, and all lines."""
    lines = []
    record = run_chain(notebooks_dir=notebooks_dir, echo=lines.append, **options)
    return record, [line.split(":")[0] for line in lines if ": running, " in line], lines


def product(notebooks_dir, name, run="demo") -> str:
    return (notebooks_dir.parent / "outputs" / run / name / "product.txt").read_text()


def test_a_notebook_runs_again_only_when_something_it_depends_on_has_changed(project):
    assert run(project)[1] == ["01_first", "02_second", "03_third"]
    _, ran, lines = run(project)
    assert ran == []
    assert [line for line in lines if "skipped" in line][0] == "01_first: skipped, nothing has changed"

    assert run(project, overrides={"02_second.factor": "5"})[1] == ["02_second"]
    assert product(project, "02_second") == "15" and product(project, "03_third") == "6"
    override = {"overrides": {"02_second.factor": 5}}

    # Other code, same file written: its readers need not run.
    write_notebook(project / "01_first.ipynb", PARAMETERS + "n = 3\n", FIRST + "\nx = 1")
    _, ran, lines = run(project, **override)
    assert ran == ["01_first"] and "01_first: running, changed: its code" in lines

    # Outputs in the notebook file are no code.
    notebook = nbformat.read(project / "01_first.ipynb", 4)
    notebook.cells[-1].outputs = [nbformat.v4.new_output("stream", text="hello")]
    nbformat.write(notebook, project / "01_first.ipynb")
    assert run(project, **override)[1] == []

    _, ran, lines = run(project, overrides={"01_first.n": 4, "02_second.factor": 5})
    assert ran == ["01_first", "02_second", "03_third"]
    assert "03_third: running, changed: its input files" in lines
    assert product(project, "03_third") == "8"

    step = project.parent / "outputs" / "demo"
    (step / "03_third" / "product.txt").unlink()
    (step / "02_second" / "product.txt").write_text("99")
    _, ran, lines = run(project, overrides={"01_first.n": 4, "02_second.factor": 5})
    assert ran == ["02_second", "03_third"] and product(project, "02_second") == "20"
    assert "02_second: running, its output product.txt was changed" in lines
    assert "03_third: running, its output product.txt is gone" in lines


def test_part_of_the_chain_from_another_folder(project, tmp_path, monkeypatch):
    elsewhere = tmp_path / "a {strange} folder"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    options = {"run_dir": "here/run"}
    record, ran, _ = run(project, until="1", **options)
    assert ran == ["01_first"] and record["status"] == "partial"
    assert (elsewhere / "here/run/01_first/number.txt").read_text() == "3"

    _, ran, lines = run(project, start="02", until="02_second", force=False, overrides={"01_first.n": 7}, **options)
    assert ran == ["02_second"]
    assert "note: 01_first has changed since it ran; its old files are used" in lines
    assert (elsewhere / "here/run/02_second/product.txt").read_text() == "6"

    _, ran, _ = run(project, start="2", until="2", force=True, **options)
    assert ran == ["02_second"]
    with pytest.raises(CannotStart, match="--from 03_third comes after --until 01_first"):
        run(project, start="3", until="1", **options)


def test_run_json_tells_what_was_done(project):
    data = project.parent / "data" / "mine"
    data.mkdir(parents=True)
    (data / "train.csv").write_text("image_id\n1\n")
    write_notebook(
        project / "01_first.ipynb", PARAMETERS + 'n = 3\ndata_dir = "../data/demo"\n', FIRST, "print(data_dir)"
    )
    record, *_ = run(project, data_dir=data, until="02", overrides={"all.seed": "7"})
    assert record == json.loads((project.parent / "outputs/demo/run.json").read_text())
    assert record["profile"] == "demo" and record["seed"] == 7 and record["device"] is None
    assert record["notebooks"]["01_first"]["profile"] == "demo"
    assert record["notebooks"]["01_first"]["parameters"] == {
        "run_dir": "../outputs/demo", "seed": 7, "n": 3, "data_dir": "../data/mine",
    }  # fmt: skip
    assert record["data"]["kind"] == "archive" and record["data"]["n_files"] == 0
    assert record["versions"]["python"] == ".".join(map(str, sys.version_info[:3])) and "torch" in record["versions"]
    entry = record["notebooks"]["01_first"]
    assert entry["status"] == "done" and entry["seconds"] >= 0 and entry["peak_memory_mb"] > 20
    assert entry["program"] == program() and entry["commit"] is None, "the folder is no repository"
    assert len(entry["input_hash"]) == 64 and entry["start"].startswith("20")
    copy = (project.parent / "outputs/demo/notebooks/01_first.ipynb").read_bytes()
    assert entry["copy_sha256"] == hashlib.sha256(copy).hexdigest()
    # sha256 of the character 3, from any sha256 tool
    assert (
        entry["outputs"]["number.txt"]["sha256"] == "4e07408562bedb8b60ce05c1decfe3ad16b72230967de01f640b7e4729b49fce"
    )

    (data / "train.csv").write_text("image_id\n2\n")
    _, ran, lines = run(project, data_dir=data, until="02", overrides={"all.seed": "7"})
    assert ran == ["01_first"] and "01_first: running, changed: the data folder" in lines


def test_run_json_keeps_what_ran_when_a_later_command_asks_for_something_else(project):
    """`--profile other --from 02` over a finished run: 01 did not run, so what run.json says about it stays."""
    (project / "profiles").mkdir()
    (project / "profiles" / "other.yaml").write_text("all: {seed: 5}\n01_first: {n: 4}\n02_second: {factor: 9}\n")
    before, *_ = run(project, run_dir=project.parent / "run", until="2")
    record, ran, _ = run(project, run_dir=project.parent / "run", profile="other", start="2", until="2")
    assert ran == ["02_second"]
    said = {name: (entry["profile"], entry["parameters"]["seed"]) for name, entry in record["notebooks"].items()}
    assert said == {"01_first": ("demo", 2024), "02_second": ("other", 5)}
    assert record["notebooks"]["01_first"] == before["notebooks"]["01_first"]
    assert parameters_of(record, "01_first")["n"] == 3 and parameters_of(record, "02_second")["factor"] == 9
    assert parameters_of(record, "09_none") == {} == parameters_of({}, "01_first")
    assert record["profile"] == ["demo", "other"] and record["seed"] == [2024, 5] and "parameters" not in record


MAKER = """from pathlib import Path
data, folder = Path(data_dir), Path(run_dir) / "01_first"
(data / "cohort.json").write_text("version 2")
(data / "train.csv").write_text("made by version 2")
folder.mkdir(parents=True, exist_ok=True)
(folder / "number.txt").write_text("3")"""


def test_a_cohort_that_the_notebook_made_anew_is_no_change(project):
    """The data folder as it stands after the run counts: an older version of the cohort stood there before."""
    data = project.parent / "data" / "demo"
    data.mkdir(parents=True)
    (data / "cohort.json").write_text("version 1")
    (data / "train.csv").write_text("made by version 1")
    write_notebook(project / "01_first.ipynb", PARAMETERS + 'data_dir = "../data/demo"\n', MAKER)
    assert run(project, until="1")[1] == ["01_first"]
    assert run(project, until="1")[1] == []
    (data / "train.csv").write_text("edited by hand")
    _, ran, lines = run(project, until="1")
    assert ran == ["01_first"] and "01_first: running, changed: the data folder" in lines


@pytest.mark.chain
def test_the_kernel_is_this_python_with_a_quiet_environment(tmp_path):
    """Through papermill, in a folder whose name it would take for a format."""
    code = """import os, sys
print(sys.executable)
print(os.environ['OMP_WAIT_POLICY'], os.environ['PYTHONHASHSEED'])
print(get_ipython().history_manager.enabled)"""
    folder = tmp_path / "a {strange} folder"
    write_notebook(folder / "notebooks" / "01_first.ipynb", PARAMETERS, code)
    record, _, _ = run(folder / "notebooks")
    copy = json.loads((folder / "outputs/demo/notebooks/01_first.ipynb").read_text())
    printed = "".join(copy["cells"][-1]["outputs"][0]["text"]).split("\n")
    assert printed[0] == sys.executable
    assert printed[1] == f"passive {os.environ.get('PYTHONHASHSEED', '0')}"
    assert printed[2] == "False", (
        "IPython keeps no history: a database in the home folder stalls where that is a network drive"
    )
    assert not any("injected-parameters" in cell["metadata"].get("tags", []) for cell in copy["cells"])
    assert copy["metadata"]["papermill"]["input_path"] == "notebooks/01_first.ipynb"
    entry = record["notebooks"]["01_first"]
    assert entry["seconds"] > 0 and entry["peak_memory_mb"] > 20


@pytest.mark.chain
def test_a_failed_notebook_stops_the_chain_in_plain_words(project, capsys):
    broken = "total = 0\n\ndef invert(x):\n    return 1 / x\n\ninvert(total)"
    write_notebook(project / "02_second.ipynb", PARAMETERS + "factor = 2\n", "x = 1", broken)
    lines = []
    with pytest.raises(NotebookFailed, match=r"02_second stopped in cell 4 of 4 \(In \[3\]\): ZeroDivisionError"):
        run_chain(notebooks_dir=project, echo=lines.append)
    assert "  ZeroDivisionError: division by zero" in lines
    assert any(line.strip() == "->   6 | invert(total)" for line in lines)
    assert "Mend the cause and give the same command again: it goes on at 02_second." in lines
    assert not (project.parent / "outputs/demo/03_third").exists()
    record = json.loads((project.parent / "outputs/demo/run.json").read_text())
    assert record["status"] == "failed" and record["notebooks"]["02_second"]["status"] == "failed"
    assert record["notebooks"]["02_second"]["error"]["cell"] == 4
    assert "Traceback" not in capsys.readouterr().err

    # What training left behind is kept when only code was mended, and thrown away when a parameter has changed.
    left = project.parent / "outputs/demo/02_second/checkpoints/step_10"
    left.mkdir(parents=True)
    write_notebook(project / "02_second.ipynb", PARAMETERS + "factor = 2\n", "1 / 0")
    with pytest.raises(NotebookFailed):
        run(project, until="2")
    assert left.is_dir()
    with pytest.raises(NotebookFailed):
        run(project, until="2", overrides={"02_second.factor": 3})
    assert not left.exists()


@pytest.mark.chain
def test_an_interrupt_leaves_logging_as_it_was(tmp_path):
    """Ctrl-C in a program that goes on: `execute` may quieten nothing for good."""
    write_notebook(tmp_path / "notebooks" / "01_first.ipynb", PARAMETERS, "from pathlib import Path", WAITING)
    started = tmp_path / "outputs" / "demo" / "started"

    def interrupt():
        wait_for(started.exists)
        os.kill(os.getpid(), signal.SIGINT)

    stopper = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores Ctrl-C
    try:
        stopper.start()
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "notebooks")
        stopper.join()
    finally:
        signal.signal(signal.SIGINT, before)
    silent = [name for name in ("asyncio", "papermill", "traitlets") if logging.getLogger(name).disabled]
    assert silent == [] and logging.getLogger("papermill").propagate


WAITING = """import time
Path(run_dir, "started").touch()
time.sleep(60)"""


@pytest.mark.chain
def test_a_kernel_that_dies_is_reported_with_its_cell(tmp_path):
    code = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    write_notebook(tmp_path / "notebooks" / "01_first.ipynb", PARAMETERS, "x = 1", code)
    with pytest.raises(NotebookFailed, match=r"cell 4 of 4: DeadKernelError: the kernel was killed \(signal 9\)"):
        run(tmp_path / "notebooks", overrides={"all.seed": 1})


LAUNCHER = """import sys
from pathlib import Path
tried = Path(__file__).with_name("tried")
tried.write_text(tried.read_text() + "x" if tried.exists() else "x")
if len(tried.read_text()) <= {fails}:
    sys.exit("Address already in use")
from ipykernel import kernelapp
kernelapp.launch_new_instance()"""


@pytest.mark.chain
@pytest.mark.parametrize("fails", [1, 2])
def test_a_kernel_that_does_not_start_is_tried_twice(tmp_path, monkeypatch, fails):
    """Eight chains at once: two kernels chose one port. And a Python whose kernel is broken."""
    (tmp_path / "ipykernel_launcher.py").write_text(LAUNCHER.format(fails=fails))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    write_notebook(
        tmp_path / "notebooks" / "01_first.ipynb", PARAMETERS, "print(get_ipython().history_manager.enabled)"
    )
    if fails == 2:
        with pytest.raises(NotebookFailed, match="01_first stopped in no cell: KernelDidNotStart: no Jupyter kernel"):
            run(tmp_path / "notebooks")
        record = json.loads((tmp_path / "outputs/demo/run.json").read_text())
        assert record["notebooks"]["01_first"]["status"] == "failed"
        return
    assert run(tmp_path / "notebooks")[1] == ["01_first"]
    copy = json.loads((tmp_path / "outputs/demo/notebooks/01_first.ipynb").read_text())
    assert copy["cells"][-1]["outputs"][0]["text"] == ["False\n"], "the history is a database in the home folder"


SLOW = """import time
from pathlib import Path
folder = Path(run_dir) / "02_second"
folder.mkdir(parents=True, exist_ok=True)
half = folder / "checkpoints" / "half.txt"
if half.exists():
    print("resumed")
else:
    half.parent.mkdir()
    half.write_text("x")
    time.sleep(60)
(folder / "product.txt").write_text("whole")"""
DRIVER = """import sys
from cliniqure_utils import cli
from cliniqure_utils.course import chain
plain = chain.run_chain
chain.run_chain = lambda **options: plain(**options, notebooks_dir=sys.argv[1])
sys.exit(cli.main(["run", *sys.argv[2:]]))"""


@pytest.mark.chain
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_goes_on_where_it_was(project, how):
    write_notebook(project / "02_second.ipynb", PARAMETERS, SLOW)
    (project / "01_first.ipynb").unlink()  # not needed here
    output = project.parent / "outputs/demo"
    half = output / "02_second/checkpoints/half.txt"
    # A shell starts background jobs with Ctrl-C ignored, and children inherit that: undo it, or this test fails in a
    # background job.
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    command = [sys.executable, "-c", listen + DRIVER, str(project), "--until", "02"]
    errors = project.parent / "errors.txt"
    with errors.open("w") as file:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file)
    try:
        wait_for(half.exists)
        if how == signal.SIGKILL:  # once is enough: a second run may not start
            second = subprocess.run(command, capture_output=True, text=True)
            assert second.returncode == 2 and second.stdout == ""
            assert second.stderr.startswith("cliniqure: another run is using ") and second.stderr.count("\n") == 1
        process.send_signal(how)
        process.wait(timeout=20)
    finally:
        process.kill()
    status = json.loads((output / "run.json").read_text())["notebooks"]["02_second"]["status"]
    if how == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL and status == "running"
        assert (output / ".kernel.json").exists()
    else:
        assert process.returncode == 130 and status == "interrupted"
        assert errors.read_text() == "cliniqure: interrupted; the same command goes on from here\n"

    record, ran, lines = run(project, until="02")
    assert ran == ["02_second"] and "02_second: running, interrupted last time" in lines
    assert record["notebooks"]["02_second"]["status"] == "done" and not (output / ".kernel.json").exists()
    assert list(record["notebooks"]["02_second"]["outputs"]) == ["product.txt"]  # checkpoints are no outputs
    assert "resumed" in (output / "notebooks/02_second.ipynb").read_text()


def wait_for(condition, seconds: float = 30) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"nothing happened within {seconds} s"
        time.sleep(0.05)


def test_a_dry_run_writes_nothing(project):
    _, ran, lines = run(project, dry_run=True, overrides={"02_second.factor": 4})
    assert ran == [] and not (project.parent / "outputs").exists()
    assert lines[0] == "01_first: would run, not run before"
    assert "    factor = 4 (default 2)" in lines


@pytest.mark.parametrize(
    "options, message",
    [
        ({"profile": "dmeo"}, "unknown profile dmeo: did you mean demo?"),
        ({"overrides": {"02_second.facter": "1"}}, "unknown parameter 02_second.facter: did you mean factor?"),
        ({"overrides": {"02_second.n": "1"}}, "unknown parameter 02_second.n: it is a parameter of 01_first"),
        ({"overrides": {"02_secnd.factor": "1"}}, "unknown notebook 02_secnd: did you mean 02_second?"),
        ({"overrides": {"factor": "1"}}, "expected NOTEBOOK.NAME=VALUE, found factor"),
        ({"overrides": {"all.nothing": "1"}}, "unknown parameter all.nothing: valid: factor, n, run_dir, seed"),
        ({"overrides": {"02_second.factor": "1.5"}}, "02_second.factor: expected a whole number like 2, found 1.5"),
        ({"overrides": {"02_second.factor": "two"}}, '02_second.factor: expected a whole number like 2, found "two"'),
        ({"overrides": {"02_second.factor": True}}, "02_second.factor: expected a whole number like 2, found true"),
        ({"overrides": {"01_first.run_dir": "x"}}, "01_first.run_dir is the same for all notebooks: use --run-dir"),
        ({"start": "9"}, "unknown notebook 9: valid: 01_first, 02_second, 03_third"),
        ({"until": "03_thrid"}, "unknown notebook 03_thrid: did you mean 03_third?"),
        ({"data_dir": "nowhere"}, "the data folder nowhere is not there"),
    ],
)
def test_mistakes_are_found_before_anything_runs(project, options, message):
    with pytest.raises(CannotStart) as error:
        run(project, **options)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
    assert not (project.parent / "outputs").exists()


def test_the_command_exits_with_2_and_one_line(capsys):
    assert cli.main(["run", "--profile", "dmeo", "--dry-run"]) == 2
    assert capsys.readouterr().err == "cliniqure: unknown profile dmeo: did you mean demo?\n"
    assert cli.main(["run", "--set", "seed"]) == 2
    assert "expected --set NOTEBOOK.NAME=VALUE, found seed" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", "--forse"])
    assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1
    assert cli.main(["run", "--set", "03_classify.device=gpu", "--dry-run"]) == 2
    assert "03_classify.device: expected one of auto, cpu, cuda, mps, found gpu" in capsys.readouterr().err
    assert cli.main(["run", "--set", "all.zzzz=1", "--dry-run"]) == 2
    assert len(capsys.readouterr().err) < 120


@pytest.mark.parametrize("option", ["--profile", "--run-dir", "--data-dir", "--from", "--until"])
def test_an_empty_option_starts_nothing(option, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", "--dry-run", option, ""])  # as from a shell variable that was never set
    assert stop.value.code == 2 and f"argument {option}: expected a name, found nothing" in capsys.readouterr().err


def test_a_disk_that_cannot_be_written_is_2_in_one_line(tmp_path, monkeypatch, capsys):
    for error, words in (
        (OSError(errno.EROFS, "Read-only file system", "there"), "there cannot be used (Read-only file system)"),
        (OSError(errno.ENOSPC, "No space left on device"), "a file cannot be used (No space left on device)"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), "x cannot be used (No such file"),
    ):
        monkeypatch.setattr("cliniqure_utils.course.handout.make_handout", Mock(side_effect=error))
        assert cli.main(["handout", "--student", str(tmp_path / "new")]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"cliniqure: {words}") and said.count("\n") == 1


@pytest.mark.parametrize(
    "text, default, value",
    [
        ("3", 1, 3),
        ("1e-4", 0.1, 0.0001),
        ("3", 0.1, 3.0),
        ("true", False, True),
        ("False", True, False),
        ("0012", "x", "0012"),
        ("", "x", ""),
        ("0012", None, "0012"),  # an id stays an id
        ("12", None, 12),
        ("null", None, None),
        ("None", None, None),
        ("none", None, "none"),  # may be a name
        ("resnet", None, "resnet"),
        ("[1, 2]", [0], [1, 2]),
        ('["a", "b"]', ["x"], ["a", "b"]),
        ("[1, 2]", [0.5], [1.0, 2.0]),
    ],
)
def test_text_is_read_by_the_type_of_the_default(text, default, value):
    got = coerce(text, default, "x", from_text=True)
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize(
    "text, default", [("1", True), ("yes", True), ("1.0", 1), ("nan", 0.1), ("1", [0]), ('["a"]', [0]), ("None", 1)]
)
def test_text_of_another_type_is_refused(text, default):
    with pytest.raises(CannotStart, match="^x.*: expected"):
        coerce(text, default, "x", from_text=True)


def test_a_comment_may_allow_none(tmp_path):
    cell = 'run_dir = "x"  # here\nn = 4  # films; None for all\nmodel = "a"  # a, b or None\nrate = 0.5  # a share\n'
    write_notebook(tmp_path / "01_x.ipynb", cell, "x = 1")
    notebooks = find_notebooks(tmp_path)
    assert resolve(notebooks, {"01_x": {"n": None}}, {"01_x.model": "None"})["01_x"]["n"] is None
    assert resolve(notebooks, {}, {"01_x.n": "null", "01_x.model": "none"})["01_x"] == {
        "run_dir": "x", "n": None, "model": "none", "rate": 0.5,
    }  # fmt: skip
    with pytest.raises(CannotStart, match="01_x.rate in the profile: expected a number like 0.5, found null"):
        resolve(notebooks, {"01_x": {"rate": None}}, {})


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("01_x.n_epochs", "-1", "01_x.n_epochs: expected 0 or more, found -1"),
        ("all.rate", "-1e-4", "01_x.rate: expected 0 or more, found -0.0001"),
        ("01_x.held_out_share", "1.5", "01_x.held_out_share: expected a number from 0 to 1, found 1.5"),
        ("01_x.box_threshold", "2", "01_x.box_threshold: expected a number from 0 to 1, found 2"),
        ("01_x.sizes", "[32, -64]", "01_x.sizes[1]: expected 0 or more, found -64"),
    ],
)
def test_numbers_out_of_range_are_refused_before_anything_runs(tmp_path, key, value, words):
    cell = (
        'run_dir = "x"  # here\nn_jobs = -1  # all cores\nn_epochs = 3  # epochs\nrate = 0.5  # step\n'
        "sizes = [16]  # sides\nheld_out_share = 0.25  # of rows\nbox_threshold = None  # least score\n"
    )
    write_notebook(tmp_path / "01_x.ipynb", cell, "x = 1")
    notebooks = find_notebooks(tmp_path)
    fine = resolve(notebooks, {}, {"01_x.n_jobs": "-2", "01_x.n_epochs": "0", "01_x.held_out_share": "1"})["01_x"]
    assert (fine["n_jobs"], fine["n_epochs"], fine["held_out_share"]) == (-2, 0, 1.0)
    with pytest.raises(CannotStart) as error:
        resolve(notebooks, {}, {key: value})
    assert str(error.value) == words


def test_two_names_of_one_parameter_are_refused_and_all_may_be_narrowed(tmp_path):
    write_notebook(tmp_path / "01_x.ipynb", 'run_dir = "x"  # here\nn = 1  # number\n', "x = 1")
    notebooks = find_notebooks(tmp_path)
    with pytest.raises(CannotStart, match="^01_x.n is set twice: as 01.n and as 01_x.n$"):
        resolve(notebooks, {}, {"01.n": "2", "01_x.n": "3"})
    assert resolve(notebooks, {}, {"all.n": "2", "01.n": "3"})["01_x"]["n"] == 3


def test_profiles_and_the_traps_of_yaml(project):
    notebooks = find_notebooks(project)
    write_notebook(project / "03_third.ipynb", PARAMETERS + 'factor = 0.5\nimage = "x"\n', "x = 1")
    notebooks = find_notebooks(project)
    profiles = project / "profiles"
    profiles.mkdir()
    text = 'all:\n  seed: 5\n03_third:\n  factor: 1e-4\n  image: "0012"\n  seed: 6\n'
    (profiles / "smoke.yaml").write_text(text)
    values = resolve(notebooks, read_profile(profiles, "smoke"), {})
    assert [values[name]["seed"] for name in values] == [5, 5, 6]
    assert values["03_third"]["factor"] == 0.0001 and values["03_third"]["image"] == "0012"
    assert resolve(notebooks, read_profile(profiles, "smoke"), {"all.seed": 8})["03_third"]["seed"] == 8

    def refused(content: str) -> str:
        (profiles / "smoke.yaml").write_text(content)
        with pytest.raises(CannotStart) as error:
            resolve(notebooks, read_profile(profiles, "smoke"), {})
        return str(error.value)

    assert refused("03_third:\n  image: 12\n") == (
        '03_third.image in the profile: expected text like "x", found 12 (put it in quotes)'
    )
    assert refused('03_third: {factor: "1e-4"}').endswith('expected a number like 0.5, found "1e-4"')
    assert refused("03_third: {factor: .nan}").endswith("expected a number like 0.5, found NaN")
    assert refused("03_third: {facter: 1}") == "unknown parameter 03_third.facter in the profile: did you mean factor?"
    assert refused("03_thrid: {factor: 1}") == "unknown notebook 03_thrid in the profile: did you mean 03_third?"
    assert refused("all: {sed: 1}").startswith("unknown parameter all.sed in the profile: did you mean seed?")
    assert refused("all:\n  seed: 1\n  seed: 2\n") == "smoke.yaml, line 3: seed is there twice"
    assert refused("all: [1\n").startswith("smoke.yaml, line 2: ")
    assert refused("all: 3\n") == "smoke.yaml: all: expected `parameter: value` lines, found 3"
    assert refused("all: {run_dir: x}").endswith("use --run-dir")


@pytest.mark.parametrize(
    "written, value",
    [
        ("9e-1", 0.9), ("1e-4", 1e-4), ("1E5", 1e5), ("-2.5e-3", -0.0025), (".5", 0.5), ("5.", 5.0), ("0.999", 0.999),
        ("3", 3), ("-3", -3), ("0", 0), ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("0012", "0012"), ("1:30", "1:30"), ("1_000", "1_000"), ("no", "no"), ("on", "on"), ("2024-1-1", "2024-1-1"),
        ("0x10", "0x10"), ("'1e3'", "1e3"), ('"true"', "true"), ("a b", "a b"),
    ],
)  # fmt: skip
def test_a_profile_gives_a_parameter_without_a_default_what_is_written(project, written, value):
    """By YAML 1.2, as a reader takes it; the second value is what a parameter `n = None` gets."""
    write_notebook(project / "03_third.ipynb", PARAMETERS + "n = None  # anything\n", "x = 1")
    (project / "profiles").mkdir()
    (project / "profiles" / "smoke.yaml").write_text(f"03_third:\n  n: {written}\n")
    got = resolve(find_notebooks(project), read_profile(project / "profiles", "smoke"), {})["03_third"]["n"]
    assert got == value and type(got) is type(value)


def test_the_parameters_cell_holds_literals_only(tmp_path):
    source = 'a = 1  # one\nb = -2.5\nc = "x = y"\nd = None\ne = [1, [True, "z"]]\n'
    assert parse_parameters(source, "x") == {"a": 1, "b": -2.5, "c": "x = y", "d": None, "e": [1, [True, "z"]]}
    for bad in ("a = 1 + x", "a = len('x')", "a: int = 1", "import os", "a = b = 1", "a = (1, 2)", "a = 1\na = 2"):
        with pytest.raises(CannotStart, match="is not `name = literal`"):
            parse_parameters(bad, "x")
    with pytest.raises(CannotStart, match="not Python, line 2"):
        parse_parameters("a = 1\n%matplotlib inline", "x")
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1")]), tmp_path / "01_x.ipynb")
    with pytest.raises(CannotStart, match="0 cells tagged parameters; expected 1"):
        load_notebook(tmp_path / "01_x.ipynb")


def test_dependencies_are_followed_through_the_package(tmp_path):
    package = tmp_path / "pack"
    (package / "sub").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "a.py").write_text("def f():\n    from pack.sub import b\n")
    (package / "sub" / "__init__.py").write_text("from . import c\n")
    (package / "sub" / "b.py").write_text("STEP = '01_first/x.csv'\n")
    (package / "sub" / "c.py").write_text("from ..d import x\n")
    (package / "d.py").write_text("x = 1\n")
    (package / "runs.py").write_text("STEPS = ('01_first', '02_second')\n")
    (package / "other.py").write_text("import pack.d\n")
    found = imported_modules(["%matplotlib inline\nfrom pack import a, runs\nimport json"], package)
    assert set(found) == {"__init__.py", "a.py", "d.py", "runs.py", "sub/__init__.py", "sub/b.py", "sub/c.py"}

    write_notebook(tmp_path / "n" / "03_third.ipynb", PARAMETERS, "from pack import a, runs")
    third = load_notebook(tmp_path / "n" / "03_third.ipynb")
    names = ["01_first", "02_second", "03_third"]
    assert earlier_steps(third, found, names) == ["01_first"]  # named in sub/b.py; runs.py names every step
    write_notebook(tmp_path / "n" / "03_third.ipynb", PARAMETERS, "for step in STEPS: print(step)")
    assert earlier_steps(load_notebook(tmp_path / "n" / "03_third.ipynb"), found, names) == names[:2]


@pytest.fixture(scope="module")
def dependents(repository):
    """For every file of the package: the numbers of the notebooks that run again when it changes."""
    package = repository / "cliniqure_utils"
    found: dict[str, list[str]] = {}
    for notebook in find_notebooks(repository / "notebooks"):
        for name in package_part(imported_modules(notebook.code, package)):
            found.setdefault(name, []).append(notebook.name[:2])
    return found


@pytest.mark.parametrize(
    "changed, again",
    [
        ("figures/preprocess.py", "01"),
        ("cohort/lesions.py", "01"),
        ("figures/detect.py", "02"),
        ("figures/classify.py", "03"),
        ("cmn/model.py", "04"),
        ("writer/pairs.py", "05"),
        ("figures/generate_report.py", "06"),
        ("evaluation/page.py", "07"),
        ("vision/gradcam.py", "03"),
        ("training/fitting.py", "02 03 04 05"),
        ("vocabulary.py", "01 02 03 04 05 06 07"),
        ("course/chain/runner.py", ""),  # how notebooks are run is nothing that their numbers depend on
        ("predict/command.py", ""),
    ],
)
def test_a_change_of_a_module_makes_only_its_notebooks_run_again(dependents, repository, changed, again):
    assert (repository / "cliniqure_utils" / changed).is_file()
    assert dependents.get(changed, []) == again.split()


def test_outputs_leave_out_checkpoints_and_unfinished_files(tmp_path):
    for name in ("a.csv", "figures/b.png", ".1234.c.csv", "checkpoints/x", "checkpoint-5/y", "sub/.hidden/z"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    found = scan(tmp_path)
    assert list(found) == ["a.csv", "figures/b.png"]
    # A file that looks untouched keeps its recorded hash; one with another time is read again.
    known = {"a.csv": found["a.csv"] | {"sha256": "old"}, "figures/b.png": found["figures/b.png"] | {"mtime_ns": 1}}
    again = scan(tmp_path, known)
    assert again["a.csv"]["sha256"] == "old" and again["figures/b.png"] == found["figures/b.png"]


def test_data_fingerprint(tmp_path):
    assert data_fingerprint(tmp_path / "nowhere") == {"kind": "absent"} == data_fingerprint(tmp_path)
    (tmp_path / "train.csv").write_text("x")
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "1.dicom").write_bytes(b"12")
    real = data_fingerprint(tmp_path)
    assert real["kind"] == "archive" and real["n_files"] == 1
    (tmp_path / "train" / "1.dicom").write_bytes(b"123")
    assert data_fingerprint(tmp_path) != real
    (tmp_path / "cohort.json").write_text("{}")
    made = data_fingerprint(tmp_path)
    assert made["kind"] == "simulated"
    (tmp_path / "train" / "1.dicom").write_bytes(b"1")
    assert data_fingerprint(tmp_path) == made


def test_other_pretrained_weights_are_another_input(tmp_path, monkeypatch):
    """A notebook that starts from "pretrained" weights depends on their files, not on the word."""
    from cliniqure_utils import pretrained

    monkeypatch.setattr(pretrained, "identities", lambda: {"eyes": "a"})
    first = parameter_part({"weights": "pretrained", "size": 3}, tmp_path)
    assert first == parameter_part({"weights": "pretrained", "size": 3}, tmp_path)
    monkeypatch.setattr(pretrained, "identities", lambda: {"eyes": "b"})
    assert first != parameter_part({"weights": "pretrained", "size": 3}, tmp_path)
    assert parameter_part({"weights": None}, tmp_path)["files"] == {}
