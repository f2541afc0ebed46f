"""Starting from our own pretrained parts: what is loaded, and what a missing, damaged or other part does."""

import pytest
import torch

from cliniqure_utils import pretrained
from cliniqure_utils.project import MissingWeights
from cliniqure_utils.vision import classification, detection, trunks

SETTINGS = dict(
    backbone="tiny", image_size=64, anchor_scales=[16, 32], neck="topdown", head_width=16, rois_per_image=32
)  # fmt: skip


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A folder with both parts, of random weights, and the models that they come from."""
    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("pretrained")
    eyes, detector = classification.build_classifier("seresnet_tiny"), detection.build_detector(**SETTINGS)
    pretrained.save_part("eyes", eyes.state_dict(), {"image_size": 64, "grey": "rank"}, folder)
    pretrained.save_part("detector", detector.state_dict(), {"image_size": 64, "settings": SETTINGS}, folder)
    return folder, eyes, detector


def assert_same(state, wanted):
    """Equal but for the half precision in which matrices and kernels are kept."""
    assert state.keys() == wanted.keys()
    for name, value in wanted.items():
        kept = value.half().float() if value.is_floating_point() and value.ndim > 1 else value
        assert torch.equal(state[name], kept), name


def differs(state, wanted, start):
    return any(not torch.equal(state[n], wanted[n].half().float()) for n in wanted if n.startswith(start))


def test_the_body_is_that_of_the_eyes(parts):
    folder, eyes, _ = parts
    assert_same(trunks.pretrained_body(folder).state_dict(), eyes.body.state_dict())


def test_a_classifier_starts_with_or_without_the_pretrained_heads(parts):
    folder, eyes, _ = parts
    whole = classification.build_classifier(
        "seresnet_tiny", "pretrained", frozen_parts=6, pretrained_heads=True, pretrained_dir=folder
    )
    assert_same(whole.state_dict(), eyes.state_dict())
    assert not any(parameter.requires_grad for parameter in whole.body.parameters())
    fresh = classification.build_classifier("seresnet_tiny", "pretrained", pretrained_dir=folder)
    assert_same(fresh.body.state_dict(), eyes.body.state_dict())
    assert differs(fresh.state_dict(), eyes.state_dict(), "pooled.weight")
    with pytest.raises(ValueError, match="seresnet_tiny has no ImageNet weights"):
        classification.build_classifier("seresnet_tiny", "imagenet")


def test_a_detector_gets_body_and_heads_and_keeps_what_is_frozen(parts):
    folder, _, wanted = parts
    detector = detection.build_detector(**SETTINGS, body=trunks.pretrained_body(folder), frozen_parts=6)
    detection.load_pretrained(detector, SETTINGS, folder)
    assert_same(detector.state_dict(), wanted.state_dict())
    assert not any(parameter.requires_grad for parameter in detector.network.backbone.parameters())
    detection.load_pretrained(detector, SETTINGS | {"rois_per_image": 8}, folder)  # only training reads it


def test_a_detector_with_other_settings_is_left_as_it_was(parts):
    folder, _, _ = parts
    other = SETTINGS | {"anchor_scales": [8, 16]}  # the same shapes: the weights would load and find nothing
    detector = detection.build_detector(**other)
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    with pytest.raises(
        MissingWeights, match=r"has anchor_scales \[16, 32\], this one \[8, 16\]: it starts from the pre"
    ):
        detection.load_pretrained(detector, other, folder)
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())


def test_a_missing_or_damaged_part_is_one_sentence(parts, tmp_path):
    folder, _, _ = parts
    with pytest.raises(MissingWeights, match="pretrained weights eyes are missing"):
        trunks.pretrained_body(tmp_path)
    with pytest.raises(MissingWeights, match="pretrained weights detector are missing"):
        detection.load_pretrained(detection.build_detector(**SETTINGS), SETTINGS, tmp_path)
    for path in folder.iterdir():
        content = path.read_bytes()
        (tmp_path / path.name).write_bytes(content[:-1] + b"\1" if path.suffix == ".safetensors" else content)
    with pytest.raises(MissingWeights, match="eyes.safetensors are damaged"):
        classification.build_classifier("seresnet_tiny", "pretrained", pretrained_dir=tmp_path)
    with pytest.raises(MissingWeights, match="detector.safetensors are damaged"):
        detection.load_pretrained(detection.build_detector(**SETTINGS), SETTINGS, tmp_path)


def test_the_parts_that_come_with_the_project_fit():
    trunks.pretrained_body()
    with pytest.raises(ValueError, match="only the tiny trunk has pretrained weights of our own"):
        trunks.build_trunk("resnet18", "pretrained")
    trunk, body = trunks.build_trunk("tiny", "pretrained"), trunks.pretrained_body()
    assert all(torch.equal(v, body.trunk.state_dict()[n]) for n, v in trunk.state_dict().items())
