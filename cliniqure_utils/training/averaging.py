"""Averaged weights."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback

from cliniqure_utils.runs import atomic_path

AVERAGE = "average.safetensors"


class AveragedWeights(TrainerCallback):
    """Exponential moving average of a model's weights and statistics, updated after every step.

    Early steps count for more (the decay grows as (1 + step) / (10 + step) up to `decay`), or a short training would
    end near its start. Source: Polyak and Juditsky 1992; the growing decay as in TensorFlow's and timm's averages.
    """

    def __init__(self, model: nn.Module, decay: float):
        if not 0 < decay < 1:
            raise ValueError(f"ema_decay must lie between 0 and 1, found {decay}")
        self.model, self.decay = model, decay
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def on_step_end(self, args, state, control, **kwargs):
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                mean = self.average[name] = self.average[name].to(value.device)
                if value.is_floating_point():
                    mean.lerp_(value, 1 - decay)
                else:
                    mean.copy_(value)

    def swap(self) -> None:
        """Exchange the model's weights with the average; a second call undoes it."""
        current = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.average)
        self.average = current

    def save(self, folder: Path) -> None:
        with atomic_path(folder / AVERAGE) as temporary:
            save_file({name: value.cpu().contiguous() for name, value in self.average.items()}, temporary)

    def load(self, folder: str | Path) -> None:
        self.average = load_file(Path(folder) / AVERAGE)
