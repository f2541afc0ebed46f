"""Scores of boxes: average precision, overlap under named definitions, trivial baselines.

Boxes are rows of a DataFrame: image_id, class_name, x_min, y_min, x_max, y_max (pixels of one frame, the DICOM's in
this project; references and predictions in the same one), predictions also score. Rows whose coordinates are NaN
("No finding" in the raw annotations) are not boxes and do not count.

Matching is done once per image and class, greedily: predictions in order of falling score, each takes the free
reference it overlaps most, if that overlap reaches the IoU threshold. It never looks at another image, so a bootstrap
over images only changes how often each match counts.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from cliniqure_utils.boxes import iou_matrix
from cliniqure_utils.vindr import BOX, NO_FINDING

from .bootstrap import percentile_interval, resample_counts

DEFINITIONS = {
    "matched": "mean over the pairs of same-class boxes matched at IoU 0.4; missed and invented boxes are not counted",
    "best_per_reference": "for each reference box its best same-class prediction in the image, 0 when there is none; "
    "mean over reference boxes",
    "pooled": "per image the area under any reference box against the area under any predicted box, whatever the "
    "class; mean over images with either",
    "pooled_total": "the areas of `pooled` added over all images before dividing; forces Dice = 2 IoU / (1 + IoU)",
}
# Resamples are worked off in blocks, so that no array holds more than this many numbers (32 MB as float64).
_BLOCK = 4_000_000


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
        image_ids: Images to evaluate; None takes all that occur. Rows of other images are not part of it.

    Returns:
        (mean, {class name: average precision}), each in [0, 1]. Classes without a reference box are left out; with
        none left the mean is NaN.

    Raises:
        ValueError: A column is missing, a coordinate or score is not a number, or x_max < x_min or y_max < y_min.

    Source: PASCAL VOC 2010 protocol as in VinBigData's contest (mAP at IoU 0.4); matching as in pycocotools.
    """
    match = _Matches(references, predictions, iou_threshold, class_names, image_ids)
    per_class = match.average_precision(np.ones((1, match.n_images)))[0]
    found = {name: float(value) for name, value in zip(match.class_names, per_class, strict=True) if value == value}
    return (float(np.mean(list(found.values()))) if found else float("nan")), found


def map_interval(
    *, references, predictions, image_ids, iou_threshold: float = 0.4, n_resamples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """(mAP, low, high), 95% bootstrap interval by image; `image_ids` lists every evaluated image once."""
    match = _Matches(references, predictions, iou_threshold, None, image_ids)
    point, samples = match.bootstrap(n_resamples, seed)
    return point, *percentile_interval(samples)


def paired_map_difference(
    *, references, predictions_a, predictions_b, image_ids, iou_threshold: float = 0.4, n_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, float]:  # fmt: skip
    """mAP of two detectors on the same images and the 95% bootstrap interval of the difference.

    Both detectors see the same resampled images, so the luck of an easy image cancels.

    Args:
        references, predictions_a, predictions_b: Boxes, see the module.
        image_ids: Every evaluated image once, those without a box included.
        iou_threshold: As in `mean_average_precision`.
        n_resamples: Number of resamples.
        seed: Seed of the resampling.

    Returns:
        map_a, map_b, difference (a - b), low, high.
    """
    a = _Matches(references, predictions_a, iou_threshold, None, image_ids)
    b = _Matches(references, predictions_b, iou_threshold, None, image_ids)
    map_a, samples_a = a.bootstrap(n_resamples, seed)
    map_b, samples_b = b.bootstrap(n_resamples, seed)
    low, high = percentile_interval(samples_a - samples_b)
    return {"map_a": map_a, "map_b": map_b, "difference": map_a - map_b, "low": low, "high": high}


def box_scores(*, references, predictions, image_ids=None, iou_threshold: float = 0.4) -> dict[str, float]:
    """Precision, recall and F1 of boxes over all images and classes (micro), a hit as in `mean_average_precision`.

    Returns precision, recall, f1 in [0, 1] (0 without a denominator) and the counts hits, predicted, referenced.
    """
    match = _Matches(references, predictions, iou_threshold, None, image_ids, keep_unreferenced=True)
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
    match = _Matches(references, predictions, iou_threshold, None, image_ids, keep_unreferenced=True)
    if not match.hits.any():
        return 1.0
    order = np.argsort(-match.scores, kind="stable")
    scores, hits = match.scores[order], np.cumsum(match.hits[order])
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + match.n_references.sum())
    last = np.r_[scores[1:] != scores[:-1], True]  # boxes of equal score are kept together
    return float(scores[last][np.argmax(f1[last])])


