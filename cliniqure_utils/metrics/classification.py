"""Scores of multi-label decisions and probabilities, with bootstrap intervals and trivial baselines.

The paper prints precision .83, recall .81 and F1 .81 without saying over what they are averaged (notes, row 12), so
all four usual averages are computed:

- micro: true and false positives and false negatives are added over films and classes, then divided;
- macro: per class, then the plain mean over classes;
- weighted: per class, then the mean weighted by the number of positive references of the class;
- samples: per film, then the mean over films.

A ratio without a denominator counts as 0, as in scikit-learn with zero_division=0.
"""

import numpy as np
import pandas as pd

from cliniqure_utils.metrics.bootstrap import percentile_interval, resample_counts
from cliniqure_utils.ratios import ratio

AVERAGES = ("micro", "macro", "weighted", "samples")


def classification_scores(*, references, predictions) -> dict[str, float]:
    """Precision, recall and F1 under four averages, and the Hamming loss.

    Args:
        references: (n films, k classes) 0/1 or bool: what is there.
        predictions: The same shape: what was said.

    Returns:
        micro_precision, micro_recall, micro_f1, the same for macro, weighted and samples, and hamming_loss (the share
        of wrong film-class decisions, 0 is best); all in [0, 1].

    Raises:
        ValueError: Shapes differ, an array is empty, or a value is neither 0 nor 1.

    Source: paper section 6.2 (precision, recall, F1) and 4.2.2 (Hamming loss); definitions as in scikit-learn.
    """
    references, predictions = _binary(references, predictions)
    scores = _scores(references, predictions, np.ones((1, len(references))))
    return {name: float(values[0]) for name, values in scores.items()}


