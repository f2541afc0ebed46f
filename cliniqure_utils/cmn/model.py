"""R2GenCMN: a small transformer that writes, and one memory that both its eyes and its words consult.

    patches -> linear + ReLU -> + memory response -> + positions -> encoder -> what the film shows
    words   -> embedding -> + positions -> + memory response -> decoder (looks at the encoder) -> next word

The memory is ONE matrix of slots. Patches and words ask the same slots, which is how a region and the word for it can
meet. There is no co-attention and there are no separate visual and textual memories, whatever the CliniQure paper
(section 4.3) says.

Source: Chen, Shen, Song, Wan, "Cross-modal Memory Networks for Radiology Report Generation", ACL-IJCNLP 2021. Written
from the architecture; numbers agree with the public code. Shapes: n images, S patches, L words, h heads.
"""

import math
from dataclasses import asdict, dataclass

import torch
from torch import nn

from cliniqure_utils.cmn import decoding
from cliniqure_utils.cmn.folding import version
from cliniqure_utils.cmn.patches import SIDE, PatchExtractor, build_extractor
from cliniqure_utils.cmn.tokenizer import DEFAULTS, Tokenizer

MAX_POSITIONS = 5000


@dataclass(frozen=True)
class CMNConfig:
    """Sizes of a model; the defaults are the published MIMIC-CXR model's.

    `visual_extractor` is a name `patches.build_extractor` knows, or "custom" when a module was passed in.
    `feature_dropout` acts on the embedded patches and the output, `dropout` everywhere else; both in training only.
    """

    dataset: str = "mimic_cxr"
    visual_extractor: str = "resnet101"
    d_vf: int = 2048
    d_model: int = 512
    d_ff: int = 512
    num_heads: int = 8
    num_layers: int = 3
    topk: int = 32
    cmm_size: int = 2048
    cmm_dim: int = 512
    max_length: int = 100
    dropout: float = 0.1
    feature_dropout: float = 0.5
    label_smoothing: float = 0.0
    adaptive_pooling: bool = False

    def __post_init__(self):
        if self.dataset not in DEFAULTS:
            raise ValueError(f"unknown data set {self.dataset!r}; expected one of {', '.join(DEFAULTS)}")
        if self.d_model % self.num_heads or self.d_model % 2:
            raise ValueError(f"d_model {self.d_model} must be even and a multiple of num_heads {self.num_heads}")
        if self.cmm_dim != self.d_model:
            raise ValueError(f"cmm_dim {self.cmm_dim} must equal d_model {self.d_model}: slots are queried as they are")
        if not 1 <= self.topk <= self.cmm_size:
            raise ValueError(f"topk {self.topk} must lie between 1 and the number of slots, {self.cmm_size}")
        if not 1 <= self.max_length <= MAX_POSITIONS:
            raise ValueError(f"max_length {self.max_length} must lie between 1 and {MAX_POSITIONS}")

    @property
    def n_views(self) -> int:
        """Films per report: IU X-Ray's models read two, frontal first."""
        return 2 if self.dataset == "iu_xray" else 1

    def to_dict(self) -> dict:
        return asdict(self)


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


def exact_type(device: torch.device) -> torch.dtype:
    """float32, or float64 where products of float32 may round to fewer bits (TF32 on GPUs, bfloat16 on CPUs)."""
    rounds = torch.get_float32_matmul_precision() != "highest" and device.type != "mps"  # which has no float64
    return torch.float64 if rounds else torch.float32


class SharedMemory(nn.Module):
    """The cross-modal memory: slots that patches and words ask alike.

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
        self._kept: tuple | None = None

    def project(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys (h, width / h, slots), in `exact_type`, and values (h * slots, width / h) of all slots.

        In eval mode without gradients they are computed once and kept until a weight changes: projecting the slots
        anew for each row and word was nearly half of the reference's time.
        """
        if self.training or torch.is_grad_enabled():
            self._kept = None
            return self._project()
        parts = (self.slots, self.key.weight, self.key.bias, self.value.weight, self.value.bias)
        mark = [exact_type(self.slots.device), *map(version, parts)]
        if self._kept is None or self._kept[0] != mark:
            self._kept = (mark, parts, self._project())  # the parts too: while they live, no other tensor has their id
        return self._kept[2]

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
        # Choosing the best k is a jump: a rounding error that swaps the k-th and the next slot changes the answer.
        # So the scores are at least float32 on every device, whatever mixed precision does around them.
        queries = self._exactly(self.query, x)
        with torch.autocast(x.device.type, enabled=False):
            queries = queries.view(rows, self.heads, -1).transpose(0, 1)  # (h, rows, width / h)
            queries = queries / math.sqrt(queries.shape[-1])  # before the product: a thirtieth of the numbers
            best, chosen = (queries @ keys).topk(self.topk, dim=-1)
            weights = self.dropout(best.softmax(dim=-1))
        weights = weights.to(values.dtype)
        if torch.is_grad_enabled():
            # In training all slots with weight 0 for the others: gradients of a product are cheaper than of a look-up.
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


