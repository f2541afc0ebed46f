"""Trunks, loaders, detector, classifier and the training engine: shapes from the paper, arithmetic by hand."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torchvision.ops import MultiScaleRoIAlign

from cliniqure_utils import metrics, training
from cliniqure_utils.annotations import boxes_per_class, film_sizes, label_matrix, reader_labels
from cliniqure_utils.process import worker_count
from cliniqure_utils.vision import calibration, classification, detection, fast, gradcam, inference, transforms, trunks
from cliniqure_utils.vision import films as films_module
from cliniqure_utils.vision.films import FilmDataset, balance_weights, collate
from cliniqure_utils.vocabulary import BOX, CLASSES, FINDINGS, NO_FINDING

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


def test_frozen_parts_stay_as_they_are_and_the_rest_learns(tmp_path):
    torch.manual_seed(0)
    trunks.save_body(trunks.TopDown(trunks.build_trunk("tiny")), tmp_path / "body.safetensors")
    model = classification.build_classifier(
        "seresnet_tiny", trunk_weights=tmp_path / "body.safetensors", heatmap_weight=2.0, frozen_parts=2
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


def test_only_the_parts_of_our_own_trunk_can_be_frozen():
    with pytest.raises(ValueError, match="5 parts .* found 6"):
        trunks.build_trunk("tiny").freeze(6)
    with pytest.raises(ValueError, match="frozen_parts is for seresnet_tiny; seresnet18 is trained whole"):
        classification.build_classifier("seresnet18", frozen_parts=1)


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
    boxes = boxes_per_class(merged)
    assert boxes.class_name.tolist() == ["Consolidation", "Nodule/Mass", "Cardiomegaly"]
    assert set(boxes.image_id) == {"a"}, "a No finding film must give no box"


def test_boxes_follow_the_film_into_the_square_input(films):
    folder, index, merged = films
    sizes, boxes = film_sizes(index), boxes_per_class(merged)
    item = FilmDataset(folder, ["a", "b"], 32, sizes, boxes)[0]
    # 40 columns -> 32: factor 0.8; 80 rows -> 32: factor 0.4
    assert item["boxes"].tolist() == [[8, 8, 16, 24], [8, 8, 16, 24], [0, 0, 32, 32]]
    assert item["box_labels"].tolist() == [5, 9, 4], "labels are class ids + 1; 0 is background"
    assert item["image"].shape == (1, 32, 32) and 0 <= item["image"].min() and item["image"].max() <= 1
    assert item["targets"].nonzero().flatten().tolist() == [3, 4, 8]
    normal = FilmDataset(folder, ["a", "b"], 32, sizes, boxes)[1]
    assert normal["boxes"].shape == (0, 4) and normal["targets"].nonzero().flatten().tolist() == [14]


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


def test_a_draw_depends_on_seed_epoch_and_film_alone(films):
    folder, index, merged = films
    sizes, boxes = film_sizes(index), boxes_per_class(merged)

    def batches(n_workers, epoch=0):
        augment = transforms.augmentation(flip_probability=0.5, shift=0.1, exposure=0.1)
        dataset = FilmDataset(folder, ["a", "b", "c", "d"], 32, sizes, boxes, augment, seed=7)
        dataset = pickle.loads(pickle.dumps(dataset))  # as a worker under spawn receives it
        dataset.set_epoch(epoch)
        torch.manual_seed(n_workers)  # torch's own random numbers must not matter
        loader = torch.utils.data.DataLoader(dataset, 2, num_workers=n_workers, collate_fn=collate)
        return torch.cat([batch["image"] for batch in loader])

    assert torch.equal(batches(0), batches(2))
    assert not torch.equal(batches(0), batches(0, epoch=1))


def test_films_are_kept_in_memory_only_as_far_as_they_fit(films, monkeypatch):
    folder, index, _ = films
    monkeypatch.setattr(films_module, "KEEP_BYTES", 4 * 32 * 32)
    sizes = film_sizes(index)
    assert FilmDataset(folder, ["a", "b", "c", "d"], 32, sizes).keep_in_memory
    assert not FilmDataset(folder, ["a", "b", "c", "d"], 33, sizes).keep_in_memory
    assert FilmDataset(folder, ["a"], 64, sizes, keep_in_memory=True).keep_in_memory


@pytest.mark.parametrize("n_jobs", [-1, 0, 1, 2])
def test_films_read_ahead_need_their_files_no_more(films, n_jobs):
    folder, index, _ = films
    sizes, ids = film_sizes(index), ["a", "b", "c", "d"]
    kept, left = (FilmDataset(folder, ids, 32, sizes, keep_in_memory=keep) for keep in (True, False))
    expected = [left[i]["image"] for i in range(4)]
    kept.read_films(n_jobs)
    left.read_films(n_jobs)
    for path in folder.glob("*.png"):
        path.unlink()
    assert all(torch.equal(kept[i]["image"], expected[i]) for i in range(4)), "each film in its own place"
    with pytest.raises(FileNotFoundError, match="a.png"):
        left[0]
    with pytest.raises(FileNotFoundError, match="a.png"):
        pickle.loads(pickle.dumps(kept))[0]  # a process that receives the data set reads for itself


@pytest.mark.parametrize("class_id", [-1, 14, 99])
def test_a_box_of_an_unknown_class_never_becomes_a_label(films, class_id):
    folder, index, merged = films
    boxes = boxes_per_class(merged).assign(class_id=class_id)
    with pytest.raises(ValueError, match="expected 0 to 13"):
        FilmDataset(folder, ["a"], 32, film_sizes(index), boxes)


READINGS = pd.DataFrame(
    [("a", "R1", 3), ("a", "R1", 3), ("a", "R2", 3), ("a", "R3", 0), ("b", "R1", 14), ("b", "R2", 14), ("b", "R3", 8),
     ("c", "R1", 5), ("c", "R2", 5), ("c", "R3", 5), ("d", "R1", 14), ("d", "R2", 14), ("d", "R3", 14)],
    columns=["image_id", "rad_id", "class_id"],
)  # fmt: skip


@pytest.mark.parametrize(
    "rule, expected",
    [("any", [{0, 3}, {8}, {5}, {14}]), ("majority", [{3}, {14}, {5}, {14}]), ("consensus", [{14}, {14}, {5}, {14}])],
)
def test_label_rules_by_hand(rule, expected):
    labels = reader_labels(READINGS, ["a", "b", "c", "d"], rule)
    assert list(labels.columns) == list(CLASSES)
    assert [set(np.flatnonzero(row)) for row in labels.to_numpy()] == expected
    assert (labels["No finding"] == 1 - labels.drop(columns="No finding").max(axis=1)).all(), "it excludes all others"


def test_label_rules_with_readers_who_left_no_row_and_their_refusals():
    findings = READINGS[READINGS.class_id != 14]
    full = reader_labels(READINGS, ["a", "b", "c", "d"], "majority")
    again = reader_labels(findings, ["a", "b", "c", "d"], "majority", n_readers=3)
    pd.testing.assert_frame_equal(full, again)
    assert reader_labels(READINGS, ["a", "d"], "any").equals(label_matrix(READINGS, ["a", "d"]))
    with pytest.raises(ValueError, match="unknown label rule 'most'; expected one of any, majority, consensus"):
        reader_labels(READINGS, ["a"], "most")
    with pytest.raises(ValueError, match="film e has no reader"):
        reader_labels(READINGS, ["e"])
    with pytest.raises(ValueError, match="film a has 3 readers, more than 2"):
        reader_labels(READINGS, ["a"], n_readers=2)


def test_labels_of_a_rule_replace_the_targets_that_follow_from_boxes(films):
    folder, index, merged = films
    labels = pd.DataFrame(0, index=["a", "b"], columns=list(CLASSES))
    labels.loc["a", "Cardiomegaly"] = labels.loc["b", "No finding"] = 1
    sizes, boxes = film_sizes(index), boxes_per_class(merged)
    dataset = FilmDataset(folder, ["b", "a"], 32, sizes, boxes, labels=labels)
    assert dataset[1]["targets"].nonzero().flatten().tolist() == [3]
    assert len(dataset[1]["boxes"]) == 3, "the boxes stay what they are"
    with pytest.raises(ValueError, match="1 of 2 films have no row in the labels, the first is c"):
        FilmDataset(folder, ["a", "c"], 32, sizes, boxes, labels=labels)


def test_balance_weights_by_hand():
    labels = np.zeros((100, 3), int)
    labels[:50, 0] = labels[:4, 1] = labels[0, 2] = 1
    weights = balance_weights(labels, least_share=0.16)
    # shares .50, .04, .01: repeat factors 1, sqrt(.16 / .04) = 2, sqrt(16) = 4; a film takes its largest
    assert weights.tolist() == [4.0, 2.0, 2.0, 2.0] + [1.0] * 96


def test_loader_processes_only_beside_a_gpu():
    assert worker_count(-1, "cpu") == worker_count(4, "cpu") == 0
    assert worker_count(4, "cuda") == 4 and worker_count(-1, "cuda") >= 1


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
    sizes, boxes = film_sizes(index), boxes_per_class(merged)
    torch.manual_seed(0)
    detector = small_detector()
    dataset = FilmDataset(folder, ["a", "b", "c", "d"], 64, sizes, boxes)
    batch = collate([dataset[i] for i in range(4)])
    batch.pop("image_id")
    assert torch.isfinite(detector(**batch)["loss"])
    detector.network.roi_heads.score_thresh = 0.0
    found = inference.predict_boxes(detector, dataset, sizes, progress=False)
    assert len(found) and found.x_max.max() <= 40.01 and found.y_max.max() <= 80.01
    assert found.x_max.max() > 32, "boxes are in DICOM pixels, not in a smaller frame"


def test_fpn_needs_one_anchor_scale_per_map():
    with pytest.raises(ValueError, match="needs one anchor scale for each, found 2"):
        detection.build_detector(backbone="resnet18", neck="fpn", anchor_scales=[16, 32])
    detector = detection.build_detector(
        backbone="resnet18", neck="fpn", image_size=64, anchor_scales=[8, 16, 32, 64, 128], head_width=16
    )
    assert detector.network.transform.max_size == 64


def test_fpn_takes_several_sides_per_map_and_then_no_small_box_is_without_an_anchor():
    """Case C48: boxes of 8-16 pixels at 224; the default anchors 32-512 reach IoU 0.3 with none of them."""
    rng = np.random.default_rng(0)
    side, ratio, corner = rng.uniform(8, 16, 200), rng.uniform(0.5, 2, 200), rng.uniform(0, 200, (200, 2))
    size = np.stack([side / np.sqrt(ratio), side * np.sqrt(ratio)], axis=1)
    boxes = np.concatenate([corner, corner + size], axis=1)
    settings = dict(backbone="resnet18", neck="fpn", image_size=224, head_width=16)
    small = detection.build_detector(**settings, anchor_scales=[[11, 16], [23, 32], [45, 64], [91, 128], [182, 256]])
    assert small.network.rpn.anchor_generator.sizes[0] == (11.0, 16.0)
    assert detection.anchor_coverage(small, boxes, 0.3) == 1.0
    assert detection.anchor_coverage(detection.build_detector(**settings), boxes, 0.3) == 0.0
    with pytest.raises(ValueError, match="positive sides"):
        detection.build_detector(**settings, anchor_scales=[0, 1, 2, 3, 4])


def test_every_label_comes_back_as_its_own_name(films):
    folder, index, _ = films

    class Fixed(torch.nn.Module):
        image_size = 64

        def detect(self, image):
            labels = torch.arange(1, 15)
            return [{"boxes": torch.tensor([[0.0, 0, 8, 8]] * 14), "labels": labels, "scores": labels / 20}] * len(
                image
            )

    sizes = film_sizes(index)
    dataset = FilmDataset(folder, ["a"], 64, sizes)
    found = inference.predict_boxes(Fixed(), dataset, sizes, progress=False)
    assert found.class_name.tolist() == list(FINDINGS)
    boxes = pd.DataFrame({"image_id": "a", "class_id": range(14), "class_name": FINDINGS})
    boxes[BOX] = [0.0, 0.0, 8.0, 8.0]
    labels = FilmDataset(folder, ["a"], 64, sizes, boxes)[0]["box_labels"]
    assert labels.tolist() == list(range(1, 15)), "a name trains under the number it is read back from; 0 is background"


def test_views_are_fused_by_hand():
    box = torch.tensor([[10.0, 20, 30, 60]])
    assert inference.unflip(box, 100).tolist() == [[70, 20, 90, 60]]
    assert torch.equal(inference.unflip(inference.unflip(box, 100), 100), box)
    first = {
        "boxes": torch.tensor([[10.0, 10, 50, 50], [60, 60, 80, 80]]),
        "labels": torch.tensor([4, 9]),
        "scores": torch.tensor([0.8, 0.5]),
    }
    second = {
        "boxes": torch.tensor([[16.0, 10, 56, 50]]), "labels": torch.tensor([4]), "scores": torch.tensor([0.4])
    }  # fmt: skip
    fused = inference.fuse_views([first, second], 100)
    # Class 4: found by both, corners (.8 * 10 + .4 * 16) / 1.2 = 12 and 52, score the mean .6.
    # Class 9: found by one of two, so half of .5.
    assert fused["labels"].tolist() == [4, 9]
    np.testing.assert_allclose(fused["boxes"], [[12, 10, 52, 50], [60, 60, 80, 80]], atol=1e-4)
    np.testing.assert_allclose(fused["scores"], [0.6, 0.25], atol=1e-6)
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
    assert inference.fuse_views([nothing, nothing], 100)["boxes"].shape == (0, 4)


def test_flipped_views_lie_on_the_film_itself(films):
    """A detector that finds the brightest column finds it in the same place on both views."""
    folder, index, _ = films

    class Column(torch.nn.Module):
        image_size = 64

        def detect(self, image):
            found = []
            for film in image:
                x = float(film[0].sum(0).argmax())
                box = torch.tensor([[x, 0.0, x + 1, 64.0]])
                found.append({"boxes": box, "labels": torch.tensor([1]), "scores": torch.tensor([0.5])})
            return found

    sizes = film_sizes(index)
    dataset = FilmDataset(folder, ["a", "b"], 64, sizes)
    plain = inference.predict_boxes(Column(), dataset, sizes, progress=False)
    fused = inference.predict_boxes(Column(), dataset, sizes, progress=False, flip=True)
    pd.testing.assert_frame_equal(plain, fused, atol=0.02)


def test_gate_by_hand():
    boxes = pd.DataFrame(
        [("a", "ILD", 0.9), ("a", "ILD", 0.2), ("b", "ILD", 0.7), ("c", "ILD", 0.6)],
        columns=["image_id", "class_name", "score"],
    ).assign(x_min=1.0, y_min=2.0, x_max=3.0, y_max=4.0)
    sizes = {i: (100, 200) for i in "abcd"}
    gated = detection.gate_predictions(boxes, {"a": 0.96, "b": 0.5, "c": 0.07, "d": 0.2}, sizes)
    rows = [(r.image_id, r.class_name, round(r.score, 6)) for r in gated.itertuples()]
    assert rows == [
        ("a", "ILD", 0.9), ("a", "ILD", 0.2),  # surely abnormal: the detector alone
        ("b", "ILD", 0.7), ("b", "No finding", 0.5),  # both
        ("c", "No finding", 1.0),  # surely normal: no boxes
        ("d", "No finding", 0.8),  # nothing detected
    ]  # fmt: skip
    assert gated[gated.class_name == "No finding"].x_max.tolist() == [100.0] * 3
    assert list(gated.columns) == list(boxes.columns)
    with pytest.raises(ValueError, match="film c has boxes but no probability"):
        detection.gate_predictions(boxes, {"a": 1.0, "b": 1.0}, sizes)
    with pytest.raises(ValueError, match="0 <= low <= high"):
        detection.gate_predictions(boxes, {}, sizes, low=0.9, high=0.1)


def test_gate_raises_the_contest_score_in_a_hand_counted_case():
    reference = pd.DataFrame([("a", "ILD", 0.0, 0.0, 9.0, 9.0)], columns=["image_id", "class_name", *BOX])
    found = pd.DataFrame(
        [("b", "ILD", 0.9, 0.0, 0.0, 9.0, 9.0), ("a", "ILD", 0.8, 0.0, 0.0, 9.0, 9.0)],
        columns=["image_id", "class_name", "score", *BOX],
    )
    sizes = {"a": (10, 10), "b": (10, 10)}
    references = metrics.with_no_finding_boxes(reference, ["a", "b"], sizes)
    before = metrics.mean_average_precision(references=references, predictions=found)
    assert before == (0.25, {"ILD": 0.5, "No finding": 0.0})
    gated = detection.gate_predictions(found, {"a": 0.99, "b": 0.01}, sizes)
    assert metrics.mean_average_precision(references=references, predictions=gated)[0] == 1.0


def test_rescoring_by_hand():
    found = pd.DataFrame({"image_id": ["a", "a", "b"], "class_name": ["ILD", "Consolidation", "ILD"], "score": 0.8})
    probabilities = pd.DataFrame({"ILD": [0.25, 1.0], "Consolidation": [0.0, 0.5]}, index=["a", "b"])
    assert detection.rescore_predictions(found, probabilities).score.tolist() == pytest.approx([0.4, 0.0, 0.8])
    assert detection.rescore_predictions(found, probabilities, power=1).score.tolist() == pytest.approx([0.2, 0, 0.8])
    with pytest.raises(ValueError, match="film b has a box of ILD but no probability"):
        detection.rescore_predictions(found, probabilities.loc[["a"]])


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
    labels = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1]])
    assert classification.positive_weights(labels).tolist() == [3.0, 1.0, 1.0]


@pytest.mark.parametrize("name", ["seresnet_tiny", "seresnet18"])
def test_losses_reach_the_model_and_are_not_part_of_its_file(name, tmp_path):
    weight = [2.0] * 15
    model = classification.build_classifier(name, loss="weighted", positive_weight=weight).eval()
    plain = classification.build_classifier(name).eval()
    plain.load_state_dict(model.state_dict())  # no key more, no key less
    film, targets = torch.rand(2, 1, 64, 64), torch.ones(2, 15)
    assert model(film, targets)["loss"].item() == pytest.approx(2 * plain(film, targets)["loss"].item(), rel=1e-5)


# ---- boxes teach a timm network


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


def timm_classifier(heatmap_weight=1.0, name="seresnet18"):
    torch.manual_seed(0)
    return classification.build_classifier(name, heatmap_weight=heatmap_weight)


def test_without_heat_maps_a_classifier_is_the_timm_network_and_nothing_more():
    import timm

    model = timm_classifier(0.0)
    wanted = timm.create_model("seresnet18", num_classes=15).state_dict()
    assert list(model.state_dict()) == [f"network.{name}" for name in wanted]
    batch = boxed_batch()
    outputs = model.eval()(**batch)
    assert set(outputs) == {"logits", "loss"}
    plain = model.loss(outputs["logits"], batch["targets"])
    assert torch.equal(outputs["loss"], plain), "boxes that come with the batch change nothing"


def test_the_heat_map_head_adds_its_own_weights_and_leaves_the_rest():
    plain, taught = timm_classifier(0.0).state_dict(), timm_classifier(1.0).state_dict()
    assert set(taught) - set(plain) == {"heatmap.weight", "heatmap.bias"}
    assert taught["heatmap.weight"].shape == (14, 512, 1, 1) and (taught["heatmap.bias"] == -4).all()
    assert all(torch.equal(plain[name], taught[name]) for name in plain), "the same network, drawn from the same seed"


def test_the_loss_of_a_timm_network_is_that_of_labels_and_heat_maps():
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


def test_boxes_reach_the_network_through_the_heat_maps():
    def gradients(model, **changes):
        model.eval().zero_grad(set_to_none=True)
        model(**{**boxed_batch(), **changes})["loss"].backward()
        head = model.heatmap.weight.grad if hasattr(model, "heatmap") else None
        return model.network.conv1.weight.grad, head

    def differ(first, second):
        return (first - second).abs().max() > 0.05 * first.abs().max()

    model = timm_classifier(1.0)
    (here, head), (there, moved) = gradients(model), gradients(model, boxes=[torch.tensor([[0.0, 0, 64, 64]])] * 4)
    assert differ(here, there) and differ(head, moved)
    (labels_alone, head), (paper, _) = gradients(model, boxes=None), gradients(timm_classifier(0.0))
    assert differ(here, labels_alone) and head is None
    assert torch.allclose(labels_alone, paper, atol=1e-6), "without boxes it learns what the paper's network learns"


def test_a_timm_network_learns_where_the_bright_square_is():
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


def test_probabilities_do_not_read_the_heat_maps(films):
    folder, index, _ = films
    dataset = FilmDataset(folder, ["a", "b"], 64, film_sizes(index))
    model = timm_classifier(1.0)
    before = inference.predict_probabilities(model, dataset, progress=False)
    torch.nn.init.constant_(model.heatmap.weight, 9.0)
    np.testing.assert_array_equal(before, inference.predict_probabilities(model, dataset, progress=False))
    plain = inference.predict_probabilities(timm_classifier(0.0), dataset, progress=False)
    np.testing.assert_allclose(before, plain, atol=1e-6)


def test_a_classifier_comes_back_with_the_head_it_was_saved_with(tmp_path):
    film = torch.rand(1, 1, 64, 64)
    for weight in (0.0, 1.0):
        model, settings = timm_classifier(weight).eval(), {"model_name": "seresnet18", "image_size": 64}
        classification.save_classifier(model, tmp_path, {**settings, "heatmap_weight": weight})
        again = classification.load_classifier(tmp_path)
        assert again.heatmap_weight == weight and set(again(film)) == set(model(film))
        assert all(torch.equal(value, again(film)[name]) for name, value in model(film).items())
    classification.save_classifier(timm_classifier(0.0), tmp_path, settings)  # written before there was a head
    assert "heatmap" not in classification.load_classifier(tmp_path)(film)


def test_a_network_without_a_last_map_cannot_have_heat_maps():
    assert timm_classifier(0.0, "vit_tiny_patch16_224").heatmap_weight == 0
    with pytest.raises(ValueError, match=r"vit_tiny_patch16_224 has no last map .* found \(197, 192\)"):
        timm_classifier(1.0, "vit_tiny_patch16_224")


def test_temperature_equals_a_logistic_regression_without_intercept():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    logits = rng.normal(0, 4, (4000, 2))
    truth = rng.random((4000, 2)) < 1 / (1 + np.exp(-logits / [2.5, 0.5]))
    sure = 1 / (1 + np.exp(-logits))
    found = calibration.fit_temperature(truth, sure, per_class=True)
    clipped = np.log(sure / (1 - sure)).clip(-13.815, 13.815)
    for k in range(2):
        slope = LogisticRegression(C=np.inf, fit_intercept=False).fit(clipped[:, [k]], truth[:, k]).coef_[0, 0]
        assert found[k] == pytest.approx(1 / slope, rel=1e-3)
    honest = calibration.apply_temperature(sure, found)
    errors = [metrics.calibration_error(references=truth, probabilities=p)["ece"] for p in (sure, honest)]
    assert errors[1] < 0.02 < errors[0]
    np.testing.assert_array_equal(sure.argsort(0), honest.argsort(0))
    assert calibration.fit_temperature(truth, sure).shape == (2,)
    assert calibration.fit_temperature(np.zeros((3, 1)), np.full((3, 1), 0.2), per_class=True).tolist() == [1.0]


# ---- where a classifier looks


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


@pytest.mark.parametrize("name, weight", [("seresnet_tiny", 2.0), ("seresnet18", 0.0), ("seresnet18", 1.0)])
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


def test_figures_draw_what_is_missing_too():
    from cliniqure_utils.figures.classify import plot_gradcam, plot_intervals, plot_reliability
    from cliniqure_utils.figures.detect import plot_froc

    table = pd.DataFrame(
        {"positives": [3, 0], "auroc": [0.8, np.nan], "auroc_low": [0.6, np.nan], "auroc_high": [0.9, np.nan]},
        index=["ILD", "Calcification"],
    )
    figure = plot_intervals(table, "auroc", "AUROC", "", 0.5)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["ILD (3)"]
    counts = metrics.reliability(references=[0, 1], probabilities=[0.1, 0.9])
    assert len(plot_reliability({"one": counts, "two": counts}, "").axes) == 2
    film, flat = np.zeros((8, 8), np.uint8), np.zeros((8, 8))
    figure = plot_gradcam([film], [flat], [np.zeros((0, 4))], ["ILD"], [np.nan])
    assert figure.axes[1].get_title() == "no box"
    curve = pd.DataFrame({"false_per_image": [0.0, 0.5, 20.0], "sensitivity": [0.1, 0.4, 0.9]})
    figure = plot_froc({"found": curve, "nothing": curve.iloc[:0]}, metrics.FROC_POINTS, "")
    assert [line.get_ydata()[-1] for line in figure.axes[0].lines[:2]] == [0.4, 0.0], "what lies beyond is not drawn"


def test_thresholds_maximise_f1_on_a_hand_counted_case():
    probabilities = np.array([[0.9], [0.8], [0.7], [0.2]])
    references = np.array([[1], [0], [1], [0]])
    # 3 answers, 2 right: F1 = 4 / 5; 1 answer, 1 right: 2 / 3; all 4: 4 / 6
    threshold = calibration.choose_thresholds(references, probabilities)[0]
    assert threshold == pytest.approx(0.45)
    assert calibration.choose_thresholds(np.zeros((4, 1)), probabilities)[0] == 0.5


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
    assert len(FINDINGS) == 14 and detection.N_CLASSES == 15 and len(CLASSES) == 15
    assert CLASSES[-1] == NO_FINDING
