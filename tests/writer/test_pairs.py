"""Training pairs: true evidence, answers that say no more than their prompts, radiologists' reports."""

import numpy as np
import pandas as pd
import pytest

from cliniqure_utils import labeller
from cliniqure_utils.cohort.report_text import FORMS, ONE, SEVERAL, write_report
from cliniqure_utils.reports import Evidence
from cliniqure_utils.vocabulary import FINDINGS
from cliniqure_utils.writer.pairs import disease_pair, indiana_pairs, told_answer, training_answer, training_evidence


class Words:
    """A tokenizer that counts words."""

    def __call__(self, text):
        return type("Encoded", (), {"input_ids": text.split()})


def test_training_evidence_lists_only_what_the_report_says():
    ids = [f"film{n}" for n in range(40)]
    labels = pd.DataFrame(0, index=ids, columns=[*FINDINGS, "No finding"])
    labels[["Consolidation", "Cardiomegaly"]] = 1
    report = {"impression": "Enlarged heart, right consolidation.", "text": "The heart is enlarged."}
    boxes = pd.DataFrame(
        [(i, "Consolidation", 10.0, 70.0, 30.0, 90.0) for i in ids],
        columns=["image_id", "class_name", "x_min", "y_min", "x_max", "y_max"],
    )
    arguments = (ids, labels, boxes, dict.fromkeys(ids, report), pd.DataFrame(), dict.fromkeys(ids, (100, 100)))
    found = training_evidence(*arguments, seed=1)
    for one in found.values():
        assert one.present == {"Consolidation", "Cardiomegaly"}
        probability = dict(one.findings)
        assert 0.15 <= probability["Consolidation"] <= probability["Cardiomegaly"] <= 1, "in the impression's order"
        assert all(place == "right lower zone" for _, _, place in one.boxes)
    assert 0 < sum(bool(one.boxes) for one in found.values()) < 40, "some boxes are missed"
    assert 0 < sum(bool(one.crude_report) for one in found.values()) < 20
    assert found == training_evidence(*arguments, seed=1)


def true_evidence(report, names, boxes=None, films=1, seed=1, **cut):
    ids = [f"film{n}" for n in range(films)]
    labels = pd.DataFrame(0, index=ids, columns=[*FINDINGS, "No finding"])
    labels[names] = 1
    columns = ["image_id", "class_name", "x_min", "y_min", "x_max", "y_max"]
    rows = [(i, name, *corners) for i in ids for name, *corners in boxes or []]
    table = pd.DataFrame(rows, columns=columns)
    sizes = dict.fromkeys(ids, (100, 100))
    return training_evidence(
        ids, labels, table, dict.fromkeys(ids, report), pd.DataFrame(), sizes, seed, **cut
    )  # fmt: skip


LONG_REPORT = {
    "impression": "Enlarged heart.",
    "findings": "There is a left pleural effusion. No consolidation. A nodule is seen.",
    "text": "",
}


IN_LABELS = ["Cardiomegaly", "Pleural effusion", "Consolidation", "Nodule/Mass", "ILD"]


@pytest.mark.parametrize("words, listed", [
    (None, {"Cardiomegaly", "Pleural effusion", "Nodule/Mass"}),  # denied or not named: not listed
    (99, {"Cardiomegaly", "Pleural effusion", "Nodule/Mass"}),
    (10, {"Cardiomegaly", "Pleural effusion"}),  # 2 + 6 + 2 words, the nodule is cut off
    (8, {"Cardiomegaly", "Pleural effusion"}),
    (6, {"Cardiomegaly"}),
])  # fmt: skip
def test_the_prompt_lists_only_findings_that_the_cut_answer_states(words, listed):
    cut = {} if words is None else {"tokenizer": Words(), "max_tokens": words}
    (evidence,) = true_evidence(LONG_REPORT, IN_LABELS, **cut).values()
    assert evidence.present == listed and evidence.boxes == []


def test_a_finding_that_fits_only_without_its_side_is_listed_without_its_box():
    boxes = [("Pleural effusion", 60.0, 70.0, 90.0, 95.0)]
    cut = {"tokenizer": Words(), "max_tokens": 7}  # "Enlarged heart. There is a pleural effusion." has seven words
    for seed in range(12):
        for evidence in true_evidence(LONG_REPORT, IN_LABELS, boxes, films=3, seed=seed, **cut).values():
            answer = training_answer(LONG_REPORT, evidence=evidence, **cut)
            stated = {m.finding for m in labeller.find_mentions(answer) if m.status != "absent"}
            assert stated == evidence.present == {"Cardiomegaly", "Pleural effusion"}
            assert evidence.boxes == evidence.corners == []


