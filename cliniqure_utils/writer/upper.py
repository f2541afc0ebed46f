"""LoRA on the upper layers only: what the frozen layers below make of a text is worked out once.

A frozen layer gives the same numbers for the same text in every step. Where only the last layers are trained, a step
can begin with what reaches them: the text's hidden states. The loss is that of the whole model (a test compares them).
"""

import contextlib
import re
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from tqdm.auto import tqdm

from cliniqure_utils.writer.batches import IGNORED


def first_trained_layer(model: nn.Module) -> int:
    """Number of the lowest layer that holds a trained weight, 0-based; 0 also where there is none."""
    names = (name for name, parameter in model.named_parameters() if parameter.requires_grad)
    found = (re.search(r"\.layers\.(\d+)\.", name) for name in names)
    return min((int(match[1]) for match in found if match), default=0)


def can_be_cut(model: nn.Module) -> bool:
    """Whether its layers stand in one list that takes hidden states in place of embedded tokens.

    Llama and its kin: their positions enter inside the layers. OPT adds them to the embeddings, below the first layer.
    """
    stack = _stack(model)
    return all(hasattr(stack, part) for part in ("layers", "norm", "rotary_emb"))


@torch.no_grad()
def with_states(model: nn.Module, items: Sequence[dict], first: int, batch_size: int = 16) -> list[dict]:
    """Items with what reaches layer `first`, in place of their token numbers.

    Args:
        model: One that `can_be_cut`.
        items: From `batches.encode_pairs` or `batches.encode_labels`.
        first: Number of the layer that the states go into.
        batch_size: Texts worked out at once.

    Returns:
        The items in their order, with `states` (tokens, width) of the model's type in place of `input_ids`.
    """
    lengths = torch.tensor([len(item["input_ids"]) for item in items])
    order = lengths.argsort(descending=True, stable=True).tolist()  # the longest first: later ones fit into its memory
    ends = lengths.cumsum(0).tolist()
    training, device, dtype = model.training, next(model.parameters()).device, _stack(model).norm.weight.dtype
    flat = torch.empty(int(lengths.sum()), model.config.hidden_size, dtype=dtype)  # one block for all texts
    out = [
        {"states": flat[end - length : end], "labels": item["labels"]}
        for item, end, length in zip(items, ends, lengths.tolist(), strict=True)
    ]
    model.eval()
    bar = tqdm(total=len(items), desc="frozen layers", unit="text", disable=len(items) < 500)
    with _only_layers(model, 0, first, with_norm=False), bar:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            rows = [torch.tensor(items[i]["input_ids"]) for i in chosen]
            ids = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)
            mask = (torch.arange(ids.shape[1]) < lengths[chosen][:, None]).long().to(device)
            states = _stack(model)(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            for row, i in enumerate(chosen):
                out[i]["states"].copy_(states[row, : len(rows[row])])
            bar.update(len(chosen))
    model.train(training)
    return out


@contextlib.contextmanager
def upper_layers(model: nn.Module, first: int) -> Iterator[None]:
    """Inside, the model consists of its layers from `first` on and takes states as `inputs_embeds`."""
    with _only_layers(model, first, None, with_norm=True):
        yield


def pad_states(items: Sequence[dict]) -> dict[str, torch.Tensor]:
    """Items of `with_states` -> batch (n, length of the longest), padded on the left: the answers all end at the right
    edge, so that few positions must be scored, and a classifier finds the last token there.

    Returns:
        inputs_embeds (n, t, width), attention_mask and position_ids (n, t), labels (n, t) padded with IGNORED, or (n,).
    """
    longest = max(len(item["states"]) for item in items)
    gaps = [longest - len(item["states"]) for item in items]
    states = [nn.functional.pad(item["states"], (0, 0, gap, 0)) for item, gap in zip(items, gaps, strict=True)]
    mask = (torch.arange(longest) >= torch.tensor(gaps)[:, None]).long()
    labels = [item["labels"] for item in items]
    if isinstance(labels[0], list):
        labels = [[IGNORED] * gap + row for row, gap in zip(labels, gaps, strict=True)]
    return {
        "inputs_embeds": torch.stack(states),
        "attention_mask": mask,
        "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
        "labels": torch.tensor(labels),
    }


def _stack(model: nn.Module) -> nn.Module | None:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # below peft's wrapper
    return getattr(inner, "model", None)


@contextlib.contextmanager
def _only_layers(model: nn.Module, first: int, last: int | None, with_norm: bool) -> Iterator[None]:
    stack = _stack(model)
    layers, norm = stack.layers, stack.norm
    stack.layers = nn.ModuleList(list(layers)[first:last])
    if not with_norm:
        stack.norm = nn.Identity()
    try:
        yield
    finally:
        stack.layers, stack.norm = layers, norm
