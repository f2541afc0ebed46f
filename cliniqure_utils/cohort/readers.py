"""Three simulated readers who disagree as VinDr-CXR's readers do.

What they get wrong, and how often, is measured on the real readers' packaged annotations when it is needed (`measure`)
and never stored. The real films have no truth beside their readers; here the truth is what was simulated, and the
model says: a finding is there, and one, two or all three readers name it, with the shares of the real ones. So the
simulated readers disagree as much as real ones, while the three together miss little. A reader who does not name a
finding may draw a box there under the name of a similar one. Boxes are drawn with the spread of the real ones; some
outline only the core, or far too much.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from cliniqure_utils.annotations import READERS, vindr_annotations
from cliniqure_utils.annotations.boxes import pairs_within_groups
from cliniqure_utils.vocabulary import BOX, FINDINGS, NO_FINDING, NO_FINDING_ID, PHYSIONET_TO_KAGGLE

SAME_PLACE = 0.5  # IoU from which two boxes with different names outline the same thing
NEAR, MATCH = 0.1, 0.4  # IoU from which boxes of one name mean the same thing, and from which they agree
SWAPPED_WEIGHT = 0.25  # ours: with it, and the chances below, the simulated readers agree as the real ones do

MISSED_BY_ALL = 0.02  # share of findings that nobody names: ours, since the real share cannot be known
SECOND_BOX = 0.85  # chance that a reader who has drawn one box of a finding draws another part of it too; ours
EXTRA = 0.01  # chance of a box where nothing is, per reader of an abnormal film; ours: the real share cannot be known
LEAST_SIDE = 3  # pixels
CORE, GENEROUS = (0.50, 0.68), (1.45, 1.8)  # sides of a loosely drawn box, as shares of the true one's


@dataclass(frozen=True)
class ReaderModel:
    """How three readers err, per finding in class-id order.

    Attributes:
        seen: (14, 3) of the findings that anyone names, the share named by one, two and three of the readers. A name
            that one reader alone gives to what another calls something else at the same place counts a quarter: such
            names come back through `confused`.
        confused: (14, 14) chance that a reader who does not name the row's finding draws it as the column's.
        jitter: (14,) spread of one edge, as a share of the box's side.
        loose: (14,) chance that a box is drawn so far off that it no longer matches.
    """

    seen: np.ndarray
    confused: np.ndarray
    jitter: np.ndarray
    loose: np.ndarray


@lru_cache(maxsize=1)
def measure_vindr() -> ReaderModel:
    """The model of R8, R9 and R10 on VinDr-CXR's packaged annotations (a second, once per process)."""
    return measure(vindr_annotations())


def measure(annotations: pd.DataFrame, readers: tuple[str, str, str] = READERS) -> ReaderModel:
    """Measure three readers on the films that all of them have read.

    Args:
        annotations: As `annotations.read_annotations` returns them.
        readers: Three values of rad_id.
    """
    rows = annotations[annotations.rad_id.isin(readers)]
    n_readers = rows.groupby("image_id").rad_id.nunique()
    rows = rows[(rows.class_id < len(FINDINGS)) & rows.image_id.isin(n_readers.index[n_readers == len(readers)])]
    film = pd.factorize(rows.image_id)[0]
    reader = rows.rad_id.map({name: n for n, name in enumerate(readers)}).to_numpy(int)
    finding, corners = rows.class_id.to_numpy(int), rows[BOX].to_numpy(float)
    one, other, iou = pairs_within_groups(corners, film, corners, film)
    across = reader[one] != reader[other]
    one, other, iou = one[across], other[across], iou[across]
    same = finding[one] == finding[other]

    # named[box, reader]: whether that reader has a box of the same name near this one.
    named = np.zeros((len(rows), len(readers)), bool)
    near = same & (iou >= NEAR)
    named[one[near], reader[other[near]]] = True
    swapped = ~same & (iou >= SAME_PLACE) & ~named[one, reader[other]] & ~named[other, reader[one]]
    confused = np.zeros((len(FINDINGS),) * 2)
    np.add.at(confused, (finding[one[swapped]], finding[other[swapped]]), 1)
    unnamed = np.bincount(finding, (len(readers) - 1) - named.sum(1), minlength=len(FINDINGS))

    table = pd.DataFrame({"film": film, "finding": finding, "reader": reader, "swapped": False})
    table.loc[one[swapped], "swapped"] = True
    per_label = table.groupby(["film", "finding"]).agg(n=("reader", "nunique"), swapped=("swapped", "any"))
    weight = np.where((per_label.n == 1) & per_label.swapped, SWAPPED_WEIGHT, 1.0)
    seen = np.zeros((len(FINDINGS), len(readers)))
    np.add.at(seen, (per_label.index.get_level_values("finding"), per_label.n.to_numpy() - 1), weight)

    matched = np.zeros_like(named)
    match = same & (iou >= MATCH)
    matched[one[match], reader[other[match]]] = True
    both_name = np.zeros_like(named)  # ... that reader names this box's finding somewhere on the film
    for n in range(len(readers)):
        pairs = set(zip(film[reader == n], finding[reader == n], strict=True))
        both_name[:, n] = [key in pairs for key in zip(film, finding, strict=True)]
    both_name[np.arange(len(rows)), reader] = False
    agree = np.bincount(finding, (matched & both_name).sum(1), len(FINDINGS)) / np.maximum(
        np.bincount(finding, both_name.sum(1), len(FINDINGS)), 1
    )
    sides = (corners[one, 2:] - corners[one, :2] + corners[other, 2:] - corners[other, :2]) / 2
    shift = np.abs(corners[one] - corners[other]) / np.tile(sides, 2)
    # Two readers differ by sqrt(2) times the spread of one; 1.25 makes the mean deviation a standard deviation.
    spread = pd.DataFrame(shift[match]).groupby(finding[one[match]]).mean().mean(axis=1) * 1.25 / np.sqrt(2)
    jitter = spread.reindex(range(len(FINDINGS))).fillna(spread.mean())
    total = seen.sum(1, keepdims=True)
    return ReaderModel(
        seen=np.where(total > 0, seen / np.where(total > 0, total, 1), [1.0] + [0.0] * (len(readers) - 1)),
        confused=confused / np.maximum(unnamed, 1)[:, None],
        jitter=jitter.to_numpy(),
        loose=1 - np.sqrt(agree),
    )


