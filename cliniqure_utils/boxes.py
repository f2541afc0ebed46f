"""Boxes: overlap, the paper's merge of the readers' boxes, and other rules for the same task.

Boxes are rows x_min, y_min, x_max, y_max in DICOM pixels; widths are x_max - x_min (no "+ 1").
"""

import warnings
from collections.abc import Mapping

import numpy as np
import pandas as pd

from cliniqure_utils.vindr import BOX, FINDINGS, NO_FINDING, NO_FINDING_ID

NAMES = (*FINDINGS, NO_FINDING)
RULES = ("paper", "union", "wbf", "nms", "vote", "keep_all")
_FLOATS = dict.fromkeys(BOX, float)  # also where a table has no rows
DUPLICATES = ("overlapping", "literal", "keep")


def iou_matrix(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair: (n, 4), (m, 4) -> (n, m), values in [0, 1]."""
    first, second = np.asarray(first, float).reshape(-1, 4), np.asarray(second, float).reshape(-1, 4)
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    overlap = np.clip(high - low, 0, None).prod(2)
    area = [(b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (first, second)]
    union = area[0][:, None] + area[1][None] - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)


def rescale_boxes(boxes: np.ndarray, old_size: tuple[int, int], new_size: tuple[int, int]) -> np.ndarray:
    """Move boxes (n, 4) from one image size to another; sizes are (width, height). NaN rows stay NaN. float64."""
    factors = [new_size[0] / old_size[0], new_size[1] / old_size[1]] * 2
    return np.asarray(boxes, float).reshape(-1, 4) * factors


def _iou(a, b) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    overlap = width * height
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


def _hull(a, b) -> list[float]:
    return [min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])]


def _findings(annotations: pd.DataFrame) -> pd.DataFrame:
    """The rows that are a finding; refuses boxes that would spoil every comparison in silence."""
    rows = annotations[annotations.class_id != NO_FINDING_ID]
    corners = rows[BOX].to_numpy(float)
    bad = ~np.isfinite(corners).all(axis=1) | (corners[:, 2:] <= corners[:, :2]).any(axis=1)
    if bad.any():
        raise ValueError(
            f"{int(bad.sum())} findings have no usable box, the first on film {rows.image_id[bad].iloc[0]}: "
            f"{corners[bad][0].tolist()}; read the file with vindr.read_annotations"
        )
    return rows


def _merge_one_image(rows: list, iou_threshold: float, aspect_tolerance: float) -> list:
    """Rows (class_id, x_min, y_min, x_max, y_max), sorted -> merged [box, set of class ids], in order of appearance."""
    merged: list = []
    for class_id, *box in rows:
        aspect = (box[2] - box[0]) / (box[3] - box[1])
        for group in merged:
            other = group[0]
            alike = abs((other[2] - other[0]) / (other[3] - other[1]) - aspect) < aspect_tolerance
            if alike and _iou(other, box) > iou_threshold:
                group[0] = _hull(other, box)
                group[1].add(class_id)
                break
        else:
            merged.append([box, {class_id}])
    return merged


def _without_duplicates(merged: list, duplicates: str, iou_threshold: float) -> list:
    if duplicates == "keep":
        return merged
    kept: list = []
    for box, classes in merged:
        same = [other for other, others in kept if others == classes]
        if duplicates == "literal" and same:
            continue
        if duplicates == "overlapping" and any(_iou(other, box) > iou_threshold for other in same):
            continue
        kept.append([box, classes])
    return kept


def merge_reader_boxes(
    annotations: pd.DataFrame,
    image_sizes: Mapping[str, tuple[int, int]] | None = None,
    iou_threshold: float = 0.5,
    aspect_tolerance: float = 0.1,
    no_finding: str = "box",
    duplicates: str = "overlapping",
) -> pd.DataFrame:
    """Merge the readers' boxes as section 4.1 of the paper does; the defaults reproduce its table 2.

    Within a film boxes are taken by class_id, x_min, y_min, x_max, y_max, so the order of rows does not matter. Each
    joins the first merged box whose IoU with it is above the threshold and whose width/height differs by less than the
    tolerance; that box grows to hold both and carries both names. Otherwise it opens a merged box of its own.

    Args:
        annotations: As `vindr.read_annotations` returns them.
        image_sizes: image_id -> (width, height), for the whole-film box of "No finding".
        iou_threshold, aspect_tolerance: The paper gives neither; table 2 pins the tolerance to [0.043, 0.165) at 0.5.
        no_finding: "box": one whole-film box with class 14 per film without a finding (table 2); "drop": no row (text).
        duplicates: Of merged boxes with the same class set in one film: "overlapping" keeps the first of those whose
            IoU is above the threshold, "literal" keeps one per film and class set (the paper's words), "keep" all.

    Returns:
        image_id, x_min, y_min, x_max, y_max, class_names (", "-joined), class_labels (list of int), sorted by image_id,
        then by the coordinates. Without a size a "No finding" box has NaN coordinates, and one warning is given. A film
        with a finding has no "No finding" row, whatever another reader said.

    Raises:
        ValueError: An unknown option, or a finding without a usable box (`vindr.read_annotations` rejects those).
    """
    if no_finding not in ("box", "drop"):
        raise ValueError(f"no_finding must be 'box' or 'drop', found {no_finding!r}")
    if duplicates not in DUPLICATES:
        raise ValueError(f"duplicates must be one of {', '.join(DUPLICATES)}, found {duplicates!r}")
    findings = _findings(annotations).drop_duplicates(["image_id", "class_id", *BOX])
    findings = findings.sort_values(["image_id", "class_id", *BOX], kind="stable")
    groups: dict[str, list] = {}
    for image_id, *row in findings[["image_id", "class_id", *BOX]].itertuples(index=False, name=None):
        groups.setdefault(image_id, []).append(row)

    out, unsized = [], 0
    for image_id in sorted(set(annotations.image_id)):
        if image_id in groups:
            merged = _merge_one_image(groups[image_id], iou_threshold, aspect_tolerance)
            kept = _without_duplicates(merged, duplicates, iou_threshold)
            for box, labels in sorted((box, sorted(int(c) for c in classes)) for box, classes in kept):
                out.append((image_id, *box, ", ".join(NAMES[c] for c in labels), labels))
        elif no_finding == "box":
            size = (image_sizes or {}).get(image_id)
            unsized += size is None
            box = (np.nan,) * 4 if size is None else (0.0, 0.0, float(size[0]), float(size[1]))
            out.append((image_id, *box, NO_FINDING, [NO_FINDING_ID]))
    if unsized:
        warnings.warn(
            f"{unsized} films without a finding have no known size; their whole-film boxes are left empty", stacklevel=2
        )
    return pd.DataFrame(out, columns=["image_id", *BOX, "class_names", "class_labels"]).astype(_FLOATS)


def fuse_reader_boxes(
    annotations: pd.DataFrame,
    rule: str,
    iou_threshold: float = 0.5,
    aspect_tolerance: float = 0.1,
    min_readers: int = 2,
    duplicates: str = "overlapping",
) -> pd.DataFrame:
    """Fuse the readers' boxes by one of several rules; findings only.

    Args:
        annotations: As `vindr.read_annotations` returns them.
        rule: "paper" (`merge_reader_boxes`, one row per class of a merged box); per class: "union" (boxes above the
            threshold grow together), "wbf" (weighted boxes fusion, library ensemble-boxes), "nms" (the first of an
            overlapping group is kept), "vote" (union, kept when at least `min_readers` readers drew it), "keep_all".
        iou_threshold: Overlap from which two boxes are the same lesion.
        aspect_tolerance, duplicates: Of rule "paper", as in `merge_reader_boxes`.
        min_readers: Of rule "vote".

    Returns:
        image_id, class_id, class_name, score (share of the film's readers behind the box), x_min, y_min, x_max, y_max.
    """
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}; expected one of {', '.join(RULES)}")
    findings = _findings(annotations)
    columns = ["image_id", "class_id", "class_name", "score", *BOX]
    if rule == "paper":
        merged = merge_reader_boxes(findings, None, iou_threshold, aspect_tolerance, duplicates=duplicates)
        rows = merged.explode("class_labels").rename(columns={"class_labels": "class_id"})
        rows = rows.assign(class_id=rows.class_id.astype(int), score=1.0)
        rows["class_name"] = [NAMES[c] for c in rows.class_id]
        return rows[columns].reset_index(drop=True)
    readers = annotations.groupby("image_id").rad_id.nunique().to_dict()
    ordered = findings.sort_values(["image_id", "class_id", *BOX, "rad_id"], kind="stable")
    groups: dict[tuple, list] = {}
    for image_id, class_id, reader, *box in ordered[["image_id", "class_id", "rad_id", *BOX]].itertuples(
        index=False, name=None
    ):
        groups.setdefault((image_id, class_id), []).append((box, reader))
    out = []
    for (image_id, class_id), drawn in groups.items():
        for box, score in _fuse_one(drawn, rule, iou_threshold, min_readers, int(readers[image_id])):
            out.append((image_id, int(class_id), NAMES[class_id], score, *map(float, box)))
    return pd.DataFrame(out, columns=columns).astype(_FLOATS)


def _fuse_one(drawn: list, rule: str, threshold: float, min_readers: int, total: int) -> list:
    """Pairs (box, reader) of one film and class -> pairs (box, score)."""
    if rule == "keep_all":
        return [(box, 1 / total) for box, _ in drawn]
    if rule == "wbf":
        return _weighted_fusion(np.array([b for b, _ in drawn]), np.array([r for _, r in drawn]), threshold, total)
    groups: list = []
    for box, reader in drawn:
        for fused in groups:
            if _iou(fused[0], box) > threshold:
                if rule != "nms":
                    fused[0] = _hull(fused[0], box)
                fused[1].add(reader)
                break
        else:
            groups.append([box, {reader}])
    if rule == "vote":
        groups = [fused for fused in groups if len(fused[1]) >= min_readers]
    return [(box, len(behind) / total) for box, behind in groups]


def _weighted_fusion(boxes: np.ndarray, readers: np.ndarray, threshold: float, total: int) -> list:
    from ensemble_boxes import weighted_boxes_fusion

    scale = boxes[:, 2:].max() + 1  # the library wants coordinates in [0, 1]
    names = sorted(set(readers))
    per_reader = [boxes[readers == name] / scale for name in names]
    fused, score, _ = weighted_boxes_fusion(
        [b.tolist() for b in per_reader], [[1.0] * len(b) for b in per_reader], [[0] * len(b) for b in per_reader],
        iou_thr=threshold, skip_box_thr=0.0, conf_type="box_and_model_avg",
    )  # fmt: skip
    # "box_and_model_avg": with the default, overlapping boxes of one reader give scores above 1.
    return list(zip(fused * scale, np.minimum(score * len(names) / total, 1.0), strict=True))
