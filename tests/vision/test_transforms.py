"""Random moves take film, boxes and labels along together."""

import torch

from cliniqure_utils.vision import transforms


def test_a_flip_moves_film_and_boxes_together_and_keeps_labels_in_step():
    film = torch.zeros(1, 10, 10)
    film[0, 2:4, 1:3] = 1
    from torchvision import tv_tensors

    flip = transforms.augmentation(rotate_probability=0, flip_probability=1.0)
    moved = flip(
        {
            "image": tv_tensors.Image(film),
            "boxes": tv_tensors.BoundingBoxes([[1, 2, 3, 4], [0, 0, 0.2, 9]], format="XYXY", canvas_size=(10, 10)),
            "labels": torch.tensor([7, 3]),
        }
    )
    assert moved["boxes"].tolist() == [[7, 2, 9, 4]], "the thin box goes, the other is mirrored"
    assert moved["labels"].tolist() == [7]
    assert moved["image"][0, 2:4, 7:9].min() == 1


def test_a_turned_film_stays_inside_its_turned_box():
    from torchvision import tv_tensors

    film = torch.zeros(1, 64, 64)
    film[0, 24:40, 20:50] = 1  # 30 x 16 pixels
    turn = transforms.augmentation(rotate_probability=0.5, rotate_degrees=10.0, flip_probability=0.5)
    box = tv_tensors.BoundingBoxes([[20.0, 24.0, 50.0, 40.0]], format="XYXY", canvas_size=(64, 64))
    sample = {"image": tv_tensors.Image(film), "boxes": box, "labels": torch.tensor([5])}
    torch.manual_seed(0)
    straight = mirrored = 0
    for _ in range(400):
        moved = turn(sample)
        x_min, y_min, x_max, y_max = moved["boxes"][0].tolist()
        bright = (moved["image"][0] > 0.5).nonzero()
        assert y_min - 1 <= bright[:, 0].min() and bright[:, 0].max() <= y_max
        assert x_min - 1 <= bright[:, 1].min() and bright[:, 1].max() <= x_max
        # A 30 x 16 box turned by a spans 30 cos a + 16 sin a by 16 cos a + 30 sin a, at most this at 10 degrees.
        assert x_max - x_min <= 32.4 and y_max - y_min <= 21.0
        straight += (y_max - y_min) < 16.01
        mirrored += (x_min + x_max) < 64 - 3 and (y_max - y_min) < 16.01
    assert 170 <= straight <= 230 and 79 <= mirrored <= 121, "half of 400, half of those: three standard deviations"
