"""Thresholds and temperatures, by hand and against scikit-learn."""

import numpy as np
import pytest

from cliniqure_utils import metrics
from cliniqure_utils.vision import calibration


def test_temperature_equals_a_logistic_regression_without_intercept():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    logits = rng.normal(0, 4, (4000, 2))
    truth = rng.random((4000, 2)) < 1 / (1 + np.exp(-logits / [2.5, 0.5]))
    sure = 1 / (1 + np.exp(-logits))
    found = calibration.fit_temperature(truth, sure, per_class=True)
    clipped = np.log(sure / (1 - sure)).clip(-13.815, 13.815)
    for k in range(2):
        slope = LogisticRegression(C=np.inf, fit_intercept=False).fit(clipped[:, [k]], truth[:, k]).coef_[0, 0]
        assert found[k] == pytest.approx(1 / slope, rel=1e-3)
    honest = calibration.apply_temperature(sure, found)
    errors = [metrics.calibration_error(references=truth, probabilities=p)["ece"] for p in (sure, honest)]
    assert errors[1] < 0.02 < errors[0]
    np.testing.assert_array_equal(sure.argsort(0), honest.argsort(0))
    assert calibration.fit_temperature(truth, sure).shape == (2,)
    assert calibration.fit_temperature(np.zeros((3, 1)), np.full((3, 1), 0.2), per_class=True).tolist() == [1.0]


def test_thresholds_maximise_f1_on_a_hand_counted_case():
    probabilities = np.array([[0.9], [0.8], [0.7], [0.2]])
    references = np.array([[1], [0], [1], [0]])
    # 3 answers, 2 right: F1 = 4 / 5; 1 answer, 1 right: 2 / 3; all 4: 4 / 6
    threshold = calibration.choose_thresholds(references, probabilities)[0]
    assert threshold == pytest.approx(0.45)
    assert calibration.choose_thresholds(np.zeros((4, 1)), probabilities)[0] == 0.5


def test_a_class_with_one_film_is_pulled_to_the_threshold_of_all():
    probabilities = np.array([[0.1], [0.6], [0.8]]).repeat(3, axis=1)
    references = np.array([[1, 0, 0], [0, 1, 1], [0, 1, 1]])
    # The first class alone: 1 hit in 3 answers, F1 2 / 4, and none above .1. All three at .1: 10 / 14; at .35: 8 / 11.
    alone = calibration.choose_thresholds(references, probabilities)
    assert alone == pytest.approx([0.1, 0.35, 0.35])
    # As many mean classes as there are classes: at .1 (2 + 10) / (4 + 14), at .35 (0 + 8) / (3 + 11).
    assert calibration.choose_thresholds(references, probabilities, common=3)[0] == pytest.approx(0.1)
    # A hundred times as many: at .1 1002 / 1404, at .35 800 / 1103.
    assert calibration.choose_thresholds(references, probabilities, common=300) == pytest.approx([0.35] * 3)
