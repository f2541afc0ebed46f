"""Reading annotations: both layouts, every kind of bad row, the packaged copy."""

import gzip
import json
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from cliniqure_utils.annotations import BadAnnotations, read_annotations
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


@pytest.mark.parametrize("finding", [
    "a,Cardiomegaly,3,R1,50,10,20,60", "a,Cardiomegaly,3,R1,,,,", "a,Edema,15,R1,1,1,9,9", "a,No finding,3,R1,,,,",
    "a,Cardiomegaly,3,R1,200,10,300,60", "a,,,R1,1,1,9,9", "a,COPD,,R1,,,,", "a,Cardiomegaly,3,R1,1,1,9,9,9",
    "a,Cardiomegaly,3,R1,10,10,10.0000001,60",
])  # fmt: skip
@pytest.mark.parametrize("first", [True, False])
def test_a_film_with_only_a_rejected_finding_is_not_normal(tmp_path, finding, first):
    """Another reader's "No finding" would make it normal in training and test, with "No finding." for a report."""
    lines = [finding, "a,No finding,14,R2,,,,"][:: 1 if first else -1]
    sizes = dict.fromkeys("abc", (100, 100))
    lines += ["b,No finding,14,R1,,,,"] * 2 + ["c,No finding,14,R2,,,,", "c,ILD,5,R1,9,9,1,1", "c,ILD,5,R1,1,1,9,9"]
    rows, rejected = read(tmp_path, "\n".join(lines) + "\n", image_sizes=sizes)
    assert sorted(zip(rows.image_id, rows.class_name, strict=True)) == [
        ("b", "No finding"), ("c", "ILD"), ("c", "No finding"),
    ]  # fmt: skip
    doubtful = rejected[rejected.reason.str.contains("not known to be normal")]
    bad = 1 if first else 2
    assert doubtful[["row", "image_id"]].values.tolist() == [[3 - bad, "a"]]
    assert doubtful.reason.item().startswith(f"row {bad} of this film was rejected")
    assert len(rejected) == 4, "the row, its film's other row, a repeat, a box that is inside out"


def test_coordinates_as_shares_of_the_film_are_refused(tmp_path):
    with pytest.raises(BadAnnotations, match="train.csv: all coordinates lie between 0 and 1"):
        read(tmp_path, "a,ILD,5,R1,0.1,0.2,0.3,0.4\nb,ILD,5,R1,0,0,1,1\nc,No finding,14,R1,,,,\n")
    assert len(read(tmp_path, "a,ILD,5,R1,0,0,1,2\n")[0]) == 1


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_encodings_and_line_ends_make_no_difference(tmp_path, encoding, newline):
    path = tmp_path / "train.csv"
    text = (HEADER + "a,Cardiomegaly,3,R1,10.5,10,50,60\n\n\n").replace("\n", newline)
    path.write_bytes(text.encode(encoding))
    rows, rejected = read_annotations(path)
    assert rows[BOX].to_numpy().tolist() == [[10.5, 10, 50, 60]] and rejected.empty


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


@pytest.mark.parametrize("separator", [",", "\t"])
def test_the_headers_of_the_papers_table(tmp_path, separator):
    text = "Image ID,Class Name,Class ID,Rad ID,X_min,Y_min,X_max,Y_max\na,ILD,5,R1,1,2,3,4\n"
    rows, _ = read(tmp_path, text.replace(",", separator), header="")
    assert rows.values.tolist() == [["a", "R1", 5, "ILD", 1, 2, 3, 4]]
    assert rows.attrs["layout"] == "kaggle"


def test_compressed_copies_and_text_that_is_none(tmp_path):
    text = HEADER + "a,ILD,5,R1,1,2,3,4\n"
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text.encode()))
    with zipfile.ZipFile(tmp_path / "a.csv.zip", "w") as archive:
        archive.writestr("train.csv", text)
    for name in ("a.csv.gz", "a.csv.zip"):
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
    for name in ("bom", "crlf", "trailing_blank_lines", "utf16"):
        pd.testing.assert_frame_equal(plain, read_annotations(SHARED / "C40" / f"{name}.csv")[0])
    with pytest.raises(BadAnnotations, match="the delimiter is a semicolon"):
        read_annotations(SHARED / "C40" / "semicolon.csv")
    for name in ("no_x_max", "no_image_id"):
        with pytest.raises(BadAnnotations, match=name[3:]):
            read_annotations(SHARED / "C38" / f"{name}.csv")
    for name in ("no_class_id", "no_rad_id", "upper_header"):
        assert len(read_annotations(SHARED / "C38" / f"{name}.csv")[0])
