"""Is one system better than another: exact flips, p values under no difference, Holm by hand."""

import numpy as np
import pytest

from cliniqure_utils import metrics


def test_a_model_against_itself_is_no_difference(random_labels):
    values = metrics.per_image_f1(references=random_labels[0], predictions=random_labels[1])
    same = metrics.paired_difference(values, values)
    assert (same["difference"], same["low"], same["high"], same["p"]) == (0, 0, 0, 1)
    for wrong in (values[:-1], values * np.nan):
        with pytest.raises(ValueError, match="one number per image and system"):
            metrics.paired_difference(values, wrong)


def test_the_sign_flip_test_equals_all_flips():
    """Ten images: all 1,024 flips can be written out."""
    a, b = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3.0]), np.array([2, 2, 3, 1, 1, 5, 3, 2, 1, 4.0])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 10)).reshape(10, -1).T
    exact = (np.abs(signs @ (a - b)) >= abs((a - b).sum()) - 1e-9).mean()
    found = metrics.paired_difference(a, b, n_resamples=20_000, seed=0)
    assert found["p"] == pytest.approx(exact, abs=0.01)
    assert found["difference"] == pytest.approx(np.mean(a - b)) and found["n"] == 10


def test_p_values_are_even_when_nothing_differs():
    """Two systems that differ by chance alone: about 5% of the tests call it at 5%."""
    rng = np.random.default_rng(5)
    p = [metrics.paired_difference(*rng.normal(size=(2, 30)), n_resamples=199, seed=s)["p"] for s in range(300)]
    assert 0.02 < np.mean(np.array(p) <= 0.05) < 0.09


def test_holm_by_hand():
    found = metrics.holm({"a": 0.04, "b": 0.01, "c": 0.03})
    # .01 * 3, then .03 * 2, then .04 * 1 but never below the one before.
    assert found == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06}) and list(found) == ["a", "b", "c"]
    assert metrics.holm({"x": 0.6, "y": 0.7}) == {"x": 1.0, "y": 1.0} and metrics.holm({}) == {}
