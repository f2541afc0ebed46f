"""The Hugging Face Trainer with our checks, our evaluation and weighted draws, through its public interface only.

`training.fit` puts the parts together; nothing here is needed to train a model.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from transformers import PretrainedConfig, Trainer


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite; the message names the films of the batch."""


class CheckedTrainer(Trainer):
    """A Trainer that stops at a loss that is not finite, and that evaluates with a function.

    Both methods are ones that the library's documentation says to override: a callback sees neither the batch nor
    the choice of the best epoch.

    Args:
        evaluate_with: Returns the validation metrics of the model as it is.
        metric: Name that must be among them, or None.
    """

    def __init__(self, *, evaluate_with: Callable[[], dict[str, float]], metric: str | None, **kwargs):
        self._evaluate_with, self._metric = evaluate_with, metric
        super().__init__(**kwargs)

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
        with torch.no_grad():
            metrics = dict(self._evaluate_with())
        if self._metric is not None and self._metric not in metrics:
            raise ValueError(f"metric {self._metric!r} is not among those evaluated: {', '.join(metrics)}")
        metrics = {f"eval_{key}": float(value) for key, value in metrics.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class WeightedDraws(torch.utils.data.Dataset):
    """As many draws as there are items, with replacement, in proportion to their weights; new draws in each epoch.

    The draws depend on seed and epoch alone, so a resumed run draws the same, and so does each of several processes.

    Args:
        data: Map-style data set.
        weights: One per item, at least 0.
    """

    def __init__(self, data, weights: Sequence[float], seed: int):
        self.data, self.weights, self.seed = data, torch.as_tensor(weights, dtype=torch.float64), seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        generator = torch.Generator().manual_seed(self.seed + epoch)
        self.drawn = torch.multinomial(self.weights, len(self), replacement=True, generator=generator).tolist()
        if hasattr(self.data, "set_epoch"):
            self.data.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.weights)

    def __getitem__(self, index: int):
        return self.data[self.drawn[index]]


class WithoutConfig(nn.Module):
    """Hides a model's `config` from the Trainer, which would write its own settings into it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, **batch):
        return self.model(**batch)


def as_the_trainer_takes_it(model: nn.Module) -> nn.Module:
    """The model itself where its config is one of transformers, or where it has none; else a wrapper without config."""
    if getattr(model, "config", None) is None or isinstance(model.config, PretrainedConfig):
        return model
    return WithoutConfig(model)
