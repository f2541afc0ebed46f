"""Merging: table 2 of the paper, an independent brute force, and every rule on boxes counted by hand."""

import time

import numpy as np
import pandas as pd
import pytest

from cliniqure_utils import boxes, vindr

BOX = vindr.BOX
TABLE_2_IMAGE = "0005e8e3701dfb1dd93d53e2ff537b6e"


@pytest.fixture(scope="module")
def packaged():
    return vindr.read_annotations("torchxrayvision")[0]


def make(rows):
    """(image_id, class_id, x_min, y_min, x_max, y_max[, reader]) -> annotations."""
    table = pd.DataFrame([(*r, "R1")[:7] if len(r) == 6 else r for r in rows],
                         columns=["image_id", "class_id", *BOX, "rad_id"])  # fmt: skip
    return table.assign(class_name=[boxes.NAMES[c] for c in table.class_id])


def test_iou_by_hand():
    found = boxes.iou_matrix([[0, 0, 10, 10]], [[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [10, 0, 20, 10]])
    np.testing.assert_allclose(found, [[1, 1 / 3, 0, 0]])
    assert boxes.iou_matrix(np.zeros((0, 4)), [[0, 0, 1, 1]]).shape == (0, 1)


def test_rescale_there_and_back():
    moved = boxes.rescale_boxes([[30, 40, 34, 44], [np.nan] * 4], (144, 180), (224, 224))
    np.testing.assert_allclose(moved[0], [46.67, 49.78, 52.89, 54.76], atol=0.01)
    assert np.isnan(moved[1]).all()
    np.testing.assert_allclose(boxes.rescale_boxes(moved, (224, 224), (144, 180))[0], [30, 40, 34, 44])


def test_table_2_of_the_paper(packaged):
    merged = boxes.merge_reader_boxes(packaged[packaged.image_id == TABLE_2_IMAGE])
    rows = list(zip(*(merged[c] for c in (*BOX, "class_names", "class_labels")), strict=True))
    assert rows == [  # in the order of the printed table
        (900, 583, 1205, 890, "Infiltration, Lung Opacity", [6, 7]),
        (932, 567, 1197, 896, "Consolidation, Nodule/Mass", [4, 8]),
    ]


def test_table_2_normal_films_get_a_whole_film_box(packaged):
    image_id = "000434271f63a053c4128a0ba6352c7f"
    rows = packaged[packaged.image_id == image_id]
    merged = boxes.merge_reader_boxes(rows, {image_id: (2336, 2836)})
    assert merged[BOX].to_numpy().tolist() == [[0, 0, 2336, 2836]] and merged.class_labels.tolist() == [[14]]
    assert boxes.merge_reader_boxes(rows, no_finding="drop").empty
    with pytest.warns(UserWarning, match="1 films without a finding have no known size"):
        assert boxes.merge_reader_boxes(rows)[BOX].isna().all(axis=None)


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
    return sorted((m["box"], sorted(m["classes"])) for m in out)


def random_annotations(seed, n=120):
    rng = np.random.default_rng(seed)
    corner, side = rng.uniform(0, 60, (n, 2)), rng.uniform(20, 40, (n, 2))
    return make([(f"i{k % 12}", int(rng.integers(0, 3)), *corner[k], *(corner[k] + side[k])) for k in range(n)])


@pytest.mark.parametrize("seed", range(5))
def test_merge_equals_the_brute_force_in_any_row_order(seed):
    table = random_annotations(seed)
    merged = boxes.merge_reader_boxes(table, duplicates="keep")
    for image_id, rows in table.groupby("image_id"):
        wanted = brute_force(rows[["class_id", *BOX]].to_numpy().tolist())
        found = merged[merged.image_id == image_id]
        got = sorted(zip(found[BOX].to_numpy().tolist(), found.class_labels, strict=True))
        assert [(b, [float(c) for c in cs]) for b, cs in got] == [(b, cs) for b, cs in wanted]
    shuffled = table.sample(frac=1, random_state=seed)
    pd.testing.assert_frame_equal(merged, boxes.merge_reader_boxes(shuffled, duplicates="keep"))
    assert merged.image_id.is_monotonic_increasing


def test_duplicate_rules_by_hand():
    # Two overlapping boxes of class 3 whose aspect differs (no merge), and one far away.
    table = make([("a", 3, 0, 0, 100, 100), ("a", 3, 0, 0, 100, 80), ("a", 3, 500, 500, 600, 600)])
    sizes = {rule: len(boxes.merge_reader_boxes(table, duplicates=rule)) for rule in boxes.DUPLICATES}
    assert sizes == {"keep": 3, "overlapping": 2, "literal": 1}


def test_same_box_under_two_names_becomes_one_row_with_both():
    merged = boxes.merge_reader_boxes(make([("a", 3, 0, 0, 9, 9), ("a", 10, 0, 0, 9, 9), ("a", 3, 0, 0, 9, 9)]))
    assert merged.class_names.tolist() == ["Cardiomegaly, Pleural effusion"]


def test_removing_duplicates_before_the_merge_would_delete_57_percent(packaged):
    findings = packaged[packaged.class_id != 14]
    assert int(findings.duplicated(["image_id", "class_name"]).sum()) == 20731


def test_all_packaged_films_are_merged_in_seconds(packaged):
    started = time.process_time()
    merged = boxes.merge_reader_boxes(packaged, no_finding="drop", duplicates="keep")
    assert time.process_time() - started < 2
    assert abs(len(merged) - 27200) < 100  # "about 27,200" in first-come order, measured independently


@pytest.mark.parametrize(
    "rule, n, score",
    [
        ("keep_all", 4, 1 / 3),
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
    fused = boxes.fuse_reader_boxes(table, rule)
    assert len(fused) == n and fused.score.max() == pytest.approx(score, abs=1e-6)
    assert (fused.score <= 1).all(), "two boxes of one reader do not make two readers"


def test_a_finding_of_one_reader_outweighs_no_finding_of_another():
    merged = boxes.merge_reader_boxes(
        make([("a", 14, *[np.nan] * 4, "R1"), ("a", 3, 0, 0, 9, 9, "R2")]), {"a": (50, 50)}
    )
    assert merged.class_labels.tolist() == [[3]]


@pytest.mark.parametrize("box", [(0, 0, np.nan, 9), (5, 0, 5, 9), (9, 0, 5, 9)])
def test_boxes_that_would_spoil_the_merge_are_refused(box):
    table = make([("a", 3, 0, 0, 9, 9), ("film", 3, *box)])
    for call in (boxes.merge_reader_boxes, lambda t: boxes.fuse_reader_boxes(t, "union")):
        with pytest.raises(ValueError, match="1 findings have no usable box, the first on film film"):
            call(table)


@pytest.mark.parametrize("rule", boxes.RULES)
def test_fusion_does_not_depend_on_the_order_of_rows(rule):
    table = random_annotations(3).assign(rad_id=lambda t: [f"R{k % 3}" for k in range(len(t))])
    shuffled = table.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(boxes.fuse_reader_boxes(table, rule), boxes.fuse_reader_boxes(shuffled, rule))


def test_boxes_per_film_of_every_rule_agree_with_independent_counts(packaged):
    """Two of the readers R8, R9, R10 fused, averaged over the reader left out; counted with other code."""
    readers = packaged.groupby("image_id").rad_id.agg(lambda r: frozenset(r))
    abnormal = packaged[packaged.class_id != 14].image_id.unique()
    films = readers.index[(readers == frozenset(["R8", "R9", "R10"])) & readers.index.isin(abnormal)]
    assert len(films) == 4146
    chosen = packaged[packaged.image_id.isin(films)]

    def per_film(rule, **options):
        n = sum(
            len(boxes.fuse_reader_boxes(chosen[chosen.rad_id != out], rule, **options)) for out in ("R8", "R9", "R10")
        )
        return round(n / len(films) / 3, 2)

    assert per_film("keep_all") == 5.54
    assert per_film("paper", duplicates="keep") == 5.13
    assert per_film("union") == 4.27
    assert per_film("nms", iou_threshold=0.4) == 4.14
    assert per_film("wbf", iou_threshold=0.4) == 4.14
    assert per_film("vote", iou_threshold=0.4) == 1.40


def test_a_table_without_findings_stays_a_table_of_numbers():
    normal = make([("a", 14, *[np.nan] * 4)])
    for empty in (boxes.merge_reader_boxes(normal, no_finding="drop"), boxes.fuse_reader_boxes(normal, "wbf")):
        assert empty.empty and all(empty[name].dtype == float for name in BOX)


def test_unknown_options_are_refused():
    table = make([("a", 3, 0, 0, 9, 9)])
    with pytest.raises(ValueError, match="unknown rule 'magic'"):
        boxes.fuse_reader_boxes(table, "magic")
    with pytest.raises(ValueError, match="duplicates must be one of"):
        boxes.merge_reader_boxes(table, duplicates="some")
    with pytest.raises(ValueError, match="no_finding must be"):
        boxes.merge_reader_boxes(table, no_finding="maybe")
