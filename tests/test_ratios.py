"""A ratio without a denominator has the value that its user chose."""

import numpy as np

from cliniqure_utils.ratios import ratio


def test_ratios_by_hand():
    np.testing.assert_array_equal(ratio([1, 0, 3], [2, 0, 0]), [0.5, np.nan, np.nan])
    np.testing.assert_array_equal(ratio([1, 0, 3], [2, 0, 0], empty=0), [0.5, 0, 0])
    assert float(ratio(1, 4)) == 0.25 and np.isnan(float(ratio(1, 0)))
    assert ratio(np.ones((2, 3)), [[1], [0]], empty=0).tolist() == [[1, 1, 1], [0, 0, 0]]
