"""PhysioNet's release: 22 names beside the 14, the consensus of the test set, and the labels of whole films.

All rows are made up; the data set itself may not be shared.
"""

import pandas as pd
import pytest

from cliniqure_utils.annotations import (
    LABEL_RULES,
    BadAnnotations,
    global_labels_per_film,
    label_matrix,
    merge_reader_boxes,
    read_annotations,
    read_global_labels,
)
from cliniqure_utils.vocabulary import ANNOTATION_COLUMNS

TRAIN = "image_id,rad_id,class_name,x_min,y_min,x_max,y_max\n"
TEST = "image_id,class_name,x_min,y_min,x_max,y_max\n"


def read(tmp_path, text):
    path = tmp_path / "annotations_train.csv"
    path.write_text(text)
    return read_annotations(path)


def read_labels(tmp_path, text):
    path = tmp_path / "image_labels_train.csv"
    path.write_text(text)
    return read_global_labels(path)


def test_the_name_among_the_22_is_kept(tmp_path):
    rows, rejected = read(
        tmp_path,
        TRAIN + "a,R1,rib  FRACTURE,1,1,9,9\na,R1,Clavicle fracture,1,1,9,9\na,R1,Rib fracture,1,1,9,9\n"
        "a,R1,Other lesion,1,1,9,9\na,R2,ILD,1,1,9,9\nb,R1,No finding,,,,\n",
    )
    assert rows.columns.tolist() == [*ANNOTATION_COLUMNS, "local_label"]
    assert rows.local_label.tolist() == ["Rib fracture", "Clavicle fracture", "Other lesion", "ILD", "No finding"]
    assert rows.class_name.tolist() == ["Other lesion"] * 3 + ["ILD", "No finding"]
    assert rejected.values.tolist() == [[3, "a", "repeats row 1 exactly"]], "two fractures in one place are not one"
    merged = merge_reader_boxes(rows, no_finding="drop")
    assert merged.class_names.tolist() == ["ILD, Other lesion"]


def test_kaggles_table_has_no_further_column(tmp_path):
    rows, _ = read(tmp_path, "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\na,ILD,5,R1,1,1,9,9\n")
    assert rows.columns.tolist() == ANNOTATION_COLUMNS


def test_the_consensus_of_the_test_set_has_no_reader(tmp_path):
    rows, rejected = read(tmp_path, TEST + "a,Edema,1.5,1,9,9\nb,No finding,,,,\nc,Pneumonia,,,,\n")
    assert rows.rad_id.tolist() == ["R1", "R1"] and rows.local_label.tolist() == ["Edema", "No finding"]
    assert rejected.reason.tolist() == ["unknown class 'Pneumonia' (of whole films: see read_global_labels)"]
    matrix = label_matrix(rows, ["a", "b"])
    assert matrix["Other lesion"].tolist() == [1, 0] and matrix["No finding"].tolist() == [0, 1]


def test_image_labels_are_not_boxes(tmp_path):
    with pytest.raises(BadAnnotations, match="x_min.*read_global_labels"):
        read(tmp_path, "image_id,rad_id,COPD,Pneumonia,No finding\na,R1,0,0,1\n")


READERS = (
    "image_id,rad_id,Rib fracture,Pneumonia,Tuberculosis,No finding\n"
    "b,R1,0,1,0,0\nb,R2,0,1,0,0\nb,R3,1,0,0,0\n"
    "a,R1,0,0,0,1\na,R2,0,0,0,1\na,R3,0,0,1,0\n"
    "c,R1,0,0,0,1\nc,R2,0,0,0,1\nc,R3,0,0,0,1\n"
    "d,R4,1,0,0,0\nd,R5,0,1,0,0\nd,R6,0,0,1,0\n"
    "e,R1,0,1,0,0\ne,R2,0,0,0,1\n"
)


