"""R2GenCMN: a small transformer that writes reports, with one memory that both image patches and words query.

    patches -> linear + ReLU -> + memory response -> + positions -> encoder -> what the film shows
    words   -> embedding -> + positions -> + memory response -> decoder (looks at the encoder) -> next word

The memory is ONE matrix of slots. Patches and words query the same slots, which is how a region can be linked to the
word for it. There is no co-attention and there are no separate visual and textual memories, whatever the CliniQure
paper (section 4.3) says.

Source: Chen, Shen, Song, Wan, "Cross-modal Memory Networks for Radiology Report Generation", ACL-IJCNLP 2021. Written
from the architecture; numbers agree with the public code. Shapes: n images, S patches, L words, h heads.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from cliniqure_utils.cmn import decoding
from cliniqure_utils.cmn.config import MAX_POSITIONS, CMNConfig
from cliniqure_utils.cmn.layers import DecoderLayer, EncoderLayer, LayerNorm, sinusoids
from cliniqure_utils.cmn.memory import SharedMemory
from cliniqure_utils.cmn.patches import PatchExtractor, build_extractor
from cliniqure_utils.cmn.tokenizer import Tokenizer


@dataclass(frozen=True)
class Explanation:
    """What the model consulted while it wrote; see `R2GenCMN.explain`.

    Attributes:
        patch_slots, patch_slot_weights: (n, S, h, topk) slots that each patch chose, and their weights (sum 1).
        word_slots, word_slot_weights: (n, L, h, topk) the same for each word of the report.
        word_patches: (n, L, layers, h, S) weight of each patch while that word was being chosen (sum 1).
    """

    patch_slots: torch.Tensor
    patch_slot_weights: torch.Tensor
    word_slots: torch.Tensor
    word_slot_weights: torch.Tensor
    word_patches: torch.Tensor


class R2GenCMN(nn.Module):
    """The whole model: visual extractor, shared memory, encoder and decoder.

    Args:
        tokenizer: Its vocabulary; the model has `tokenizer.n_outputs` outputs.
        config: Sizes.
        visual_extractor: Module (n, 3, 224, 224) -> (n, d_vf, 7, 7) in place of the one `config` names (for another
            `config.image_size` its side, and a 32nd of it).

    Attributes:
        tokenizer, config: As given.
        visual_extractor: `patches.PatchExtractor`; the rest of the model never sees pixels.
    """

    def __init__(self, tokenizer: Tokenizer, config: CMNConfig, visual_extractor: nn.Module | None = None):
        super().__init__()
        self.tokenizer, self.config = tokenizer, config
        trunk = build_extractor(config.visual_extractor) if visual_extractor is None else visual_extractor
        self.visual_extractor = PatchExtractor(trunk, config.adaptive_pooling, config.image_size)
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
            side = self.config.image_size
            wanted = f"(n, {views}, 3, {side}, {side})" if views > 1 else f"(n, 3, {side}, {side})"
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

    def word_logits(self, x: torch.Tensor) -> torch.Tensor:
        """Last decoder layer (n, L, width) -> logits (n, L, V + 1)."""
        return self.output(self.decoder_norm(x))

    def _logits_after(self, encoded, ids, slot_trace=None, patch_trace=None) -> torch.Tensor:
        """Logits (n, L, V + 1) after each of given words (n, L): position j has seen words 0 to j."""
        seen = ids > 0
        seen[:, 0] = True  # the begin mark has id 0, like padding
        length = ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        visible = (seen[:, None, :] & causal)[:, None]  # (n, 1, L, L)
        x = self.embed_words(ids, trace=slot_trace)
        for layer, patches in zip(self.decoder, self.cross_keys(encoded), strict=True):
            x = layer(x, patches, visible, trace=patch_trace)
        return self.word_logits(x)

    def forward(
        self,
        images: torch.Tensor | None = None,
        ids: torch.Tensor | None = None,
        *,
        features: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """One training pass with teacher forcing: each word is predicted from the true words before it.

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
        logprobs = self._logits_after(self.encode(features), seen).log_softmax(dim=-1)
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
                self._logits_after(encoded, spoken, word_slots, patches)
        finally:
            self.train(was_training)
        asked = [part[:, 1:] for part in word_slots[0]]  # the begin mark's own query is of no interest
        looked = torch.stack([weights.transpose(1, 2) for weights in patches], dim=2)[:, :-1]
        return Explanation(*patch_slots[0], *asked, looked)

    def _features(self, images, features) -> torch.Tensor:
        if (images is None) == (features is None):
            raise ValueError("give either images or features, not both and not neither")
        return self.patch_features(images) if features is None else features
