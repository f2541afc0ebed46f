"""Boxes of a method that never looks at a film, by hand."""

import numpy as np
import pandas as pd
import pytest

from cliniqure_utils import metrics


def test_mean_box_baseline_by_hand(boxes):
    train = boxes(
        ("p", "X", 0, 0, 50, 50), ("q", "X", 100, 0, 200, 50), ("r", "No finding", 0, 0, 100, 100),
        ("s", "No finding", np.nan, np.nan, np.nan, np.nan),
    )  # fmt: skip
    sizes = {"p": (100, 100), "q": (200, 100), "r": (100, 100), "s": (100, 100)}
    found = metrics.mean_box_baseline(train, {"t": (1000, 500)}, sizes)
    assert found.to_dict("records") == [
        {"image_id": "t", "class_name": "X", "score": 0.5, "x_min": 250.0, "y_min": 0.0, "x_max": 750.0, "y_max": 250.0}
    ]
    # Without train_sizes the training images are sized, counted and predicted from the other two arguments.
    same = metrics.mean_box_baseline(train, {"t": (1000, 500), **sizes})
    pd.testing.assert_frame_equal(same[same.image_id == "t"], found)
    with pytest.raises(ValueError, match="image p has no entry"):
        metrics.mean_box_baseline(train, {"t": (1000, 500)})


def test_whole_image_baseline():
    found = metrics.whole_image_baseline({"X": 0.25, "Y": 0.5}, {"t": (30, 40)})
    expected = [["X", 0.25, 30, 40], ["Y", 0.5, 30, 40]]
    assert found[["class_name", "score", "x_max", "y_max"]].to_numpy().tolist() == expected


def test_what_a_value_does_not_beat_is_named_the_best_first():
    answers = {"constant": 0.3, "none": np.nan, "mean box": 0.8, "tie": 0.5}
    assert metrics.not_beaten(0.5, answers) == {"mean box": 0.8, "tie": 0.5}
    assert list(metrics.not_beaten(0.5, answers)) == ["mean box", "tie"]
    assert list(metrics.not_beaten(0.5, answers, lower_is_better=True)) == ["constant", "tie"]
    assert metrics.not_beaten(0.9, answers) == {} and list(metrics.not_beaten(np.nan, {"a": 0.0})) == ["a"]
