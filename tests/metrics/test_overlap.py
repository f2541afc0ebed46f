"""IoU and Dice under each definition: by hand, on pixels, resampled; and what a printed pair of them can mean."""

import numpy as np
import pandas as pd
import pytest

from cliniqure_utils import metrics
from cliniqure_utils.vocabulary import BOX

SIZES = {name: (100, 100) for name in "abc"}


def test_box_overlap_definitions_by_hand(boxes):
    references = boxes(("a", "X", 0, 0, 10, 10), ("a", "Y", 20, 0, 30, 10), ("b", "X", 0, 0, 10, 10))
    predictions = boxes(("a", "X", 0, 0, 10, 5, 0.9), ("a", "Z", 20, 0, 30, 10, 0.9))

    def score(definition, **more):
        return metrics.box_overlap(
            references=references, predictions=predictions, image_ids="abc", definition=definition, **more
        )

    # One pair: IoU 50/100, Dice 100/150.
    assert score("matched") == pytest.approx({"iou": 1 / 2, "dice": 2 / 3, "n": 1})
    # Three references, two without an answer of their class.
    assert score("best_per_reference") == pytest.approx({"iou": 1 / 6, "dice": 2 / 9, "n": 3})
    # Image a: shared 150 of 200; image b: nothing predicted; image c: nothing on either side, left out.
    assert score("pooled") == pytest.approx({"iou": 3 / 8, "dice": 3 / 7, "n": 2})
    assert score("pooled_total") == pytest.approx({"iou": 150 / 300, "dice": 300 / 450, "n": 1})
    # Image c gains a whole-image box on both sides; image b gains one among the predictions: 100 of 10000 shared.
    assert score("matched", with_no_finding=True, image_sizes=SIZES) == pytest.approx(
        {"iou": 3 / 4, "dice": 5 / 6, "n": 2}
    )
    whole = score("pooled", with_no_finding=True, image_sizes=SIZES)
    assert whole == pytest.approx({"iou": (0.75 + 0.01 + 1) / 3, "dice": (6 / 7 + 200 / 10100 + 1) / 3, "n": 3})
    with pytest.raises(ValueError, match="image_sizes"):
        score("pooled", with_no_finding=True)
    with pytest.raises(ValueError, match="expected one of matched"):
        score("mean")


@pytest.mark.parametrize("definition", list(metrics.DEFINITIONS))
def test_box_overlap_interval_equals_rescoring(random_boxes, definition):
    references, predictions, ids = random_boxes
    found = metrics.box_overlap(
        references=references, predictions=predictions, image_ids=ids, definition=definition, n_resamples=6, seed=3
    )
    values = []
    for row in metrics.resample_counts(len(ids), 6, seed=3):
        copies = pd.DataFrame(
            [(i, f"{i}/{c}") for i, n in zip(ids, row, strict=True) for c in range(n)], columns=["image_id", "copy"]
        )
        tables = [
            copies.merge(t, on="image_id").drop(columns="image_id").rename(columns={"copy": "image_id"})
            for t in (references, predictions)
        ]
        values.append(
            metrics.box_overlap(
                references=tables[0], predictions=tables[1], image_ids=copies["copy"].tolist(), definition=definition
            )["dice"]
        )
    assert (found["dice_low"], found["dice_high"]) == pytest.approx(
        tuple(np.quantile(values, [0.025, 0.975])), abs=1e-9
    )


def test_box_overlap_is_not_symmetric(boxes):
    one, two = boxes(("a", "X", 0, 0, 10, 10)), boxes(("a", "X", 0, 0, 10, 10), ("a", "X", 50, 50, 60, 60))
    a = metrics.box_overlap(references=two, predictions=one, image_ids=["a"], definition="best_per_reference")
    b = metrics.box_overlap(references=one, predictions=two, image_ids=["a"], definition="best_per_reference")
    assert (a["iou"], b["iou"]) == (0.5, 1.0)


