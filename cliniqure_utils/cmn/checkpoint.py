"""Loading and saving weights: the published .pth checkpoints, and our own folder of three files.

A .pth from outside is opened with weights_only=True, so that it can hold numbers and nothing that runs.
"""

import json
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import torch

from cliniqure_utils import pretrained
from cliniqure_utils.cmn.config import DATASETS, CMNConfig
from cliniqure_utils.cmn.model import R2GenCMN
from cliniqure_utils.cmn.tokenizer import Tokenizer
from cliniqure_utils.project import MissingInput
from cliniqure_utils.runs import atomic_path, write_json

# Published name -> ours, applied in this order to the start and the middle of a key.
_RENAMES = (
    (r"^encoder_decoder\.memory_matrix$", "memory.slots"),
    (r"^encoder_decoder\.att_embed\.0\.", "patch_embedding."),
    (r"^encoder_decoder\.logit\.", "output."),
    (r"^encoder_decoder\.(?:model\.)?cmn\.", "memory."),
    (r"^encoder_decoder\.model\.tgt_embed\.0\.lut\.", "word_embedding."),
    (r"^encoder_decoder\.model\.(?:src_embed\.0|tgt_embed\.1)\.pe$", "positions"),
    (r"^encoder_decoder\.model\.(encoder|decoder)\.layers\.", r"\1."),
    (r"^encoder_decoder\.model\.(encoder|decoder)\.norm\.", r"\1_norm."),
    (r"\.self_attn\.", ".attention."),
    (r"\.src_attn\.", ".cross_attention."),
    (r"\.sublayer\.(\d+)\.norm\.", r".norms.\1."),
    (r"\.feed_forward\.w_1\.", ".feed_forward.inner."),
    (r"\.feed_forward\.w_2\.", ".feed_forward.outer."),
    (r"\.linears\.0\.", ".query."),
    (r"\.linears\.1\.", ".key."),
    (r"\.linears\.2\.", ".value."),
    (r"\.linears\.3\.", ".output."),
    (r"norm(s\.\d+)?\.a_2$", r"norm\1.scale"),
    (r"norm(s\.\d+)?\.b_2$", r"norm\1.shift"),
)

# A checkpoint whose trainer kept its best score as a numpy number needs these to open; they build numbers only.
_NUMPY_NUMBERS = [
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    np._core.multiarray.scalar,
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),  # its name before numpy 2
]


class BadCheckpoint(ValueError):
    """A checkpoint cannot be used; the message is one sentence that says why."""


def load_r2gencmn(
    checkpoint: str | Path,
    vocabulary: str | Path,
    dataset: str = "mimic_cxr",
    visual_extractor: str | torch.nn.Module = "resnet101",
    d_vf: int = 2048,
    d_model: int = 512,
    d_ff: int = 512,
    num_heads: int = 8,
    num_layers: int = 3,
    topk: int = 32,
    cmm_size: int = 2048,
    cmm_dim: int = 512,
    threshold: int | None = None,
    max_length: int | None = None,
    adaptive_pooling: bool = False,
) -> R2GenCMN:
    """Load a checkpoint of the public R2GenCMN code, strictly.

    Args:
        checkpoint: .pth file, legacy or zip container: the trainer's wrapper, or a bare state dict.
        vocabulary: Path of the reference project's annotation.json, or of our vocabulary.json.
        dataset: "mimic_cxr" or "iu_xray" (two views): which cleaner, and the defaults of `threshold` and `max_length`.
        visual_extractor: A torchvision ResNet's name, "tiny", "eyes", or a module (n, 3, 224, 224) -> (n, d_vf, 7, 7).
        d_vf ... cmm_dim: Sizes; the defaults are the published ones.
        threshold: Occurrences a training word needs; None: MIMIC-CXR 10, IU X-Ray 3.
        max_length: Most words of a report; None: 100 and 60.
        adaptive_pooling: Accept images of other sizes than 224 x 224.

    Returns:
        The model in eval mode, on the CPU.

    Raises:
        FileNotFoundError: A file is missing.
        BadCheckpoint: The file is damaged, holds code, is of another architecture or sizes, or does not fit the
            vocabulary.
    """
    checkpoint = Path(checkpoint)
    tokenizer = Tokenizer.from_file(vocabulary, dataset, threshold)
    state = _read_state(checkpoint)
    _check_vocabulary(state, tokenizer, checkpoint, Path(vocabulary), dataset, threshold)
    named = isinstance(visual_extractor, str)
    config = CMNConfig(
        dataset=dataset, visual_extractor=visual_extractor if named else "custom", d_vf=d_vf, d_model=d_model,
        d_ff=d_ff, num_heads=num_heads, num_layers=num_layers, topk=topk, cmm_size=cmm_size, cmm_dim=cmm_dim,
        max_length=DATASETS[dataset].max_length if max_length is None else max_length,
        adaptive_pooling=adaptive_pooling,
    )  # fmt: skip
    model = R2GenCMN(tokenizer, config, None if named else visual_extractor)
    load_official_state(model, state, checkpoint.name)
    return model.eval()


