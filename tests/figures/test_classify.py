"""Figures of notebook 03 where something is missing."""

import numpy as np
import pandas as pd

from cliniqure_utils import metrics
from cliniqure_utils.figures.classify import plot_gradcam, plot_intervals, plot_reliability


def test_figures_draw_what_is_missing_too():
    table = pd.DataFrame(
        {"positives": [3, 0], "auroc": [0.8, np.nan], "auroc_low": [0.6, np.nan], "auroc_high": [0.9, np.nan]},
        index=["ILD", "Calcification"],
    )
    figure = plot_intervals(table, "auroc", "AUROC", "", 0.5)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["ILD (3)"]
    counts = metrics.reliability(references=[0, 1], probabilities=[0.1, 0.9])
    assert len(plot_reliability({"one": counts, "two": counts}, "").axes) == 2
    film, flat = np.zeros((8, 8), np.uint8), np.zeros((8, 8))
    figure = plot_gradcam([film], [flat], [np.zeros((0, 4))], ["ILD"], [np.nan])
    assert figure.axes[1].get_title() == "no box"
