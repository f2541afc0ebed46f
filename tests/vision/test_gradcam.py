"""Where a classifier looks: Grad-CAM and the pointing game by hand."""

import numpy as np
import pytest
import torch

from cliniqure_utils.vision import classification, gradcam


class Blobs(torch.nn.Module):
    """Class 0 is the mean brightness, class 1 the mean darkness; the map is the film itself."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 2, 1, bias=False)
        self.conv.weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)

    def forward(self, image):
        return {"logits": self.conv(image).mean((2, 3))}


def test_grad_cam_by_hand():
    film = torch.zeros(2, 1, 8, 8)
    film[0, 0, 2:4, 5:7], film[1, 0, 0, 0] = 0.8, 0.4
    maps = gradcam.grad_cam(Blobs(), film, [0, 0])
    np.testing.assert_allclose(maps, (film / film.amax((2, 3), keepdim=True))[:, 0], atol=1e-6)
    assert gradcam.grad_cam(Blobs(), film, [1, 1]).max() == 0, "nothing speaks for darkness"
    with pytest.raises(ValueError, match="one class per film, found 1 for 2"):
        gradcam.grad_cam(Blobs(), film, [0])
    with pytest.raises(ValueError, match="no convolutional map"):
        gradcam.last_map(torch.nn.Linear(1, 1))


@pytest.mark.parametrize("name, weight", [("seresnet_tiny", 2.0), ("seresnet18", 0.0), ("test_resnet", 1.0)])
def test_grad_cam_of_our_classifiers(name, weight):
    torch.manual_seed(0)
    model = classification.build_classifier(name, heatmap_weight=weight).train()
    maps = gradcam.grad_cam(model, torch.rand(2, 1, 64, 64), [3, 14])
    assert maps.shape == (2, 64, 64) and maps.dtype == np.float32 and 0 <= maps.min() <= maps.max() <= 1
    assert all(p.grad is None for p in model.parameters()), "it leaves no gradient behind"
    with torch.no_grad():
        gradcam.grad_cam(model, torch.rand(1, 1, 64, 64), [0])


def test_pointing_game_by_hand():
    maps = np.zeros((4, 8, 8))
    maps[0, 2, 5] = maps[1, 0, 0] = maps[3, 7, 7] = 1  # the third map is flat
    boxes = [
        np.array([[5, 2, 7, 4]]),
        np.array([[1, 1, 4, 4], [4, 4, 8, 8]]),
        np.array([[0, 0, 8, 8]]),
        np.zeros((0, 4)),
    ]
    np.testing.assert_array_equal(gradcam.pointing_game(maps, boxes), [1, 0, 0, np.nan])
    np.testing.assert_array_equal(gradcam.pointing_game(maps, boxes, tolerance=1), [1, 1, 0, np.nan])
    # 2 x 2 of 64; 3 x 3 + 4 x 4 without overlap; all
    np.testing.assert_allclose(gradcam.box_share(boxes, 8), [4 / 64, 25 / 64, 1, np.nan])
