"""Each twin of `vision.fast` against the plain code that it must equal."""

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.ops import MultiScaleRoIAlign

from cliniqure_utils.vision import fast, transforms, trunks


def test_joined_maps_are_the_piled_maps():
    torch.manual_seed(0)
    plain, twin = (kind((64, 96, 128), 24).double() for kind in (trunks.PiledMaps, fast.JoinedMaps))
    twin.load_state_dict(plain.state_dict())
    maps = [torch.rand(2, n, *side) for n, side in ((64, (20, 12)), (96, (10, 6)), (128, (5, 3)))]
    answers, slopes = [], []
    for layer in (plain, twin):
        given = [part.double().requires_grad_() for part in maps]
        answer = layer(given)
        (answer * torch.linspace(0, 1, answer.numel()).view_as(answer)).sum().backward()
        answers.append(answer.detach())
        slopes.append([layer.weight.grad, *(part.grad for part in given)])
    assert answers[0].shape == (2, 24, 20, 12)
    torch.testing.assert_close(answers[0], answers[1], rtol=0, atol=1e-7)
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-6, atol=1e-6)


def test_films_and_boxes_move_as_torchvision_moves_them():
    moves = dict(rotate_probability=0.9, rotate_degrees=25.0, flip_probability=0.5, shift=0.2, zoom=0.3)
    plain, twins = (transforms.augmentation(**moves, plain=plain) for plain in (True, False))
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
        expected = plain(sample)
        torch.manual_seed(seed)
        found = twins(sample)
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


def test_a_detector_of_twins_has_the_losses_of_the_plain_one(small_detector):
    generator = torch.Generator().manual_seed(0)
    films = torch.rand(2, 1, 64, 64, generator=generator)
    boxes, labels = [torch.tensor([[4.0, 8.0, 40.0, 50.0], [20.0, 2.0, 36.0, 20.0]])] * 2, [torch.tensor([4, 9])] * 2
    plain, twins = small_detector(plain=True).double(), small_detector().double()
    twins.load_state_dict(plain.state_dict())
    kinds = [{type(part).__name__ for part in detector.modules()} for detector in (plain, twins)]
    assert kinds[0] - kinds[1] == {"PiledMaps", "CompiledRoIAlign"}
    assert kinds[1] - kinds[0] == {"JoinedMaps", "RoIAlignOnOneMap"}
    losses = []
    for detector in (plain, twins):
        torch.manual_seed(1)  # the sampler draws
        losses.append(detector.train()(films.double(), [found.double() for found in boxes], labels))
    for name, value in losses[0].items():
        torch.testing.assert_close(losses[1][name], value, rtol=1e-6, atol=1e-8)
