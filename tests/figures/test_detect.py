"""Figures of notebook 02 where something is missing."""

import pandas as pd

from cliniqure_utils import metrics
from cliniqure_utils.figures.detect import plot_froc


def test_a_curve_without_points_and_what_lies_beyond_the_axis():
    curve = pd.DataFrame({"false_per_image": [0.0, 0.5, 20.0], "sensitivity": [0.1, 0.4, 0.9]})
    figure = plot_froc({"found": curve, "nothing": curve.iloc[:0]}, metrics.FROC_POINTS, "")
    assert [line.get_ydata()[-1] for line in figure.axes[0].lines[:2]] == [0.4, 0.0], "what lies beyond is not drawn"