@dataclass(frozen=True)
class Explanation:
    """What the model consulted while it wrote; see `R2GenCMN.explain`.

    Attributes:
        patch_slots, patch_slot_weights: (n, S, h, topk) slots each patch asked, and their weights (sum 1).
        word_slots, word_slot_weights: (n, L, h, topk) slots each word of the report asked.
        word_patches: (n, L, layers, h, S) weight of each patch while that word was being chosen (sum 1).
    """

    patch_slots: torch.Tensor
    patch_slot_weights: torch.Tensor
    word_slots: torch.Tensor
    word_slot_weights: torch.Tensor
    word_patches: torch.Tensor


class R2GenCMN(nn.Module):
    """The whole model.

    Args:
        tokenizer: Its vocabulary; the model has `tokenizer.n_outputs` outputs.
        config: Sizes.
        visual_extractor: Module (n, 3, 224, 224) -> (n, d_vf, 7, 7) in place of the one `config` names.

    Attributes:
        tokenizer, config: As given.
        visual_extractor: `patches.PatchExtractor`; the rest of the model never sees pixels.
    """

    def __init__(self, tokenizer: Tokenizer, config: CMNConfig, visual_extractor: nn.Module | None = None):
        super().__init__()
        self.tokenizer, self.config = tokenizer, config
        trunk = build_extractor(config.visual_extractor) if visual_extractor is None else visual_extractor
        self.visual_extractor = PatchExtractor(trunk, config.adaptive_pooling)
        width = config.d_model
        self.patch_embedding = nn.Linear(config.d_vf, width)
        self.word_embedding = nn.Embedding(tokenizer.n_outputs, width)
        self.memory = SharedMemory(config)
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_layers))
        self.encoder_norm = LayerNorm(width)
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_layers))
        self.decoder_norm = LayerNorm(width)
        self.output = nn.Linear(width, tokenizer.n_outputs)
        self.dropout = nn.Dropout(config.dropout)
        self.feature_dropout = nn.Dropout(config.feature_dropout)
        self.register_buffer("positions", sinusoids(MAX_POSITIONS, width), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if not name.startswith("visual_extractor.") and parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        nn.init.normal_(self.memory.slots, 0, 1 / self.config.cmm_dim)

    def patch_features(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images (n, 3, 224, 224), for two views (n, 2, 3, 224, 224) -> (n, 49 or 98, d_vf).

        Raises:
            ValueError: Another shape; also one view for a model of two, which would write, but not what it learned to.
        """
        views = self.config.n_views
        if images.ndim != (4 if views == 1 else 5) or (views > 1 and images.shape[1] != views):
            wanted = f"(n, {views}, 3, {SIDE}, {SIDE})" if views > 1 else f"(n, 3, {SIDE}, {SIDE})"
            raise ValueError(
                f"a model of {self.config.dataset} reads {views} view(s) per report: expected images {wanted}, found "
                f"{tuple(images.shape)}"
            )
        return self.visual_extractor(images)

    def embed_patches(self, features: torch.Tensor, trace: list | None = None) -> torch.Tensor:
        """(n, S, d_vf) -> (n, S, width): embedded, with the memory's response, still without positions."""
        if features.ndim != 3 or features.shape[-1] != self.config.d_vf:
            raise ValueError(f"expected features (n, patches, {self.config.d_vf}), found {tuple(features.shape)}")
        x = self.feature_dropout(self.patch_embedding(features).relu())
        return x + self.memory(x, trace)

    def encode(self, features: torch.Tensor, trace: list | None = None) -> torch.Tensor:
        """(n, S, d_vf) -> encoder output (n, S, width)."""
        x = self.embed_patches(features, trace)
        x = self.dropout(x + self.positions[: x.shape[1]])
        for layer in self.encoder:
            x = layer(x)
        return self.encoder_norm(x)

    def cross_keys(self, encoded: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Encoder output -> keys and values of the patches for each decoder layer."""
        return [layer.cross_attention.project(encoded) for layer in self.decoder]

    def embed_words(self, ids: torch.Tensor, start: int = 0, trace: list | None = None) -> torch.Tensor:
        """ids (n, L), the first at position `start` -> (n, L, width), with positions and the memory's response."""
        x = self.word_embedding(ids) * math.sqrt(self.config.d_model)
        x = self.dropout(x + self.positions[start : start + ids.shape[1]])
        return x + self.memory(x, trace)

    def say(self, x: torch.Tensor) -> torch.Tensor:
        """Last decoder layer (n, L, width) -> logits (n, L, V + 1)."""
        return self.output(self.decoder_norm(x))

    def _teach(self, encoded, ids, slot_trace=None, patch_trace=None) -> torch.Tensor:
        """Logits (n, L, V + 1) for given words: position j has seen words 0 to j."""
        seen = ids > 0
        seen[:, 0] = True  # the begin mark has id 0, like padding
        length = ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        visible = (seen[:, None, :] & causal)[:, None]  # (n, 1, L, L)
        x = self.embed_words(ids, trace=slot_trace)
        for layer, patches in zip(self.decoder, self.cross_keys(encoded), strict=True):
            x = layer(x, patches, visible, trace=patch_trace)
        return self.say(x)

    def forward(
        self,
        images: torch.Tensor | None = None,
        ids: torch.Tensor | None = None,
        *,
        features: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Teacher forcing.

        Args:
            images: Normalised images, see `patch_features`; or, in their place,
            features: Patch features (n, S, d_vf).
            ids: int64 (n, L): 0, words, 0, padded with 0.

        Returns:
            loss: Mean over words and end marks (padding left out) of the negative log probability, scalar.
            logprobs: (n, L - 1, V + 1); position j predicts ids[:, j + 1].
        """
        features = self._features(images, features)
        if ids is None or ids.ndim != 2 or ids.shape[1] < 2 or len(ids) != len(features):
            found = None if ids is None else tuple(ids.shape)
            raise ValueError(f"expected ids ({len(features)}, at least 2), found {found}")
        seen, wanted = ids[:, :-1], ids[:, 1:]
        logprobs = self._teach(self.encode(features), seen).log_softmax(dim=-1)
        counted = seen > 0
        counted[:, 0] = True  # each position whose own word is real has a word, or the end, to predict
        loss = nn.functional.cross_entropy(
            logprobs[counted], wanted[counted], label_smoothing=self.config.label_smoothing if self.training else 0.0
        )
        return {"loss": loss, "logprobs": logprobs}

    def generate(
        self,
        images: torch.Tensor | None = None,
        beam_size: int = 3,
        max_length: int | None = None,
        *,
        features: torch.Tensor | None = None,
        **options,
    ) -> torch.Tensor:
        """Write one report per image.

        Args:
            images: Normalised images (n, 3, 224, 224), or (n, 2, 3, 224, 224); or, in their place,
            features: Patch features (n, S, d_vf).
            beam_size: 1 is greedy.
            max_length: Most words; None is the model's own.
            options: Of `decoding.greedy` or `decoding.beam_search`. They hold for this call only.

        Returns:
            int64 (n, max_length), zeros after the end; `tokenizer.decode` makes text of a row.
        """
        return self.decode(images, beam_size, max_length, features=features, **options).ids[:, 0]

    def decode(self, images=None, beam_size=3, max_length=None, *, features=None, **options) -> decoding.Decoded:
        """As `generate`, with scores: see `decoding.Decoded`."""
        if beam_size < 1:
            raise ValueError(f"beam_size must be at least 1, found {beam_size}")
        length = self.config.max_length if max_length is None else max_length
        if not 1 <= length <= MAX_POSITIONS:
            raise ValueError(f"max_length must lie between 1 and {MAX_POSITIONS}, found {length}")
        was_training = self.training
        self.eval()
        try:
            with torch.inference_mode():
                encoded = self.encode(self._features(images, features))
                if beam_size == 1:
                    return decoding.greedy(self, encoded, length, **options)
                return decoding.beam_search(self, encoded, beam_size, length, **options)
        finally:
            self.train(was_training)

    def explain(self, ids: torch.Tensor, images=None, *, features=None) -> Explanation:
        """Which slots and patches were consulted for given reports.

        Args:
            ids: int64 (n, L) as `generate` returns them (no begin mark).
            images, features: As in `generate`.
        """
        was_training = self.training
        self.eval()
        patch_slots, word_slots, patches = [], [], []
        try:
            with torch.inference_mode():
                encoded = self.encode(self._features(images, features), patch_slots)
                spoken = nn.functional.pad(ids, (1, 0))  # row j chooses word j, and is made of word j - 1
                self._teach(encoded, spoken, word_slots, patches)
        finally:
            self.train(was_training)
        asked = [part[:, 1:] for part in word_slots[0]]  # the begin mark's own query is of no interest
        looked = torch.stack([weights.transpose(1, 2) for weights in patches], dim=2)[:, :-1]
        return Explanation(*patch_slots[0], *asked, looked)

    def _features(self, images, features) -> torch.Tensor:
        if (images is None) == (features is None):
            raise ValueError("give either images or features, not both and not neither")
        return self.patch_features(images) if features is None else features


def sinusoids(n_positions: int, width: int) -> torch.Tensor:
    """Position code (n_positions, width): sines in even columns, cosines in odd (Vaswani et al. 2017)."""
    position = torch.arange(n_positions, dtype=torch.float32)[:, None]
    frequency = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10000.0) / width))
    angles = position * frequency
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
