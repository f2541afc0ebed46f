"""Labels of whole films: from the readers' boxes and from PhysioNet's file, by hand."""

import numpy as np
import pandas as pd
import pytest

from cliniqure_utils.annotations import BadAnnotations, label_matrix, read_global_labels, reader_labels
from cliniqure_utils.vocabulary import CLASSES

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


@pytest.mark.parametrize("rule, expected", [("any", [{3}, {8}]), ("majority", [{3}, {8}]), ("consensus", [{3}, {8}])])
def test_a_table_that_names_fewer_readers_than_asked_for_keeps_its_findings(rule, expected, recwarn):
    consensus = pd.DataFrame([("a", "R1", 3), ("b", "R1", 8)], columns=["image_id", "rad_id", "class_id"])
    labels = reader_labels(consensus, ["a", "b"], rule, n_readers=3)
    assert [set(np.flatnonzero(row)) for row in labels.to_numpy()] == expected
    said = [str(warning.message) for warning in recwarn]
    assert said == ([] if rule == "any" else ["no film has rows of more than 1 reader, n_readers is 3: counted as 1"])


def test_seventeen_readers_of_whom_one_read_each_film_are_one_reader_per_film():
    readings = pd.DataFrame({"image_id": ["a", "b", "c"], "rad_id": ["R1", "R2", "R3"], "class_id": [3, 14, 8]})
    with pytest.warns(UserWarning, match="more than 1 reader"):
        labels = reader_labels(readings, ["a", "b", "c"], "consensus", n_readers=3)
    assert [set(np.flatnonzero(row)) for row in labels.to_numpy()] == [{3}, {14}, {8}]


def test_films_without_any_row_have_no_finding_and_the_refusal_counts_the_film_that_it_names():
    nobody = READINGS.iloc[:0]
    assert reader_labels(nobody, ["a", "b"], "majority", n_readers=3)["No finding"].tolist() == [1, 1]
    more = pd.DataFrame({"image_id": ["a"] * 2 + ["b"] * 3, "rad_id": list("12345"), "class_id": 3})
    with pytest.raises(ValueError, match="film a has 2 readers, more than 1"):
        reader_labels(more, ["a", "b"], n_readers=1)


def test_label_matrix_from_readers_and_from_merged_rows():
    readers = pd.DataFrame({"image_id": ["a", "a", "b"], "class_id": [3, 8, 14]})
    merged = pd.DataFrame({"image_id": ["a", "b"], "class_labels": [[3, 8], "[14]"]})
    for table in (readers, merged):
        matrix = label_matrix(table, ["b", "a", "c"])
        assert matrix.loc["a"].to_numpy().nonzero()[0].tolist() == [3, 8]
        assert matrix.loc["b", "No finding"] == 1 and matrix.loc["c", "No finding"] == 1
        assert matrix.index.tolist() == ["b", "a", "c"]


def test_label_matrix_with_a_film_asked_for_twice_and_a_class_that_is_none():
    rows = pd.DataFrame({"image_id": ["a"], "class_id": [3]})
    assert label_matrix(rows, ["a", "b", "a"])["Cardiomegaly"].tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match="class ids must be 0 to 14"):
        label_matrix(rows.assign(class_id=15), ["a"])


def test_global_labels(tmp_path):
    path = tmp_path / "image_labels_test.csv"
    path.write_text("image_id,Pneumonia,Tuberculosis\n007,1,0\n8,0,0\n")
    table = read_global_labels(path)
    assert table.image_id.tolist() == ["007", "8"] and table.Pneumonia.tolist() == [1, 0]
    path.write_text("image_id,Pneumonia\na,2\n")
    with pytest.raises(BadAnnotations, match="Pneumonia"):
        read_global_labels(path)
