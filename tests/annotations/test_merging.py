"""Merging: table 2 of the paper, an independent brute force, and every rule on boxes counted by hand."""

import numpy as np
import pandas as pd
import pytest

from cliniqure_utils.annotations import (
    fuse_reader_boxes,
    iou_matrix,
    merge_reader_boxes,
)
from cliniqure_utils.annotations.merging import COUNTING_RULES, DUPLICATES, RULES
from cliniqure_utils.vocabulary import BOX, CLASSES

TABLE_2_IMAGE = "0005e8e3701dfb1dd93d53e2ff537b6e"


def make(rows):
    """(image_id, class_id, x_min, y_min, x_max, y_max[, reader]) -> annotations."""
    table = pd.DataFrame([(*r, "R1")[:7] if len(r) == 6 else r for r in rows],
                         columns=["image_id", "class_id", *BOX, "rad_id"])  # fmt: skip
    return table.assign(class_name=[CLASSES[c] for c in table.class_id])


def test_table_2_of_the_paper(vindr):
    merged = merge_reader_boxes(vindr[vindr.image_id == TABLE_2_IMAGE])
    rows = list(zip(*(merged[c] for c in (*BOX, "class_names", "class_labels")), strict=True))
    assert rows == [  # in the order of the printed table
        (900, 583, 1205, 890, "Infiltration, Lung Opacity", [6, 7]),
        (932, 567, 1197, 896, "Consolidation, Nodule/Mass", [4, 8]),
    ]


def test_table_2_normal_films_get_a_whole_film_box(vindr):
    image_id = "000434271f63a053c4128a0ba6352c7f"
    rows = vindr[vindr.image_id == image_id]
    merged = merge_reader_boxes(rows, {image_id: (2336, 2836)})
    assert merged[BOX].to_numpy().tolist() == [[0, 0, 2336, 2836]] and merged.class_labels.tolist() == [[14]]
    assert merge_reader_boxes(rows, no_finding="drop").empty
    with pytest.warns(UserWarning, match="1 films without a finding have no known size"):
        assert merge_reader_boxes(rows)[BOX].isna().all(axis=None)


