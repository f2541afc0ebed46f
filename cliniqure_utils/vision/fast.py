"""Films, boxes and labels as torch data sets.

Films come from the cache that notebook 01 writes. They are resized to a square without keeping the aspect, as the
paper's table 3 does, and boxes move with them. Items hold tv_tensors, so that one random transform moves the film and
its boxes together.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.ops import MultiScaleRoIAlign
from torchvision.transforms import v2

MIN_BOX_SIDE = 1.0  # pixels of the model's input; thinner boxes have no area for RoIAlign


class _Affine(v2.RandomAffine):
    """torchvision's RandomAffine without shear: the same numbers in a third of the time.

    Its grid is the product of a matrix (pixels, 3) with one of (3, 2), which starts threads for little work, and its
    boxes pass through twenty small calls. Here one axis is added to the other. Source: ours.
    """

    def forward(self, sample: dict) -> dict:
        params = self.make_params([sample["image"]])
        how = params["angle"], params["translate"], params["scale"]
        film = tv_tensors.wrap(_turn_film(sample["image"].as_subclass(torch.Tensor), *how), like=sample["image"])
        boxes = sample["boxes"]
        if len(sample["labels"]):
            boxes = tv_tensors.wrap(_turn_boxes(boxes, boxes.canvas_size, *how), like=boxes)
        return {**sample, "image": film, "boxes": boxes}


def _turn_film(film: torch.Tensor, angle: float, translate: Sequence[float], scale: float) -> torch.Tensor:
    """Film (1, rows, columns) turned clockwise (degrees) and scaled about its centre, then shifted (pixels right and
    down); what comes from outside is 0."""
    rows, columns = film.shape[-2:]
    cos, sin = math.cos(math.radians(angle)) / scale, math.sin(math.radians(angle)) / scale
    right, down = translate
    # From a pixel of the result to where it comes from: centre at 0, sides from -1 to 1. In numpy, which starts no
    # threads for so little, and in two planes, which have long rows where pairs have none.
    from_x, from_y, shift = np.float32(
        [[cos, -sin], [sin, cos], [-cos * right - sin * down, sin * right - cos * down]]
    ) / (np.float32([columns, rows]) / 2)
    x = (np.arange(columns) - (columns - 1) / 2).astype(np.float32) * from_x[:, None]
    y = (np.arange(rows) - (rows - 1) / 2).astype(np.float32) * from_y[:, None]
    grid = x[:, None] + y[..., None]
    grid += shift[:, None, None]
    with_ones = np.ones((1, 2, rows, columns), np.float32)  # the second one fades the edge out, as torchvision does
    with_ones[0, 0] = film[0]
    grid = torch.from_numpy(grid).permute(1, 2, 0)[None]
    moved, known = F.grid_sample(torch.from_numpy(with_ones), grid, align_corners=False)[0]
    return moved.mul_(known)[None]


def _turn_boxes(
    boxes: torch.Tensor, canvas: tuple[int, int], angle: float, translate: Sequence[float], scale: float
) -> torch.Tensor:
    """Boxes (n, 4) on a film of canvas (rows, columns) moved with it: the box around the four moved corners."""
    cos, sin = scale * math.cos(math.radians(angle)), scale * math.sin(math.radians(angle))
    centre = np.array([canvas[1], canvas[0]]) / 2
    matrix = np.array([[cos, sin], [-sin, cos]])
    shift = (centre + translate - centre @ matrix).astype(np.float32)
    corners = boxes.numpy()[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    by_x, by_y = matrix.astype(np.float32)
    moved = corners[..., :1] * by_x + corners[..., 1:] * by_y + shift
    return torch.from_numpy(np.concatenate([moved.min(1), moved.max(1)], axis=1))


class _TidyBoxes(v2.Transform):
    """Cut boxes at the film's edge; remove those thinner than MIN_BOX_SIDE, with their labels.

    What torchvision's ClampBoundingBoxes and SanitizeBoundingBoxes do, which would be a third of an item's time: they
    walk through the sample four times, also where a film has no box. Source: ours.
    """

    def forward(self, sample: dict) -> dict:
        if not len(sample["labels"]):
            return sample
        rows, columns = sample["boxes"].canvas_size
        boxes = np.clip(sample["boxes"].numpy(), 0, np.float32([columns, rows, columns, rows]))
        thick = (boxes[:, 2:] - boxes[:, :2] >= MIN_BOX_SIDE).all(1)
        boxes = tv_tensors.wrap(torch.from_numpy(boxes[thick]), like=sample["boxes"])
        return {**sample, "boxes": boxes, "labels": sample["labels"][torch.from_numpy(thick)]}


class RoIAlignOnOneMap(MultiScaleRoIAlign):
    """RoIAlign with one sample in the middle of each bin of a single map, quick on a CPU.

    The same numbers as torchvision's `MultiScaleRoIAlign(["0"], output_size, sampling_ratio=1)`, whose backward pass
    runs on one thread there; written as `grid_sample` it is 3 to 4 times faster, and the demo detector's step 15 to
    20 % shorter. One difference: a region narrower than a cell, at the right or lower edge of the map, reads the edge
    where torchvision reads zeros.

    Args:
        output_size: Bins along each side of a region.
    """

    def __init__(self, output_size: int):
        super().__init__(["0"], output_size=output_size, sampling_ratio=1)

    def forward(
        self, maps: Mapping[str, torch.Tensor], boxes: Sequence[torch.Tensor], image_shapes: Sequence[tuple[int, int]]
    ) -> torch.Tensor:
        """One map (n, channels, h, w); per image boxes (k, 4), input pixels, within it; (height, width) of the images
        -> (regions of all images, channels, bins, bins)."""
        (features,) = maps.values()
        n, channels, height, width = features.shape
        bins, counts = self.output_size[0], [len(found) for found in boxes]
        most = max(counts)
        if most == 0:
            return features.new_zeros(0, channels, bins, bins)
        # Images have different numbers of regions; blank ones fill up the batch and are dropped below.
        padded = torch.stack([F.pad(found, (0, 0, 0, most - len(found))) for found in boxes]).to(features).detach()
        scale = 2.0 ** round(math.log2(height / max(shape[0] for shape in image_shapes)))  # as torchvision has it
        corner = padded[..., :2] * scale
        side = (padded[..., 2:] * scale - corner).clamp(min=1)
        middle = (torch.arange(bins, device=features.device, dtype=features.dtype) + 0.5) / bins
        x = (corner[..., :1] + side[..., :1] * middle) * (2 / max(width - 1, 1)) - 1
        y = (corner[..., 1:] + side[..., 1:] * middle) * (2 / max(height - 1, 1)) - 1
        shape = (n, most, bins, bins)
        grid = torch.stack([x[:, :, None, :].expand(shape), y[:, :, :, None].expand(shape)], dim=-1)
        grid = grid.reshape(n, most * bins, bins, 2)
        sampled = F.grid_sample(features, grid, mode="bilinear", padding_mode="border", align_corners=True)
        regions = sampled.view(n, channels, most, bins, bins).transpose(1, 2)
        return torch.cat([found[:count] for found, count in zip(regions, counts, strict=True)])


class JoinedMaps(nn.Conv2d):
    """A 1 x 1 convolution over maps of several strides and two coordinate channels: what it would give had all been
    enlarged to the finest map and laid on top of each other.

    It is applied to each map before that is enlarged (the two commute), and to the coordinates once for the batch: 5 to
    8 % of a training step of the demo's trunk less than with the pile of 290 channels.
    """

    def __init__(self, channels: Sequence[int], out_channels: int):
        super().__init__(sum(channels) + 2, out_channels, 1, bias=False)
        self.channels = tuple(channels)

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Maps, finest first, (n, channels[i], h, w) each -> (n, out_channels, h, w) of the finest."""
        *parts, of_place = self.weight.split([*self.channels, 2], dim=1)
        finest = maps[0]
        height, width = finest.shape[-2:]
        sides = [torch.linspace(-1, 1, n, device=finest.device, dtype=finest.dtype) for n in (height, width)]
        place = torch.stack(torch.meshgrid(*sides, indexing="ij"))[None]
        # A bias comes with batch normalisation that is folded into the weights.
        total = nn.functional.conv2d(finest, parts[0], self.bias) + nn.functional.conv2d(place, of_place)
        for smaller, weight in zip(maps[1:], parts[1:], strict=True):
            own = nn.functional.conv2d(smaller, weight)
            total = total + nn.functional.interpolate(own, size=(height, width), mode="bilinear")
        return total
