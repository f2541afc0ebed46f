"""Checking boxes, and matching them once per film and class: the basis of every box metric here.

Matching is greedy: predictions in order of falling score, each takes the free reference it overlaps most, if that
overlap reaches the IoU threshold. It never looks at another film, so a bootstrap over films only changes how often
each match counts.
"""

import numpy as np
import pandas as pd

from cliniqure_utils.annotations import iou_matrix
from cliniqure_utils.metrics.bootstrap import resample_counts
from cliniqure_utils.ratios import ratio
from cliniqure_utils.vocabulary import BOX

# Resamples are worked off in blocks, so that no array holds more than this many numbers (32 MB as float64).
_BLOCK = 4_000_000


def checked_boxes(table: pd.DataFrame, name: str, image_ids, need_score: bool = False) -> pd.DataFrame:
    """Checked copy without rows that have no coordinates; limited to image_ids; sorted, so that no score depends on the
    order of rows: best score first where there is one, then by place."""
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
    score = ["score"] if "score" in table.columns else []
    return table.sort_values([*score, *BOX], ascending=[False] * len(score) + [True] * 4, ignore_index=True)


def film_names(image_ids) -> list[str]:
    """Ids of films as text, in their order. Raises ValueError where one is there twice."""
    names = [str(image_id) for image_id in image_ids]
    if len(set(names)) != len(names):
        raise ValueError("image_ids name an image twice")
    return names


def greedy_match(iou: np.ndarray, threshold: float) -> np.ndarray:
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


class Matches:
    """References and predictions matched once: what a bootstrap over films needs.

    Attributes: class_names (k), n_images; per prediction: image and klass (indices of its film and class), scores, hits
    (bool); n_references (n_images, k).
    """

    def __init__(self, references, predictions, iou_threshold, class_names, image_ids, keep_unreferenced=False):
        if not 0 < iou_threshold <= 1:
            raise ValueError(f"iou_threshold must lie in (0, 1], got {iou_threshold}")
        if image_ids is not None:
            image_ids = film_names(image_ids)
        references = checked_boxes(references, "references", image_ids)
        predictions = checked_boxes(predictions, "predictions", image_ids, need_score=True)
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
                self.hits[rows] = greedy_match(iou, iou_threshold) >= 0

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """(r, k) average precision under film weights (r, n_images); NaN where a class has no reference."""
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
                precision = ratio(true, said, empty=0.0)
                envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
                area = (np.diff(true, axis=1, prepend=0.0) * envelope).sum(1)
                known = there[block] > 0
                result[block, k][known] = area[known] / there[block][known]
        return result

    def bootstrap(self, n_resamples: int, seed: int) -> tuple[float, np.ndarray]:
        """mAP of all films, and (n_resamples,) mAP of the resamples; NaN without a reference box."""
        if not self.class_names:
            return float("nan"), np.full(n_resamples, np.nan)
        point = self.average_precision(np.ones((1, self.n_images)))
        samples = self.average_precision(resample_counts(self.n_images, n_resamples, seed))
        known = ~np.isnan(samples)
        total = np.where(known, samples, 0.0).sum(1)
        return float(np.nanmean(point)), ratio(total, known.sum(1))
