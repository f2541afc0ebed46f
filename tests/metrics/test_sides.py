"""What is there and what was said never change places in silence: each metric, right way round and swapped."""

import inspect

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from cliniqure_utils import metrics
from cliniqure_utils.vocabulary import BOX

# Image 1: classes a and b are there, a is said; image 2: nothing is there, b and c are said; and so on.
LABELS = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 1]]), np.array([[1, 0, 0], [0, 1, 1], [1, 0, 0], [1, 1, 1]])
TEXTS = ["the heart size is normal today"], ["the heart size is large"]
BOXES = tuple(
    pd.DataFrame(rows, columns=["image_id", "class_name", *BOX]).assign(score=np.linspace(0.9, 0.1, len(rows)))
    for rows in (
        [("a", "X", 0, 0, 10, 10), ("a", "Y", 20, 0, 30, 10), ("b", "X", 0, 0, 10, 10)],
        [("a", "X", 0, 0, 10, 5), ("a", "Z", 20, 0, 30, 10)],
    )
)


def labels():
    """As scikit-learn counts them."""
    for average in ("micro", "macro", "weighted", "samples"):
        values = sk.precision_recall_fscore_support(*LABELS, average=average, zero_division=0)
        for part, value in zip(("precision", "recall", "f1"), values[:3], strict=True):
            name = f"{average}_{part}"
            # Weights come from the references, so the weighted F1 has sides although each class's F1 has none.
            yield name, value, part == "f1" and average != "weighted", "classification_scores"
            if average == "micro":
                yield name, value, part == "f1", "finding_scores"
    yield "hamming_loss", sk.hamming_loss(*LABELS), True, "classification_scores"


@pytest.mark.parametrize("name, value, symmetric, function", list(labels()))
def test_labels(name, value, symmetric, function):
    def score(references, predictions):
        return getattr(metrics, function)(references=references, predictions=predictions)[name]

    assert score(*LABELS) == pytest.approx(value, abs=1e-9)
    assert (score(*LABELS[::-1]) == pytest.approx(value, abs=1e-9)) == symmetric


# By hand. Image a: shared 150 of 200 square pixels; image b: 0 of 100. One hit of two boxes said and three there.
@pytest.mark.parametrize(
    "name, value, symmetric",
    [("map_40", 0.25, False), ("precision", 1 / 2, False), ("recall", 1 / 3, False), ("f1", 2 / 5, True)],
)
def test_hits_of_boxes(name, value, symmetric):
    def score(references, predictions):
        sides = {"references": references.drop(columns="score"), "predictions": predictions}
        return metrics.mean_average_precision(**sides)[0] if name == "map_40" else metrics.box_scores(**sides)[name]

    assert score(*BOXES) == pytest.approx(value, abs=1e-9)
    assert (score(*BOXES[::-1]) == pytest.approx(value, abs=1e-9)) == symmetric


@pytest.mark.parametrize(
    "definition, iou, dice, symmetric",
    [
        ("matched", 1 / 2, 2 / 3, True),  # one matched pair is the same pair from either side
        ("best_per_reference", 1 / 6, 2 / 9, False),
        ("pooled", 3 / 8, 3 / 7, True),
        ("pooled_total", 1 / 2, 2 / 3, True),
    ],
)
def test_overlap_of_boxes(definition, iou, dice, symmetric):
    def score(references, predictions):
        found = metrics.box_overlap(
            references=references.drop(columns="score"), predictions=predictions, image_ids=["a", "b"],
            definition=definition,
        )  # fmt: skip
        return found["iou"], found["dice"]

    assert score(*BOXES) == pytest.approx((iou, dice), abs=1e-9)
    assert (score(*BOXES[::-1]) == pytest.approx((iou, dice), abs=1e-9)) == symmetric


PENALTY, HITS = np.exp(-0.2), np.array([4 / 5, 3 / 4, 2 / 3, 1 / 2])  # five words against six; n-grams found


@pytest.mark.parametrize(
    "name, value, symmetric",
    [(f"bleu_{n}", PENALTY * HITS[:n].prod() ** (1 / n), False) for n in range(1, 5)]
    + [
        ("rouge_l", 8 / 11, True),  # longest common subsequence of 4 words
        # 4 of 5 and 4 of 6 words in one piece: F 10 P R / (R + 9 P), less half of (1 / 4) cubed.
        ("meteor_exact_stem", (1 - 0.5 / 64) * (4 / 5 * 4 / 6) / (0.9 * 4 / 5 + 0.1 * 4 / 6), False),
    ],
)
def test_texts(name, value, symmetric):
    def score(references, predictions):
        return metrics.text_scores(references=references, predictions=predictions)[name]

    assert score(*TEXTS) == pytest.approx(value, abs=1e-9)
    assert (score(*TEXTS[::-1]) == pytest.approx(value, abs=1e-9)) == symmetric


def test_auroc():
    """By hand: class b's one positive image scores 2, the negative ones 1, 3 and 1."""
    scores = np.array([[9, 2, 1], [1, 1, 2], [8, 3, 1], [2, 1, 9]])
    assert metrics.auroc(references=LABELS[0], probabilities=scores).tolist() == pytest.approx([1, 2 / 3, 1])


def test_a_side_is_always_named():
    """Two positions could be swapped without an error: every function with two sides takes them as keywords only."""
    checked = []
    for name in metrics.__all__:
        function = getattr(metrics, name)
        if not inspect.isfunction(function):
            continue
        parameters = inspect.signature(function).parameters
        sides = [p for p in parameters.values() if p.name.startswith(("references", "predictions", "probabilities"))]
        if "references" in parameters:
            assert all(p.kind == inspect.Parameter.KEYWORD_ONLY for p in sides) and len(sides) > 1, name
            checked.append(name)
    assert {"classification_scores", "auroc", "box_scores", "text_scores", "bert_scores_by_system"} <= set(checked)
