"""Detectability: which lesions are found, by their size and their contrast."""

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from cliniqure_utils.annotations import iou_matrix
from cliniqure_utils.metrics.matching import checked_boxes, greedy_match
from cliniqure_utils.vocabulary import BOX


def found_references(*, references, predictions, iou_threshold: float = 0.4) -> np.ndarray:
    """Which reference boxes a prediction of the same film and class meets, the best scores choosing first.

    Args:
        references, predictions: As in `mean_average_precision`.
        iou_threshold: Least overlap of a hit.

    Returns:
        (n_references,) bool, in the order of `references`; its mean is the recall of `box_scores`.
    """
    known = checked_boxes(references.assign(row=np.arange(len(references))), "references", None)
    drawn = checked_boxes(predictions, "predictions", None, need_score=True)
    found, rows_of = np.zeros(len(known), bool), known.groupby(["image_id", "class_name"]).indices
    corners, drawn_corners = known[BOX].to_numpy(), drawn[BOX].to_numpy()
    for key, rows in drawn.groupby(["image_id", "class_name"]).indices.items():
        if key in rows_of:
            here = rows_of[key]
            met = greedy_match(iou_matrix(drawn_corners[np.sort(rows)], corners[here]), iou_threshold)
            found[here[met[met >= 0]]] = True
    return found[np.argsort(known["row"])]


def box_contrast(film: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """How much each box differs from what is around it, in grey steps.

    Args:
        film: (rows, columns), grey values.
        boxes: (n, 4) x_min, y_min, x_max, y_max, pixels of the film.

    Returns:
        (n,) |mean of the box - mean of its ring|. The ring is a quarter of the box's side wide (at least 2 pixels) and
        ends with the film; NaN where nothing of box or ring lies on the film. For a finding that fills a lung or the
        heart's place it measures anatomy, not the finding.
    """
    film, contrast = np.asarray(film, float), np.full(len(boxes), np.nan)
    rows, columns = film.shape
    for n, (x_min, y_min, x_max, y_max) in enumerate(np.asarray(boxes, float).reshape(-1, 4)):
        right, down = max(2.0, (x_max - x_min) / 4), max(2.0, (y_max - y_min) / 4)

        def part(x_from, y_from, x_to, y_to):
            edges = np.clip(np.round([y_from, y_to]), 0, rows), np.clip(np.round([x_from, x_to]), 0, columns)
            return tuple(slice(*edge.astype(int)) for edge in edges)

        inner, outer = (
            film[part(x_min, y_min, x_max, y_max)], film[part(x_min - right, y_min - down, x_max + right, y_max + down)]
        )  # fmt: skip
        if 0 < inner.size < outer.size:
            ring = (outer.sum() - inner.sum()) / (outer.size - inner.size)
            contrast[n] = abs(inner.mean() - ring)
    return contrast


def recall_by(values: np.ndarray, found: np.ndarray, n_groups: int = 5) -> pd.DataFrame:
    """Recall of lesions in groups of equal number, from the smallest value to the largest.

    Args:
        values: (n,) such as sizes or contrasts; lesions without one (NaN) are left out.
        found: (n,) bool, of `found_references`.
        n_groups: Lesions of the same value always fall into the same group, so there can be fewer.

    Returns:
        One row per group: low, median, high (of the values), n, recall, recall_low, recall_high: Wilson's 95 %
        interval, which takes lesions for independent although some share a film.
    """
    values, found = np.asarray(values, float), np.asarray(found, bool)
    values, found = values[~np.isnan(values)], found[~np.isnan(values)]
    edges = np.unique(np.quantile(values, np.linspace(0, 1, n_groups + 1)[1:-1])) if len(values) else np.array([])
    group, rows = np.searchsorted(edges, values, side="left"), []
    for number in np.unique(group):
        own, hits = values[group == number], int(found[group == number].sum())
        reach = binomtest(hits, len(own)).proportion_ci(method="wilson")
        rows.append((own.min(), np.median(own), own.max(), len(own), hits / len(own), reach.low, reach.high))
    return pd.DataFrame(rows, columns=["low", "median", "high", "n", "recall", "recall_low", "recall_high"])
