"""Reading annotations: every dialect, every kind of bad row, the packaged copy, labels and splits."""

import gzip
import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cliniqure_utils.annotations import BadAnnotations, label_matrix, make_splits, read_annotations, read_global_labels
from cliniqure_utils.vocabulary import BOX, FINDINGS, PHYSIONET_TO_KAGGLE

SHARED = Path(__file__).parents[3] / "shared" / "cases"
HEADER = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\n"


def read(tmp_path, rows, header=HEADER, **kwargs):
    path = tmp_path / "train.csv"
    path.write_text(header + rows, encoding="utf-8")
    return read_annotations(path, **kwargs)


def test_packaged_copy_has_the_published_counts():
    rows, rejected = read_annotations("torchxrayvision")
    findings = rows[rows.class_name != "No finding"]
    assert (len(rows), rows.image_id.nunique(), rows.rad_id.nunique(), len(findings)) == (67914, 15000, 17, 36096)
    assert len(rejected) == 0
    assert rows.attrs["layout"] == "kaggle"
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
    assert rows[rows.image_id == "g"][BOX].isna().all(axis=None), "No finding has no box, whatever the file says"
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
    assert rows[BOX].to_numpy().tolist() == [[0, 60, 112, 128], [10, 10, 20, 20]]
    assert rejected.reason.tolist() == ["the box lies outside the film", "no film with this image_id"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_encodings_and_line_ends_make_no_difference(tmp_path, encoding, newline):
    path = tmp_path / "train.csv"
    text = (HEADER + "a,Cardiomegaly,3,R1,10.5,10,50,60\n\n\n").replace("\n", newline)
    path.write_bytes(text.encode(encoding))
    rows, rejected = read_annotations(path)
    assert rows[BOX].to_numpy().tolist() == [[10.5, 10, 50, 60]] and rejected.empty


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
    assert rejected.reason.tolist() == ["unknown class 'Vampire'"] and rows.attrs["layout"] == "physionet"
    assert set(PHYSIONET_TO_KAGGLE.values()) == set(FINDINGS) and len(PHYSIONET_TO_KAGGLE) == 22


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
    with pytest.raises(BadAnnotations, match=message) as error:
        read_annotations(path)
    assert "train.csv" in str(error.value)
    with pytest.raises(BadAnnotations, match="no such file"):
        read_annotations(tmp_path / "nowhere.csv")


def test_global_labels(tmp_path):
    path = tmp_path / "image_labels_test.csv"
    path.write_text("image_id,Pneumonia,Tuberculosis\n007,1,0\n8,0,0\n")
    table = read_global_labels(path)
    assert table.image_id.tolist() == ["007", "8"] and table.Pneumonia.tolist() == [1, 0]
    path.write_text("image_id,Pneumonia\na,2\n")
    with pytest.raises(BadAnnotations, match="Pneumonia"):
        read_global_labels(path)


def test_label_matrix_from_readers_and_from_merged_rows():
    readers = pd.DataFrame({"image_id": ["a", "a", "b"], "class_id": [3, 8, 14]})
    merged = pd.DataFrame({"image_id": ["a", "b"], "class_labels": [[3, 8], "[14]"]})
    for table in (readers, merged):
        matrix = label_matrix(table, ["b", "a", "c"])
        assert matrix.loc["a"].to_numpy().nonzero()[0].tolist() == [3, 8]
        assert matrix.loc["b", "No finding"] == 1 and matrix.loc["c", "No finding"] == 1
        assert matrix.index.tolist() == ["b", "a", "c"]


def make_labels(n=200, seed=0):
    rng = np.random.default_rng(seed)
    ids = [f"i{k:03d}" for k in range(n)]
    matrix = (rng.random((n, 14)) < 0.1).astype(int)
    table = pd.DataFrame(np.c_[matrix, ~matrix.any(1)].astype(int), ids, [*FINDINGS, "No finding"])
    return ids, table


def test_splits_keep_patients_together_and_ignore_row_order():
    ids, labels = make_labels()
    keys = {i: f"p{int(i[1:]) // 2}" for i in ids}
    splits = make_splits(ids, labels, keys, seed=1)
    assert splits.groupby("patient_key").split.nunique().max() == 1
    again = make_splits(ids[::-1], labels.iloc[::-1], keys, seed=1)
    pd.testing.assert_frame_equal(splits, again)
    assert not splits.split.equals(make_splits(ids, labels, keys, seed=2).split)


def test_splits_deal_every_finding_evenly():
    ids, labels = make_labels()
    splits = make_splits(ids, labels, {}, seed=1)
    share = splits.split.value_counts(normalize=True)
    assert abs(share["train"] - 0.7) < 0.03 and abs(share["test"] - 0.2) < 0.03
    in_test = labels.loc[splits.image_id][(splits.split == "test").to_numpy()].sum()
    assert (abs(in_test - 0.2 * labels.sum()) <= 4).all(), "a finding misses its share by more than four films"
    paper = make_splits(ids, labels, {}, seed=1, fractions=(0.8, 0.2, 0))
    assert set(paper.split) == {"train", "val"}


def test_films_that_look_the_same_share_a_split():
    ids, labels = make_labels(40)
    twins = {"i003": "x", "i017": "x", "i018": "x", "i030": "y", "i031": "y"}
    patients = {"i003": "p", "i004": "p"}  # i004 hangs on i003, which hangs on i017
    for seed in range(5):
        split = make_splits(ids, labels, patients, seed, together=twins).set_index("image_id").split
        assert split[["i003", "i004", "i017", "i018"]].nunique() == 1 and split["i030"] == split["i031"]


def test_every_split_gets_a_patient_even_of_three():
    ids, labels = make_labels(3)
    assert set(make_splits(ids, labels, {}, 0).split) == {"train", "val", "test"}
    assert set(make_splits(ids, labels, dict.fromkeys(ids, "one"), 0).split) == {"train"}


def test_patients_without_a_key_are_patients_of_their_own():
    ids, labels = make_labels(30)
    plain = make_splits(ids, labels, {}, 0)
    for nothing in (None, "", float("nan")):
        pd.testing.assert_frame_equal(make_splits(ids, labels, dict.fromkeys(ids, nothing), 0), plain)
    pd.testing.assert_frame_equal(make_splits(ids + ids[:9], labels, {}, 0), plain)
    assert plain.split.isin(["train", "val", "test"]).all() and plain.image_id.tolist() == ids
    numbered = make_splits(ids, labels, {i: n // 3 for n, i in enumerate(ids)}, 0, together={"i000": "t"})
    assert numbered.patient_key.nunique() == 10 and numbered.groupby("patient_key").split.nunique().max() == 1
    with pytest.raises(ValueError, match="1 films have no row of labels, the first is 'stranger'"):
        make_splits([*ids, "stranger"], labels, {}, 0)


def test_rows_of_another_length_never_shift_the_columns(tmp_path):
    rows, rejected = read(
        tmp_path,
        "a,Cardiomegaly,3,R1,10,10,50,60,\n"  # an empty cell too many on the first row: pandas would shift them all
        "b,No finding,14,R1\n"
        "c,Cardiomegaly,3,R1,10,10,50,60,70\n",
    )
    assert rows.image_id.tolist() == ["a", "b"] and rows.x_max.tolist()[0] == 50
    assert rejected.values.tolist() == [[3, "c", "9 cells, the header has 8"]]


def test_image_ids_are_kept_exactly(tmp_path):
    ids = ["NA", "nan", "007", "1e5", " lead", "a.b.c", "tên"]
    rows, rejected = read(tmp_path, "".join(f"{i},ILD,5,R1,1,1,9,9\n" for i in ids))
    assert rows.image_id.tolist() == ids and rejected.empty


def test_a_number_is_never_read_by_half(tmp_path):
    rows, rejected = read(
        tmp_path,
        'a,ILD,5,R1,"1,234",2,3000,40\n' "b,ILD,5,R1,1e1,+2, 30 ,40\n" "c,ILD,5,R1,\u22125,2,30,40\n"
        "d,ILD,x5,R1,1,2,30,40\n",
    )  # fmt: skip
    assert rows[BOX].to_numpy().tolist() == [[10, 2, 30, 40]]
    assert rejected.reason.tolist() == [
        "x_min is not a number: '1,234'", "x_min is not a number: '\u22125'", "unknown class_id 'x5'",
    ]  # fmt: skip


def test_either_name_or_id_is_enough(tmp_path):
    rows, rejected = read(
        tmp_path, "a,ILD,,R1,1,1,9,9\nb,,5,R1,1,1,9,9\nc,,,R1,1,1,9,9\nd,lung  OPACITY,7,R1,1,1,9,9\n"
    )
    assert rows.class_name.tolist() == ["ILD", "ILD", "Lung Opacity"] and rows.class_id.tolist() == [5, 5, 7]
    assert rejected.reason.tolist() == ["neither class_name nor class_id is given"]


@pytest.mark.parametrize("separator", ["\t", "|"])
def test_other_separators_and_the_headers_of_the_papers_table(tmp_path, separator):
    text = "Image ID,Class Name,Class ID,Rad ID,X_min,Y_min,X_max,Y_max\na,ILD,5,R1,1,2,3,4\n"
    rows, _ = read(tmp_path, text.replace(",", separator), header="")
    assert rows.values.tolist() == [["a", "R1", 5, "ILD", 1, 2, 3, 4]]
    assert rows.attrs["layout"] == "kaggle"


def test_compressed_copies_and_text_that_is_none(tmp_path):
    text = HEADER + "a,ILD,5,R1,1,2,3,4\n"
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text.encode()))
    with zipfile.ZipFile(tmp_path / "a.csv.zip", "w") as archive:
        archive.writestr("train.csv", text)
    (tmp_path / "no_mark.csv").write_bytes(text.encode("utf-16-le"))
    for name in ("a.csv.gz", "a.csv.zip", "no_mark.csv"):
        assert read_annotations(tmp_path / name)[0].image_id.tolist() == ["a"]
    for name, content, message in (
        ("half.csv", text.encode("utf-16")[:-1], "neither UTF-8 nor UTF-16"),
        ("latin.csv", "é,ILD".encode("latin-1") * 9, "save it as UTF-8"),
        ("cut.csv.gz", gzip.compress(text.encode())[:-9], "damaged"),
        ("film.csv", bytes(100) + b"DICM" + bytes(100), "no text file"),
        ("quote.csv", (HEADER + '"a,ILD,5,R1,1,2,3,4\n' + "b,ILD,5,R1,1,2,3,4\n" * 5).encode(), "quotation mark"),
        ("twice.csv", b"image_id,Image ID,class_name,x_min,y_min,x_max,y_max\na,b,ILD,1,2,3,4\n", "more than once"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadAnnotations, match=message) as error:
            read_annotations(tmp_path / name)
        assert name in str(error.value)


def test_label_matrix_with_a_film_asked_for_twice_and_a_class_that_is_none():
    rows = pd.DataFrame({"image_id": ["a"], "class_id": [3]})
    assert label_matrix(rows, ["a", "b", "a"])["Cardiomegaly"].tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match="class ids must be 0 to 14"):
        label_matrix(rows.assign(class_id=15), ["a"])


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared cases are not beside this checkout")
def test_shared_boxes_outside_the_film():
    expected = json.loads((SHARED / "C29" / "expected.json").read_text())
    ids = pd.read_csv(SHARED / "C29" / "train.csv").image_id
    rows, rejected = read_annotations(SHARED / "C29" / "train.csv", dict.fromkeys(ids, expected["size_wh"]))
    for image_id, wanted in expected["clipped"].items():
        assert rows[rows.image_id == image_id][BOX].to_numpy().tolist() == wanted
    assert len(rejected) == expected["dropped"] and rows.attrs["clipped"] == 1
    assert ((rows.x_max > rows.x_min) & (rows.y_max > rows.y_min)).all()


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared cases are not beside this checkout")
@pytest.mark.parametrize("name", ["header_only", "zero_bytes"])
def test_shared_empty_files(name):
    with pytest.raises(BadAnnotations, match="empty|no annotation rows"):
        read_annotations(SHARED / "C41" / f"{name}.csv")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared cases are not beside this checkout")
@pytest.mark.parametrize("case, kept, gone", [("C31", 2, 2), ("C32", None, 2), ("C33", 1, 2), ("C36", None, None)])
def test_shared_cases(case, kept, gone):
    assert json.loads((SHARED / case / "expected.json").read_text())["id"] == case
    rows, rejected = read_annotations(SHARED / case / "train.csv")
    findings = rows[rows.class_name != "No finding"]
    if kept is not None:
        assert len(findings) == kept
    if gone is not None:
        assert len(rejected) == gone
    assert not findings[BOX].isna().any(axis=None)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared cases are not beside this checkout")
def test_shared_csv_dialects():
    plain, _ = read_annotations(SHARED / "C40" / "plain.csv")
    for name in ("bom", "crlf", "semicolon", "trailing_blank_lines", "utf16"):
        pd.testing.assert_frame_equal(plain, read_annotations(SHARED / "C40" / f"{name}.csv")[0])
    for name in ("no_x_max", "no_image_id"):
        with pytest.raises(BadAnnotations, match=name[3:]):
            read_annotations(SHARED / "C38" / f"{name}.csv")
    for name in ("no_class_id", "no_rad_id", "upper_header"):
        assert len(read_annotations(SHARED / "C38" / f"{name}.csv")[0])
