"""Training a LoRA model on texts, and what a training step costs."""

import contextlib
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace

import torch

from cliniqure_utils import training
from cliniqure_utils.writer.batches import answers_only, batches_of_like_length, keeps_logits, pad_batch
from cliniqure_utils.writer.lora import RENAMED_ATTRIBUTE
from cliniqure_utils.writer.upper import can_be_cut, first_trained_layer, pad_states, upper_layers, with_states


def fine_tune(
    model,
    tokenizer,
    items: Sequence[dict],
    plan: training.Plan,
    held_out: Sequence[dict] = (),
    plain: bool = False,
    **where,
):
    """Train a LoRA model in place.

    Where only upper layers are adapted, the frozen ones below are worked out once per text, not in every step
    (`writer.upper`).

    Args:
        tokenizer: Pads the batches.
        items: From `encode_pairs` or `encode_labels`.
        plan: How to train; a step takes `plan.batch_size` items of like length (`batches_of_like_length`).
        held_out: Items that are not trained on, but scored after each epoch.
        plain: Work out every layer in every step, all the same.
        where: Device, output folder and the like: the other arguments of `training.fit`.

    Returns:
        History, one row per logged step; with held-out items also held_out_loss (mean of the batches) and, of a
        classifier, held_out_accuracy in [0, 1].

    Raises:
        ValueError: There is nothing to train on.
    """
    if not items:
        raise ValueError("no item left to train on")
    model.config.use_cache = False
    writes = isinstance(items[0]["labels"], list) and keeps_logits(model)
    first = first_trained_layer(model)
    once = first > 0 and can_be_cut(model) and not plain

    def cut(items: Sequence[dict]) -> list[list[dict]]:
        batches = batches_of_like_length(items, plan.batch_size, plan.seed)
        if not once:
            return batches
        flat = iter(with_states(model, [item for batch in batches for item in batch], first))
        return [[next(flat) for _ in batch] for batch in batches]

    def collate(batches: list[list[dict]]) -> dict[str, torch.Tensor]:
        items = [item for batch in batches for item in batch]
        batch = pad_states(items) if once else pad_batch(tokenizer, items)
        return answers_only(batch) if writes else batch

    batches, unseen = cut(items), cut(held_out)

    def evaluate(model) -> dict[str, float]:
        return _scores(model, [collate([batch]) for batch in unseen])

    with warnings.catch_warnings(), upper_layers(model, first) if once else contextlib.nullcontext():
        warnings.filterwarnings("ignore", message=RENAMED_ATTRIBUTE)
        history = training.fit(
            model, batches, replace(plan, batch_size=1), collate=collate, evaluate=evaluate if unseen else None, **where
        )
    model.config.use_cache = True
    return history


def _scores(model, batches: Sequence[dict]) -> dict[str, float]:
    """Mean loss of batches and, of a classifier, the share of items that it numbers right."""
    losses, right = [], []
    for batch in batches:
        on_device = {name: value.to(model.device) if torch.is_tensor(value) else value for name, value in batch.items()}
        out = model(**on_device)
        losses.append(float(out.loss))
        if batch["labels"].ndim == 1:
            right += (out.logits.argmax(1) == on_device["labels"]).tolist()
    scores = {"held_out_loss": sum(losses) / len(losses)}
    return scores | ({"held_out_accuracy": sum(right) / len(right)} if right else {})


def step_cost(model, tokenizer, items: Sequence[dict], n_steps: int = 1) -> dict[str, float]:
    """What one training step costs: forward, backward and Adam on one batch. It leaves the model trained.

    Args:
        model: With the parameters that are to be trained requiring gradients.
        tokenizer: Pads the batch.
        items: The batch, from `encode_pairs`.

    Returns:
        trainable (parameters); weights, gradients and optimizer (MB of the tensors that stay in memory; activations
        come on top); seconds (mean of the steps).
    """
    model.train()
    batch = pad_batch(tokenizer, items)
    batch = answers_only(batch) if keeps_logits(model) else batch
    batch = {key: value.to(model.device) if torch.is_tensor(value) else value for key, value in batch.items()}
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6)
    for step in range(n_steps + 1):
        if step == 1:  # the first one is slower: memory is taken, kernels are chosen
            started = time.perf_counter()
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    seconds = (time.perf_counter() - started) / n_steps

    def megabytes(tensors) -> float:
        return sum(t.numel() * t.element_size() for t in tensors) / 1e6

    return {
        "trainable": sum(p.numel() for p in trained),
        "weights": megabytes(model.parameters()),
        "gradients": megabytes(p.grad for p in trained if p.grad is not None),
        "optimizer": megabytes(t for state in optimizer.state.values() for t in state.values()),
        "seconds": seconds,
    }
