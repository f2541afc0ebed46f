"""Figure 4 of notebook 06: whole texts in their order beside the film, boxes numbered."""

import numpy as np
import pandas as pd
import pytest

from cliniqure_utils.figures.generate_report import plot_side_by_side, plot_statuses
from cliniqure_utils.reports import MARKS, STATUSES

LONG = "The heart is enlarged and there is an effusion on the left side of the chest as before. " * 4


def texts_of(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


@pytest.mark.parametrize("status", STATUSES)
def test_texts_stand_whole_and_in_order_beside_the_film(status):
    texts = {"reference": LONG, "crude": "", "base": [{"sentence": LONG.strip(), "status": status}] * 9, "template": []}
    boxes = np.array([[5, 5, 20, 20], [5, 5, 30, 30]])
    figure = plot_side_by_side(np.zeros((64, 64), np.uint8), boxes, ["ILD", "Cardiomegaly"], texts)
    film, left, right = figure.axes
    assert texts_of(film) == ["1", "2"] and film.get_xlabel() == "1 ILD, 2 Cardiomegaly"
    lines = [*texts_of(left), *texts_of(right)]
    assert [line for line in lines if line in texts] == list(texts)
    words = " ".join(line.strip() for line in lines if line)
    assert words.count(f"{MARKS[status]} {LONG.strip()}") == 9 and words.count("(empty)") == 2
    figure.canvas.draw()
    assert max(len(line) for line in lines) <= 52


def test_one_text_and_a_film_without_a_box():
    figure = plot_side_by_side(np.zeros((64, 64), np.uint8), np.zeros((0, 4)), [], {"template": "No finding."})
    assert figure.axes[0].get_xlabel() == "no box" and texts_of(figure.axes[1])[:2] == ["template", "No finding."]


def test_every_status_has_its_colour():
    shares = pd.DataFrame(0.2, index=["base", "template"], columns=list(STATUSES))
    figure = plot_statuses(shares)
    bars = [container.patches[0].get_facecolor() for container in figure.axes[0].containers]
    assert len(set(bars)) == len(STATUSES)
