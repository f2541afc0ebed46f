"""One training engine for the detector, the classifier and the report model: the Hugging Face Trainer.

The Trainer brings gradient clipping, mixed precision, checkpoints, exact resume and several devices (`accelerate
launch`). This module adds what the notebooks need around it: a table of the history, one progress bar, a stop on a
non-finite loss that names the images, and the choice of the best epoch by a metric of ours.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import get_last_checkpoint

from cliniqure_utils.runs import atomic_path, write_json

SCHEDULERS = {"cosine": "cosine", "constant": "constant", "linear": "linear"}


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite; the message names the images of the batch."""


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
    mixed_precision: bool = True,
    n_workers: int = 0,
    log_steps: int | None = None,
    description: str = "training",
) -> pd.DataFrame:
    """Train `model` in place.

    Args:
        model: `model(**batch)` returns a dict with a scalar `loss`.
        train_dataset: Map-style data set of dicts; an `image_id` in an item is kept out of the model and named when
            the loss is not finite.
        output_dir: Holds checkpoints while training runs, so that a killed run resumes at its last epoch; removed at
            the end.
        seed: Seeds data order, dropout and augmentation.
        device: "cpu", "cuda", "mps".
        epochs: Passes over the data; `max_steps` above 0 limits the steps instead.
        optimizer: "adam" (the paper's, L2 weight decay) or "adamw" (decoupled).
        scheduler: A key of SCHEDULERS, stepped after each batch.
        warmup_steps: Steps with a linearly growing learning rate, before the schedule.
        max_grad_norm: Gradients are clipped to this norm; 0 leaves them alone.
        collate: List of items -> batch dict. Default: torch's.
        param_groups: model -> optimizer groups, each a dict with `params` and its own `lr`. Default: one group.
        evaluate: model (in eval mode, no gradients) -> dict of validation metrics, called after each epoch.
        metric: Name among them; the epoch with its largest value is the one kept. None keeps the last epoch.
        mixed_precision: Use it where the device has it (CUDA); a CPU computes in float32.
        n_workers: Loader processes; 0 loads in this one.
        log_steps: A row of history every so many steps, for trainings shorter than an epoch. Default: every epoch.
        description: Text of the progress bar.

    Returns:
        One row per epoch (or `log_steps`): epoch, step, loss (mean since the last row), learning_rate, metrics.

    Raises:
        NonFiniteLoss: With the image ids of the batch.
        ValueError: Unknown optimizer or scheduler, an empty data set, or a `metric` that `evaluate` does not return.
    """
    if optimizer not in ("adam", "adamw"):
        raise ValueError(f"unknown optimizer {optimizer!r}; expected adam or adamw")
    if scheduler not in SCHEDULERS:
        raise ValueError(f"unknown scheduler {scheduler!r}; expected one of {', '.join(SCHEDULERS)}")
    if len(train_dataset) == 0:
        raise ValueError("the training data set is empty; there is nothing to train on")
    output_dir = Path(output_dir)
    cuda = str(device).startswith("cuda")
    bf16 = mixed_precision and cuda and torch.cuda.is_bf16_supported()
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
        fp16=mixed_precision and cuda and not bf16,
        logging_strategy="steps" if log_steps else "epoch",
        logging_steps=log_steps or 500,
        eval_strategy="epoch" if evaluate else "no",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=metric is not None,
        metric_for_best_model=metric,
        greater_is_better=True if metric else None,
        remove_unused_columns=False,
        label_names=[],
        disable_tqdm=True,
        report_to=[],
        dataloader_num_workers=n_workers,
        dataloader_pin_memory=cuda,
        full_determinism=False,
    )
    settings = {
        key: getattr(arguments, key)
        for key in ("num_train_epochs", "max_steps", "per_device_train_batch_size", "learning_rate", "weight_decay",
                    "warmup_steps", "max_grad_norm", "seed", "metric_for_best_model")
    }  # fmt: skip
    settings |= {"optimizer": optimizer, "scheduler": scheduler, "items": len(train_dataset)}
    settings["model"] = hashlib.sha256(
        "\n".join(f"{name} {tuple(value.shape)}" for name, value in model.state_dict().items()).encode()
    ).hexdigest()
    checkpoint = _usable_checkpoint(output_dir, settings)
    history = _History(description)
    trainer = _Trainer(
        model=model if _trainer_may_edit(model) else _Bare(model),
        subject=model,
        args=arguments,
        train_dataset=train_dataset,
        eval_dataset=train_dataset if evaluate else None,
        data_collator=collate or torch.utils.data.default_collate,
        callbacks=[history],
        optimizer_kind=optimizer,
        param_groups=param_groups,
        evaluate_with=evaluate,
        metric=metric,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=checkpoint)
    shutil.rmtree(output_dir, ignore_errors=True)
    model.eval()
    return history.table(trainer.state.log_history)


