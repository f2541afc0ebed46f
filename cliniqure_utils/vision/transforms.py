"""Random changes of a film and its boxes in training."""

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from cliniqure_utils.vision.fast import _Affine, _TidyBoxes


def augmentation(
    rotate_probability: float = 0.5,
    rotate_degrees: float = 10.0,
    flip_probability: float = 0.5,
    shift: float = 0.0,
    zoom: float = 0.0,
    exposure: float = 0.0,
) -> v2.Transform:
    """Random transform of a film and its boxes.

    Args:
        rotate_probability: Share of films rotated (paper, table 3: 0.5).
        rotate_degrees: Largest angle; the paper gives none, 10 is ours.
        flip_probability: Share of films mirrored left to right (paper, table 3: 0.5). It moves the heart to the
            other side, which no film of a healthy patient shows: 0 keeps it where it belongs.
        shift: Largest shift as a share of the side (ours; 0 = none).
        zoom: Largest relative change of scale (ours; 0 = none).
        exposure: Standard deviation of a random gain and offset (ours; 0 = none).

    Returns:
        A transform for a dict of tv_tensors (image, boxes) and labels. Boxes that leave the film or become thinner than
        MIN_BOX_SIDE are removed together with their labels.
    """
    steps: list[v2.Transform] = []
    if rotate_probability > 0:
        move = _Affine(
            degrees=rotate_degrees,
            translate=(shift, shift) if shift else None,
            scale=(1 - zoom, 1 + zoom) if zoom else None,
        )
        steps.append(v2.RandomApply([move], p=rotate_probability))
    if flip_probability > 0:
        steps.append(v2.RandomHorizontalFlip(flip_probability))
    if exposure > 0:
        steps.append(_Exposure(exposure))
    return v2.Compose([*steps, _TidyBoxes()])


class _Exposure(v2.Transform):
    """Random gain and offset, as films differ in exposure. Values stay in [0, 1]. Source: ours."""

    def __init__(self, strength: float):
        super().__init__()
        self.strength = strength

    def forward(self, sample: dict) -> dict:
        gain, offset = (torch.randn(2) * self.strength).tolist()
        film = sample["image"].as_subclass(torch.Tensor)  # arithmetic on a tv_tensor takes a detour through Python
        film = (film * (1 + gain)).add_(offset).clamp_(0, 1)
        return {**sample, "image": tv_tensors.wrap(film, like=sample["image"])}
