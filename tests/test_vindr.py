"""Reading annotations: every dialect, every kind of bad row, the packaged copy, labels and splits."""

import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cliniqure_utils import vindr

SHARED = Path(__file__).parents[2] / "shared" / "cases"
HEADER = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\n"


def read(tmp_path, rows, header=HEADER, **kwargs):
    path = tmp_path / "train.csv"
    path.write_text(header + rows, encoding="utf-8")
    return vindr.read_annotations(path, **kwargs)


def test_packaged_copy_has_the_published_counts_and_is_read_in_a_second():
    started = time.process_time()
    rows, rejected = vindr.read_annotations("torchxrayvision")
    seconds = time.process_time() - started
    findings = rows[rows.class_name != "No finding"]
    assert (len(rows), rows.image_id.nunique(), rows.rad_id.nunique(), len(findings)) == (67914, 15000, 17, 36096)
    assert len(rejected) == 0 and seconds < 3
    counts = findings.class_name.value_counts()
    assert counts["Aortic enlargement"] == 7162 and counts["Pneumothorax"] == 226


def test_bad_rows_come_back_with_number_and_reason(tmp_path):
    rows, rejected = read(
        tmp_path,
        "a,Cardiomegaly,3,R1,10,10,50,60\n"
        "b,Cardiomegaly,3,R1,,,,\n"
        "c,Cardiomegaly,3,R1,40,60,40,100\n"
        "d,Cardiomegaly,3,R1,50,10,20,60\n"
        "e,Edema,15,R1,1,1,9,9\n"
        "f,Cardiomegaly,4,R1,1,1,9,9\n"
        "g,No finding,14,R1,0,0,1,1\n"
        "a,Cardiomegaly,3,R1,10,10,50,60\n"
        "h,Cardiomegaly,3,R1,1,1,inf,9\n",
    )
    assert rows.image_id.tolist() == ["a", "g"]
    assert rows[rows.image_id == "g"][vindr.BOX].isna().all(axis=None), "No finding has no box, whatever the file says"
    assert rejected.row.tolist() == [2, 3, 4, 5, 6, 8, 9]
    for word, reason in zip(
        ["four coordinates", "no area", "inside out", "unknown class 'Edema'", "disagree", "repeats", "not finite"],
        rejected.reason, strict=True,
    ):  # fmt: skip
        assert word in reason


def test_boxes_are_cut_at_the_film_or_rejected(tmp_path):
    sizes = {"a": (112, 128)}
    rows, rejected = read(
        tmp_path,
        "a,Cardiomegaly,3,R1,-5,60,130,140\na,Cardiomegaly,3,R1,200,200,260,260\n"
        "a,Cardiomegaly,3,R1,10,10,20,20\nx,Cardiomegaly,3,R1,10,10,20,20\n",
        image_sizes=sizes,
    )
    assert rows[vindr.BOX].to_numpy().tolist() == [[0, 60, 112, 128], [10, 10, 20, 20]]
    assert rejected.reason.tolist() == ["the box lies outside the film", "no film with this image_id"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_encodings_and_line_ends_make_no_difference(tmp_path, encoding, newline):
    path = tmp_path / "train.csv"
    text = (HEADER + "a,Cardiomegaly,3,R1,10.5,10,50,60\n\n\n").replace("\n", newline)
    path.write_bytes(text.encode(encoding))
    rows, rejected = vindr.read_annotations(path)
    assert rows[vindr.BOX].to_numpy().tolist() == [[10.5, 10, 50, 60]] and rejected.empty


def test_semicolons_with_decimal_commas_and_upper_case_headers(tmp_path):
    rows, _ = read(
        tmp_path, "a;Cardiomegaly;3;R1;10,5;10;50;60\n", "Image_ID;Class_Name;CLASS_ID;rad_id;x_min;y_min;x_max;y_max\n"
    )
    assert rows.x_min.tolist() == [10.5]


def test_physionet_layout_maps_22_names_to_14(tmp_path):
    header = "image_id,rad_id,class_name,x_min,y_min,x_max,y_max\n"
    rows, rejected = read(
        tmp_path, "a,R1,Rib fracture,1,1,9,9\na,R1,Emphysema,1,1,8,8\na,R1,ILD,1,1,7,7\na,R1,Vampire,1,1,7,7\n", header
    )
    assert rows.class_name.tolist() == ["Other lesion", "Other lesion", "ILD"]
    assert rows.class_id.tolist() == [9, 9, 5]
    assert rejected.reason.tolist() == ["unknown class 'Vampire'"]
    assert set(vindr.PHYSIONET_TO_KAGGLE.values()) == set(vindr.FINDINGS) and len(vindr.PHYSIONET_TO_KAGGLE) == 22


def test_a_missing_reader_column_means_one_reader(tmp_path):
    rows, _ = read(tmp_path, "a,Cardiomegaly,1,1,9,9\n", "image_id,class_name,x_min,y_min,x_max,y_max\n")
    assert rows.rad_id.nunique() == 1


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "empty"),
        (HEADER, "no annotation rows"),
        ("image_id,class_name,class_id,x_min,y_min,y_max\na,ILD,5,1,1,2\n", "column x_max is missing"),
        ("class_name,x_min,y_min,x_max,y_max\nILD,1,1,2,2\n", "column image_id is missing"),
        ("just some text\nmore\n", "one column"),
    ],
)
def test_unusable_files_say_why_in_one_sentence(tmp_path, text, message):
    path = tmp_path / "train.csv"
    path.write_text(text)
    with pytest.raises(vindr.BadAnnotations, match=message) as error:
        vindr.read_annotations(path)
    assert "train.csv" in str(error.value)
    with pytest.raises(vindr.BadAnnotations, match="no such file"):
        vindr.read_annotations(tmp_path / "nowhere.csv")


