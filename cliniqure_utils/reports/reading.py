"""The order in which a report is read: what is urgent first, then by weight of evidence, and how sure the models are.

One place decides it for every page and for the DICOM report. Source: ours.
"""

from collections.abc import Mapping, Sequence

from cliniqure_utils.reports.evidence import noun_of
from cliniqure_utils.vocabulary import URGENT

CERTAINTIES = ("possible", "probable", "very probable")
PROBABLE, VERY_PROBABLE = 0.5, 0.9  # shares of the way from a finding's threshold to a probability of 1
CERTAINTY_IN_WORDS = (
    "Possible: the probability reaches its mark, or the detector alone sees it. Probable: it is at least half way from "
    "there to 1; very probable: nine tenths of the way."
)
LARGE_EFFUSION = 0.4  # of the film's height: about half of a lung's
ON_TOP = tuple(name for name in URGENT if name != "Consolidation")  # faint ones would be on top of a third of all films
FIELDS = {"cause": "Causes", "symptoms": "Symptoms", "diagnostic_methods": "Tests",
          "treatment_options": "Treatment", "red_flags": "Red flags"}  # fmt: skip
# What stands behind a sentence: its status (`checking.MARKS`), and in a verified text where it comes from.
STATUS_WORDS = {
    "supported": "agrees with the classifier or the detector",
    "contradicted": "contradicts the classifier and the detector",
    "unsupported": "leaves open what neither shows, or tells a side that neither shows",
    "neutral": "says nothing about this film's findings",
    "general": "not about this film",
}
ORIGIN_WORDS = {"model": "", "second try": "second try", "facts": "put here from the facts"}
NOTHING = "None of the findings that the models look for is reported. That does not rule out disease."


def certainty(probability: float | None, threshold: float) -> str:
    """How sure the classifier is of a finding that the report says, as one of `CERTAINTIES`.

    "probable" from half way between the finding's threshold and 1, "very probable" from nine tenths of it. So neither
    is said of a probability below 0.5 or 0.9, and what just reaches its threshold is "possible".

    Args:
        probability: None, or below the threshold: only the detector says the finding. A score is no probability, so
            that is "possible".
    """
    if probability is None or probability < threshold:
        return CERTAINTIES[0]
    way = (probability - threshold) / (1 - threshold) if threshold < 1 else 1.0
    return CERTAINTIES[(way >= PROBABLE) + (way >= VERY_PROBABLE)]


def reading_order(facts: Sequence[Mapping], thresholds: Mapping[str, float], height: float) -> list[dict]:
    """The findings of a report as they are to be read.

    Urgent ones (`ON_TOP`, in that order; an effusion only where it has a large box) come first, then the more certain
    ones, then those that both models say, then by probability or score.

    Args:
        facts: From `reports.facts_of`.
        thresholds: Least probability of each finding.
        height: Of the film, in the pixels of the facts' boxes.

    Returns:
        One dict per finding: name, urgent, certainty, seen_by ("classifier and detector", "classifier" or
        "detector"), probability (None where only the detector says it), places (words, without repeats), boxes (dicts
        number, score, place, box; numbers run from 1 through all findings), sentence.
    """
    entries, number = [], 0
    for fact in sorted(facts, key=lambda fact: _rank(fact, thresholds, height)):
        name, probability = fact["name"], fact["probability"]
        boxes = []
        for found in sorted(fact["boxes"], key=lambda found: -found["score"]):
            number += 1
            place = f"{found['side']} {found['zone']} zone" if found["side"] else "midline"
            boxes.append({"number": number, "score": found["score"], "place": place, "box": found["box"]})
        entry = {
            "name": name,
            "urgent": _urgent(fact, height),
            "certainty": certainty(probability, thresholds[name]),
            "seen_by": " and ".join(["classifier"] * (probability is not None) + ["detector"] * bool(boxes)),
            "probability": probability,
            "places": list(dict.fromkeys(box["place"] for box in boxes)),
            "boxes": boxes,
        }
        entries.append(entry | {"sentence": _sentence(entry)})
    return entries


def impression(reading: Sequence[Mapping]) -> list[str]:
    """A report in a few lines: one for each urgent finding, one for all others of the same certainty.

    Args:
        reading: From `reading_order`.
    """
    lines = [f"Urgent: {entry['sentence'][0].lower()}{entry['sentence'][1:]}" for entry in reading if entry["urgent"]]
    for word in reversed(CERTAINTIES):
        others = [_short(entry) for entry in reading if entry["certainty"] == word and not entry["urgent"]]
        lines += [f"{word.capitalize()}: {', '.join(others)}."] if others else []
    return lines or [NOTHING]


def explained(rows: Sequence[Mapping]) -> tuple[dict[str, dict], dict[str, dict]]:
    """Table text for readers, and its sources as the numbered notes of a page.

    Args:
        rows: From `reports.recommendations`; a finding may come more than once.

    Returns:
        finding -> fields (heading -> text; what no source says is left out), sources; source -> number, from 1 in the
        order of the rows, and read, the day on which it was.
    """
    texts: dict[str, dict] = {}
    notes: dict[str, dict] = {}
    for row in rows:
        sources = [source.strip() for source in row["source"].split(" ; ")]
        fields = {heading: row[field] for field, heading in FIELDS.items() if row[field]}
        texts[row["finding"]] = {"fields": fields, "sources": sources}
        for source in sources:
            notes.setdefault(source, {"number": len(notes) + 1, "read": row["source_date"]})
    return texts, notes


def _rank(fact: Mapping, thresholds: Mapping[str, float], height: float) -> tuple:
    name, probability = fact["name"], fact["probability"]
    sure = CERTAINTIES.index(certainty(probability, thresholds[name]))
    both = probability is not None and bool(fact["boxes"])
    strength = max([box["score"] for box in fact["boxes"]], default=0) if probability is None else probability
    return (ON_TOP.index(name) if _urgent(fact, height) else len(ON_TOP), -sure, not both, -strength)


def _urgent(fact: Mapping, height: float) -> bool:
    if fact["name"] != "Pleural effusion":
        return fact["name"] in ON_TOP
    heights = [(found["box"][3] - found["box"][1]) / height for found in fact["boxes"] if found["box"]]
    return max(heights, default=0.0) >= LARGE_EFFUSION


def _sentence(entry: Mapping) -> str:
    places = [place for place in entry["places"] if place != "midline"]
    where = f" in the {' and the '.join(places)}" if places else ""
    alone = {"detector": ", seen by the detector alone", "classifier": ", without a box"}.get(entry["seen_by"], "")
    return f"{entry['certainty'].capitalize()} {noun_of(entry['name'])}{where}{alone}."


def _short(entry: Mapping) -> str:
    sides = sorted({place.split()[0] for place in entry["places"]} & {"left", "right"})
    return noun_of(entry["name"]) + {0: "", 1: f" ({''.join(sides)})", 2: " (both sides)"}[len(sides)]
