"""The overlay is the film, pixel for pixel, with boxes on it."""

import numpy as np

from cliniqure_utils.figures.style import number_places
from cliniqure_utils.predict.overlay import draw_overlay


def test_an_overlay_keeps_the_films_pixels():
    film = np.tile(np.linspace(0, 255, 301).astype(np.uint8), (207, 1))
    overlay = draw_overlay(film, np.zeros((0, 4)))
    assert overlay.shape == (207, 301, 3)
    np.testing.assert_allclose(overlay[:150], np.repeat(film[:150, :, None], 3, axis=2), atol=1)


def test_a_box_is_drawn_where_it_lies():
    overlay = draw_overlay(np.zeros((200, 300), np.uint8), np.array([[40.0, 60.0, 200.0, 150.0]]))
    rows, columns = np.nonzero(overlay[20:185].max(2) > 60)  # without the disclaimer at the bottom
    assert abs(columns.min() - 40) <= 2 and abs(rows.max() + 20 - 150) <= 2


def test_numbers_of_boxes_that_begin_at_one_place_stand_side_by_side():
    box, other = [40.0, 60.0, 200.0, 150.0], [10.0, 90.0, 20.0, 150.0]
    assert number_places([box, box, other, [45.0, 55.0, 60.0, 70.0]], 12) == [(40, 60), (52, 60), (10, 90), (69, 55)]
