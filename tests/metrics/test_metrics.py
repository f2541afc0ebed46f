"""Every metric against an independent value, every baseline against hand arithmetic, each in the right direction."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from cliniqure_utils import metrics

SHARED = Path(__file__).parents[3] / "shared"
BOX = ["x_min", "y_min", "x_max", "y_max"]


def boxes(*rows):
    """Rows (image_id, class_name, x_min, y_min, x_max, y_max[, score])."""
    columns = ["image_id", "class_name", *BOX] + (["score"] if rows and len(rows[0]) == 7 else [])
    return pd.DataFrame(rows, columns=columns)


@pytest.fixture(scope="module")
def random_labels():
    rng = np.random.default_rng(1)
    return rng.random((80, 6)) < [0.5, 0.3, 0.2, 0.1, 0.05, 0.0], rng.random((80, 6)) < 0.3


@pytest.fixture(scope="module")
def random_boxes():
    """40 images, 3 classes, distinct scores; predictions are jittered references and noise."""
    rng = np.random.default_rng(2)
    ids = [f"image{i}" for i in range(40)]

    def table(n):
        corner, size = rng.uniform(0, 150, (n, 2)), rng.uniform(50, 120, (n, 2))
        frame = pd.DataFrame(np.c_[corner, corner + size], columns=BOX)
        return frame.assign(image_id=rng.choice(ids, n), class_name=rng.choice(["A", "B", "C"], n))

    references, noise = table(90), table(150)
    near = pd.concat([references, references], ignore_index=True)
    near[BOX] = near[BOX] + rng.normal(0, 9, (180, 4))
    predictions = pd.concat([near, noise], ignore_index=True)
    predictions["score"] = rng.permutation(len(predictions)) / len(predictions)
    return references, predictions, ids


# --- classification


def test_classification_scores_equal_scikit_learn(random_labels):
    references, predictions = random_labels
    scores = metrics.classification_scores(references=references, predictions=predictions)
    for average in ("micro", "macro", "weighted", "samples"):
        expected = sk.precision_recall_fscore_support(references, predictions, average=average, zero_division=0)
        found = [scores[f"{average}_{part}"] for part in ("precision", "recall", "f1")]
        np.testing.assert_allclose(found, expected[:3], atol=1e-12, err_msg=average)
    assert scores["hamming_loss"] == pytest.approx(sk.hamming_loss(references, predictions), abs=1e-12)
    assert len(scores) == 13


def test_swapped_references_and_predictions_swap_precision_and_recall():
    references, predictions = np.array([[1, 1, 0, 0]]), np.array([[1, 0, 0, 0]])
    scores = metrics.classification_scores(references=references, predictions=predictions)
    assert (scores["micro_precision"], scores["micro_recall"]) == (1.0, 0.5)
    swapped = metrics.classification_scores(references=predictions, predictions=references)
    assert (swapped["micro_precision"], swapped["micro_recall"]) == (0.5, 1.0)
    with pytest.raises(TypeError):
        metrics.classification_scores(references, predictions)


def test_classification_refuses_probabilities_and_wrong_shapes():
    with pytest.raises(ValueError, match="threshold"):
        metrics.classification_scores(references=np.array([[0, 1]]), predictions=np.array([[0.2, 0.9]]))
    with pytest.raises(ValueError, match=r"\(1, 2\) and \(1, 3\)"):
        metrics.classification_scores(references=np.zeros((1, 2)), predictions=np.zeros((1, 3)))


def test_bootstrap_equals_rescoring_the_resampled_images(random_labels):
    references, predictions = random_labels
    counts = metrics.resample_counts(len(references), 50, seed=3)
    f1 = [
        sk.f1_score(references[rows], predictions[rows], average="weighted", zero_division=0)
        for rows in (np.repeat(np.arange(len(references)), row) for row in counts)
    ]
    found = metrics.classification_intervals(references=references, predictions=predictions, n_resamples=50, seed=3)
    assert found["weighted_f1"] == pytest.approx(np.quantile(f1, [0.025, 0.975]), abs=1e-12)


def test_auroc_equals_scikit_learn_with_ties_and_missing_classes(random_labels):
    references, _ = random_labels
    probabilities = np.round(np.random.default_rng(4).random(references.shape) + 0.3 * references, 1)  # many ties
    found = metrics.auroc(references=references, probabilities=probabilities)
    expected = [sk.roc_auc_score(references[:, k], probabilities[:, k]) for k in range(5)]
    np.testing.assert_allclose(found[:5], expected, atol=1e-12)
    assert np.isnan(found[5]), "a class without a positive image has no AUROC"
    mean, low, high = metrics.macro_auroc_interval(references=references, probabilities=probabilities, seed=5)
    assert mean == pytest.approx(np.mean(expected), abs=1e-12)
    assert low < mean < high
    assert metrics.auroc(references=references, probabilities=-probabilities)[0] == pytest.approx(1 - expected[0])


def test_macro_auroc_bootstrap_equals_rescoring(random_labels):
    references = random_labels[0][:, :2]
    probabilities = np.random.default_rng(6).random(references.shape)
    counts = metrics.resample_counts(len(references), 40, seed=7)
    rows = [np.repeat(np.arange(len(references)), row) for row in counts]
    macro = [np.mean([sk.roc_auc_score(references[r, k], probabilities[r, k]) for k in (0, 1)]) for r in rows]
    _, low, high = metrics.macro_auroc_interval(
        references=references, probabilities=probabilities, n_resamples=40, seed=7
    )
    assert (low, high) == pytest.approx(tuple(np.quantile(macro, [0.025, 0.975])), abs=1e-12)


def test_average_precision_of_classes_equals_scikit_learn_also_resampled(random_labels):
    references, _ = random_labels
    probabilities = np.random.default_rng(3).random(references.shape).round(1)  # many ties
    found = metrics.average_precision(references=references, probabilities=probabilities)
    for k in range(5):
        assert found[k] == pytest.approx(sk.average_precision_score(references[:, k], probabilities[:, k]), abs=1e-12)
    assert np.isnan(found[5]), "no positive image"
    names = [f"class {k}" for k in range(6)]
    table = metrics.per_class_intervals(
        references=references, probabilities=probabilities, class_names=names, n_resamples=40, seed=5
    )
    assert table.positives.tolist() == references.sum(0).tolist()
    counts = metrics.resample_counts(len(references), 40, 5)
    for name, score in (("auroc", sk.roc_auc_score), ("ap", sk.average_precision_score)):
        values = [score(references[:, 1], probabilities[:, 1], sample_weight=row) for row in counts]
        low, high = np.quantile(values, [0.025, 0.975])
        assert table.loc["class 1", [f"{name}_low", f"{name}_high"]].tolist() == pytest.approx([low, high], abs=1e-9)
        point = score(references[:, 1], probabilities[:, 1])
        assert table.loc["class 1", name] == pytest.approx(point, abs=1e-12)
    assert table.loc["class 5"].isna().sum() == 6


def test_reliability_by_hand():
    table = metrics.reliability(references=[0, 0, 1, 1, 1], probabilities=[0.0, 0.2, 0.3, 0.5, 1.0], n_bins=2)
    assert table.n.tolist() == [3, 2], "0.5 belongs to the upper half"
    assert table.confidence.tolist() == pytest.approx([0.5 / 3, 0.75])
    assert table.frequency.tolist() == pytest.approx([1 / 3, 1.0])
    error = metrics.calibration_error(references=[0, 0, 1, 1, 1], probabilities=[0.0, 0.2, 0.3, 0.5, 1.0], n_bins=2)
    assert error["ece"] == pytest.approx(3 / 5 * (1 / 3 - 0.5 / 3) + 2 / 5 * 0.25)
    assert error["brier_prior"] == pytest.approx(0.6 * 0.4)
    for wrong in (dict(references=[2], probabilities=[0.5]), dict(references=[1], probabilities=[1.1])):
        with pytest.raises(ValueError, match="must"):
            metrics.reliability(**wrong)
    with pytest.raises(ValueError, match="one shape"):
        metrics.reliability(references=[1], probabilities=[0.1, 0.2])


def test_calibration_error_equals_torchmetrics_and_scikit_learn():
    import torch
    from torchmetrics.classification import BinaryCalibrationError

    rng = np.random.default_rng(0)
    probabilities = rng.random(500).astype(np.float32)
    truth = rng.random(500) < probabilities**2
    judge = BinaryCalibrationError(n_bins=10, norm="l1")
    expected = judge(torch.tensor(probabilities), torch.tensor(truth.astype(int))).item()
    found = metrics.calibration_error(references=truth, probabilities=probabilities)
    assert found["ece"] == pytest.approx(expected, abs=1e-5)
    assert found["brier"] == pytest.approx(sk.brier_score_loss(truth, probabilities), abs=1e-6)


def test_per_class_scores_equal_scikit_learn(random_labels):
    references, predictions = random_labels
    found = metrics.per_class_scores(references=references, predictions=predictions)
    expected = sk.precision_recall_fscore_support(references, predictions, average=None, zero_division=0)
    for part, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        np.testing.assert_allclose(found[part], values, atol=1e-12)


def test_per_image_f1_and_no_finding():
    references = metrics.with_no_finding([[1, 1], [0, 0], [1, 0]])
    np.testing.assert_array_equal(references[:, 2], [False, True, False])
    predictions = metrics.with_no_finding([[1, 0], [0, 0], [0, 1]])
    np.testing.assert_allclose(metrics.per_image_f1(references=references, predictions=predictions), [2 / 3, 1, 0])


def test_trivial_label_baselines():
    train = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 1], [0, 0, 1]])
    np.testing.assert_array_equal(metrics.most_common_labels(train, 2), [[True, False, False]] * 2)
    np.testing.assert_allclose(metrics.class_prior(train, 2), [[0.5, 0.25, 0.5]] * 2)
    np.testing.assert_array_equal(metrics.always_one_class(2, 3), [[False, False, True]] * 2)


def test_always_no_finding_on_the_real_labels():
    """Measured on Kaggle's 15,000 training images: any-reader labels, 15 classes (notes, rows 12 and 14)."""
    from cliniqure_utils.annotations import label_matrix, read_annotations

    annotations, _ = read_annotations("torchxrayvision")
    image_ids = sorted(annotations.image_id.unique())
    references = label_matrix(annotations, image_ids).to_numpy()
    scores = metrics.classification_scores(
        references=references, predictions=metrics.always_one_class(len(image_ids), 15)
    )
    expected = {
        "micro_precision": 0.707, "micro_recall": 0.408, "micro_f1": 0.518, "weighted_f1": 0.338,
        "samples_f1": 0.707, "macro_f1": 0.055, "hamming_loss": 0.088,
    }  # fmt: skip
    assert {name: round(scores[name], 3) for name in expected} == expected
    # "No finding" boxes over the whole image, answered on every image, are right on 70.7% of the images.
    assert references[:, 14].mean() == pytest.approx(10606 / 15000, abs=1e-9)


