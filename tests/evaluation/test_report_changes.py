"""Reports changed by rule: each change does to the meaning what its kind says."""

import numpy as np
import pytest

from cliniqure_utils import labeller
from cliniqure_utils.evaluation.report_changes import RULES, opposite, turn_round

REPORT = (
    "There is a tiny left pleural effusion. The heart is enlarged. A mild right fibrosis is seen. "
    "No sign of pneumothorax or consolidation. Ribs and spine are intact."
)


def changed(kind, text=REPORT, seed=0):
    return RULES[kind](text, np.random.default_rng(seed))


def test_paraphrase_keeps_the_findings_and_changes_most_words():
    new = changed("paraphrase")
    assert "tiny left pleural fluid collection" in new and "The size of the heart is increased" in new
    assert "The film shows no pneumothorax or consolidation." in new
    same = labeller.label_matrix([REPORT, new])
    assert (same[0] == same[1]).all()
    assert changed("paraphrase", "Tubes are in place. Ribs and spine are straight. Fine.") is None


def test_the_order_of_sentences_is_turned():
    assert changed("sentence order").startswith("Ribs and spine are intact. No sign of")
    assert sorted(changed("sentence order").split()) == sorted(REPORT.split())
    assert changed("sentence order", "One. Two.") is None


@pytest.mark.parametrize(
    ("sentence", "wanted"),
    [
        ("There is a tiny left pleural effusion.", "There is no tiny left pleural effusion."),
        ("No sign of pneumothorax or consolidation.", "There is pneumothorax and consolidation."),
        ("No effusion is seen.", "Effusion is seen."),
        ("A mild right fibrosis is seen.", "No mild right fibrosis is seen."),
        ("The heart is enlarged.", "The heart is not enlarged."),
        ("Signs of effusion are absent.", "Signs of effusion are present."),
        ("A nodule is not seen.", "A nodule is seen."),
        ("The lungs are clear.", "The lungs are not clear."),
        ("Ribs and spine are intact.", None),
    ],
)
def test_negation_flips(sentence, wanted):
    assert opposite(sentence) == wanted


def test_negation_flip_changes_one_sentence_only():
    for seed in range(5):
        new = changed("negation flip", seed=seed)
        before, after = labeller.split_sentences(REPORT), labeller.split_sentences(new)
        assert sum(a != b for a, b in zip(before, after, strict=True)) == 1


def test_severity_and_side_are_swapped_where_a_finding_is_stated():
    assert changed("severity").startswith("There is a huge left pleural effusion.")
    assert "A severe right fibrosis" in changed("severity")
    assert changed("severity", "No small effusion. Heart is large.").endswith("Heart is small.")
    swapped = changed("side swap")
    assert "tiny right pleural effusion" in swapped and "mild left fibrosis" in swapped
    assert changed("side swap", "Left and right effusion. No left nodule.") is None


def test_a_finding_is_dropped_wherever_it_is_stated():
    text = "Left pleural effusion. The heart is large. The effusion is new. Ribs intact."
    assert changed("finding dropped", text) == "The heart is large. Ribs intact."
    assert changed("finding dropped", "No effusion. No nodule. Fine.") is None


def test_the_added_finding_is_one_that_the_report_does_not_mention():
    for seed in range(8):
        new = changed("finding added", seed=seed)
        (extra,) = set(labeller.split_sentences(new)) - set(labeller.split_sentences(REPORT))
        added = {m.finding for m in labeller.find_mentions(extra)}
        assert added and not added & {m.finding for m in labeller.find_mentions(REPORT)}


def test_a_report_is_turned_round_sentence_by_sentence():
    text = "There is a left pleural effusion. No pneumothorax. The heart is enlarged. Follow-up is due."
    turned = "There is no left pleural effusion. There is pneumothorax. The heart is not enlarged. Follow-up is due."
    assert turn_round(text) == turned
