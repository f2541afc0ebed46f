"""From a film to patch features, 49 in the published models: R2GenCMN's visual extractor."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from cliniqure_utils.cmn.config import PATCH
from cliniqure_utils.cmn.fused import fused
from cliniqure_utils.cmn.kept import Kept
from cliniqure_utils.vision.classification import HeatmapClassifier
from cliniqure_utils.vision.grey import even_grey
from cliniqure_utils.vision.trunks import TopDown, build_trunk, load_body, normalise
from cliniqure_utils.vocabulary import FINDINGS

SIDE = 224  # pixels of the published models' square input


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Grey image (height, width), uint8 or float in [0, 1] -> uint8, rounded."""
    image = np.asarray(image)
    if image.ndim != 2:
        raise ValueError(f"expected one grey image (height, width), found an array of shape {image.shape}")
    if image.dtype == np.uint8:
        return image
    if not np.issubdtype(image.dtype, np.floating) or not (0 <= image.min() and image.max() <= 1):
        raise ValueError(f"expected uint8 or floats in [0, 1], found {image.dtype} in [{image.min()}, {image.max()}]")
    return np.round(image * 255).astype(np.uint8)


def preprocess(image: np.ndarray, grey: str = "none", side: int = SIDE) -> torch.Tensor:
    """The model's input from a film: a square whatever the aspect, three equal channels, ImageNet-normalised.

    Args:
        image: (height, width) grey, uint8 or float in [0, 1]; dense tissue bright.
        grey: Grey scale on which the model sees films (`vision.grey.even_grey`).
        side: Of the square, pixels.

    Returns:
        float32 (3, side, side), normalised.

    Source: public code of R2GenCMN (bilinear with antialiasing, on 8-bit pixels).
    """
    small = Image.fromarray(to_uint8(image)).resize((side, side), Image.Resampling.BILINEAR)
    small = even_grey(torch.from_numpy(np.array(small))[None], grey)
    return normalise(small.float().div(255).expand(1, 3, side, side))[0]


class TinyPatches(nn.Module):
    """The trunk for a laptop: `TopDown`, its fine map pooled to the 7 x 7 grid and joined with the trunk's last map.

    Of each patch of the fine map both mean and maximum are kept: a small shadow shows in the maximum and drowns in the
    mean. Source: ours.
    """

    def __init__(self):
        super().__init__()
        self.body = TopDown(build_trunk("tiny"))
        self.channels = 2 * self.body.out_channels + self.body.trunk.channels

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised (n, 3, 224, 224) -> (n, channels, 7, 7)."""
        fine, deep = self.body.forward_with_deepest(images)
        return torch.cat([*_pooled(fine, deep), deep], dim=1)


class EyesPatches(nn.Module):
    """What the classifier of a laptop sees, as patches: `TinyPatches` and its 14 heat maps beside it.

    The heat maps say where on the film which finding lies, which is what a report has to put into words. Source: ours.
    """

    def __init__(self):
        super().__init__()
        self.eyes = HeatmapClassifier()
        self.channels = 2 * self.eyes.body.out_channels + 2 * len(FINDINGS) + self.eyes.body.trunk.channels

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised (n, 3, side, side) -> (n, channels, side / 32, side / 32)."""
        fine, deep = self.eyes.body.forward_with_deepest(images)
        heatmap = self.eyes.heatmap(fine)
        return torch.cat([*_pooled(fine, deep), *_pooled(heatmap, deep), deep], dim=1)


def _pooled(fine: torch.Tensor, deep: torch.Tensor) -> list[torch.Tensor]:
    """Mean and maximum of a fine map in each cell of a coarse one."""
    pools = nn.functional.adaptive_avg_pool2d, nn.functional.adaptive_max_pool2d
    return [pool(fine, deep.shape[-2:]) for pool in pools]


def build_extractor(name: str, weights: str | Path | None = None) -> nn.Module:
    """Build a trunk by name: normalised images (n, 3, 224, 224) -> (n, channels, 7, 7).

    Args:
        name: "tiny"; "eyes", whose weights come with those of a whole report model; or a ResNet of
            `vision.trunks.TRUNKS`: torchvision's, without its last two layers.
        weights: None for random ones; for a ResNet as in `build_trunk` ("imagenet" or a file); for "tiny" the
            trunk.safetensors that notebook 02 writes.

    Raises:
        ValueError: Unknown name, or weights that do not fit.
        project.MissingWeights: The weights are missing and cannot be fetched.
    """
    if name == "tiny":
        tiny = TinyPatches()
        if weights is not None:
            load_body(tiny.body, weights)
        return tiny
    if name == "eyes":
        return EyesPatches()
    trunk = build_trunk(name, weights)
    return nn.Sequential(*trunk.stem, trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4)


class PatchExtractor(nn.Module):
    """Runs a trunk and lays its map out as a list of patches, row by row from the upper left.

    In eval mode without gradients a fused copy of the trunk does the work (see `fused`), made once and kept until a
    weight changes. The trunk itself, which is trained and saved, is never touched.

    Args:
        trunk: nn.Module, (n, 3, side, side) -> (n, d_vf, side / 32, side / 32).
        adaptive_pooling: Accept other image sizes and average the map to that grid; off, they are an error.
        side: Of the square films, pixels.

    Attributes:
        fuse: False: the trunk itself always does the work.
    """

    def __init__(self, trunk: nn.Module, adaptive_pooling: bool = False, side: int = SIDE):
        super().__init__()
        self.model = trunk
        self.side = side
        self.adaptive_pooling = adaptive_pooling
        self.fuse = True
        self._kept = Kept()

    def _trunk(self) -> nn.Module:
        """The fused copy where nothing is learned, else the trunk."""
        looking = self.fuse and not torch.is_grad_enabled() and not any(part.training for part in self.model.modules())
        if not looking:
            self._kept.forget()
            return self.model
        return self._kept.get([*self.model.parameters(), *self.model.buffers()], lambda: fused(self.model))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised (n, 3, side, side), or (n, views, 3, side, side) -> (n, views * patches, d_vf)."""
        if images.ndim == 5:
            return torch.cat([self(view) for view in images.unbind(1)], dim=1)
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"expected images (n, 3, {self.side}, {self.side}), found {tuple(images.shape)}")
        if tuple(images.shape[-2:]) != (self.side, self.side) and not self.adaptive_pooling:
            raise ValueError(
                f"expected {self.side} x {self.side} pixels, found {images.shape[-2]} x {images.shape[-1]}; "
                f"resize with cmn.preprocess, or build the model with adaptive_pooling=True"
            )
        trunk = self._trunk()
        if trunk is not self.model:
            images = images.contiguous(memory_format=torch.channels_last)
        maps = trunk(images)
        grid = self.side // PATCH
        if tuple(maps.shape[-2:]) != (grid, grid):
            maps = nn.functional.adaptive_avg_pool2d(maps, grid)
        return maps.flatten(2).transpose(1, 2)