# --- boxes


def overlap(a, b):
    """IoU by counting, for the brute force below."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def brute_force_ap(references, predictions, name, threshold):
    """All-point average precision, written out with loops."""
    truth = [(r.image_id, [getattr(r, c) for c in BOX]) for r in references.itertuples() if r.class_name == name]
    said = predictions[predictions.class_name == name].sort_values("score", ascending=False)
    used, points, true = set(), [], 0
    for rank, row in enumerate(said.itertuples(), start=1):
        best, best_iou = None, threshold
        for index, (image_id, box) in enumerate(truth):
            iou = overlap([getattr(row, c) for c in BOX], box) if image_id == row.image_id else 0.0
            if index not in used and iou >= best_iou:
                best, best_iou = index, iou
        if best is not None:
            used.add(best)
            true += 1
        points.append((true / len(truth), true / rank))
    area, previous = 0.0, 0.0
    for index, (recall, _) in enumerate(points):
        area += (recall - previous) * max(precision for _, precision in points[index:])
        previous = recall
    return area


def test_average_precision_equals_a_brute_force(random_boxes):
    references, predictions, _ = random_boxes
    mean, per_class = metrics.mean_average_precision(references=references, predictions=predictions)
    expected = {name: brute_force_ap(references, predictions, name, 0.4) for name in "ABC"}
    assert per_class == pytest.approx(expected, abs=1e-12)
    assert mean == pytest.approx(np.mean(list(expected.values())), abs=1e-12)
    assert 0.2 < mean < 0.9, "the example must not be trivial"


def test_average_precision_agrees_with_pycocotools(random_boxes):
    """pycocotools reads the curve at 101 recalls, so it may differ by about one hundredth per class."""
    import torch
    from torchmetrics.detection import MeanAveragePrecision

    references, predictions, ids = random_boxes
    number = {"A": 0, "B": 1, "C": 2}

    def as_tensors(table, with_score):
        result = []
        for image_id in ids:
            rows = table[table.image_id == image_id]
            item = {
                "boxes": torch.tensor(rows[BOX].to_numpy()),
                "labels": torch.tensor([number[name] for name in rows.class_name], dtype=torch.long),
            }
            result.append(item | ({"scores": torch.tensor(rows["score"].to_numpy())} if with_score else {}))
        return result

    judge = MeanAveragePrecision(iou_thresholds=[0.4], class_metrics=True)
    judge.update(as_tensors(predictions, True), as_tensors(references, False))
    result = judge.compute()
    mean, per_class = metrics.mean_average_precision(references=references, predictions=predictions)
    assert mean == pytest.approx(result["map"].item(), abs=0.01)
    np.testing.assert_allclose([per_class[n] for n in "ABC"], result["map_per_class"].numpy(), atol=0.015)


def test_average_precision_by_hand_and_keyword_asymmetry():
    references = boxes(("a", "X", 0, 0, 10, 10), ("b", "X", 0, 0, 10, 10), ("a", "Y", 0, 0, 4, 4))
    predictions = boxes(("a", "X", 0, 0, 10, 10, 0.9), ("a", "X", 50, 50, 60, 60, 0.8), ("b", "X", 0, 0, 10, 9, 0.7))
    mean, per_class = metrics.mean_average_precision(references=references, predictions=predictions)
    # X: (recall .5, precision 1), then (1, 2/3): .5 + .5 * 2/3. Y is never predicted.
    assert per_class == pytest.approx({"X": 5 / 6, "Y": 0.0})
    assert mean == pytest.approx(5 / 12)
    swapped, _ = metrics.mean_average_precision(
        references=predictions.drop(columns="score"), predictions=references.assign(score=1.0)
    )
    assert swapped == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="'score'"):
        metrics.mean_average_precision(references=predictions, predictions=references)


def test_an_overlap_of_exactly_the_threshold_hits_and_a_second_box_on_one_reference_does_not():
    references = boxes(("a", "X", 0, 0, 10, 10))
    hit = boxes(("a", "X", 0, 0, 10, 4, 0.9))
    assert metrics.mean_average_precision(references=references, predictions=hit)[0] == 1.0
    miss = boxes(("a", "X", 0, 0, 10, 3.99, 0.9))
    assert metrics.mean_average_precision(references=references, predictions=miss)[0] == 0.0
    twice = boxes(("a", "X", 0, 0, 10, 10, 0.9), ("a", "X", 0, 0, 10, 10, 0.8))
    assert metrics.box_scores(references=references, predictions=twice)["hits"] == 1


def test_equal_scores_make_the_result_independent_of_row_order():
    references = boxes(("a", "X", 0, 0, 10, 10))
    predictions = boxes(("a", "X", 0, 0, 10, 10, 0.5), ("b", "X", 0, 0, 10, 10, 0.5))
    for table in (predictions, predictions[::-1]):
        assert metrics.mean_average_precision(references=references, predictions=table)[0] == 0.5


def test_nothing_predicted_nothing_there_and_broken_boxes():
    references, nothing = boxes(("a", "X", 0, 0, 10, 10)), boxes(("a", "X", 0, 0, 1, 1, 0.5)).iloc[:0]
    assert metrics.mean_average_precision(references=references, predictions=nothing) == (0.0, {"X": 0.0})
    no_finding = boxes(("a", "No finding", np.nan, np.nan, np.nan, np.nan))
    assert np.isnan(metrics.mean_average_precision(references=no_finding, predictions=nothing)[0])
    assert np.isnan(metrics.map_interval(references=no_finding, predictions=nothing, image_ids=["a"])).all()
    empty = metrics.box_overlap(references=no_finding, predictions=nothing, image_ids=["a"], definition="matched")
    assert np.isnan(empty["iou"]) and empty["n"] == 0
    with pytest.raises(ValueError, match="not a box"):
        metrics.mean_average_precision(references=boxes(("a", "X", 10, 0, 0, 10)), predictions=nothing)


def test_paired_difference_equals_rescoring_resampled_copies(random_boxes):
    """The vectorised bootstrap against the plain one: images copied under new names, scored again."""
    references, predictions, ids = random_boxes
    worse = predictions[predictions.index % 3 > 0]
    found = metrics.paired_map_difference(
        references=references, predictions_a=predictions, predictions_b=worse, image_ids=ids, n_resamples=12, seed=8
    )
    differences = []
    for row in metrics.resample_counts(len(ids), 12, seed=8):
        copies = pd.DataFrame(
            [(i, f"{i}/{c}") for i, n in zip(ids, row, strict=True) for c in range(n)], columns=["image_id", "copy"]
        )

        def drawn(table, copies=copies):
            return copies.merge(table, on="image_id").drop(columns="image_id").rename(columns={"copy": "image_id"})

        maps = [
            metrics.mean_average_precision(references=drawn(references), predictions=drawn(p))[0]
            for p in (predictions, worse)
        ]
        differences.append(maps[0] - maps[1])
    assert found["difference"] == pytest.approx(found["map_a"] - found["map_b"])
    assert (found["low"], found["high"]) == pytest.approx(tuple(np.quantile(differences, [0.025, 0.975])), abs=1e-12)


def test_paired_difference_of_a_system_with_itself_is_zero_and_other_images_do_not_count(random_boxes):
    references, predictions, ids = random_boxes
    same = metrics.paired_map_difference(
        references=references, predictions_a=predictions, predictions_b=predictions, image_ids=ids[:20], n_resamples=20
    )
    assert same["low"] == same["high"] == 0.0
    only = references[references.image_id.isin(ids[:20])], predictions[predictions.image_id.isin(ids[:20])]
    assert same["map_a"] == metrics.mean_average_precision(references=only[0], predictions=only[1])[0]
    with pytest.raises(ValueError, match="twice"):
        metrics.map_interval(references=references, predictions=predictions, image_ids=["a", "a"])


SIZES = {name: (100, 100) for name in "abc"}


def test_box_overlap_definitions_by_hand():
    references = boxes(("a", "X", 0, 0, 10, 10), ("a", "Y", 20, 0, 30, 10), ("b", "X", 0, 0, 10, 10))
    predictions = boxes(("a", "X", 0, 0, 10, 5, 0.9), ("a", "Z", 20, 0, 30, 10, 0.9))

    def score(definition, **more):
        return metrics.box_overlap(
            references=references, predictions=predictions, image_ids="abc", definition=definition, **more
        )

    # One pair: IoU 50/100, Dice 100/150.
    assert score("matched") == pytest.approx({"iou": 1 / 2, "dice": 2 / 3, "n": 1})
    # Three references, two without an answer of their class.
    assert score("best_per_reference") == pytest.approx({"iou": 1 / 6, "dice": 2 / 9, "n": 3})
    # Image a: shared 150 of 200; image b: nothing predicted; image c: nothing on either side, left out.
    assert score("pooled") == pytest.approx({"iou": 3 / 8, "dice": 3 / 7, "n": 2})
    assert score("pooled_total") == pytest.approx({"iou": 150 / 300, "dice": 300 / 450, "n": 1})
    # Image c gains a whole-image box on both sides; image b gains one among the predictions: 100 of 10000 shared.
    assert score("matched", with_no_finding=True, image_sizes=SIZES) == pytest.approx(
        {"iou": 3 / 4, "dice": 5 / 6, "n": 2}
    )
    whole = score("pooled", with_no_finding=True, image_sizes=SIZES)
    assert whole == pytest.approx({"iou": (0.75 + 0.01 + 1) / 3, "dice": (6 / 7 + 200 / 10100 + 1) / 3, "n": 3})
    with pytest.raises(ValueError, match="image_sizes"):
        score("pooled", with_no_finding=True)
    with pytest.raises(ValueError, match="expected one of matched"):
        score("mean")


@pytest.mark.parametrize("definition", list(metrics.DEFINITIONS))
def test_box_overlap_interval_equals_rescoring(random_boxes, definition):
    references, predictions, ids = random_boxes
    found = metrics.box_overlap(
        references=references, predictions=predictions, image_ids=ids, definition=definition, n_resamples=15, seed=3
    )
    values = []
    for row in metrics.resample_counts(len(ids), 15, seed=3):
        copies = pd.DataFrame(
            [(i, f"{i}/{c}") for i, n in zip(ids, row, strict=True) for c in range(n)], columns=["image_id", "copy"]
        )
        tables = [
            copies.merge(t, on="image_id").drop(columns="image_id").rename(columns={"copy": "image_id"})
            for t in (references, predictions)
        ]
        values.append(
            metrics.box_overlap(
                references=tables[0], predictions=tables[1], image_ids=copies["copy"].tolist(), definition=definition
            )["dice"]
        )
    assert (found["dice_low"], found["dice_high"]) == pytest.approx(
        tuple(np.quantile(values, [0.025, 0.975])), abs=1e-9
    )


def test_box_overlap_is_not_symmetric():
    one, two = boxes(("a", "X", 0, 0, 10, 10)), boxes(("a", "X", 0, 0, 10, 10), ("a", "X", 50, 50, 60, 60))
    a = metrics.box_overlap(references=two, predictions=one, image_ids=["a"], definition="best_per_reference")
    b = metrics.box_overlap(references=one, predictions=two, image_ids=["a"], definition="best_per_reference")
    assert (a["iou"], b["iou"]) == (0.5, 1.0)


def test_pooled_areas_equal_pixel_masks():
    rng = np.random.default_rng(9)

    def table(n):
        corner = rng.integers(0, 40, (n, 2))
        corners = np.c_[corner, corner + rng.integers(1, 20, (n, 2))]
        return boxes(*[("a", "X", *row) for row in corners.tolist()])

    def mask(frame):
        pixels = np.zeros((60, 60), bool)
        for row in frame.itertuples():
            pixels[row.y_min : row.y_max, row.x_min : row.x_max] = True
        return pixels

    references, predictions = table(6), table(5)
    found = metrics.box_overlap(references=references, predictions=predictions, image_ids=["a"], definition="pooled")
    a, b = mask(references), mask(predictions)
    assert found["iou"] == pytest.approx((a & b).sum() / (a | b).sum())
    assert found["dice"] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize(
    ("iou", "dice", "pooled", "averaged", "degenerate"),
    [
        (0.75, 0.76, False, True, True),
        (0.75, 0.857, True, True, False),
        (0.75, 0.90, False, False, False),
        (0.75, 0.70, False, False, False),
        (0.5, 0.58, False, True, False),
    ],
)
def test_check_iou_dice(iou, dice, pooled, averaged, degenerate):
    verdict = metrics.check_iou_dice(iou, dice)
    assert (verdict["pooled"], verdict["averaged"], verdict["degenerate"]) == (pooled, averaged, degenerate)


def test_the_share_between_cannot_be_beaten():
    """Random sets of items never have more of them between .25 and .75 than the bound says."""
    rng = np.random.default_rng(10)
    for _ in range(200):
        items = rng.beta(*rng.uniform(0.05, 3, 2), size=50)
        verdict = metrics.check_iou_dice(items.mean(), (2 * items / (1 + items)).mean(), rounding=0)
        assert ((items >= 0.25) & (items <= 0.75)).mean() <= verdict["max_share_between"] + 1e-9
        assert verdict["averaged"]
    assert metrics.check_iou_dice(0.75, 0.76)["max_share_between"] == pytest.approx(0.01 * 1.75 / 0.1875)


def test_best_score_threshold_maximises_f1(random_boxes):
    references, predictions, ids = random_boxes
    threshold = metrics.best_score_threshold(references=references, predictions=predictions, image_ids=ids)

    def f1(cut):
        kept = predictions[predictions.score >= cut]
        return metrics.box_scores(references=references, predictions=kept, image_ids=ids)["f1"]

    assert f1(threshold) == pytest.approx(max(f1(cut) for cut in [*predictions.score[::8], threshold]), abs=1e-12)


def test_box_scores_per_class_by_hand():
    references = boxes(("a", "X", 0, 0, 10, 10), ("b", "X", 0, 0, 10, 10), ("a", "Y", 0, 0, 4, 4))
    predictions = boxes(
        ("a", "X", 0, 0, 10, 10, 0.9), ("a", "X", 50, 50, 60, 60, 0.8), ("a", "X", 50, 0, 60, 9, 0.8),
        ("a", "Z", 0, 0, 4, 4, 0.7),
    )  # fmt: skip
    table = metrics.box_scores_per_class(references=references, predictions=predictions)
    assert table.index.tolist() == ["X", "Y", "Z"]
    assert table.loc["X"].tolist() == pytest.approx([1 / 3, 1 / 2, 2 / 5, 1, 3, 2])
    assert table.loc["Y", ["recall", "f1", "predicted"]].tolist() == [0, 0, 0] and np.isnan(table.precision["Y"])
    assert np.isnan(table.recall["Z"]) and table.precision["Z"] == 0
    total = metrics.box_scores(references=references, predictions=predictions)
    assert [total[c] for c in ("hits", "predicted", "referenced")] == table[
        ["hits", "predicted", "referenced"]
    ].sum().tolist()


def test_thresholds_per_class_by_hand():
    ids = list("abcdef")
    references = boxes(*((i, "X", 0, 0, 10, 10) for i in ids), ("a", "Y", 0, 0, 10, 10))
    hits = [(i, "X", 0, 0, 10, 10, score) for i, score in zip(ids, (0.9, 0.8, 0.7, 0.6, 0.5, 0.05), strict=True)]
    misses = [
        (i, "X", 50, 50, 60, 60, score) for i, score in zip("abcdef", (0.4, 0.3, 0.2, 0.1, 0.09, 0.08), strict=True)
    ]
    predictions = boxes(*hits, *misses, ("a", "Y", 0, 0, 10, 10, 0.2))
    found = metrics.best_score_thresholds(
        references=references, predictions=predictions, class_names=["X", "Y", "Z"], image_ids=ids
    )
    # X alone: five hits of six at .5, F1 10 / 11. All together: the same boxes, F1 10 / 12; one more for Y comes with
    # two false boxes: 12 / 15. Y and Z have fewer than five hits and take the common threshold.
    assert found == {"X": 0.5, "Y": 0.5, "Z": 0.5}
    own = metrics.best_score_thresholds(
        references=references, predictions=predictions, class_names=["X", "Y"], image_ids=ids, least_hits=1
    )
    assert own == {"X": 0.5, "Y": 0.2}


def test_coco_map_by_hand(random_boxes):
    references = boxes(("a", "X", 0, 0, 10, 10), ("b", "Y", 0, 0, 10, 10))
    predictions = boxes(("a", "X", 0, 0, 10, 8.2, 0.9), ("b", "Y", 0, 0, 10, 10, 0.9), ("b", "Z", 0, 0, 10, 10, 0.9))
    found = metrics.coco_map(references=references, predictions=predictions, image_ids=["a", "b", "c"])
    # X has IoU .82: a hit at .50, .55 ... .80, which is 7 of 10 thresholds.
    assert found["map/X"] == pytest.approx(0.7) and found["recall_100/X"] == pytest.approx(0.7)
    assert found["map"] == pytest.approx(0.85) and found["map_50"] == found["map_75"] == pytest.approx(1)
    assert "map/Z" not in found
    references, predictions, ids = random_boxes
    found = metrics.coco_map(references=references, predictions=predictions, image_ids=ids)
    ours, _ = metrics.mean_average_precision(references=references, predictions=predictions, iou_threshold=0.5)
    assert found["map_50"] == pytest.approx(ours, abs=0.015), "101 recalls against all of them"
    nothing = metrics.coco_map(references=references.iloc[:0], predictions=predictions, image_ids=ids)
    assert np.isnan(nothing["map"])


def test_froc_by_hand():
    references = boxes(("a", "X", 0, 0, 10, 10), ("b", "X", 0, 0, 10, 10))
    predictions = boxes(
        ("a", "X", 0, 0, 10, 10, 0.9), ("c", "X", 0, 0, 9, 9, 0.8), ("b", "X", 0, 0, 10, 10, 0.7),
        ("d", "Z", 0, 0, 9, 9, 0.6),
    )  # fmt: skip
    curve, summary = metrics.froc(references=references, predictions=predictions, image_ids=list("abcd"))
    assert curve.score.tolist() == [0.9, 0.8, 0.7, 0.6]
    assert curve.false_per_image.tolist() == [0, 0.25, 0.25, 0.5]
    assert curve.sensitivity.tolist() == [0.5, 0.5, 1, 1]
    assert summary["sensitivity@0.125"] == 0.5 and summary["sensitivity@0.25"] == summary["sensitivity@8"] == 1
    assert summary["score"] == pytest.approx((0.5 + 6) / 7)
    _, none = metrics.froc(references=references, predictions=predictions.iloc[:0], image_ids=list("abcd"))
    assert none["score"] == 0


def test_froc_interval_equals_rescoring(random_boxes):
    references, predictions, ids = random_boxes
    _, summary = metrics.froc(references=references, predictions=predictions, image_ids=ids, n_resamples=20, seed=4)
    scores = []
    for row in metrics.resample_counts(len(ids), 20, 4):
        copies = [(image_id, n) for image_id, count in zip(ids, row, strict=True) for n in range(count)]
        tables = [
            pd.concat([t[t.image_id == i].assign(image_id=f"{i} {n}") for i, n in copies])
            for t in (references, predictions)
        ]
        names = [f"{i} {n}" for i, n in copies]
        scores.append(metrics.froc(references=tables[0], predictions=tables[1], image_ids=names)[1]["score"])
    expected = np.quantile(scores, [0.025, 0.975])
    assert [summary["score_low"], summary["score_high"]] == pytest.approx(expected, abs=1e-9)


def test_no_finding_becomes_a_class_of_its_own():
    references = boxes(("a", "X", 0, 0, 10, 10), ("b", "No finding", np.nan, np.nan, np.nan, np.nan))
    sizes = {"a": (20, 30), "b": (40, 50), "c": (60, 70)}
    table = metrics.with_no_finding_boxes(references, ["a", "b", "c"], sizes)
    assert table[["image_id", "class_name", *BOX]].to_numpy().tolist() == [
        ["a", "X", 0, 0, 10, 10], ["b", "No finding", 0, 0, 40, 50], ["c", "No finding", 0, 0, 60, 70]
    ]  # fmt: skip


def test_mean_box_baseline_by_hand():
    train = boxes(
        ("p", "X", 0, 0, 50, 50), ("q", "X", 100, 0, 200, 50), ("r", "No finding", 0, 0, 100, 100),
        ("s", "No finding", np.nan, np.nan, np.nan, np.nan),
    )  # fmt: skip
    sizes = {"p": (100, 100), "q": (200, 100), "r": (100, 100), "s": (100, 100)}
    found = metrics.mean_box_baseline(train, {"t": (1000, 500)}, sizes)
    assert found.to_dict("records") == [
        {"image_id": "t", "class_name": "X", "score": 0.5, "x_min": 250.0, "y_min": 0.0, "x_max": 750.0, "y_max": 250.0}
    ]
    # Without train_sizes the training images are sized, counted and predicted from the other two arguments.
    same = metrics.mean_box_baseline(train, {"t": (1000, 500), **sizes})
    pd.testing.assert_frame_equal(same[same.image_id == "t"], found)
    with pytest.raises(ValueError, match="image p has no entry"):
        metrics.mean_box_baseline(train, {"t": (1000, 500)})


def test_whole_image_baseline():
    found = metrics.whole_image_baseline({"X": 0.25, "Y": 0.5}, {"t": (30, 40)})
    expected = [["X", 0.25, 30, 40], ["Y", 0.5, 30, 40]]
    assert found[["class_name", "score", "x_max", "y_max"]].to_numpy().tolist() == expected


# --- texts


@pytest.fixture(scope="module")
def scorer():
    try:
        return metrics.BertScorer()
    except metrics.MissingEncoder as missing:
        pytest.skip(str(missing))


REPORTS = [
    "The heart is enlarged. No pleural effusion.",
    "Small left pleural effusion with basal atelectasis.",
    "The lungs are clear. No acute finding.",
    "A round opacity lies in the right upper lobe.",
]


def test_bert_score_equals_cosines_of_the_encoder(scorer):
    """Independent value: word vectors of layer 6 taken from transformers, greedy matching by hand."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = metrics.encoder_folder()
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    vectors = []
    for text in REPORTS[:2]:
        ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=512)
        with torch.no_grad():
            states = model(**ids, output_hidden_states=True).hidden_states[6][0]
        vectors.append(torch.nn.functional.normalize(states, dim=-1))
    cosine = vectors[1] @ vectors[0].T  # (prediction words, reference words)
    # [CLS] and [SEP] are not averaged over, but a word may match them: bert-score does so.
    precision = cosine.max(1).values[1:-1].mean().item()
    recall = cosine.max(0).values[1:-1].mean().item()
    found = scorer.score_pairs(references=REPORTS[:1], predictions=REPORTS[1:2]).iloc[0]
    assert found.precision == pytest.approx(precision, abs=1e-4)
    assert found.recall == pytest.approx(recall, abs=1e-4)
    assert abs(found.precision - found.recall) > 0.001, "the pair must tell precision from recall"
    swapped = scorer.score_pairs(references=REPORTS[1:2], predictions=REPORTS[:1]).iloc[0]
    assert (swapped.precision, swapped.recall) == pytest.approx((found.recall, found.precision), abs=1e-5)


