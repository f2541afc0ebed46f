"""The committed notebooks: clean, readable as they stand, and still true when they run again."""

import base64
import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from cliniqure_utils.course.chain import out_of_date, run_chain
from cliniqure_utils.course.refresh import (
    clean_outputs,
    code_digest,
    fill,
    output_texts,
    private_path,
    refresh,
    shrink_png,
)
from cliniqure_utils.notebooks import find_notebooks
from cliniqure_utils.project import CannotStart
from cliniqure_utils.runs import STEPS
from cliniqure_utils.vocabulary import CLASSES

REQUIRED = {"run_dir": "../outputs/demo", "data_dir": "../data/demo", "seed": 2024, "device": "auto", "n_jobs": -1}
WARNING = re.compile(r"\b\w*Warning:|^WARNING\b|\bdeprecated\b|Traceback \(most recent", re.MULTILINE)


@pytest.fixture(scope="module", params=STEPS)
def committed(request, repository):
    """One committed notebook: (name, content, path)."""
    path = repository / "notebooks" / f"{request.param}.ipynb"
    return request.param, json.loads(path.read_text(encoding="utf-8")), path


def code_cells(content: dict) -> list[dict]:
    return [cell for cell in content["cells"] if cell["cell_type"] == "code"]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def test_all_seven_open_with_the_required_parameters(repository):
    notebooks = find_notebooks(repository / "notebooks")  # refuses anything but one parameters cell of literals
    assert [notebook.name for notebook in notebooks] == list(STEPS)
    for notebook in notebooks:
        assert {name: notebook.defaults.get(name) for name in REQUIRED} == REQUIRED, notebook.name
        for line in notebook.parameters_source.splitlines():
            assert re.fullmatch(r"\w+ = .+  # .+", line), f"{notebook.name}: no comment in: {line}"


def test_it_is_a_lesson_from_title_to_close(committed):
    name, content, _ = committed
    first, second = content["cells"][:2]
    code = [source(cell) for cell in code_cells(content)]
    title = source(first)
    assert re.match(rf"# {int(name[:2])} · \w", title)
    assert "You will" in title and "For teaching only, not for clinical use" in title
    assert second["metadata"].get("tags") == ["parameters"]
    assert f'RunStep(run_dir, "{name}")' in code[1]
    for needed in ("step.write_metrics(", "step.summary()", "my_answer = None", "assert ", "step.save_figure("):
        assert needed in "\n".join(code), needed


def test_it_was_run_in_order_without_error_or_noise(committed):
    _, content, path = committed
    cells = code_cells(content)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert all(output["name"] == "stdout" for output in outputs if output["output_type"] == "stream")
    shown = [output["data"] for output in outputs if "data" in output]
    assert any("image/png" in data for data in shown)
    figures = [data for data in shown if "".join(data.get("text/plain", "")).startswith("<Figure")]
    assert all("image/png" in data for data in figures), "a figure is shown as text"
    for where, text in output_texts(content):
        assert private_path(text) is None, f"{where}: {private_path(text)}"
        assert not WARNING.search(text), f"{where}: {WARNING.search(text)}"
    assert path.stat().st_size < 2_000_000


def test_its_metadata_is_quiet(committed):
    _, content, _ = committed
    assert set(content["metadata"]) <= {"kernelspec", "language_info", "cliniqure"}
    for cell in content["cells"]:
        assert set(cell["metadata"]) <= {"tags"}
        assert set(cell["metadata"].get("tags", [])) <= {"parameters", "nbval-check-output"}


