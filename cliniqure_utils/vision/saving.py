"""A trained model as two files: its weights and the settings that build it."""

import json
from collections.abc import Callable
from pathlib import Path

from torch import nn

from cliniqure_utils.project import require
from cliniqure_utils.runs import atomic_path, write_json


def save_model(model: nn.Module, folder: str | Path, settings: dict) -> None:
    """Write `model.safetensors` and `config.json` into a folder, each atomically."""
    from safetensors.torch import save_file

    with atomic_path(Path(folder) / "model.safetensors") as temporary:
        save_file({key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}, temporary)
    write_json(Path(folder) / "config.json", settings)


def grey_of(folder: str | Path) -> str:
    """The grey scale on which a saved model sees films (`grey.even_grey`): "none" where its config.json has no word."""
    return json.loads((Path(folder) / "config.json").read_text(encoding="utf-8")).get("grey", "none")


def load_model(folder: str | Path, build: Callable[[dict], nn.Module]) -> nn.Module:
    """Read what `save_model` wrote; `build(settings)` makes the module that the weights go into.

    Raises:
        MissingInput: A file is missing; the message names it and the notebook that makes it.
        ValueError: The weights do not fit the settings.
    """
    from safetensors.torch import load

    folder = Path(folder)
    for name in ("config.json", "model.safetensors"):
        require(folder.parent, f"{folder.name}/{name}")
    model = build(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    try:
        model.load_state_dict(load((folder / "model.safetensors").read_bytes()))
    except RuntimeError as error:
        last = str(error).splitlines()[-1].strip()
        raise ValueError(f"{folder.name}/model.safetensors does not fit its config.json: {last}") from error
    return model.eval()
