"""Each twin of `vision.fast` against the plain code that it must equal."""

import numpy as np
import torch
from torchvision.ops import MultiScaleRoIAlign

from cliniqure_utils.vision import fast, transforms, trunks


def test_the_fine_map_is_that_of_enlarged_maps_and_coordinates_laid_on_top_of_each_other():
    torch.manual_seed(0)
    body = trunks.TopDown(trunks.build_trunk("tiny")).eval()
    maps = body.trunk.stages(torch.rand(2, 3, 160, 96))[1:]
    height, width = 20, 12  # 160 and 96 over the stride of 8
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 20, 12), (96, 10, 6), (128, 5, 3)]
    enlarged = [torch.nn.functional.interpolate(m, size=(height, width), mode="bilinear") for m in maps]
    down = torch.linspace(-1, 1, height)[:, None].expand(2, 1, height, width)
    across = torch.linspace(-1, 1, width).expand(2, 1, height, width)
    wanted = torch.nn.functional.conv2d(torch.cat([*enlarged, down, across], 1), body.join[0].weight)
    torch.testing.assert_close(body.join[0](maps), wanted, atol=1e-5, rtol=1e-5)


def test_films_and_boxes_move_as_torchvision_moves_them():
    """Ours is faster; torchvision's own transforms, with the same random numbers, are the reference."""
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    move = v2.RandomAffine(
        25.0, translate=(0.2, 0.2), scale=(0.7, 1.3), interpolation=v2.InterpolationMode.BILINEAR, fill=0
    )
    reference = v2.Compose(
        [
            v2.RandomApply([move], p=0.9),
            v2.RandomHorizontalFlip(0.5),
            v2.ClampBoundingBoxes(),
            v2.SanitizeBoundingBoxes(min_size=fast.MIN_BOX_SIDE, labels_getter=lambda sample: sample["labels"]),
        ]
    )
    ours = transforms.augmentation(0.9, 25.0, 0.5, shift=0.2, zoom=0.3)
    numbers = np.random.default_rng(0)
    removed = 0
    for seed in range(120):
        corners = numbers.uniform(0, 1, (seed % 5, 2, 2)) * [40, 56]  # a film of 56 rows and 40 columns
        boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1).astype(np.float32)
        sample = {
            "image": tv_tensors.Image(numbers.random((1, 56, 40), np.float32)),
            "boxes": tv_tensors.BoundingBoxes(torch.from_numpy(boxes), format="XYXY", canvas_size=(56, 40)),
            "labels": torch.arange(len(boxes)),
        }
        torch.manual_seed(seed)
        expected = reference(sample)
        torch.manual_seed(seed)
        found = ours(sample)
        torch.testing.assert_close(found["image"], expected["image"], rtol=0, atol=1e-5)
        torch.testing.assert_close(found["boxes"], expected["boxes"], rtol=0, atol=1e-4)
        assert found["labels"].tolist() == expected["labels"].tolist()
        removed += len(boxes) - len(found["labels"])
    assert removed > 5, "boxes that left the film or became thin must be among those compared"


def test_roi_align_on_one_map_is_torchvisions():
    torch.manual_seed(0)
    corner = torch.rand(9, 2) * torch.tensor([150.0, 80.0])
    tall = torch.cat([corner, corner + torch.rand(9, 2) * 40], dim=1)
    edges = torch.tensor([[0.0, 0.0, 192.0, 128.0], [180.0, 119.0, 192.0, 128.0], [40.0, 50.0, 40.5, 50.2]])
    boxes = [tall, torch.zeros(0, 4), edges]
    shapes = [(128, 192)] * 3
    answers, slopes = [], []
    for pool in (fast.RoIAlignOnOneMap(7), MultiScaleRoIAlign(["0"], output_size=7, sampling_ratio=1)):
        features = torch.rand(3, 5, 16, 24, generator=torch.Generator().manual_seed(1), requires_grad=True)
        regions = pool({"0": features}, boxes, shapes)
        (regions * torch.linspace(0, 1, regions.numel()).view_as(regions)).sum().backward()
        answers.append(regions.detach())
        slopes.append(features.grad)
    assert answers[0].shape == (12, 5, 7, 7)
    torch.testing.assert_close(answers[0], answers[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-4, atol=1e-5)
    assert slopes[0][1].abs().max() == 0  # the film without a region


def test_roi_align_on_one_map_by_hand():
    pool = fast.RoIAlignOnOneMap(2)
    columns = torch.arange(8.0).expand(1, 1, 8, 8)  # every cell holds its column
    # Pixels 8 to 24 are columns 1 to 3 of a map of stride 8: the middles of two bins lie at 1.5 and 2.5.
    found = pool({"0": columns}, [torch.tensor([[8.0, 0.0, 24.0, 16.0]])], [(64, 64)])
    torch.testing.assert_close(found, torch.tensor([[1.5, 2.5], [1.5, 2.5]]).view(1, 1, 2, 2))
    # Two pixels at the right edge: a region is at least a cell wide, 7.75 to 8.75; the map goes on as it ends, at 7.
    assert pool({"0": columns}, [torch.tensor([[62.0, 0.0, 64.0, 16.0]])], [(64, 64)]).unique().tolist() == [7.0]
    assert pool({"0": columns}, [torch.zeros(0, 4)], [(64, 64)]).shape == (0, 1, 2, 2)
