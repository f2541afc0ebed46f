"""Convolutional trunks that the detector, the classifier and the report model share.

All trunks take ImageNet-normalised images (`normalise`) and end in a stride-32 map, so 224 x 224 pixels become 7 x 7.
`resnet50` and `resnet101` are torchvision's, as in the paper. `tiny` is ours, for a laptop without downloads: the same
family (residual blocks with squeeze-and-excitation, built by timm), about one fortieth of the arithmetic.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from cliniqure_utils import pretrained
from cliniqure_utils.project import MissingWeights
from cliniqure_utils.runs import atomic_path
from cliniqure_utils.vision import fast

# torchvision's ImageNet statistics; torchvision's Faster R-CNN applies the same ones inside.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
TRUNKS = ("tiny", "resnet18", "resnet50", "resnet101")
TINY_CHANNELS = (32, 64, 96, 128)


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
        n_frozen, norm_frozen: What training leaves as it is; see `freeze`.
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
        self.n_frozen, self.norm_frozen = 0, False

    def freeze(self, n_parts: int, norm: bool = False) -> None:
        """Say what training leaves as it is; a later call replaces an earlier one.

        Args:
            n_parts: So many first parts of stem, layer1, ..., layer4: their weights and their batch statistics. No
                gradient is computed for them, which saves most where the maps are large.
            norm: The batch normalisation of all parts: its statistics, scale and shift. With 4 to 8 films in a step the
                statistics of the batch are noise.

        Raises:
            ValueError: n_parts is not 0 to 5.

        Source: torchvision's Faster R-CNN with ImageNet weights: two parts, and `FrozenBatchNorm2d` in all.
        """
        if not 0 <= n_parts <= 5:
            raise ValueError(f"a trunk has 5 parts (stem, layer1 to layer4) to freeze, found {n_parts}")
        self.n_frozen, self.norm_frozen = n_parts, norm
        for number, part in enumerate(self._parts()):
            part.requires_grad_(number >= n_parts)
        for module in self._frozen_modules():
            module.requires_grad_(False)
        self.train(self.training)

    def _parts(self) -> tuple[nn.Module, ...]:
        return self.stem, self.layer1, self.layer2, self.layer3, self.layer4

    def _frozen_modules(self) -> list[nn.Module]:
        norms = [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)] if self.norm_frozen else []
        return [*self._parts()[: self.n_frozen], *norms]

    def train(self, mode: bool = True) -> "Trunk":
        """As in every module, but what is frozen stays in eval mode: its batch statistics do not move."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    def stages(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Normalised images (n, 3, H, W) -> four maps, strides 4, 8, 16, 32."""
        if images.device.type == "cpu":  # there, convolutions of maps that keep their channels together are faster
            images = images.contiguous(memory_format=torch.channels_last)
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
        weights: None for random weights, "imagenet" for torchvision's (downloaded or cached), "pretrained" for our own
            of the tiny trunk, or a file: the .safetensors this project writes, or torchvision's own .pth (opened with
            weights_only=True).

    Raises:
        ValueError: Unknown name, weights that there are not for this trunk, or a file that does not fit.
        MissingWeights: ImageNet weights are wanted and cannot be downloaded, or a file is missing or damaged.
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
    elif weights == "pretrained":
        if name != "tiny":
            raise ValueError(f'only the tiny trunk has pretrained weights of our own; {name} has "imagenet"')
        trunk.load_state_dict(pretrained_body().trunk.state_dict())
    elif weights is not None:
        _load_file(trunk, Path(weights))
    return trunk


def _imagenet_state(name: str) -> dict:
    import torchvision

    if name == "tiny":
        raise ValueError('the tiny trunk has no ImageNet weights; use "pretrained", a file or None')
    enum = torchvision.models.get_model_weights(name).DEFAULT
    try:
        return enum.get_state_dict(progress=False, check_hash=True)
    except OSError as error:  # urllib's errors are OSErrors
        raise MissingWeights(
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
        raise MissingWeights(f"weights file {path.name} does not exist (expected at {path})")
    if path.suffix == ".safetensors":
        from safetensors.torch import load

        state = load(path.read_bytes())  # a mapped file could not be replaced on Windows
        if any(key.startswith("trunk.") for key in state):  # a body: trunk and neck in one file
            state = {k.removeprefix("trunk."): v for k, v in state.items() if k.startswith("trunk.")}
        _load_strict(trunk, state, path.name)
    else:
        _load_torchvision(trunk, torch.load(path, map_location="cpu", weights_only=True))


def _load_strict(module: nn.Module, state: dict, source: str) -> None:
    trunk = module.trunk if isinstance(module, TopDown) else module
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"{source} does not fit trunk {trunk.name!r}: {str(error).splitlines()[-1].strip()}"
        ) from error


