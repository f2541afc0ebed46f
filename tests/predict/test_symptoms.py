"""The table of symptoms: each row reaches the film that it means, or is refused."""

import unicodedata
from pathlib import Path

import pytest

from cliniqure_utils.predict.symptoms import read_symptoms
from cliniqure_utils.project import CannotStart

PATHS = [Path(path) for path in ("in/good.png", "in/a/IM0001.png", "in/b/IM0001.png", "in/1.2.3", "in/ngực.dcm")]


@pytest.fixture
def read(tmp_path):
    """Function: text of the table -> ({name with folder: symptoms}, unknown)."""

    def read(text: str, encoding="utf-8"):
        (tmp_path / "s.csv").write_text(text, encoding=encoding)
        texts, unknown = read_symptoms(tmp_path / "s.csv", PATHS)
        return {path.as_posix(): said for path, said in texts.items()}, unknown

    return read


@pytest.mark.parametrize("name", ["good", "good.png", "good ", " good.png", "in/good", "in\\good.png", '"good"'])
def test_a_film_is_named_with_or_without_ending_blanks_and_folders(read, name):
    assert read(f"image_id,symptoms\n{name},cough\n") == ({"in/good.png": "cough"}, [])


def test_a_row_is_read_as_it_is_meant(read):
    found, unknown = read(
        'symptoms , image_id,remark\n"cough, fever",good,\n"two\nlines",a/IM0001,x\n\n,,\nchills,b/IM0001.png,\n'
        f"none,1.2.3,\npain,{unicodedata.normalize('NFD', 'ngực')},\nweak,nobody,\nweak,,\n",
        "utf-8-sig",
    )
    assert found == {
        "in/good.png": "cough, fever", "in/a/IM0001.png": "two\nlines", "in/b/IM0001.png": "chills",
        "in/1.2.3": "none", "in/ngực.dcm": "pain",
    }  # fmt: skip
    assert unknown == ["(no image id)", "nobody"]
    assert read("image_id,symptoms\ngood,cough\ngood.png,cough\n")[0] == {"in/good.png": "cough"}


@pytest.mark.parametrize(
    "text, said",
    [
        (
            "image_id,symptoms\nIM0001,cough\n",
            "s.csv: IM0001 may be any of 2 films; expected one of a/IM0001.png, b/IM",
        ),
        ("image_id,symptoms\ngood,cough,fever\n", "s.csv, line 2: expected 2 fields, found 3; a text with a comma"),
        ("image_id,symptoms\ngood,cough\ngood\n", "s.csv, line 3: expected 2 fields, found 1"),
        ("image_id,symptoms\ngood,cough\ngood.png,fever\n", "s.csv: good.png is there twice, with two texts"),
        ("image_id,symptoms\nnobody,cough\nnobody,fever\n", "nobody is there twice"),
        ("image_id;symptoms\ngood;cough\n", "expected columns image_id and symptoms, found image_id;symptoms"),
        ("", "expected columns image_id and symptoms, found nothing"),
        ('image_id,symptoms\ngood,"cough" x\n', "cannot be read: ',' expected after"),
    ],
)
def test_a_table_that_may_mean_something_else_is_refused(read, text, said):
    with pytest.raises(CannotStart) as refused:
        read(text)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_table_of_another_encoding_is_refused(read, tmp_path):
    with pytest.raises(CannotStart, match=r"the symptoms in .*s\.csv cannot be read: 'utf-8' codec"):
        read("image_id,symptoms\ngood,Übelkeit\n", "cp1252")
    with pytest.raises(CannotStart, match="cannot be read: No such file or directory"):
        read_symptoms(tmp_path / "gone.csv", PATHS)
