"""What happens around the steps of a training: progress bar, early stop, averaged weights, the table of its history."""

import math
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from safetensors.torch import load_model, save_model
from torch import nn
from tqdm.auto import tqdm
from transformers import TrainerCallback

from cliniqure_utils.runs import atomic_path


class Progress(TrainerCallback):
    """One progress bar over all steps, and the share of the steps' time that is spent waiting for batches.

    A step begins to wait when the one before it, its log, evaluation and checkpoint are done; these do not count.
    """

    def __init__(self, description: str):
        self.description, self.bar = description, None
        self.waited = self.taken = self._since = 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar = tqdm(
            total=state.max_steps, initial=state.global_step, desc=self.description, unit="step",
            disable=not state.is_world_process_zero,
        )  # fmt: skip

    def _nothing_to_do(self, args, state, control, **kwargs):
        self._since = time.perf_counter()

    on_epoch_begin = on_evaluate = on_save = _nothing_to_do

    def on_step_begin(self, args, state, control, **kwargs):
        self.waited += time.perf_counter() - self._since

    def on_step_end(self, args, state, control, **kwargs):
        now = time.perf_counter()
        self.taken += now - self._since
        self._since = now
        self.bar.update(1)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.bar is not None and logs and "loss" in logs:
            self.bar.set_postfix_str(f"loss {logs['loss']:.3f}, waits for data {self.waiting:.0%}")
        self._since = time.perf_counter()

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()

    @property
    def waiting(self) -> float:
        """Share of the steps' time spent waiting for data, 0 to 1; NaN before the first step has ended."""
        return self.waited / self.taken if self.taken else math.nan


class Steering(TrainerCallback):
    """Tells the data which epoch begins, asks for checkpoints inside epochs, and stops early.

    The early stop reads the log, which checkpoints hold, and keeps no count of its own: a resumed run stops at the same
    epoch as an unbroken one. (The library's EarlyStoppingCallback trains one epoch more after a kill.)

    Args:
        data: Its `set_epoch` is called where it has one: accelerate's data loader does so in one process only.
        checkpoint_steps: A checkpoint every so many steps, or None.
        metric, patience: Of the plan.
    """

    def __init__(self, data, checkpoint_steps: int | None, metric: str | None, patience: int | None):
        self.data, self.checkpoint_steps, self.metric, self.patience = data, checkpoint_steps, metric, patience

    def on_epoch_begin(self, args, state, control, **kwargs):
        if hasattr(self.data, "set_epoch"):
            self.data.set_epoch(int(state.epoch or 0))

    def on_step_end(self, args, state, control, **kwargs):
        if self.checkpoint_steps and state.global_step % self.checkpoint_steps == 0:
            control.should_save = True

    def on_evaluate(self, args, state, control, **kwargs):
        if patience_is_over(state.log_history, self.metric, self.patience):
            control.should_training_stop = True


def patience_is_over(log_history: Sequence[dict], metric: str | None, patience: int | None) -> bool:
    """Whether `metric` has not grown in the last `patience` evaluations of a Trainer's log."""
    values = [entry[f"eval_{metric}"] for entry in log_history if f"eval_{metric}" in entry]
    if patience is None or len(values) <= patience:
        return False
    return max(values[-patience:]) <= max(values[:-patience])


class AveragedWeights(TrainerCallback):
    """Exponential moving average of a model's weights and statistics, updated after every step: timm's ModelEmaV3.

    The decay grows as (1 + step) / (10 + step) up to `decay`: with a large decay from the start, the average of a short
    training would stay near its first weights. Source: Polyak and Juditsky 1992; the growing decay as in TensorFlow.
    """

    FILE = "average.safetensors"

    def __init__(self, model: nn.Module, decay: float):
        from timm.utils import ModelEmaV3

        self.model = model
        self.ema = ModelEmaV3(model, decay=decay, use_warmup=True, warmup_gamma=9, warmup_power=1)

    @property
    def module(self) -> nn.Module:
        """A model with the averaged weights."""
        return self.ema.module

    def on_train_begin(self, args, state, control, **kwargs):
        self.ema.to(args.device)

    def on_step_end(self, args, state, control, **kwargs):
        self.ema.update(self.model, step=state.global_step + 2)  # timm starts at 0 with step 1, ours at 2/11

    def save(self, folder: str | Path) -> None:
        with atomic_path(Path(folder) / self.FILE) as temporary:
            save_model(self.module, str(temporary))

    def load(self, folder: str | Path) -> None:
        load_model(self.module, str(Path(folder) / self.FILE))


def history_table(log_history: Sequence[dict]) -> pd.DataFrame:
    """One row per step that has an entry in the Trainer's log: epoch, step, loss, learning_rate, metrics."""
    rows: dict[int, dict] = {}
    for entry in log_history:
        if "train_runtime" in entry:
            continue
        row = rows.setdefault(entry["step"], {"epoch": entry["epoch"], "step": entry["step"]})
        row.update({key.removeprefix("eval_"): value for key, value in entry.items() if key not in row})
    history = pd.DataFrame(list(rows.values()))
    first = [name for name in ("epoch", "step", "loss", "grad_norm", "learning_rate") if name in history]
    return history[[*first, *sorted(set(history) - set(first))]]  # a log read from a checkpoint has sorted keys
