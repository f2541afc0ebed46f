"""Figures of notebook 02 where something is missing."""

import numpy as np
import pandas as pd

from cliniqure_utils import metrics
from cliniqure_utils.figures.detect import plot_detectability, plot_froc


def test_a_curve_without_points_and_what_lies_beyond_the_axis():
    curve = pd.DataFrame({"false_per_image": [0.0, 0.5, 20.0], "sensitivity": [0.1, 0.4, 0.9]})
    figure = plot_froc({"found": curve, "nothing": curve.iloc[:0]}, metrics.FROC_POINTS, "")
    assert [line.get_ydata()[-1] for line in figure.axes[0].lines[:2]] == [0.4, 0.0], "what lies beyond is not drawn"


def test_detectability_draws_each_group_with_its_interval_and_leaves_out_what_is_empty():
    table = metrics.recall_by(np.arange(10.0), np.arange(10) >= 5, n_groups=2)
    figure = plot_detectability({"size": {"any": table, "none": table.iloc[:0]}, "contrast": {"any": table}}, "")
    line, *_ = figure.axes[0].containers[0]
    assert line.get_xdata().tolist() == [2, 7] and line.get_ydata().tolist() == [0, 1]
    bars = figure.axes[0].containers[0][2][0].get_segments()
    assert [bar[:, 1].tolist() for bar in bars] == table[["recall_low", "recall_high"]].to_numpy().tolist()
