"""From films to boxes and probabilities; films of any source give the rows that the run's own notebooks wrote."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from cliniqure_utils.annotations import boxes_per_class, film_sizes
from cliniqure_utils.dicom import UnreadableImage
from cliniqure_utils.project import MissingInput
from cliniqure_utils.runs import read_table
from cliniqure_utils.vision import inference
from cliniqure_utils.vision.films import FilmDataset, collate
from cliniqure_utils.vision.inference import probability_table, read_images
from cliniqure_utils.vocabulary import BOX, CLASSES, FINDINGS


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


def test_another_tone_curve_of_the_machine_changes_no_probability(finished_run, tmp_path):
    """The same chest as three machines would store it. Values lie far enough apart to stay so in 8 bit."""
    values = np.kron(np.random.default_rng(4).integers(10, 41, (24, 24)) * 5, np.ones((4, 4)))
    curves = {"a": values, "gamma": 255 * (values / 255) ** 0.5, "pale": 60 + values / 2}
    for name, picture in curves.items():
        Image.fromarray(np.round(picture).astype(np.uint8)).save(tmp_path / f"{name}.png")
    paths = [tmp_path / f"{name}.png" for name in curves]
    probabilities, _ = read_images(paths, finished_run / "run", "cpu")
    np.testing.assert_allclose(probabilities[list(CLASSES)], probabilities.loc[[0, 0, 0], list(CLASSES)], atol=1e-5)
    run = tmp_path / "run"
    shutil.copytree(finished_run / "run", run)
    config = json.loads((run / "03_classify/config.json").read_text())
    del config["grey"]  # as a run that was made before there was a grey scale
    (run / "03_classify/config.json").write_text(json.dumps(config))
    plain, _ = read_images(paths, run, "cpu")
    assert (plain[list(CLASSES)].max() - plain[list(CLASSES)].min()).max() > 1e-3


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
    surer = probability_table(["a", "b", "c"], as_trained, 0.4)  # 0.00002 to the power 2.5: 1.8e-12
    assert surer[CLASSES[1]].rank().tolist() == [2, 3, 1]
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


# ---- boxes and probabilities of a data set


def test_detector_trains_on_films_without_boxes_and_predicts_in_dicom_pixels(films, small_detector):
    folder, index, merged = films
    sizes, boxes = film_sizes(index), boxes_per_class(merged)
    torch.manual_seed(0)
    detector = small_detector()
    dataset = FilmDataset(folder, ["a", "b", "c", "d"], 64, sizes, boxes)
    batch = collate([dataset[i] for i in range(4)])
    batch.pop("image_id")
    assert torch.isfinite(detector(**batch)["loss"])
    detector.network.roi_heads.score_thresh = 0.0
    found = inference.predict_boxes(detector, dataset, sizes, progress=False)
    assert len(found) and found.x_max.max() <= 40.01 and found.y_max.max() <= 80.01
    assert found.x_max.max() > 32, "boxes are in DICOM pixels, not in a smaller frame"


def test_every_label_comes_back_as_its_own_name(films):
    folder, index, _ = films

    class Fixed(torch.nn.Module):
        image_size = 64

        def detect(self, image):
            labels = torch.arange(1, 15)
            return [{"boxes": torch.tensor([[0.0, 0, 8, 8]] * 14), "labels": labels, "scores": labels / 20}] * len(
                image
            )

    sizes = film_sizes(index)
    dataset = FilmDataset(folder, ["a"], 64, sizes)
    found = inference.predict_boxes(Fixed(), dataset, sizes, progress=False)
    assert found.class_name.tolist() == list(FINDINGS)
    boxes = pd.DataFrame({"image_id": "a", "class_id": range(14), "class_name": FINDINGS})
    boxes[BOX] = [0.0, 0.0, 8.0, 8.0]
    labels = FilmDataset(folder, ["a"], 64, sizes, boxes)[0]["box_labels"]
    assert labels.tolist() == list(range(1, 15)), "a name trains under the number it is read back from; 0 is background"


def test_views_are_fused_by_hand():
    box = torch.tensor([[10.0, 20, 30, 60]])
    assert inference.unflip(box, 100).tolist() == [[70, 20, 90, 60]]
    assert torch.equal(inference.unflip(inference.unflip(box, 100), 100), box)
    first = {
        "boxes": torch.tensor([[10.0, 10, 50, 50], [60, 60, 80, 80]]),
        "labels": torch.tensor([4, 9]),
        "scores": torch.tensor([0.8, 0.5]),
    }
    second = {
        "boxes": torch.tensor([[16.0, 10, 56, 50]]), "labels": torch.tensor([4]), "scores": torch.tensor([0.4])
    }  # fmt: skip
    fused = inference.fuse_views([first, second], 100)
    # Class 4: found by both, corners (.8 * 10 + .4 * 16) / 1.2 = 12 and 52, score the mean .6.
    # Class 9: found by one of two, so half of .5.
    assert fused["labels"].tolist() == [4, 9]
    np.testing.assert_allclose(fused["boxes"], [[12, 10, 52, 50], [60, 60, 80, 80]], atol=1e-4)
    np.testing.assert_allclose(fused["scores"], [0.6, 0.25], atol=1e-6)
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
    assert inference.fuse_views([nothing, nothing], 100)["boxes"].shape == (0, 4)


def test_flipped_views_lie_on_the_film_itself(films):
    """A detector that finds the brightest column finds it in the same place on both views."""
    folder, index, _ = films

    class Column(torch.nn.Module):
        image_size = 64

        def detect(self, image):
            found = []
            for film in image:
                x = float(film[0].sum(0).argmax())
                box = torch.tensor([[x, 0.0, x + 1, 64.0]])
                found.append({"boxes": box, "labels": torch.tensor([1]), "scores": torch.tensor([0.5])})
            return found

    sizes = film_sizes(index)
    dataset = FilmDataset(folder, ["a", "b"], 64, sizes)
    plain = inference.predict_boxes(Column(), dataset, sizes, progress=False)
    fused = inference.predict_boxes(Column(), dataset, sizes, progress=False, flip=True)
    pd.testing.assert_frame_equal(plain, fused, atol=0.02)


def test_probabilities_do_not_read_the_heat_maps(films, timm_classifier):
    folder, index, _ = films
    dataset = FilmDataset(folder, ["a", "b"], 64, film_sizes(index))
    model = timm_classifier(1.0)
    before = inference.predict_probabilities(model, dataset, progress=False)
    torch.nn.init.constant_(model.heatmap.weight, 9.0)
    np.testing.assert_array_equal(before, inference.predict_probabilities(model, dataset, progress=False))
    plain = inference.predict_probabilities(timm_classifier(0.0), dataset, progress=False)
    np.testing.assert_allclose(before, plain, atol=1e-6)
