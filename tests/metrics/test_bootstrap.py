"""The percentile bootstrap against the normal approximation."""

import numpy as np
import pytest

from cliniqure_utils import metrics


def test_mean_interval_covers_the_mean():
    mean, low, high = metrics.mean_interval([0.0, 1.0] * 50, n_resamples=500, seed=1)
    assert mean == 0.5 and 0.37 < low < 0.45 and 0.55 < high < 0.63  # 1.96 * .5 / sqrt(100) = .098
    with pytest.raises(ValueError, match="NaN"):
        metrics.mean_interval([np.nan])
