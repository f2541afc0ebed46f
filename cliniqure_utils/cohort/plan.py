"""The plan of a cohort: which patient has which findings, at rates and in combinations measured on VinDr-CXR.

Two things are measured on the packaged annotations when they are needed, and no row of them is kept: how often any
reader names a finding on a film, and which findings one reader names together. The cohort holds each finding in
proportion to the square root of its rate there, since at VinDr's own rates 600 patients would hold four pneumothoraces.
Which findings come together stays as it is there, by exponential tilting: of all tables with the wanted rates, the one
closest to VinDr's is taken.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from cliniqure_utils.annotations import vindr_annotations
from cliniqure_utils.vocabulary import FINDINGS

BLOCK = 600  # patients that are planned together, so that each finding is there as often as it should be
NORMAL_SHARE = 0.38  # films planned without a finding; VinDr-CXR .71, with too few of each finding in a small cohort
SCALE = 0.46  # planned share of films with a finding = SCALE * sqrt(its rate in VinDr-CXR) ...
LEAST_SHARE = 0.072  # ... but at least this: 43 of 600, of which a fifth, the test split, are more than 7
MOST_FINDINGS = 6  # on one film
FOLLOW_UP_EVERY, FOLLOW_UP_FIRST = 40, 5  # patients 5, 45, 85 ... have a second film, whatever their findings
CHRONIC = frozenset(
    {
        "Aortic enlargement", "Calcification", "Cardiomegaly", "ILD", "Nodule/Mass", "Other lesion",
        "Pleural thickening", "Pulmonary fibrosis",
    }
)  # fmt: skip
HEALED = 0.6  # chance that any other finding is gone on the second film
# Years by which the mean age of patients with a finding differs from 50: a large aorta or heart comes with age, a
# pneumothorax often in the young.
AGE_SHIFT = {
    "Aortic enlargement": 11, "Cardiomegaly": 8, "Pulmonary fibrosis": 6, "Calcification": 6, "ILD": 5,
    "Pleural thickening": 4, "Pleural effusion": 3, "Pneumothorax": -14, "Infiltration": -4,
}  # fmt: skip


@dataclass(frozen=True)
class Combinations:
    """Which findings a reader of VinDr-CXR names together, and how often any reader names each.

    Attributes:
        rate: (14,) share of films on which any reader names the finding.
        sets: (n, 14) bool, every different set of findings that one reader named on one film, without the empty one.
        weight: (n,) how often, adds to 1.
    """

    rate: np.ndarray
    sets: np.ndarray
    weight: np.ndarray


@lru_cache(maxsize=1)
def vindr_combinations() -> Combinations:
    """Measure VinDr-CXR's packaged annotations (half a second, once per process)."""
    return combinations_in(vindr_annotations())


def combinations_in(annotations: pd.DataFrame) -> Combinations:
    """As `vindr_combinations`, of any annotations in the form of `annotations.read_annotations`."""
    found = annotations[annotations.class_id < len(FINDINGS)]
    n_films = annotations.image_id.nunique()
    rate = found.groupby("class_id").image_id.nunique().reindex(range(len(FINDINGS)), fill_value=0) / n_films
    named = found[["image_id", "rad_id", "class_id"]].drop_duplicates()
    codes = (2 ** named.class_id.astype(int)).groupby([named.image_id, named.rad_id]).sum()
    code, count = np.unique(codes.to_numpy(), return_counts=True)
    sets = (code[:, None] >> np.arange(len(FINDINGS)) & 1).astype(bool)
    kept = sets.sum(1) <= MOST_FINDINGS
    return Combinations(rate.to_numpy(float), sets[kept], count[kept] / count[kept].sum())


def target_shares(rate: np.ndarray) -> np.ndarray:
    """Planned share of films with each finding, from its rate in VinDr-CXR."""
    return np.maximum(SCALE * np.sqrt(rate), LEAST_SHARE)


