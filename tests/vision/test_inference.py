"""Films of any source through a run's own path: the rows that its notebooks wrote come out again."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from cliniqure_utils.dicom import UnreadableImage
from cliniqure_utils.project import MissingInput
from cliniqure_utils.runs import read_table
from cliniqure_utils.vision.inference import probability_table, read_images
from cliniqure_utils.vocabulary import CLASSES


@pytest.fixture(scope="module")
def read(finished_run):
    return read_images(sorted((finished_run / "films").iterdir()), finished_run / "run", "cpu")


def test_films_behind_a_run_give_the_rows_of_its_own_tables(finished_run, read):
    probabilities, boxes = read
    run = finished_run / "run"
    pd.testing.assert_frame_equal(probabilities, read_table(run / "03_classify/probabilities.csv"), check_exact=True)
    pd.testing.assert_frame_equal(boxes, read_table(run / "02_detect/predictions.csv"), check_exact=True)
    assert probabilities.image_id.tolist() == ["012", "compressed", "wide"] and len(boxes) > 3


def test_a_picture_of_the_cache_gives_what_the_film_gives(finished_run, read, tmp_path):
    """PNG in place of DICOM: the same grey, and boxes in pixels of the picture that was given."""
    picture = tmp_path / "compressed.png"
    shutil.copy(finished_run / "run/01_preprocess/images/compressed.png", picture)
    probabilities, boxes = read_images([picture], finished_run / "run", "cpu")
    expected = read[0][read[0].image_id == "compressed"].reset_index(drop=True)
    pd.testing.assert_frame_equal(probabilities, expected, check_exact=True)
    with Image.open(picture) as image:
        assert boxes.x_max.max() <= image.width + 0.01 < read[1][read[1].image_id == "compressed"].x_max.max()


@pytest.mark.parametrize("step, changed", [("01_preprocess", {"cache_size": 64}), ("02_detect", {"test_flip": False})])
def test_the_settings_of_the_run_decide(finished_run, read, tmp_path, step, changed):
    run = tmp_path / "run"
    shutil.copytree(finished_run / "run", run)
    record = json.loads((run / "run.json").read_text())
    record["notebooks"][step]["parameters"] = changed
    (run / "run.json").write_text(json.dumps(record))
    _, boxes = read_images([finished_run / "films" / "wide.dcm"], run, "cpu")
    assert not boxes.equals(read[1][read[1].image_id == "wide"].reset_index(drop=True))


def test_calibrated_probabilities_keep_the_order_of_the_films():
    """By hand: at temperature 1/2 odds are squared, so 0.9 (9 to 1) becomes 81 / 82."""
    as_trained = np.full((3, 15), 0.5)
    as_trained[:, 0] = 0.9
    as_trained[:, 1] = 0.001, 0.00101, 0.00099
    table = probability_table(["a", "b", "c"], as_trained, 0.5)
    assert list(table.columns) == ["image_id", *CLASSES]
    assert table[CLASSES[0]].tolist() == pytest.approx([81 / 82] * 3, abs=1e-9)
    assert table[CLASSES[1]].rank().tolist() == [2, 3, 1], "so close that five digits would make them equal"
    assert (table[CLASSES[14]] == 0.5).all()


def test_what_cannot_be_read_is_one_sentence(finished_run, tmp_path):
    film, run = finished_run / "films" / "012.dcm", finished_run / "run"
    (tmp_path / "broken.dcm").write_bytes(b"nothing")
    with pytest.raises(UnreadableImage, match="broken.dcm"):
        read_images([film, tmp_path / "broken.dcm"], run, "cpu")
    shutil.copy(film, tmp_path / "012.dcm")
    with pytest.raises(ValueError, match="two files have the image id 012"):
        read_images([film, tmp_path / "012.dcm"], run, "cpu")
    with pytest.raises(ValueError, match="no film was given"):
        read_images([], run, "cpu")
    with pytest.raises(MissingInput, match="run notebooks/02_detect.ipynb first"):
        read_images([film], tmp_path, "cpu")


def test_more_films_than_are_held_at_once(finished_run, read, tmp_path, monkeypatch):
    monkeypatch.setattr("cliniqure_utils.vision.inference.FILMS_AT_ONCE", 2)
    torch.set_num_threads(1)
    probabilities, boxes = read_images(sorted((finished_run / "films").iterdir()), finished_run / "run", "cpu")
    np.testing.assert_allclose(probabilities[list(CLASSES)], read[0][list(CLASSES)], atol=2e-5)
    assert boxes.image_id.tolist() == read[1].image_id.tolist()
