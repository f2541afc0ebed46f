"""Calibration of probabilities: of all answers given with 80%, are four in five right?"""

import numpy as np
import pandas as pd

from cliniqure_utils.ratios import ratio


def reliability(*, references, probabilities, n_bins: int = 10) -> pd.DataFrame:
    """Answers grouped by their probability.

    Args:
        references: 0/1, any shape: what is there.
        probabilities: The same shape, in [0, 1].
        n_bins: Groups of equal width; a value on an edge belongs to the group above it, 1 to the last.

    Returns:
        One row per group: low, high (edges), n (answers), confidence (mean probability), frequency (share of them that
        are there); NaN in an empty group.

    Raises:
        ValueError: Shapes differ, nothing is given, or a value is out of range.

    Source: DeGroot and Fienberg 1983.
    """
    references, probabilities = np.asarray(references, dtype=float), np.asarray(probabilities, dtype=float)
    if references.shape != probabilities.shape or references.size == 0:
        raise ValueError(
            f"expected references and probabilities of one shape, found {references.shape} and {probabilities.shape}"
        )
    if not (np.isin(references, (0, 1)).all() and ((probabilities >= 0) & (probabilities <= 1)).all()):
        raise ValueError("references must be 0 or 1, probabilities must lie in [0, 1]")
    place = np.minimum((probabilities.ravel() * n_bins).astype(int), n_bins - 1)
    n = np.bincount(place, minlength=n_bins)
    sums = [np.bincount(place, values.ravel(), minlength=n_bins) for values in (probabilities, references)]
    confidence, frequency = (ratio(total, n) for total in sums)
    edges = np.linspace(0, 1, n_bins + 1)
    return pd.DataFrame(
        {"low": edges[:-1], "high": edges[1:], "n": n, "confidence": confidence, "frequency": frequency}
    )


def calibration_error(*, references, probabilities, n_bins: int = 10) -> dict[str, float]:
    """How far probabilities lie from frequencies.

    Returns:
        ece: the mean gap between confidence and frequency over the groups of `reliability`, weighted by their size;
        brier: the mean squared error of the probabilities; brier_prior: the same if each class (the last axis) is
        always given its frequency, the best value without looking at a film. All in [0, 1], 0 is best.

    Source: Naeini et al. 2015 (expected calibration error); Brier 1950.
    """
    table = reliability(references=references, probabilities=probabilities, n_bins=n_bins)
    references, probabilities = np.asarray(references, dtype=float), np.asarray(probabilities, dtype=float)
    prior = references.mean(0, keepdims=True)
    gap = (table.confidence - table.frequency).abs().fillna(0)
    return {
        "ece": float((gap * table.n).sum() / table.n.sum()),
        "brier": float(((probabilities - references) ** 2).mean()),
        "brier_prior": float(((prior - references) ** 2).mean()),
    }
