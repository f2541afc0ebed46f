"""The check of sentences, measured: reports with one planted error, and sentences that are true.

Films are made up here, truth and report alike; `make bench ONLY=checker` does the same with those of the demo.
"""

import numpy as np
import pytest
from planted import KINDS, OTHER_SEVERITY, drafts_of, plant, score

from cliniqure_utils.cohort.report_text import write_report
from cliniqure_utils.vocabulary import BOX, FINDINGS, MIDLINE

SIZE = 320.0
MIDDLES = {"upper": 0.24, "mid": 0.48, "lower": 0.7}  # of the zones, shares of the film's height
PER_KIND = 25


def box(name, side, zone, extent, height):
    left = {"left": 0.6, "right": 0.2, "midline": 0.4}[side] * SIZE
    top = (MIDDLES[zone] - height / 2) * SIZE
    corners = dict(zip(BOX, (left, top, left + 0.2 * SIZE, top + height * SIZE), strict=True))
    return {"class_name": name, "side": side, "zone": zone, "extent": extent, "kind": "", **corners}


def made_up_film(rng):
    """(report, true boxes): one to four findings, effusions low and as high as they are large."""
    boxes = []
    for name in rng.choice(FINDINGS, size=rng.integers(1, 5), replace=False):
        side, zone = ("left", "right")[rng.integers(2)], ("upper", "mid", "lower")[rng.integers(3)]
        extent, height = float(rng.uniform(0, 1)), 0.12
        if name in MIDLINE:
            boxes.append(box(name, "midline", "mid", extent, height))
        elif name == "ILD":
            boxes += [box(name, each, "mid", extent, 0.5) for each in ("left", "right")]
        elif name == "Pleural effusion":
            boxes.append(box(name, side, "lower", extent, 0.2 + 0.33 * extent))
        else:
            boxes.append(box(name, side, zone, extent * (60 if name == "Nodule/Mass" else 1), height))
    return write_report(boxes, rng), boxes


@pytest.fixture(scope="module")
def counts():
    rng = np.random.default_rng(7)
    films = [made_up_film(rng) for _ in range(160)]
    return score(drafts_of(films, SIZE, PER_KIND, seed=8))


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_error_is_caught_and_named(counts, kind):
    count = counts[0][kind]
    assert count["n"] >= (12 if kind == "severity" else PER_KIND)
    assert count["named"] >= 0.95 * count["n"], [miss for miss in counts[1] if miss[0] == kind]
    assert count["caught"] >= count["named"]


def test_true_sentences_are_left_alone(counts):
    clean, marked = (sum(counts[0][kind][name] for kind in KINDS) for name in ("clean", "marked"))
    assert clean > 500 and marked <= 0.02 * clean, counts[1]


def test_sizes_that_no_box_shows_pass(counts):
    assert counts[0][OTHER_SEVERITY]["n"] and not counts[0][OTHER_SEVERITY]["caught"]


@pytest.mark.parametrize("kind, said", [
    ("dropped", "The heart is of normal size."),
    ("mirrored", "Small right pleural effusion. The heart is of normal size. Left pleural effusion."),
    ("severity", "Large left pleural effusion. The heart is of normal size. Left pleural effusion."),
])  # fmt: skip
def test_a_draft_differs_in_nothing_but_its_error(kind, said):
    report = {"findings": "Small left pleural effusion. The heart is of normal size.",
              "impression": "Left pleural effusion."}  # fmt: skip
    boxes = [box("Pleural effusion", "left", "lower", 0.1, 0.2)]
    texts = {plant(kind, report, boxes, SIZE, np.random.default_rng(seed)).text for seed in range(8)}
    assert (
        said in texts
        and "Small left pleural effusion. The heart is of normal size. Left pleural effusion." not in texts
    )
