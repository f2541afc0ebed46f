"""The detector: tables 3 and 4, anchors, what it refuses, and what the classifier does to its boxes."""

import numpy as np
import pandas as pd
import pytest
import torch

from cliniqure_utils import metrics
from cliniqure_utils.vision import detection, trunks
from cliniqure_utils.vocabulary import BOX, CLASSES, FINDINGS, NO_FINDING


def test_paper_detector_is_tables_3_and_4():
    with torch.device("meta"):  # shapes without numbers: 41 million weights are not drawn
        detector = detection.build_detector()
    network = detector.network
    assert network.transform.min_size == (224,) and network.transform.max_size == 224
    with torch.no_grad():
        feature_map = network.backbone.eval()(torch.zeros(1, 3, 224, 224, device="meta"))
    assert tuple(feature_map.shape) == (1, 2048, 7, 7)
    generator = network.rpn.anchor_generator
    assert generator.sizes == ((32.0, 64.0, 128.0, 256.0, 512.0),)
    assert generator.aspect_ratios == ((0.5, 1.0, 2.0),)
    assert generator.num_anchors_per_location() == [15]
    assert network.roi_heads.box_roi_pool.output_size == (7, 7)
    assert network.roi_heads.box_predictor.cls_score.out_features == 15


def test_detector_refuses_what_torchvision_takes_in_silence(small_detector):
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


def test_fpn_needs_one_anchor_scale_per_map(small_detector):
    with pytest.raises(ValueError, match="needs one anchor scale for each, found 2"):
        small_detector(neck="fpn")
    detector = small_detector(neck="fpn", anchor_scales=[8, 16, 32, 64, 128])
    assert detector.network.transform.max_size == 64


def test_fpn_takes_several_sides_per_map_and_then_no_small_box_is_without_an_anchor():
    """Case C48: boxes of 8-16 pixels at 224; the default anchors 32-512 reach IoU 0.3 with none of them."""
    rng = np.random.default_rng(0)
    side, ratio, corner = rng.uniform(8, 16, 200), rng.uniform(0.5, 2, 200), rng.uniform(0, 200, (200, 2))
    size = np.stack([side / np.sqrt(ratio), side * np.sqrt(ratio)], axis=1)
    boxes = np.concatenate([corner, corner + size], axis=1)
    settings = dict(backbone="tiny", neck="fpn", image_size=224, head_width=16)
    small = detection.build_detector(**settings, anchor_scales=[[11, 16], [23, 32], [45, 64], [91, 128], [182, 256]])
    assert small.network.rpn.anchor_generator.sizes[0] == (11.0, 16.0)
    assert detection.anchor_coverage(small, boxes, 0.3) == 1.0
    assert detection.anchor_coverage(detection.build_detector(**settings), boxes, 0.3) == 0.0
    with pytest.raises(ValueError, match="positive sides"):
        detection.build_detector(**settings, anchor_scales=[0, 1, 2, 3, 4])


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


def test_anchor_coverage_by_hand(small_detector):
    detector = small_detector(anchor_scales=[16], aspect_ratios=[1.0])
    # Anchors are 16 x 16 around multiples of 8 pixels: one meets the first box exactly, none the second.
    assert detection.anchor_coverage(detector, np.array([[0, 0, 16, 16], [0, 0, 64, 64]])) == 0.5


def test_label_maps_agree():
    assert len(FINDINGS) == 14 and detection.N_CLASSES == 15 and len(CLASSES) == 15
    assert CLASSES[-1] == NO_FINDING


@pytest.mark.parametrize("neck", ["none", "topdown", "fpn"])
def test_a_detector_with_weights_trains_only_what_is_not_frozen(neck, tmp_path, small_detector):
    """As from ImageNet: the file stands in for it. Whole, the statistics of all batch normalisation would move."""
    torch.manual_seed(0)
    trunks.save_body(trunks.TopDown(trunks.build_trunk("tiny")), tmp_path / "trunk.safetensors")
    scales = [8, 16, 32, 64, 128] if neck == "fpn" else [16, 32]

    def moved_by_a_step(**changes):
        detector = small_detector(neck=neck, anchor_scales=scales, weights=tmp_path / "trunk.safetensors", **changes)
        before = {name: value.clone() for name, value in detector.state_dict().items()}
        optimizer = torch.optim.SGD([p for p in detector.train().parameters() if p.requires_grad], lr=0.01)
        films, boxes = torch.rand(2, 1, 64, 64), [torch.tensor([[8.0, 8.0, 40.0, 40.0]])] * 2
        detector(films, boxes, [torch.tensor([1])] * 2)["loss"].backward()
        optimizer.step()
        return {name for name, value in detector.state_dict().items() if not torch.equal(value, before[name])}

    inner = {"none": "", "topdown": "trunk.", "fpn": "body."}[neck]
    of_trunk = tuple(f"network.backbone.{inner}{part}" for part in ("stem", "layer1", "layer2", "layer3", "layer4"))
    whole, kept = moved_by_a_step(), moved_by_a_step(frozen_parts=2, frozen_norm=True)
    first, later = of_trunk[:2], of_trunk[2:]
    assert any(name.startswith(first) and "running_mean" in name for name in whole)
    assert not any(name.startswith(first) for name in kept)
    assert any(name.startswith(later) for name in kept) and "network.roi_heads.box_predictor.cls_score.weight" in kept
    assert not any(name.startswith(of_trunk) and "running" in name for name in kept)


def test_without_weights_there_is_nothing_to_freeze(small_detector):
    detector = small_detector(frozen_parts=2, frozen_norm=True).train()
    assert all(p.requires_grad for p in detector.parameters())
    assert all(part.training for part in detector.modules())
    body = trunks.TopDown(trunks.build_trunk("tiny"))
    small_detector(body=body, frozen_parts=1)
    assert not any(p.requires_grad for p in body.trunk.stem.parameters())


def test_regions_are_cut_out_by_the_compiled_operator(monkeypatch):
    """torchvision would take a slow version in Python on a GPU while deterministic algorithms are asked for."""
    from torchvision.ops import poolers

    seen = []
    plain = poolers.roi_align
    watch = lambda *a, **k: (seen.append(torch.are_deterministic_algorithms_enabled()), plain(*a, **k))[1]  # noqa: E731
    monkeypatch.setattr(poolers, "roi_align", watch)
    pool = detection.build_detector(backbone="tiny", neck="none", image_size=64).network.roi_heads.box_roi_pool
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        torch.use_deterministic_algorithms(True, warn_only=True)
        pool({"0": torch.ones(1, 4, 4, 4)}, [torch.tensor([[0.0, 0.0, 32.0, 32.0]])], [(64, 64)])
        asked = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
        assert seen == [False] and asked == (True, True)
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def test_a_box_without_area_in_single_precision_is_refused():
    box = torch.tensor([[10.0, 10, 10 + 1e-7, 60]])
    with pytest.raises(ValueError, match="a box has no area"):
        detection.check_boxes(box, torch.tensor([1]))
