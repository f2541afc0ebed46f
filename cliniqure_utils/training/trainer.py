"""The parts of the training engine: our Trainer, its checkpoints, its history, weighted sampling and averaged weights.

`training.fit` puts them together; nothing here is needed to train a model.
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import PretrainedConfig, Trainer, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from cliniqure_utils.runs import write_json
from cliniqure_utils.training.averaging import AveragedWeights

COMPLETE = "complete.json"  # last file of a checkpoint; one without it was being written when the run was killed


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite; the message names the images of the batch."""


def usable_checkpoint(output_dir: Path, settings: dict) -> str | None:
    """The last whole checkpoint if it was made with the same settings; anything else in the folder is cleared."""
    mark = output_dir / "settings.json"
    text = json.loads(json.dumps(settings, default=str))
    if mark.is_file() and json.loads(mark.read_text(encoding="utf-8")) == text:
        for folder in output_dir.glob("checkpoint-*"):
            if not (folder / COMPLETE).is_file():
                shutil.rmtree(folder)
        return get_last_checkpoint(str(output_dir))
    shutil.rmtree(output_dir, ignore_errors=True)
    write_json(mark, text)
    return None


def patience_is_over(log_history: Sequence[dict], metric: str, patience: int | None) -> bool:
    """Whether `metric` has not grown in the last `patience` evaluations of a Trainer's log."""
    values = [entry[f"eval_{metric}"] for entry in log_history if f"eval_{metric}" in entry]
    if patience is None or len(values) <= patience:
        return False
    return max(values[-patience:]) <= max(values[:-patience])


class History(TrainerCallback):
    """One progress bar over all steps, the table of epochs, and the early stop.

    The early stop reads the log, which checkpoints hold, and keeps no count of its own: a resumed run stops at the same
    epoch as an unbroken one.
    """

    def __init__(
        self, description: str, metric: str | None, patience: int | None, dataset, checkpoint_steps: int | None,
        waiting: "Waiting",
    ):  # fmt: skip
        self.description, self.metric, self.patience, self.waiting = description, metric, patience, waiting
        self.dataset, self.checkpoint_steps, self.bar = dataset, checkpoint_steps, None

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar = tqdm(
            total=state.max_steps, initial=state.global_step, desc=self.description, unit="step",
            disable=not state.is_world_process_zero,
        )  # fmt: skip

    def on_epoch_begin(self, args, state, control, **kwargs):
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(int(state.epoch or 0))

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(1)
        if self.checkpoint_steps and state.global_step % self.checkpoint_steps == 0:
            control.should_save = True

    def on_evaluate(self, args, state, control, **kwargs):
        if patience_is_over(state.log_history, self.metric, self.patience):
            control.should_training_stop = True

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.bar is not None and logs and "loss" in logs:
            self.bar.set_postfix_str(f"loss {logs['loss']:.3f}, waits for data {self.waiting.share:.0%}")

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()

    def table(self, log_history: Sequence[dict]) -> pd.DataFrame:
        """One row per step that has an entry in the Trainer's log; `attrs["waiting"]` is the share of `Waiting`."""
        rows: dict[int, dict] = {}
        for entry in log_history:
            if "train_runtime" in entry:
                continue
            row = rows.setdefault(entry["step"], {"epoch": entry["epoch"], "step": entry["step"]})
            row.update({key.removeprefix("eval_"): value for key, value in entry.items() if key not in row})
        history = pd.DataFrame(list(rows.values()))
        first = [name for name in ("epoch", "step", "loss", "grad_norm", "learning_rate") if name in history]
        history = history[[*first, *sorted(set(history) - set(first))]]  # a checkpoint's log comes back sorted
        history.attrs["waiting"] = self.waiting.share
        return history


