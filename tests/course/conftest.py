"""For tests of what surrounds notebooks: their cells run in this process, in milliseconds, instead of in a kernel."""

import contextlib
import io
import json
import shutil
import sys
from pathlib import Path

import pytest

from cliniqure_utils.course.chain import runner
from cliniqure_utils.course.grade import recompute

sys.path.insert(0, str(Path(__file__).parent))  # small_course.py


def execute_here(
    notebook, output_path, parameters, on_kernel=lambda pid: None, stopping=None, cell_seconds=None
) -> float:
    """Stands for `chain.execute.execute` where no cell raises: the same files, an executed copy of the same form."""
    content = json.loads(notebook.path.read_text(encoding="utf-8"))
    names, cells = {}, []
    with contextlib.chdir(notebook.path.parent):
        for cell in content["cells"]:
            source = "".join(cell["source"])
            cells.append(cell)
            if cell["cell_type"] == "code":
                run_cell(cell, source, names)
            if "parameters" in cell["metadata"].get("tags", ()) and parameters:
                source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
                cells.append({"cell_type": "code", "source": source, "metadata": {"tags": ["injected-parameters"]}})
                run_cell(cells[-1], source, names)
    for number, cell in enumerate((cell for cell in cells if cell["cell_type"] == "code"), start=1):
        cell["execution_count"] = number
    output_path.parent.mkdir(parents=True, exist_ok=True)
    output_path.write_text(json.dumps(content | {"cells": cells}, indent=1), encoding="utf-8")
    return 30.0


def run_cell(cell: dict, source: str, names: dict) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(source, names)
    text = printed.getvalue()
    cell["outputs"] = (
        [{"output_type": "stream", "name": "stdout", "text": text.splitlines(keepends=True)}] if text else []
    )


@pytest.fixture(scope="session")
def in_this_process():
    """A context in which every notebook that the chain or the grader runs, runs in this process."""

    @contextlib.contextmanager
    def patched():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runner, "execute", execute_here)
            patch.setattr(recompute, "execute", execute_here)
            yield

    return patched


@pytest.fixture(autouse=True)
def kernels_for_chain_tests_only(request, in_this_process):
    """A test that is not marked `chain` starts no kernel."""
    with contextlib.nullcontext() if request.node.get_closest_marker("chain") else in_this_process():
        yield


@pytest.fixture(scope="session")
def course(tmp_path_factory, in_this_process):
    """(the small course's notebooks, a package, a student's run of them)."""
    from small_course import make_course

    with in_this_process():
        return make_course(tmp_path_factory.mktemp("project"))


@pytest.fixture
def run_folder(course, tmp_path):
    """A copy of the student's run, handed in under another name."""
    return Path(shutil.copytree(course[2], tmp_path / "smith"))
