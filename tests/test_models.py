"""Trunks, loaders, detector, classifier and the training engine: shapes from the paper, arithmetic by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from cliniqure_utils import classification, detection, loaders, training, trunks, vindr

torch.set_num_threads(1)


# ---- trunks


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
    with pytest.raises(ValueError, match="body.safetensors does not fit"):
        trunks.build_trunk("resnet18", tmp_path / "body.safetensors")
    with pytest.raises(trunks.WeightsUnavailable, match="nowhere.safetensors does not exist"):
        trunks.build_trunk("tiny", tmp_path / "nowhere.safetensors")
    with pytest.raises(ValueError, match="unknown trunk 'resnet51'"):
        trunks.build_trunk("resnet51")


def test_a_torchvision_file_loads_into_the_same_network(tmp_path):
    import torchvision

    reference = torchvision.models.resnet18(weights=None).eval()
    torch.save(reference.state_dict(), tmp_path / "resnet18.pth")
    trunk = trunks.build_trunk("resnet18", tmp_path / "resnet18.pth").eval()
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    pooled = trunk(image).mean((2, 3))
    with torch.no_grad():
        assert torch.allclose(reference.fc(pooled), reference(image), atol=1e-5)


# ---- loaders


@pytest.fixture
def films(tmp_path):
    """Four films of 80 x 40 DICOM pixels, cached at 40 x 20, and two boxes on the first."""
    rng = np.random.default_rng(0)
    ids = ["a", "b", "c", "d"]
    for image_id in ids:
        Image.fromarray(rng.integers(0, 255, (40, 20), dtype=np.uint8)).save(tmp_path / f"{image_id}.png")
    index = pd.DataFrame({"image_id": ids, "rows": 80, "columns": 40})
    merged = pd.DataFrame(
        {
            "image_id": ["a", "a", "b"],
            "x_min": [10.0, 0.0, 0.0],
            "y_min": [20.0, 0.0, 0.0],
            "x_max": [20.0, 40.0, 40.0],
            "y_max": [60.0, 80.0, 80.0],
            "class_labels": [[4, 8], [3], [14]],
        }
    )
    return tmp_path, index, merged


def test_a_merged_box_with_two_names_becomes_two_training_boxes(films):
    _, _, merged = films
    boxes = loaders.boxes_per_class(merged)
    assert boxes.class_name.tolist() == ["Consolidation", "Nodule/Mass", "Cardiomegaly"]
    assert set(boxes.image_id) == {"a"}, "a No finding film must give no box"


def test_boxes_follow_the_film_into_the_square_input(films):
    folder, index, merged = films
    sizes, boxes = loaders.dicom_sizes(index), loaders.boxes_per_class(merged)
    item = loaders.FilmDataset(folder, ["a", "b"], 32, sizes, boxes)[0]
    # 40 columns -> 32: factor 0.8; 80 rows -> 32: factor 0.4
    assert item["boxes"].tolist() == [[8, 8, 16, 24], [8, 8, 16, 24], [0, 0, 32, 32]]
    assert item["box_labels"].tolist() == [5, 9, 4], "labels are class ids + 1; 0 is background"
    assert item["image"].shape == (1, 32, 32) and 0 <= item["image"].min() and item["image"].max() <= 1
    assert item["targets"].nonzero().flatten().tolist() == [3, 4, 8]
    normal = loaders.FilmDataset(folder, ["a", "b"], 32, sizes, boxes)[1]
    assert normal["boxes"].shape == (0, 4) and normal["targets"].nonzero().flatten().tolist() == [14]


def test_a_flip_moves_film_and_boxes_together_and_keeps_labels_in_step():
    film = torch.zeros(1, 10, 10)
    film[0, 2:4, 1:3] = 1
    from torchvision import tv_tensors

    flip = loaders.augmentation(rotate_probability=0, flip_probability=1.0)
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


# ---- detector


def test_paper_detector_is_tables_3_and_4():
    detector = detection.build_detector()
    network = detector.network
    assert network.transform.min_size == (224,) and network.transform.max_size == 224
    with torch.no_grad():
        feature_map = network.backbone.eval()(torch.zeros(1, 3, 224, 224))
    assert tuple(feature_map.shape) == (1, 2048, 7, 7)
    generator = network.rpn.anchor_generator
    assert generator.sizes == ((32.0, 64.0, 128.0, 256.0, 512.0),)
    assert generator.aspect_ratios == ((0.5, 1.0, 2.0),)
    assert generator.num_anchors_per_location() == [15]
    assert network.roi_heads.box_roi_pool.output_size == (7, 7)
    assert network.roi_heads.box_predictor.cls_score.out_features == 15


def small_detector(**changes):
    settings = dict(backbone="tiny", image_size=64, anchor_scales=[16, 32], neck="topdown", head_width=16)
    return detection.build_detector(**{**settings, **changes})


def test_detector_refuses_what_torchvision_takes_in_silence():
    detector = small_detector()
    film, none, no_label = torch.rand(1, 1, 64, 64), [torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.int64)]
    box = [torch.tensor([[1.0, 1, 20, 20]])]
    with pytest.raises(ValueError, match=r"found values from .* to 2\d\d"):
        detector(film * 255, none, no_label)
    with pytest.raises(ValueError, match="found values from nan"):
        detector(film * float("nan"), none, no_label)
    with pytest.raises(ValueError, match="must be float"):
        detector((film * 255).to(torch.uint8), none, no_label)
    with pytest.raises(ValueError, match="not finite"):
        detector(film, [box[0] * float("nan")], [torch.tensor([1])])
    for wrong in (0, -1, 15):
        with pytest.raises(ValueError, match="box labels must be 1-14"):
            detector(film, box, [torch.tensor([wrong])])


def test_detector_trains_on_films_without_boxes_and_predicts_in_dicom_pixels(films):
    folder, index, merged = films
    sizes, boxes = loaders.dicom_sizes(index), loaders.boxes_per_class(merged)
    torch.manual_seed(0)
    detector = small_detector()
    dataset = loaders.FilmDataset(folder, ["a", "b", "c", "d"], 64, sizes, boxes)
    batch = loaders.collate([dataset[i] for i in range(4)])
    batch.pop("image_id")
    assert torch.isfinite(detector(**batch)["loss"])
    detector.network.roi_heads.score_thresh = 0.0
    found = detection.predict_boxes(detector, dataset, sizes, progress=False)
    assert len(found) and found.x_max.max() <= 40.01 and found.y_max.max() <= 80.01
    assert found.x_max.max() > 32, "boxes are in DICOM pixels, not in a smaller frame"


def test_fpn_needs_one_anchor_scale_per_map():
    with pytest.raises(ValueError, match="needs one anchor scale for each, found 2"):
        detection.build_detector(backbone="resnet18", neck="fpn", anchor_scales=[16, 32])
    detector = detection.build_detector(
        backbone="resnet18", neck="fpn", image_size=64, anchor_scales=[8, 16, 32, 64, 128], head_width=16
    )
    assert detector.network.transform.max_size == 64


def test_anchor_coverage_by_hand():
    detector = small_detector(anchor_scales=[16], aspect_ratios=[1.0])
    # Anchors are 16 x 16 around multiples of 8 pixels: one meets the first box exactly, none the second.
    assert detection.anchor_coverage(detector, np.array([[0, 0, 16, 16], [0, 0, 64, 64]])) == 0.5


# ---- classifier


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


def test_thresholds_maximise_f1_on_a_hand_counted_case():
    probabilities = np.array([[0.9], [0.8], [0.7], [0.2]])
    references = np.array([[1], [0], [1], [0]])
    # 3 answers, 2 right: F1 = 4 / 5; 1 answer, 1 right: 2 / 3; all 4: 4 / 6
    threshold = classification.choose_thresholds(references, probabilities)[0]
    assert threshold == pytest.approx(0.45)
    assert classification.choose_thresholds(np.zeros((4, 1)), probabilities)[0] == 0.5


def test_timm_checkpoint_with_1000_classes_gets_a_new_head(tmp_path):
    import timm

    source = timm.create_model("seresnet18", pretrained=False) if timm.is_model("seresnet18") else None
    if source is None:
        pytest.skip("this timm has no seresnet18")
    torch.save(source.state_dict(), tmp_path / "seresnet18.pth")
    model = classification.build_classifier("seresnet18", str(tmp_path / "seresnet18.pth"))
    assert torch.equal(model.network.conv1.weight, source.conv1.weight)
    assert model.network.get_classifier().out_features == 15
    with pytest.raises(trunks.WeightsUnavailable, match="nowhere.pth does not exist"):
        classification.build_classifier("seresnet18", str(tmp_path / "nowhere.pth"))


# ---- training engine


class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.line = torch.nn.Linear(1, 1)

    def forward(self, x, y):
        return {"loss": ((self.line(x) - y) ** 2).mean()}


def points(n=32):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 1, generator=generator)
    return [{"x": x[i], "y": 3 * x[i] - 1, "image_id": f"film{i}"} for i in range(n)]


def fit_line(folder, **changes):
    torch.manual_seed(0)
    model = Line()
    settings = dict(seed=1, device="cpu", epochs=4, batch_size=4, learning_rate=0.1)
    history = training.fit(model, points(), output_dir=folder, **{**settings, **changes})
    return model, history


def test_training_finds_a_line_repeats_itself_and_cleans_up(tmp_path):
    model, history = fit_line(tmp_path / "a", epochs=20)
    assert model.line.weight.item() == pytest.approx(3, abs=0.05)
    assert model.line.bias.item() == pytest.approx(-1, abs=0.05)
    assert len(history) == 20 and history.loss.iloc[-1] < history.loss.iloc[0] / 10
    again, _ = fit_line(tmp_path / "b", epochs=20)
    assert torch.equal(model.line.weight, again.line.weight)
    assert not (tmp_path / "a").exists(), "checkpoints are removed at the end"


def test_cosine_schedule_ends_at_zero_and_the_best_epoch_is_kept(tmp_path):
    seen = []

    def evaluate(model):
        seen.append(model.line.weight.item())
        return {"score": -abs(len(seen) - 2)}  # best after the second epoch

    model, history = fit_line(tmp_path, evaluate=evaluate, metric="score")
    assert history.learning_rate.iloc[-1] < 0.002
    assert model.line.weight.item() == pytest.approx(seen[1])
    assert history.score.tolist() == [-1, 0, -1, -2]


def test_a_non_finite_loss_names_the_films(tmp_path):
    data = points()
    data[5]["y"] = torch.tensor([float("inf")])
    with pytest.raises(training.NonFiniteLoss, match="film5"):
        training.fit(Line(), data, output_dir=tmp_path, seed=1, device="cpu", epochs=1, batch_size=4)


def test_a_killed_run_resumes_and_ends_with_the_same_weights(tmp_path):
    unbroken, _ = fit_line(tmp_path / "unbroken")

    class Killed(Exception):
        pass

    def kill_after_two(model, calls=[]):  # noqa: B006 - the list counts the calls on purpose
        calls.append(1)
        if len(calls) == 3:
            raise Killed
        return {"score": len(calls)}

    with pytest.raises(Killed):
        fit_line(tmp_path / "killed", evaluate=kill_after_two)
    assert list((tmp_path / "killed").glob("checkpoint-*")), "a checkpoint is left"
    steps = []
    resumed, history = fit_line(tmp_path / "killed", evaluate=lambda model: steps.append(1) or {"score": 0})
    assert len(steps) == 2, "only the two missing epochs are trained"
    assert torch.equal(unbroken.line.weight, resumed.line.weight)
    assert len(history) == 4


def test_checkpoints_of_other_settings_are_not_resumed(tmp_path):
    with pytest.raises(ZeroDivisionError):
        fit_line(tmp_path, evaluate=lambda model: {"score": 1 / (model.line.weight.item() > 99)})
    fresh, history = fit_line(tmp_path, epochs=2)
    assert len(history) == 2


def test_bad_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown optimizer 'sgd'"):
        fit_line(tmp_path, optimizer="sgd")
    with pytest.raises(ValueError, match="empty"):
        training.fit(Line(), [], output_dir=tmp_path, seed=0, device="cpu")
    with pytest.raises(ValueError, match="metric 'auroc' is not among"):
        fit_line(tmp_path, evaluate=lambda model: {"score": 1.0}, metric="auroc")


def test_models_round_trip_through_their_folder(tmp_path):
    detector = small_detector()
    settings = dict(backbone="tiny", image_size=64, anchor_scales=[16, 32], neck="topdown", head_width=16)
    detection.save_detector(detector, tmp_path, settings)
    again = detection.load_detector(tmp_path)
    film = torch.rand(1, 1, 64, 64)
    first, second = detector.detect(film)[0], again.detect(film)[0]
    assert torch.equal(first["boxes"], second["boxes"])
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model.safetensors is missing"):
        detection.load_detector(tmp_path)


def test_label_maps_agree():
    assert len(vindr.FINDINGS) == 14 and detection.N_CLASSES == 15 and len(classification.CLASSES) == 15
    assert classification.CLASSES[-1] == vindr.NO_FINDING
