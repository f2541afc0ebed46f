"""The classifiers: their losses, their heat maps, and where their weights come from."""

import numpy as np
import pytest
import torch

from cliniqure_utils.project import MissingWeights
from cliniqure_utils.vision import classification


def test_classifier_has_15_outputs_and_returns_logits():
    torch.manual_seed(0)
    model = classification.build_classifier("seresnet_tiny").eval()
    with torch.no_grad():
        logits = model(torch.rand(2, 1, 64, 64))["logits"]
    assert logits.shape == (2, 15)
    assert logits.min() < 0, "logits, not probabilities"


def test_heatmap_masks_by_hand():
    boxes, labels = [torch.tensor([[8.0, 0, 24, 9]])], [torch.tensor([3])]
    mask = classification.box_masks(boxes, labels, (4, 4), 32)
    assert mask.shape == (1, 14, 4, 4) and mask[0, 2].tolist() == [[0, 1, 1, 0], [0, 1, 1, 0], [0] * 4, [0] * 4]
    assert mask.sum() == 4


def test_heatmap_loss_prefers_the_right_map():
    boxes, labels = [torch.tensor([[8.0, 0, 24, 9]])], [torch.tensor([3])]
    mask = classification.box_masks(boxes, labels, (4, 4), 32)
    right, wrong = (mask * 2 - 1) * 8, (mask.flip(-2) * 2 - 1) * 8
    values = [classification.heatmap_loss(m, boxes, labels, 32).item() for m in (right, wrong)]
    assert values[0] < 0.02 < values[1]


def test_losses_by_hand():
    logits, targets = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    plain = classification.MultilabelLoss()(logits, targets)
    assert plain.item() == pytest.approx(np.log(2))
    weighted = classification.MultilabelLoss("weighted", [3.0, 1.0])(logits, targets)
    assert weighted.item() == pytest.approx((3 * np.log(2) + np.log(2)) / 2)
    asymmetric = classification.MultilabelLoss("asymmetric")(logits, targets)
    # Positive: ln 2. Negative: p = .5 - .05 = .45, .45^4 * -ln(.55) = .04100625 * .59783700.
    assert asymmetric.item() == pytest.approx((0.69314718 + 0.04100625 * 0.59783700) / 2, abs=1e-6)
    for wrong in ("focal", "weighted"):
        with pytest.raises(ValueError):
            classification.MultilabelLoss(wrong)


@pytest.mark.parametrize("name", ["seresnet_tiny", "test_resnet"])
def test_losses_reach_the_model_and_are_not_part_of_its_file(name, tmp_path):
    weight = [2.0] * 15
    model = classification.build_classifier(name, loss="weighted", positive_weight=weight).eval()
    plain = classification.build_classifier(name).eval()
    plain.load_state_dict(model.state_dict())  # no key more, no key less
    film, targets = torch.rand(2, 1, 64, 64), torch.ones(2, 15)
    assert model(film, targets)["loss"].item() == pytest.approx(2 * plain(film, targets)["loss"].item(), rel=1e-5)


