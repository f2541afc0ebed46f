"""The paper's merge of the readers' boxes, and other rules for the same task."""

import warnings
from collections.abc import Mapping

import numpy as np
import pandas as pd

from cliniqure_utils.annotations.boxes import pairs_within_groups
from cliniqure_utils.vocabulary import BOX, CLASSES, FINDINGS, NO_FINDING, NO_FINDING_ID

RULES = ("paper", "union", "wbf", "nms", "vote", "keep_all", "one_per_class")
COUNTING_RULES = ("union", "wbf", "nms", "vote")  # those that know how many readers are behind a box
DUPLICATES = ("overlapping", "literal", "keep")
_FLOATS = dict.fromkeys(BOX, float)  # also where a table has no rows


def _iou(a, b) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    overlap = width * height
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


def _hull(a, b) -> list[float]:
    return [min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])]


def usable_findings(annotations: pd.DataFrame) -> pd.DataFrame:
    """The rows that are a finding, "No finding" left out.

    Raises:
        ValueError: A finding has no usable box or an unknown class, which would spoil every comparison in silence.
    """
    rows = annotations[annotations.class_id != NO_FINDING_ID]
    corners = rows[BOX].to_numpy(float)
    bad = ~np.isfinite(corners).all(axis=1) | (corners[:, 2:] <= corners[:, :2]).any(axis=1)
    if bad.any():
        raise ValueError(
            f"{int(bad.sum())} findings have no usable box, the first on film {rows.image_id[bad].iloc[0]}: "
            f"{corners[bad][0].tolist()}; read the file with annotations.read_annotations"
        )
    unknown = ~rows.class_id.isin(range(NO_FINDING_ID))
    if unknown.any():
        raise ValueError(f"class ids must be 0 to {NO_FINDING_ID}, found {rows.class_id[unknown].iloc[0]}")
    return rows


def _check_thresholds(iou_threshold: float, aspect_tolerance: float) -> None:
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold must lie in [0, 1], found {iou_threshold}")
    if not aspect_tolerance >= 0:
        raise ValueError(f"aspect_tolerance must be 0 or more, found {aspect_tolerance}")