def box_overlap(
    *,
    references,
    predictions,
    image_ids,
    definition: str,
    with_no_finding: bool = False,
    image_sizes=None,
    n_resamples: int = 0,
    seed: int = 0,
) -> dict[str, float]:
    """IoU and Dice of boxes under one of the named `DEFINITIONS`.

    The paper prints IoU .75 and Dice .76 without a definition (notes, row 13).

    Args:
        references: Boxes, see the module.
        predictions: Boxes that are meant as answers: apply the score threshold first. `score` orders the matching of
            "matched" and may be missing.
        image_ids: Every evaluated image once.
        definition: A key of `DEFINITIONS`.
        with_no_finding: False ignores "No finding" rows. True gives each image without a finding box, on either side,
            one whole-image box of class "No finding", as Table 2 of the paper does.
        image_sizes: image_id -> (width, height); needed with_no_finding.
        n_resamples: Above 0 adds a 95% bootstrap interval by image.
        seed: Seed of the resampling.

    Returns:
        iou and dice in [0, 1], NaN when n is 0; n, the number of pairs, reference boxes or images averaged over; with
        n_resamples also iou_low, iou_high, dice_low, dice_high.

    Raises:
        ValueError: Unknown definition, or image_sizes are needed and lack an image.
    """
    if definition not in DEFINITIONS:
        raise ValueError(f"unknown definition {definition!r}; expected one of {', '.join(DEFINITIONS)}")
    image_ids = [str(image_id) for image_id in image_ids]
    tables = [_boxes(references, "references", image_ids), _boxes(predictions, "predictions", image_ids)]
    tables = [table[table.class_name != NO_FINDING] for table in tables]
    if with_no_finding:
        tables = [_add_whole_images(table, image_ids, image_sizes) for table in tables]
    if definition in ("pooled", "pooled_total"):
        shared, union, total = _pooled_areas(*tables, image_ids)
        image = np.flatnonzero(union > 0)
        shared, union, total = shared[image], union[image], total[image]
    if definition == "pooled_total":
        iou, dice, n = (shared, union), (2 * shared, total), int(len(image) > 0)
    else:
        if definition == "pooled":
            values = shared / union, 2 * shared / total
        else:
            ious, image = _box_ious(*tables, image_ids, only_matched=definition == "matched")
            values = ious, 2 * ious / (1 + ious)
        iou, dice, n = *((value, np.ones(len(value))) for value in values), len(image)

    # Each is a ratio of two sums over items; an item belongs to one image, so a resample only reweights the sums.
    weights = [np.ones((1, len(image_ids)))]
    if n_resamples > 0:
        weights.append(resample_counts(len(image_ids), n_resamples, seed))
    result = {"n": n}
    for name, parts in (("iou", iou), ("dice", dice)):
        per_image = [np.bincount(image, part, minlength=len(image_ids)) for part in parts]
        sums = [[weight @ part for part in per_image] for weight in weights]
        ratios = [np.divide(a, b, out=np.full(a.shape, np.nan), where=b > 0) for a, b in sums]
        result[name] = float(ratios[0][0])
        if n_resamples > 0:
            result[f"{name}_low"], result[f"{name}_high"] = percentile_interval(ratios[1])
    return result


