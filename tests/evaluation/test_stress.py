"""The stress panel: pairs of every kind, and verdicts that follow from the order, not from the value."""

import itertools

import numpy as np
import pandas as pd
import pytest

from cliniqure_utils import metrics
from cliniqure_utils.cohort.report_text import write_report
from cliniqure_utils.evaluation import stress
from cliniqure_utils.figures.evaluate import plot_stress
from cliniqure_utils.writer import indiana


def simulated_reports(n=60):
    """Reports of the demo cohort's own grammar, without its films."""
    rng = np.random.default_rng(0)
    names = ["Pleural effusion", "Nodule/Mass", "Pulmonary fibrosis", "Cardiomegaly", "Lung Opacity", "Atelectasis"]
    texts = []
    for _ in range(n):
        chosen = rng.choice(names, size=rng.integers(1, 4), replace=False)
        findings = [
            {
                "class_name": name, "side": str(rng.choice(["left", "right"])),
                "zone": str(rng.choice(["upper", "lower"])), "extent": float(rng.random()),
            }
            for name in chosen
        ]  # fmt: skip
        texts.append(write_report(findings, rng)["findings"])
    return texts


@pytest.fixture(scope="module")
def pairs():
    texts = simulated_reports()
    return stress.make_pairs(real=texts[:30], simulated=texts[30:], n_reports=5, seed=1)


def test_pairs_have_every_kind_and_both_sources(pairs):
    assert set(pairs.kind) == set(stress.KINDS) and set(pairs.source) == {"real", "simulated"}
    assert pairs.report.nunique() == 10 and not pairs.duplicated(["report", "kind"]).any()
    assert (pairs.reference != pairs.prediction).all()
    harmless = pairs[pairs.harmless]
    assert (harmless.groupby("report").size() == 2).all(), "every report has both harmless changes to compare with"
    echo = pairs[pairs.kind == "prompt echo"].prediction
    assert echo.str.startswith("Patient: unknown").all() and echo.str.contains("Classified: ").all()


def test_the_same_seed_gives_the_same_pairs_whatever_the_order_of_the_pool(pairs):
    texts = simulated_reports()
    again = stress.make_pairs(real=texts[:30][::-1], simulated=texts[30:], n_reports=5, seed=1)
    pd.testing.assert_frame_equal(again, pairs)
    other = stress.make_pairs(real=texts[:30], simulated=texts[30:], n_reports=5, seed=2)
    assert other.reference.tolist() != pairs.reference.tolist()


def test_the_real_reports_are_read_and_give_more_than_200_pairs():
    try:
        real = stress.indiana_findings()
    except indiana.MissingReports as missing:
        pytest.skip(str(missing))
    assert len(real) > 1000 and len(set(real)) == len(real) and not any("XXXX" in text for text in real)
    found = stress.make_pairs(real=real, simulated=simulated_reports(), seed=3)
    assert len(found) >= 200 and (found.groupby("source").report.nunique() == 16).all()


def test_reports_that_are_not_there_are_one_sentence(monkeypatch):
    monkeypatch.setattr(indiana.importlib.util, "find_spec", lambda name: None)
    indiana.read_reports.cache_clear()
    with pytest.raises(indiana.MissingReports, match="pip install torchxrayvision"):
        stress.indiana_findings.__wrapped__()
    indiana.read_reports.cache_clear()


# --- order and verdict


def table(**metric):
    """Two reports with all nine kinds; metric: name -> score by kind."""
    rows = [
        {"report": r, "source": "real", "kind": kind, "harmless": kind in stress.HARMLESS}
        | {name: score[kind] for name, score in metric.items()}
        for r, kind in itertools.product((0, 1), stress.KINDS)
    ]
    return pd.DataFrame(rows)


PERFECT = {kind: 1.0 if kind in stress.HARMLESS else 0.0 for kind in stress.KINDS}


