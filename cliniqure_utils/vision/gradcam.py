"""Where a classifier looks: Grad-CAM, and the pointing game that scores it against boxes.

Works on any network with a last convolutional map, through hooks that are removed afterwards.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


def last_map(model: nn.Module) -> nn.Module:
    """The module whose output is the last map before pooling.

    The joined map of our small classifier's body, the last stage that timm names for its networks, else the last
    convolution.

    Raises:
        ValueError: The model has no convolution.
    """
    if hasattr(model, "body"):
        return model.body.join
    network = getattr(model, "network", model)
    stages = getattr(network, "feature_info", None)
    if stages:
        return network.get_submodule(stages[-1]["module"])
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    if not convolutions:
        raise ValueError(f"{type(network).__name__} has no convolutional map to look at")
    return convolutions[-1]


def grad_cam(
    model: nn.Module, images: torch.Tensor, classes: Sequence[int], layer: nn.Module | None = None
) -> np.ndarray:
    """Grad-CAM of one class per film.

    Args:
        model: A classifier whose forward returns a dict with `logits` (n, k); it is put into eval mode.
        images: (n, 1, H, W) in [0, 1].
        classes: Index of the class to explain, per film.
        layer: Module whose output map is used. None: `last_map(model)`.

    Returns:
        float32 (n, H, W) in [0, 1], each map's largest value 1, or all 0 where nothing speaks for the class.

    Raises:
        ValueError: Not one class per film.

    Source: Selvaraju et al. 2017 (arXiv 1610.02391): channels weighted by their mean gradient, summed, negatives cut.
    """
    if len(classes) != len(images):
        raise ValueError(f"expected one class per film, found {len(classes)} for {len(images)} films")
    kept = {}

    def keep(module, inputs, output):
        output.retain_grad()
        kept["map"] = output

    model.eval()
    hook = (layer if layer is not None else last_map(model)).register_forward_hook(keep)
    try:
        with torch.enable_grad():
            logits = model(images.detach().clone().requires_grad_())["logits"]
            logits[torch.arange(len(images)), torch.as_tensor(classes)].sum().backward()
    finally:
        hook.remove()
        model.zero_grad(set_to_none=True)
    features, gradient = kept["map"].detach(), kept["map"].grad
    maps = F.relu((features * gradient.mean((2, 3), keepdim=True)).sum(1, keepdim=True))
    maps = F.interpolate(maps, size=images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    peak = maps.amax((1, 2), keepdim=True)
    return torch.where(peak > 0, maps / peak.clamp(min=1e-12), maps).float().cpu().numpy()


def pointing_game(maps: np.ndarray, boxes: Sequence[np.ndarray], tolerance: float = 0.0) -> np.ndarray:
    """Whether the strongest place of each map lies in one of its boxes.

    Args:
        maps: (n, H, W).
        boxes: Per map (k, 4) x_min, y_min, x_max, y_max in pixels of the map.
        tolerance: Boxes are widened by so many pixels.

    Returns:
        float (n,): 1 for a hit, 0 for a miss (also where the map is flat), NaN where there is no box. Its nanmean is
        the hit rate; the rate of a blind guess is `box_share`.

    Source: Zhang et al. 2016 (top-down neural attention, arXiv 1608.00507).
    """
    hits = np.full(len(maps), np.nan)
    for n, (heat, found) in enumerate(zip(maps, boxes, strict=True)):
        found = np.asarray(found, dtype=float).reshape(-1, 4)
        if len(found) == 0:
            continue
        y, x = np.unravel_index(np.argmax(heat), heat.shape)
        low, high = found[:, :2] - tolerance, found[:, 2:] + tolerance
        inside = (low <= (x + 0.5, y + 0.5)).all(1) & ((x + 0.5, y + 0.5) <= high).all(1)
        hits[n] = float(inside.any() and heat.max() > heat.min())
    return hits


def box_share(boxes: Sequence[np.ndarray], size: int) -> np.ndarray:
    """Share of a size x size film that its boxes cover (n,): how often a blind point would hit. NaN without a box."""
    shares = np.full(len(boxes), np.nan)
    for n, found in enumerate(boxes):
        found = np.asarray(found, dtype=float).reshape(-1, 4)
        if len(found):
            mask = np.zeros((size, size), dtype=bool)
            for x_min, y_min, x_max, y_max in found:
                mask[round(y_min) : round(y_max), round(x_min) : round(x_max)] = True
            shares[n] = mask.mean()
    return shares
