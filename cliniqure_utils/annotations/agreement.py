"""How far readers agree with each other, and which way of fusing two readers' boxes best predicts the third reader's.

The questions behind notebook 01's merging lab. Boxes are rows of `annotations.read_annotations`: the real readers of
VinDr-CXR, or the simulated ones of the demo cohort (reader_annotations.csv), through the same functions.

Boxes are matched within one film and class, one to one, in order of falling IoU: of all pairs left, the pair that
overlaps most is taken first. Unlike the matching of a detector (`metrics.detection`) this needs no scores, which
readers do not give, and treats both sides alike. Ties are broken by the coordinates, never by the order of rows.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import pandas as pd

from cliniqure_utils.annotations.boxes import pairs_within_groups
from cliniqure_utils.annotations.labels import label_matrix
from cliniqure_utils.annotations.merging import fuse_reader_boxes, usable_findings
from cliniqure_utils.ratios import ratio
from cliniqure_utils.vocabulary import BOX, FINDINGS

READERS = ("R8", "R9", "R10")  # the trio that read most of VinDr-CXR's films, 5,501 of 15,000
# What `leave_one_out` compares: name in the table -> options of `annotations.fuse_reader_boxes`.
LAB_RULES = MappingProxyType(
    {
        "keep all": {"rule": "keep_all"},
        "paper, duplicates kept": {"rule": "paper", "duplicates": "keep"},
        "paper, duplicates removed": {"rule": "paper"},
        "one per film and class": {"rule": "one_per_class"},
        "union, IoU 0.5": {"rule": "union"},
        "NMS, IoU 0.4": {"rule": "nms", "iou_threshold": 0.4},
        "WBF, IoU 0.3": {"rule": "wbf", "iou_threshold": 0.3},
        "WBF, IoU 0.4": {"rule": "wbf", "iou_threshold": 0.4},
        "WBF, IoU 0.5": {"rule": "wbf", "iou_threshold": 0.5},
        "WBF, IoU 0.4, drawn by both": {"rule": "wbf", "iou_threshold": 0.4, "min_readers": 2},
    }
)
_NUMBERS = ["precision", "recall", "f1", "macro_f1", "iou"]


def match_boxes(references: pd.DataFrame, predictions: pd.DataFrame, iou: float = 0.4) -> pd.DataFrame:
    """Pair boxes of the same film and class one to one, the most overlapping pairs first (see the module).

    Args:
        references, predictions: image_id, class_id (0 to 13), x_min, y_min, x_max, y_max, in pixels of one frame.
        iou: Least overlap of a pair, (0, 1].

    Returns:
        One row per pair: reference, prediction (row numbers from 0 in the two tables), class_id, iou; sorted by
        prediction.

    Raises:
        ValueError: `iou` is out of range.
    """
    if not 0 < iou <= 1:
        raise ValueError(f"iou must lie in (0, 1], found {iou}")
    n = len(references)
    film = pd.factorize(np.concatenate([references.image_id.to_numpy(object), predictions.image_id.to_numpy(object)]))[
        0
    ]
    group = film * len(FINDINGS) + np.concatenate([references.class_id, predictions.class_id]).astype(int)
    corners = np.concatenate([references[BOX].to_numpy(float), predictions[BOX].to_numpy(float)])
    p, r, overlap = pairs_within_groups(corners[n:], group[n:], corners[:n], group[:n])
    near = overlap >= iou
    p, r, overlap = p[near], r[near], overlap[near]
    order = np.lexsort((*corners[n + p].T, *corners[r].T, -overlap))
    p, r, overlap = p[order], r[order], overlap[order]

    taken = []
    while len(p):
        # Pairs are sorted, best first: a pair is final when it is the first one left for both of its boxes.
        best = np.zeros((2, len(p)), bool)
        for side, places in zip(best, (p, r), strict=True):
            side[np.unique(places, return_index=True)[1]] = True
        sure = best.all(0)
        taken.append((r[sure], p[sure], overlap[sure]))
        left = ~(np.isin(p, p[sure]) | np.isin(r, r[sure]))
        p, r, overlap = p[left], r[left], overlap[left]
    parts = zip(*taken, strict=True) if taken else (np.array([], int), np.array([], int), np.array([]))
    reference, prediction, found = (np.concatenate(part) if taken else part for part in parts)
    pairs = pd.DataFrame({"reference": reference, "prediction": prediction})
    pairs["class_id"] = group[n:][prediction] % len(FINDINGS)
    pairs["iou"] = found
    return pairs.sort_values("prediction", ignore_index=True)


def leave_one_out(
    annotations: pd.DataFrame,
    rules: Mapping[str, Mapping | Callable[[pd.DataFrame], pd.DataFrame]] = LAB_RULES,
    readers: Sequence[str] = READERS,
    iou: float = 0.4,
    image_ids: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Fuse the boxes of all readers but one, score them against the boxes of that one, for each reader in turn.

    The counts of hits, fused boxes and left-out boxes are added up over all turns before the ratios are taken.

    Args:
        annotations: As `annotations.read_annotations` returns them; rows of other readers and films are ignored.
        rules: Name -> options of `annotations.fuse_reader_boxes`, or a function of one's own that takes the rows of the
            remaining readers and returns image_id, class_id, x_min, y_min, x_max, y_max.
        readers: Two or more values of rad_id.
        iou: Least overlap of a hit, (0, 1]; 0.4 as in VinBigData's contest.
        image_ids: Films that every one of `readers` has read. None: those where each has a row, as in VinDr-CXR; name
            them for data where a reader who saw nothing leaves no row, as in the demo cohort. Only films on which at
            least one of `readers` marked a finding enter.

    Returns:
        One row per rule, index "rule": boxes_per_image; precision, recall, f1 over all classes together, macro_f1 (mean
        of the F1 of classes that occur) and iou (mean over hits), in [0, 1], NaN without a denominator; f1_low and
        f1_high, the lowest and highest F1 of the turns; n_images.

    Raises:
        ValueError: Fewer than two readers, a reader without a row, no film that all have read and one has marked, an
            unknown rule or option, or a finding without a usable box.
    """
    films = _films(annotations, readers, image_ids)
    rows = usable_findings(annotations[annotations.image_id.isin(films) & annotations.rad_id.isin(readers)])
    n_images = rows.image_id.nunique()
    if n_images == 0:
        raise ValueError(f"none of the {len(films)} films read by {', '.join(readers)} has a finding")
    turns = [(rows[rows.rad_id == reader], rows[rows.rad_id != reader]) for reader in readers]
    table = {}
    for name, rule in rules.items():
        counts = []
        for left_out, others in turns:
            fused = rule(others) if callable(rule) else fuse_reader_boxes(others, **rule)
            counts.append(_counts(left_out, fused, iou))
        f1 = [_scores(turn)["f1"] for turn in counts]
        total = np.sum(counts, axis=0)
        table[name] = {
            "boxes_per_image": total[1].sum() / (len(readers) * n_images), **_scores(total),
            "f1_low": min(f1), "f1_high": max(f1), "n_images": n_images,
        }  # fmt: skip
    columns = ["boxes_per_image", *_NUMBERS, "f1_low", "f1_high", "n_images"]
    return pd.DataFrame.from_dict(table, orient="index", columns=columns).rename_axis("rule")


