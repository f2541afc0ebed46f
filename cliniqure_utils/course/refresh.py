"""The committed notebooks: filling them with a run's outputs, and the rules that they keep.

Committed notebooks carry the outputs of the demo profile, so that they read well where code is hosted: no progress
bars, no warnings, no widget state, no timing metadata, no path of a machine, small pictures, counts from 1 to n.
"""

import base64
import copy
import hashlib
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cliniqure_utils.course.chain import out_of_date
from cliniqure_utils.notebooks import cell_source, find_notebooks
from cliniqure_utils.project import REPOSITORY, CannotStart
from cliniqure_utils.runs import write_text

TARGET_BYTES = 1_500_000  # a notebook is squeezed to this size; hosting sites stop rendering somewhat above it
LARGE_PICTURE = 60_000  # bytes of PNG from which squeezing is worth it
WIDGET = "application/vnd.jupyter.widget-view+json"
KERNEL = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
PRIVATE = re.compile(r"(?<![\w.<])/(?:home|Users|root|tmp|private/var)/[^\s'\"<>]+|\b[A-Z]:\\Users\\")


def refresh(run_dir: str | Path, notebooks_dir: str | Path = REPOSITORY / "notebooks") -> list[str]:
    """Put the outputs of a finished run into the notebooks it ran. All are checked before any is written.

    Args:
        run_dir: A run with the default parameters; its executed copies are in `run_dir/notebooks`.
        notebooks_dir: The notebooks to fill, in place.

    Returns:
        One line per notebook.

    Raises:
        CannotStart: A copy is missing, is of another version of the notebook, was run with other parameters, holds an
            error, or its outputs name a folder of this machine; or the folder is not one whole run: a notebook, the
            package or an input has changed since, or a copy or an output was replaced by hand.
    """
    for name, why in out_of_date(run_dir, notebooks_dir).items():
        raise CannotStart(
            f"{name} in {Path(run_dir).name} is not up to date ({why}): run the chain again, then refresh"
        )
    filled = []
    for notebook in find_notebooks(notebooks_dir):
        executed = Path(run_dir) / "notebooks" / notebook.path.name
        if not executed.is_file():
            raise CannotStart(f"{notebook.name} was not run: {executed.name} is missing in the run folder's notebooks")
        result = fill(_read(notebook.path), _read(executed), notebook.name)
        content = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
        filled.append((notebook, content))
    for notebook, content in filled:
        write_text(notebook.path, content)
    return [f"{notebook.name}: {len(content.encode()) / 1e6:.2f} MB" for notebook, content in filled]


def fill(committed: dict, executed: dict, name: str) -> dict:
    """A copy of the committed notebook with the executed one's outputs, cleaned, at most `TARGET_BYTES`."""
    result = copy.deepcopy(committed)
    cells = [cell for cell in result["cells"] if cell["cell_type"] == "code"]
    ran = [cell for cell in executed["cells"] if cell["cell_type"] == "code"]
    if any("injected-parameters" in cell["metadata"].get("tags", []) for cell in ran):
        raise CannotStart(f"{name} was run with other parameters than its defaults")
    if [cell_source(cell) for cell in cells] != [cell_source(cell) for cell in ran]:
        raise CannotStart(f"{name} has changed since it was run")
    for number, (cell, source) in enumerate(zip(cells, ran, strict=True), start=1):
        if source.get("execution_count") is None:
            raise CannotStart(f"{name} was not run to its end: code cell {number} has no count")
        cell["execution_count"] = number
        cell["outputs"] = clean_outputs(source["outputs"], number, name)
    for cell in result["cells"]:
        tags = cell["metadata"].get("tags")
        cell["metadata"] = {"tags": tags} if tags else {}
        if cell["cell_type"] != "code":
            cell.pop("attachments", None)
    result["metadata"] = copy.deepcopy(KERNEL) | {"cliniqure": {"outputs_of": code_digest(result)}}
    for where, text in output_texts(result):
        found = private_path(text)
        if found:
            raise CannotStart(f"{name}, {where}: an output names a folder of this machine: {found}")
    _squeeze(result, name)
    return result


