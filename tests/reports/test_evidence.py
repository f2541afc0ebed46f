"""Evidence: places in words, cleaned text, and what thresholds leave of the models' answers."""

import pandas as pd
import pytest

from cliniqure_utils.reports import age_in_words, clean_field, gather_evidence, place_in_words
from cliniqure_utils.vocabulary import FINDINGS


@pytest.mark.parametrize("box, words", [
    ([60, 70, 90, 95], "left lower zone"),  # the right half of the film is the patient's left
    ([10, 5, 30, 30], "right upper zone"),
    ([10, 40, 30, 60], "right mid zone"),
])  # fmt: skip
def test_places_in_words(box, words):
    assert place_in_words("Consolidation", box, 100, 100) == words
    assert place_in_words("Cardiomegaly", box, 100, 100) == "midline"


@pytest.mark.parametrize(
    "years, words",
    [(54.0, "54 years"), (2.0, "2 years"), (None, ""), (float("nan"), ""), (0.05, "under 1 month"),
     *[(round(months / 12, 2), f"{months} months") for months in range(2, 24)], (round(1 / 12, 2), "1 month"),
     (round(20 / 365.25, 2), "under 1 month"), (round(6 / 52.18, 2), "1 month")],
)  # fmt: skip
def test_an_age_in_words(years, words):
    """Years as the header's reader gives them, rounded to two digits."""
    assert age_in_words(years) == words


def test_signs_of_more_and_less_are_no_marks():
    assert clean_field("fever < 38, for <3 days, weight loss >5 kg") == ("fever < 38, for <3 days, weight loss >5 kg")


def test_missing_values_are_empty_and_long_ones_cut():
    assert clean_field(None) == clean_field(float("nan")) == ""
    assert len(clean_field("word " * 500, 50)) <= 50


def test_evidence_is_gathered_from_the_files_of_the_notebooks():
    probabilities = pd.DataFrame(0.1, index=["a"], columns=[*FINDINGS, "No finding"])
    probabilities.loc["a", "Cardiomegaly"] = 0.6
    predictions = pd.DataFrame(
        [
            ("a", "Consolidation", 0.9, 60, 70, 90, 95),
            ("a", "Consolidation", 0.8, 61, 70, 90, 95),
            ("a", "ILD", 0.1, 0, 0, 9, 9),
        ],
        columns=["image_id", "class_name", "score", "x_min", "y_min", "x_max", "y_max"],
    )
    clinical = pd.DataFrame({"age_years": [30], "sex": ["M"], "symptoms": ["cough"], "indication": [None]}, index=["a"])
    found = gather_evidence(
        ["a"], probabilities, dict.fromkeys(FINDINGS, 0.5), predictions, 0.3, {"a": "text"}, clinical, {"a": (100, 100)}
    )["a"]
    assert found.findings == [("Cardiomegaly", 0.6)]
    assert found.boxes == [("Consolidation", 0.9, "left lower zone")], "one entry per place, weak boxes left out"
    assert (found.age_years, found.sex, found.symptoms, found.indication) == (30, "M", "cough", "")
