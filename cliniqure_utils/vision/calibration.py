"""From probabilities to answers: thresholds and temperatures, chosen on val."""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit


def choose_thresholds(references: np.ndarray, probabilities: np.ndarray, common: float = 0.0) -> np.ndarray:
    """Per class, the threshold with the best F1 on these (validation) films; 0.5 where nothing is positive.

    Args:
        references: (n, 15) 0/1. probabilities: (n, 15) in [0, 1].
        common: How many mean classes are added to the class's own hits and answers at the same threshold. 0: each class
            alone, which fits a few positive films by chance; the larger, the more one threshold for all.

    Returns:
        (15,) thresholds; a film is positive where probability >= threshold. A threshold lies midway between two
        neighbouring probabilities of the class, so that it does not depend on one film's exact value.

    Source: ours; pooled counts as in shrinkage towards a common value.
    """
    truth, n_classes = references.astype(bool), references.shape[1]

    def counted(positive, score, limits):
        """Hits, and answers plus positives, at each limit."""
        reached = [len(v) - np.searchsorted(np.sort(v), limits, side="left") for v in (score[positive], score)]
        return reached[0], reached[1] + positive.sum()

    thresholds = np.full(n_classes, 0.5)
    for k in range(n_classes):
        levels = np.unique(probabilities[:, k])
        candidates = np.concatenate([levels[:1], (levels[1:] + levels[:-1]) / 2])
        hits, answers = counted(truth[:, k], probabilities[:, k], candidates)
        if common > 0:
            of_all = counted(truth.ravel(), probabilities.ravel(), candidates)
            hits, answers = hits + common / n_classes * of_all[0], answers + common / n_classes * of_all[1]
        if hits.any():
            thresholds[k] = candidates[(2 * hits / answers).argmax()]
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
