"""Is one model better than another on the same films? Paired differences, a permutation test, many comparisons.

Both models see the same films, so a film that is easy for both says nothing: only the differences count. Each
comparison gives an interval (bootstrap by film) and a p value (under the hypothesis that the two models' answers to a
film could be swapped, how often would a difference this large come about?). With m comparisons at 5% each, about
m/20 look good by luck: `holm` corrects the p values for that.
"""

from collections.abc import Mapping

import numpy as np

from cliniqure_utils.metrics.bootstrap import percentile_interval, resample_counts


def paired_difference(values_a, values_b, n_resamples: int = 1000, seed: int = 0) -> dict[str, float]:
    """Compare two systems by one value per film, such as an F1 or a BERTScore.

    Args:
        values_a, values_b: float (n,), same films in the same order, no NaN.
        n_resamples: Resamples of the bootstrap and flips of the test.
        seed: Seed of both.

    Returns:
        difference (mean of a - b), low, high (95% percentile interval), p (two-sided sign-flip test, at least
        1 / (n_resamples + 1)), n.

    Raises:
        ValueError: Lengths differ, no film, or a NaN.

    Source: Efron and Tibshirani 1993, chapters 13 and 15; p with the observed value counted in (Phipson, Smyth 2010).
    """
    a, b = np.asarray(values_a, dtype=float), np.asarray(values_b, dtype=float)
    if a.ndim != 1 or a.shape != b.shape or len(a) == 0 or np.isnan(a).any() or np.isnan(b).any():
        raise ValueError(f"expected one number per image and system, without NaN, found shapes {a.shape} and {b.shape}")
    difference = a - b
    resampled = resample_counts(len(a), n_resamples, seed) @ difference / len(a)
    flips = random_signs(n_resamples, len(a), seed) @ difference / len(a)
    low, high = percentile_interval(resampled)
    mean = float(difference.mean())
    return {"difference": mean, "low": low, "high": high, "p": p_value(mean, flips), "n": len(a)}


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p values corrected for their number: name -> the least level at which it would still be called significant.

    Keeps the chance of even one false positive at the level, whatever the dependence. Same names and order, in [0, 1].

    Source: Holm 1979, Scandinavian Journal of Statistics 6:65-70.
    """
    names = sorted(p_values, key=p_values.get)
    adjusted, largest = {}, 0.0
    for rank, name in enumerate(names):
        largest = max(largest, min((len(names) - rank) * p_values[name], 1.0))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def random_signs(n_flips: int, n_images: int, seed: int) -> np.ndarray:
    """Which films' answers are swapped between two systems: -1 or 1, float (n_flips, n_images)."""
    return np.random.default_rng([seed, 1]).integers(0, 2, size=(n_flips, n_images)) * 2.0 - 1


def p_value(observed: float, under_null: np.ndarray) -> float:
    """Two-sided: how often a difference at least as large comes about by swapping; the observed one counts as once.

    Swaps without a value (NaN) are left out; NaN where the observed difference has none.
    """
    under_null = under_null[~np.isnan(under_null)]
    if np.isnan(observed):
        return float("nan")
    # Sums in another order differ in the last digit, and an exact tie counts as "at least as large".
    return float((1 + (np.abs(under_null) >= abs(observed) - 1e-12).sum()) / (1 + len(under_null)))
