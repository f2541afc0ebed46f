"""Boxes: overlap and frames of pixels by hand, and one training box per class."""

import numpy as np
import pandas as pd

from cliniqure_utils.annotations import boxes_per_class, films_left_out, iou_matrix, rescale_boxes
from cliniqure_utils.annotations.boxes import pairs_within_groups
from cliniqure_utils.vocabulary import BOX


def test_iou_by_hand():
    found = iou_matrix([[0, 0, 10, 10]], [[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [10, 0, 20, 10]])
    np.testing.assert_allclose(found, [[1, 1 / 3, 0, 0]])
    assert iou_matrix(np.zeros((0, 4)), [[0, 0, 1, 1]]).shape == (0, 1)


def test_rescale_there_and_back():
    moved = rescale_boxes([[30, 40, 34, 44], [np.nan] * 4], (144, 180), (224, 224))
    np.testing.assert_allclose(moved[0], [46.67, 49.78, 52.89, 54.76], atol=0.01)
    assert np.isnan(moved[1]).all()
    np.testing.assert_allclose(rescale_boxes(moved, (224, 224), (144, 180))[0], [30, 40, 34, 44])


def test_pairs_within_groups_equal_the_matrix():
    rng = np.random.default_rng(1)
    corner = [rng.uniform(0, 60, (n, 2)) for n in (120, 90)]
    first, second = (np.hstack([low, low + rng.uniform(5, 40, low.shape)]) for low in corner)
    group = [rng.integers(0, 14, n) for n in (120, 90)]
    i, j, iou = pairs_within_groups(first, group[0], second, group[1])
    matrix = iou_matrix(first, second)
    wanted = np.argwhere(group[0][:, None] == group[1])
    assert sorted(zip(i, j, strict=True)) == sorted(map(tuple, wanted)) and (np.diff(i) >= 0).all()
    np.testing.assert_array_equal(iou, matrix[i, j])


def test_a_merged_box_with_two_names_becomes_two_training_boxes():
    whole = [0.0, 0.0, 40.0, 80.0]
    merged = pd.DataFrame([[10.0, 20.0, 20.0, 60.0], whole, whole], columns=BOX)
    merged = merged.assign(image_id=["a", "a", "b"], class_labels=[[4, 8], [3], [14]])
    boxes = boxes_per_class(merged)
    assert boxes.class_name.tolist() == ["Consolidation", "Nodule/Mass", "Cardiomegaly"]
    assert set(boxes.image_id) == {"a"}, "a No finding film must give no box"


def test_turned_films_with_a_box_and_films_that_nobody_has_read_are_left_out():
    names = ["turned", "turned normal", "upright", "unread"]
    turned = [True, True, False, True]
    index = pd.DataFrame({"image_id": names, "source": [f"{name}.png" for name in names], "turned": turned})
    rows = [
        ("turned", "Nodule/Mass"), ("turned", "Cardiomegaly"), ("turned", "Cardiomegaly"), ("turned", "No finding"),
        ("turned normal", "No finding"), ("upright", "Cardiomegaly"),
    ]  # fmt: skip
    annotations = pd.DataFrame(rows, columns=["image_id", "class_name"])
    displaced = (
        "turned upright on loading, but its boxes (Cardiomegaly, Nodule/Mass) are in pixels of the film as it is stored"
    )
    assert films_left_out(index, annotations).to_numpy().tolist() == [
        ["unread.png", "unread", "no usable annotation row"],
        ["turned.png", "turned", displaced],
    ]
    assert films_left_out(index[1:3], annotations).empty