def test_order_is_what_counts_and_ties_are_half():
    blind = dict.fromkeys(stress.KINDS, 0.99)
    backwards = {kind: 1 - value for kind, value in PERFECT.items()}
    tiny_gap = {kind: 0.980 if kind in stress.HARMLESS else 0.979 for kind in stress.KINDS}
    half = PERFECT | {"negation flip": 1.0, "paraphrase": 0.5}  # above one harmless change, equal to the other
    scores = table(perfect=PERFECT, blind=blind, backwards=backwards, tiny=tiny_gap, half=half)
    share = stress.order_table(scores, n_resamples=20).pivot(index="metric", columns="kind", values="share")
    assert (share.loc[["perfect", "tiny"]] == 1).all(axis=None) and (share.loc["backwards"] == 0).all()
    assert (share.loc["blind"] == 0.5).all()
    assert share.loc["half", "negation flip"] == 0.25


def test_order_compares_within_one_report_only():
    """Report 1 scores far lower throughout; its harmless changes are still above its harmful ones."""
    scores = table(m=PERFECT)
    scores.loc[scores.report == 1, "m"] = scores.m[scores.report == 1] * 0.1 - 5
    assert (stress.order_table(scores, n_resamples=20).share == 1).all()


def test_the_interval_is_a_bootstrap_of_reports():
    scores = table(m=PERFECT)
    scores.loc[(scores.report == 1) & (scores.kind == "severity"), "m"] = 2.0  # wrong in one report of two
    row = stress.order_table(scores, n_resamples=400).set_index("kind").loc["severity"]
    assert row.share == 0.5 and (row.low, row.high) == (0, 1) and row.n == 4 and not row.told


def test_verdicts():
    no_negation = PERFECT | {"negation flip": 1.5}
    no_side = PERFECT | {"side swap": 1.0}
    order = stress.order_table(table(all=PERFECT, fluent=no_negation, sideless=no_side), n_resamples=20)
    found = stress.verdicts(order).set_index("metric")
    assert found.verdict.to_dict() == {
        "all": "orders all kinds right", "fluent": "fluency only", "sideless": "content, but not all of it",
    }  # fmt: skip
    assert found.misses["sideless"] == "side swap" and found.misses["all"] == ""
    assert found.misses["fluent"] == "negation flip"


def test_metrics_on_pairs_expected_to_fail_and_to_hold(pairs):
    """Raw BERTScore rates a reversed statement above a paraphrase, finding F1 does not; one of them sees sides."""
    try:
        scorer = metrics.BertScorer()
    except metrics.MissingEncoder as missing:
        pytest.skip(str(missing))
    scores = stress.score_pairs(pairs, scorer, n_random_pairs=40)
    assert list(scores.columns[4:]) == list(stress.METRICS) and "reference" not in scores
    assert scores[list(stress.METRICS)].notna().all(axis=None)
    order = stress.order_table(scores, n_resamples=50)
    share = order.pivot(index="metric", columns="kind", values="share")
    assert share.loc["bertscore_raw", "negation flip"] < 0.3
    # Rescaling is one straight line per source: no order can change.
    pd.testing.assert_series_equal(share.loc["bertscore_raw"], share.loc["bertscore_rescaled"], check_names=False)
    assert share.loc["finding_f1", "negation flip"] > 0.8
    assert share.loc["finding_side_f1", "side swap"] > 0.8 > share.loc["finding_f1", "side swap"]
    said = stress.verdicts(order).set_index("metric").verdict
    assert said["bertscore_raw"] == said["bertscore_rescaled"] == stress.FLUENCY_ONLY != said["finding_side_f1"]


def test_the_heat_map_shows_every_share_and_frames_what_is_noticed():
    order = stress.order_table(table(bleu_4=PERFECT | {"severity": 1.0}, mine=PERFECT), n_resamples=20)
    figure = plot_stress(order, stress.verdicts(order))
    axis = figure.axes[0]
    assert sorted({text.get_text() for text in axis.texts}) == ["0.50", "1.00"] and len(axis.texts) == 14
    assert len(axis.patches) == 13, "all but the one blind cell are framed"
    assert [label.get_text() for label in axis.get_yticklabels()] == ["BLEU-4", "mine"]
