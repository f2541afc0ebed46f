"""Probabilities against frequencies, by hand and as torchmetrics and scikit-learn count them."""

import numpy as np
import pytest
from sklearn import metrics as sk

from cliniqure_utils import metrics


def test_reliability_by_hand():
    table = metrics.reliability(references=[0, 0, 1, 1, 1], probabilities=[0.0, 0.2, 0.3, 0.5, 1.0], n_bins=2)
    assert table.n.tolist() == [3, 2], "0.5 belongs to the upper half"
    assert table.confidence.tolist() == pytest.approx([0.5 / 3, 0.75])
    assert table.frequency.tolist() == pytest.approx([1 / 3, 1.0])
    error = metrics.calibration_error(references=[0, 0, 1, 1, 1], probabilities=[0.0, 0.2, 0.3, 0.5, 1.0], n_bins=2)
    assert error["ece"] == pytest.approx(3 / 5 * (1 / 3 - 0.5 / 3) + 2 / 5 * 0.25)
    assert error["brier_prior"] == pytest.approx(0.6 * 0.4)
    for wrong in (dict(references=[2], probabilities=[0.5]), dict(references=[1], probabilities=[1.1])):
        with pytest.raises(ValueError, match="must"):
            metrics.reliability(**wrong)
    with pytest.raises(ValueError, match="one shape"):
        metrics.reliability(references=[1], probabilities=[0.1, 0.2])


def test_calibration_error_equals_torchmetrics_and_scikit_learn():
    import torch
    from torchmetrics.classification import BinaryCalibrationError

    rng = np.random.default_rng(0)
    probabilities = rng.random(500).astype(np.float32)
    truth = rng.random(500) < probabilities**2
    judge = BinaryCalibrationError(n_bins=10, norm="l1")
    expected = judge(torch.tensor(probabilities), torch.tensor(truth.astype(int))).item()
    found = metrics.calibration_error(references=truth, probabilities=probabilities)
    assert found["ece"] == pytest.approx(expected, abs=1e-5)
    assert found["brier"] == pytest.approx(sk.brier_score_loss(truth, probabilities), abs=1e-6)
