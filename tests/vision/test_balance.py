"""Weights of films and of positives, by hand."""

import numpy as np

from cliniqure_utils.vision import balance


def test_film_weights_by_hand():
    labels = np.zeros((100, 3), int)
    labels[:50, 0] = labels[:4, 1] = labels[0, 2] = 1
    weights = balance.film_weights(labels, least_share=0.16)
    # shares .50, .04, .01: repeat factors 1, sqrt(.16 / .04) = 2, sqrt(16) = 4; a film takes its largest
    assert weights.tolist() == [4.0, 2.0, 2.0, 2.0] + [1.0] * 96


def test_positive_weights_by_hand():
    labels = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1]])
    assert balance.positive_weights(labels).tolist() == [3.0, 1.0, 1.0]
    assert balance.positive_weights(np.eye(40)[:, :1]).tolist() == [10.0], "39 negatives per positive, 10 at most"