def annotate(truth: list[dict], size: int, rng: np.random.Generator, model: ReaderModel) -> list[dict]:
    """What the three readers write down for one film.

    Args:
        truth: Dicts with class_name, x_min, y_min, x_max, y_max in pixels (and kind, where there is one); empty for a
            normal film.
        size: Side of the film in pixels; boxes are cut at it.
        rng: Generator of this film's readers.
        model: How they err.

    Returns:
        Rows class_name, class_id, local_name (PhysioNet's finer name), rad_id, x_min, y_min, x_max, y_max (whole
        pixels). As in VinDr-CXR each reader has a row on every film, and a film never mixes "No finding" with findings:
        where any reader drew a box, a reader who drew none draws the finding that readers agree on most often; where
        nobody drew one, each has one "No finding" row without coordinates (None).
    """
    drawn: dict[str, list[dict]] = {reader: [] for reader in READERS}
    groups: dict[int, list[dict]] = {}
    for box in truth:
        groups.setdefault(FINDINGS.index(box["class_name"]), []).append(box)
    for finding, boxes in sorted(groups.items()):
        missed, n_seen = rng.random() < MISSED_BY_ALL, 1 + rng.choice(3, p=model.seen[finding])
        order = rng.permutation(len(READERS))
        for place, reader in enumerate(READERS[n] for n in order):
            if place < n_seen and not missed:
                drawn[reader] += _draw_finding(finding, boxes, reader, size, rng, model)
                continue
            for box in boxes:
                chance = np.cumsum(model.confused[finding])
                other = int(np.searchsorted(chance, rng.random(), side="right"))
                if other < len(FINDINGS):
                    drawn[reader].append(_row(reader, other, _edges(box, other, rng, model), size))
    for reader in READERS:
        is_extra, finding = rng.random() < EXTRA, rng.integers(len(FINDINGS))
        left, top = rng.uniform(0.15, 0.7, 2)
        wide, high = rng.uniform(0.06, 0.22, 2)
        if is_extra and truth:
            edges = np.array([left, top, left + wide, top + high]) * size
            drawn[reader].append(_row(reader, int(finding), edges, size))
    if not any(drawn.values()):
        nothing = {"class_name": NO_FINDING, "class_id": NO_FINDING_ID, "local_name": NO_FINDING}
        return [{**nothing, "rad_id": reader, **dict.fromkeys(BOX)} for reader in READERS]
    for reader in READERS:
        if not drawn[reader]:
            plainest = max(groups, key=lambda finding: (model.seen[finding, 2], -finding))
            drawn[reader] += _draw_finding(plainest, groups[plainest], reader, size, rng, model)
    return [row for reader in READERS for row in drawn[reader]]


def _draw_finding(finding: int, boxes: list[dict], reader: str, size: int, rng, model: ReaderModel) -> list[dict]:
    """At least one of a finding's boxes, and each further one with the chance SECOND_BOX."""
    rows = []
    first = rng.integers(len(boxes))
    for n, box in enumerate(boxes):
        is_drawn = rng.random() < SECOND_BOX
        edges = _edges(box, finding, rng, model)
        if n == first or is_drawn:
            rows.append(_row(reader, finding, edges, size, box.get("kind", "")))
    return rows


def _edges(box: dict, finding: int, rng: np.random.Generator, model: ReaderModel) -> np.ndarray:
    """A true box as one reader draws it."""
    corners = np.array([box[edge] for edge in BOX], float)
    low, side = corners[:2], corners[2:] - corners[:2]
    # Some boxes are drawn with more care than others: a longer tail than that of one normal distribution.
    spread = model.jitter[finding] * np.exp(0.4 * rng.standard_normal() - 0.16)
    shifts = np.clip(spread * rng.standard_normal(4), -0.3, 0.3)
    is_loose, is_core = rng.random() < model.loose[finding], rng.random() < 0.5
    scale = rng.uniform(*(CORE if is_core else GENEROUS), 2)
    place = rng.uniform(0, 1, 2)
    if is_loose:  # the core alone, anywhere inside; or too much, with the true box anywhere inside
        low, side = low + place * (1 - scale) * side, scale * side
    return np.concatenate([low, low + side]) + shifts * np.tile(side, 2)


def _row(reader: str, finding: int, edges: np.ndarray, size: int, kind: str = "") -> dict:
    """One row, in whole pixels of the film, at least LEAST_SIDE wide and high."""
    low, high = np.clip(np.round(edges[:2]), 0, size - LEAST_SIDE), np.clip(np.round(edges[2:]), 0, size)
    high = np.maximum(high, low + LEAST_SIDE)
    place = dict(zip(BOX, (int(v) for v in (*low, *high)), strict=True))
    local = kind if kind in PHYSIONET_TO_KAGGLE else FINDINGS[finding]
    name = {"class_name": FINDINGS[finding], "class_id": finding, "local_name": local}
    return {**name, "rad_id": reader, **place}
