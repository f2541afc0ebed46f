"""The grey scale that the models see: ranks, which no tone curve of a machine changes."""

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from cliniqure_utils.vision.grey import even_grey


def film_of(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.uint8))[None]


def test_ranks_are_scipys():
    """Rank over all pixels of the middle, ties shared: (average rank - 1/2) / n is the share that is darker."""
    values = np.random.default_rng(0).integers(0, 40, (32, 48))
    found = even_grey(film_of(values), "rank")
    middle = (slice(4, 28), slice(6, 42))
    share = (rankdata(values[middle]).reshape(24, 36) - 0.5) / (24 * 36)
    assert found.dtype == torch.uint8 and found.shape == (1, 32, 48)
    np.testing.assert_array_equal(found[0].numpy()[middle], np.round(share * 255).astype(np.uint8))


def test_by_hand():
    """Middle of 8 x 8: the inner 6 x 6, here 18 pixels of 50 and 18 of 90. Beside it: 0, 70, 255."""
    values = np.zeros((8, 8), int)
    values[1:7, 1:4], values[1:7, 4:7], values[7] = 50, 90, 255
    values[0, 0] = 70
    found = even_grey(film_of(values), "rank")[0].numpy()
    assert set(found[1:7, 1:4].flat) == {64} and set(found[1:7, 4:7].flat) == {191}  # .25 and .75 of 255
    assert found[0, 0] == 128 and set(found[7].flat) == {255} and found[3, 0] == 0, "half, all, none are darker"


@pytest.mark.parametrize(
    "curve",
    [
        lambda grey: 255 * (grey / 255) ** 0.5,
        lambda grey: grey * 0.7 + 30,
        lambda grey: 255 * np.clip((grey - 40) / 170, 0, 1),
    ],
    ids=["gamma", "contrast and brightness", "window"],
)
def test_no_tone_curve_changes_it(curve):
    """Values 50 to 200 in steps of 5: far enough apart that the curve, rounded to 8 bit, keeps them apart."""
    values = np.random.default_rng(1).integers(10, 41, (40, 40)) * 5
    turned = np.round(curve(values)).astype(int)
    assert not np.array_equal(values, turned)
    assert torch.equal(even_grey(film_of(values), "rank"), even_grey(film_of(turned), "rank"))


def test_a_border_changes_nothing_inside():
    """A white frame or black bars lie outside the middle: without that rule the chest would lose half of its range."""
    values = np.random.default_rng(2).integers(1, 255, (64, 64))
    framed = values.copy()
    framed[:8], framed[-8:], framed[:, :8], framed[:, -8:] = 255, 0, 255, 0
    inside = (0, slice(8, 56), slice(8, 56))
    assert torch.equal(even_grey(film_of(values), "rank")[inside], even_grey(film_of(framed), "rank")[inside])


def test_a_film_of_one_value_and_a_film_left_as_it_is():
    assert set(even_grey(film_of(np.full((16, 16), 7)), "rank").unique().tolist()) == {128}
    values = film_of(np.random.default_rng(3).integers(0, 256, (16, 16)))
    assert torch.equal(even_grey(values, "none"), values)
    with pytest.raises(ValueError, match="grey must be one of none, rank, found 'bands'"):
        even_grey(values, "bands")
