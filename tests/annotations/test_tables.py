"""Reading a CSV: the dialects that files really have give one table, and nothing is read by half."""

import csv
import io
import json
import random
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cliniqure_utils.annotations import BadAnnotations, merge_reader_boxes, read_annotations
from cliniqure_utils.vocabulary import BOX, FINDINGS

SHARED = Path(__file__).parents[3] / "shared" / "cases"
needs_cases = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared cases are not beside this checkout")
COLUMNS = ["image_id", "class_name", "class_id", "rad_id", *BOX]
HEADER = ",".join(COLUMNS) + "\n"


def read(tmp_path, text, image_sizes=None, encoding="utf-8"):
    path = tmp_path / "train.csv"
    path.write_bytes(text.encode(encoding))
    return read_annotations(path, image_sizes)


def random_rows(rng, n):
    """Rows of every kind, good and bad; the last item of each pair says how many rows must come back."""
    ids = ["a", "b", " lead", "trail ", "NA", "007", "tên ảnh", "", "  ", "\ufeffq", "nan", "a\u2028b", "x\x0by"]
    names = [*FINDINGS, "No finding", "no  FINDING", "Edema", "Pneumonia", "", " Cardiomegaly ", "nan"]
    numbers = ["0", "1", "10.5", "-5", "30", "", " 40 ", "nan", "inf", "1e2", "+5", "abc", "0x10", "5.", "1e400", "-0"]
    for _ in range(n):
        name = rng.choice(names)
        number = str(FINDINGS.index(name)) if name in FINDINGS else rng.choice(["14", "15", "x", "", "3.5"])
        box = ["1", "2", "30", "40.5"] if rng.random() < 0.5 else [rng.choice(numbers) for _ in range(4)]
        row = [rng.choice(ids), name, number, rng.choice(["R1", "R2", ""]), *box]
        kind = rng.random()
        if kind < 0.1:
            row = row[: rng.randrange(2, len(row))]
        elif kind < 0.2:
            row += rng.choice([[""], ["more"], ["", "", "x"]])
        yield row


@pytest.mark.parametrize("seed", range(8))
def test_quotation_marks_separators_line_ends_and_encodings_make_no_difference(tmp_path, seed):
    rng = random.Random(seed)
    rows = list(random_rows(rng, 40))
    separator, newline = rng.choice(",\t"), rng.choice(["\n", "\r\n", "\r"])
    sizes = None if seed % 2 else {"a": (25, 50), "b": (20, 20), "NA": (3000, 3000), " lead": (20.5, 41)}
    results = []
    for share_quoted in (0, 1, 0.5):
        text = io.StringIO(newline="")
        for row in [COLUMNS, *rows]:
            quoting = csv.QUOTE_ALL if rng.random() < share_quoted else csv.QUOTE_NONE
            csv.writer(text, delimiter=separator, quoting=quoting, lineterminator=newline).writerow(row)
            text.write(rng.choice(["", "", "", newline, "  " + newline]))
        results.append(read(tmp_path, text.getvalue(), sizes, rng.choice(["utf-8", "utf-8-sig", "utf-16"])))
    annotations, rejected = results[0]
    for other in results[1:]:
        pd.testing.assert_frame_equal(annotations, other[0])
        pd.testing.assert_frame_equal(rejected, other[1])
    assert len(annotations) + len(rejected) == len(rows), "a row is lost"
    corners = annotations[annotations.class_id != 14][BOX].to_numpy()
    assert np.isfinite(corners).all() and (corners[:, 2:] > corners[:, :2]).all()
    assert annotations[annotations.class_id == 14][BOX].isna().all(axis=None)


def test_rows_of_every_length_stay_in_their_order(tmp_path):
    text = HEADER + 'a,ILD,5,R1,1,2,3,4\n\n"b",ILD,5,R1,1,2,3,4\nc,ILD,5,R1,1,2,3,4,\n   \nd,ILD,5,R1,1,2,3,4,5\n'
    annotations, rejected = read(tmp_path, text + "e,No finding,14\nf,ILD,5,R1,1,2,3,4")
    assert annotations.image_id.tolist() == ["a", "b", "c", "e", "f"]
    assert rejected.values.tolist() == [[4, "d", "9 cells, the header has 8"]]


def test_stray_quotation_marks(tmp_path):
    with pytest.raises(BadAnnotations, match="opened in data row 2 is not closed"):
        read(tmp_path, HEADER + "a,ILD,5,R1,1,2,3,4\n" + 'b,"ILD,5,R1,1,2,3,4\n' + "c,ILD,5,R1,1,2,3,4\n" * 9000)
    with pytest.raises(BadAnnotations, match="opened in the header"):
        read(tmp_path, '"' + HEADER + "a,ILD,5,R1,1,2,3,4\n")
    # In the middle of a cell a quotation mark is a sign like any other.
    annotations, rejected = read(tmp_path, HEADER + 'a"b,ILD,5,R1,1,2,3,4\n"say ""aah""",ILD,5,R1,1,2,3,4\n')
    assert annotations.image_id.tolist() == ['a"b', 'say "aah"'] and rejected.empty