def test_boxes_and_corners_stay_together_where_a_finding_is_left_out():
    boxes = [("Nodule/Mass", 1.0, 1.0, 9.0, 9.0), ("Pleural effusion", 60.0, 70.0, 90.0, 95.0)]
    films = true_evidence(LONG_REPORT, IN_LABELS, boxes, films=30, tokenizer=Words(), max_tokens=10).values()
    assert {tuple(e.boxes) for e in films} == {(), (("Pleural effusion", 1.0, "left lower zone"),)}
    assert {tuple(e.corners) for e in films} == {(), ((60.0, 70.0, 90.0, 95.0),)}


@pytest.mark.parametrize("table", [
    pd.DataFrame(columns=["image_id", "class_name", "x_min", "y_min", "x_max", "y_max"]), pd.DataFrame(),
])  # fmt: skip
def test_training_evidence_can_do_without_a_single_box(table):
    labels = pd.DataFrame(0, index=["a"], columns=[*FINDINGS, "No finding"]).assign(Cardiomegaly=1)
    found = training_evidence(["a"], labels, table, {"a": LONG_REPORT}, pd.DataFrame(), {"a": (9, 9)}, seed=0)
    assert found["a"].present == {"Cardiomegaly"} and found["a"].boxes == []


def test_a_training_answer_opens_with_the_impression_and_ends_with_a_whole_sentence():
    report = {"impression": "Enlarged heart.", "findings": "The heart is enlarged. No effusion. No pneumothorax."}
    assert training_answer(report, Words(), 8) == "Enlarged heart. The heart is enlarged. No effusion."
    assert training_answer(report, Words(), 1) == "Enlarged heart."
    assert training_answer({**report, "impression": ""}, Words(), 4) == "The heart is enlarged."


@pytest.mark.parametrize("impression, untold", [
    ("Cardiomegaly, consolidation in the right mid zone and left pleural effusion.",
     "Cardiomegaly, consolidation in the right mid zone and pleural effusion."),
    ("Left upper zone opacity.", "Left upper zone opacity."),
    ("Large left pleural effusion.", "Large pleural effusion."),
    ("Pleural thickening along the right chest wall.", "Pleural thickening."),
    ("Nodules in the right lower and right mid zones.", "Nodules."),
    ("No left effusion. Clear lungs on both sides.", "No left effusion. Clear lungs on both sides."),
])  # fmt: skip
def test_an_answer_says_no_place_that_the_prompt_does_not_hold(impression, untold):
    told = Evidence("a", boxes=[("Consolidation", 1.0, "right mid zone"), ("Cardiomegaly", 1.0, "midline"),
                                ("Lung Opacity", 1.0, "left upper zone")])  # fmt: skip
    report = {"impression": impression, "findings": ""}
    assert training_answer(report, Words(), 99, told) == untold
    assert training_answer(report, Words(), 99) == impression


def test_every_form_of_the_cohort_s_reports_can_lose_its_places_and_nothing_else():
    rng = np.random.default_rng(0)
    kinds = {"Other lesion": ["Lung cavity", "Lung cyst"], "Pleural thickening": ["apical", "lateral"]}
    sentences = set()
    for _ in range(400):
        findings = [
            {"class_name": str(name), "side": str(rng.choice(["left", "right"])),
             "zone": str(rng.choice(["upper", "mid", "lower"])), "extent": float(rng.random()),
             "kind": str(rng.choice(kinds.get(name, [""])))}
            for name in rng.choice(FINDINGS, size=rng.integers(1, 5))
        ]  # fmt: skip
        sentences |= set(labeller.split_sentences(write_report(findings, rng)["text"]))
    assert len(sentences) > 400
    for sentence in sorted(sentences):
        found = training_answer({"impression": sentence, "findings": ""}, Words(), 99, Evidence("a"))
        before, after = labeller.find_mentions(sentence), labeller.find_mentions(found)
        assert [(m.finding, m.status) for m in before] == [(m.finding, m.status) for m in after], (sentence, found)
        assert not any(m.side for m in after if m.status != "absent"), (sentence, found)