@pytest.mark.parametrize(
    "rule, wanted",
    [
        ("any", {"b": [1, 1, 0, 0], "a": [0, 0, 1, 0], "c": [0, 0, 0, 1], "d": [1, 1, 1, 0], "e": [0, 1, 0, 0]}),
        ("majority", {"b": [0, 1, 0, 0], "a": [0, 0, 0, 1], "c": [0, 0, 0, 1], "d": [0] * 4, "e": [0] * 4}),
        ("consensus", {"b": [0] * 4, "a": [0] * 4, "c": [0, 0, 0, 1], "d": [0] * 4, "e": [0] * 4}),
    ],
)
def test_labels_per_film(tmp_path, rule, wanted):
    table = global_labels_per_film(read_labels(tmp_path, READERS), rule)
    assert table.index.tolist() == ["b", "a", "c", "d", "e"] and table.index.name == "image_id"
    assert table.columns.tolist() == ["Rib fracture", "Pneumonia", "Tuberculosis", "No finding"]
    assert {film: row.tolist() for film, row in table.iterrows()} == wanted
    assert [str(kind) for kind in table.dtypes] == ["int64"] * 4


def test_a_film_per_row_comes_out_as_it_is(tmp_path):
    labels = read_labels(tmp_path, "image_id,COPD,Other disease,No finding\nb,1,0,0\na,0,1,0\nc,0,0,1\n")
    assert labels.columns.tolist() == ["image_id", "COPD", "Other diseases", "No finding"]
    for rule in LABEL_RULES:
        pd.testing.assert_frame_equal(global_labels_per_film(labels, rule), labels.set_index("image_id"))
    with pytest.raises(ValueError, match="any, majority, consensus, found 'most'"):
        global_labels_per_film(labels, "most")


def test_an_empty_cell_is_no_vote(tmp_path):
    labels = read_labels(tmp_path, "image_id,rad_id,COPD,No finding\na,R1,1,0\na,R2,,0\nb,R1,,1\nb,R2,,1\n")
    for rule in LABEL_RULES:
        table = global_labels_per_film(labels, rule)
        assert table.COPD.isna().tolist() == [False, True] and table.COPD["a"] == 1
        assert table["No finding"].tolist() == [0, 1]


def test_a_reader_who_says_both_does_not_make_a_normal_film(tmp_path):
    labels = read_labels(tmp_path, "image_id,rad_id,COPD,No finding\na,R1,1,1\na,R2,1,1\n")
    for rule in LABEL_RULES:
        assert global_labels_per_film(labels, rule).values.tolist() == [[1, 0]]


def test_labels_in_any_spelling_and_with_an_index(tmp_path):
    labels = read_labels(
        tmp_path, "Unnamed: 0,Image ID,rad_id,PNEUMONIA,lung tumor ,Own label\n0,a,R1,1.0,0,1\n1,a,R2, 1,0,0\n"
    )
    assert labels.columns.tolist() == ["image_id", "rad_id", "Pneumonia", "Lung tumor", "Own label"]
    assert labels.Pneumonia.tolist() == [1, 1] and labels.Pneumonia.dtype == int


@pytest.mark.parametrize(
    "rows, message",
    [
        ("a,R1,0,1\na,R1,0,1\n", "data row 2 is a second one of reader 'R1' for film 'a'"),
        ("a,R1,0,1\n ,R1,0,1\n", "data row 2 has no image_id"),
        ("a,R1,0,1\nb,R1,0,1,1\n", "data row 2 has 5 cells, the header has 4"),
        ("a,R1,0,1\nb,R1,0.5,1\n", "data row 2 holds '0.5' in column COPD; expected 0 or 1"),
        ("a,R1,yes,1\n", "data row 1 holds 'yes' in column COPD; expected 0 or 1"),
        ("", "there are no rows"),
    ],
)
def test_labels_that_cannot_be_used(tmp_path, rows, message):
    with pytest.raises(BadAnnotations, match=f"image_labels_train.csv: .*{message}"):
        read_labels(tmp_path, "image_id,rad_id,COPD,No finding\n" + rows)


def test_a_label_that_is_there_twice(tmp_path):
    for header in ("image_id,COPD,copd", "image_id,Other diseases,Other disease"):
        with pytest.raises(BadAnnotations, match="column (COPD|Other diseases) is there more than once"):
            read_labels(tmp_path, header + "\na,0,1\n")
