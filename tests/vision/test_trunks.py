"""Trunks: their shapes, their files, and what stays frozen."""

from pathlib import Path

import pytest
import torch
import torchvision
from torchvision.models.detection.backbone_utils import BackboneWithFPN

from cliniqure_utils.project import MissingWeights
from cliniqure_utils.vision import classification, trunks


def test_trunks_end_at_stride_32_and_say_their_channels():
    for name, channels in (("tiny", 128), ("resnet18", 512)):
        trunk = trunks.build_trunk(name).eval()
        maps = trunk.stages(torch.zeros(1, 3, 64, 96))
        assert [tuple(m.shape[-2:]) for m in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]
        assert maps[-1].shape[1] == trunk.channels == channels


def test_trunk_weights_round_trip_and_refuse_what_does_not_fit(tmp_path):
    body = trunks.TopDown(trunks.build_trunk("tiny"))
    trunks.save_body(body, tmp_path / "body.safetensors")
    again = trunks.build_trunk("tiny", tmp_path / "body.safetensors")
    for name, value in body.trunk.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    with pytest.raises(ValueError, match="body.safetensors does not fit trunk 'resnet18'"):
        trunks.build_trunk("resnet18", tmp_path / "body.safetensors")
    with pytest.raises(ValueError, match="body.safetensors does not fit trunk 'tiny'"):
        trunks.load_body(trunks.TopDown(trunks.build_trunk("tiny"), out_channels=8), tmp_path / "body.safetensors")
    with pytest.raises(MissingWeights, match="nowhere.safetensors does not exist"):
        trunks.build_trunk("tiny", tmp_path / "nowhere.safetensors")
    with pytest.raises(ValueError, match="unknown trunk 'resnet51'"):
        trunks.build_trunk("resnet51")


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="tells which files are mapped")
def test_a_weights_file_that_was_read_is_not_mapped(tmp_path):
    """Windows refuses to replace a mapped file."""
    body = trunks.TopDown(trunks.build_trunk("tiny"))
    trunks.save_body(body, tmp_path / "body.safetensors")
    state = {}
    with pytest.MonkeyPatch.context() as patch:  # load_state_dict copies; what was read must not be mapped either
        patch.setattr(torch.nn.Module, "load_state_dict", lambda self, given: state.setdefault(type(self), given))
        trunks.load_body(body, tmp_path / "body.safetensors")
        trunks.build_trunk("tiny", tmp_path / "body.safetensors")
    assert len(state) == 2 and f"{tmp_path}/body.safetensors" not in Path("/proc/self/maps").read_text()


def test_the_fine_map_is_that_of_enlarged_maps_and_coordinates_laid_on_top_of_each_other():
    torch.manual_seed(0)
    body = trunks.TopDown(trunks.build_trunk("tiny"), plain=True).eval()
    maps = body.trunk.stages(torch.rand(2, 3, 160, 96))[1:]
    height, width = 20, 12  # 160 and 96 over the stride of 8
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 20, 12), (96, 10, 6), (128, 5, 3)]
    enlarged = [torch.nn.functional.interpolate(m, size=(height, width), mode="bilinear") for m in maps]
    down = torch.linspace(-1, 1, height)[:, None].expand(2, 1, height, width)
    across = torch.linspace(-1, 1, width).expand(2, 1, height, width)
    pile = torch.cat([*enlarged, down, across], 1)
    assert pile.shape[1] == 290
    torch.testing.assert_close(body.join[0](maps), torch.einsum("nchw,oc->nohw", pile, body.join[0].weight[:, :, 0, 0]))


def test_the_pyramid_is_torchvisions():
    torch.manual_seed(0)
    ours = trunks.Pyramid(trunks.build_trunk("tiny")).eval()
    layers = {f"layer{number + 1}": str(number) for number in range(4)}
    theirs = BackboneWithFPN(trunks.build_trunk("tiny"), layers, list(trunks.TINY_CHANNELS), 256).eval()
    theirs.load_state_dict(ours.state_dict())  # strict: the same names
    images = torch.rand(1, 3, 64, 64)
    maps, wanted = ours(images), theirs(images)
    assert list(maps) == list(wanted) == ["0", "1", "2", "3", "pool"] and ours.out_channels == theirs.out_channels
    for name in maps:  # ours keeps channels together in memory, which rounds otherwise
        torch.testing.assert_close(maps[name], wanted[name])