def brute_force(rows, threshold=0.5, tolerance=0.1):
    """The rule written down once more, as plainly as possible."""
    out = []
    for class_id, *b in sorted(rows):
        for m in out:
            o = m["box"]
            inter = max(0, min(o[2], b[2]) - max(o[0], b[0])) * max(0, min(o[3], b[3]) - max(o[1], b[1]))
            union = (o[2] - o[0]) * (o[3] - o[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
            ratio = abs((o[2] - o[0]) / (o[3] - o[1]) - (b[2] - b[0]) / (b[3] - b[1]))
            if inter / union > threshold and ratio < tolerance:
                m["box"] = [min(o[0], b[0]), min(o[1], b[1]), max(o[2], b[2]), max(o[3], b[3])]
                m["classes"].add(class_id)
                break
        else:
            out.append({"box": b, "classes": {class_id}})
    return [(m["box"], sorted(m["classes"])) for m in out]


def brute_force_duplicates(merged, rule, threshold=0.5):
    """[(box, class ids)] in order of appearance -> what is left of it, sorted."""
    kept = []
    for box, classes in merged:
        same = [b for b, c in kept if c == classes]
        gone = {
            "keep": False,
            "literal": bool(same),
            "overlapping": any(iou_matrix([box], [b])[0, 0] > threshold for b in same),
        }[rule]
        if not gone:
            kept.append((box, classes))
    return sorted(kept)


def random_annotations(seed, n=120):
    """Whole-number corners on a coarse grid, so that equal and touching boxes and equal overlaps occur."""
    rng = np.random.default_rng(seed)
    corner, side = rng.integers(0, 12, (n, 2)) * 5.0, rng.integers(4, 9, (n, 2)) * 5.0
    rows = [(f"i{k % 12}", int(rng.integers(0, 3)), *corner[k], *(corner[k] + side[k])) for k in range(n)]
    return make([(*row, f"R{rng.integers(1, 4)}") for row in rows]).drop_duplicates(ignore_index=True)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("duplicates", DUPLICATES)
def test_merge_equals_the_brute_force_in_any_row_order(seed, duplicates):
    table = random_annotations(seed)
    merged = merge_reader_boxes(table, duplicates=duplicates)
    for image_id, rows in table.groupby("image_id"):
        drawn = {tuple(row) for row in rows[["class_id", *BOX]].to_numpy().tolist()}
        wanted = brute_force_duplicates(brute_force(drawn), duplicates)
        found = merged[merged.image_id == image_id]
        got = list(zip(found[BOX].to_numpy().tolist(), found.class_labels, strict=True))
        assert got == [(list(b), [int(c) for c in cs]) for b, cs in wanted]
    shuffled = table.sample(frac=1, random_state=seed)
    pd.testing.assert_frame_equal(merged, merge_reader_boxes(shuffled, duplicates=duplicates))
    assert merged.image_id.is_monotonic_increasing


def test_duplicate_rules_by_hand():
    # Two overlapping boxes of class 3 whose aspect differs (no merge), and one far away.
    table = make([("a", 3, 0, 0, 100, 100), ("a", 3, 0, 0, 100, 80), ("a", 3, 500, 500, 600, 600)])
    sizes = {rule: len(merge_reader_boxes(table, duplicates=rule)) for rule in DUPLICATES}
    assert sizes == {"keep": 3, "overlapping": 2, "literal": 1}


def test_same_box_under_two_names_becomes_one_row_with_both():
    merged = merge_reader_boxes(make([("a", 3, 0, 0, 9, 9), ("a", 10, 0, 0, 9, 9), ("a", 3, 0, 0, 9, 9)]))
    assert merged.class_names.tolist() == ["Cardiomegaly, Pleural effusion"]


def test_removing_duplicates_before_the_merge_would_delete_57_percent(vindr):
    drawn = len(fuse_reader_boxes(vindr, "keep_all"))
    left = fuse_reader_boxes(vindr, "one_per_class")
    assert (drawn, drawn - len(left)) == (36096, 20731)
    assert not left.duplicated(["image_id", "class_id"]).any()


def test_all_packaged_films_are_merged(vindr):
    sizes = {d: len(merge_reader_boxes(vindr, no_finding="drop", duplicates=d)) for d in DUPLICATES}
    assert abs(sizes["keep"] - 27200) < 100  # "about 27,200" in first-come order, measured independently
    assert sizes == {"keep": 27211, "overlapping": 20821, "literal": 14898}


@pytest.mark.parametrize(
    "rule, n, score",
    [
        ("keep_all", 4, 1 / 3),
        ("one_per_class", 1, 1 / 3),
        ("union", 2, 2 / 3),
        ("nms", 2, 2 / 3),
        ("wbf", 2, 2 / 3),
        ("vote", 1, 2 / 3),
        ("paper", 2, 1),
    ],
)
def test_fusion_rules_by_hand(rule, n, score):
    table = make([
        ("a", 3, 0, 0, 100, 100, "R1"), ("a", 3, 0, 0, 102, 102, "R2"), ("a", 3, 0, 0, 101, 101, "R2"),
        ("a", 3, 500, 500, 600, 600, "R3"),
    ])  # fmt: skip
    fused = fuse_reader_boxes(table, rule)
    assert len(fused) == n and fused.score.max() == pytest.approx(score, abs=1e-6)
    assert (fused.score <= 1).all(), "two boxes of one reader do not make two readers"


def test_a_finding_of_one_reader_outweighs_no_finding_of_another():
    merged = merge_reader_boxes(make([("a", 14, *[np.nan] * 4, "R1"), ("a", 3, 0, 0, 9, 9, "R2")]), {"a": (50, 50)})
    assert merged.class_labels.tolist() == [[3]]


@pytest.mark.parametrize("box", [(0, 0, np.nan, 9), (5, 0, 5, 9), (9, 0, 5, 9)])
def test_boxes_that_would_spoil_the_merge_are_refused(box):
    table = make([("a", 3, 0, 0, 9, 9), ("film", 3, *box)])
    for call in (merge_reader_boxes, lambda t: fuse_reader_boxes(t, "union")):
        with pytest.raises(ValueError, match="1 findings have no usable box, the first on film film"):
            call(table)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rule", RULES)
def test_fusion_does_not_depend_on_the_order_of_rows_or_on_other_films(rule, seed):
    table = random_annotations(seed)
    fused = fuse_reader_boxes(table, rule)
    pd.testing.assert_frame_equal(fused, fuse_reader_boxes(table.sample(frac=1, random_state=seed), rule))
    one_by_one = [fuse_reader_boxes(rows, rule) for _, rows in table.groupby("image_id")]
    pd.testing.assert_frame_equal(fused, pd.concat(one_by_one, ignore_index=True))
    assert fused.score.between(0, 1, inclusive="right").all()


def slow_fusion(rows, rule, threshold):
    """Boxes and readers of one film and class, sorted by coordinates -> {(box, number of readers)}."""
    groups = []
    for *box, reader in rows:
        for group in groups:
            if iou_matrix([group["box"]], [box])[0, 0] > threshold:
                both = np.array([group["box"], box])
                if rule != "nms":
                    group["box"] = [*both[:, :2].min(0), *both[:, 2:].max(0)]
                group["readers"].add(reader)
                break
        else:
            groups.append({"box": box, "readers": {reader}})
    least = 2 if rule == "vote" else 1
    return sorted((*map(float, g["box"]), len(g["readers"])) for g in groups if len(g["readers"]) >= least)


@pytest.mark.parametrize("rule", ["union", "vote", "nms"])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5])
def test_fusion_equals_a_slow_one(rule, threshold):
    table = random_annotations(7)
    fused = fuse_reader_boxes(table, rule, iou_threshold=threshold)
    readers = table.groupby("image_id").rad_id.nunique()
    for (image_id, class_id), rows in table.groupby(["image_id", "class_id"]):
        wanted = slow_fusion(rows.sort_values([*BOX, "rad_id"])[[*BOX, "rad_id"]].to_numpy().tolist(), rule, threshold)
        found = fused[(fused.image_id == image_id) & (fused.class_id == class_id)]
        behind = (found.score * readers[image_id]).round(9)
        assert list(zip(*(found[c] for c in BOX), behind, strict=True)) == wanted


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_weighted_fusion_equals_the_plain_rule(threshold):
    """A box joins the group whose mean it overlaps most, in order of coordinates; written without the library."""
    rng = np.random.default_rng(11)
    centre = rng.integers(0, 3, (200, 2)) * 12 + rng.normal(0, 3, (200, 2))
    corners = np.concatenate([centre - rng.uniform(8, 12, (200, 2)), centre + rng.uniform(8, 12, (200, 2))], 1) + 40
    table = make([(f"i{n % 9}", n % 2, *corners[n], f"R{rng.integers(1, 4)}") for n in range(200)])
    fused = fuse_reader_boxes(table, "wbf", iou_threshold=threshold)
    n_readers = table.groupby("image_id").rad_id.nunique()
    sizes = []
    for (image_id, class_id), rows in table.groupby(["image_id", "class_id"]):
        groups = []
        for *box, reader in rows.sort_values([*BOX, "rad_id"])[[*BOX, "rad_id"]].to_numpy().tolist():
            overlaps = [iou_matrix([np.mean(g["boxes"], 0)], [box])[0, 0] for g in groups]
            if overlaps and max(overlaps) > threshold:
                best = groups[int(np.argmax(overlaps))]
                best["boxes"].append(box)
                best["readers"].add(reader)
            else:
                groups.append({"boxes": [box], "readers": {reader}})
        sizes += [len(g["boxes"]) for g in groups]
        wanted = np.array(
            sorted([*np.mean(g["boxes"], 0), len(g["readers"]) / n_readers[image_id]] for g in groups), float
        )
        found = fused[(fused.image_id == image_id) & (fused.class_id == class_id)]
        np.testing.assert_allclose(found[[*BOX, "score"]], wanted, atol=1e-4)
    assert max(sizes) > 2, "groups of three or more go through the library"


