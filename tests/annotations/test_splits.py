"""Splits: patients stay together, every finding is dealt evenly, row order does not matter."""

import numpy as np
import pandas as pd
import pytest

from cliniqure_utils.annotations import make_splits
from cliniqure_utils.vocabulary import FINDINGS


def make_labels(n=200, seed=0):
    rng = np.random.default_rng(seed)
    ids = [f"i{k:03d}" for k in range(n)]
    matrix = (rng.random((n, 14)) < 0.1).astype(int)
    table = pd.DataFrame(np.c_[matrix, ~matrix.any(1)].astype(int), ids, [*FINDINGS, "No finding"])
    return ids, table


def test_splits_keep_patients_together_and_ignore_row_order():
    ids, labels = make_labels()
    keys = {i: f"p{int(i[1:]) // 2}" for i in ids}
    splits = make_splits(ids, labels, keys, seed=1)
    assert splits.groupby("patient_key").split.nunique().max() == 1
    again = make_splits(ids[::-1], labels.iloc[::-1], keys, seed=1)
    pd.testing.assert_frame_equal(splits, again)
    assert not splits.split.equals(make_splits(ids, labels, keys, seed=2).split)


def test_splits_deal_every_finding_evenly():
    ids, labels = make_labels()
    splits = make_splits(ids, labels, {}, seed=1)
    share = splits.split.value_counts(normalize=True)
    assert abs(share["train"] - 0.7) < 0.03 and abs(share["test"] - 0.2) < 0.03
    in_test = labels.loc[splits.image_id][(splits.split == "test").to_numpy()].sum()
    assert (abs(in_test - 0.2 * labels.sum()) <= 4).all(), "a finding misses its share by more than four films"
    paper = make_splits(ids, labels, {}, seed=1, fractions=(0.8, 0.2, 0))
    assert set(paper.split) == {"train", "val"}


def test_films_that_look_the_same_share_a_split():
    ids, labels = make_labels(40)
    twins = {"i003": "x", "i017": "x", "i018": "x", "i030": "y", "i031": "y"}
    patients = {"i003": "p", "i004": "p"}  # i004 hangs on i003, which hangs on i017
    for seed in range(5):
        split = make_splits(ids, labels, patients, seed, together=twins).set_index("image_id").split
        assert split[["i003", "i004", "i017", "i018"]].nunique() == 1 and split["i030"] == split["i031"]


def test_every_split_gets_a_patient_even_of_three():
    ids, labels = make_labels(3)
    assert set(make_splits(ids, labels, {}, 0).split) == {"train", "val", "test"}
    assert set(make_splits(ids, labels, dict.fromkeys(ids, "one"), 0).split) == {"train"}


def test_patients_without_a_key_are_patients_of_their_own():
    ids, labels = make_labels(30)
    plain = make_splits(ids, labels, {}, 0)
    for nothing in (None, "", float("nan")):
        pd.testing.assert_frame_equal(make_splits(ids, labels, dict.fromkeys(ids, nothing), 0), plain)
    pd.testing.assert_frame_equal(make_splits(ids + ids[:9], labels, {}, 0), plain)
    assert plain.split.isin(["train", "val", "test"]).all() and plain.image_id.tolist() == ids
    numbered = make_splits(ids, labels, {i: n // 3 for n, i in enumerate(ids)}, 0, together={"i000": "t"})
    assert numbered.patient_key.nunique() == 10 and numbered.groupby("patient_key").split.nunique().max() == 1
    with pytest.raises(ValueError, match="1 films have no row of labels, the first is 'stranger'"):
        make_splits([*ids, "stranger"], labels, {}, 0)