def _merge_one_image(rows: list, iou_threshold: float, aspect_tolerance: float) -> list:
    """Rows (class_id, x_min, y_min, x_max, y_max), sorted -> merged [box, set of class ids], in order of appearance.

    Plain numbers rather than arrays: a film has eight boxes on average, and each step depends on the one before.
    """
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
        annotations: As `annotations.read_annotations` returns them.
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
        ValueError: An unknown option, a threshold out of range, or a finding without a usable box
            (`annotations.read_annotations` rejects those).
    """
    if no_finding not in ("box", "drop"):
        raise ValueError(f"no_finding must be 'box' or 'drop', found {no_finding!r}")
    if duplicates not in DUPLICATES:
        raise ValueError(f"duplicates must be one of {', '.join(DUPLICATES)}, found {duplicates!r}")
    _check_thresholds(iou_threshold, aspect_tolerance)
    findings = usable_findings(annotations).drop_duplicates(["image_id", "class_id", *BOX])
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
                out.append((image_id, *box, ", ".join(CLASSES[c] for c in labels), labels))
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
    min_readers: int | None = None,
    duplicates: str = "overlapping",
) -> pd.DataFrame:
    """Fuse the readers' boxes by one of several rules; findings only.

    Within a film boxes are taken by class_id, x_min, y_min, x_max, y_max, so the order of rows does not matter. All
    rules but "paper" look at one class at a time. Boxes of one reader that overlap are fused like any others, and count
    as one reader.

    Args:
        annotations: As `annotations.read_annotations` returns them.
        rule: "paper": `merge_reader_boxes`, one row per class of a merged box.
            "union": each box joins the first group whose common hull it overlaps; the hull is the result.
            "vote": as "union", kept only when at least `min_readers` readers are behind it.
            "nms": non-maximum suppression; without scores, the first box of those that overlap is kept as drawn.
            "wbf": weighted boxes fusion (Solovyev et al. 2021, library ensemble-boxes); the mean of a group.
            "keep_all": every box, as drawn.
            "one_per_class": the paper's "duplicates of image and class names" removed from the boxes as drawn: the
            first box of each film and class, wherever the others are.
        iou_threshold: Overlap, [0, 1], above which two boxes are the same lesion; not used by the last two rules.
        aspect_tolerance, duplicates: Of rule "paper", as in `merge_reader_boxes`.
        min_readers: Boxes with fewer readers behind them are left out. None: 2 for "vote", else 1. Only for rules that
            count readers (`COUNTING_RULES`).

    Returns:
        image_id, class_id, class_name, score, x_min, y_min, x_max, y_max; sorted by film, class and coordinates. score
        is the share, (0, 1], of the film's readers behind the box, a reader being one who has a row for that film; 1.0
        throughout for rule "paper", which does not count readers.

    Raises:
        ValueError: An unknown option, a threshold out of range, or a finding without a usable box.
    """
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}; expected one of {', '.join(RULES)}")
    if min_readers is None:
        min_readers = 2 if rule == "vote" else 1
    if min_readers < 1 or (min_readers > 1 and rule not in COUNTING_RULES):
        raise ValueError(f"rule {rule!r} cannot ask for min_readers={min_readers}")
    _check_thresholds(iou_threshold, aspect_tolerance)
    findings = usable_findings(annotations)
    columns = ["image_id", "class_id", "class_name", "score", *BOX]
    if rule == "paper":
        merged = merge_reader_boxes(findings, None, iou_threshold, aspect_tolerance, duplicates=duplicates)
        rows = merged.explode("class_labels").rename(columns={"class_labels": "class_id"})
        rows = rows.assign(class_id=rows.class_id.astype(int), score=1.0)
        rows["class_name"] = [CLASSES[c] for c in rows.class_id]
        rows = rows[columns].astype({"image_id": annotations.image_id.dtype, "class_name": "str"})
        return rows.sort_values(["image_id", "class_id", *BOX], ignore_index=True)

    # Integer codes: sorting 32-letter ids would take longer than everything else together.
    image, image_ids = pd.factorize(annotations.image_id, sort=True)
    reader, reader_ids = pd.factorize(annotations.rad_id, sort=True, use_na_sentinel=False)
    n_readers = max(len(reader_ids), 1)
    readers_of_film = np.bincount(np.unique(image * n_readers + reader) // n_readers, minlength=len(image_ids))
    marked = (annotations.class_id != NO_FINDING_ID).to_numpy()
    image, reader = image[marked], reader[marked]
    corners, class_id = findings[BOX].to_numpy(float), findings.class_id.to_numpy(int)
    order = np.lexsort((reader, *corners.T[::-1], class_id, image))
    corners, reader = corners[order], reader[order]
    group = image[order] * len(FINDINGS) + class_id[order]

    behind = np.ones(len(group), int)
    if rule == "one_per_class":
        first = np.diff(group, prepend=-1) != 0
        corners, group, behind = corners[first], group[first], behind[first]
    elif rule != "keep_all":
        # Where no two boxes of a film and class overlap enough, nothing can ever be joined.
        i, j, iou = pairs_within_groups(corners, group, corners, group)
        shared = np.isin(group, group[i[(iou > iou_threshold) & (i != j)]])
        fuse = _weighted_fusion if rule == "wbf" else _suppressed if rule == "nms" else _hulls
        fused = fuse(corners[shared], group[shared], reader[shared], iou_threshold)
        alone = corners[~shared], group[~shared], behind[~shared]
        corners, group, behind = (np.concatenate(parts) for parts in zip(alone, fused, strict=True))
        kept = behind >= min_readers
        corners, group, behind = corners[kept], group[kept], behind[kept]
        order = np.lexsort((behind, *corners.T[::-1], group))
        corners, group, behind = corners[order], group[order], behind[order]
    image, class_id = np.divmod(group, len(FINDINGS))
    table = pd.DataFrame(corners, columns=BOX).assign(
        image_id=image_ids[image], class_id=class_id, class_name=np.array(CLASSES, object)[class_id],
        score=behind / readers_of_film[image],
    )  # fmt: skip
    return table[columns].astype({"image_id": annotations.image_id.dtype, "class_name": "str"})


def _hulls(corners, group, reader, threshold, grow=True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sorted boxes (n, 4), their groups and readers (n,) -> fused boxes, their groups, number of readers of each."""
    out: list = []
    current, start = None, 0
    for box, name, who in zip(corners.tolist(), group.tolist(), reader.tolist(), strict=True):
        if name != current:
            current, start = name, len(out)
        for fused in out[start:]:
            if _iou(fused[0], box) > threshold:
                if grow:
                    fused[0] = _hull(fused[0], box)
                fused[2].add(who)
                break
        else:
            out.append([box, name, {who}])
    boxes, groups, behind = zip(*out, strict=True) if out else ((), (), ())
    return np.array(boxes, float).reshape(-1, 4), np.array(groups, int), np.array([len(b) for b in behind], int)


def _suppressed(corners, group, reader, threshold):
    return _hulls(corners, group, reader, threshold, grow=False)


def _weighted_fusion(corners, group, reader, threshold):
    """As `_hulls`, by the library, which averages in single precision: about 0.0002 pixels on a film 3000 wide."""
    # Most groups hold just two boxes. Those overlap, or they would not be here, so the result is their mean.
    _, place, n = np.unique(group, return_inverse=True, return_counts=True)
    two = n[place] == 2
    pairs, owners = corners[two].reshape(-1, 2, 4), reader[two].reshape(-1, 2)
    means = pairs.mean(1), group[two][::2], 1 + (owners[:, 0] != owners[:, 1])
    if two.all():
        return means
    corners, group, reader = corners[~two], group[~two], reader[~two]
    from ensemble_boxes import weighted_boxes_fusion

    # The library wants coordinates in [0, 1]. A power of two keeps every overlap the same to the last bit, so that a
    # film's result does not depend on the other films of the call.
    offset = min(0.0, np.floor(corners.min()))
    scale = 2.0 ** np.ceil(np.log2((corners - offset).max()))
    # It takes boxes by falling score and leaves the order of equal ones to numpy's unstable sort, which differs between
    # processors. Steps of 1e-9 fix the order and move no box by more than rounding does.
    step = np.arange(len(group)) - np.searchsorted(group, group)
    who = [np.flatnonzero(reader == code) for code in np.unique(reader)]
    fused, score, label = weighted_boxes_fusion(
        [(corners[rows] - offset) / scale for rows in who],
        [1.0 - 1e-9 * step[rows] for rows in who],
        [group[rows] for rows in who],
        iou_thr=threshold, skip_box_thr=0.0, conf_type="box_and_model_avg",
    )  # fmt: skip
    # "box_and_model_avg": with the default, overlapping boxes of one reader give scores above 1.
    found = fused * scale + offset, label.astype(int), np.rint(score * len(who)).astype(int)
    return tuple(np.concatenate(parts) for parts in zip(means, found, strict=True))