def reader_ceiling(
    annotations: pd.DataFrame,
    readers: Sequence[str] = READERS,
    iou: float = 0.4,
    image_ids: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Score every reader against every other: the agreement between people, above which a model's score means little.

    Args:
        annotations, readers, iou, image_ids: As in `leave_one_out`.

    Returns:
        One row per pair of readers: reader, reference; precision, recall, f1, macro_f1, iou of the reader's boxes
        against those of the reference (swapping the two swaps precision and recall, the rest stays); n_images
        with a finding of any of `readers`. Then labels, film by film, over the 14 findings: label_f1 (micro),
        label_macro_f1, label_kappa (mean over classes of Cohen's kappa; classes that neither names are left out of both
        means); n_label_images, all films that `readers` have read. Numbers in [0, 1], kappa in [-1, 1]; NaN without a
        denominator.

    Raises:
        ValueError: Fewer than two readers, a reader without a row, no film that all have read, or a finding without a
            usable box.

    Source: Cohen 1960, Educational and Psychological Measurement 20:37-46.
    """
    films = _films(annotations, readers, image_ids)
    chosen = annotations[annotations.image_id.isin(films) & annotations.rad_id.isin(readers)]
    rows = usable_findings(chosen)
    boxes = {reader: rows[rows.rad_id == reader] for reader in readers}
    labels = {r: label_matrix(boxes[r], films)[[*FINDINGS]].to_numpy(bool) for r in readers}
    table = []
    for n, reference in enumerate(readers):
        for reader in readers[n + 1 :]:
            scores = _scores(_counts(boxes[reference], boxes[reader], iou))
            agreement = _label_agreement(labels[reference], labels[reader])
            sizes = {"n_images": rows.image_id.nunique(), "n_label_images": len(films)}
            table.append({"reader": reader, "reference": reference, **scores, **agreement, **sizes})
    labelled = ["label_f1", "label_macro_f1", "label_kappa", "n_label_images"]
    return pd.DataFrame(table, columns=["reader", "reference", *_NUMBERS, "n_images", *labelled])


def _films(annotations: pd.DataFrame, readers: Sequence[str], image_ids: Sequence[str] | None) -> list[str]:
    """The films that every one of `readers` has read, sorted."""
    if isinstance(readers, str) or len(set(readers)) < 2 or len(set(readers)) != len(readers):
        raise ValueError(f"expected two or more different readers, found {readers!r}")
    rows = annotations.loc[annotations.rad_id.isin(readers), ["image_id", "rad_id"]]
    missing = [reader for reader in readers if not (rows.rad_id == reader).any()]
    if missing:
        known = sorted(map(str, annotations.rad_id.unique()))
        raise ValueError(f"reader {missing[0]!r} has no row; readers in the table: {', '.join(known)}")
    if image_ids is None:
        n_readers = rows.drop_duplicates().image_id.value_counts()
        image_ids = n_readers.index[n_readers == len(readers)]
    if len(image_ids) == 0:
        raise ValueError(f"no film was read by all of {', '.join(readers)}")
    return sorted(set(image_ids))


def _counts(references: pd.DataFrame, predictions: pd.DataFrame, iou: float) -> np.ndarray:
    """float (4, 14): per class the hits, predicted boxes, reference boxes, and the sum of IoU over hits."""
    pairs = match_boxes(references, predictions, iou)
    columns = (pairs.class_id, predictions.class_id, references.class_id, pairs.class_id)
    weights = (None, None, None, pairs.iou)
    return np.array(
        [np.bincount(np.asarray(c, int), w, minlength=len(FINDINGS)) for c, w in zip(columns, weights, strict=True)],
        float,
    )


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")


def _scores(counts: np.ndarray) -> dict[str, float]:
    hits, predicted, referenced, overlap = counts.sum(1)
    per_class = ratio(2 * counts[0], counts[1] + counts[2])
    values = (hits, predicted), (hits, referenced), (2 * hits, predicted + referenced), (overlap, hits)
    precision, recall, f1, iou = (float(ratio(part, whole)) for part, whole in values)
    return {"precision": precision, "recall": recall, "f1": f1, "macro_f1": _mean(per_class), "iou": iou}


def _label_agreement(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Agreement of two bool arrays (films, classes)."""
    from sklearn.metrics import cohen_kappa_score

    both, total = (first & second).sum(0), first.sum(0) + second.sum(0)
    # A class that neither reader names, or both name on every film, has no kappa (0 / 0).
    kappa = [
        cohen_kappa_score(first[:, k], second[:, k]) for k in np.flatnonzero((total > 0) & (total < 2 * len(first)))
    ]
    return {
        "label_f1": float(ratio(2 * both.sum(), total.sum())),
        "label_macro_f1": _mean(ratio(2 * both, total)),
        "label_kappa": _mean(np.array(kappa)),
    }