def load_official_state(model: R2GenCMN, state: dict[str, torch.Tensor], source: str = "the state dict") -> None:
    """Put a state dict with the published names into `model`; every key must fit, and none may be missing.

    Raises:
        BadCheckpoint: Naming `source` and the first key that does not fit.
    """
    renamed: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        name = _our_name(key)
        if name == "positions":
            value = value.reshape(-1, value.shape[-1])
        if name in renamed and not torch.equal(renamed[name], value):
            raise BadCheckpoint(f"{source}: {key} differs from its twin, and the two must be the same tensor")
        renamed[name] = value
    wanted = {**model.state_dict(), "positions": model.positions}
    trunk = f"{model.config.visual_extractor}, d_model {model.config.d_model}, {model.config.num_layers} layers"
    for name in (*wanted, *renamed):
        if name not in renamed:
            problem = f"it has no tensor for {name}"
        elif name not in wanted:
            problem = f"its tensor {next(k for k in state if _our_name(k) == name)} has no place there"
        elif renamed[name].shape != wanted[name].shape:
            problem = f"{name} has shape {tuple(renamed[name].shape)}, expected {tuple(wanted[name].shape)}"
        else:
            continue
        raise BadCheckpoint(f"{source} is not an R2GenCMN of the given sizes ({trunk}): {problem}")
    model.positions.copy_(renamed.pop("positions"))
    model.load_state_dict(renamed)


def _our_name(key: str) -> str:
    for pattern, replacement in _RENAMES:
        key = re.sub(pattern, replacement, key)
    return key


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in a .pth, without "module." in front of its names."""
    if not path.is_file():
        raise FileNotFoundError(
            f"checkpoint {path.name} does not exist: the R2GenCMN authors give theirs on request with MIMIC-CXR access"
        )
    try:
        with torch.serialization.safe_globals(_NUMPY_NUMBERS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if found := re.search(r"\bGLOBAL (\S+)", str(error)):
            raise BadCheckpoint(
                f"{path.name} holds more than numbers ({found[1]}), which could run code when opened; it is refused"
            ) from error
        raise BadCheckpoint(f"{path.name} is damaged, cut short, or no plain PyTorch checkpoint") from error
    except (RuntimeError, EOFError, KeyError, ValueError, OSError, IndexError, zipfile.BadZipFile) as error:
        raise BadCheckpoint(f"{path.name} is damaged, cut short, or no plain PyTorch checkpoint") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not state or not all(torch.is_tensor(value) for value in state.values()):
        raise BadCheckpoint(f"{path.name} opens, but holds no state dict of tensors")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def _check_vocabulary(state, tokenizer, checkpoint, vocabulary, dataset, threshold) -> None:
    rows = state.get("encoder_decoder.logit.weight")
    if rows is None:
        kind = "R2Gen (its predecessor)" if any(".rm." in key for key in state) else "another model"
        raise BadCheckpoint(f"{checkpoint.name} has no encoder_decoder.logit.weight: it looks like {kind}")
    trained = len(rows) - 1
    if trained != len(tokenizer):
        other = "iu_xray" if dataset == "mimic_cxr" else "mimic_cxr"
        least = DATASETS[dataset].threshold if threshold is None else threshold
        raise BadCheckpoint(
            f"{checkpoint.name} was trained with {trained} words, but {vocabulary.name} gives {len(tokenizer)} "
            f"(dataset {dataset}, threshold {least}): most likely the settings or the file of {other} are needed"
        )


def load_pretrained(folder: Path = pretrained.FOLDER) -> R2GenCMN:
    """Load our own report model, the laptop's stand-in for the checkpoint of MIMIC-CXR.

    `pretraining.report` makes it; pretrained.json beside it holds its sizes ("config") and its words.

    Returns:
        The model in eval mode, on the CPU.

    Raises:
        MissingWeights: The file is missing or damaged.
    """
    state, settings = pretrained.load_part("report", folder), pretrained.settings_of("report", folder)
    model = R2GenCMN(Tokenizer(settings["words"].split()), CMNConfig(**settings["config"]))
    model.load_state_dict(state)
    return model.eval()


def save(model: R2GenCMN, folder: str | Path) -> None:
    """Write model.safetensors, vocabulary.json and config.json into `folder`; `load` reads them."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / "model.safetensors") as temporary:
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, temporary)
    model.tokenizer.save(folder / "vocabulary.json")
    write_json(folder / "config.json", model.config.to_dict())


def load(folder: str | Path, visual_extractor: torch.nn.Module | None = None) -> R2GenCMN:
    """Load what `save` wrote.

    Args:
        folder: Holds model.safetensors, vocabulary.json and config.json.
        visual_extractor: The module, when the model was built with one of the caller's own.

    Returns:
        The model in eval mode, on the CPU.

    Raises:
        MissingInput: One of the three files is missing.
        BadCheckpoint: They do not fit each other.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as load_tensors

    folder = Path(folder)
    for name in ("model.safetensors", "vocabulary.json", "config.json"):
        if not (folder / name).is_file():
            raise MissingInput(f"{folder.name}/{name} is missing: run notebooks/04_crude_report.ipynb first")
    try:
        config = CMNConfig(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise BadCheckpoint(f"{folder.name}/config.json does not describe a report model ({error})") from error
    if config.visual_extractor == "custom" and visual_extractor is None:
        raise BadCheckpoint(f"{folder.name} was made with a visual extractor of the caller's own; pass it in")
    model = R2GenCMN(Tokenizer.from_file(folder / "vocabulary.json"), config, visual_extractor)
    try:
        model.load_state_dict(load_tensors((folder / "model.safetensors").read_bytes()))
    except (RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise BadCheckpoint(f"{folder.name}/model.safetensors does not fit its config.json ({reason})") from error
    return model.eval()