def test_identity_is_one_random_is_zero_and_empty_is_counted(scorer):
    same = metrics.bert_scores(references=REPORTS, predictions=REPORTS, scorer=scorer, n_random_pairs=200)
    assert same.raw["f1"] == pytest.approx(1, abs=1e-5)
    assert same.rescaled["f1"] == pytest.approx(1, abs=1e-4)
    assert 0.2 < same.baseline["f1"] < 0.9
    assert abs(same.shuffled_rescaled["f1"]) < 0.35, "reports of other images score about 0 when rescaled"
    holes = metrics.bert_scores(references=REPORTS, predictions=["", *REPORTS[1:]], scorer=scorer, n_random_pairs=50)
    assert holes.n_empty == 1
    assert holes.raw["f1"] == pytest.approx(0.75, abs=1e-5)
    assert holes.pairs.f1[0] == 0.0


def test_the_same_seed_gives_the_same_baseline(scorer):
    twice = [
        metrics.bert_scores(references=REPORTS, predictions=REPORTS, scorer=scorer, n_random_pairs=20, seed=s).baseline
        for s in (1, 1, 2)
    ]
    assert twice[0] == twice[1] != twice[2]


def test_several_systems_at_once_score_as_they_do_alone(scorer):
    systems = {"same": REPORTS, "turned": REPORTS[::-1]}
    together = metrics.bert_scores_by_system(
        references=REPORTS, predictions=systems, scorer=scorer, n_random_pairs=30, seed=4
    )
    for name, texts in systems.items():
        alone = metrics.bert_scores(
            references=REPORTS, predictions=texts, scorer=scorer, baseline_texts=REPORTS, n_random_pairs=30, seed=4
        )
        assert together[name].rescaled == pytest.approx(alone.rescaled, abs=1e-4)
        assert together[name].shuffled == pytest.approx(alone.shuffled, abs=1e-4)
        np.testing.assert_allclose(together[name].shuffled_f1, alone.shuffled_f1, atol=1e-4)