def check_iou_dice(iou: float, dice: float, rounding: float = 0.005) -> dict:
    """Can a printed pair of IoU and Dice come from pooled areas, and can it come from a mean over items?

    One item obeys Dice = 2 IoU / (1 + IoU). Pooled areas are one item. A mean over items lies between two curves:
    at most that value (Jensen: the curve bends down), at least IoU itself (reached only if every item is 0 or 1).
    Where Dice is barely above IoU, few items can lie between: an item with IoU u adds u(1 - u)/(1 + u) to the gap.

    Args:
        iou, dice: The printed numbers, in [0, 1].
        rounding: Each may be off by this much; half a unit of the second decimal by default.

    Returns:
        pooled (bool), averaged (bool: possible at all), degenerate (bool: averaged, but only if nearly every item sits
        at 0 or 1), max_share_between (most of the items, as a share, that can have an IoU of .25 to .75, at the
        printed values), implied_dice (the pooled Dice of this IoU), reason (one sentence).

    Raises:
        ValueError: A number is outside [0, 1].

    Source: algebra; the paper's pair is (.75, .76), Table 7.
    """
    if not (0 <= iou <= 1 and 0 <= dice <= 1):
        raise ValueError(f"IoU and Dice lie in [0, 1], got {iou} and {dice}")

    def curve(u):
        return 2 * u / (1 + u)

    low, high = max(iou - rounding, 0.0), min(iou + rounding, 1.0)
    slack = rounding + 1e-12
    pooled = curve(low) - slack <= dice <= curve(high) + slack
    averaged = low - slack <= dice <= curve(high) + slack
    # The least gap an item between .25 and .75 adds is at .75: .75 * .25 / 1.75.
    share = min(max(dice - iou, 0.0) / (0.75 * 0.25 / 1.75), 1.0)
    degenerate = averaged and not pooled and share < 0.25
    implied = curve(iou)
    if pooled:
        reason = (
            f"Dice {dice:.3g} is what IoU {iou:.3g} implies ({implied:.3f}): pooled areas give it, and so does a mean"
        )
    elif not averaged:
        side = "above" if dice > implied else "below"
        bound = f"{implied:.3f}, the most" if dice > implied else f"{iou:.3f}, the least"
        reason = f"Dice {dice:.3g} is {side} {bound} that any set of items with IoU {iou:.3g} can have"
    else:
        reason = (
            f"pooled areas with IoU {iou:.3g} force Dice {implied:.3f}, not {dice:.3g}; a mean over items gives it "
            f"only if at most {share:.0%} of them have an IoU between .25 and .75"
            + (", so nearly every item sits at 0 or 1" if degenerate else "")
        )
    return {
        "pooled": bool(pooled),
        "averaged": bool(averaged),
        "degenerate": bool(degenerate),
        "max_share_between": float(share),
        "implied_dice": float(implied),
        "reason": reason,
    }


def mean_box_baseline(
    train_boxes: pd.DataFrame, image_sizes: Mapping[str, tuple[float, float]], train_sizes: Mapping | None = None
) -> pd.DataFrame:
    """Trivial baseline: per class the mean training box, on every image, scored by how common the class is.

    Boxes are averaged as shares of their image, so that films of different sizes count alike.

    Args:
        train_boxes: Boxes of the training images, see the module. "No finding" rows are no boxes.
        image_sizes: image_id -> (width, height) in pixels of the images to predict.
        train_sizes: The same for all training images, those without a box included: their number is what prevalence
            is a share of. None: the training images are those that train_boxes names, their sizes are in image_sizes
            (so they are predicted too).

    Returns:
        image_id, class_name, score (share of the training images with the class), x_min, y_min, x_max, y_max (pixels).

    Raises:
        ValueError: A training image has no size.
    """
    n_train = train_boxes["image_id"].nunique() if train_sizes is None else len(train_sizes)
    boxes = _boxes(train_boxes, "train_boxes", None)
    boxes = boxes[boxes.class_name != NO_FINDING]
    shares = boxes[BOX].to_numpy() / _scale(boxes.image_id, image_sizes if train_sizes is None else train_sizes)
    means = pd.DataFrame(shares, columns=BOX).groupby(boxes.class_name.to_numpy()).mean()
    scores = boxes.groupby("class_name").image_id.nunique()[means.index] / n_train
    return _on_every_image(means.index, means.to_numpy(), scores.to_numpy(), image_sizes)


