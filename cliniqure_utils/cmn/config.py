"""Sizes of an R2GenCMN, and what its authors set for each of their two data sets."""

from dataclasses import asdict, dataclass

from cliniqure_utils.vision.grey import check_grey

MAX_POSITIONS = 5000  # rows of the published table of positions
PATCH = 32  # pixels; the stride of a ResNet's last map


@dataclass(frozen=True)
class DatasetSettings:
    """What the public R2GenCMN code sets for a data set.

    Attributes:
        threshold: Occurrences in the training reports from which on a word gets an id of its own.
        max_length: Most tokens of a report.
        n_views: Films per report, the frontal one first.
    """

    threshold: int
    max_length: int
    n_views: int


DATASETS = {
    "mimic_cxr": DatasetSettings(threshold=10, max_length=100, n_views=1),
    "iu_xray": DatasetSettings(threshold=3, max_length=60, n_views=2),
}


@dataclass(frozen=True)
class CMNConfig:
    """Sizes of a model; the defaults are the published MIMIC-CXR model's.

    `visual_extractor` is a name `patches.build_extractor` knows, or "custom" when a module was passed in.
    `feature_dropout` acts on the embedded patches and the output, `dropout` everywhere else; both in training only.
    `image_size` is the side of the square film that the model sees, in pixels (the published models': 224); patches are
    32 pixels wide. `grey` is the grey scale on which it sees films (`vision.grey.even_grey`).
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
    image_size: int = 224
    grey: str = "none"

    def __post_init__(self):
        if self.dataset not in DATASETS:
            raise ValueError(f"unknown data set {self.dataset!r}; expected one of {', '.join(DATASETS)}")
        if self.d_model % self.num_heads or self.d_model % 2:
            raise ValueError(f"d_model {self.d_model} must be even and a multiple of num_heads {self.num_heads}")
        if self.cmm_dim != self.d_model:
            raise ValueError(f"cmm_dim {self.cmm_dim} must equal d_model {self.d_model}: slots are queried as they are")
        if not 1 <= self.topk <= self.cmm_size:
            raise ValueError(f"topk {self.topk} must lie between 1 and the number of slots, {self.cmm_size}")
        if not 1 <= self.max_length <= MAX_POSITIONS:
            raise ValueError(f"max_length {self.max_length} must lie between 1 and {MAX_POSITIONS}")
        if self.image_size < PATCH or self.image_size % PATCH:
            raise ValueError(f"image_size {self.image_size} must be a multiple of {PATCH}, the side of a patch")
        check_grey(self.grey)

    @property
    def grid(self) -> int:
        """Patches per side of a film."""
        return self.image_size // PATCH

    @property
    def n_views(self) -> int:
        """Films per report, the frontal one first."""
        return DATASETS[self.dataset].n_views

    def to_dict(self) -> dict:
        return asdict(self)