def test_one_reference_cannot_be_rescaled_and_says_so(scorer):
    alone = metrics.bert_scores(references=REPORTS[:1], predictions=REPORTS[:1], scorer=scorer)
    assert alone.rescaled is None and alone.shuffled is None
    assert "not rescaled" in alone.note
    assert "x_rescaled_f1" not in alone.flat("x") and alone.flat("x")["x_f1"] == pytest.approx(1, abs=1e-5)


def test_long_texts_are_cut_and_counted(scorer):
    """An 800-word pair that differs in its tail only looks identical, and the table says that it was cut."""
    path = SHARED / "cases" / "C54"
    if not path.is_dir():
        pytest.skip("the shared case C54 is not on this machine")
    pairs = json.loads((path / "long_pairs.json").read_text())
    result = metrics.bert_scores(
        references=[p["ref"] for p in pairs], predictions=[p["cand"] for p in pairs], scorer=scorer, n_random_pairs=2
    )
    assert np.flatnonzero(result.pairs.cut).tolist() == json.loads((path / "expected.json").read_text())["cut"]
    assert result.n_cut == 1 and "1 cut" in result.note
    assert result.pairs.f1[0] == pytest.approx(1, abs=1e-5)


def test_cutting_starts_beyond_512_tokens(scorer):
    texts = ["lung " * 510, "lung " * 511]  # plus the two special tokens: 512 and 513
    assert scorer.score_pairs(references=texts, predictions=texts).cut.tolist() == [False, True]


