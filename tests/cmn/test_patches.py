"""From films to patches: the transform, the order of patches and views, trunks by name, the fused copy."""

import copy

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from cliniqure_utils import cmn
from cliniqure_utils.cmn.fused import fused
from cliniqure_utils.project import MissingWeights
from cliniqure_utils.vision import trunks


def test_preprocess_ignores_the_aspect_and_normalises():
    image = np.full((50, 80), 51, np.uint8)  # 0.2
    out = cmn.preprocess(image)
    assert out.shape == (3, 224, 224) and out.dtype == torch.float32
    expected = [(0.2 - mean) / std for mean, std in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))]
    np.testing.assert_allclose(out[:, 100, 100].numpy(), expected, atol=1e-6)
    torch.testing.assert_close(cmn.preprocess(image / 255), out)
    ramp = cmn.preprocess(np.tile(np.linspace(0, 1, 448), (448, 1)))
    assert ramp[0, 5, 0] < ramp[0, 5, 100] < ramp[0, 5, 223]
    with pytest.raises(ValueError, match="one grey image"):
        cmn.preprocess(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"floats in \[0, 1\]"):
        cmn.preprocess(np.full((8, 8), 300.0))


def test_preprocess_is_the_public_codes_transform():
    """torchvision's, as the public code calls them, on noise that every resampling rule changes in its own way."""
    parts = torchvision.transforms
    normalised = parts.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    public = parts.Compose([parts.Resize((224, 224)), parts.ToTensor(), normalised])
    for shape in ((250, 310), (100, 90)):
        grey = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        torch.testing.assert_close(
            cmn.preprocess(grey), public(Image.fromarray(grey).convert("RGB")), atol=1e-6, rtol=0
        )


def test_patches_are_read_row_by_row_and_views_follow_each_other(small_model):
    model = small_model(views=2)
    images = torch.randn(2, 2, 3, 224, 224)
    features = model.patch_features(images)
    assert features.shape == (2, 98, 3)
    first, second = images[1, 0].mean(0), images[1, 1].mean(0)
    assert features[1, 1, 0].item() == pytest.approx(first[:32, 32:64].mean().item(), abs=1e-5)
    assert features[1, 49 + 7, 0].item() == pytest.approx(second[32:64, :32].mean().item(), abs=1e-5)
    assert model.generate(images).tolist() == model.generate(features=features).tolist()


def test_other_image_sizes_are_an_error_or_pooled(small_model):
    with pytest.raises(ValueError, match="expected 224 x 224 pixels, found 256 x 256"):
        small_model().generate(torch.zeros(1, 3, 256, 256))
    assert small_model(adaptive_pooling=True).patch_features(torch.zeros(1, 3, 320, 320)).shape == (1, 49, 3)


def test_a_model_may_see_films_at_a_size_of_its_own(small_model):
    model = small_model(image_size=96, grey="rank")
    film = np.random.default_rng(0).integers(0, 200, (120, 140), dtype=np.uint8)
    images = cmn.model_input(model, film)
    assert images.shape == (1, 3, 96, 96) and images.equal(cmn.preprocess(film, "rank", 96)[None])
    features = model.patch_features(images)
    assert features.shape == (1, model.config.grid**2, 3) == (1, 9, 3)
    assert features[0, 5, 0].item() == pytest.approx(images[0].mean(0)[32:64, 64:].mean().item(), abs=1e-5)
    with pytest.raises(ValueError, match="expected 96 x 96 pixels, found 224 x 224"):
        model.generate(torch.zeros(1, 3, 224, 224))
    with pytest.raises(ValueError, match="image_size 100 must be a multiple of 32"):
        small_model(image_size=100)


def test_named_trunks(tmp_path):
    tiny = cmn.build_extractor("tiny").eval()
    with torch.no_grad():
        features = tiny(torch.ones(1, 3, 224, 224))
    assert features.shape == (1, tiny.channels, 7, 7)
    trunks.save_body(tiny.body, tmp_path / "trunk.safetensors")
    with torch.no_grad():
        again = cmn.build_extractor("tiny", tmp_path / "trunk.safetensors").eval()(torch.ones(1, 3, 224, 224))
    torch.testing.assert_close(again, features)
    with pytest.raises(MissingWeights, match="absent.safetensors does not exist"):
        cmn.build_extractor("tiny", tmp_path / "absent.safetensors")
    with pytest.raises(ValueError, match="unknown trunk 'vgg16'"):
        cmn.build_extractor("vgg16")


