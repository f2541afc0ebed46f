"""From films to boxes in DICOM pixels and probabilities."""

import numpy as np
import pandas as pd
import torch

from cliniqure_utils.annotations import boxes_per_class, film_sizes
from cliniqure_utils.vision import inference
from cliniqure_utils.vision.films import FilmDataset, collate
from cliniqure_utils.vocabulary import BOX, FINDINGS


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
