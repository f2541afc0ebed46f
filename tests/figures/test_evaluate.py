"""Figures of notebook 07: every value at its place."""

import numpy as np
import pandas as pd

from cliniqure_utils.figures.evaluate import plot_bertscore, plot_table7


def test_table7_figure_draws_all_three_values():
    table = pd.DataFrame(
        {"metric": ["IoU", "Dice"], "paper": [0.75, 0.76], "this_run": [0.7, 0.8], "low": [0.6, np.nan],
         "high": [0.8, np.nan], "baseline": [0.5, 0.4]}
    )  # fmt: skip
    axis = plot_table7(table).axes[0]
    widths = [patch.get_width() for patch in axis.patches]
    assert widths == [0.7, 0.8, 0.5, 0.4]
    assert any(list(line.get_xdata()) == [0.75, 0.76] for line in axis.lines)


def test_bertscore_figure_marks_each_mean_at_its_value():
    figure = plot_bertscore(np.array([0.5, 0.6, 0.7]), {"a": 0.9, "b": 0.3}, paper=0.98)
    bottom = figure.axes[1]
    marked = [float(line.get_xdata()[0]) for line in bottom.lines if len(line.get_xdata()) == 1]
    assert marked == [0.9, 0.3]
    assert {text.get_text() for text in bottom.texts} == {"a: 0.90", "b: 0.30"}