def whole_image_baseline(
    prevalence: Mapping[str, float], image_sizes: Mapping[str, tuple[float, float]]
) -> pd.DataFrame:
    """Trivial baseline: on every image one box over all of it per class, scored by the class's prevalence."""
    names = list(prevalence)
    corners = np.tile([0.0, 0.0, 1.0, 1.0], (len(names), 1))
    return _on_every_image(names, corners, np.array([prevalence[n] for n in names], dtype=float), image_sizes)


def _on_every_image(names: Iterable[str], corners: np.ndarray, scores: np.ndarray, image_sizes) -> pd.DataFrame:
    """The same relative boxes (k, 4) on every image, in its pixels."""
    names, image_ids = list(names), list(image_sizes)
    ids = np.repeat(np.array(image_ids, dtype=object), len(names))
    table = pd.DataFrame(
        {"image_id": ids, "class_name": names * len(image_ids), "score": np.tile(scores, len(image_ids))}
    )
    table[BOX] = np.tile(corners.reshape(-1, 4), (len(image_ids), 1)) * _scale(ids, image_sizes)
    return table


def _scale(image_ids, image_sizes) -> np.ndarray:
    """(n, 4) width, height, width, height of each row's image."""
    missing = next((i for i in image_ids if i not in image_sizes), None)
    if missing is not None:
        raise ValueError(f"image {missing} has no entry in the image sizes")
    sizes = np.array([image_sizes[i] for i in image_ids], dtype=float).reshape(-1, 2)
    return np.tile(sizes, 2)


def _boxes(table: pd.DataFrame, name: str, image_ids, need_score: bool = False) -> pd.DataFrame:
    """Checked copy without rows that have no coordinates; limited to image_ids; predictions sorted for matching."""
    needed = ["image_id", "class_name", *BOX] + (["score"] if need_score else [])
    missing = [column for column in needed if column not in table.columns]
    if missing:
        raise ValueError(f"{name} lack the column {missing[0]!r}; expected {', '.join(needed)}")
    table = table.dropna(subset=BOX, how="all").astype({"image_id": str})
    if image_ids is not None:
        table = table[table.image_id.isin(set(image_ids))]
    corners = table[BOX].to_numpy(dtype=float)
    wrong = ~np.isfinite(corners).all(1) | (corners[:, 2:] < corners[:, :2]).any(1)
    if need_score:
        wrong |= ~np.isfinite(table["score"].to_numpy(dtype=float))
    if wrong.any():
        row = table[needed].iloc[int(np.flatnonzero(wrong)[0])].to_dict()
        raise ValueError(
            f"{name} hold a row that is not a box (a number is missing, or a maximum is below its minimum): {row}"
        )
    table = table.astype(dict.fromkeys(BOX, float))
    if "score" in table.columns:
        # Ties are broken by place, never by the order of rows.
        return table.sort_values(["score", *BOX], ascending=[False, True, True, True, True], ignore_index=True)
    return table.reset_index(drop=True)


def _greedy_match(iou: np.ndarray, threshold: float) -> np.ndarray:
    """Which column (reference) each row (prediction, best score first) takes; -1 for none."""
    taken = np.full(len(iou), -1)
    if iou.size == 0:
        return taken
    iou = np.where(iou >= threshold, iou, -1.0)
    for row in range(len(iou)):
        column = int(iou[row].argmax())
        if iou[row, column] >= 0:
            taken[row] = column
            iou[:, column] = -1.0
    return taken


