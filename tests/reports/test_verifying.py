"""Verified writing with an asker whose answers are known: what is tried again, replaced, cut off and left alone."""

import pytest

from cliniqure_utils import labeller
from cliniqure_utils.reports import (
    ORIGINS,
    REASONS,
    Evidence,
    assemble_report,
    check_sentences,
    load_knowledge,
    template_report,
    verify_texts,
)
from cliniqure_utils.reports.verifying import ROUNDS, runs_in_circles

EFFUSION = "There is a pleural effusion in the left lower zone."
HEART = "There is cardiomegaly."


class Asker:
    """Gives the sentences of a list in turn, the same to all films of a round, and keeps what it was asked."""

    def __init__(self, *rounds):
        self.rounds, self.asked = rounds, []

    def __call__(self, films, begun, number):
        self.asked.append((list(films), list(begun), number))
        return [self.rounds[number] if number < len(self.rounds) else ["", ""] for _ in films]


def verify(evidence, text, *rounds):
    return verify_texts([evidence], [text], Asker(*rounds))[0]


def origins(result):
    return [(entry["sentence"], entry["origin"]) for entry in result.sentences]


def test_a_text_that_the_evidence_carries_stays_as_it_is_and_nobody_is_asked(evidence):
    text = "The heart is enlarged. A small left pleural effusion. Effusions are treated by drainage. No pneumothorax."
    asker = Asker()
    (result,) = verify_texts([evidence], [text], asker)
    assert (result.text, result.set_aside, result.tries, asker.asked) == (text, [], 0, [])
    assert {entry["origin"] for entry in result.sentences} == {"model"}
    assert [entry["status"] for entry in result.sentences] == [c["status"] for c in check_sentences(text, evidence)]


def test_the_first_good_sentence_of_those_drawn_takes_the_place_of_one_at_fault(evidence):
    text = "The heart is enlarged. There is a right pleural effusion. The patient is old."
    asker = Asker(["A right effusion.", "A left pleural effusion.", "Left effusion."])
    (result,) = verify_texts([evidence], [text], asker)
    assert asker.asked == [([0], ["The heart is enlarged."], 0)]
    assert result.text == "The heart is enlarged. A left pleural effusion. The patient is old."
    assert result.tries == 2
    assert origins(result)[1] == ("A left pleural effusion.", "second try")
    assert result.set_aside == [
        {"sentence": "There is a right pleural effusion.", "why": "against the evidence",
         "problems": [{"finding": "Pleural effusion", "problem": "wrong side"}], "instead": "second try"}
    ]  # fmt: skip


@pytest.mark.parametrize(
    "drawn",
    [
        "",  # the model ends the text
        "There is a right effusion.",  # at fault again
        "The patient is short of breath.",  # says nothing of the finding
        "No pneumothorax.",  # agrees with the evidence, but not about this finding
        "A left pleural effusion in the",  # cut off
        "The heart is enlarged.",  # said already
        "A left effusion is seen.",  # comes later in the text
        "A left pleural effusion is, a left pleural effusion is there.",  # runs in circles
    ],
)
def test_facts_take_the_place_where_no_drawn_sentence_is_good(evidence, drawn):
    text = "The heart is enlarged. There is a right pleural effusion. A left effusion is seen."
    result = verify(evidence, text, [drawn])
    assert result.text == f"The heart is enlarged. {EFFUSION} A left effusion is seen."
    assert [origin for _, origin in origins(result)] == ["model", "facts", "model"]
    assert result.tries == 1 and result.set_aside[0]["instead"] == "facts"


def test_where_nobody_is_asked_facts_take_the_place_at_once(evidence):
    text = "The heart is enlarged. There is a right pleural effusion. No effusion. There is a pneumothorax."
    (result,) = verify_texts([evidence], [text], None)
    assert result.text == f"The heart is enlarged. {EFFUSION}"
    assert result.tries == 0 and [entry["instead"] for entry in result.set_aside] == ["facts", None, None]


def test_a_finding_that_the_evidence_does_not_hold_goes_without_a_word_of_facts_and_is_listed(evidence):
    result = verify(evidence, "The heart is enlarged. There is a pneumothorax. Follow-up is advised.")
    assert result.text == "The heart is enlarged. Follow-up is advised."
    assert result.set_aside == [
        {"sentence": "There is a pneumothorax.", "why": "against the evidence",
         "problems": [{"finding": "Pneumothorax", "problem": "hallucination"}], "instead": None}
    ]  # fmt: skip


def test_facts_say_every_finding_that_the_lost_sentence_spoke_of_once(evidence):
    """The sentence is right about the heart, which is not said anywhere else."""
    assert verify(evidence, "Cardiomegaly, left effusion and a nodule.").text == f"{HEART} {EFFUSION}"
    result = verify(evidence, "The heart is enlarged. Cardiomegaly, left effusion and a nodule.")
    assert result.text == f"The heart is enlarged. {EFFUSION}"
    denied = verify(evidence, "Normal chest radiograph.")
    assert denied.text == f"{HEART} {EFFUSION}", "what is denied with all others comes back as facts"


def test_sides_come_from_the_evidence_and_one_that_nobody_told_is_not_kept():
    known = Evidence("a", [("Atelectasis", 0.5)])
    assert verify(known, "Left basal atelectasis.").text == "There is atelectasis."
    assert verify(known, "Left basal atelectasis.", ["Atelectasis is seen."]).text == "Atelectasis is seen."
    assert verify(known, "An effusion is possible.").text == "An effusion is possible.", "open, and marked so"