def test_global_labels(tmp_path):
    path = tmp_path / "image_labels_test.csv"
    path.write_text("image_id,Pneumonia,Tuberculosis\n007,1,0\n8,0,0\n")
    table = vindr.read_global_labels(path)
    assert table.image_id.tolist() == ["007", "8"] and table.Pneumonia.tolist() == [1, 0]
    path.write_text("image_id,Pneumonia\na,2\n")
    with pytest.raises(vindr.BadAnnotations, match="Pneumonia"):
        vindr.read_global_labels(path)


def test_label_matrix_from_readers_and_from_merged_rows():
    readers = pd.DataFrame({"image_id": ["a", "a", "b"], "class_id": [3, 8, 14]})
    merged = pd.DataFrame({"image_id": ["a", "b"], "class_labels": [[3, 8], "[14]"]})
    for table in (readers, merged):
        matrix = vindr.label_matrix(table, ["b", "a", "c"])
        assert matrix.loc["a"].to_numpy().nonzero()[0].tolist() == [3, 8]
        assert matrix.loc["b", "No finding"] == 1 and matrix.loc["c", "No finding"] == 1
        assert matrix.index.tolist() == ["b", "a", "c"]


def make_labels(n=200, seed=0):
    rng = np.random.default_rng(seed)
    ids = [f"i{k:03d}" for k in range(n)]
    matrix = (rng.random((n, 14)) < 0.1).astype(int)
    table = pd.DataFrame(np.c_[matrix, ~matrix.any(1)].astype(int), ids, [*vindr.FINDINGS, "No finding"])
    return ids, table


def test_splits_keep_patients_together_and_ignore_row_order():
    ids, labels = make_labels()
    keys = {i: f"p{int(i[1:]) // 2}" for i in ids}
    splits = vindr.make_splits(ids, labels, keys, seed=1)
    assert splits.groupby("patient_key").split.nunique().max() == 1
    again = vindr.make_splits(ids[::-1], labels.iloc[::-1], keys, seed=1)
    pd.testing.assert_frame_equal(splits, again)
    assert not splits.split.equals(vindr.make_splits(ids, labels, keys, seed=2).split)


def test_splits_deal_every_finding_evenly():
    ids, labels = make_labels()
    splits = vindr.make_splits(ids, labels, {}, seed=1)
    share = splits.split.value_counts(normalize=True)
    assert abs(share["train"] - 0.7) < 0.03 and abs(share["test"] - 0.2) < 0.03
    in_test = labels.loc[splits.image_id][(splits.split == "test").to_numpy()].sum()
    assert (abs(in_test - 0.2 * labels.sum()) <= 4).all(), "a finding misses its share by more than four films"
    paper = vindr.make_splits(ids, labels, {}, seed=1, fractions=(0.8, 0.2, 0))
    assert set(paper.split) == {"train", "val"}


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared cases are not beside this checkout")
@pytest.mark.parametrize("case, kept, gone", [("C31", 2, 2), ("C32", None, 2), ("C33", 1, 2), ("C36", None, None)])
def test_shared_cases(case, kept, gone):
    assert json.loads((SHARED / case / "expected.json").read_text())["id"] == case
    rows, rejected = vindr.read_annotations(SHARED / case / "train.csv")
    findings = rows[rows.class_name != "No finding"]
    if kept is not None:
        assert len(findings) == kept
    if gone is not None:
        assert len(rejected) == gone
    assert not findings[vindr.BOX].isna().any(axis=None)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared cases are not beside this checkout")
def test_shared_csv_dialects():
    plain, _ = vindr.read_annotations(SHARED / "C40" / "plain.csv")
    for name in ("bom", "crlf", "semicolon", "trailing_blank_lines", "utf16"):
        pd.testing.assert_frame_equal(plain, vindr.read_annotations(SHARED / "C40" / f"{name}.csv")[0])
    for name in ("no_x_max", "no_image_id"):
        with pytest.raises(vindr.BadAnnotations, match=name[3:]):
            vindr.read_annotations(SHARED / "C38" / f"{name}.csv")
    for name in ("no_class_id", "no_rad_id", "upper_header"):
        assert len(vindr.read_annotations(SHARED / "C38" / f"{name}.csv")[0])