class PiledMaps(nn.Conv2d):
    """Maps of several strides -> one map: all are enlarged to the finest and stacked along the channels with two
    coordinate channels (row and column, from -1 to 1), and a 1 x 1 convolution mixes the stack.

    The coordinates go in because where a shadow lies says much about what it is: a convolution alone cannot tell the
    cardiac border from the diaphragm. The faster twin is `fast.JoinedMaps`.

    Args:
        channels: Of each map, finest first.
        out_channels: Of the result.

    Source: ours, after Liu et al. 2018 (CoordConv).
    """

    def __init__(self, channels: Sequence[int], out_channels: int):
        super().__init__(sum(channels) + 2, out_channels, 1, bias=False)

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Maps, finest first, (n, channels[i], h, w) each -> (n, out_channels, h, w) of the finest."""
        n, _, height, width = maps[0].shape
        enlarged = [F.interpolate(smaller, size=(height, width), mode="bilinear") for smaller in maps]
        row = torch.linspace(-1, 1, height, device=maps[0].device).view(1, 1, height, 1).expand(n, 1, height, width)
        column = torch.linspace(-1, 1, width, device=maps[0].device).view(1, 1, 1, width).expand(n, 1, height, width)
        return super().forward(torch.cat([*enlarged, row, column], dim=1))


class TopDown(nn.Module):
    """A trunk with a small top-down neck: strides 8, 16 and 32 joined into one stride-8 map. Source: ours.

    Args:
        trunk: Its maps at strides 8, 16 and 32 are joined.
        out_channels: Channels of the joined map.
        plain: Join by `PiledMaps`, not by its faster twin; weights and numbers are the same.

    Attributes:
        out_channels: Channels of the map (torchvision's detector reads this name).
        neck_frozen: Training leaves the neck as it is; see `freeze`.
    """

    def __init__(self, trunk: Trunk, out_channels: int = 96, plain: bool = False):
        super().__init__()
        self.trunk = trunk
        self.out_channels, self.neck_frozen = out_channels, False
        joined_maps = PiledMaps if plain else fast.JoinedMaps
        self.join = nn.Sequential(
            joined_maps(trunk.stage_channels[1:], out_channels), nn.BatchNorm2d(out_channels), nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU(),
        )  # fmt: skip

    def freeze(self, n_parts: int, norm: bool = False) -> None:
        """As `Trunk.freeze`, with the neck as a sixth part: 6 leaves the whole body as it is.

        Raises:
            ValueError: n_parts is not 0 to 6.
        """
        if not 0 <= n_parts <= 6:
            raise ValueError(f"a body has 6 parts (stem, layer1 to layer4, neck) to freeze, found {n_parts}")
        self.trunk.freeze(min(n_parts, 5), norm)
        self.neck_frozen = n_parts == 6
        self.join.requires_grad_(not self.neck_frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> "TopDown":
        """As in every module, but what is frozen stays in eval mode."""
        super().train(mode)
        if self.neck_frozen:
            self.join.eval()
        return self

    def forward_with_deepest(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised images -> (map (n, out_channels, H / 8, W / 8), trunk's stride-32 map)."""
        maps = self.trunk.stages(images)[1:]
        return self.join(maps), maps[-1]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images (n, 3, H, W) -> (n, out_channels, H / 8, W / 8)."""
        return self.forward_with_deepest(images)[0]


class Pyramid(nn.Module):
    """A trunk with torchvision's feature pyramid: maps at strides 4 to 64 with 256 channels each.

    torchvision's own `BackboneWithFPN` takes the trunk apart, so that its frozen parts would be trained again.

    Attributes:
        out_channels: Channels of every map (torchvision's detector reads this name).
    """

    def __init__(self, trunk: Trunk, out_channels: int = 256):
        super().__init__()
        self.out_channels = out_channels
        self.body = trunk
        self.fpn = FeaturePyramidNetwork(list(trunk.stage_channels), out_channels, extra_blocks=LastLevelMaxPool())

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Normalised images (n, 3, H, W) -> maps "0" to "3" (strides 4 to 32) and "pool" (64)."""
        return self.fpn({str(number): stage for number, stage in enumerate(self.body.stages(images))})


def save_body(body: TopDown, path: str | Path) -> None:
    """Write trunk and neck as safetensors, atomically; `build_trunk("tiny", path)` and `load_body` read it."""
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        save_file({k: v.contiguous() for k, v in body.state_dict().items()}, temporary, {"trunk": body.trunk.name})


def load_body(body: TopDown, path: str | Path) -> None:
    """Load what `save_body` wrote, strictly.

    Raises:
        MissingWeights: The file is missing.
        ValueError: It does not fit.
    """
    from safetensors.torch import load

    path = Path(path)
    if not path.is_file():
        raise MissingWeights(f"weights file {path.name} does not exist (expected at {path})")
    _load_strict(body, load(path.read_bytes()), path.name)


def pretrained_body(folder: Path = pretrained.FOLDER) -> TopDown:
    """Trunk and neck of our own pretrained eyes, the demo's stand-in for ImageNet.

    Args:
        folder: Where the part "eyes" lies (`pretrained.load_part`).

    Raises:
        MissingWeights: The part is missing or damaged.
        ValueError: It does not fit this network.
    """
    state, body = pretrained.load_part("eyes", folder), TopDown(build_trunk("tiny"))
    of_body = {name.removeprefix("body."): value for name, value in state.items() if name.startswith("body.")}
    _load_strict(body, of_body, "eyes.safetensors")
    return body