def test_what_the_text_leaves_out_is_not_put_in(evidence):
    assert verify(evidence, "The heart is enlarged.").text == "The heart is enlarged."
    assert verify(evidence, "").text == ""


def test_a_text_ends_where_it_says_a_sentence_again_word_for_word_or_in_another_order(evidence):
    text = "The heart is enlarged. A left effusion is seen. Seen is a left effusion. No pneumothorax. The aorta"
    result = verify(evidence, text)
    assert result.text == "The heart is enlarged. A left effusion is seen."
    assert [(entry["sentence"], entry["why"]) for entry in result.set_aside] == [
        ("Seen is a left effusion.", "repeated"), ("No pneumothorax.", "after a repeated sentence"),
        ("The aorta", "unfinished"),
    ]  # fmt: skip
    again = verify(evidence, "There is a nodule. The heart is enlarged. There is a nodule. No pneumothorax.")
    assert again.text == "The heart is enlarged.", "a sentence that was set aside is no new one either"


def test_a_sentence_that_runs_in_circles_gives_way_to_facts_and_ends_the_text(evidence):
    text = "A left pleural effusion is seen and a left pleural effusion is seen and a. The heart is enlarged."
    result = verify(evidence, text)
    assert result.text == EFFUSION
    assert [(entry["why"], entry["instead"]) for entry in result.set_aside] == [
        ("repeated", "facts"), ("after a repeated sentence", None)
    ]  # fmt: skip
    assert runs_in_circles("Chest chest chest.") and not runs_in_circles("Patchy, patchy shadows.")
    assert not runs_in_circles("Consolidation in the right mid zone, right mid zone opacity and right mid zone masses.")


def test_a_last_sentence_without_an_end_is_dropped(evidence):
    result = verify(evidence, "The heart is enlarged. There is a small left")
    assert result.text == "The heart is enlarged."
    assert result.set_aside == [
        {"sentence": "There is a small left", "why": "unfinished", "problems": [], "instead": None}
    ]  # fmt: skip


def test_films_are_asked_about_together_round_by_round_and_none_is_lost(evidence):
    healthy = Evidence("b")
    texts = ["A right effusion. A nodule.", "The lungs are clear.", "There is a mass. There is a cavity.", ""]
    asker = Asker(["A left effusion."], ["The heart is enlarged."])
    results = verify_texts([evidence, healthy, healthy, evidence], texts, asker)
    assert asker.asked == [([0, 2], ["", ""], 0), ([0, 2], ["A left effusion.", ""], 1)]
    assert [result.text for result in results] == ["A left effusion. The heart is enlarged.", texts[1], "", ""]
    assert [result.tries for result in results] == [2, 0, 2, 0]
    with pytest.raises(ValueError):
        verify_texts([evidence], texts, asker)


def test_the_rounds_are_bounded_and_facts_end_what_is_left(evidence):
    text = " ".join(f"There is {name}." for name in ("a nodule", "a mass", "a pneumothorax", "a bulla", "atelectasis"))
    asker = Asker()
    (result,) = verify_texts([evidence], [f"{text} A right effusion."], asker)
    assert len(asker.asked) == ROUNDS and result.text == EFFUSION
    assert len(result.set_aside) == 6


def test_a_verified_text_holds_nothing_against_the_evidence_and_splits_into_its_sentences(evidence):
    text = "Report:\nA right effusion\nThe heart is normal. No pneumothorax. Approx. 3 ribs. Normal chest.\nNo cough."
    result = verify(evidence, text)
    assert labeller.split_sentences(result.text) == [entry["sentence"] for entry in result.sentences]
    assert {entry["origin"] for entry in result.sentences} <= set(ORIGINS)
    assert {entry["why"] for entry in result.set_aside} <= set(REASONS)
    checked = check_sentences(result.text, evidence)
    assert "contradicted" not in [entry["status"] for entry in checked]
    written = labeller.split_sentences(text)
    kept = [sentence for sentence, origin in origins(result) if origin == "model"]
    assert sorted(kept + [entry["sentence"] for entry in result.set_aside]) == sorted(written)


def test_a_report_holds_both_texts_and_the_template_s_are_equal(evidence, repository):
    knowledge = load_knowledge(repository / "data" / "knowledge.csv")
    text = "There is a right pleural effusion. There is a"
    report = assemble_report(evidence, text, knowledge, "causal_lm", verify(evidence, text))
    sections = report["sections"]
    assert (report["text"], report["verified"]) == (text, EFFUSION)
    assert sections["verified"] == [{"sentence": EFFUSION, "origin": "facts", "status": "supported"}]
    assert sections["checked"][0]["status"] == "contradicted" and sections["problems"]["wrong side"] == 1
    assert [entry["why"] for entry in sections["set_aside"]] == ["against the evidence", "unfinished"]
    assert sections["tries"] == 2 and sections["omitted"] == ["Cardiomegaly"]
    facts = assemble_report(evidence, "", knowledge, "template")
    assert facts["verified"] == facts["text"] == template_report(evidence)
    assert [entry["origin"] for entry in facts["sections"]["verified"]] == ["facts", "facts"]
    assert facts["sections"]["set_aside"] == [] and facts["sections"]["omitted"] == []
    assert "verified" not in assemble_report(evidence, text, knowledge, "causal_lm")