class _Matches:
    """References and predictions matched once: what a bootstrap over images needs.

    Attributes: class_names (k), n_images; per prediction: image, klass, scores, hits; n_references (n_images, k).
    """

    def __init__(self, references, predictions, iou_threshold, class_names, image_ids, keep_unreferenced=False):
        if not 0 < iou_threshold <= 1:
            raise ValueError(f"iou_threshold must lie in (0, 1], got {iou_threshold}")
        if image_ids is not None:
            image_ids = [str(image_id) for image_id in image_ids]
            if len(set(image_ids)) != len(image_ids):
                raise ValueError("image_ids name an image twice")
        references = _boxes(references, "references", image_ids)
        predictions = _boxes(predictions, "predictions", image_ids, need_score=True)
        if image_ids is None:
            image_ids = sorted(set(references.image_id) | set(predictions.image_id))
        if class_names is None:
            class_names = set(references.class_name) | (set(predictions.class_name) if keep_unreferenced else set())
            class_names = sorted(class_names)
        self.class_names, self.n_images = list(class_names), len(image_ids)
        image_index = {image_id: i for i, image_id in enumerate(image_ids)}
        class_index = {name: k for k, name in enumerate(self.class_names)}
        references = references[references.class_name.isin(class_index)]
        predictions = predictions[predictions.class_name.isin(class_index)].reset_index(drop=True)

        self.n_references = np.zeros((self.n_images, len(self.class_names)))
        of_reference = [references.image_id.map(image_index), references.class_name.map(class_index)]
        np.add.at(self.n_references, tuple(np.asarray(v, dtype=int) for v in of_reference), 1)
        self.image = np.asarray(predictions.image_id.map(image_index), dtype=int)
        self.klass = np.asarray(predictions.class_name.map(class_index), dtype=int)
        self.scores = predictions["score"].to_numpy(dtype=float)
        self.hits = np.zeros(len(predictions), dtype=bool)

        reference_corners = references[BOX].to_numpy()
        reference_rows = references.groupby(["image_id", "class_name"]).indices
        prediction_corners = predictions[BOX].to_numpy()
        for key, rows in predictions.groupby(["image_id", "class_name"]).indices.items():
            if key in reference_rows:
                rows = np.sort(rows)  # rows are sorted by falling score
                iou = iou_matrix(prediction_corners[rows], reference_corners[reference_rows[key]])
                self.hits[rows] = _greedy_match(iou, iou_threshold) >= 0

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """(r, k) average precision under image weights (r, n_images); NaN where a class has no reference."""
        weights = np.asarray(weights, dtype=float)
        result = np.full((len(weights), len(self.class_names)), np.nan)
        referenced = weights @ self.n_references
        for k in range(len(self.class_names)):
            rows = np.flatnonzero(self.klass == k)  # already in order of falling score
            there = referenced[:, k]
            result[there > 0, k] = 0.0
            if len(rows) == 0:
                continue
            scores = self.scores[rows]
            starts = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
            step = max(1, _BLOCK // len(rows))
            for first in range(0, len(weights), step):
                block = slice(first, first + step)
                weight = weights[block][:, self.image[rows]]
                true = np.cumsum(np.add.reduceat(weight * self.hits[rows], starts, axis=1), axis=1)
                said = np.cumsum(np.add.reduceat(weight, starts, axis=1), axis=1)
                precision = np.divide(true, said, out=np.zeros_like(true), where=said > 0)
                envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
                area = (np.diff(true, axis=1, prepend=0.0) * envelope).sum(1)
                known = there[block] > 0
                result[block, k][known] = area[known] / there[block][known]
        return result

    def bootstrap(self, n_resamples: int, seed: int) -> tuple[float, np.ndarray]:
        """mAP of all images, and (n_resamples,) mAP of the resamples; NaN without a reference box."""
        if not self.class_names:
            return float("nan"), np.full(n_resamples, np.nan)
        point = self.average_precision(np.ones((1, self.n_images)))
        samples = self.average_precision(resample_counts(self.n_images, n_resamples, seed))
        known = ~np.isnan(samples)
        total = np.where(known, samples, 0.0).sum(1)
        means = np.divide(total, known.sum(1), out=np.full(len(samples), np.nan), where=known.any(1))
        return float(np.nanmean(point)), means


def _add_whole_images(table: pd.DataFrame, image_ids: list[str], image_sizes) -> pd.DataFrame:
    boxed = set(table.image_id)
    empty = [image_id for image_id in image_ids if image_id not in boxed]
    if image_sizes is None:
        raise ValueError("with_no_finding needs image_sizes, the (width, height) of every image")
    missing = next((i for i in empty if i not in image_sizes), None)
    if missing is not None:
        raise ValueError(f"image {missing} has no entry in image_sizes")
    whole = _on_every_image([NO_FINDING], np.array([[0.0, 0, 1, 1]]), np.ones(1), {i: image_sizes[i] for i in empty})
    return whole if table.empty else pd.concat([table, whole], ignore_index=True)


def _box_ious(references: pd.DataFrame, predictions: pd.DataFrame, image_ids: list[str], only_matched: bool):
    """IoU of each matched pair, or of each reference with its best prediction (0 for none); and the image's index."""
    index = {image_id: i for i, image_id in enumerate(image_ids)}
    reference_corners, prediction_corners = references[BOX].to_numpy(), predictions[BOX].to_numpy()
    prediction_rows = predictions.reset_index(drop=True).groupby(["image_id", "class_name"]).indices
    values, images = [], []
    for key, rows in references.reset_index(drop=True).groupby(["image_id", "class_name"]).indices.items():
        found = np.sort(prediction_rows.get(key, np.array([], dtype=int)))
        iou = iou_matrix(prediction_corners[found], reference_corners[rows])
        if only_matched:
            taken = _greedy_match(iou, 0.4)
            here = iou[taken >= 0, taken[taken >= 0]]
        else:
            here = iou.max(0) if len(iou) else np.zeros(len(rows))
        values.append(here)
        images.extend([index[key[0]]] * len(here))
    return np.concatenate(values) if values else np.array([]), np.array(images, dtype=int)


def _pooled_areas(references: pd.DataFrame, predictions: pd.DataFrame, image_ids: list[str]):
    """Per image: shared area, area of the union, and the sum of both areas, in square pixels; arrays (n images,)."""
    areas = np.zeros((len(image_ids), 3))
    sides = [dict(list(table.groupby("image_id")[BOX])) for table in (references, predictions)]
    for i, image_id in enumerate(image_ids):
        a, b = (side[image_id].to_numpy() if image_id in side else np.zeros((0, 4)) for side in sides)
        both = np.concatenate([a, b])
        if len(both) == 0:
            continue
        # All box edges cut the image into cells; each cell lies wholly inside or outside every box.
        xs, ys = np.unique(both[:, [0, 2]]), np.unique(both[:, [1, 3]])
        cells = np.diff(ys)[:, None] * np.diff(xs)[None]
        masks = []
        for boxes in (a, b):
            inside = np.zeros(cells.shape, dtype=bool)
            for x_min, y_min, x_max, y_max in boxes:
                columns = (xs[:-1] >= x_min) & (xs[1:] <= x_max)
                inside |= ((ys[:-1] >= y_min) & (ys[1:] <= y_max))[:, None] & columns[None]
            masks.append(inside)
        areas[i] = [
            cells[masks[0] & masks[1]].sum(),
            cells[masks[0] | masks[1]].sum(),
            cells[masks[0]].sum() + cells[masks[1]].sum(),
        ]
    return areas[:, 0], areas[:, 1], areas[:, 2]
