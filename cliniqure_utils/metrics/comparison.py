"""Is one model better than another on the same images? Paired differences, a permutation test, and the price of asking
often.

Both models see the same images, so an image that is easy for both says nothing: only the differences count. Each
comparison gives an interval (bootstrap by image) and a p value (under the hypothesis that the two models' answers to an
image could be swapped, how often would a difference this large come about?). With m comparisons at 5% each, about
m/20 look good by luck: `holm` corrects the p values for that.
"""

from collections.abc import Mapping

import numpy as np

from cliniqure_utils.metrics.bootstrap import percentile_interval, resample_counts

SUMMED = ("micro_precision", "micro_recall", "micro_f1", "macro_precision", "macro_recall", "macro_f1")


def paired_difference(values_a, values_b, n_resamples: int = 1000, seed: int = 0) -> dict[str, float]:
    """Compare two systems by one value per image, such as an F1 or a BERTScore.

    Args:
        values_a, values_b: float (n,), same images in the same order, no NaN.
        n_resamples: Resamples of the bootstrap and flips of the test.
        seed: Seed of both.

    Returns:
        difference (mean of a - b), low, high (95% percentile interval), p (two-sided sign-flip test, at least
        1 / (n_resamples + 1)), n.

    Raises:
        ValueError: Lengths differ, no image, or a NaN.

    Source: Efron and Tibshirani 1993, chapters 13 and 15; p with the observed value counted in (Phipson, Smyth 2010).
    """
    a, b = np.asarray(values_a, dtype=float), np.asarray(values_b, dtype=float)
    if a.ndim != 1 or a.shape != b.shape or len(a) == 0 or np.isnan(a).any() or np.isnan(b).any():
        raise ValueError(f"expected one number per image and system, without NaN, found shapes {a.shape} and {b.shape}")
    difference = a - b
    resampled = resample_counts(len(a), n_resamples, seed) @ difference / len(a)
    flips = _signs(n_resamples, len(a), seed) @ difference / len(a)
    low, high = percentile_interval(resampled)
    mean = float(difference.mean())
    return {"difference": mean, "low": low, "high": high, "p": _p_value(mean, flips), "n": len(a)}


def paired_classification_difference(
    *, references, predictions_a, predictions_b, metric: str = "micro_f1", n_resamples: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Compare two classifiers by a score that is not a mean over images, such as micro or macro F1.

    Args:
        references, predictions_a, predictions_b: (n images, k classes) 0/1 or bool.
        metric: One of `SUMMED`, defined as in `classification_scores`.
        n_resamples, seed: As in `paired_difference`; the test swaps the two models' answers image by image.

    Returns:
        a, b (the two scores), difference (a - b), low, high, p.

    Raises:
        ValueError: Shapes differ, a value is neither 0 nor 1, or the metric is unknown.
    """
    if metric not in SUMMED:
        raise ValueError(f"unknown metric {metric!r}; expected one of {', '.join(SUMMED)}")
    references, a, b = (np.asarray(array) for array in (references, predictions_a, predictions_b))
    if references.ndim != 2 or not references.shape == a.shape == b.shape or references.size == 0:
        raise ValueError(f"expected three arrays of one shape, found {references.shape}, {a.shape} and {b.shape}")
    if not all(np.isin(array, (0, 1)).all() for array in (references, a, b)):
        raise ValueError("labels and decisions must be 0 or 1")
    references, a, b = (array.astype(float) for array in (references, a, b))

    def sums(answers, other, taken, counts):
        """Hits and answers per class when `taken` of each image's `counts` copies use `answers`, the rest `other`."""
        rest = counts - taken
        return taken @ (references * answers) + rest @ (references * other), taken @ answers + rest @ other

    whole = np.ones((1, len(references)))
    counts = resample_counts(len(references), n_resamples, seed).astype(float)
    swapped = (_signs(n_resamples, len(references), seed) > 0).astype(float)
    scores = {}
    for name, taken, weight in (
        ("point", whole, whole), ("bootstrap", counts, counts), ("swapped", swapped, np.ones_like(swapped)),
    ):  # fmt: skip
        there = weight @ references
        scores[name] = [_summed(metric, *sums(x, y, taken, weight), there) for x, y in ((a, b), (b, a))]
    differences = {name: one - other for name, (one, other) in scores.items()}
    low, high = percentile_interval(differences["bootstrap"])
    observed = float(differences["point"][0])
    return {
        "a": float(scores["point"][0][0]), "b": float(scores["point"][1][0]), "difference": observed,
        "low": low, "high": high, "p": _p_value(observed, differences["swapped"]),
    }  # fmt: skip


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p values corrected for their number: name -> the least error level at which it would still be called.

    Keeps the chance of even one false call at the level, whatever the dependence. Same names, same order, in [0, 1].

    Source: Holm 1979, Scandinavian Journal of Statistics 6:65-70.
    """
    names = sorted(p_values, key=p_values.get)
    adjusted, largest = {}, 0.0
    for rank, name in enumerate(names):
        largest = max(largest, min((len(names) - rank) * p_values[name], 1.0))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def _signs(n_resamples: int, n: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, 1]).integers(0, 2, size=(n_resamples, n)) * 2.0 - 1


def _p_value(observed: float, under_null: np.ndarray) -> float:
    # Sums in another order differ in the last digit, and an exact tie counts as "at least as large".
    return float((1 + (np.abs(under_null) >= abs(observed) - 1e-12).sum()) / (1 + len(under_null)))


def _summed(metric: str, hits: np.ndarray, said: np.ndarray, there: np.ndarray) -> np.ndarray:
    """A micro or macro score of every row; arrays (r, k); a ratio without a denominator counts 0."""
    average, part = metric.split("_")
    if average == "micro":
        hits, said, there = (array.sum(1, keepdims=True) for array in (hits, said, there))
    top, bottom = {"precision": (hits, said), "recall": (hits, there), "f1": (2 * hits, said + there)}[part]
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0).mean(1)
