"""Error rates of reports: counts by hand, ratios of sums, intervals against numpy."""

import numpy as np
import pandas as pd
import pytest

from cliniqure_utils import metrics
from cliniqure_utils.vocabulary import FINDINGS, URGENT

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


ACTED_ON = [
    # reference, prediction, errors acted on, urgent findings, of those stated
    ("Left effusion and a nodule.", "Left effusion and a nodule.", 0, 2, 2),
    ("Left effusion and a nodule.", "Right effusion.", 2, 2, 1),  # wrong side, missed
    ("Left effusion. Cardiomegaly.", "No effusion. No cardiomegaly. Heart not enlarged.", 2, 1, 0),  # denied, each once
    ("Normal chest.", "Pneumothorax. There is a pneumothorax. Consolidation.", 2, 0, 0),  # invented, each once
    ("Calcifications. Left pleural thickening.", "Right pleural thickening.", 0, 0, 0),  # old scars
    ("Infiltration in the left lung.", "Consolidation in the left lung.", 2, 0, 0),  # one missed, one invented
    ("Consolidation. Pneumothorax. Nodule. Effusion.", "The lungs are clear. No finding.", 4, 4, 0),
]


@pytest.mark.parametrize("reference, prediction, errors, urgent, stated", ACTED_ON)
def test_errors_that_a_doctor_would_act_on_are_counted_as_by_hand(reference, prediction, errors, urgent, stated):
    (row,) = metrics.report_errors(references=[reference], predictions=[prediction]).to_dict("records")
    assert (row["acted_on"], row["urgent"], row["urgent_right"]) == (errors, urgent, stated)


def test_errors_per_report_and_urgent_recall_are_over_all_reports():
    counts = metrics.report_errors(references=[row[0] for row in ACTED_ON], predictions=[row[1] for row in ACTED_ON])
    rates = metrics.error_rates(counts)
    assert rates["errors_per_report"] == pytest.approx(12 / 7) and rates["urgent_recall"] == pytest.approx(3 / 9)
    assert set(URGENT) | metrics.NOT_ACTED_ON <= set(FINDINGS) and not set(URGENT) & metrics.NOT_ACTED_ON


def test_crg_by_hand():
    # 28 labels, 4 of them positive: a finding is worth 24 / 8 = 3, s_max = 12, s = 3 * 3 - 3 - 2 = 4; 12 / (24 - 4).
    assert metrics.crg_score(3, 1, 2, 28) == pytest.approx(0.6)
    assert metrics.crg_score(4, 0, 0, 28) == 1
    assert metrics.crg_score(0, 4, 0, 28) == pytest.approx(1 / 3), "always normal"
    assert metrics.crg_score(4, 0, 24, 28) == pytest.approx(1 / 3), "every finding in every report"
    assert metrics.crg_score(0, 4, 24, 28) == pytest.approx(1 / 5), "all wrong"
    # Rarer findings weigh more: 28 labels, 2 positive, worth 26 / 4 = 6.5; s = 6.5 - 6.5 - 2; 13 / (26 + 2).
    assert metrics.crg_score([3, 1], [1, 1], [2, 2], 28) == pytest.approx([0.6, 13 / 28])
    assert np.isnan(metrics.crg_score(0, 0, 1, 28)) and np.isnan(metrics.crg_score(28, 0, 0, 28))


def test_crg_of_reports_counts_fourteen_labels_a_report():
    references = ["Cardiomegaly and a nodule.", "Left effusion and atelectasis."]
    predictions = ["Cardiomegaly and a nodule. Pneumothorax.", "Right effusion. Calcifications."]
    found = metrics.error_rates(metrics.report_errors(references=references, predictions=predictions))
    assert found["crg"] == pytest.approx(0.6)  # the numbers above: 3 right, 1 missed, 2 invented of 28
    normal = metrics.report_errors(references=references, predictions=[metrics.ALWAYS_NORMAL] * 2)
    assert metrics.error_rates(normal)["crg"] == pytest.approx(1 / 3)
    assert metrics.error_rates(normal)["contradiction"] == 1


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
    assert same["difference"] == same["low"] == same["high"] == 0 and same["p"] == 1


def test_p_is_the_share_of_swaps_with_as_large_a_difference():
    """Six reports: one system right six times, the other never: only two of 64 ways of swapping are as extreme."""
    references = ["There is an effusion."] * 6
    right = metrics.report_errors(references=references, predictions=references)
    silent = metrics.report_errors(references=references, predictions=["Grey film."] * 6)
    for rate in ("finding_f1", "omission", "errors_per_report", "urgent_recall"):
        found = metrics.paired_error_difference(right, silent, rate, n_resamples=20_000, seed=1)
        assert abs(found["difference"]) == 1 and found["p"] == pytest.approx(2 / 64, abs=0.005)
    without = metrics.paired_error_difference(right, silent, "wrong_side")
    assert np.isnan(without["difference"]) and np.isnan(without["p"])


def test_what_cannot_be_compared_is_refused():
    one = all_counts()
    with pytest.raises(ValueError, match="unknown rate 'speed'"):
        metrics.paired_error_difference(one, one, "speed")
    for other in (one.iloc[:3], pd.concat([one.iloc[4:], one.iloc[:4]])):
        with pytest.raises(ValueError, match="not scored on the same references"):
            metrics.paired_error_difference(one, other)
    with pytest.raises(ValueError, match="expected one prediction per reference"):
        metrics.report_errors(references=["a"], predictions=[])


@pytest.mark.parametrize("reference, prediction, omitted, contradicted", [
    ("There is a nodule.", "The lungs are clear.", 0, 1),
    ("There is a left effusion.", "The lungs are clear.", 1, 0),  # the pleura is no lung
    ("Upper zone fibrosis.", "The lung bases are clear.", 1, 0),  # silent on the rest
])  # fmt: skip
def test_clear_lungs_deny_the_findings_of_the_lung_and_clear_bases_only_theirs(
    reference, prediction, omitted, contradicted
):
    (row,) = metrics.report_errors(references=[reference], predictions=[prediction]).itertuples()
    assert (row.omitted, row.contradicted) == (omitted, contradicted)
