"""Error rates of reports: counts by hand, ratios of sums, intervals against numpy."""

import numpy as np
import pandas as pd
import pytest

from cliniqure_utils import metrics

PAIRS = [
    # reference, prediction, there said right omitted contradicted hallucinated sided wrong_side
    ("There is a left effusion.", "Small left pleural effusion.", (1, 1, 1, 0, 0, 0, 1, 0)),
    ("There is a left effusion.", "Small right pleural effusion.", (1, 1, 1, 0, 0, 0, 1, 1)),
    ("There is a left effusion.", "Pleural effusion.", (1, 1, 1, 0, 0, 0, 0, 0)),
    ("Bilateral effusions.", "Left effusion.", (1, 1, 1, 0, 0, 0, 1, 0)),
    ("Left effusion.", "Bilateral effusions.", (1, 1, 1, 0, 0, 0, 1, 1)),  # a side too many
    ("There is a left effusion.", "No right effusion.", (1, 0, 0, 1, 0, 0, 0, 0)),  # silent on the left
    ("There is a left effusion.", "No left effusion.", (1, 0, 0, 0, 1, 0, 0, 0)),
    ("There is a left effusion.", "No effusion on either side.", (1, 0, 0, 0, 1, 0, 0, 0)),
    ("There is a left effusion.", "No effusion on the right. No effusion on the left.", (1, 0, 0, 0, 1, 0, 0, 0)),
    ("There is an effusion.", "No right effusion.", (1, 0, 0, 1, 0, 0, 0, 0)),
    ("Left effusion, no right effusion.", "Left effusion.", (1, 1, 1, 0, 0, 0, 1, 0)),
    ("Left effusion.", "Left effusion, no right effusion.", (1, 1, 1, 0, 0, 0, 1, 0)),
    ("Bilateral effusions.", "Left effusion, no right effusion.", (1, 1, 1, 0, 0, 0, 1, 1)),
    ("There is an effusion. None on the left.", "There is a right effusion.", (1, 1, 1, 0, 0, 0, 0, 0)),
    ("Cardiomegaly and a nodule.", "Cardiomegaly. No other abnormality.", (2, 1, 1, 0, 1, 0, 0, 0)),
    ("Cardiomegaly and a nodule.", "Cardiomegaly. No acute abnormality.", (2, 1, 1, 1, 0, 0, 0, 0)),
    ("Consolidation in the left lung.", "No abnormality in the right lung.", (1, 0, 0, 1, 0, 0, 0, 0)),
    ("Cardiomegaly.", "Cardiomegaly. Treatment of pleural effusion includes drainage.", (1, 1, 1, 0, 0, 0, 0, 0)),
    ("Cardiomegaly and a nodule.", "No cardiomegaly.", (2, 0, 0, 1, 1, 0, 0, 0)),
    ("Cardiomegaly and a nodule.", "Normal chest.", (2, 0, 0, 0, 2, 0, 0, 0)),
    ("No effusion.", "Possible effusion, and a pneumothorax.", (0, 2, 0, 0, 0, 2, 0, 0)),
    ("No effusion. There is an effusion.", "There is an effusion. No effusion.", (1, 1, 1, 0, 0, 0, 0, 0)),
    ("", "", (0, 0, 0, 0, 0, 0, 0, 0)),
]
NAMES = ["there", "said", "right", "omitted", "contradicted", "hallucinated", "sided", "wrong_side"]


@pytest.mark.parametrize("reference, prediction, counts", PAIRS, ids=[f"{r}-{p}" for r, p, _ in PAIRS])
def test_findings_are_counted_as_by_hand(reference, prediction, counts):
    (row,) = metrics.report_errors(references=[reference], predictions=[prediction]).to_dict("records")
    assert tuple(row[name] for name in NAMES) == counts
    assert row["there"] == row["right"] + row["omitted"] + row["contradicted"]
    assert row["words"] == len(prediction.split())


def all_counts():
    return metrics.report_errors(references=[p[0] for p in PAIRS], predictions=[p[1] for p in PAIRS])


def test_rates_are_ratios_of_sums():
    sums = dict(zip(NAMES, np.sum([p[2] for p in PAIRS], axis=0), strict=True))
    rates = metrics.error_rates(all_counts())
    assert rates["finding_f1"] == pytest.approx(2 * sums["right"] / (sums["there"] + sums["said"]))
    assert rates["omission"] == pytest.approx(5 / 25) and rates["contradiction"] == pytest.approx(7 / 25)
    assert rates["hallucination"] == pytest.approx(2 / 15) and rates["wrong_side"] == pytest.approx(3 / 7)
    silent = metrics.error_rates(metrics.report_errors(references=[""], predictions=["The film is grey."]))
    assert np.isnan(silent["hallucination"]) and silent["words"] == 4


def test_a_paired_difference_resamples_both_systems_together():
    one = all_counts()
    other = metrics.report_errors(references=[p[0] for p in PAIRS], predictions=[p[0] for p in PAIRS])
    found = metrics.paired_error_difference(other, one, n_resamples=400, seed=3)
    weights = np.random.default_rng(3).multinomial(len(PAIRS), np.full(len(PAIRS), 1 / len(PAIRS)), size=400)
    values = []
    for weight in weights:
        scores = []
        for counts in (other, one):
            repeated = counts.loc[np.repeat(counts.index, weight)]
            scores.append(metrics.error_rates(repeated)["finding_f1"])
        values.append(scores[0] - scores[1])
    assert found["a"] == 1 and found["difference"] == pytest.approx(1 - metrics.error_rates(one)["finding_f1"])
    np.testing.assert_allclose([found["low"], found["high"]], np.nanquantile(values, [0.025, 0.975]))
    same = metrics.paired_error_difference(one, one, "omission")
    assert same["difference"] == same["low"] == same["high"] == 0


def test_what_cannot_be_compared_is_refused():
    one = all_counts()
    with pytest.raises(ValueError, match="unknown rate 'speed'"):
        metrics.paired_error_difference(one, one, "speed")
    for other in (one.iloc[:3], pd.concat([one.iloc[4:], one.iloc[:4]])):
        with pytest.raises(ValueError, match="not scored on the same references"):
            metrics.paired_error_difference(one, other)
    with pytest.raises(ValueError, match="expected one prediction per reference"):
        metrics.report_errors(references=["a"], predictions=[])
