"""The reading order: urgent first, then by weight of evidence, certainty in words, sources numbered."""

import itertools

import pytest

from cliniqure_utils.reports.reading import certainty, explained, impression, reading_order

THRESHOLDS = {"Calcification": 0.35, "Cardiomegaly": 0.4, "Consolidation": 0.3, "ILD": 0.5, "Nodule/Mass": 0.4,
              "Other lesion": 0.4, "Pleural effusion": 0.5, "Pneumothorax": 0.5}  # fmt: skip


def fact(name, probability=None, *boxes):
    """boxes: (score, side, zone, height on a film of 100 pixels)."""
    found = [{"score": s, "side": side, "zone": zone, "box": [10, 20, 30, 20 + h]} for s, side, zone, h in boxes]
    return {"name": name, "probability": probability, "boxes": found}


def read(*facts):
    return reading_order(facts, THRESHOLDS, 100)


@pytest.mark.parametrize(
    "probability, threshold, word",
    [(0.40, 0.4, "possible"), (0.69, 0.4, "possible"), (0.71, 0.4, "probable"), (0.93, 0.4, "probable"),
     (0.95, 0.4, "very probable"), (1.0, 0.4, "very probable"), (1.0, 1.0, "very probable"), (0.3, 0.4, "possible"),
     (None, 0.4, "possible"), (0.49, 0.0, "possible"), (0.5, 0.0, "probable"), (0.9, 0.0, "very probable")],
)  # fmt: skip
def test_certainty_is_a_word_between_the_threshold_and_one(probability, threshold, word):
    assert certainty(probability, threshold) == word


def test_no_word_stands_for_less_than_it_says():
    for hundredths, threshold in itertools.product(range(101), (0.01, 0.1, 0.35, 0.5, 0.8, 0.99)):
        word = certainty(hundredths / 100, threshold)
        assert hundredths >= {"possible": 0, "probable": 50, "very probable": 90}[word]


def test_urgent_findings_are_on_top_however_weak_they_are():
    box = (0.9, "left", "lower", 45)
    found = read(
        fact("Cardiomegaly", 0.99, (0.9, None, None, 40)), fact("Pleural effusion", 0.99, box),
        fact("Nodule/Mass", 0.41), fact("Pneumothorax", None, (0.4, "right", "upper", 30)), fact("Consolidation", 0.9),
    )  # fmt: skip
    assert [(entry["name"], entry["urgent"]) for entry in found] == [
        ("Pneumothorax", True), ("Nodule/Mass", True), ("Pleural effusion", True), ("Cardiomegaly", False),
        ("Consolidation", False),
    ]  # fmt: skip
    assert impression(found) == [
        "Urgent: possible pneumothorax in the right upper zone, seen by the detector alone.",
        "Urgent: possible nodule or mass, without a box.",
        "Urgent: very probable pleural effusion in the left lower zone.",
        "Very probable: cardiomegaly.",
        "Probable: consolidation.",
    ]


@pytest.mark.parametrize("height, urgent", [(39, False), (40, True)])
def test_an_effusion_is_urgent_where_it_is_large(height, urgent):
    boxes = [(0.6, "left", "lower", height), (0.9, "right", "lower", 10)]
    assert read(fact("Pleural effusion", 0.9, *boxes))[0]["urgent"] is urgent
    assert read(fact("Pleural effusion", 0.9))[0]["urgent"] is False


def test_the_rest_is_ordered_by_weight_of_evidence():
    """Certainty, then both models before one, then the number."""
    box = (0.5, "right", "upper", 10)
    found = read(
        fact("Consolidation", 0.31), fact("Other lesion", None, box), fact("Calcification", 0.36, box),
        fact("ILD", 0.76, box), fact("Cardiomegaly", 0.95),
    )  # fmt: skip
    assert [entry["name"] for entry in found] == [
        "Cardiomegaly",
        "ILD",
        "Calcification",
        "Other lesion",
        "Consolidation",
    ]
    assert [entry["seen_by"] for entry in found] == [
        "classifier", "classifier and detector", "classifier and detector", "detector", "classifier",
    ]  # fmt: skip
    assert found[1]["sentence"] == "Probable interstitial lung disease in the right upper zone."


def test_boxes_are_numbered_through_all_findings_in_reading_order():
    found = read(
        fact("Calcification", 0.99, (0.4, "left", "mid", 10), (0.8, "right", "mid", 10), (0.7, "right", "mid", 12)),
        fact("Pneumothorax", 0.6, (0.7, "left", "upper", 10)),
    )
    numbers = {entry["name"]: [(box["number"], box["score"]) for box in entry["boxes"]] for entry in found}
    assert numbers == {"Pneumothorax": [(1, 0.7)], "Calcification": [(2, 0.8), (3, 0.7), (4, 0.4)]}
    assert found[1]["places"] == ["right mid zone", "left mid zone"]
    assert impression(found)[1] == "Very probable: calcification (both sides)."


def test_a_report_without_a_finding_rules_out_nothing():
    assert read() == [] and impression([]) == [
        "None of the findings that the models look for is reported. That does not rule out disease."
    ]


def test_every_source_has_one_number_and_only_what_a_source_says_is_shown():
    row = dict.fromkeys(("cause", "symptoms", "diagnostic_methods", "treatment_options", "red_flags"), "")
    texts, notes = explained([
        row | {"finding": "ILD", "cause": "c", "red_flags": "r", "source": "https://a ; https://b", "source_date": "1"},
        row | {"finding": "Calcification", "symptoms": "s", "source": "https://b ; https://c", "source_date": "2"},
    ])  # fmt: skip
    assert notes == {
        "https://a": {"number": 1, "read": "1"}, "https://b": {"number": 2, "read": "1"},
        "https://c": {"number": 3, "read": "2"},
    }  # fmt: skip
    assert texts["ILD"] == {"fields": {"Causes": "c", "Red flags": "r"}, "sources": ["https://a", "https://b"]}
    assert all(source in notes for text in texts.values() for source in text["sources"])
