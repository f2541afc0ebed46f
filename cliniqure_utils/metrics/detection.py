"""Scores of boxes: average precision at one threshold and COCO's, per class, free-response curves, thresholds.

Boxes are rows of a DataFrame: image_id, class_name, x_min, y_min, x_max, y_max (pixels of one frame, the DICOM's in
this project; references and predictions in the same one), predictions also score. Rows whose coordinates are NaN
("No finding" in the raw annotations) are not boxes and do not count. How boxes are matched: `matching`.
"""

import numpy as np
import pandas as pd

from cliniqure_utils.metrics.bootstrap import percentile_interval, resample_counts
from cliniqure_utils.metrics.matching import Matches, checked_boxes, film_names
from cliniqure_utils.vocabulary import BOX

# False positives per film at which LUNA16, and most work since, reads the curve.
FROC_POINTS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


def mean_average_precision(
    *, references, predictions, iou_threshold: float = 0.4, class_names=None, image_ids=None
) -> tuple[float, dict[str, float]]:
    """Mean over classes of the average precision at one IoU threshold.

    Average precision is the area under the precision-recall curve, all-point interpolation (at each recall the best
    precision at that recall or beyond). Predictions with equal scores enter the curve together, so the result does not
    depend on the order of rows.

    Args:
        references: Boxes, see the module.
        predictions: Boxes with score.
        iou_threshold: Least overlap of a hit, (0, 1]; 0.4 in VinBigData's contest.
        class_names: Classes to average over; None takes all that have a reference box.
        image_ids: Films to evaluate; None takes all that occur. Rows of other films are not part of it.

    Returns:
        (mean, {class name: average precision}), each in [0, 1]. Classes without a reference box are left out; with
        none left the mean is NaN.

    Raises:
        ValueError: A column is missing, a coordinate or score is not a number, or x_max < x_min or y_max < y_min.

    Source: PASCAL VOC 2010 protocol as in VinBigData's contest (mAP at IoU 0.4); matching as in pycocotools.
    """
    match = Matches(references, predictions, iou_threshold, class_names, image_ids)
    per_class = match.average_precision(np.ones((1, match.n_images)))[0]
    found = {name: float(value) for name, value in zip(match.class_names, per_class, strict=True) if value == value}
    return (float(np.mean(list(found.values()))) if found else float("nan")), found


def paired_map_difference(
    *, references, predictions_a, predictions_b, image_ids, iou_threshold: float = 0.4, n_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, float]:  # fmt: skip
    """mAP of two detectors on the same films and the 95% bootstrap interval of the difference.

    Both detectors see the same resampled films, so the luck of an easy film cancels.

    Args:
        references, predictions_a, predictions_b: Boxes, see the module.
        image_ids: Every evaluated film once, those without a box included.
        iou_threshold: As in `mean_average_precision`.
        n_resamples: Number of resamples.
        seed: Seed of the resampling.

    Returns:
        map_a, map_b, difference (a - b), low, high.
    """
    a = Matches(references, predictions_a, iou_threshold, None, image_ids)
    b = Matches(references, predictions_b, iou_threshold, None, image_ids)
    map_a, samples_a = a.bootstrap(n_resamples, seed)
    map_b, samples_b = b.bootstrap(n_resamples, seed)
    low, high = percentile_interval(samples_a - samples_b)
    return {"map_a": map_a, "map_b": map_b, "difference": map_a - map_b, "low": low, "high": high}


def box_scores(*, references, predictions, image_ids=None, iou_threshold: float = 0.4) -> dict[str, float]:
    """Precision, recall and F1 of boxes over all films and classes (micro), a hit as in `mean_average_precision`.

    Returns precision, recall, f1 in [0, 1] (0 without a denominator) and the counts hits, predicted, referenced.
    """
    match = Matches(references, predictions, iou_threshold, None, image_ids, keep_unreferenced=True)
    hits, said, there = match.hits.sum(), len(match.hits), match.n_references.sum()
    return {
        "precision": float(hits / said) if said else 0.0,
        "recall": float(hits / there) if there else 0.0,
        "f1": float(2 * hits / (said + there)) if said + there else 0.0,
        "hits": int(hits),
        "predicted": int(said),
        "referenced": int(there),
    }