def test_weighted_fusion_by_hand():
    three = [("a", 3, 0, 0, 100, 100, "R1"), ("a", 3, 6, 0, 106, 100, "R2"), ("a", 3, 9, 9, 109, 109, "R3")]
    fused = fuse_reader_boxes(make(three), "wbf")
    np.testing.assert_allclose(fused[[*BOX, "score"]], [[5, 3, 105, 103, 1]], atol=1e-4)
    # Coordinates below 0, which the library alone would cut off, and two boxes that never reach it.
    moved = make(three).assign(**{name: make(three)[name] - 50 for name in BOX})
    np.testing.assert_allclose(fuse_reader_boxes(moved, "wbf")[BOX], [[-45, -47, 55, 53]], atol=1e-4)
    pair = fuse_reader_boxes(make(three[:2]), "wbf")
    assert pair[[*BOX, "score"]].to_numpy().tolist() == [[3, 0, 103, 100, 1]]
    one_reader = make([(*row[:6], "R1") for row in three[:2]] + [("a", 14, *[np.nan] * 4, "R2")])
    assert fuse_reader_boxes(one_reader, "wbf").score.tolist() == [0.5]


@pytest.mark.parametrize("rule, n_of_three", [("union", 1), ("vote", 1), ("nms", 2), ("wbf", 2)])
def test_an_overlap_of_exactly_the_threshold_does_not_join(rule, n_of_three):
    half = [("a", 3, 0, 0, 10, 10, "R1"), ("a", 3, 0, 0, 10, 5, "R2"), ("a", 3, 0, 5, 10, 10, "R3")]
    for rows, n_below in ((half[:2], 1), (half, n_of_three)):  # a hull takes in both halves, a mean only the first
        as_drawn = fuse_reader_boxes(make(rows), rule, min_readers=1)
        assert as_drawn[BOX].to_numpy().tolist() == sorted(list(row[2:6]) for row in rows)
        assert len(fuse_reader_boxes(make(rows), rule, iou_threshold=0.49, min_readers=1)) == n_below


