"""Agreement of readers: hand counts, slow independent implementations, and VinDr-CXR's measured values."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from cliniqure_utils.annotations import (
    fuse_reader_boxes,
    iou_matrix,
    label_matrix,
    leave_one_out,
    match_boxes,
    reader_ceiling,
)
from cliniqure_utils.annotations.agreement import LAB_RULES
from cliniqure_utils.vocabulary import BOX, CLASSES


@pytest.fixture(scope="module")
def lab(vindr):
    """The lab as the notebook runs it; `rules` adds the variant that the measured value belongs to."""

    def by_number(rows):
        rows = rows.assign(number=rows.rad_id.str[1:].astype(int)).sort_values("number", kind="stable")
        return rows.drop_duplicates(["image_id", "class_id"])

    return leave_one_out(vindr, {**LAB_RULES, "one per class, by reader number": by_number})


@pytest.fixture(scope="module")
def ceiling(vindr):
    return reader_ceiling(vindr)


def make(rows):
    """(image_id, reader, class_id, x_min, y_min, x_max, y_max) -> annotations; without a box, "No finding"."""
    rows = [row if len(row) > 2 else (*row, 14, *[np.nan] * 4) for row in rows]
    table = pd.DataFrame(rows, columns=["image_id", "rad_id", "class_id", *BOX])
    return table.assign(class_name=[CLASSES[c] for c in table.class_id])


def random_annotations(seed, n=300, n_films=40):
    """Three readers; corners on a coarse grid, so that equal boxes and equal overlaps occur."""
    rng = np.random.default_rng(seed)
    corner, side = rng.integers(0, 8, (n, 2)) * 5.0, rng.integers(4, 9, (n, 2)) * 5.0
    film, reader, class_id = rng.integers(0, n_films, n), rng.integers(1, 4, n), rng.integers(2, 6, n)
    rows = [(f"i{film[k]}", f"R{reader[k]}", class_id[k], *corner[k], *(corner[k] + side[k])) for k in range(n)]
    normal = [(f"n{k}", f"R{reader}") for k in range(5) for reader in (1, 2, 3)]
    return make([*dict.fromkeys(rows), *normal])


# Two boxes of class 3 on film a, one of class 8 on film b; film c is normal.
HAND = make([
    ("a", "R1", 3, 0, 0, 10, 10), ("a", "R2", 3, 0, 0, 10, 8), ("a", "R3", 3, 0, 0, 10, 10),
    ("a", "R3", 3, 50, 50, 60, 60), ("b", "R1", 8, 0, 0, 10, 10), ("b", "R2", 8, 0, 0, 10, 3),
    ("b", "R3", 3, 0, 0, 9, 9), ("c", "R1"), ("c", "R2"), ("c", "R3"),
])  # fmt: skip


def test_the_most_overlapping_pair_is_matched_first_and_each_box_once():
    references = make([("a", "R1", 3, 0, 0, 10, 10), ("a", "R1", 3, 0, 0, 10, 5), ("a", "R1", 4, 0, 0, 10, 10)])
    predictions = make([
        ("a", "R2", 3, 0, 0, 10, 6), ("a", "R2", 3, 0, 0, 10, 5), ("b", "R2", 3, 0, 0, 10, 10),
        ("a", "R2", 8, 0, 0, 10, 10), ("a", "R2", 3, 0, 0, 10, 9),
    ])  # fmt: skip
    # Overlaps of class 3 on film a: .6, .5, .9 with the first reference, 5/6, 1, 5/9 with the second.
    pairs = match_boxes(references, predictions)
    assert pairs.to_numpy().tolist() == [[1, 1, 3, 1.0], [0, 4, 3, 0.9]]
    assert match_boxes(references, predictions, iou=0.91)[["reference", "prediction"]].to_numpy().tolist() == [[1, 1]]
    assert match_boxes(references, predictions[:0]).empty


def slow_match(references, predictions, threshold):
    """Sorted (class, IoU) of the pairs, taking the largest overlap left, film by film and class by class."""
    found = []
    for key, rows in predictions.groupby(["image_id", "class_id"]):
        others = references[(references.image_id == key[0]) & (references.class_id == key[1])]
        iou = iou_matrix(rows[BOX], others[BOX])
        while iou.size and iou.max() >= threshold:
            i, j = np.unravel_index(iou.argmax(), iou.shape)
            found.append((key[1], iou[i, j]))
            iou = np.delete(np.delete(iou, i, 0), j, 1)
    return sorted(found)


@pytest.mark.parametrize("seed", range(4))
def test_matching_equals_a_slow_one_on_boxes_without_equal_overlaps(seed):
    table = random_annotations(seed, n_films=8).dropna()
    rng = np.random.default_rng(seed)
    table[BOX] += rng.uniform(0, 1, (len(table), 4))
    one, two = table[table.rad_id == "R1"], table[table.rad_id == "R2"]
    pairs = match_boxes(one, two)
    found = pairs[["class_id", "iou"]].sort_values(["class_id", "iou"])
    np.testing.assert_allclose(found, np.array(slow_match(one, two, 0.4)))
    assert len(pairs) > 20 and pairs.reference.is_unique and pairs.prediction.is_unique
    rows = one.iloc[pairs.reference].reset_index(drop=True), two.iloc[pairs.prediction].reset_index(drop=True)
    assert (rows[0].image_id == rows[1].image_id).all() and (rows[0].class_id == rows[1].class_id).all()
    np.testing.assert_allclose(np.diag(iou_matrix(rows[0][BOX], rows[1][BOX])), pairs.iou)


def test_leave_one_out_by_hand():
    """HAND, all boxes kept. Left out R1: 5 boxes against 2, the one on film a is hit by the equal box of R3.
    Left out R2: 5 against 2, film a at IoU .8; on film b .3 is too little. Left out R3: 4 against 3, film a at 1.0."""
    table = leave_one_out(HAND, {"all": {"rule": "keep_all"}}, ("R1", "R2", "R3"))
    found = table.loc["all"]
    assert found.n_images == 2 and found.boxes_per_image == pytest.approx((5 + 5 + 4) / 3 / 2)
    assert (found.precision, found.recall) == pytest.approx((3 / 14, 3 / 7))
    assert found.f1 == pytest.approx(6 / 21)
    assert found.macro_f1 == pytest.approx((6 / (10 + 5) + 0) / 2), "class 8 occurs and is never hit; others do not"
    assert found.iou == pytest.approx((1 + 0.8 + 1) / 3)
    assert (found.f1_low, found.f1_high) == pytest.approx((2 / 7, 2 / 7))


def test_reader_ceiling_by_hand():
    found = reader_ceiling(HAND, ("R1", "R2", "R3")).set_index(["reader", "reference"])
    assert found.index.tolist() == [("R2", "R1"), ("R3", "R1"), ("R3", "R2")]
    assert found.n_images.tolist() == [2] * 3 and found.n_label_images.tolist() == [3] * 3
    first, second = found.iloc[0], found.iloc[1]
    assert (first.precision, first.recall, first.f1, first.iou) == pytest.approx((1 / 2, 1 / 2, 1 / 2, 0.8))
    assert first.macro_f1 == pytest.approx((1 + 0) / 2)
    assert (second.precision, second.recall, second.f1) == pytest.approx((1 / 3, 1 / 2, 2 / 5))
    assert (first.label_f1, first.label_macro_f1, first.label_kappa) == (1, 1, 1)
    # R1: class 3 on a, 8 on b. R3: class 3 on a and b.
    # Class 3: F1 2/3, kappa (2/3 - 4/9) / (1 - 4/9) = .4; class 8: 0 and 0.
    assert (second.label_f1, second.label_macro_f1, second.label_kappa) == pytest.approx((1 / 2, 1 / 3, 0.4 / 2))


def cohen(one, two):
    """Kappa of two 0/1 arrays as Cohen wrote it (1960): agreement beyond chance, of what is possible beyond chance."""
    by_chance = one.mean() * two.mean() + (1 - one.mean()) * (1 - two.mean())
    return ((one == two).mean() - by_chance) / (1 - by_chance)


@pytest.mark.parametrize("seed", range(2))
def test_both_tables_equal_slow_ones_in_any_row_order(seed):
    table, trio = random_annotations(seed, n=90, n_films=12), ("R1", "R2", "R3")
    films = table.groupby("image_id").rad_id.nunique()
    films = films.index[films == 3]
    chosen = table[table.image_id.isin(films)]
    found = chosen[chosen.class_id < 14]

    def slow_scores(pairs):
        hits = [slow_match(a, b, 0.4) for a, b in pairs]
        said, there = (pd.concat([pair[k] for pair in pairs]) for k in (1, 0))
        classes = pd.Series([c for pair in hits for c, _ in pair]).value_counts().reindex(range(14), fill_value=0)
        sizes = said.class_id.value_counts().add(there.class_id.value_counts(), fill_value=0)
        n = sum(map(len, hits))
        return {
            "precision": n / len(said), "recall": n / len(there), "f1": 2 * n / (len(said) + len(there)),
            "macro_f1": (2 * classes / sizes).dropna().mean(),
        }  # fmt: skip

    lab = leave_one_out(table, {"u": {"rule": "union"}, "k": {"rule": "keep_all"}}, trio)
    for name, rule in (("u", "union"), ("k", "keep_all")):
        turns = [
            (found[found.rad_id == r], fuse_reader_boxes(found[found.rad_id != r], rule)) for r in trio
        ]  # fmt: skip
        for key, value in slow_scores(turns).items():
            assert lab.loc[name, key] == pytest.approx(value), key
        f1 = [slow_scores([turn])["f1"] for turn in turns]
        assert (lab.loc[name, "f1_low"], lab.loc[name, "f1_high"]) == pytest.approx((min(f1), max(f1)))
    pairs = reader_ceiling(table, trio)
    labels = {r: label_matrix(chosen[chosen.rad_id == r], sorted(films)).to_numpy()[:, :14] for r in trio}
    for row in pairs.itertuples():
        one, two = (found[found.rad_id == r] for r in (row.reference, row.reader))
        for key, value in slow_scores([(one, two)]).items():
            assert getattr(row, key) == pytest.approx(value), key
        one, two = labels[row.reference], labels[row.reader]
        used = (one | two).any(0)
        assert row.label_f1 == pytest.approx(f1_score(one, two, average="micro"))
        assert row.label_macro_f1 == pytest.approx(f1_score(one[:, used], two[:, used], average="macro"))
        assert row.label_kappa == pytest.approx(np.mean([cohen(one[:, k], two[:, k]) for k in np.flatnonzero(used)]))

    shuffled = table.sample(frac=1, random_state=seed)
    pd.testing.assert_frame_equal(pairs, reader_ceiling(shuffled, trio), rtol=1e-12)
    pd.testing.assert_frame_equal(leave_one_out(table, readers=trio), leave_one_out(shuffled, readers=trio), rtol=1e-12)


def test_readers_change_places():
    table = random_annotations(9)
    there = reader_ceiling(table, ("R1", "R2")).iloc[0]
    back = reader_ceiling(table, ("R2", "R1")).iloc[0]
    assert (there.precision, there.recall) == (back.recall, back.precision) and there.precision != there.recall
    for name in ("f1", "macro_f1", "iou", "label_f1", "label_macro_f1", "label_kappa"):
        assert there[name] == pytest.approx(back[name], rel=1e-12)


def test_two_readers_left_one_out_is_one_reader_against_the_other():
    table = random_annotations(4)
    lab = leave_one_out(table, {"all": {"rule": "keep_all"}}, ("R1", "R2")).loc["all"]
    pair = reader_ceiling(table, ("R1", "R2")).iloc[0]
    assert (lab.f1, lab.macro_f1, lab.iou) == pytest.approx((pair.f1, pair.macro_f1, pair.iou))


def test_a_reader_who_saw_nothing_and_left_no_row_counts_when_the_films_are_named():
    """As in the demo cohort: on film b only R1 drew a box, and R2 and R3, who read it too, have no row."""
    table = make([
        ("a", "R1", 3, 0, 0, 10, 10), ("a", "R2", 3, 0, 0, 10, 10), ("a", "R3", 3, 0, 0, 10, 10),
        ("b", "R1", 8, 0, 0, 10, 10), ("c", "R1"), ("c", "R2"), ("c", "R3"),
    ])  # fmt: skip
    trio, rule = ("R1", "R2", "R3"), {"all": {"rule": "keep_all"}}
    guessed = leave_one_out(table, rule, trio).loc["all"]
    named = leave_one_out(table, rule, trio, image_ids=["a", "b", "c"]).loc["all"]
    assert (guessed.n_images, guessed.recall) == (1, 1)
    # Left out R1: hit on a, film b is missed. Left out R2 or R3: the box on b is one too many.
    assert (named.n_images, named.recall) == (2, pytest.approx(3 / 4))
    pairs = reader_ceiling(table, trio, image_ids=["a", "b", "c"])
    assert pairs.n_label_images.tolist() == [3] * 3 and pairs.f1.tolist() == pytest.approx([2 / 3, 2 / 3, 1])
    assert pairs.label_f1.tolist() == pytest.approx([2 / 3, 2 / 3, 1])


def test_a_rule_of_ones_own():
    rules = {"own": lambda rows: rows, "all": {"rule": "keep_all"}}
    table = leave_one_out(random_annotations(2), rules, ("R1", "R2", "R3"))
    assert table.loc["own"].to_dict() == table.loc["all"].to_dict() and table.index.name == "rule"


def test_what_cannot_be_compared_is_refused():
    for call in (leave_one_out, reader_ceiling):
        with pytest.raises(ValueError, match="two or more different readers"):
            call(HAND, readers=("R1", "R1"))
        with pytest.raises(ValueError, match="two or more different readers"):
            call(HAND, readers="R1")
        with pytest.raises(ValueError, match="reader 'R9' has no row; readers in the table: R1, R2, R3"):
            call(HAND, readers=("R1", "R9"))
        with pytest.raises(ValueError, match="no film was read by all of R1, R2"):
            call(HAND[(HAND.rad_id != "R2") | (HAND.image_id == "a")].query("image_id != 'a' or rad_id != 'R1'"),
                 readers=("R1", "R2"))  # fmt: skip
        with pytest.raises(ValueError, match=r"iou must lie in \(0, 1\], found 40"):
            call(HAND, readers=("R1", "R2"), iou=40)
    with pytest.raises(ValueError, match="none of the 1 films read by R1, R2 has a finding"):
        leave_one_out(HAND[HAND.image_id == "c"], readers=("R1", "R2"))


def test_a_class_on_every_film_says_nothing_about_agreement():
    """Class 3 is named by both on both films: its kappa is 0 / 0 and left out; class 8 is agreed on by chance alone."""
    table = make([
        ("a", "R1", 3, 0, 0, 10, 10), ("a", "R2", 3, 0, 0, 10, 10), ("b", "R1", 3, 0, 0, 10, 10),
        ("b", "R2", 3, 0, 0, 10, 10), ("a", "R1", 8, 0, 0, 10, 10), ("b", "R2", 8, 0, 0, 10, 10),
    ])  # fmt: skip
    assert reader_ceiling(table, ("R1", "R2")).label_kappa.tolist() == [-1]


def test_readers_who_never_mark_anything_have_no_score():
    normal = make([("a", "R1"), ("a", "R2")])
    row = reader_ceiling(normal, ("R1", "R2")).iloc[0]
    assert row.n_label_images == 1 and row.n_images == 0
    assert all(
        np.isnan(row[name]) for name in ("precision", "recall", "f1", "macro_f1", "iou", "label_f1", "label_kappa")
    )


# Measured with other code on the packaged annotations: boxes per film, precision, recall, F1, macro F1, IoU.
MEASURED = {
    "keep all": (5.54, 0.314, 0.629, 0.419, 0.363, 0.716),
    "paper, duplicates kept": (5.13, 0.339, 0.627, 0.440, 0.385, 0.709),
    "union, IoU 0.5": (4.27, 0.404, 0.623, 0.490, 0.424, 0.689),
    "one per class, by reader number": (3.02, 0.476, 0.519, 0.496, 0.398, 0.696),
    "NMS, IoU 0.4": (4.14, 0.414, 0.618, 0.496, 0.428, 0.682),
    "WBF, IoU 0.3": (4.04, 0.426, 0.62, 0.505, 0.435, 0.70),
    "WBF, IoU 0.4": (4.14, 0.417, 0.62, 0.500, 0.431, 0.70),
    "WBF, IoU 0.5": (4.27, 0.405, 0.62, 0.492, 0.426, 0.70),
    "WBF, IoU 0.4, drawn by both": (1.40, 0.768, 0.389, 0.516, 0.385, 0.727),
}


@pytest.mark.parametrize("rule", MEASURED)
def test_vindr_leave_one_out_agrees_with_independent_measurements(lab, rule):
    found, wanted = lab.loc[rule], MEASURED[rule]
    # The rules look at boxes in different orders, so WBF and NMS may differ in the third digit.
    tolerance = 0.006 if rule.startswith(("NMS", "WBF")) else 0.001
    assert found.n_images == 4146 and found.boxes_per_image == pytest.approx(wanted[0], abs=0.006)
    columns = ["precision", "recall", "f1", "macro_f1", "iou"]
    assert found[columns].tolist() == pytest.approx(wanted[1:], abs=tolerance)


def test_vindr_readers_agree_as_measured_independently(ceiling, lab):
    ranges = {"f1": (0.49, 0.54), "macro_f1": (0.40, 0.43), "iou": (0.68, 0.70), "label_f1": (0.65, 0.69)}
    for name, wanted in ranges.items():
        assert (ceiling[name].min(), ceiling[name].max()) == pytest.approx(wanted, abs=0.006), name
    assert ceiling.label_macro_f1.mean() == pytest.approx(0.55, abs=0.006)
    assert ceiling.label_kappa.mean() == pytest.approx(0.50, abs=0.006)
    assert ceiling.n_images.tolist() == [4146] * 3 and ceiling.n_label_images.tolist() == [5501] * 3
    assert lab.f1.max() < ceiling.f1.max(), "no rule makes two readers agree with a third better than people do"