def test_missing_encoder_is_one_sentence(tmp_path):
    with pytest.raises(metrics.MissingEncoder, match="config.json"):
        metrics.encoder_folder(tmp_path)


def test_shuffles_and_random_pairs_never_meet_themselves():
    for n in (2, 3, 50):
        order = metrics.shuffled_order(n, seed=0)
        assert sorted(order) == list(range(n)) and (order != np.arange(n)).all()
    first, second = metrics.random_pairs(["a", "", "b", "c"], 500, seed=0)
    assert (first != second).all() and set(first) == set(second) == {0, 2, 3}


def test_bleu_and_rouge_by_hand_and_asymmetry():
    reference, prediction = ["the heart size is normal today"], ["the heart size is large"]
    scores = metrics.text_scores(references=reference, predictions=prediction)
    # Five words against six: brevity penalty exp(1 - 6/5). Precisions 4/5, 3/4, 2/3, 1/2.
    penalty = np.exp(-0.2)
    precisions = np.array([4 / 5, 3 / 4, 2 / 3, 1 / 2])
    for order in range(1, 5):
        assert scores[f"bleu_{order}"] == pytest.approx(penalty * precisions[:order].prod() ** (1 / order), abs=1e-6)
    assert scores["rouge_l"] == pytest.approx(2 * 4 / (5 + 6))  # longest common subsequence of 4 words
    swapped = metrics.text_scores(references=prediction, predictions=reference)
    assert swapped["bleu_1"] == pytest.approx(4 / 6)  # no penalty, a lower precision
    with pytest.raises(ValueError, match="1 references and 2 predictions"):
        metrics.text_scores(references=reference, predictions=["a", "b"])


