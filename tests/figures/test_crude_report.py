"""The memory as numbers and as pictures."""

import numpy as np
import pytest

from cliniqure_utils.figures.crude_report import (
    plot_against_controls,
    plot_memory,
    plot_words_in_memory,
    plot_words_on_film,
    same_slots,
    slot_shares,
)

FILM = np.full((224, 224), 90, np.uint8)


def shares(seed, n, slots=10):
    rows = np.random.default_rng(seed).random((n, slots))
    return rows / rows.sum(1, keepdims=True)


def test_shares_of_slots_add_up():
    asked = np.array([[[0, 2], [2, 3]]])  # one query, two heads, two slots each
    found = slot_shares(asked, np.array([[[0.75, 0.25], [0.5, 0.5]]]), 5)
    assert found.tolist() == [[0.375, 0, 0.375, 0.25, 0]]


def test_same_slots_is_one_for_the_same_question_and_zero_for_another():
    words = np.array([[0.5, 0.5, 0, 0], [0, 0, 1, 0]])
    patches = np.array([[0.5, 0.5, 0, 0], [0, 0.25, 0.25, 0.5]])
    assert same_slots(words, patches).tolist() == [[1.0, 0.25], [0.0, 0.25]]
    for row, column in np.ndindex(2, 2):  # by hand, slot by slot
        by_hand = sum(min(a, b) for a, b in zip(words[row], patches[column], strict=True))
        assert same_slots(words, patches)[row, column] == pytest.approx(by_hand)


def squares(axes):
    return [patch.get_xy() for patch in axes.patches if patch.get_linestyle() == "--"]


def test_a_word_is_followed_through_the_memory_to_the_film():
    looked = np.ones((2, 49))
    looked[0, 8], looked[1, 48] = 3, 2
    words, patches = shares(0, 2), shares(1, 49)
    patches[17] = words[0]
    figure = plot_words_in_memory(FILM, ["heart", "effusion"], looked, words, patches, n_slots=4)
    axes = np.array(figure.axes).reshape(3, 2)
    assert [a.get_title() for a in axes[0]] == ["“heart”", "“effusion”"]
    assert squares(axes[0, 0]) == [(32, 32)] and squares(axes[0, 1]) == [(192, 192)]
    assert squares(axes[1, 0]) == [(3 * 32, 2 * 32)] and axes[1, 0].get_title().endswith("most 100%")
    best = np.argsort(-words[0])[:4]
    assert [int(label.get_text()) for label in axes[2, 0].get_yticklabels()] == best.tolist()
    widths = [bar.get_width() for bar in axes[2, 0].containers[0]]
    np.testing.assert_allclose(widths, words[0, best])
    figure.canvas.draw()


def test_words_on_the_film_and_the_memory_draw():
    looked = np.ones((3, 49))
    looked[2, 10] = 5
    figure = plot_words_on_film(FILM, ["a", "b", "c"], looked)
    assert squares(figure.axes[3]) == [(3 * 32, 32)]
    figure.canvas.draw()
    plot_memory(shares(0, 3), shares(1, 49).mean(0), ["a", "b", "c"]).canvas.draw()
    plot_against_controls(0.3, np.random.default_rng(0).random(50) / 10, 0.0).canvas.draw()