@pytest.mark.parametrize("rule", COUNTING_RULES)
def test_min_readers_filters_by_the_readers_behind_a_box(rule):
    table = random_annotations(5)
    every = fuse_reader_boxes(table, rule, min_readers=1)
    behind = (every.score * every.image_id.map(table.groupby("image_id").rad_id.nunique())).round()
    kept = fuse_reader_boxes(table, rule, min_readers=2)
    pd.testing.assert_frame_equal(kept, every[behind >= 2].reset_index(drop=True))
    assert 0 < len(kept) < len(every)


@pytest.mark.parametrize("rule", ["paper", "keep_all", "one_per_class"])
def test_rules_that_do_not_count_readers_refuse_to_ask_for_two(rule):
    with pytest.raises(ValueError, match=f"rule '{rule}' cannot ask for min_readers=2"):
        fuse_reader_boxes(random_annotations(5), rule, min_readers=2)


@pytest.mark.parametrize("rule", RULES)
def test_a_box_alone_stays_as_it_was_drawn(rule):
    fused = fuse_reader_boxes(
        make([("a", 8, 0.1, 0.2, 0.3, 0.7, "R2"), ("a", 14, *[np.nan] * 4, "R1")]), rule, min_readers=1
    )
    assert fused[["class_name", *BOX]].to_numpy().tolist() == [["Nodule/Mass", 0.1, 0.2, 0.3, 0.7]]
    assert fused.score.tolist() == [1.0 if rule == "paper" else 0.5], "a reader who wrote 'No finding' is a reader"


def test_boxes_per_film_of_every_rule_agree_with_independent_counts(vindr):
    """Two of the readers R8, R9, R10 fused, averaged over the reader left out; counted with other code."""
    readers = vindr.groupby("image_id").rad_id.agg(lambda r: frozenset(r))
    abnormal = vindr[vindr.class_id != 14].image_id.unique()
    films = readers.index[(readers == frozenset(["R8", "R9", "R10"])) & readers.index.isin(abnormal)]
    assert len(films) == 4146
    chosen = vindr[vindr.image_id.isin(films)]

    def per_film(rule, **options):
        n = sum(len(fuse_reader_boxes(chosen[chosen.rad_id != out], rule, **options)) for out in ("R8", "R9", "R10"))
        return round(n / len(films) / 3, 2)

    assert per_film("keep_all") == 5.54
    assert per_film("paper", duplicates="keep") == 5.13
    assert per_film("union") == 4.27
    assert per_film("nms", iou_threshold=0.4) == 4.14
    assert per_film("wbf", iou_threshold=0.4) == 4.14
    assert per_film("vote", iou_threshold=0.4) == 1.40


def test_a_table_without_findings_stays_a_table_of_numbers():
    normal = make([("a", 14, *[np.nan] * 4)])
    for table in (normal, normal[:0]):
        results = [merge_reader_boxes(table, no_finding="drop")]
        results += [fuse_reader_boxes(table, rule) for rule in RULES]
        for empty in results:
            assert empty.empty and all(empty[name].dtype == float for name in BOX)


def test_unknown_options_are_refused():
    table = make([("a", 3, 0, 0, 9, 9)])
    with pytest.raises(ValueError, match="unknown rule 'magic'"):
        fuse_reader_boxes(table, "magic")
    with pytest.raises(ValueError, match="duplicates must be one of"):
        merge_reader_boxes(table, duplicates="some")
    with pytest.raises(ValueError, match="no_finding must be"):
        merge_reader_boxes(table, no_finding="maybe")
    for call in (merge_reader_boxes, lambda t, **options: fuse_reader_boxes(t, "wbf", **options)):
        with pytest.raises(ValueError, match=r"iou_threshold must lie in \[0, 1\], found 50"):
            call(table, iou_threshold=50)
        with pytest.raises(ValueError, match="aspect_tolerance must be 0 or more, found -1"):
            call(table, aspect_tolerance=-1)
        with pytest.raises(ValueError, match="class ids must be 0 to 14, found -1"):
            call(table.assign(class_id=-1))
    with pytest.raises(ValueError, match="cannot ask for min_readers=0"):
        fuse_reader_boxes(table, "union", min_readers=0)
