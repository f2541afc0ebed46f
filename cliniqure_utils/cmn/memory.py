"""The cross-modal memory: ONE matrix of slots that both the patches of a film and the words of its report query.

Shapes: n images, h heads.
"""

import math

import torch
from torch import nn

from cliniqure_utils.cmn.config import CMNConfig
from cliniqure_utils.cmn.kept import Kept


def exact_type(device: torch.device) -> torch.dtype:
    """float32, or float64 where products of float32 may round to fewer bits (TF32 on GPUs, bfloat16 on CPUs)."""
    rounds = torch.get_float32_matmul_precision() != "highest" and device.type != "mps"  # which has no float64
    return torch.float64 if rounds else torch.float32


class SharedMemory(nn.Module):
    """The cross-modal memory: slots that patches and words query in the same way.

    Per head, a query scores every slot, keeps the `topk` best, and receives their values weighted by a softmax over
    those alone.
    """

    def __init__(self, config: CMNConfig):
        super().__init__()
        width = config.d_model
        self.slots = nn.Parameter(torch.empty(config.cmm_size, config.cmm_dim))
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.output = nn.Linear(width, width), nn.Linear(width, width)
        self.heads, self.topk = config.num_heads, config.topk
        self.dropout = nn.Dropout(config.dropout)
        self._kept = Kept()

    def project(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys (h, width / h, slots), in `exact_type`, and values (h * slots, width / h) of all slots.

        In eval mode without gradients they are computed once and kept until a weight changes: projecting the slots
        anew for each row and word was nearly half of the reference's time.
        """
        if self.training or torch.is_grad_enabled():
            self._kept.forget()
            return self._project()
        parts = (self.slots, self.key.weight, self.key.bias, self.value.weight, self.value.bias)
        return self._kept.get(parts, self._project, exact_type(self.slots.device))

    def _project(self) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (len(self.slots), self.heads, -1)
        keys = self._exactly(self.key, self.slots).view(shape).permute(1, 2, 0)
        values = self.value(self.slots).view(shape).transpose(0, 1)
        return keys.contiguous(), values.reshape(-1, values.shape[-1])

    @staticmethod
    def _exactly(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        """The layer's output in `exact_type`, whatever mixed precision does around it."""
        kind = exact_type(x.device)
        with torch.autocast(x.device.type, enabled=False):
            return nn.functional.linear(x.to(kind), layer.weight.to(kind), layer.bias.to(kind))

    def forward(self, x: torch.Tensor, trace: list | None = None) -> torch.Tensor:
        """Queries (..., width) -> responses, same shape. `trace` receives (slots, weights), each (..., h, topk)."""
        keys, values = self.project()
        n_slots = keys.shape[-1]
        rows = x.shape[:-1].numel()
        # Choosing the best k is discontinuous: a rounding error that swaps slots k and k + 1 changes the answer.
        # So the scores are at least float32 on every device, whatever mixed precision does around them.
        queries = self._exactly(self.query, x)
        with torch.autocast(x.device.type, enabled=False):
            queries = queries.view(rows, self.heads, -1).transpose(0, 1)  # (h, rows, width / h)
            queries = queries / math.sqrt(queries.shape[-1])  # before the product, where there are fewer numbers
            best, chosen = (queries @ keys).topk(self.topk, dim=-1)
            weights = self.dropout(best.softmax(dim=-1))
        weights = weights.to(values.dtype)
        if torch.is_grad_enabled():
            # In training, a product with all slots (weight 0 if not chosen): its gradient is cheaper than a look-up's.
            everywhere = values.new_zeros(self.heads, rows, n_slots).scatter(-1, chosen, weights)
            responses = everywhere @ values.view(self.heads, n_slots, -1)
        else:
            first_slot = torch.arange(self.heads, device=x.device).view(-1, 1, 1) * n_slots
            responses = nn.functional.embedding_bag(
                (chosen + first_slot).flatten(0, 1), values, mode="sum", per_sample_weights=weights.flatten(0, 1)
            )
        responses = responses.view(self.heads, rows, -1).transpose(0, 1).reshape(x.shape)
        if trace is not None:
            shape = (*x.shape[:-1], self.heads, self.topk)
            trace.append((chosen.transpose(0, 1).reshape(shape), weights.transpose(0, 1).reshape(shape)))
        return self.output(responses)