def best_score_threshold(*, references, predictions, image_ids=None, iou_threshold: float = 0.4) -> float:
    """The score from which on boxes should be kept for the best micro F1 at `iou_threshold`.

    Choose it on the validation split only. Returns the lowest score that is kept; 1.0 when nothing hits anything.
    """
    match = Matches(references, predictions, iou_threshold, None, image_ids, keep_unreferenced=True)
    if not match.hits.any():
        return 1.0
    order = np.argsort(-match.scores, kind="stable")
    scores, hits = match.scores[order], np.cumsum(match.hits[order])
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + match.n_references.sum())
    last = np.r_[scores[1:] != scores[:-1], True]  # boxes of equal score are kept together
    return float(scores[last][np.argmax(f1[last])])


def box_scores_per_class(*, references, predictions, image_ids=None, iou_threshold: float = 0.4) -> pd.DataFrame:
    """`box_scores` of each class: index class_name; precision, recall, f1, hits, predicted, referenced.

    With all predictions, whatever their score, recall is the most that any threshold can reach. A ratio without a
    denominator is NaN.
    """
    match = Matches(references, predictions, iou_threshold, None, image_ids, keep_unreferenced=True)
    n = len(match.class_names)
    table = pd.DataFrame(
        {
            "hits": np.bincount(match.klass, match.hits, minlength=n).astype(int),
            "predicted": np.bincount(match.klass, minlength=n),
            "referenced": match.n_references.sum(0).astype(int),
        },
        index=pd.Index(match.class_names, name="class_name"),
    )
    table.insert(0, "f1", 2 * table.hits / (table.predicted + table.referenced))
    table.insert(0, "recall", table.hits / table.referenced)
    table.insert(0, "precision", table.hits / table.predicted)
    return table


def best_score_thresholds(
    *, references, predictions, class_names, image_ids=None, iou_threshold: float = 0.4, least_hits: int = 5
) -> dict[str, float]:
    """`best_score_threshold` of each class; a class with fewer than `least_hits` hits takes that of all together.

    Choose them on the validation split only. Keep a box where its score reaches the threshold of its class.
    """
    match = Matches(references, predictions, iou_threshold, class_names, image_ids)
    hits = np.bincount(match.klass, match.hits, minlength=len(match.class_names))
    common = best_score_threshold(
        references=references, predictions=predictions, image_ids=image_ids, iou_threshold=iou_threshold
    )
    thresholds = {}
    for name, n_hits in zip(match.class_names, hits, strict=True):
        own = [table[table.class_name == name] for table in (references, predictions)]
        thresholds[name] = common if n_hits < least_hits else best_score_threshold(
            references=own[0], predictions=own[1], image_ids=image_ids, iou_threshold=iou_threshold
        )  # fmt: skip
    return thresholds