def hooks(repository) -> dict[str, dict]:
    """The pre-commit hooks by id."""
    (group,) = yaml.safe_load((repository / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert group["repo"] == "local"  # nothing is fetched, and the versions are those of constraints.txt
    return {hook["id"]: hook for hook in group["hooks"]}


def strip(repository, *files) -> None:
    """What the nbstripout hook does to files."""
    program, *options = shlex.split(hooks(repository)["nbstripout"]["entry"])
    command = [str(Path(sys.executable).with_name(program)), *options, *map(str, files)]
    subprocess.run(command, check=True, capture_output=True, cwd=repository)


def test_the_hooks_are_those_that_contributing_names(repository):
    found = hooks(repository)
    assert list(found) == ["ruff-format", "ruff-check", "nbstripout"]
    assert {hook["language"] for hook in found.values()} == {"system"}
    options = shlex.split(found["nbstripout"]["entry"])
    # Without --keep-id every cell would be renumbered, and ids are what a review or a merge goes by.
    assert options[1:4] == ["--keep-output", "--keep-count", "--keep-id"] and options[4] == "--extra-keys"
    assert options[5].split() == ["metadata.papermill", "cell.metadata.papermill", "cell.metadata.execution"]
    notebooks = [f"notebooks/{name}.ipynb" for name in STEPS]
    assert all(re.search(found["nbstripout"]["files"], name) for name in notebooks)
    assert "pip install pre-commit && pre-commit install" in (repository / "CONTRIBUTING.md").read_text()


def test_the_stripping_hook_leaves_them_as_they_are(repository, tmp_path):
    paths = [repository / "notebooks" / f"{name}.ipynb" for name in STEPS]
    copies = [Path(shutil.copy(path, tmp_path)) for path in paths]
    strip(repository, *copies)
    noisy = [path.name for path, copy in zip(paths, copies, strict=True) if copy.read_bytes() != path.read_bytes()]
    assert not noisy, "they hold metadata noise"


def test_the_stripping_hook_takes_noise_and_leaves_outputs(repository, tmp_path):
    noisy = notebook(cell("print(1)", [stream("1\n")], 4, ["parameters"]))
    path = tmp_path / "noisy.ipynb"
    path.write_text(json.dumps(noisy))
    strip(repository, path)
    kept = json.loads(path.read_text())
    (only,) = kept["cells"]
    assert "papermill" not in kept["metadata"] and only["metadata"] == {"tags": ["parameters"]}
    assert only["id"] == "a" and only["execution_count"] == 4 and "".join(only["outputs"][0]["text"]) == "1\n"


def test_exact_cells_print_and_show_no_bar(committed):
    _, content, _ = committed
    exact = [cell for cell in code_cells(content) if "nbval-check-output" in cell["metadata"].get("tags", [])]
    assert exact, "no cell is compared when the notebook runs again"
    for cell in exact:
        text = "".join("".join(output.get("text", [])) for output in cell["outputs"])
        assert text.strip(), source(cell)[:80]
        assert not re.search(r"\d+%\||it/s|\d\s?s\b per|seconds", text), text[:200]


def exact_texts(content: dict) -> list[tuple[str, str]]:
    """(source, printed text) of the cells whose text is the same in every run."""
    exact = [cell for cell in code_cells(content) if "nbval-check-output" in cell["metadata"].get("tags", [])]
    printed = [[output for output in cell["outputs"] if output.get("name") == "stdout"] for cell in exact]
    texts = ["".join("".join(output["text"]) for output in outputs) for outputs in printed]
    return list(zip(map(source, exact), texts, strict=True))


# Exact cells, by a line of theirs, whose text says how large the run is: those that parameters alone decide, and those
# that need the demo's films.
SETTINGS = {
    "01_preprocess": '("split", "80 : 20, no test set"',
    "02_detect": '("training boxes", "merged (section 4.1)"',
    "03_classify": '("network", "seresnet50", model_name)',
    "05_finetune_llm": '("base model", "facebook/opt-1.3b", base_model)',
}
DEMO_SIZES = {
    "01_preprocess": 'described = pd.DataFrame({"VinDr-CXR": describe(vindr_rows)',
    "02_detect": 'print(pd.DataFrame({"films": counts, "films without a finding": without})',
}


def has(text: str, lines: dict[str, str], name: str) -> bool:
    return name in lines and lines[name] in text


def test_its_outputs_are_of_its_code(committed):
    name, content, _ = committed
    filled_from = content["metadata"].get("cliniqure", {}).get("outputs_of")
    assert filled_from == code_digest(content), f"the code of {name} has changed since `make run` and `make notebooks`"


@pytest.mark.chain
@pytest.mark.timeout(900)
def test_another_run_prints_the_same_exact_cells(committed, smoke_run):
    """The smoke run shares code and packaged data with the demo, not sizes; cells that name sizes are checked below."""
    name, content, _ = committed
    ran = json.loads((smoke_run.run_dir / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    compared = 0
    for (code, text), (code_run, text_run) in zip(exact_texts(content), exact_texts(ran), strict=True):
        assert code == code_run
        if has(code, SETTINGS, name) or has(code, DEMO_SIZES, name):
            continue
        assert text_run == text, code[:200]
        compared += 1
    assert compared


@pytest.mark.parametrize("name", SETTINGS)
def test_a_cell_of_settings_shows_the_defaults(repository, name):
    content = json.loads((repository / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    ((code, text),) = [found for found in exact_texts(content) if has(found[0], SETTINGS, name)]
    names = {"pd": pd, "Path": Path, "classes": list(CLASSES)}
    exec(source(code_cells(content)[0]), names)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, names)
    assert printed.getvalue() == text


def test_a_demo_run_that_is_here_prints_the_same_exact_cells(committed, repository):
    name, content, _ = committed
    demo = repository / "outputs" / "demo"
    if not (demo / "run.json").is_file() or out_of_date(demo, repository / "notebooks"):
        pytest.skip("outputs/demo is no finished run of this code: `make run` makes one")
    ran = json.loads((demo / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert exact_texts(ran) == exact_texts(content)


# Filling notebooks with a run's outputs


def cell(text: str, outputs=(), count=None, tags=()) -> dict:
    return {
        "cell_type": "code", "id": "a", "source": text, "execution_count": count, "outputs": list(outputs),
        "metadata": {"tags": list(tags), "papermill": {"duration": 1.0}, "execution": {"iopub.status.busy": "now"}},
    }  # fmt: skip


def stream(text: str, name="stdout") -> dict:
    return {"output_type": "stream", "name": name, "text": text}


def notebook(*cells: dict) -> dict:
    meta = {"papermill": {"input_path": "/x"}, "widgets": {"state": {}}, "language_info": {"name": "python"}}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": meta, "cells": list(cells)}


BAR = {
    "output_type": "display_data", "metadata": {},
    "data": {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "0%|  |"},
}  # fmt: skip


def test_filling_takes_outputs_and_leaves_noise_behind():
    result = {"output_type": "execute_result", "execution_count": 9, "metadata": {"x": 1}, "data": {"text/plain": "3"}}
    ran = notebook(
        cell("a = 1", [], 4, ["parameters"]),
        cell("show()", [stream("one\n"), stream("careful", "stderr"), BAR, stream("two\nthree"), result], 9),
    )
    filled = fill(notebook(cell("a = 1", tags=["parameters"]), cell("show()")), ran, "01_x")
    first, second = filled["cells"]
    assert (first["execution_count"], second["execution_count"]) == (1, 2)
    assert second["outputs"][0] == {"output_type": "stream", "name": "stdout", "text": ["one\n", "two\n", "three"]}
    assert second["outputs"][1] == {
        "output_type": "execute_result", "execution_count": 2, "metadata": {}, "data": {"text/plain": "3"},
    }  # fmt: skip
    assert len(second["outputs"]) == 2
    assert first["metadata"] == {"tags": ["parameters"]} and second["metadata"] == {}
    assert set(filled["metadata"]) == {"kernelspec", "language_info", "cliniqure"}
    assert filled["metadata"]["cliniqure"] == {"outputs_of": code_digest(filled)}
    second["source"] = "show( )"
    assert filled["metadata"]["cliniqure"] != {"outputs_of": code_digest(filled)}


@pytest.mark.parametrize(
    "cells, message",
    [
        ([cell("a = 1", count=1), cell("seed = 2", count=2, tags=["injected-parameters"])], "with other parameters"),
        ([cell("a = 2", count=1)], "has changed since it was run"),
        ([cell("a = 1")], "was not run to its end: code cell 1"),
        (
            [cell("a = 1", [{"output_type": "error", "ename": "ValueError"}], 1)],
            "code cell 1 holds an error: ValueError",
        ),
        (
            [cell("a = 1", [stream(f"saved to {os.path.expanduser('~')}/x")], 1)],
            "code cell 1: an output names a folder",
        ),
        (
            [cell("a = 1", [stream("read /home/someone/films")], 1)],
            "names a folder of this machine: /home/someone/films",
        ),
    ],
)
def test_filling_refuses(cells, message):
    with pytest.raises(CannotStart, match=re.escape(message)):
        fill(notebook(cell("a = 1")), notebook(*cells), "01_x")


REFRESH_CELL = """from pathlib import Path
folder = Path(run_dir) / "{name}"
folder.mkdir(parents=True, exist_ok=True)
(folder / "{name}.txt").write_text("made")
print("hello from {name}")"""


@pytest.fixture
def toy(tmp_path):
    """Two small notebooks, run by the chain: (notebooks folder, run folder)."""
    (tmp_path / "notebooks").mkdir()
    for name in ("01_a", "02_b"):
        content = notebook(
            cell('run_dir = "../outputs/demo"', tags=["parameters"]), cell(REFRESH_CELL.format(name=name))
        )
        content["metadata"] = {}
        content["cells"][1]["id"] = "b"
        (tmp_path / "notebooks" / f"{name}.ipynb").write_text(json.dumps(content))
    run_chain(notebooks_dir=tmp_path / "notebooks", echo=lambda line: None)
    return tmp_path / "notebooks", tmp_path / "outputs" / "demo"


def test_refresh_fills_every_notebook(toy):
    notebooks, run = toy
    assert len(refresh(run, notebooks)) == 2
    for name in ("01_a", "02_b"):
        filled = json.loads((notebooks / f"{name}.ipynb").read_text())["cells"]
        assert [found["execution_count"] for found in filled] == [1, 2]
        assert filled[1]["outputs"][0]["text"] == [f"hello from {name}\n"]
    assert len(refresh(run, notebooks)) == 2  # outputs in the committed notebooks are no change of theirs


def edit_copy(notebooks, run):
    path = run / "notebooks" / "02_b.ipynb"
    path.write_text(path.read_text().replace("hello from 02_b\\n", "hello from nowhere\\n"))


def edit_output(notebooks, run):
    (run / "02_b" / "02_b.txt").write_text("made by hand")


def edit_source(notebooks, run):
    """The notebook and its executed copy changed alike, so that their sources still agree."""
    for folder in (notebooks, run / "notebooks"):
        path = folder / "02_b.ipynb"
        path.write_text(path.read_text().replace("hello from", "greetings from"))


def remove_copy(notebooks, run):
    (run / "notebooks" / "02_b.ipynb").unlink()


def forget_run(notebooks, run):
    (run / "run.json").unlink()


@pytest.mark.parametrize(
    "spoil, message",
    [
        (edit_copy, "02_b in demo is not up to date (its executed copy was changed after the run)"),
        (edit_output, "02_b in demo is not up to date (its output 02_b.txt was changed)"),
        (edit_source, "02_b in demo is not up to date (changed: its code)"),
        (remove_copy, "02_b in demo is not up to date (its executed copy is gone)"),
        (forget_run, "01_a in demo is not up to date (not run before)"),
    ],
)
def test_refresh_takes_one_whole_untouched_run_or_nothing(toy, spoil, message):
    notebooks, run = toy
    before = (notebooks / "01_a.ipynb").read_text()
    content = (run / "notebooks" / "02_b.ipynb").read_text()
    spoil(notebooks, run)
    if spoil is edit_copy:
        assert (run / "notebooks" / "02_b.ipynb").read_text() != content  # the edit did happen
    with pytest.raises(CannotStart, match=re.escape(message)):
        refresh(run, notebooks)
    assert (notebooks / "01_a.ipynb").read_text() == before


def png_of(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def test_large_pictures_are_squeezed_until_the_notebook_fits():
    noise = np.random.default_rng(0).integers(0, 256, (900, 900, 1), np.uint8).repeat(3, axis=2)
    picture = base64.b64encode(png_of(noise)).decode()
    shown = {"output_type": "display_data", "metadata": {}, "data": {"image/png": picture}}
    before = notebook(cell("a = 1", [shown, shown], 1))
    assert len(json.dumps(before)) > 1_600_000
    filled = fill(notebook(cell("a = 1")), before, "01_x")
    assert len(json.dumps(filled)) <= 1_500_000
    small = Image.open(io.BytesIO(base64.b64decode(filled["cells"][0]["outputs"][0]["data"]["image/png"])))
    assert small.size[0] >= 450
    text = {"output_type": "stream", "name": "stdout", "text": "x" * 1_600_000}
    with pytest.raises(CannotStart, match="1.6 MB of outputs"):
        fill(notebook(cell("a = 1")), notebook(cell("a = 1", [text], 1)), "01_x")


def test_a_smaller_palette_keeps_greys():
    ramp = np.tile(np.arange(256, dtype=np.uint8), (64, 1))
    rgba = np.dstack([ramp, ramp, ramp, np.full_like(ramp, 255)])
    again = np.asarray(Image.open(io.BytesIO(shrink_png(png_of(rgba), colours=256))).convert("RGB"))
    assert np.abs(again.astype(int) - ramp[..., None]).max() <= 2
    assert shrink_png(png_of(rgba), colours=16, scale=0.5) != png_of(rgba)


def test_a_private_path_is_seen_and_a_public_one_is_not():
    for text in ("/home/someone/x", "at /tmp/abc.csv", r"C:\Users\me", sys.prefix + "/lib", "/Users/me/films"):
        assert private_path(text), text
    for text in ("outputs/demo/01_preprocess", "1/2", "</tmp>", "and/or", "../data/demo", "https://x.org/home/page"):
        assert private_path(text) is None, text


def test_outputs_keep_html_and_pictures():
    shown = {
        "output_type": "display_data", "metadata": {"image/png": {"width": 3}},
        "data": {"text/html": ["<b>", "x</b>"], "image/png": "abc"},
    }  # fmt: skip
    (kept,) = clean_outputs([shown], 1, "01_x")
    assert kept["data"] == {"text/html": "<b>x</b>", "image/png": "abc"} and kept["metadata"] == {}