def code_digest(notebook: dict) -> str:
    """sha256 of a notebook's code cells; beside its outputs it tells whether they are still those of its code."""
    code = [cell_source(cell) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()


def clean_outputs(outputs: list[dict], count: int, name: str) -> list[dict]:
    """Outputs without stderr, widgets and metadata; neighbouring pieces of printed text joined."""
    kept: list[dict] = []
    for output in outputs:
        kind = output["output_type"]
        if kind == "error":
            raise CannotStart(f"{name}: code cell {count} holds an error: {output['ename']}")
        if kind == "stream":
            if output["name"] == "stderr":
                continue
            text = _text(output["text"])
            if kept and kept[-1]["output_type"] == "stream":
                kept[-1]["text"] += text
            else:
                kept.append({"output_type": "stream", "name": "stdout", "text": text})
        elif WIDGET not in output["data"]:
            data = {mime: _text(value) if isinstance(value, list) else value for mime, value in output["data"].items()}
            cleaned = {"output_type": kind, "data": data, "metadata": {}}
            if kind == "execute_result":
                cleaned["execution_count"] = count
            kept.append(cleaned)
    for output in kept:
        if output["output_type"] == "stream":
            output["text"] = output["text"].splitlines(keepends=True)
    return kept


def output_texts(notebook: dict) -> Iterator[tuple[str, str]]:
    """(where, text) of every printed or displayed text; pictures are left out."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, start=1):
        for output in cell["outputs"]:
            if output["output_type"] == "stream":
                yield f"code cell {number}", _text(output["text"])
            for mime, value in output.get("data", {}).items():
                if not mime.startswith("image/") or mime == "image/svg+xml":
                    yield f"code cell {number}", value if isinstance(value, str) else json.dumps(value)
            if output["output_type"] == "error":
                yield f"code cell {number}", "\n".join([output["ename"], output["evalue"], *output["traceback"]])


def private_path(text: str) -> str | None:
    """The first path in a text that belongs to this machine or to a person's folder, if there is one."""
    here = {str(REPOSITORY), os.path.expanduser("~"), tempfile.gettempdir(), sys.prefix} - {"/", "~"}
    for place in sorted(here, key=len, reverse=True):
        if re.search(rf"(?<![\w.<]){re.escape(place)}(?![\w.-])", text):
            return place
    found = PRIVATE.search(text)
    return found.group() if found else None


def _squeeze(notebook: dict, name: str) -> None:
    """Make the large PNG pictures smaller, step by step, until the notebook fits."""
    steps = ({}, {"colours": 256}, {"colours": 96}, {"colours": 96, "scale": 0.75}, {"colours": 48, "scale": 0.5})
    originals = {}
    for i, cell in enumerate(notebook["cells"]):
        for j, output in enumerate(cell.get("outputs", ())):
            if "image/png" in output.get("data", {}):
                originals[i, j] = base64.b64decode(output["data"]["image/png"])
    for step in steps:
        size = len(json.dumps(notebook, indent=1, ensure_ascii=False).encode())
        if size <= TARGET_BYTES:
            return
        for (i, j), png in originals.items():
            if len(png) >= LARGE_PICTURE:
                smaller = min(shrink_png(png, **step), png, key=len)
                notebook["cells"][i]["outputs"][j]["data"]["image/png"] = base64.b64encode(smaller).decode() + "\n"
    size = len(json.dumps(notebook, indent=1, ensure_ascii=False).encode())
    if size > TARGET_BYTES:
        raise CannotStart(f"{name} has {size / 1e6:.1f} MB of outputs; expected at most {TARGET_BYTES / 1e6} MB")


def shrink_png(png: bytes, colours: int | None = None, scale: float = 1.0) -> bytes:
    """Write a PNG again, with better compression and, when asked, a palette and fewer pixels."""
    from PIL import Image

    picture = Image.open(io.BytesIO(png))
    if scale != 1:
        picture = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.LANCZOS)
    if colours:
        background = Image.new("RGB", picture.size, "white")
        background.paste(picture, mask=picture.getchannel("A") if picture.mode == "RGBA" else None)
        picture = background.quantize(colours, dither=Image.Dither.NONE)
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _text(value: str | list[str]) -> str:
    return value if isinstance(value, str) else "".join(value)
