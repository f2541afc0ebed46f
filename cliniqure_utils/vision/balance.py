"""Giving rare findings more weight: by drawing their films more often, or by weighing positives more in the loss."""

import numpy as np
import pandas as pd


def film_weights(labels: pd.DataFrame | np.ndarray, least_share: float = 0.1) -> np.ndarray:
    """Weight with which each film is drawn in training, so that rare findings are seen more often.

    A finding's weight is sqrt(least_share / share of films with the finding), at least 1; a film has the weight of its
    rarest finding, a film without any 1.

    Args:
        labels: (n, k) 0/1, films and classes.
        least_share: Findings on at least this share of the films are not drawn more often.

    Returns:
        float (n,), at least 1: the sample weights that `training` takes.

    Source: repeat factors of Gupta, Dollar and Girshick 2019 (LVIS, arXiv 1908.03195).
    """
    labels = np.asarray(labels, dtype=float)
    share = labels.mean(0)
    repeat = np.sqrt(np.divide(least_share, share, out=np.ones_like(share), where=share > 0)).clip(1)
    return np.where(labels > 0, repeat, 1.0).max(1)


def positive_weights(labels: pd.DataFrame | np.ndarray, most: float = 10.0) -> np.ndarray:
    """Weight of each class's positives in the "weighted" loss, so that rare findings count for more.

    Args:
        labels: (n, k) 0/1, films and classes.
        most: Largest weight.

    Returns:
        float (k,): negatives per positive, between 1 and `most`; 1 for a class without positives.
    """
    labels = np.asarray(labels, dtype=float)
    positives = labels.sum(0)
    ratio = np.divide(len(labels) - positives, positives, out=np.ones_like(positives), where=positives > 0)
    return ratio.clip(1, most)
