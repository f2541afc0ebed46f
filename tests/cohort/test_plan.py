"""Who has what: as on VinDr-CXR, with enough of each finding."""

import numpy as np
import pandas as pd
import pytest

from cliniqure_utils import cohort
from cliniqure_utils.annotations import label_matrix, make_splits
from cliniqure_utils.cohort import making
from cliniqure_utils.cohort.plan import (
    LEAST_SHARE,
    MOST_FINDINGS,
    Combinations,
    combinations_in,
    plan_patient,
    plan_visits,
    target_shares,
    tilt,
    vindr_combinations,
)
from cliniqure_utils.vocabulary import FINDINGS


@pytest.mark.parametrize("seed", [2024, 7])
def test_plan_follows_vindr(seed):
    planned = np.array([[name in plan_patient(seed, i)[0] for name in FINDINGS] for i in range(600)])
    combinations = vindr_combinations()
    counts, wanted = planned.sum(0), 600 * target_shares(combinations.rate)
    assert np.abs(counts - wanted).max() <= 2.5 and counts.min() >= 42
    # Above the least share, in proportion to the square root of the rate on the real films.
    free = wanted > 600 * LEAST_SHARE
    ratio = counts[free] / np.sqrt(combinations.rate[free])
    assert free.sum() >= 10 and ratio.max() / ratio.min() < 1.06
    n_findings = planned.sum(1)
    assert (n_findings == 0).sum() == 228 and n_findings.max() <= MOST_FINDINGS
    # Findings that come together on real films do so here: ratio of joint share to product of shares, pair by pair.
    sets, weight = combinations.sets.astype(float), combinations.weight
    own = planned[n_findings > 0].astype(float)
    pairs = np.triu_indices(len(FINDINGS), 1)
    real = ((sets * weight[:, None]).T @ sets / np.outer(weight @ sets, weight @ sets))[pairs]
    ours = (own.T @ own / len(own) / np.outer(own.mean(0), own.mean(0)))[pairs]
    assert pd.Series(real).rank().corr(pd.Series(ours).rank()) > 0.8


def test_a_tilted_table_has_the_wanted_shares_and_the_old_odds():
    sets = np.array([[1, 0], [0, 1], [1, 1]], bool)
    combinations = Combinations(np.array([0.1, 0.2]), sets, np.array([0.5, 0.3, 0.2]))
    weight = tilt(combinations, np.array([0.5, 0.8]))
    np.testing.assert_allclose(weight, [0.2, 0.5, 0.3], atol=1e-6)


def test_combinations_count_readers_and_films():
    rows = [("a", "R1", 0), ("a", "R1", 3), ("a", "R1", 3), ("a", "R2", 3), ("b", "R1", 14), ("b", "R2", 14)]
    combinations = combinations_in(pd.DataFrame(rows, columns=["image_id", "rad_id", "class_id"]))
    assert combinations.rate[[0, 3]].tolist() == [0.5, 0.5] and combinations.rate.sum() == 1
    assert [np.flatnonzero(row).tolist() for row in combinations.sets] == [[3], [0, 3]]
    assert combinations.weight.tolist() == [0.5, 0.5]


def test_ages_fit_and_do_not_leave_their_range():
    people = [plan_patient(2024, i) for i in range(600)]
    assert all(18 <= age <= 90 and sex in "FM" for _, age, sex in people)
    mean = {name: np.mean([age for found, age, _ in people if name in found]) for name in FINDINGS}
    assert mean["Aortic enlargement"] > 55 > mean["Pneumothorax"]


def test_split_has_seven_of_each_finding():
    ids = cohort.image_ids(2024, 600)
    plans = [plan for i in range(600) for plan in plan_visits(2024, i)]
    rows = [(i, FINDINGS.index(name)) for i, plan in zip(ids, plans, strict=True) for name in plan]
    labels = label_matrix(pd.DataFrame(rows, columns=["image_id", "class_id"]), ids)
    keys = {making.image_id_of(2024, 5, 1): "one", making.image_id_of(2024, 5): "one"}
    splits = make_splits(ids, labels, keys, seed=2024)
    test = labels.loc[splits.image_id[splits.split == "test"], [*FINDINGS]].sum()
    assert test.min() >= 7
