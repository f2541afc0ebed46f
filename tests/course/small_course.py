"""A course of three small notebooks, a student's run of them, and how such a run is spoilt. For tests of grading."""

import hashlib
import json
from pathlib import Path

import nbformat

from cliniqure_utils.course.chain import run_chain
from cliniqure_utils.course.grade import open_run

PARAMETERS = 'run_dir = "../outputs/demo"  # here\nseed = 2024  # chance\n'
DATA = """from pathlib import Path
folder = Path(run_dir) / "01_data"
folder.mkdir(parents=True, exist_ok=True)
(folder / "truth.csv").write_text("1\\n0\\n1\\n1\\n")
print("4 films")"""
MODEL = """from pathlib import Path
truth = (Path(run_dir) / "01_data" / "truth.csv").read_text().split()
folder = Path(run_dir) / "02_model"
folder.mkdir(parents=True, exist_ok=True)
(folder / "predictions.csv").write_text("\\n".join(truth[:n_right] + ["2"] * (4 - n_right)))"""
EVALUATE = """import json
from pathlib import Path
from cliniqure_utils.record import said_of_the_run
run = Path(run_dir)
truth = (run / "01_data" / "truth.csv").read_text().split()
said = (run / "02_model" / "predictions.csv").read_text().split()
share = sum(a == b for a, b in zip(truth, said)) / len(truth)
folder = run / "07_evaluate"
folder.mkdir(parents=True, exist_ok=True)
(folder / "table7.csv").write_text(f"metric,value\\nright,{share}\\n")
(folder / "claims.csv").write_text("claim,status\\nall right,contradicted\\n")
said = said_of_the_run(run, "07_evaluate")
page = f"<p>Share right: {share:.3f}</p><img src='data:image/png;base64,AAAA'><p>{said}</p>"
(folder / "report.html").write_text(page)
(folder / "metrics.json").write_text(json.dumps({"table7/right": share, "text/n": 4}))
print(f"share right: {share:.3f}\\nWritten to {run.name}")"""
EXERCISE = """my_answer = None
if my_answer is None:
    print("Not answered yet: count.")
elif abs(my_answer - 6) < 0.5:
    print("Correct")
else:
    print("Not yet: 2 times 3.")"""
COURSE = {
    "01_data": (PARAMETERS + "size = 1  # pixels\n", DATA, EXERCISE),
    "02_model": (PARAMETERS + "n_right = 3  # of 4\n", MODEL, EXERCISE),
    "07_evaluate": (PARAMETERS, EVALUATE, EXERCISE),
}
# A student works the first answer out with a line of their own.
ANSWERED = {"01_data": "half = 3\nmy_answer = 2 * 3", "02_model": "my_answer = 5.0"}


def write_course(folder: Path, given=()) -> Path:
    folder.mkdir(parents=True)
    for name, cells in COURSE.items():
        cells = [cell.replace("my_answer = None", dict(given).get(name, "my_answer = None"), 1) for cell in cells]
        made = [nbformat.v4.new_code_cell(cell, id=f"{name}-{n}") for n, cell in enumerate(cells)]
        made[0].metadata["tags"] = ["parameters"]
        nbformat.write(nbformat.v4.new_notebook(cells=made), folder / f"{name}.ipynb")
    (folder / "profiles").mkdir()
    (folder / "profiles" / "other.yaml").write_text("01_data: {size: 2}\n02_model: {n_right: 2}\n")
    return folder


def make_course(project: Path) -> tuple[Path, Path, Path]:
    notebooks = write_course(project / "notebooks")
    student = write_course(project / "student", ANSWERED)
    (project / "cliniqure_utils").mkdir()
    (project / "cliniqure_utils" / "__init__.py").write_text("")
    run_chain(
        notebooks_dir=student, package_dir=project / "cliniqure_utils", run_dir=project / "outputs" / "demo",
        overrides={"all.seed": 7}, echo=lambda line: None,
    )  # fmt: skip
    return notebooks, project / "cliniqure_utils", project / "outputs" / "demo"


def opened(course, folder):
    return open_run(folder, course[0], course[1])


def failures(checks) -> dict[tuple[str, str], str]:
    return {(check.step, check.name): check.message for check in checks if check.status == "fail"}


def edit_record(folder: Path, change) -> None:
    record = json.loads((folder / "run.json").read_text())
    change(record)
    (folder / "run.json").write_text(json.dumps(record))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def forge_output(folder: Path, step: str, file: str, text: str) -> None:
    """Edit an output file and the hash of it in run.json."""
    path = folder / step / file
    path.write_text(text)

    def change(record):
        record["notebooks"][step]["outputs"][file] = {"sha256": sha256(path), "bytes": len(text), "mtime_ns": 0}

    edit_record(folder, change)


def edit_copy(folder: Path, step: str, old: str, new: str, forged: bool) -> None:
    """Edit an executed copy, and with `forged` the hash of it in run.json."""
    path = folder / "notebooks" / f"{step}.ipynb"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    if forged:
        edit_record(folder, lambda record: record["notebooks"][step].update(copy_sha256=sha256(path)))
