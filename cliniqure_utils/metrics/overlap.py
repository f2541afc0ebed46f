"""IoU and Dice of boxes under named definitions, and what a printed pair of them can mean."""

import numpy as np
import pandas as pd

from cliniqure_utils.annotations import iou_matrix
from cliniqure_utils.metrics.baselines import on_every_image
from cliniqure_utils.metrics.bootstrap import percentile_interval, resample_counts
from cliniqure_utils.metrics.matching import checked_boxes, film_names, greedy_match
from cliniqure_utils.ratios import ratio
from cliniqure_utils.vocabulary import BOX, NO_FINDING

DEFINITIONS = {
    "matched": "mean over the pairs of same-class boxes matched at IoU 0.4; missed and invented boxes are not counted",
    "best_per_reference": "for each reference box its best same-class prediction in the image, 0 when there is none; "
    "mean over reference boxes",
    "pooled": "per image the area under any reference box against the area under any predicted box, whatever the "
    "class; mean over images with either",
    "pooled_total": "the areas of `pooled` added over all images before dividing; forces Dice = 2 IoU / (1 + IoU)",
}


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
        references: Boxes, as in `detection`.
        predictions: Boxes that are meant as answers: apply the score threshold first. `score` orders the matching of
            "matched" and may be missing.
        image_ids: Every evaluated film once.
        definition: A key of `DEFINITIONS`.
        with_no_finding: False ignores "No finding" rows. True gives each film without a finding box, on either side,
            one whole-film box of class "No finding", as Table 2 of the paper does.
        image_sizes: image_id -> (width, height) in pixels; needed when `with_no_finding` is True.
        n_resamples: Above 0 adds a 95% bootstrap interval by film.
        seed: Seed of the resampling.

    Returns:
        iou and dice in [0, 1], NaN when n is 0; n, the number of pairs, reference boxes or films averaged over; with
        n_resamples also iou_low, iou_high, dice_low, dice_high.

    Raises:
        ValueError: Unknown definition, a film twice, or image_sizes are needed and lack a film.
    """
    if definition not in DEFINITIONS:
        raise ValueError(f"unknown definition {definition!r}; expected one of {', '.join(DEFINITIONS)}")
    image_ids = film_names(image_ids)
    tables = [checked_boxes(references, "references", image_ids), checked_boxes(predictions, "predictions", image_ids)]
    tables = [table[table.class_name != NO_FINDING] for table in tables]
    if with_no_finding:
        tables = [_with_whole_images(table, image_ids, image_sizes) for table in tables]
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

    # Each is a ratio of two sums over items; an item belongs to one film, so a resample only reweights the sums.
    weights = [np.ones((1, len(image_ids)))]
    if n_resamples > 0:
        weights.append(resample_counts(len(image_ids), n_resamples, seed))
    result = {"n": n}
    for name, parts in (("iou", iou), ("dice", dice)):
        per_image = [np.bincount(image, part, minlength=len(image_ids)) for part in parts]
        sums = [[weight @ part for part in per_image] for weight in weights]
        ratios = [ratio(shared, whole) for shared, whole in sums]
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


def with_no_finding_boxes(table: pd.DataFrame, image_ids, image_sizes) -> pd.DataFrame:
    """Boxes plus, on every film without one, a whole-film box of class "No finding" with score 1.

    On references this makes "No finding" a class of its own, as in VinBigData's contest (there a box of one pixel on
    both sides, which meets itself just as a whole-film box does) and in Table 2 of the paper.

    Args:
        table: Boxes; rows of class "No finding" are replaced.
        image_ids: Every evaluated film once.
        image_sizes: image_id -> (width, height) in pixels.

    Raises:
        ValueError: A film without a box has no size.
    """
    image_ids = [str(image_id) for image_id in image_ids]
    boxes = checked_boxes(table[table.class_name != NO_FINDING], "boxes", image_ids)
    return _with_whole_images(boxes, image_ids, image_sizes)


def _with_whole_images(table: pd.DataFrame, image_ids: list[str], image_sizes) -> pd.DataFrame:
    boxed = set(table.image_id)
    empty = [image_id for image_id in image_ids if image_id not in boxed]
    if image_sizes is None:
        raise ValueError("with_no_finding needs image_sizes, the (width, height) of every image")
    missing = next((i for i in empty if i not in image_sizes), None)
    if missing is not None:
        raise ValueError(f"image {missing} has no entry in image_sizes")
    whole = on_every_image([NO_FINDING], np.array([[0.0, 0, 1, 1]]), np.ones(1), {i: image_sizes[i] for i in empty})
    return whole if table.empty else pd.concat([table, whole], ignore_index=True)


def _box_ious(references: pd.DataFrame, predictions: pd.DataFrame, image_ids: list[str], only_matched: bool):
    """IoU of each matched pair, or of each reference with its best prediction (0 for none); and the film's index."""
    index = {image_id: i for i, image_id in enumerate(image_ids)}
    reference_corners, prediction_corners = references[BOX].to_numpy(), predictions[BOX].to_numpy()
    prediction_rows = predictions.reset_index(drop=True).groupby(["image_id", "class_name"]).indices
    values, images = [], []
    for key, rows in references.reset_index(drop=True).groupby(["image_id", "class_name"]).indices.items():
        found = np.sort(prediction_rows.get(key, np.array([], dtype=int)))
        iou = iou_matrix(prediction_corners[found], reference_corners[rows])
        if only_matched:
            taken = greedy_match(iou, 0.4)
            here = iou[taken >= 0, taken[taken >= 0]]
        else:
            here = iou.max(0) if len(iou) else np.zeros(len(rows))
        values.append(here)
        images.extend([index[key[0]]] * len(here))
    return np.concatenate(values) if values else np.array([]), np.array(images, dtype=int)


def _pooled_areas(references: pd.DataFrame, predictions: pd.DataFrame, image_ids: list[str]):
    """Per film: shared area, area of the union, and the sum of both areas, in square pixels; arrays (n films,)."""
    areas = np.zeros((len(image_ids), 3))
    sides = [dict(list(table.groupby("image_id")[BOX])) for table in (references, predictions)]
    for i, image_id in enumerate(image_ids):
        a, b = (side[image_id].to_numpy() if image_id in side else np.zeros((0, 4)) for side in sides)
        both = np.concatenate([a, b])
        if len(both) == 0:
            continue
        # All box edges cut the film into cells; each cell lies wholly inside or outside every box.
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