def classification_intervals(
    *, references, predictions, n_resamples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95% bootstrap interval by film of every number of `classification_scores`: name -> (low, high)."""
    references, predictions = _binary(references, predictions)
    counts = resample_counts(len(references), n_resamples, seed)
    return {name: percentile_interval(v) for name, v in _scores(references, predictions, counts).items()}


def per_image_f1(*, references, predictions) -> np.ndarray:
    """F1 of each film (n,); 0 where neither side names a class: add "No finding" first (`with_no_finding`)."""
    references, predictions = _binary(references, predictions)
    return _rate(2 * (references & predictions).sum(1), references.sum(1) + predictions.sum(1))


def with_no_finding(findings) -> np.ndarray:
    """Labels (n, 14) -> bool (n, 15): the last class, "No finding", is true exactly where no finding is."""
    findings = np.asarray(findings).astype(bool)
    return np.concatenate([findings, ~findings.any(1, keepdims=True)], axis=1)


def auroc(*, references, probabilities) -> np.ndarray:
    """Area under the ROC curve of each class: the chance that a positive film scores above a negative one.

    Args:
        references: (n, k) 0/1 or bool.
        probabilities: (n, k) any real score, higher means more likely; equal scores count half.

    Returns:
        float (k,) in [0, 1]; NaN where a class has only positive or only negative references.

    Raises:
        ValueError: Shapes differ, or a score is not finite.
    """
    references, probabilities = _with_scores(references, probabilities)
    return _weighted_auroc(references, probabilities, np.ones((1, len(references))))[0]


def macro_auroc_interval(
    *, references, probabilities, n_resamples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """(macro AUROC, low, high): the mean over classes that have both values, 95% bootstrap interval by film.

    A resample in which a class has one value only leaves that class out.
    """
    references, probabilities = _with_scores(references, probabilities)
    both = references.any(0) & ~references.all(0)
    if not both.any():
        return (float("nan"),) * 3
    references, probabilities = references[:, both], probabilities[:, both]
    point = _weighted_auroc(references, probabilities, np.ones((1, len(references))))
    samples = _weighted_auroc(references, probabilities, resample_counts(len(references), n_resamples, seed))
    means = np.array([np.nanmean(row) if (~np.isnan(row)).any() else np.nan for row in samples])
    return float(point.mean()), *percentile_interval(means)


def average_precision(*, references, probabilities) -> np.ndarray:
    """Average precision of each class: precision where each positive film is reached, averaged over the positives.

    Args, Raises: As `auroc`. A ranking by chance scores the share of positive films, not .5.

    Returns:
        float (k,) in [0, 1]; NaN where a class has no positive reference. As scikit-learn's average_precision_score.
    """
    references, probabilities = _with_scores(references, probabilities)
    return _weighted_precision(references, probabilities, np.ones((1, len(references))))[0]


def per_class_intervals(
    *, references, probabilities, class_names, n_resamples: int = 1000, seed: int = 0, groups=None
) -> pd.DataFrame:
    """AUROC and average precision of each class with 95% bootstrap intervals by film.

    Args:
        references, probabilities: As `auroc`.
        groups: (n,) whose film it is: those of one group, such as a patient, are drawn together. None: one by one.

    Returns:
        Index class_names; positives, auroc, auroc_low, auroc_high, ap, ap_low, ap_high. NaN as in `auroc` and
        `average_precision`; a resample without a value is left out of the interval.
    """
    references, probabilities = _with_scores(references, probabilities)
    group = np.arange(len(references)) if groups is None else np.unique(groups, return_inverse=True)[1]
    once, counts = np.ones((1, len(references))), resample_counts(group.max() + 1, n_resamples, seed)[:, group]
    table = pd.DataFrame({"positives": references.sum(0)}, index=pd.Index(list(class_names), name="class_name"))
    for name, curve in (("auroc", _weighted_auroc), ("ap", _weighted_precision)):
        table[name] = curve(references, probabilities, once)[0]
        intervals = [percentile_interval(column) for column in curve(references, probabilities, counts).T]
        table[[f"{name}_low", f"{name}_high"]] = intervals
    return table


def always_one_class(n_images: int, n_classes: int, index: int = -1) -> np.ndarray:
    """Trivial baseline: the same single class on every film; the last of the 15 is "No finding". bool (n, k)."""
    answer = np.zeros((n_images, n_classes), dtype=bool)
    answer[:, index] = True
    return answer


def most_common_labels(train_labels, n_images: int) -> np.ndarray:
    """Trivial baseline: the most frequent label set of the training films on every film. bool (n_images, k).

    Of equally frequent sets the first in sorted order is taken.
    """
    sets, counts = np.unique(np.asarray(train_labels).astype(bool), axis=0, return_counts=True)
    return np.repeat(sets[[counts.argmax()]], n_images, axis=0)


def class_prior(train_labels, n_images: int) -> np.ndarray:
    """Trivial baseline: each class's share of the training films as its probability. float (n_images, k)."""
    return np.repeat(np.asarray(train_labels, dtype=float).mean(0, keepdims=True), n_images, axis=0)


def _binary(references, predictions) -> tuple[np.ndarray, np.ndarray]:
    references, predictions = np.asarray(references), np.asarray(predictions)
    if references.ndim != 2 or references.shape != predictions.shape or references.size == 0:
        raise ValueError(
            "expected references and predictions of one shape (images, classes), "
            f"found {references.shape} and {predictions.shape}"
        )
    for name, array in (("references", references), ("predictions", predictions)):
        if not np.isin(array, (0, 1)).all():
            raise ValueError(f"{name} must hold 0 and 1 only; turn probabilities into decisions with a threshold first")
    return references.astype(bool), predictions.astype(bool)


def _with_scores(references, probabilities) -> tuple[np.ndarray, np.ndarray]:
    probabilities = np.asarray(probabilities, dtype=float)
    references, _ = _binary(references, np.zeros(probabilities.shape, dtype=bool))
    if not np.isfinite(probabilities).all():
        raise ValueError("probabilities must be finite numbers")
    return references, probabilities


def _rate(part, whole) -> np.ndarray:
    """`ratio` with scikit-learn's zero_division=0."""
    return ratio(part, whole, empty=0.0)


def _scores(references: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """All scores for every row of film weights (r, n); each value is an array (r,)."""
    weights = weights.astype(float)
    both = references & predictions
    # One product for all three counts of all classes: (r, n) @ (n, 3k).
    n_classes = references.shape[1]
    counts = weights @ np.concatenate([both, predictions, references], axis=1).astype(float)
    tp, said, there = counts[:, :n_classes], counts[:, n_classes : 2 * n_classes], counts[:, 2 * n_classes :]
    total = weights.sum(1)

    precision, recall, f1 = _rate(tp, said), _rate(tp, there), _rate(2 * tp, said + there)
    support = _rate(there, there.sum(1, keepdims=True))
    micro = tp.sum(1), said.sum(1), there.sum(1)
    per_image = np.stack(
        [
            _rate(both.sum(1), predictions.sum(1)),
            _rate(both.sum(1), references.sum(1)),
            _rate(2 * both.sum(1), predictions.sum(1) + references.sum(1)),
        ],
        axis=1,
    )
    samples = weights @ per_image / total[:, None]
    wrong = weights @ (references != predictions).mean(1)
    return {
        "micro_precision": _rate(micro[0], micro[1]),
        "micro_recall": _rate(micro[0], micro[2]),
        "micro_f1": _rate(2 * micro[0], micro[1] + micro[2]),
        "macro_precision": precision.mean(1),
        "macro_recall": recall.mean(1),
        "macro_f1": f1.mean(1),
        "weighted_precision": (precision * support).sum(1),
        "weighted_recall": (recall * support).sum(1),
        "weighted_f1": (f1 * support).sum(1),
        "samples_precision": samples[:, 0],
        "samples_recall": samples[:, 1],
        "samples_f1": samples[:, 2],
        "hamming_loss": wrong / total,
    }


def _weighted_auroc(references: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUROC of every class under every row of film weights: (r, k), NaN where one of the two sides is empty."""
    result = np.full((len(weights), references.shape[1]), np.nan)
    for k in range(references.shape[1]):
        order = np.argsort(scores[:, k], kind="stable")
        ranked = scores[order, k]
        positive = weights[:, order] * references[order, k]
        negative = weights[:, order] * ~references[order, k]
        starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])  # first row of each group of equal scores
        positive = np.add.reduceat(positive, starts, axis=1).astype(float)
        negative = np.add.reduceat(negative, starts, axis=1).astype(float)
        below = np.cumsum(negative, axis=1) - negative / 2  # negatives under each group, ties count half
        pairs = positive.sum(1) * negative.sum(1)
        np.divide((positive * below).sum(1), pairs, out=result[:, k], where=pairs > 0)
    return result


def _weighted_precision(references: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average precision of every class under every row of film weights: (r, k), NaN without a positive film."""
    result = np.full((len(weights), references.shape[1]), np.nan)
    for k in range(references.shape[1]):
        order = np.argsort(-scores[:, k], kind="stable")
        ranked, weight = scores[order, k], weights[:, order].astype(float)
        starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])  # equal scores enter together
        true = np.add.reduceat(weight * references[order, k], starts, axis=1)
        said = np.cumsum(np.add.reduceat(weight, starts, axis=1), axis=1)
        precision = _rate(np.cumsum(true, axis=1), said)
        positives = true.sum(1)
        np.divide((true * precision).sum(1), positives, out=result[:, k], where=positives > 0)
    return result