def test_an_index_column_is_none_of_ours(tmp_path):
    annotations, rejected = read(
        tmp_path, "\t" + "\t".join(COLUMNS) + "\n0\ta\tILD\t5\tR1\t1.5\t2\t3\t4\n", encoding="utf-16"
    )
    assert annotations.values.tolist() == [["a", "R1", 5, "ILD", 1.5, 2, 3, 4]] and rejected.empty


def coordinates(tmp_path, cells):
    lines = ["\t".join([f"f{n}", "ILD", "5", "R1", cell, "2", "5000", "40"]) for n, cell in enumerate(cells)]
    annotations, rejected = read(tmp_path, HEADER.replace(",", "\t") + "\n".join(lines) + "\n")
    return annotations.x_min.tolist(), rejected.reason.tolist()


def test_decimal_commas_are_refused_and_never_read_as_thousands(tmp_path):
    """European spreadsheets write them: beside semicolons, or in the tab-separated text of Excel."""
    with pytest.raises(BadAnnotations, match="train.csv: the delimiter is a semicolon; save it with commas"):
        read(tmp_path, HEADER.replace(",", ";") + "a;ILD;5;R1;1,5;2;3;4\n")
    values, reasons = coordinates(tmp_path, ["1.234", "1,234", "10,5"])
    assert values == [1.234]
    assert reasons == ["x_min is not a number: '1,234'", "x_min is not a number: '10,5'"]


def test_every_way_to_write_a_number(tmp_path):
    good = {"1e3": 1000, "1E+3": 1000, "+5": 5, " 5 ": 5, "5.": 5, ".5": 0.5, "007": 7, "1e-400": 0, "-0": 0}
    values, reasons = coordinates(tmp_path, [*good])
    assert values == [*good.values()] and reasons == []
    exact = [repr(random.Random(n).uniform(0, 3000)) for n in range(200)]
    assert coordinates(tmp_path, exact)[0] == [float(text) for text in exact], "not the number that is written"
    bad = ["0x10", "1_000", "true", "1 000", "--5", "5e", "1.2.3", "5f", "-", ".", "\u0663"]
    values, reasons = coordinates(tmp_path, bad)
    assert values == [] and reasons == [f"x_min is not a number: {text!r}" for text in bad]
    assert set(coordinates(tmp_path, ["1e400", "-inf"])[1]) == {"a coordinate is not finite"}
    missing = ["", " ", "nan", "NA", "null", "None", "<NA>", "n/a"]
    assert coordinates(tmp_path, missing) == ([], ["a finding without four coordinates"] * len(missing))


