"""What the writer learns from: evidence as our eyes give it, and the truth as far as it carries."""

import numpy as np
import pytest

from cliniqure_utils import labeller
from cliniqure_utils.pretraining import writer
from cliniqure_utils.vocabulary import CLASSES


class Words:
    """A tokenizer that counts words."""

    def __call__(self, text):
        return type("Encoded", (), {"input_ids": text.split()})


def film(probabilities, findings, boxes=()):
    columns = ("class_name", "score", "x_min", "y_min", "x_max", "y_max")
    return {
        "probabilities": [probabilities.get(name, 0.01) for name in CLASSES],
        "boxes": [dict(zip(columns, box, strict=True)) for box in boxes],
        "crude": "The lungs are clear.",
        "findings": findings,
        "person": {"age_years": 60, "sex": "F", "symptoms": "cough", "indication": "cough"},
    }


EFFUSION = {"class_name": "Pleural effusion", "side": "left", "zone": "lower", "extent": 0.5, "kind": ""}


def test_the_answer_tells_the_truth_that_the_evidence_shows_and_passes_over_what_is_wrong():
    seen = film(
        {"Pleural effusion": 0.95, "Cardiomegaly": 0.9},
        [EFFUSION, {"class_name": "Nodule/Mass", "side": "right", "zone": "mid", "extent": 12.0, "kind": ""}],
        [("Pleural effusion", 0.9, 120.0, 130.0, 170.0, 180.0)],
    )
    for seed in range(8):
        prompt, answer = writer.film_pair(seen, np.random.default_rng(seed), Words())
        assert "Classified: Pleural effusion 0." in prompt and "Cardiomegaly 0." in prompt
        assert "Detected: Pleural effusion in the left lower zone" in prompt
        mentions = {m.finding: m for m in labeller.find_mentions(answer) if m.status == labeller.PRESENT}
        assert set(mentions) == {"Pleural effusion"}, "one that is there, and not what was seen wrongly or was missed"
        assert mentions["Pleural effusion"].side == "left"
        denied = {m.finding for m in labeller.find_mentions(answer) if m.status == labeller.ABSENT}
        assert not denied & {"Pleural effusion", "Cardiomegaly"}, "what the evidence holds is not denied"


def test_numbers_differ_from_draw_to_draw_and_repeat_with_the_seed():
    seen = film({"Pleural effusion": 0.9}, [EFFUSION])
    drawn = [writer.film_pair(seen, np.random.default_rng(seed), Words())[0] for seed in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1] and len(set(drawn)) == 3


def test_a_film_whose_findings_were_all_missed_teaches_nothing():
    assert writer.film_pair(film({}, [EFFUSION]), np.random.default_rng(0), Words()) is None


@pytest.mark.parametrize("certain", [{}, {"Nodule/Mass": 0.7}])
def test_a_normal_film_is_answered_without_a_finding(certain):
    _, answer = writer.film_pair(film(certain, []), np.random.default_rng(0), Words())
    assert answer and not labeller.label_matrix([answer]).any()