class Waiting(TrainerCallback):
    """How long steps wait for their batch, of all the time they take. Evaluation and checkpoints do not count."""

    def __init__(self):
        self.waited = self.taken = self._began = self._ready = 0.0

    def fetch(self, next_batch: Callable):
        self._began = time.perf_counter()
        batch = next_batch()
        self._ready = time.perf_counter()
        return batch

    def on_step_end(self, args, state, control, **kwargs):
        self.waited += self._ready - self._began
        self.taken += time.perf_counter() - self._began

    @property
    def share(self) -> float:
        """0 to 1; NaN before the first step has ended."""
        return self.waited / self.taken if self.taken else math.nan


class WeightedSampler(torch.utils.data.Sampler):
    """Draws as many items as there are, with replacement, in proportion to their weights; one order per epoch.

    The order depends on seed and epoch alone, so a resumed run and every process of a spread one draw the same.
    """

    def __init__(self, weights: Sequence[float], seed: int):
        self.weights, self.seed, self.epoch = torch.as_tensor(weights, dtype=torch.float64), seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.weights)

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        yield from torch.multinomial(self.weights, len(self), replacement=True, generator=generator).tolist()


class Bare(nn.Module):
    """Hides a model's `config` from the Trainer, which would write its own settings into it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, **batch):
        return self.model(**batch)


def trainer_may_edit(model: nn.Module) -> bool:
    """Whether the Trainer may write into the model's config, as it does into those of transformers."""
    return getattr(model, "config", None) is None or isinstance(model.config, PretrainedConfig)


class OurTrainer(Trainer):
    """The Hugging Face Trainer with our optimizer groups, evaluation, sampling and checks.

    Args:
        subject: The model of the user; `model` may be a wrapper of it.
        optimizer_kind: "adam" or "adamw".
        param_groups, evaluate_with, metric, sample_weights: As in `training.fit`.
        averaged: AveragedWeights or None.
        waiting: Times the fetching of batches.
    """

    def __init__(
        self, *, subject: nn.Module, optimizer_kind: str, param_groups: Callable | None, evaluate_with: Callable | None,
        metric: str | None, sample_weights: Sequence[float] | None, averaged: AveragedWeights | None,
        waiting: Waiting, **kwargs,
    ):  # fmt: skip
        self._subject, self._kind, self._groups = subject, optimizer_kind, param_groups
        self._evaluate_with, self._metric = evaluate_with, metric
        self._sample_weights, self._averaged, self._waiting = sample_weights, averaged, waiting
        super().__init__(**kwargs)

    def create_optimizer(self, model=None):
        if self.optimizer is None:
            trained = [p for p in self.model.parameters() if p.requires_grad]
            groups = self._groups(self._subject) if self._groups else [{"params": trained}]
            kind = torch.optim.Adam if self._kind == "adam" else torch.optim.AdamW
            self.optimizer = kind(groups, lr=self.args.learning_rate, weight_decay=self.args.weight_decay)
        return self.optimizer

    def _get_train_sampler(self, train_dataset=None):
        if self._sample_weights is None:
            return super()._get_train_sampler(train_dataset)
        return WeightedSampler(self._sample_weights, self.args.seed)

    def get_batch_samples(self, *args, **kwargs):
        return self._waiting.fetch(lambda: super(OurTrainer, self).get_batch_samples(*args, **kwargs))

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
        if self._averaged:
            self._averaged.swap()
        try:
            with torch.no_grad():
                metrics = dict(self._evaluate_with(self._subject))
        finally:
            if self._averaged:
                self._averaged.swap()
        if self._metric is not None and self._metric not in metrics:
            raise ValueError(f"metric {self._metric!r} is not among those evaluated: {', '.join(metrics)}")
        metrics = {f"eval_{key}": float(value) for key, value in metrics.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save_checkpoint(self, model, trial):
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # the random states of other processes belong to it too
        if self.args.should_save:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            if self._averaged:
                self._averaged.save(folder)
            write_json(folder / COMPLETE, {"step": self.state.global_step})
