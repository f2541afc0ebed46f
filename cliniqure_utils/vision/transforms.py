"""Random changes of a film and its boxes in training."""

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from cliniqure_utils.vision import fast

MIN_BOX_SIDE = 1.0  # pixels of the model's input; a thinner box covers no pixel that the detector could learn from


def augmentation(
    rotate_probability: float = 0.5,
    rotate_degrees: float = 10.0,
    flip_probability: float = 0.5,
    shift: float = 0.0,
    zoom: float = 0.0,
    exposure: float = 0.0,
    plain: bool = False,
) -> v2.Transform:
    """Random transform of a film and its boxes.

    Args:
        rotate_probability: Share of films rotated (paper, table 3: 0.5).
        rotate_degrees: Largest angle; the paper gives none, 10 is ours.
        flip_probability: Share of films mirrored left to right (paper, table 3: 0.5). It moves the heart to the
            other side, which no film of a healthy patient shows: 0 keeps it where it belongs.
        shift: Largest shift of a rotated film as a share of the side (ours; 0 = none).
        zoom: Largest relative change of scale of a rotated film (ours; 0 = none).
        exposure: Standard deviation of a random gain and offset (ours; 0 = none).
        plain: Take torchvision's own transforms, not the faster twins of `vision.fast` with the same numbers.

    Returns:
        A transform for a dict of tv_tensors `image` (1, rows, columns) in [0, 1] and `boxes` (n, 4), pixels of the
        film, and of their `labels` (n,). Boxes are cut at the film's edge; those that leave the film or become thinner
        than MIN_BOX_SIDE are removed, with their labels.
    """
    if plain:
        random_affine = v2.RandomAffine
        tidy: list[v2.Transform] = [v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(min_size=MIN_BOX_SIDE)]
    else:
        random_affine, tidy = fast.RandomAffine, [fast.TidyBoxes(MIN_BOX_SIDE)]
    steps: list[v2.Transform] = []
    if rotate_probability > 0:
        move = random_affine(
            degrees=rotate_degrees,
            translate=(shift, shift) if shift else None,
            scale=(1 - zoom, 1 + zoom) if zoom else None,
            interpolation=v2.InterpolationMode.BILINEAR,
        )
        steps.append(Sometimes([move], p=rotate_probability))
    if flip_probability > 0:
        steps.append(v2.RandomHorizontalFlip(flip_probability))
    if exposure > 0:
        steps.append(Exposure(exposure))
    return v2.Compose([*steps, *tidy])


class Sometimes(v2.RandomApply):
    """torchvision's RandomApply, which does not print how often: what a transform prints is what a `FilmDataset` tells
    it from others by."""

    def extra_repr(self) -> str:
        return f"p={self.p}, {super().extra_repr().strip()}"


class Exposure(v2.Transform):
    """Random gain and offset, as films differ in exposure; values stay in [0, 1]. Source: ours.

    Args:
        strength: Standard deviation of both.
    """

    def __init__(self, strength: float):
        super().__init__()
        self.strength = strength

    def forward(self, sample: dict) -> dict:
        """Sample with `image`, a tv_tensor in [0, 1] -> the same with its grey values changed."""
        gain, offset = (torch.randn(2) * self.strength).tolist()
        film = sample["image"].as_subclass(torch.Tensor)  # arithmetic on a tv_tensor takes a detour through Python
        film = (film * (1 + gain)).add_(offset).clamp_(0, 1)
        return {**sample, "image": tv_tensors.wrap(film, like=sample["image"])}
