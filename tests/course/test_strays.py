"""Files that nobody meant to put there, and copies of notebooks, change nothing: not what runs, not a grade."""

import json
import shutil
from pathlib import Path

import nbformat
import pytest

from cliniqure_utils.course.chain import run_chain
from cliniqure_utils.course.chain.fingerprint import data_fingerprint, is_stray, scan, table_part
from cliniqure_utils.course.handout import make_handout
from cliniqure_utils.notebooks import Notebook, find_notebooks
from cliniqure_utils.runs import STEPS

PARAMETERS = 'run_dir = "../outputs/demo"  # here\ndata_dir = "../data/demo"  # there\n'
WRITER = """from pathlib import Path
import pack.words
folder = Path(run_dir) / "{name}"
(folder / "figures").mkdir(parents=True, exist_ok=True)
(folder / "figures" / "a.png").write_text(Path(data_dir, "train.csv").read_text())"""
STRAYS = (
    ".DS_Store", "._a.png", ".a.png.swp", ".ipynb_checkpoints/a-checkpoint.png", "Thumbs.db", "desktop.ini", "a.png~",
    "__MACOSX/a.png", "Icon\r", "~$a.docx", "@eaDir/a.png", ".nfs0001",
)  # fmt: skip


@pytest.fixture
def project(tmp_path):
    """Two notebooks, the second a reader of the first one's files, a package, a data folder."""
    for name, more in (("01_first", ""), ("02_second", "# reads 01_first")):
        cells = [nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
        cells.append(nbformat.v4.new_code_cell(WRITER.format(name=name).replace("import pack.words", more)))
        (tmp_path / "notebooks").mkdir(exist_ok=True)
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks" / f"{name}.ipynb")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")
    (tmp_path / "data" / "demo" / "train").mkdir(parents=True)
    (tmp_path / "data" / "demo" / "train.csv").write_text("image_id\n1\n")
    (tmp_path / "data" / "demo" / "train" / "1.dicom").write_text("film")
    return tmp_path


def run(project) -> list[str]:
    """Run the chain; the names of the notebooks that ran."""
    lines = []
    run_chain(notebooks_dir=project / "notebooks", package_dir=project / "pack", echo=lines.append)
    return [line.split(":")[0] for line in lines if ": running, " in line]


def put(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("stray")


@pytest.mark.parametrize(
    "folder", ["pack", "pack/sub", "notebooks", "data", "data/demo", "data/demo/train", "outputs/demo",
               "outputs/demo/01_first", "outputs/demo/01_first/figures", "outputs/demo/02_second"]
)  # fmt: skip
def test_a_stray_file_makes_nothing_run_again(project, folder):
    assert run(project) == ["01_first", "02_second"]
    for name in STRAYS:
        put(project / folder / name)
    assert run(project) == []


def test_a_file_of_somebody_else_makes_nothing_run_again_and_stays(project):
    """A run clears a step's folder: a note that a student put there must not cause one."""
    run(project)
    for name in ("pack/notes.txt", "data/demo/notes.csv", "data/demo/train/notes.txt", "outputs/demo/01_first/my.txt"):
        put(project / name)
    assert run(project) == [] and (project / "outputs/demo/01_first/my.txt").is_file()
    (project / "data/demo/train/2.dicom").write_text("another film")
    assert run(project) == ["01_first", "02_second"]


def test_what_is_a_stray_and_what_is_work():
    assert all(is_stray(Path(name)) for name in (*STRAYS, "THUMBS.DB", "sub/.hidden/b"))
    assert not any(is_stray(Path(name)) for name in ("a.png", "sub/b.csv", "icons.png", "thumbs.csv", "a~b.txt"))


def test_outputs_and_tables_leave_strays_out(tmp_path):
    for name in ("a.csv", *STRAYS):
        put(tmp_path / name)
    assert list(scan(tmp_path)) == ["a.csv"]
    for name in ("claims.csv", "._claims.csv", "claims.csv~", "claims copy.csv", "the.csv", "more.txt"):
        put(tmp_path / "tables" / name)
    notebook = Notebook("01_x", tmp_path, code=("the = read('../data/claims.csv')",))
    assert list(table_part(notebook, {}, tmp_path / "tables")) == ["claims.csv"]


def test_tables_below_annotations_are_data_too(tmp_path):
    """PhysioNet's layout: a change there is a change of the data, and a folder with it is not empty."""
    put(tmp_path / "annotations" / "annotations_train.csv")
    before = data_fingerprint(tmp_path)
    assert before["kind"] == "archive" and list(before["tables"]) == ["annotations/annotations_train.csv"]
    (tmp_path / "annotations" / "annotations_train.csv").write_text("other")
    assert data_fingerprint(tmp_path) != before


COPIES = (
    "02_second-Copy1", "02_second (1)", "02_second copy", "02_second - Kopie", "Copy of 02_second", "._02_second",
    "02_second.nbconvert", "Untitled", "02-second",
)  # fmt: skip


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_of_a_notebook_is_no_step(project, name):
    shutil.copy(project / "notebooks/02_second.ipynb", project / "notebooks" / f"{name}.ipynb")
    assert [notebook.name for notebook in find_notebooks(project / "notebooks")] == ["01_first", "02_second"]
    (project / "notebooks" / f"{name}.ipynb").write_text("half a file")
    assert run(project) == ["01_first", "02_second"]


def test_beside_the_whole_course_no_other_notebook_is_a_step(repository, tmp_path):
    make_handout(tmp_path / "student")
    shutil.copy(tmp_path / "student/03_classify.ipynb", tmp_path / "student/03_classify_old.ipynb")
    (tmp_path / "student/08_scratch.ipynb").write_text(json.dumps({"cells": []}))
    (tmp_path / "student/profiles/._smoke.yaml").write_bytes(b"\x00\x05")
    assert [notebook.name for notebook in find_notebooks(tmp_path / "student")] == list(STEPS)
    make_handout(tmp_path / "again", tmp_path / "student")
    assert not (tmp_path / "again/profiles/._smoke.yaml").exists()