def boxed_batch(n=4):
    """Films with one bright square each, where the box of class 3 is, the label with it."""
    generator = torch.Generator().manual_seed(0)
    image, boxes = 0.3 * torch.rand(n, 1, 64, 64, generator=generator), []
    for k in range(n):
        x, y = 32 * (k % 2), 32 * (k // 2 % 2)
        image[k, 0, y : y + 32, x : x + 32] += 0.6
        boxes.append(torch.tensor([[x, y, x + 32, y + 32]], dtype=torch.float32))
    targets = torch.zeros(n, 15)
    targets[:, 2] = 1
    return {"image": image, "targets": targets, "boxes": boxes, "box_labels": [torch.tensor([3])] * n}


def test_without_heat_maps_a_classifier_is_the_timm_network_and_nothing_more(timm_classifier):
    import timm

    model = timm_classifier(0.0, "seresnet18")
    wanted = timm.create_model("seresnet18", num_classes=15).state_dict()
    assert list(model.state_dict()) == [f"network.{name}" for name in wanted]
    batch = boxed_batch()
    outputs = model.eval()(**batch)
    assert set(outputs) == {"logits", "loss"}
    plain = model.loss(outputs["logits"], batch["targets"])
    assert torch.equal(outputs["loss"], plain), "boxes that come with the batch change nothing"


def test_the_heat_map_head_adds_its_own_weights_and_leaves_the_rest(timm_classifier):
    plain, taught = timm_classifier(0.0).state_dict(), timm_classifier(1.0).state_dict()
    assert set(taught) - set(plain) == {"heatmap.weight", "heatmap.bias"}
    assert taught["heatmap.weight"].shape == (14, 96, 1, 1) and (taught["heatmap.bias"] == -4).all()
    assert all(torch.equal(plain[name], taught[name]) for name in plain), "the same network, drawn from the same seed"


def test_the_loss_of_a_timm_network_is_that_of_labels_and_heat_maps(timm_classifier):
    batch, model = boxed_batch(), timm_classifier(1.5).eval()
    outputs = model(**batch)
    assert outputs["heatmap"].shape == (4, 14, 2, 2)
    of_maps = classification.heatmap_loss(outputs["heatmap"], batch["boxes"], batch["box_labels"], 64)
    of_labels = model.loss(outputs["logits"], batch["targets"])
    assert outputs["loss"].item() == pytest.approx((of_labels + 1.5 * of_maps).item())
    without = model(batch["image"], batch["targets"])
    assert without["loss"].item() == pytest.approx(of_labels.item()), "no boxes, no loss of them"
    none = [torch.zeros(0, 4)] * 4, [torch.zeros(0, dtype=torch.int64)] * 4
    assert torch.isfinite(model(batch["image"], batch["targets"], *none)["loss"]), "films without a finding"


def test_boxes_reach_the_network_through_the_heat_maps(timm_classifier):
    def gradients(model, **changes):
        model.eval().zero_grad(set_to_none=True)
        model(**{**boxed_batch(), **changes})["loss"].backward()
        head = model.heatmap.weight.grad if hasattr(model, "heatmap") else None
        return next(model.network.parameters()).grad, head

    def differ(first, second):
        return (first - second).abs().max() > 0.05 * first.abs().max()

    model = timm_classifier(1.0)
    (here, head), (there, moved) = gradients(model), gradients(model, boxes=[torch.tensor([[0.0, 0, 64, 64]])] * 4)
    assert differ(here, there) and differ(head, moved)
    (labels_alone, head), (paper, _) = gradients(model, boxes=None), gradients(timm_classifier(0.0))
    assert differ(here, labels_alone) and head is None
    assert torch.allclose(labels_alone, paper, atol=1e-6), "without boxes it learns what the paper's network learns"


def test_a_timm_network_learns_where_the_bright_square_is(timm_classifier):
    model, batch = timm_classifier(1.0).train(), boxed_batch()
    before = model.heatmap.weight.detach().clone()
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=1e-3), []
    for _ in range(12):
        optimizer.zero_grad()
        loss = model(**batch)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all() and losses[-1] < losses[0] / 2
    assert not torch.equal(before, model.heatmap.weight)
    heat = model(**batch)["heatmap"][:, 2]  # 2 x 2 cells, the square fills one of them
    assert heat.flatten(1).argmax(1).tolist() == [0, 1, 2, 3]


def test_a_network_without_a_last_map_cannot_have_heat_maps(timm_classifier):
    assert timm_classifier(0.0, "vit_tiny_patch16_224").heatmap_weight == 0
    with pytest.raises(ValueError, match=r"vit_tiny_patch16_224 has no last map .* found \(197, 192\)"):
        timm_classifier(1.0, "vit_tiny_patch16_224")


def test_timm_checkpoint_with_1000_classes_gets_a_new_head(tmp_path):
    import timm

    source = timm.create_model("test_resnet", pretrained=False)
    assert source.get_classifier().out_features == 1000
    torch.save(source.state_dict(), tmp_path / "resnet.pth")
    model = classification.build_classifier("test_resnet", str(tmp_path / "resnet.pth"))
    assert torch.equal(model.network.layer1[0].conv1.weight, source.layer1[0].conv1.weight)
    assert model.network.get_classifier().out_features == 15
    with pytest.raises(MissingWeights, match="nowhere.pth does not exist"):
        classification.build_classifier("test_resnet", str(tmp_path / "nowhere.pth"))


def test_weights_that_do_not_fit_are_refused_with_the_count(tmp_path):
    import timm

    source = timm.create_model("test_resnet", pretrained=False)
    n = len(timm.create_model("test_resnet", pretrained=False, num_classes=0).state_dict())
    for front in ("module.", "module.model.", "model.network.", "_orig_mod."):
        torch.save({front + name: value for name, value in source.state_dict().items()}, tmp_path / "a.pth")
        model = classification.build_classifier("test_resnet", str(tmp_path / "a.pth"))
        assert torch.equal(model.network.layer1[0].conv1.weight, source.layer1[0].conv1.weight)
    torch.save({"other.weight": torch.zeros(3)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=f"a.pth does not fit test_resnet: it gives 0 of {n} tensors"):
        classification.build_classifier("test_resnet", str(tmp_path / "a.pth"))
    (tmp_path / "a.pth").write_bytes(b"no weights")
    with pytest.raises(MissingWeights, match="a.pth cannot be read"):
        classification.build_classifier("test_resnet", str(tmp_path / "a.pth"))