def test_finding_scores_by_hand_and_asymmetry():
    references = np.array([[1, 1, 0, 0], [0, 0, 0, 0]])
    predictions = np.array([[1, 0, 0, 0], [0, 0, 1, 0]])
    scores = metrics.finding_scores(references=references, predictions=predictions)
    assert scores["micro_precision"] == 0.5 and scores["micro_recall"] == 0.5
    assert scores["macro_f1"] == pytest.approx(1 / 3), "the finding nobody speaks of does not count"
    predictions = np.array([[1, 1, 1, 0], [0, 0, 1, 0]])
    scores = metrics.finding_scores(references=references, predictions=predictions)
    assert (scores["micro_precision"], scores["micro_recall"]) == (0.5, 1.0)
    swapped = metrics.finding_scores(references=predictions, predictions=references)
    assert (swapped["micro_precision"], swapped["micro_recall"]) == (1.0, 0.5)


def test_reverse_meaning_says_the_opposite():
    assert metrics.reverse_meaning("There is no pleural effusion. This heart is enlarged.") == (
        "there is a large pleural effusion. This heart is not enlarged."
    )
    assert metrics.reverse_meaning("No nodule. Normal heart size.") == "large nodule. enlarged heart size."
    assert metrics.reverse_meaning("A nodule.") == "A nodule.", "'no' inside a word is not a denial"


def test_most_common_report():
    assert metrics.most_common_report(["b", "a", "b", "c"]) == "b"
    assert metrics.most_common_report(["b", "a"]) == "a"


def test_mean_interval_covers_the_mean():
    mean, low, high = metrics.mean_interval([0.0, 1.0] * 50, n_resamples=500, seed=1)
    assert mean == 0.5 and 0.37 < low < 0.45 and 0.55 < high < 0.63  # 1.96 * .5 / sqrt(100) = .098
    with pytest.raises(ValueError, match="NaN"):
        metrics.mean_interval([np.nan])
