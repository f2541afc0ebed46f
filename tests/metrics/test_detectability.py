"""Which lesions are found, by size and contrast: hits, rings and groups worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from cliniqure_utils import metrics
from cliniqure_utils.vocabulary import BOX


def table(rows, score=False):
    columns = ["image_id", "class_name", *(["score"] if score else []), *BOX]
    return pd.DataFrame(rows, columns=columns)


def test_a_reference_is_found_once_and_by_its_own_class_and_film():
    references = table(
        [
            ("b", "ILD", 0, 0, 10, 10),
            ("a", "ILD", 0, 0, 10, 10),
            ("a", "ILD", 50, 50, 60, 60),
            ("a", "Nodule/Mass", 0, 0, 10, 10),
        ]
    )
    predictions = table(
        [
            ("a", "ILD", 0.9, 0, 0, 10, 10),
            ("a", "ILD", 0.8, 0, 0, 10, 9),  # a second box on the one that is taken
            ("a", "Nodule/Mass", 0.7, 0, 0, 10, 3.9),  # IoU .39
        ],
        score=True,
    )
    found = metrics.found_references(references=references, predictions=predictions)
    assert found.tolist() == [False, True, False, False]
    assert metrics.found_references(references=references, predictions=predictions, iou_threshold=0.39).tolist() == [
        False,
        True,
        False,
        True,
    ]
    recall = metrics.box_scores(references=references, predictions=predictions)["recall"]
    assert found.mean() == recall == 0.25
    assert metrics.found_references(references=references, predictions=predictions[:0]).tolist() == [False] * 4


def test_contrast_is_the_box_against_its_ring():
    film = np.full((40, 40), 100, np.uint8)
    film[16:24, 16:24] = 130
    film[14:16, 14:26] = 110  # 24 of the 80 pixels of a ring two pixels wide
    boxes = np.array([[16, 16, 24, 24], [0, 0, 8, 8], [60, 60, 70, 70], [0, 0, 40, 40]])
    contrast = metrics.box_contrast(film, boxes)
    assert contrast[0] == pytest.approx(30 - 10 * 24 / 80)
    assert contrast[1] == 0 and np.isnan(contrast[2:]).all(), "outside the film, and a box that leaves no ring"
    film[16:24, 16:24] = 70
    assert metrics.box_contrast(film, boxes)[0] == pytest.approx(30 + 3), "dark lesions have contrast, too"
    edge = np.zeros((20, 20))
    edge[:4, :4] = 50  # in the corner: of the ring 6 x 6 - 4 x 4 pixels lie on the film
    edge[4:6, :6] = 10  # 12 of these 20
    assert metrics.box_contrast(edge, [[0, 0, 4, 4]])[0] == pytest.approx(50 - 10 * 12 / 20)


def test_recall_by_groups_by_hand():
    values, found = np.r_[np.arange(10.0), np.nan], np.array([0, 0, 0, 1, 0, 1, 1, 1, 1, 1, 0], bool)
    rows = metrics.recall_by(values, found, n_groups=2)
    assert rows[["low", "median", "high", "n", "recall"]].to_numpy().tolist() == [[0, 2, 4, 5, 0.2], [5, 7, 9, 5, 1.0]]
    # Wilson's interval of 1 in 5, z = 1.96: (.2 + z^2 / 10 -+ z sqrt(.16 / 5 + z^2 / 100)) / (1 + z^2 / 5).
    assert rows[["recall_low", "recall_high"]].to_numpy()[0] == pytest.approx([0.0362, 0.6245], abs=1e-4)
    same = metrics.recall_by(np.ones(4), np.array([1, 0, 0, 0], bool))
    assert same[["n", "recall"]].to_numpy().tolist() == [[4, 0.25]], "equal values are one group"
    assert len(metrics.recall_by(np.array([np.nan]), np.array([True]))) == 0
