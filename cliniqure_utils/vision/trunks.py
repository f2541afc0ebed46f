"""Convolutional trunks that the detector, the classifier and the report model share.

All trunks take ImageNet-normalised images (`normalise`) and end in a stride-32 map, so 224 x 224 pixels become 7 x 7.
`resnet50` and `resnet101` are torchvision's, as in the paper. `tiny` is ours, for a laptop without downloads: the same
family (residual blocks with squeeze-and-excitation, built by timm), about one fortieth of the arithmetic.
"""

from pathlib import Path

import torch
from torch import nn

from cliniqure_utils.vision.fast import JoinedMaps

# torchvision's ImageNet statistics; torchvision's Faster R-CNN applies the same ones inside.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
TRUNKS = ("tiny", "resnet18", "resnet50", "resnet101")
TINY_CHANNELS = (32, 64, 96, 128)


class WeightsUnavailable(RuntimeError):
    """Named weights are not on this machine and cannot be fetched."""


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Float images (n, 3, height, width) in [0, 1] -> ImageNet-normalised, same shape."""
    mean = torch.tensor(IMAGENET_MEAN, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=images.device).view(1, 3, 1, 1)
    return (images - mean) / std


class Trunk(nn.Module):
    """A ResNet without its pooling and its last layer.

    Attributes:
        name: One of TRUNKS.
        stage_channels: Channels of the maps at strides 4, 8, 16 and 32.
        channels, out_channels: The last of them (torchvision's detector reads the second name).
        n_frozen: How many first parts training leaves as they are; see `freeze`.
    """

    def __init__(self, name: str, resnet: nn.Module, stage_channels: tuple[int, ...]):
        super().__init__()
        self.name = name
        self.stage_channels = stage_channels
        self.channels = self.out_channels = stage_channels[-1]
        activation = resnet.act1 if hasattr(resnet, "act1") else resnet.relu
        self.stem = nn.Sequential(resnet.conv1, resnet.bn1, activation, resnet.maxpool)
        self.layer1, self.layer2 = resnet.layer1, resnet.layer2
        self.layer3, self.layer4 = resnet.layer3, resnet.layer4
        self.n_frozen = 0

    def freeze(self, n_parts: int) -> None:
        """Leave the first `n_parts` of stem, layer1, ..., layer4 as they are in training, batch statistics too.

        Their backward pass, the dearest part of the trunk at full resolution, is then not made.

        Raises:
            ValueError: Not 0 to 5.

        Source: usual for detectors that start from trained weights (torchvision's default freezes two).
        """
        if not 0 <= n_parts <= 5:
            raise ValueError(f"a trunk has 5 parts (stem, layer1 to layer4) to freeze, found {n_parts}")
        self.n_frozen = n_parts
        for number, part in enumerate(self._parts()):
            part.requires_grad_(number >= n_parts)
        self.train(self.training)

    def _parts(self) -> tuple[nn.Module, ...]:
        return self.stem, self.layer1, self.layer2, self.layer3, self.layer4

    def train(self, mode: bool = True) -> "Trunk":
        """As in every module, but what is frozen stays in eval mode: its batch statistics do not move."""
        super().train(mode)
        for part in self._parts()[: self.n_frozen]:
            part.eval()
        return self

    def stages(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Normalised images (n, 3, H, W) -> four maps, strides 4, 8, 16, 32."""
        maps, x = [], self.stem(images)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            maps.append(x)
        return maps

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images (n, 3, H, W) -> (n, channels, H / 32, W / 32)."""
        return self.stages(images)[-1]


def build_trunk(name: str, weights: str | Path | None = None) -> Trunk:
    """Build a trunk.

    Args:
        name: One of TRUNKS.
        weights: None for random weights, "imagenet" for torchvision's (downloaded or cached), or a file: the
            .safetensors this project writes, or torchvision's own .pth (opened with weights_only=True).

    Raises:
        ValueError: Unknown name, or a file that does not fit.
        WeightsUnavailable: ImageNet weights are wanted and cannot be had, or the file is missing.
    """
    if name not in TRUNKS:
        raise ValueError(f"unknown trunk {name!r}; expected one of {', '.join(TRUNKS)}")
    if name == "tiny":
        from timm.models.resnet import BasicBlock, ResNet

        resnet = ResNet(
            BasicBlock, (1, 1, 1, 1), num_classes=0, stem_type="deep", stem_width=8, channels=TINY_CHANNELS,
            block_args={"attn_layer": "se"},
        )  # fmt: skip
        trunk = Trunk(name, resnet, TINY_CHANNELS)
    else:
        import torchvision

        resnet = getattr(torchvision.models, name)(weights=None)
        factor = 1 if name == "resnet18" else 4
        trunk = Trunk(name, resnet, tuple(factor * c for c in (64, 128, 256, 512)))
    if weights == "imagenet":
        _load_torchvision(trunk, _imagenet_state(name))
    elif weights is not None:
        _load_file(trunk, Path(weights))
    return trunk


def _imagenet_state(name: str) -> dict:
    import torchvision

    if name == "tiny":
        raise ValueError("the tiny trunk has no ImageNet weights; use None or a file")
    enum = torchvision.models.get_model_weights(name).DEFAULT
    try:
        return enum.get_state_dict(progress=False, check_hash=True)
    except OSError as error:  # urllib's errors are OSErrors
        raise WeightsUnavailable(
            f"ImageNet weights of {name} are not cached and could not be downloaded ({error}); "
            f"put {Path(enum.url).name} somewhere and give its path as the weights parameter, or set it to None"
        ) from error


def _load_torchvision(trunk: Trunk, state: dict) -> None:
    renamed = {}
    for key, value in state.items():
        if key.startswith("fc."):
            continue
        renamed[key.replace("conv1.", "stem.0.", 1) if key.startswith("conv1.") else
                key.replace("bn1.", "stem.1.", 1) if key.startswith("bn1.") else key] = value  # fmt: skip
    _load_strict(trunk, renamed, "the given weights")


def _load_file(trunk: Trunk, path: Path) -> None:
    if not path.is_file():
        raise WeightsUnavailable(f"weights file {path.name} does not exist (expected at {path})")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(path)
        if any(key.startswith("trunk.") for key in state):  # a body: trunk and neck in one file
            state = {k.removeprefix("trunk."): v for k, v in state.items() if k.startswith("trunk.")}
        _load_strict(trunk, state, path.name)
    else:
        _load_torchvision(trunk, torch.load(path, map_location="cpu", weights_only=True))


def _load_strict(trunk: nn.Module, state: dict, source: str) -> None:
    try:
        trunk.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"{source} does not fit trunk {trunk.name!r}: {str(error).splitlines()[-1].strip()}"
        ) from error


class TopDown(nn.Module):
    """A trunk with a small top-down neck: strides 8, 16 and 32 joined into one stride-8 map.

    Two coordinate channels go in beside the features, because where a shadow lies says much about what it is: a
    convolution alone cannot tell the cardiac border from the diaphragm.

    Source: ours, after Liu et al. 2018 (CoordConv).

    Attributes:
        out_channels: Channels of the map (torchvision's detector reads this name).
    """

    def __init__(self, trunk: Trunk, out_channels: int = 96):
        super().__init__()
        self.trunk = trunk
        self.out_channels = out_channels
        self.join = nn.Sequential(
            JoinedMaps(trunk.stage_channels[1:], out_channels), nn.BatchNorm2d(out_channels), nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU(),
        )  # fmt: skip

    def forward_with_deepest(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised images -> (map (n, out_channels, H / 8, W / 8), trunk's stride-32 map)."""
        maps = self.trunk.stages(images)[1:]
        return self.join(maps), maps[-1]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images (n, 3, H, W) -> (n, out_channels, H / 8, W / 8)."""
        return self.forward_with_deepest(images)[0]


def save_body(body: TopDown, path: str | Path) -> None:
    """Write trunk and neck as safetensors, atomically; `build_trunk("tiny", path)` and `load_body` read it."""
    from safetensors.torch import save_file

    from cliniqure_utils.runs import atomic_path

    with atomic_path(path) as temporary:
        save_file({k: v.contiguous() for k, v in body.state_dict().items()}, temporary, {"trunk": body.trunk.name})


def load_body(body: TopDown, path: str | Path) -> None:
    """Load what `save_body` wrote, strictly.

    Raises:
        WeightsUnavailable: The file is missing.
        ValueError: It does not fit.
    """
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise WeightsUnavailable(f"weights file {path.name} does not exist (expected at {path})")
    _load_strict(body, load_file(path), path.name)
