"""Which checkpoint a training may go on from: a whole one, of the same plan, model and data."""

import dataclasses
import functools
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import CodeType

import numpy as np
import torch
from accelerate import PartialState
from torch import nn
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from cliniqure_utils.runs import write_json
from cliniqure_utils.training.callbacks import AveragedWeights
from cliniqure_utils.training.plan import Plan

COMPLETE = "complete.json"  # last file of a checkpoint; one without it was being written when the run was killed
PLAIN = (str, int, float, bool, bytes, type(None))


class MarkWhole(TrainerCallback):
    """Puts the averaged weights into a checkpoint, and a mark when every process has written its part."""

    def __init__(self, average: AveragedWeights | None):
        self.average = average

    def on_save(self, args, state, control, **kwargs):
        PartialState().wait_for_everyone()  # the random states of other processes belong to it too
        if args.should_save:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if self.average:
                self.average.save(folder)
            write_json(folder / COMPLETE, {"step": state.global_step})


def usable_checkpoint(output_dir: Path, fingerprint: dict | None) -> str | None:
    """The last whole checkpoint if it has the same fingerprint; anything else in the folder is cleared.

    Args:
        output_dir: Folder of the checkpoints.
        fingerprint: Made by `fingerprint`. None matches no checkpoint.
    """
    mark = output_dir / "fingerprint.json"
    if fingerprint is not None and mark.is_file() and json.loads(mark.read_text(encoding="utf-8")) == fingerprint:
        for folder in output_dir.glob("checkpoint-*"):
            if not (folder / COMPLETE).is_file():
                shutil.rmtree(folder)
        return get_last_checkpoint(str(output_dir))
    shutil.rmtree(output_dir, ignore_errors=True)
    if fingerprint is not None:
        write_json(mark, fingerprint)
    return None


def fingerprint(
    plan: Plan, model: nn.Module, of_data: str, optimizer: torch.optim.Optimizer, collate: Callable | None,
    n_processes: int,
) -> dict:  # fmt: skip
    """What must be the same for a checkpoint to be resumed.

    Args:
        plan, model, collate: As in `training.fit`.
        of_data: Made by `data_fingerprint`.
        optimizer: Made by the plan. It says which parameters are trained, in which group, with which options.
        n_processes: Processes that share each step.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = [{**group, "params": [names[p] for p in group["params"]]} for group in optimizer.param_groups]
    fields = {field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)}
    return {
        **{name: value if isinstance(value, PLAIN) else content_hash(value) for name, value in fields.items()},
        "groups": content_hash(groups),
        "data": of_data,
        "collate": collate and content_hash(_as_data(collate)),
        "processes": n_processes,
        "weights": content_hash({name: list(value.shape) for name, value in model.state_dict().items()}),
        "modules": content_hash([_settings(module) for module in model.modules()]),
    }


def data_fingerprint(data) -> str | None:
    """A text that identifies training data: their own `fingerprint()`, or a hash of a list's content; else None."""
    if hasattr(data, "fingerprint"):
        return data.fingerprint()
    return content_hash(data) if isinstance(data, list) else None


def content_hash(value) -> str | None:
    """sha256 of a value's content; None where a part of it is not a number, text, array or collection of them."""
    digest = hashlib.sha256()
    try:
        _add(value, digest)
    except TypeError:
        return None
    return digest.hexdigest()


def _add(value, digest) -> None:
    if isinstance(value, torch.Tensor):
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, (np.ndarray, np.generic)) and not value.dtype.hasobject:
        digest.update(f"{value.dtype} {value.shape}".encode() + value.tobytes())
    elif isinstance(value, PLAIN):
        digest.update(repr(value).encode() + b",")
    elif isinstance(value, Mapping):
        digest.update(f"{len(value)} names".encode())
        for name, part in value.items():
            _add(name, digest)
            _add(part, digest)
    elif isinstance(value, (list, tuple)):
        if all(type(part) in PLAIN for part in value):  # token numbers: one piece of text is fast
            digest.update(repr(list(value)).encode())
        else:
            digest.update(f"{len(value)} parts".encode())
            for part in value:
                _add(part, digest)
    else:
        raise TypeError(f"{type(value).__name__} has no content to hash")


def _as_data(function: Callable) -> list:
    """A function's code, and the numbers and texts that it takes from outside, such as a notebook's parameters."""
    if isinstance(function, functools.partial):
        return [_as_data(function.func), content_hash(function.args), content_hash(function.keywords)]
    code = getattr(function, "__code__", None)
    if code is None:  # an object that can be called
        return [type(function).__name__, _plain(getattr(function, "__dict__", {}))]
    cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
    outside = {name: function.__globals__.get(name) for name in _names(code)}
    outside |= {name: cell.cell_contents for name, cell in cells.items()}
    defaults = content_hash(function.__defaults__), content_hash(function.__kwdefaults__)
    return [_code(code), _plain(outside), defaults]


def _code(code: CodeType) -> list:
    inner = [_code(part) for part in code.co_consts if isinstance(part, CodeType)]
    return [code.co_code, code.co_names, [part for part in code.co_consts if isinstance(part, PLAIN)], inner]


def _names(code: CodeType) -> list[str]:
    """Names of a function's code and of the comprehensions and functions inside it."""
    inner = [name for part in code.co_consts if isinstance(part, CodeType) for name in _names(part)]
    return [*code.co_names, *inner]


def _plain(values: Mapping) -> dict:
    return {name: value for name, value in values.items() if isinstance(value, PLAIN)}


def _settings(module: nn.Module) -> list:
    """What decides the training without being a weight: kind of loss and its class weights, sampling sizes, dropout."""
    plain = {k: v for k, v in vars(module).items() if isinstance(v, (str, int, float)) and not k.startswith("_")}
    plain.pop("training", None)
    if not list(module.parameters()):  # a loss; the buffers of others are statistics that training moves
        plain |= {name: value.tolist() for name, value in module.named_buffers(recurse=False)}
    return [type(module).__name__, dict(sorted(plain.items()))]