def _usable_checkpoint(output_dir: Path, settings: dict) -> str | None:
    """The last checkpoint when it was made with the same settings; anything else in the folder is cleared."""
    mark = output_dir / "settings.json"
    text = json.loads(json.dumps(settings, default=str))
    if mark.is_file() and json.loads(mark.read_text(encoding="utf-8")) == text:
        return get_last_checkpoint(str(output_dir))
    shutil.rmtree(output_dir, ignore_errors=True)
    write_json(mark, text)
    return None


class _History(TrainerCallback):
    """One progress bar over all steps, and the table of epochs."""

    def __init__(self, description: str):
        self.description, self.bar = description, None

    def on_train_begin(self, args, state, control, **kwargs):
        from tqdm.auto import tqdm

        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self.description, unit="step")

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(1)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self.bar.set_postfix_str(f"loss {logs['loss']:.3f}")

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()

    @staticmethod
    def table(log_history: list[dict]) -> pd.DataFrame:
        rows: dict[int, dict] = {}
        for entry in log_history:
            if "train_runtime" in entry:
                continue
            row = rows.setdefault(entry["step"], {"epoch": entry["epoch"], "step": entry["step"]})
            row.update({key.removeprefix("eval_"): value for key, value in entry.items() if key not in row})
        return pd.DataFrame(list(rows.values()))


class _Bare(nn.Module):
    """Hides a model's `config` from the Trainer, which would write its own settings into it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, **batch):
        return self.model(**batch)


def _trainer_may_edit(model: nn.Module) -> bool:
    from transformers import PretrainedConfig

    return getattr(model, "config", None) is None or isinstance(model.config, PretrainedConfig)


class _Trainer(Trainer):
    def __init__(self, *, subject, optimizer_kind, param_groups, evaluate_with, metric, **kwargs):
        self._subject = subject
        self._kind, self._groups, self._evaluate_with, self._metric = (
            optimizer_kind,
            param_groups,
            evaluate_with,
            metric,
        )
        super().__init__(**kwargs)

    def create_optimizer(self, model=None):
        if self.optimizer is None:
            trained = [p for p in self.model.parameters() if p.requires_grad]
            groups = self._groups(self._subject) if self._groups else [{"params": trained}]
            kind = torch.optim.Adam if self._kind == "adam" else torch.optim.AdamW
            self.optimizer = kind(groups, lr=self.args.learning_rate, weight_decay=self.args.weight_decay)
        return self.optimizer

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs = dict(inputs)
        image_ids = inputs.pop("image_id", None)
        outputs = model(**inputs)
        loss = outputs["loss"]
        if not math.isfinite(loss.item()):
            names = ", ".join(map(str, image_ids)) if image_ids is not None else "unknown"
            raise NonFiniteLoss(f"loss is {loss.item()} at step {self.state.global_step}; images of the batch: {names}")
        return (loss, outputs) if return_outputs else loss

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        self.model.eval()
        with torch.no_grad():
            metrics = dict(self._evaluate_with(self._subject))
        if self._metric is not None and self._metric not in metrics:
            raise ValueError(f"metric {self._metric!r} is not among those evaluated: {', '.join(metrics)}")
        metrics = {f"eval_{key}": float(value) for key, value in metrics.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def save_model(model: nn.Module, folder: str | Path, settings: dict) -> None:
    """Write `model.safetensors` and `config.json` into a folder, each atomically."""
    from safetensors.torch import save_file

    with atomic_path(Path(folder) / "model.safetensors") as temporary:
        save_file({key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}, temporary)
    write_json(Path(folder) / "config.json", settings)


def load_model(folder: str | Path, build: Callable[[dict], nn.Module]) -> nn.Module:
    """Read what `save_model` wrote; `build(settings)` makes the module that the weights go into.

    Raises:
        FileNotFoundError: A file is missing; the message names it.
        ValueError: The weights do not fit the settings.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder.name}/{name} is missing: run notebooks/{folder.name}.ipynb first")
    model = build(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except RuntimeError as error:
        last = str(error).splitlines()[-1].strip()
        raise ValueError(f"{folder.name}/model.safetensors does not fit its config.json: {last}") from error
    return model.eval()