def coco_map(*, references, predictions, image_ids) -> dict[str, float]:
    """COCO's mAP: average precision at 101 recalls, averaged over IoU .50, .55, ... .95, at most 100 boxes per film.

    Args:
        references, predictions: Boxes, see the module.
        image_ids: Every evaluated film once.

    Returns:
        map, map_50, map_75, recall_100 (mean over classes and IoUs of the recall of all boxes) in [0, 1], and
        map/NAME and recall_100/NAME of each class with a reference. NaN without a reference box.

    Raises:
        ValueError: As `mean_average_precision`, or a film is there twice.

    Source: cocodataset.org, computed by pycocotools through torchmetrics.
    """
    import torch
    from torchmetrics.detection import MeanAveragePrecision

    # pycocotools lets boxes of equal score count in the order of films, so that order must always be the same.
    image_ids = sorted(film_names(image_ids))
    tables = [
        checked_boxes(references, "references", image_ids),
        checked_boxes(predictions, "predictions", image_ids, True),
    ]
    names = sorted(set(tables[0].class_name))
    number = {name: k for k, name in enumerate(names)}

    def tensors(table, with_score):
        table = table[table.class_name.isin(number)]
        groups = dict(list(table.groupby("image_id")))
        for image_id in image_ids:
            rows = groups.get(image_id, table.iloc[:0])
            item = {
                "boxes": torch.tensor(rows[BOX].to_numpy(float).reshape(-1, 4), dtype=torch.float32),
                "labels": torch.tensor(rows.class_name.map(number).to_numpy(int)),
            }
            yield item | ({"scores": torch.tensor(rows["score"].to_numpy(float))} if with_score else {})

    if not names:
        return dict.fromkeys(("map", "map_50", "map_75", "recall_100"), float("nan"))
    judge = MeanAveragePrecision(class_metrics=True)
    judge.update(list(tensors(tables[1], True)), list(tensors(tables[0], False)))
    found = judge.compute()
    scores = {"map": "map", "map_50": "map_50", "map_75": "map_75", "recall_100": "mar_100"}
    result = {ours: float(found[theirs]) for ours, theirs in scores.items()}
    for ours, theirs in (("map", "map_per_class"), ("recall_100", "mar_100_per_class")):
        values = found[theirs].reshape(-1).tolist()
        result |= {
            f"{ours}/{names[k]}": value for k, value in zip(found["classes"].reshape(-1).tolist(), values, strict=True)
        }
    return result


def froc(
    *, references, predictions, image_ids, iou_threshold: float = 0.4, points=FROC_POINTS, n_resamples: int = 0,
    seed: int = 0,
) -> tuple[pd.DataFrame, dict[str, float]]:  # fmt: skip
    """Free-response curve: the share of reference boxes found against false boxes per film, over all classes.

    Args:
        references, predictions: Boxes, see the module; a hit needs the right class and the overlap.
        image_ids: Every evaluated film once, those without a finding included: false boxes on them count.
        iou_threshold: Least overlap of a hit.
        points: False boxes per film at which sensitivity is read: at the loosest threshold that stays within them.
        n_resamples: Above 0 adds a 95% bootstrap interval by film to the score.
        seed: Seed of the resampling.

    Returns:
        (curve, summary). curve: score, false_per_image, sensitivity, one row per distinct score, falling. summary:
        sensitivity@POINT for each point, and score, their mean, with score_low, score_high when asked for. NaN without
        a reference box.

    Source: Chakraborty and Winter 1990; the mean over seven points as in LUNA16 (Setio et al. 2017).
    """
    match = Matches(references, predictions, iou_threshold, None, image_ids, keep_unreferenced=True)
    order = np.argsort(-match.scores, kind="stable")
    scores, hits, image = match.scores[order], match.hits[order].astype(float), match.image[order]
    last = np.flatnonzero(np.r_[scores[1:] != scores[:-1], True]) if len(scores) else np.array([], dtype=int)
    n_references = match.n_references.sum(1)

    def read(weights):
        there = weights @ n_references
        if there == 0:
            return np.array([]), np.array([]), np.full(len(points), np.nan)
        found = np.cumsum(hits * weights[image])[last] / there
        false = np.cumsum((1 - hits) * weights[image])[last] / weights.sum()
        places = np.searchsorted(false, np.asarray(points) + 1e-12, side="right") - 1
        at = np.where(places >= 0, found[np.maximum(places, 0)] if len(found) else 0.0, 0.0)
        return false, found, at

    false, found, at = read(np.ones(match.n_images))
    curve = pd.DataFrame({"score": scores[last][: len(false)], "false_per_image": false, "sensitivity": found})
    summary = {f"sensitivity@{point:g}": float(value) for point, value in zip(points, at, strict=True)}
    summary["score"] = float(at.mean())
    if n_resamples > 0:
        counts = resample_counts(match.n_images, n_resamples, seed).astype(float)
        summary["score_low"], summary["score_high"] = percentile_interval([read(row)[2].mean() for row in counts])
    return curve, summary
