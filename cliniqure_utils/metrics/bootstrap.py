"""Bootstrap by film: how far a number would move had other films been drawn.

A resample of n films is a row of counts (how often each film was drawn). A metric that is a sum over films is then
one matrix product for all resamples at once, which is why every metric here keeps its parts per film.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), percentile interval.
"""

import numpy as np


def resample_counts(n_images: int, n_resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """Draw `n_resamples` samples of `n_images` films with replacement.

    Returns:
        int64 (n_resamples, n_images): how often each film was drawn; every row sums to n_images.

    Raises:
        ValueError: No film, or no resample.
    """
    if n_images < 1 or n_resamples < 1:
        raise ValueError(f"a bootstrap needs images and resamples, got {n_images} and {n_resamples}")
    return np.random.default_rng(seed).multinomial(n_images, np.full(n_images, 1 / n_images), size=n_resamples)


def percentile_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The central `level` of bootstrap values, (low, high); resamples without a value (NaN) are left out.

    Both ends are NaN when no resample has a value.
    """
    values = np.asarray(values, dtype=float)
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_interval(values, n_resamples: int = 1000, seed: int = 0, level: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high) of one value per film, percentile bootstrap; NaN values are not allowed.

    Give the differences of two systems on the same films for a paired interval.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or np.isnan(values).any():
        raise ValueError("expected one number per image, without NaN")
    resampled = resample_counts(len(values), n_resamples, seed) @ values / len(values)
    return float(values.mean()), *percentile_interval(resampled, level)