def tilt(combinations: Combinations, wanted: np.ndarray) -> np.ndarray:
    """Weights of the sets under which each finding has the `wanted` share, as close to VinDr-CXR's as that allows.

    Each set's weight is multiplied by one factor per finding in it; the factors come from Newton's method on the convex
    dual. Source: Csiszár 1975, Annals of Probability 3:146-158 (I-projection).
    """
    sets = combinations.sets.astype(float)
    factors = np.zeros(sets.shape[1])
    for _ in range(100):
        score = sets @ factors + np.log(combinations.weight)
        weight = np.exp(score - score.max())
        weight /= weight.sum()
        mean = weight @ sets
        gap = wanted - mean
        if np.abs(gap).max() < 1e-9:
            break
        spread = (sets * weight[:, None]).T @ sets - np.outer(mean, mean)
        step = np.linalg.solve(spread + 1e-9 * np.eye(len(mean)), gap)
        factors += step / max(1.0, np.abs(step).max() / 2)  # never more than two at once: stays where it converges
    return weight


@lru_cache(maxsize=4)
def plan_block(seed: int, block: int) -> tuple[tuple[str, ...], ...]:
    """Findings of BLOCK patients, in class-id order: each finding as often as `target_shares` says, to within two.

    Sets are drawn from the tilted table; then single patients are drawn anew where that brings the counts closer.
    """
    combinations = vindr_combinations()
    shares = target_shares(combinations.rate)
    rng = np.random.default_rng([seed, block, 20])
    n_abnormal = round(BLOCK * (1 - NORMAL_SHARE))
    weight = tilt(combinations, shares / (1 - NORMAL_SHARE))
    wanted = np.round(shares * BLOCK)
    drawn = combinations.sets[rng.choice(len(weight), n_abnormal, p=weight)]
    proposals = combinations.sets[rng.choice(len(weight), 20_000, p=weight)]
    places = rng.integers(n_abnormal, size=len(proposals))
    counts = drawn.sum(0).astype(float)
    for place, proposal in zip(places, proposals, strict=True):
        changed = counts + proposal - drawn[place]
        if np.abs(changed - wanted).sum() < np.abs(counts - wanted).sum():
            counts, drawn[place] = changed, proposal
    patients = np.zeros((BLOCK, len(FINDINGS)), bool)
    patients[rng.permutation(BLOCK)[:n_abnormal]] = drawn
    return tuple(tuple(name for name, has in zip(FINDINGS, row, strict=True) if has) for row in patients)


def plan_patient(seed: int, index: int) -> tuple[list[str], int, str]:
    """What a patient's film shall show, in class-id order, and age in years and sex ("F", "M").

    Which of the planned findings can be seen, and whether heart or aorta measure as large without a plan, is decided by
    the simulation.
    """
    findings = list(plan_block(seed, index // BLOCK)[index % BLOCK])
    # A generator for each purpose, so that nothing else about a film depends on its findings.
    person = np.random.default_rng([seed, index, 11])
    shifts = [AGE_SHIFT.get(name, 0) for name in findings]
    mean = 50 + (max(shifts) if min(shifts, default=0) >= 0 else min(shifts)) if shifts else 48
    age, sex = int(np.clip(person.normal(mean, 14), 18, 90)), "F" if person.random() < 0.45 else "M"
    return findings, age, sex


def plan_visits(seed: int, index: int) -> list[list[str]]:
    """Planned findings of each of a patient's films: one, or for a few patients two, weeks apart."""
    findings = plan_patient(seed, index)[0]
    if not has_follow_up(index):
        return [findings]
    chance = np.random.default_rng([seed, index, 16]).random(len(FINDINGS))
    left = [name for name in findings if name in CHRONIC or chance[FINDINGS.index(name)] > HEALED]
    return [findings, left]


def has_follow_up(index: int) -> bool:
    """Whether a patient has a second film."""
    return index % FOLLOW_UP_EVERY == FOLLOW_UP_FIRST
