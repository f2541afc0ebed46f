"""Section 5: the language model. Loading, LoRA fine-tuning with two objectives, and generation.

`seq_cls` is what the paper describes: symptom text in, disease number out. `causal_lm` trains the model to write. Both
use LoRA (Hu et al. 2021) on the query and value projections, through the library peft.
"""

import os
import shutil
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from cliniqure_utils import training
from cliniqure_utils.project import MissingWeights
from cliniqure_utils.runs import atomic_path
from cliniqure_utils.writer.batches import answers_only, bucket, keeps_logits, pad_batch

TARGET_MODULES = ("q_proj", "v_proj")  # "the attention layers" (paper, section 5.3); the pair of the LoRA paper
OWN_WARNING = ".*is_gradient_checkpointing.*"  # transformers 5 warns about an attribute that only itself and peft read


def add_lora(model: nn.Module, task: str, rank: int = 8, alpha: int = 32, dropout: float = 0.1):
    """Freeze the model and add LoRA matrices to the attention layers.

    Args:
        task: "seq_cls" or "causal_lm".
        rank, alpha, dropout: Paper, table 6.

    Returns:
        peft model; for "seq_cls" its new classification head is trained too.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    tasks = {"seq_cls": TaskType.SEQ_CLS, "causal_lm": TaskType.CAUSAL_LM}
    if task not in tasks:
        raise ValueError(f"unknown task {task!r}; expected seq_cls or causal_lm")
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(TARGET_MODULES), task_type=tasks[task]
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=OWN_WARNING)
        return get_peft_model(model, config)


def load_adapter(model: nn.Module, folder: str | Path, merge: bool = True) -> nn.Module:
    """Put a saved adapter on a causal base model; a seq_cls adapter loses its classification head.

    Args:
        model: Base model from `load_base` (n_labels None).
        folder: What `save_adapter` wrote.
        merge: Add the LoRA product to the frozen weights, which makes generation as fast as the base.

    Raises:
        MissingWeights: There is no adapter in the folder.
    """
    from peft import PeftConfig, PeftModel, TaskType

    if not (Path(folder) / "adapter_config.json").is_file():
        raise MissingWeights(f"{Path(folder).name}: no adapter there; run notebooks/05_finetune_llm.ipynb first")
    config = PeftConfig.from_pretrained(str(folder))
    config.task_type, config.modules_to_save = TaskType.CAUSAL_LM, None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft reports the head of a seq_cls adapter as unexpected
        adapted = PeftModel.from_pretrained(model, str(folder), config=config)
    return adapted.merge_and_unload() if merge else adapted


def save_adapter(model, tokenizer, folder: str | Path) -> None:
    """Write adapter and tokenizer, replacing what was there."""
    folder = Path(folder)
    with atomic_path(folder.with_name(folder.name + ".new")) as temporary:
        model.save_pretrained(temporary, save_embedding_layers=False)
        tokenizer.save_pretrained(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(folder.with_name(folder.name + ".new"), folder)


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Trainable and all parameters."""
    return {
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "all": sum(p.numel() for p in model.parameters()),
    }


def fine_tune(model, items: Sequence[dict], pad_id: int, *, batch_size: int, seed: int, **settings):
    """Train a LoRA model on encoded items with the shared engine.

    Args:
        items: From `encode_pairs` or `encode_labels`.
        pad_id: Padding token.
        batch_size: Items per step; batches hold items of like length (`bucket`).
        settings: Go to `training.fit`.

    Returns:
        History, one row per logged step.

    Raises:
        ValueError: There is nothing to train on.
    """
    if not items:
        raise ValueError("no item left to train on")
    model.config.use_cache = False
    writes = isinstance(items[0]["labels"], list) and keeps_logits(model)

    def collate(batches: list[list[dict]]) -> dict[str, torch.Tensor]:
        batch = pad_batch([item for items in batches for item in items], pad_id)
        return answers_only(batch) if writes else batch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=OWN_WARNING)
        history = training.fit(
            model, bucket(items, batch_size, seed), batch_size=1, seed=seed, collate=collate, **settings
        )
    model.config.use_cache = True
    return history


def step_cost(model, items: Sequence[dict], pad_id: int, n_steps: int = 1) -> dict[str, float]:
    """What one training step costs: forward, backward and Adam on one batch. The model is left trained by `n_steps`.

    Args:
        model: With the parameters that are to be trained requiring gradients.
        items: The batch, from `encode_pairs`.

    Returns:
        trainable (parameters); weights, gradients and optimizer (MB of the tensors that stay in memory; activations
        come on top); seconds (mean of the steps).
    """
    model.train()
    batch = pad_batch(items, pad_id)
    batch = answers_only(batch) if keeps_logits(model) else batch
    batch = {key: value.to(model.device) if torch.is_tensor(value) else value for key, value in batch.items()}
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6)
    started = time.perf_counter()
    for _ in range(n_steps):
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
