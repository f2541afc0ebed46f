"""One training engine for the detector, the classifier and the report model: the Hugging Face Trainer.

The Trainer brings gradient clipping, mixed precision, checkpoints, exact resume and several devices (`accelerate
launch`). This module adds what the notebooks need around it: a table of the history, one progress bar, a stop on a
non-finite loss that names the images, the choice of the best epoch by a metric of ours, an early stop, averaged
weights, and training on several processes from inside a notebook (`n_processes`).

Several GPUs or hosts. In a notebook: `fit(..., n_processes=4)`, which starts `accelerate launch --num_processes 4` and
brings the weights back. A script of one's own that calls `fit` is started with the same command:

    accelerate launch --multi_gpu --num_processes 4 --num_machines 1 --mixed_precision no --dynamo_backend no script.py

(`--num_machines 2 --machine_rank 0 --main_process_ip ADDRESS` for hosts). With `device="cpu"` the same command trains
on processes of one machine over gloo. Each process takes `batch_size` films per step, so the step grows with the number
of processes.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from transformers import TrainingArguments
from transformers.trainer_callback import PrinterCallback

from cliniqure_utils.training import averaging
from cliniqure_utils.training.trainer import (
    Bare,
    History,
    OurTrainer,
    Waiting,
    patience_is_over,
    trainer_may_edit,
    usable_checkpoint,
)

SCHEDULERS = {"cosine": "cosine", "constant": "constant", "linear": "linear"}


def fit(
    model: nn.Module,
    train_dataset,
    *,
    output_dir: str | Path,
    seed: int,
    device: str,
    epochs: float = 1,
    max_steps: int = -1,
    batch_size: int = 4,
    learning_rate: float = 1e-4,
    weight_decay: float = 0.0,
    optimizer: str = "adam",
    scheduler: str = "cosine",
    warmup_steps: int = 0,
    max_grad_norm: float = 1.0,
    collate: Callable | None = None,
    param_groups: Callable[[nn.Module], list[dict]] | None = None,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    metric: str | None = None,
    patience: int | None = None,
    sample_weights: Sequence[float] | None = None,
    ema_decay: float | None = None,
    mixed_precision: bool = True,
    n_workers: int = 0,
    n_processes: int = 1,
    log_steps: int | None = None,
    checkpoint_steps: int | None = None,
    resumable: bool = True,
    description: str = "training",
) -> pd.DataFrame:
    """Train `model` in place.

    Args:
        model: `model(**batch)` returns a dict with a scalar `loss`.
        train_dataset: Map-style data set of dicts; an `image_id` in an item is kept out of the model and named when
            the loss is not finite. A `set_epoch(epoch)` method is called before each epoch.
        output_dir: Holds checkpoints while training runs, so that a killed run resumes at its last epoch; removed at
            the end.
        seed: Seeds data order, dropout and augmentation.
        device: "cpu", "cuda", "mps".
        epochs: Passes over the data; `max_steps` above 0 limits the steps instead.
        batch_size: Items per step and process.
        optimizer: "adam" (the paper's, L2 weight decay) or "adamw" (decoupled).
        scheduler: A key of SCHEDULERS, stepped after each batch.
        warmup_steps: Steps with a linearly growing learning rate, before the schedule.
        max_grad_norm: Gradients are clipped to this norm; 0 leaves them alone.
        collate: List of items -> batch dict. Default: torch's.
        param_groups: model -> optimizer groups, each a dict with `params` and its own `lr`. Default: one group.
        evaluate: model (in eval mode, no gradients) -> dict of validation metrics, called after each epoch.
        metric: Name among them; the epoch with its largest value is the one kept. None keeps the last epoch.
        patience: Stop when `metric` has not grown for so many epochs. None trains to the end.
        sample_weights: One weight per item: draws items in proportion to it, with replacement, as many as there are
            (`vision.films.balance_weights`). None takes every item once per epoch.
        ema_decay: Keep an exponential moving average of the weights with this decay (such as 0.999); it is what
            `evaluate` sees and what is kept. None: the weights themselves.
        mixed_precision: Use it where the device has it (CUDA); a CPU computes in float32.
        n_workers: Loader processes; 0 loads in this one.
        n_processes: Above 1, train on so many processes or GPUs through `accelerate launch`, see the module. Everything
            given is pickled for them.
        log_steps: A row of history every so many steps, for trainings shorter than an epoch. Default: every epoch.
        checkpoint_steps: A checkpoint every so many steps too, for long epochs. Resuming from one is exact if items
            do not draw from torch's global random numbers (`FilmDataset(seed=...)`).
        resumable: False writes no checkpoints, for short trainings of large models; `metric` then must be None.
        description: Text of the progress bar.

    Returns:
        One row per epoch (or `log_steps`): epoch, step, loss (mean since the last row), learning_rate, metrics. Its
        `attrs["waiting"]` is the share (0 to 1) of the steps' time that was spent waiting for data.

    Raises:
        NonFiniteLoss: With the image ids of the batch.
        ValueError: Unknown optimizer or scheduler, an empty data set, a `metric` that `evaluate` does not return, or
            settings that contradict each other.
        RuntimeError: A process of a spread training ended; the message has its last lines.
    """
    settings = {name: value for name, value in locals().items() if name not in ("model", "train_dataset")}
    _check(settings, len(train_dataset))
    output_dir = Path(output_dir)
    if n_processes > 1:
        from cliniqure_utils.training.processes import fit_spread

        return fit_spread(model, train_dataset, settings)
    fp16, bf16 = precision(device, mixed_precision)
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        num_train_epochs=epochs,
        max_steps=max_steps,
        per_device_train_batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        lr_scheduler_type=SCHEDULERS[scheduler],
        warmup_steps=warmup_steps,
        max_grad_norm=max_grad_norm,
        seed=seed,
        data_seed=seed,
        use_cpu=str(device) == "cpu",
        bf16=bf16,
        fp16=fp16,
        logging_strategy="steps" if log_steps else "epoch",
        logging_steps=log_steps or 500,
        eval_strategy="epoch" if evaluate else "no",
        save_strategy="epoch" if resumable else "no",
        save_total_limit=2,
        load_best_model_at_end=metric is not None,
        metric_for_best_model=metric,
        greater_is_better=True if metric else None,
        remove_unused_columns=False,
        label_names=[],
        disable_tqdm=True,
        report_to=[],
        dataloader_num_workers=n_workers,
        dataloader_pin_memory=str(device).startswith("cuda"),
        full_determinism=False,
    )
    with arguments.main_process_first(local=False):  # one process clears the folder, the others look afterwards
        checkpoint = usable_checkpoint(output_dir, _fingerprint(model, train_dataset, settings, arguments))
    if checkpoint and metric:
        state = json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))
        if patience_is_over(state["log_history"], metric, patience):
            arguments.max_steps = state["global_step"]  # killed after its early stop: nothing is left to train
    averaged = averaging.AveragedWeights(model, ema_decay) if ema_decay is not None else None
    if averaged and checkpoint:
        averaged.load(checkpoint)
    waiting = Waiting()
    history = History(description, metric, patience, train_dataset, checkpoint_steps if resumable else None, waiting)
    trainer = OurTrainer(
        model=model if trainer_may_edit(model) else Bare(model),
        subject=model,
        args=arguments,
        train_dataset=train_dataset,
        eval_dataset=train_dataset if evaluate else None,
        data_collator=collate or torch.utils.data.default_collate,
        callbacks=[*([averaged] if averaged else []), waiting, history],
        optimizer_kind=optimizer,
        param_groups=param_groups,
        evaluate_with=evaluate,
        metric=metric,
        sample_weights=sample_weights,
        averaged=averaged,
        waiting=waiting,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=checkpoint)
    if averaged:
        if metric:
            averaged.load(trainer.state.best_model_checkpoint)
        model.load_state_dict(averaged.average)
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        shutil.rmtree(output_dir, ignore_errors=True)
    model.eval()
    return history.table(trainer.state.log_history)


def precision(device: str, mixed_precision: bool) -> tuple[bool, bool]:
    """(fp16, bf16) to train in: neither on a CPU, bf16 on a GPU that computes in it, else fp16 with loss scaling."""
    cuda = mixed_precision and str(device).startswith("cuda")
    bf16 = cuda and torch.cuda.is_bf16_supported()
    return cuda and not bf16, bf16


def _check(settings: dict, n_items: int) -> None:
    if settings["optimizer"] not in ("adam", "adamw"):
        raise ValueError(f"unknown optimizer {settings['optimizer']!r}; expected adam or adamw")
    if settings["scheduler"] not in SCHEDULERS:
        raise ValueError(f"unknown scheduler {settings['scheduler']!r}; expected one of {', '.join(SCHEDULERS)}")
    if n_items == 0:
        raise ValueError("the training data set is empty; there is nothing to train on")
    if settings["patience"] is not None and (settings["metric"] is None or settings["patience"] < 1):
        raise ValueError("patience needs a metric to watch, and at least 1 epoch")
    if settings["metric"] is not None and settings["evaluate"] is None:
        raise ValueError(f"metric {settings['metric']!r} needs a function `evaluate` that returns it")
    if settings["metric"] is not None and not settings["resumable"]:
        raise ValueError("keeping the best epoch needs checkpoints; leave resumable=True or metric=None")
    weights = settings["sample_weights"]
    if weights is not None and len(weights) != n_items:
        raise ValueError(f"expected one sample weight per item, found {len(weights)} for {n_items} items")


def _fingerprint(model: nn.Module, train_dataset, settings: dict, arguments: TrainingArguments) -> dict:
    """What must be the same for a checkpoint to be resumed."""
    names = ("epochs", "max_steps", "batch_size", "learning_rate", "weight_decay", "optimizer", "scheduler",
             "warmup_steps", "max_grad_norm", "seed", "metric", "ema_decay", "patience")  # fmt: skip
    weights, of_data = settings["sample_weights"], getattr(train_dataset, "fingerprint", None)
    return {
        **{name: settings[name] for name in names},
        "items": len(train_dataset),
        "data": None if of_data is None else of_data(),
        "sample_weights": None if weights is None else _hash(repr([float(w) for w in weights])),
        "processes": arguments.world_size,
        "model": _hash("\n".join(f"{name} {tuple(value.shape)}" for name, value in model.state_dict().items())),
        "settings": _hash(repr([_plain_settings(module) for module in model.modules()])),
    }


def _plain_settings(module: nn.Module) -> tuple:
    """What decides the training without being a weight: kind of loss and its class weights, sampling sizes, dropout."""
    plain = {k: v for k, v in vars(module).items() if isinstance(v, (str, int, float)) and not k.startswith("_")}
    plain.pop("training", None)
    if not list(module.parameters()):  # a loss; the buffers of others are statistics that training moves
        plain |= {name: value.tolist() for name, value in module.named_buffers(recurse=False)}
    return type(module).__name__, sorted(plain.items(), key=lambda item: item[0])


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