def used(module, seed=0):
    """A module whose batch normalisation has statistics and weights of its own, as after training."""
    torch.manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.3), part.running_var.uniform_(0.5, 2.0)
            if part.affine:
                nn.init.uniform_(part.weight, 0.2, 0.6), nn.init.normal_(part.bias, 0, 0.2)
    return module.eval()


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "tiny"])
def test_the_fused_trunk_computes_the_same(name):
    trunk = used(cmn.build_extractor(name))
    before = copy.deepcopy(trunk.state_dict())
    fast = fused(trunk)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = trunk(images)
        found = fast(images.contiguous(memory_format=torch.channels_last))
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    torch.testing.assert_close(trunk.state_dict(), before, rtol=0, atol=0)
    left = sum(isinstance(part, nn.BatchNorm2d) for part in fast.modules())
    assert left == 0 if name != "tiny" else left <= 1
    assert not any(parameter.requires_grad for parameter in fast.parameters())


def test_what_cannot_be_fused_stays():
    class Between(nn.Module):  # the order of its children says nothing about the order of its steps
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x):
            return self.bn1(self.conv1(x).relu())

    pieces = (Between(), nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)))
    for module in (*pieces, nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, bias=False))):
        module, images = used(module) if module is not pieces[1] else module.eval(), torch.randn(2, 3, 9, 9)
        fast = fused(module)
        with torch.no_grad():
            torch.testing.assert_close(fast(images), module(images), atol=1e-5, rtol=1e-5)
        assert any(isinstance(part, nn.BatchNorm2d) for part in fast.modules())
    plain = used(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)))
    with torch.no_grad():
        torch.testing.assert_close(fused(plain)(images), plain(images), atol=1e-5, rtol=1e-5)


def test_looking_uses_the_fused_copy_and_training_does_not():
    extractor = cmn.PatchExtractor(
        used(nn.Sequential(nn.Conv2d(3, 6, 32, stride=32), nn.BatchNorm2d(6), nn.ReLU()))
    ).eval()
    images = torch.randn(2, 3, 224, 224)
    names = list(extractor.state_dict())
    calls = []
    extractor.model.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        fast = extractor(images)
        assert extractor(images).equal(fast)
        extractor.fuse = False
        torch.testing.assert_close(extractor(images), fast, atol=1e-5, rtol=1e-5)
        extractor.fuse = True
        extractor.model[0].weight.mul_(2)  # a weight changes: fused anew
        changed = extractor(images)
        extractor.fuse = False
        torch.testing.assert_close(changed, extractor(images), atol=1e-5, rtol=1e-5)
        extractor.fuse = True
        assert not torch.allclose(changed, fast)
    extractor(images).sum().backward()
    assert extractor.model[0].weight.grad.abs().sum() > 0, "with gradients the trunk itself is used"
    before = extractor.model[1].running_mean.clone()
    extractor.train()
    with torch.no_grad():
        extractor(images)
    assert not torch.equal(before, extractor.model[1].running_mean), "statistics are learned in training"
    assert list(extractor.state_dict()) == names, "the copy is no part of what is saved"
    assert copy.deepcopy(extractor).eval()(images).requires_grad, "a copy of it is a whole extractor"


def test_a_model_is_saved_as_it_was_trained(tmp_path, vocabulary):
    trunk = used(cmn.build_extractor("resnet18"))
    config = cmn.CMNConfig(visual_extractor="resnet18", d_vf=512, d_model=16, d_ff=16, num_heads=2, num_layers=1,
                           topk=3, cmm_size=6, cmm_dim=16, max_length=6)  # fmt: skip
    model = cmn.R2GenCMN(cmn.Tokenizer(vocabulary), config, trunk).eval()
    images = torch.randn(1, 3, 224, 224)
    written = model.generate(images)
    cmn.save(model, tmp_path)
    again = cmn.load(tmp_path)
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)
    plain = torchvision.models.resnet18(weights=None).state_dict()
    assert {k for k in again.state_dict() if "running_var" in k}, "batch normalisation is still there"
    assert len([k for k in again.state_dict() if k.startswith("visual_extractor.")]) == len(plain) - 2  # without fc
    assert again.generate(images).tolist() == written.tolist()