def test_frozen_parts_stay_as_they_are_and_the_rest_learns(tmp_path):
    torch.manual_seed(0)
    trunks.save_body(trunks.TopDown(trunks.build_trunk("tiny")), tmp_path / "body.safetensors")
    model = classification.build_classifier(
        "seresnet_tiny", tmp_path / "body.safetensors", heatmap_weight=2.0, frozen_parts=2
    ).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    images, targets = torch.rand(4, 1, 64, 64), torch.ones(4, 15)
    labels = [torch.tensor([1])] * 4
    model(images, targets, [torch.tensor([[8.0, 8.0, 40.0, 40.0]])] * 4, labels)["loss"].backward()
    optimizer.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    frozen = {name for name in before if name.startswith(("body.trunk.stem.", "body.trunk.layer1."))}
    assert frozen and not frozen & moved  # the batch statistics among them
    assert {name for name, p in model.named_parameters() if p.grad is None} == {
        name for name, _ in model.named_parameters() if name in frozen
    }
    assert {"body.trunk.layer2.0.bn1.running_mean", "body.trunk.layer2.0.bn2.weight", "body.join.0.weight"} <= moved
    model.body.trunk.freeze(0)
    assert all(p.requires_grad for p in model.parameters()) and model.body.trunk.stem.training


def test_frozen_normalisation_stays_as_it_is_in_every_part():
    trunk = trunks.build_trunk("tiny").train()
    trunk.freeze(1, norm=True)
    norms = [name for name, part in trunk.named_modules() if isinstance(part, torch.nn.BatchNorm2d)]
    assert {"stem.1", "layer1.0.bn1", "layer4.0.bn2"} <= set(norms)
    learns = {name for name, p in trunk.named_parameters() if p.requires_grad}
    still = ("stem.", *(f"{name}." for name in norms))
    assert learns == {name for name, _ in trunk.named_parameters() if not name.startswith(still)}
    before = {name: value.clone() for name, value in trunk.named_buffers()}
    trunk.train()(torch.rand(2, 3, 64, 64))
    assert all(torch.equal(value, before[name]) for name, value in trunk.named_buffers())
    trunk.freeze(0)
    assert all(p.requires_grad for p in trunk.parameters()) and trunk.layer4[0].bn1.training


def test_a_body_frozen_whole_leaves_the_heads_to_learn(tmp_path):
    torch.manual_seed(0)
    trunks.save_body(trunks.TopDown(trunks.build_trunk("tiny")), tmp_path / "body.safetensors")
    model = classification.build_classifier("seresnet_tiny", tmp_path / "body.safetensors", frozen_parts=6).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(torch.rand(2, 1, 64, 64), torch.ones(2, 15))["loss"].backward()
    learns = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learns and not any(name.startswith("body.") for name in learns)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "batch statistics"
    model.body.freeze(5)
    assert {name for name, p in model.body.named_parameters() if p.requires_grad} == {
        name for name, _ in model.body.named_parameters() if name.startswith("join.")
    }


def test_only_the_parts_of_our_own_trunk_can_be_frozen():
    with pytest.raises(ValueError, match="5 parts .* found 6"):
        trunks.build_trunk("tiny").freeze(6)
    with pytest.raises(ValueError, match="6 parts .* found 7"):
        trunks.TopDown(trunks.build_trunk("tiny")).freeze(7)
    with pytest.raises(ValueError, match="frozen_parts is for seresnet_tiny; seresnet18 is trained whole"):
        classification.build_classifier("seresnet18", frozen_parts=1)


def test_a_torchvision_file_loads_into_the_same_network(tmp_path):
    reference = torchvision.models.resnet18(weights=None).eval()
    torch.save(reference.state_dict(), tmp_path / "resnet18.pth")
    trunk = trunks.build_trunk("resnet18", tmp_path / "resnet18.pth").eval()
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    pooled = trunk(image).mean((2, 3))
    with torch.no_grad():
        assert torch.allclose(reference.fc(pooled), reference(image), atol=1e-5)