def test_pooled_areas_equal_pixel_masks(boxes):
    rng = np.random.default_rng(9)

    def table(n):
        corner = rng.integers(0, 40, (n, 2))
        corners = np.c_[corner, corner + rng.integers(1, 20, (n, 2))]
        return boxes(*[("a", "X", *row) for row in corners.tolist()])

    def mask(frame):
        pixels = np.zeros((60, 60), bool)
        for row in frame.itertuples():
            pixels[row.y_min : row.y_max, row.x_min : row.x_max] = True
        return pixels

    references, predictions = table(6), table(5)
    found = metrics.box_overlap(references=references, predictions=predictions, image_ids=["a"], definition="pooled")
    a, b = mask(references), mask(predictions)
    assert found["iou"] == pytest.approx((a & b).sum() / (a | b).sum())
    assert found["dice"] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_no_finding_becomes_a_class_of_its_own(boxes):
    references = boxes(("a", "X", 0, 0, 10, 10), ("b", "No finding", np.nan, np.nan, np.nan, np.nan))
    sizes = {"a": (20, 30), "b": (40, 50), "c": (60, 70)}
    table = metrics.with_no_finding_boxes(references, ["a", "b", "c"], sizes)
    assert table[["image_id", "class_name", *BOX]].to_numpy().tolist() == [
        ["a", "X", 0, 0, 10, 10], ["b", "No finding", 0, 0, 40, 50], ["c", "No finding", 0, 0, 60, 70]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("iou", "dice", "pooled", "averaged", "degenerate"),
    [
        (0.75, 0.76, False, True, True),
        (0.75, 0.857, True, True, False),
        (0.75, 0.90, False, False, False),
        (0.75, 0.70, False, False, False),
        (0.5, 0.58, False, True, False),
    ],
)
def test_check_iou_dice(iou, dice, pooled, averaged, degenerate):
    verdict = metrics.check_iou_dice(iou, dice)
    assert (verdict["pooled"], verdict["averaged"], verdict["degenerate"]) == (pooled, averaged, degenerate)


@pytest.mark.parametrize(
    ("dice", "pooled", "averaged", "share"),
    [(0.76, False, True, 0.0933), (0.857, True, True, 0.9987), (0.90, False, False, 1.0)],
)
def test_check_iou_dice_says_what_the_issue_asks(dice, pooled, averaged, share):
    verdict = metrics.check_iou_dice(0.75, dice)
    assert (verdict["pooled"], verdict["averaged"]) == (pooled, averaged)
    assert verdict["max_share_between"] == pytest.approx(share, abs=1e-3)
    if dice == 0.76:
        assert verdict["degenerate"] and "at most 9% of them" in verdict["reason"]
        assert "nearly every item sits at 0 or 1" in verdict["reason"]


def test_the_share_between_cannot_be_beaten():
    """Random sets of items never have more of them between .25 and .75 than the bound says."""
    rng = np.random.default_rng(10)
    for _ in range(200):
        items = rng.beta(*rng.uniform(0.05, 3, 2), size=50)
        verdict = metrics.check_iou_dice(items.mean(), (2 * items / (1 + items)).mean(), rounding=0)
        assert ((items >= 0.25) & (items <= 0.75)).mean() <= verdict["max_share_between"] + 1e-9
        assert verdict["averaged"]
    assert metrics.check_iou_dice(0.75, 0.76)["max_share_between"] == pytest.approx(0.01 * 1.75 / 0.1875)


def test_a_whole_image_box_on_every_real_film_scores_at_least_its_share_of_normal_films(boxes, vindr):
    """70.7% of the 15,000 films have no finding, and there a whole-image "No finding" box is exactly right.

    Scored on every fifteenth film, which is enough to see the bound hold.
    Film sizes are not in the annotations; each film is taken as no larger than its boxes reach, which leaves the bound.
    """
    normal = (vindr.class_name == "No finding").groupby(vindr.image_id).all()
    assert normal.mean() == pytest.approx(10606 / 15000)
    normal = normal.sort_index()[::15]
    image_ids = list(normal.index)
    far = vindr.groupby("image_id")[["x_max", "y_max"]].max().fillna(1000.0)
    nothing = boxes(("a", "X", 0, 0, 1, 1, 0.5)).iloc[:0]
    found = metrics.box_overlap(
        references=vindr, predictions=nothing, image_ids=image_ids, definition="pooled", with_no_finding=True,
        image_sizes=dict(zip(far.index, far.itertuples(index=False), strict=True)),
    )  # fmt: skip
    assert found["n"] == 1000 and normal.mean() <= found["iou"] < 0.85
    without = metrics.box_overlap(references=vindr, predictions=nothing, image_ids=image_ids, definition="pooled")
    assert without["iou"] == 0 and without["n"] == 1000 - normal.sum()
