"""Arithmetic of boxes: their overlap, and moving them from one frame of pixels to another."""

import numpy as np
import pandas as pd

from cliniqure_utils.ratios import ratio
from cliniqure_utils.vocabulary import BOX, FINDINGS, NO_FINDING


def iou_matrix(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair: (n, 4), (m, 4) -> (n, m), values in [0, 1]."""
    first, second = np.asarray(first, float).reshape(-1, 4), np.asarray(second, float).reshape(-1, 4)
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    overlap = np.clip(high - low, 0, None).prod(2)
    area = [(b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (first, second)]
    union = area[0][:, None] + area[1][None] - overlap
    return ratio(overlap, union, empty=0.0)


def pairs_within_groups(
    first: np.ndarray, first_group: np.ndarray, second: np.ndarray, second_group: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """IoU of every pair of boxes of the same group (say, film and class), for all groups at once.

    Args:
        first, second: Boxes (n, 4) and (m, 4).
        first_group, second_group: Their groups, int (n,) and (m,).

    Returns:
        Row numbers in `first` (ascending), row numbers in `second`, and IoU in [0, 1], each (number of pairs,).
    """
    first, second = np.asarray(first, float).reshape(-1, 4), np.asarray(second, float).reshape(-1, 4)
    order = np.argsort(second_group, kind="stable")
    start = np.searchsorted(second_group, first_group, "left", sorter=order)
    count = np.searchsorted(second_group, first_group, "right", sorter=order) - start
    i = np.repeat(np.arange(len(first)), count)
    within = np.arange(len(i)) - np.repeat(np.cumsum(count) - count, count)
    j = order[np.repeat(start, count) + within]
    a, b = first[i], second[j]
    overlap = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - overlap
    return i, j, ratio(overlap, union, empty=0.0)


def rescale_boxes(boxes: np.ndarray, old_size: tuple[float, float], new_size: tuple[float, float]) -> np.ndarray:
    """Move boxes (n, 4) from one frame of pixels to another; sizes are (width, height). NaN rows stay NaN.

    float32 boxes stay float32, others become float64.
    """
    boxes = np.asarray(boxes)
    kind = np.float32 if boxes.dtype == np.float32 else np.float64
    factors = np.array([new_size[0] / old_size[0], new_size[1] / old_size[1]] * 2, kind)
    return boxes.astype(kind).reshape(-1, 4) * factors


def boxes_per_class(annotations: pd.DataFrame) -> pd.DataFrame:
    """Merged boxes -> one training box per class of each merged box; "No finding" rows give none.

    Args:
        annotations: As `annotations.read_merged` returns them (class_labels: list of int, boxes in DICOM pixels).

    Returns:
        image_id, class_id (0-13), class_name, x_min, y_min, x_max, y_max.

    Source: paper section 4.1 keeps several classes in one box; Faster R-CNN takes one label per box, so ours is one
    box per class.
    """
    rows = annotations.explode("class_labels").rename(columns={"class_labels": "class_id"})
    rows = rows.assign(class_id=rows.class_id.astype(int))
    rows = rows[(rows.class_id < len(FINDINGS)) & rows[BOX].notna().all(axis=1)]
    names = np.array(FINDINGS)[rows.class_id]
    return rows.assign(class_name=names)[["image_id", "class_id", "class_name", *BOX]].reset_index(drop=True)


def film_sizes(index: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """index.csv of step 01 -> image_id -> (width, height) of the film in DICOM pixels."""
    return dict(zip(index.image_id, zip(index["columns"].tolist(), index["rows"].tolist(), strict=True), strict=True))


def films_left_out(index: pd.DataFrame, annotations: pd.DataFrame) -> pd.DataFrame:
    """The films that cannot be learnt from.

    Args:
        index: As `dicom.convert_archive` returns it.
        annotations: As `annotations.read_annotations` returns them for these films.

    Returns:
        source, image_id, reason. A film without a row: nobody has read it, or every row of it was rejected. A film that
        was turned upright on loading and has a finding: its boxes are in pixels of the film as it is stored. A turned
        film without a finding is none of them.
    """
    findings = annotations[annotations.class_name != NO_FINDING]
    names = findings.groupby("image_id").class_name.agg(lambda found: ", ".join(sorted(set(found))))
    unread = index[~index.image_id.isin(annotations.image_id)]
    turned = index[index.turned.eq(True) & index.image_id.isin(findings.image_id)]
    displaced = [
        f"turned upright on loading, but its boxes ({names[image_id]}) are in pixels of the film as it is stored"
        for image_id in turned.image_id
    ]
    left_out = pd.concat([unread.assign(reason="no usable annotation row"), turned.assign(reason=displaced)])
    return left_out[["source", "image_id", "reason"]].reset_index(drop=True)
