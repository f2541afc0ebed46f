"""Labels of films from the readers' boxes, by hand."""

import numpy as np
import pandas as pd
import pytest

from cliniqure_utils.annotations import boxes_per_class, label_matrix, reader_labels
from cliniqure_utils.vocabulary import BOX, CLASSES


def test_a_merged_box_with_two_names_becomes_two_training_boxes():
    whole = [0.0, 0.0, 40.0, 80.0]
    merged = pd.DataFrame([[10.0, 20.0, 20.0, 60.0], whole, whole], columns=BOX)
    merged = merged.assign(image_id=["a", "a", "b"], class_labels=[[4, 8], [3], [14]])
    boxes = boxes_per_class(merged)
    assert boxes.class_name.tolist() == ["Consolidation", "Nodule/Mass", "Cardiomegaly"]
    assert set(boxes.image_id) == {"a"}, "a No finding film must give no box"


READINGS = pd.DataFrame(
    [("a", "R1", 3), ("a", "R1", 3), ("a", "R2", 3), ("a", "R3", 0), ("b", "R1", 14), ("b", "R2", 14), ("b", "R3", 8),
     ("c", "R1", 5), ("c", "R2", 5), ("c", "R3", 5), ("d", "R1", 14), ("d", "R2", 14), ("d", "R3", 14)],
    columns=["image_id", "rad_id", "class_id"],
)  # fmt: skip


@pytest.mark.parametrize(
    "rule, expected",
    [("any", [{0, 3}, {8}, {5}, {14}]), ("majority", [{3}, {14}, {5}, {14}]), ("consensus", [{14}, {14}, {5}, {14}])],
)
def test_label_rules_by_hand(rule, expected):
    labels = reader_labels(READINGS, ["a", "b", "c", "d"], rule)
    assert list(labels.columns) == list(CLASSES)
    assert [set(np.flatnonzero(row)) for row in labels.to_numpy()] == expected
    assert (labels["No finding"] == 1 - labels.drop(columns="No finding").max(axis=1)).all(), "it excludes all others"


def test_label_rules_with_readers_who_left_no_row_and_their_refusals():
    findings = READINGS[READINGS.class_id != 14]
    full = reader_labels(READINGS, ["a", "b", "c", "d"], "majority")
    again = reader_labels(findings, ["a", "b", "c", "d"], "majority", n_readers=3)
    pd.testing.assert_frame_equal(full, again)
    assert reader_labels(READINGS, ["a", "d"], "any").equals(label_matrix(READINGS, ["a", "d"]))
    with pytest.raises(ValueError, match="unknown label rule 'most'; expected one of any, majority, consensus"):
        reader_labels(READINGS, ["a"], "most")
    with pytest.raises(ValueError, match="film e has no reader"):
        reader_labels(READINGS, ["e"])
    with pytest.raises(ValueError, match="film a has 3 readers, more than 2"):
        reader_labels(READINGS, ["a"], n_readers=2)
