"""The transformer around the memory: attention, encoder and decoder layers, positions.

Shapes: n images, h heads, S patches.
"""

import math

import torch
from torch import nn

from cliniqure_utils.cmn.config import CMNConfig


class LayerNorm(nn.Module):
    """Layer normalisation of this model: unbiased standard deviation, and eps added to it, not under the root."""

    def __init__(self, width: int, eps: float = 1e-6):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(dim=-1, keepdim=True)
        # A norm, since its gradient is defined at 0 where that of a square root is not.
        deviation = torch.linalg.vector_norm(centred, dim=-1, keepdim=True) / math.sqrt(x.shape[-1] - 1)
        return self.scale * centred / (deviation + self.eps) + self.shift


class Attention(nn.Module):
    """Multi-head attention, with keys and values projected separately so that they can be kept and shared."""

    def __init__(self, config: CMNConfig):
        super().__init__()
        width = config.d_model
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.output = nn.Linear(width, width), nn.Linear(width, width)
        self.heads = config.num_heads
        self.dropout = nn.Dropout(config.dropout)

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (n, h, length, width / h)

    def project(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, length, width) -> keys and values, each (n, h, length, width / h)."""
        return self._split(self.key(x)), self._split(self.value(x))

    def forward(self, x, keys, values, visible=None, trace: list | None = None) -> torch.Tensor:
        """Queries (n, length, width) -> same shape; `visible` bool, broadcast to (n, h, length, keys)."""
        queries = self._split(self.query(x))
        scores = queries @ keys.transpose(-2, -1) / math.sqrt(queries.shape[-1])
        if visible is not None:
            scores = scores.masked_fill(~visible, -math.inf)
        weights = self.dropout(scores.softmax(dim=-1))
        if trace is not None:
            trace.append(weights)
        return self.output((weights @ values).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, config: CMNConfig):
        super().__init__()
        self.inner = nn.Linear(config.d_model, config.d_ff)
        self.outer = nn.Linear(config.d_ff, config.d_model)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.outer(self.dropout(self.inner(x).relu()))


class EncoderLayer(nn.Module):
    """Each part sees the normalised input and adds to the plain one (pre-norm)."""

    def __init__(self, config: CMNConfig):
        super().__init__()
        self.attention, self.feed_forward = Attention(config), FeedForward(config)
        self.norms = nn.ModuleList(LayerNorm(config.d_model) for _ in range(2))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.norms[0](x)
        x = x + self.dropout(self.attention(normed, *self.attention.project(normed)))
        return x + self.dropout(self.feed_forward(self.norms[1](x)))


class DecoderLayer(nn.Module):
    def __init__(self, config: CMNConfig):
        super().__init__()
        self.attention, self.cross_attention = Attention(config), Attention(config)
        self.feed_forward = FeedForward(config)
        self.norms = nn.ModuleList(LayerNorm(config.d_model) for _ in range(3))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x, patches, visible, remember=None, trace: list | None = None) -> torch.Tensor:
        """Words (n, length, width) -> same shape.

        Args:
            patches: Keys and values of the encoder's output, `cross_attention.project` of it.
            visible: Which keys each word may see.
            remember: (keys, values) of these words -> those of all words so far. None: these are all words.
            trace: Receives the weights over the patches, (n, h, length, S).
        """
        normed = self.norms[0](x)
        keys, values = self.attention.project(normed)
        if remember is not None:
            keys, values = remember(keys, values)
        x = x + self.dropout(self.attention(normed, keys, values, visible))
        x = x + self.dropout(self.cross_attention(self.norms[1](x), *patches, trace=trace))
        return x + self.dropout(self.feed_forward(self.norms[2](x)))


def sinusoids(n_positions: int, width: int) -> torch.Tensor:
    """Position code (n_positions, width): sines in even columns, cosines in odd (Vaswani et al. 2017)."""
    position = torch.arange(n_positions, dtype=torch.float32)[:, None]
    frequency = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10000.0) / width))
    angles = position * frequency
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