def test_radiologists_reports_join_the_pairs_each_once_and_true_to_their_prompts():
    """No text of them may be printed, so every assertion is on a number."""
    pairs = indiana_pairs(200, Words(), 120, 40, seed=1)
    assert len(pairs) == 200 and pairs == indiana_pairs(200, Words(), 120, 40, seed=1), "seeded"
    answers = [answer.lower() for _, answer in pairs]
    assert len(set(answers)) >= 190, "reports may differ behind the cut, but no text comes twice"
    assert max(len(answer.split()) for answer in answers) <= 40
    untrue = 0
    for prompt, answer in pairs:
        classified = next(line for line in prompt.splitlines() if line.startswith("Classified: "))
        listed = {name for name in FINDINGS if name in classified}
        stated = {m.finding for m in labeller.find_mentions(answer) if m.status != labeller.ABSENT}
        untrue += listed != stated
    assert untrue <= 4, "a finding whose place was taken out may read differently"


TOLD = Evidence(
    "film",
    [("Cardiomegaly", 0.91), ("Pleural effusion", 0.55), ("Consolidation", 0.32)],
    [("Pleural effusion", 0.8, "left lower zone"), ("Nodule/Mass", 0.4, "right mid zone")],
)


@pytest.mark.parametrize(
    ("report", "answer"),
    [
        # In the prompt's order; sizes go, for nothing in the prompt shows them.
        (
            "A small left pleural effusion can be seen. The heart is enlarged.",
            "The heart is enlarged. A left pleural effusion can be seen.",
        ),
        # A place that the evidence does not show goes, the finding stays.
        ("There is consolidation in the left upper zone.", "There is consolidation."),
        ("Bilateral pleural effusions, large in size.", "Pleural effusions."),
        # What the evidence lacks cannot be known; what it holds is not denied.
        ("There is a right pneumothorax. The heart is enlarged.", "The heart is enlarged."),
        ("No sign of nodule or pneumothorax. No sign of pneumothorax.", "No sign of pneumothorax."),
        ("The heart is of normal size. There is a right pneumothorax.", "No finding is certain."),
        # What is true of every film stays, behind the findings.
        ("Ribs and spine are intact. There is cardiomegaly.", "There is cardiomegaly. Ribs and spine are intact."),
    ],
)
def test_an_answer_says_what_is_true_as_far_as_the_evidence_carries_it(report, answer):
    assert told_answer(report, TOLD, Words(), 60) == answer


def test_a_told_answer_is_cut_at_a_whole_sentence():
    report = "The heart is enlarged. A left pleural effusion can be seen. There is consolidation."
    assert told_answer(report, TOLD, Words(), 11) == "The heart is enlarged. A left pleural effusion can be seen."
    assert told_answer(report, TOLD, Words(), 1) == "The heart is enlarged.", "never empty"


def test_every_form_of_the_cohort_s_reports_loses_its_size_and_keeps_its_finding():
    for name, form in [*FORMS.items(), *ONE.items(), *SEVERAL.items()]:
        finding = "Pleural thickening" if "thickening" in name else name
        for kind in ("Lung cavity", "Lung cyst"):
            finding = "Other lesion" if name == kind else finding
        known = Evidence("film", [(finding, 0.9)], [(finding, 0.9, f"{side} {zone} zone") for side in ("left", "right")
                                                    for zone in ("upper", "mid", "lower")])  # fmt: skip
        for text in form[0]:
            said = text.format(
                place="the left upper zone", where="left upper zone", Where="Left upper zone", side="left", Side="Left",
                side_only="left", kind="", size="small", Size="Small", noun="nodule", several=False,
            )  # fmt: skip
            answer = told_answer(said, known, Words(), 60)
            assert {m.finding for m in labeller.find_mentions(answer) if m.status == labeller.PRESENT} == {finding}, (
                said
            )
            assert "small" not in answer.lower() and answer[0].isupper(), answer
            sides = {m.side for m in labeller.find_mentions(answer)}
            assert sides == {m.side for m in labeller.find_mentions(said)}, (said, answer)


def test_a_row_of_the_disease_table_is_a_pair():
    row = {"disease": "Flu", "common_symptom": "fever,  cough", "cause": "A virus", "treatment": "Rest"}
    assert disease_pair(row) == (
        "Symptoms: fever, cough\nWhich disease fits, and why?",
        "Disease: Flu. Cause: A virus. Treatment: Rest.",
    )
