"""Weights of our own in `data/pretrained`, the laptop's stand-ins for ImageNet and MIMIC-CXR.

`cliniqure pretrain` makes them from simulated patients that are in no cohort; `data/pretrained/card.md` says how and
what they are worth. A file that is missing or damaged is one sentence; the notebooks then start from random weights.
"""

import hashlib
import json
from pathlib import Path

from cliniqure_utils.project import REPOSITORY, MissingWeights
from cliniqure_utils.runs import atomic_path, write_json

FOLDER = REPOSITORY / "data" / "pretrained"
PARTS = ("eyes", "detector", "report", "writer")


def load_part(part: str, folder: Path = FOLDER) -> dict:
    """Read one part.

    Args:
        part: "eyes" (the state of a `vision.classification.HeatmapClassifier`), "detector" (of a
            `vision.detection.Detector` with neck "topdown"), "report" (of a `cmn.R2GenCMN`), "writer" (LoRA matrices by
            peft's names, `writer.lora.pretrained_writer`).
        folder: Where the parts lie.

    Returns:
        Names -> float32 tensors.

    Raises:
        MissingWeights: The file is missing, or is not the one that pretrained.json lists.
    """
    from safetensors.torch import load

    path = folder / f"{part}.safetensors"
    listed = settings_of(part, folder)
    if not path.is_file():
        raise MissingWeights(
            f"pretrained weights {path.name} are missing (expected in {path.parent.name}; git has them)"
        )
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != listed["sha256"]:
        raise MissingWeights(
            f"pretrained weights {path.name} are damaged: their sha256 is not the one in pretrained.json"
        )
    return {name: value.float() if value.is_floating_point() else value for name, value in load(content).items()}


def settings_of(part: str, folder: Path = FOLDER) -> dict:
    """What pretrained.json records about a part: sha256, size of the films in pixels, grey scale, films, epochs, seed.

    Raises:
        MissingWeights: It records nothing.
    """
    try:
        return json.loads((folder / "pretrained.json").read_text(encoding="utf-8"))[part]
    except (FileNotFoundError, KeyError, json.JSONDecodeError) as error:
        raise MissingWeights(f"pretrained weights {part} are missing: pretrained.json does not list them") from error


def identities(folder: Path = FOLDER) -> dict[str, str]:
    """sha256 of the files of the parts that are there: which weights a run would start from."""
    paths = {part: folder / f"{part}.safetensors" for part in PARTS}
    return {part: hashlib.sha256(path.read_bytes()).hexdigest() for part, path in paths.items() if path.is_file()}


def save_part(part: str, state: dict, settings: dict, folder: Path = FOLDER) -> None:
    """Write one part and enter it in pretrained.json with `settings`; matrices and kernels in half precision."""
    from safetensors.torch import save

    half = {
        name: value.half() if value.is_floating_point() and value.ndim > 1 else value for name, value in state.items()
    }
    content = save({name: value.detach().cpu().contiguous() for name, value in half.items()})
    with atomic_path(folder / f"{part}.safetensors") as temporary:
        Path(temporary).write_bytes(content)
    listed = folder / "pretrained.json"
    known = json.loads(listed.read_text(encoding="utf-8")) if listed.is_file() else {}
    write_json(listed, known | {part: settings | {"sha256": hashlib.sha256(content).hexdigest()}})