def test_unusable_envelopes_and_bytes_say_why(tmp_path):
    def zipped(*names):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name in names:
                archive.writestr(name, HEADER + "a,ILD,5,R1,1,2,3,4\n")
        return buffer.getvalue()

    (tmp_path / "mac.zip").write_bytes(zipped("train.csv", "__MACOSX/._train.csv"))
    assert read_annotations(tmp_path / "mac.zip")[0].image_id.tolist() == ["a"]
    broken = zipped("train.csv")
    for name, content, message in (
        ("two.zip", zipped("a.csv", "b.csv"), "expected one .csv in the archive, found 2"),
        ("book.csv", zipped("xl/workbook.xml"), "this is a spreadsheet"),
        ("short.zip", broken[:30] + broken[36:], "damaged"),  # the index at the end points before the start
        ("bad.gz", b"\x1f\x8b\x08" + bytes(7) + b"\xff" * 40, "damaged"),
        ("zero.csv", b"\0", "no text file"),
        ("unmarked.csv", HEADER.encode("utf-16-le"), "expected a CSV in UTF-8"),
        ("wide.csv", HEADER.encode("utf-32"), "expected a CSV in UTF-8"),
        ("latin.csv", (HEADER + "a,ILD,5,R1,1,2,3,4\n").encode() + b"\xe9,", "line 3, byte 0xe9"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadAnnotations, match=message) as error:
            read_annotations(tmp_path / name)
        assert str(error.value).startswith(name)


def test_boxes_that_become_equal_at_the_border(tmp_path):
    text = HEADER + "a,ILD,5,R1,-5,0,30,40\na,ILD,5,R1,-9,0,30,60\na,ILD,5,R2,-5,-0,30,40\na,ILD,5,R2,-5,0,30.0,40\n"
    annotations, rejected = read(tmp_path, text + "a,ILD,9,R1,-5,0,30,40\n", {"a": (30, 40)})
    assert annotations[["rad_id", *BOX]].values.tolist() == [["R1", 0, 0, 30, 40], ["R2", 0, 0, 30, 40]]
    assert rejected.reason.tolist() == [
        "repeats row 1 once cut at the border of the film",
        "repeats row 3 exactly",
        "class name and id disagree: 'ILD' has class_id 9",
    ]
    assert annotations.attrs["clipped"] == 2, "only boxes that are kept count as cut"
    annotations, rejected = read(tmp_path, text, {})
    assert annotations.empty and rejected.reason.unique().tolist() == ["no film with this image_id"]
    assert annotations.class_id.dtype == int and annotations.x_min.dtype == float


def test_readers_without_a_name(tmp_path):
    rows = "a,ILD,5,R1,1,2,3,4\nb,ILD,5,,1,2,3,4\nc,ILD,5,nan,1,2,3,4\n"
    assert read(tmp_path, HEADER + rows)[0].rad_id.tolist() == ["R1", "unknown", "unknown"]
    assert read(tmp_path, HEADER + rows.replace("R1", ""))[0].rad_id.tolist() == ["R1"] * 3


def test_a_class_name_that_is_missing_leaves_the_id(tmp_path):
    annotations, rejected = read(tmp_path, HEADER + "a,nan,5,R1,1,2,3,4\nb,None,,R1,1,2,3,4\nc,Pneumonia,15,R1,,,,\n")
    assert annotations.class_name.tolist() == ["ILD"]
    assert rejected.reason.tolist() == [
        "neither class_name nor class_id is given",
        "unknown class 'Pneumonia' (of whole films: see read_global_labels)",
    ]
    only_ids = HEADER.replace("class_name,", "") + "a,5,R1,1,2,3,4\nb,14,R1,,,,\n"
    assert read(tmp_path, only_ids)[0].class_name.tolist() == ["ILD", "No finding"]


def expected(case):
    return json.loads((SHARED / case / "expected.json").read_text())


@needs_cases
def test_shared_file_names_and_shared_identifiers():
    rows, rejected = read_annotations(SHARED / "C25" / "train.csv")
    assert set(rows.image_id) | set(rejected.image_id) == set(expected("C25")["stems"])
    sizes = dict.fromkeys(expected("C25")["stems"], (112, 128))
    assert "no film with this image_id" not in set(read_annotations(SHARED / "C25" / "train.csv", sizes)[1].reason)
    rows, _ = read_annotations(SHARED / "C24" / "train.csv")
    assert rows.image_id.nunique() == expected("C24")["n_out"]


@needs_cases
@pytest.mark.parametrize("case, key", [("C31", "valid"), ("C45", "boxes_224")])
def test_shared_boxes_are_exact(case, key):
    rows, rejected = read_annotations(SHARED / case / "train.csv")
    wanted = expected(case)
    if case == "C31":
        for image_id, valid in wanted[key].items():
            found = rows[(rows.image_id == image_id) & (rows.x_max - rows.x_min > 1)]
            assert found[BOX].values.tolist() == valid
        assert len(rejected) == wanted["dropped_min"]
        return
    width, height = wanted["size_wh"]
    scaled = rows[BOX].to_numpy() * (224 / np.array([width, height, width, height]))
    assert np.abs(scaled - np.array(wanted[key])).max() < wanted["tol"] and rejected.empty


@needs_cases
def test_shared_findings_without_coordinates_and_unknown_classes():
    rows, rejected = read_annotations(SHARED / "C32" / "train.csv")
    n_boxes = rows[rows.class_id != 14].groupby("image_id").size()
    assert {i: int(n_boxes.get(i, 0)) for i in expected("C32")["boxes"]} == expected("C32")["boxes"]
    assert rejected.reason.tolist() == ["a finding without four coordinates"] * expected("C32")["dropped"]
    _, rejected = read_annotations(SHARED / "C33" / "train.csv")
    assert rejected.reason.tolist() == [f"unknown class {name!r}" for name in expected("C33")["unknown"]]


@needs_cases
def test_shared_repeats():
    rows, rejected = read_annotations(SHARED / "C36" / "train.csv")
    assert rejected.reason.str.fullmatch(r"repeats row \d+ exactly").all() and len(rejected) == 2
    assert not rows.duplicated().any() and len(rows) == 3
    merged = merge_reader_boxes(rows, no_finding="drop")
    assert [set(names.split(", ")) for names in merged.class_names] == [set(expected("C36")["merged"])]
