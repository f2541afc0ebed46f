"""What decides the result of a training, beside the model and its data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

OPTIMIZERS = ("adam", "adamw")
SCHEDULERS = ("cosine", "constant", "linear")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What decides the result of a training, beside the model and its data.

    A killed training is resumed only by the same plan: every field counts (`checkpoints.fingerprint`).

    Args:
        seed: Seeds data order, dropout and augmentation.
        epochs: Passes over the data.
        max_steps: Steps, in place of `epochs`. None: as many as the epochs take.
        batch_size: Items per step and process.
        learning_rate: The largest learning rate of the training; the schedule multiplies it by 0 to 1.
        weight_decay: Pull of every weight towards 0, at least 0.
        optimizer: "adam" (the paper's, L2 weight decay) or "adamw" (decoupled).
        scheduler: How the learning rate goes: one of SCHEDULERS, stepped after each batch. "cosine" and "linear" end
            at 0.
        warmup_steps: Steps with a linearly growing learning rate, before the schedule.
        max_grad_norm: Gradients are clipped to this norm; 0 leaves them alone.
        param_groups: model -> optimizer groups, each a dict with `params` and its own `lr`, such as
            `cmn.LearningRates`. None: one group of all parameters that require gradients.
        sample_weights: One weight per item: draws items in proportion to it, with replacement, as many as there are
            (`vision.balance.film_weights`). None takes every item once per epoch.
        metric: Name of a metric among those that `evaluate` returns; the epoch with its largest value is the one kept.
            None keeps the last epoch.
        patience: Epochs (at least 1) after which training stops if `metric` has not grown. None trains to the end.
        ema_decay: Keep an exponential moving average of the weights with this decay (between 0 and 1, such as 0.999);
            it is what `evaluate` sees and what is kept. None: the weights themselves.
        mixed_precision: Use it where the device has it (CUDA); a CPU computes in float32.

    Raises:
        ValueError: Unknown optimizer or scheduler, or values that contradict each other.
    """

    seed: int
    epochs: float = 1
    max_steps: int | None = None
    batch_size: int = 4
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    optimizer: str = "adam"
    scheduler: str = "cosine"
    warmup_steps: int = 0
    max_grad_norm: float = 1.0
    param_groups: Callable[[nn.Module], list[dict]] | None = None
    sample_weights: Sequence[float] | None = None
    metric: str | None = None
    patience: int | None = None
    ema_decay: float | None = None
    mixed_precision: bool = True

    def __post_init__(self):
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"unknown optimizer {self.optimizer!r}; expected {' or '.join(OPTIMIZERS)}")
        if self.scheduler not in SCHEDULERS:
            raise ValueError(f"unknown scheduler {self.scheduler!r}; expected one of {', '.join(SCHEDULERS)}")
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, or None for whole epochs; found {self.max_steps}")
        if self.patience is not None and (self.metric is None or self.patience < 1):
            raise ValueError("patience needs a metric to watch, and at least 1 epoch")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie between 0 and 1, found {self.ema_decay}")
        if self.sample_weights is not None:
            object.__setattr__(self, "sample_weights", tuple(map(float, self.sample_weights)))
