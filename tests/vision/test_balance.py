"""How often a film is drawn."""

import numpy as np

from cliniqure_utils.vision.films import balance_weights


def test_balance_weights_by_hand():
    labels = np.zeros((100, 3), int)
    labels[:50, 0] = labels[:4, 1] = labels[0, 2] = 1
    weights = balance_weights(labels, least_share=0.16)
    # shares .50, .04, .01: repeat factors 1, sqrt(.16 / .04) = 2, sqrt(16) = 4; a film takes its largest
    assert weights.tolist() == [4.0, 2.0, 2.0, 2.0] + [1.0] * 96
