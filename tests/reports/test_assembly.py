"""The report: the template says what the models found, the labeller reads it back, table text has a source."""

import pytest

from cliniqure_utils import labeller
from cliniqure_utils.reports import (
    Evidence,
    assemble_report,
    check_sentences,
    load_knowledge,
    omitted_findings,
    template_report,
)
from cliniqure_utils.vocabulary import FINDINGS, MIDLINE


def test_the_template_report_agrees_with_its_own_evidence(evidence):
    text = template_report(evidence)
    assert text == "There is cardiomegaly. There is a pleural effusion in the left lower zone."
    assert {entry["status"] for entry in check_sentences(text, evidence)} == {"supported"}
    everything = Evidence("b", [(name, 0.8) for name in FINDINGS])
    statuses = [entry["status"] for entry in check_sentences(template_report(everything), everything)]
    assert statuses == ["supported"] * 14


@pytest.mark.parametrize("name", FINDINGS)
def test_the_labeller_reads_each_finding_and_side_from_the_template_s_own_sentence(name):
    def read(**models):
        text = template_report(Evidence("a", **models))
        assert omitted_findings(text, Evidence("a", **models)) == []
        return [(m.finding, m.status, m.side) for m in labeller.find_mentions(text)]

    assert set(read(findings=[(name, 0.8)])) == {(name, "present", None)}
    assert read(findings=[(name, 0.49)]) == read(findings=[(name, 0.8)]), (
        "a word of doubt is not read as another finding"
    )
    if name in MIDLINE:
        assert set(read(boxes=[(name, 0.7, "midline")])) == {(name, "present", None)}
        return
    left, right = (name, 0.7, "left lower zone"), (name, 0.6, "right upper zone")
    assert set(read(boxes=[left])) == {(name, "present", "left")}
    assert set(read(findings=[(name, 0.8)], boxes=[right])) == {(name, "present", "right")}
    assert set(read(boxes=[left, right])) == {(name, "present", "both")}


@pytest.mark.parametrize("probability, words", [(0.49, " (possible)"), (0.5, ""), (0.99, "")])
def test_a_finding_of_little_certainty_is_said_with_a_word(probability, words):
    models = Evidence("a", [("Calcification", probability)])
    assert template_report(models) == f"There is calcification{words}."
    assert template_report(Evidence("a", boxes=[("Calcification", 0.9, "left upper zone")])) == (
        "There is calcification in the left upper zone (possible)."
    )


def test_recommendations_come_from_sourced_rows_only(evidence, tmp_path):
    columns = (
        "finding,cause,symptoms,diagnostic_methods,treatment_options,red_flags,source,source_date,sourced_fields\n"
    )
    rows = "".join(
        f"{n},c,s,d,t,r,{'page' if n == 'Cardiomegaly' else 'unsourced'},2026-01-01,cause; treatment_options\n"
        for n in FINDINGS
    )
    (tmp_path / "k.csv").write_text(columns + rows)
    knowledge = load_knowledge(tmp_path / "k.csv")
    report = assemble_report(evidence, "The heart is enlarged.", knowledge, "causal_lm")
    assert report["sections"]["recommendations"] == [
        {"finding": "Cardiomegaly", "cause": "c", "symptoms": "", "diagnostic_methods": "", "treatment_options": "t",
         "red_flags": "", "source": "page", "source_date": "2026-01-01"}
    ], "what the page does not say is left out"  # fmt: skip
    assert report["sections"]["disclaimer"] == "For teaching only, not for clinical use."
    assert report["text"] == "The heart is enlarged."
    (tmp_path / "k.csv").write_text(columns + rows.split("\n")[0] + "\n")
    with pytest.raises(ValueError, match="one row per finding"):
        load_knowledge(tmp_path / "k.csv")
