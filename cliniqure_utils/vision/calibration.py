"""From probabilities to answers: thresholds and temperatures, chosen on val."""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit


def choose_thresholds(references: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Per class, the threshold with the best F1 on these (validation) films; 0.5 where a class has no positive.

    Args:
        references: (n, 15) 0/1. probabilities: (n, 15) in [0, 1].

    Returns:
        (15,) thresholds; a film is positive where probability >= threshold. A threshold lies midway between two
        neighbouring probabilities, so that it does not depend on one film's exact value.
    """
    thresholds = np.full(references.shape[1], 0.5)
    for k in range(references.shape[1]):
        truth, score = references[:, k].astype(bool), probabilities[:, k]
        if not truth.any():
            continue
        levels = np.unique(score)
        candidates = np.concatenate([levels[:1], (levels[1:] + levels[:-1]) / 2])
        chosen = score[None] >= candidates[:, None]
        hits = (chosen & truth).sum(1)
        f1 = 2 * hits / (chosen.sum(1) + truth.sum())
        thresholds[k] = candidates[f1.argmax()]
    return thresholds


def fit_temperature(references: np.ndarray, probabilities: np.ndarray, per_class: bool = False) -> np.ndarray:
    """The temperature that calibrates probabilities on these (validation) films: the one with the least cross-entropy.

    Args:
        references: (n, k) 0/1. probabilities: (n, k) in [0, 1].
        per_class: One temperature per class instead of one for all; a class without positives or negatives keeps 1.

    Returns:
        (k,) temperatures between 0.05 and 20; above 1 where the network is too sure. For `apply_temperature`.

    Source: Guo et al. 2017 (On calibration of modern neural networks, arXiv 1706.04599).
    """
    references, logits = np.asarray(references, dtype=float), _finite_logit(probabilities)

    def best(truth, scores):
        if truth.min() == truth.max():
            return 1.0

        def cross_entropy(log_temperature):
            z = scores / np.exp(log_temperature)
            return (np.logaddexp(0, z) - truth * z).mean()

        found = minimize_scalar(cross_entropy, bounds=(np.log(0.05), np.log(20)), method="bounded")
        return float(np.exp(found.x))

    if per_class:
        return np.array([best(references[:, k], logits[:, k]) for k in range(references.shape[1])])
    return np.full(references.shape[1], best(references, logits))


def apply_temperature(probabilities: np.ndarray, temperature: np.ndarray) -> np.ndarray:
    """Probabilities (n, k) with their logits divided by the temperature (k,) of each class; their order stays."""
    return expit(_finite_logit(probabilities) / np.asarray(temperature))


def _finite_logit(probabilities: np.ndarray) -> np.ndarray:
    # A probability written with five digits may be 0 or 1, whose logit is infinite: it is clipped to a finite one.
    return logit(np.clip(np.asarray(probabilities, dtype=float), 1e-6, 1 - 1e-6))
