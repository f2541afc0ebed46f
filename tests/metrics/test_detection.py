"""Scores of boxes: against loops written out, pycocotools, and resampled copies scored again."""

from functools import partial

import numpy as np
import pandas as pd
import pytest

from cliniqure_utils import metrics
from cliniqure_utils.vocabulary import BOX


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


def test_average_precision_by_hand_and_keyword_asymmetry(boxes):
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


def test_an_overlap_of_exactly_the_threshold_hits_and_a_second_box_on_one_reference_does_not(boxes):
    references = boxes(("a", "X", 0, 0, 10, 10))
    hit = boxes(("a", "X", 0, 0, 10, 4, 0.9))
    assert metrics.mean_average_precision(references=references, predictions=hit)[0] == 1.0
    miss = boxes(("a", "X", 0, 0, 10, 3.99, 0.9))
    assert metrics.mean_average_precision(references=references, predictions=miss)[0] == 0.0
    twice = boxes(("a", "X", 0, 0, 10, 10, 0.9), ("a", "X", 0, 0, 10, 10, 0.8))
    assert metrics.box_scores(references=references, predictions=twice)["hits"] == 1


def test_equal_scores_make_the_result_independent_of_row_order(boxes):
    references = boxes(("a", "X", 0, 0, 10, 10))
    predictions = boxes(("a", "X", 0, 0, 10, 10, 0.5), ("b", "X", 0, 0, 10, 10, 0.5))
    for table in (predictions, predictions[::-1]):
        assert metrics.mean_average_precision(references=references, predictions=table)[0] == 0.5


def test_nothing_predicted_nothing_there_and_broken_boxes(boxes):
    references, nothing = boxes(("a", "X", 0, 0, 10, 10)), boxes(("a", "X", 0, 0, 1, 1, 0.5)).iloc[:0]
    assert metrics.mean_average_precision(references=references, predictions=nothing) == (0.0, {"X": 0.0})
    no_finding = boxes(("a", "No finding", np.nan, np.nan, np.nan, np.nan))
    assert np.isnan(metrics.mean_average_precision(references=no_finding, predictions=nothing)[0])
    two = {"predictions_a": nothing, "predictions_b": nothing}
    found = metrics.paired_map_difference(references=no_finding, **two, image_ids=["a"], n_resamples=5)
    assert np.isnan(list(found.values())).all()
    empty = metrics.box_overlap(references=no_finding, predictions=nothing, image_ids=["a"], definition="matched")
    assert np.isnan(empty["iou"]) and empty["n"] == 0
    with pytest.raises(ValueError, match="not a box"):
        metrics.mean_average_precision(references=boxes(("a", "X", 10, 0, 0, 10)), predictions=nothing)


def test_paired_difference_equals_rescoring_resampled_copies(random_boxes):
    """The vectorised bootstrap against the plain one: images copied under new names, scored again."""
    references, predictions, ids = random_boxes
    worse = predictions[predictions.index % 3 > 0]
    found = metrics.paired_map_difference(
        references=references, predictions_a=predictions, predictions_b=worse, image_ids=ids, n_resamples=5, seed=8
    )
    differences = []
    for row in metrics.resample_counts(len(ids), 5, seed=8):
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
        metrics.mean_average_precision(references=references, predictions=predictions, image_ids=["a", "a"])


def test_best_score_threshold_maximises_f1(random_boxes):
    references, predictions, ids = random_boxes
    threshold = metrics.best_score_threshold(references=references, predictions=predictions, image_ids=ids)

    def f1(cut):
        kept = predictions[predictions.score >= cut]
        return metrics.box_scores(references=references, predictions=kept, image_ids=ids)["f1"]

    assert f1(threshold) == pytest.approx(max(f1(cut) for cut in [*predictions.score[::16], threshold]), abs=1e-12)


def test_box_scores_per_class_by_hand(boxes):
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


def test_thresholds_per_class_by_hand(boxes):
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


def test_coco_map_by_hand(boxes, random_boxes):
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


def test_no_score_depends_on_the_order_of_films_or_rows():
    """With equal scores in different films, and boxes that overlap two references alike."""
    rng = np.random.default_rng(3)
    ids = [f"film{i}" for i in range(12)]

    def table(n):
        corner = rng.integers(0, 4, (n, 2)) * 5
        frame = pd.DataFrame(np.c_[corner, corner + rng.integers(2, 4, (n, 2)) * 5], columns=BOX)
        return frame.assign(image_id=rng.choice(ids, n), class_name=rng.choice(["A", "B"], n))

    references, predictions = table(60), table(80)
    predictions["score"] = rng.integers(1, 4, 80) / 4
    without = predictions.drop(columns="score")
    given = {"references": references, "predictions": predictions}

    def all_scores(references, predictions, without, ids):
        given = {"references": references, "predictions": predictions, "image_ids": ids}
        found = metrics.coco_map(**given) | metrics.box_scores(**given) | metrics.froc(**given)[1]
        found["map_40"], _ = metrics.mean_average_precision(**given)
        found["cut"] = metrics.best_score_threshold(**given)
        for definition in metrics.DEFINITIONS:
            for name, said in (("", predictions), ("without a score ", without)):
                overlap = metrics.box_overlap(**given | {"predictions": said}, definition=definition)
                found |= {f"{name}{definition} {part}": value for part, value in overlap.items()}
        return found

    expected = all_scores(references, predictions, without, ids)
    for seed in range(5):
        mixed = [t.sample(frac=1, random_state=seed) for t in (references, predictions, without)]
        order = np.random.default_rng(seed).permutation(len(ids))
        assert all_scores(*mixed, [ids[i] for i in order]) == pytest.approx(expected, abs=1e-12)
    for score in (metrics.coco_map, partial(metrics.box_overlap, definition="matched")):
        with pytest.raises(ValueError, match="name an image twice"):
            score(**given, image_ids=[*ids, ids[0]])


def test_froc_by_hand(boxes):
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
    _, summary = metrics.froc(references=references, predictions=predictions, image_ids=ids, n_resamples=6, seed=4)
    scores = []
    for row in metrics.resample_counts(len(ids), 6, 4):
        copies = [(image_id, n) for image_id, count in zip(ids, row, strict=True) for n in range(count)]
        tables = [
            pd.concat([t[t.image_id == i].assign(image_id=f"{i} {n}") for i, n in copies])
            for t in (references, predictions)
        ]
        names = [f"{i} {n}" for i, n in copies]
        scores.append(metrics.froc(references=tables[0], predictions=tables[1], image_ids=names)[1]["score"])
    expected = np.quantile(scores, [0.025, 0.975])
    assert [summary["score_low"], summary["score_high"]] == pytest.approx(expected, abs=1e-9)
