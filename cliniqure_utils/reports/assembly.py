"""The report: facts by a template, checked prose, and table text with its source, kept apart from each other."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cliniqure_utils.reports.checking import check_sentences, count_problems, omitted_findings
from cliniqure_utils.reports.evidence import Evidence
from cliniqure_utils.vocabulary import DISCLAIMER, FINDINGS

KNOWLEDGE = ("cause", "symptoms", "diagnostic_methods", "treatment_options", "red_flags")


def load_knowledge(path: str | Path) -> pd.DataFrame:
    """data/knowledge.csv, indexed by finding.

    Columns: those of KNOWLEDGE, source ("unsourced" where no page was read), source_date, sourced_fields (which of
    KNOWLEDGE the page says, joined by "; "; the others are ours).

    Raises:
        ValueError: A finding is missing or named twice.
    """
    table = pd.read_csv(path, dtype=str, keep_default_na=False).set_index("finding")
    if sorted(table.index) != sorted(FINDINGS):
        raise ValueError(f"{Path(path).name}: expected one row per finding, found {', '.join(table.index)}")
    return table


def recommendations(names: Sequence[str], knowledge: pd.DataFrame) -> list[dict]:
    """Table text for findings whose row has a source: finding, KNOWLEDGE, source, source_date.

    A field that the source does not say is empty.
    """
    rows = knowledge.loc[[name for name in FINDINGS if name in set(names)]]
    entries = rows[rows.source != "unsourced"].reset_index().to_dict("records")
    for entry in entries:
        said = entry.pop("sourced_fields").split("; ")
        entry.update({field: "" for field in KNOWLEDGE if field not in said})
    return entries


def template_report(evidence: Evidence) -> str:
    """The plain report from the facts alone: the baseline every written report must beat."""
    if not evidence.present:
        return "No finding is reported by the models."
    probability = dict(evidence.findings)
    sentences = []
    for name in FINDINGS:
        if name not in evidence.present:
            continue
        places = list(dict.fromkeys(w for n, _, w in evidence.boxes if n == name and w != "midline"))
        where = f" in the {' and the '.join(places)}" if places else ""
        certainty = f" (probability {probability[name]:.2f})" if name in probability else ""
        sentences.append(f"There is {_in_prose(name)}{where}{certainty}.")
    return " ".join(sentences)


def _in_prose(name: str) -> str:
    return {"ILD": "interstitial lung disease", "Nodule/Mass": "a nodule or mass", "Lung Opacity": "a lung opacity",
            "Pleural effusion": "a pleural effusion", "Pneumothorax": "a pneumothorax",
            "Other lesion": "some other lesion"}.get(name, name.lower())  # fmt: skip


def facts_of(evidence: Evidence) -> list[dict]:
    """What the models found, as plain values. One dict per finding, in class order: name, probability (None where only
    the detector found it), boxes (score, side "left", "right" or None, zone "upper", "mid", "lower" or None, box in
    DICOM pixels or None)."""
    probability = dict(evidence.findings)
    corners = evidence.corners or [None] * len(evidence.boxes)
    facts = []
    for name in FINDINGS:
        if name not in evidence.present:
            continue
        boxes = []
        for (found, score, place), box in zip(evidence.boxes, corners, strict=True):
            if found == name:
                side, zone = (place.split() + [""])[:2] if place != "midline" else (None, None)
                zone = zone if zone in ("upper", "mid", "lower") else None
                boxes.append({"score": score, "side": side, "zone": zone, "box": list(box) if box else None})
        facts.append({"name": name, "probability": probability.get(name), "boxes": boxes})
    return facts


def assemble_report(evidence: Evidence, prose: str, knowledge: pd.DataFrame, system: str) -> dict:
    """Join facts, prose and table text into one report.

    Returns:
        dict with `text` (what is scored: the prose as written, or the template's text) and `sections`: findings
        (`facts_of`), facts (the template's text), crude_report, checked (sentences with status and problems), kept
        (sentences that the evidence supports or that name no finding), set_aside (the others), omitted (findings
        that the text does not name), problems (their counts), recommendations (table rows with source), disclaimer.
    """
    facts = template_report(evidence)
    text = facts if system == "template" else prose
    checked, omitted = check_sentences(text, evidence), omitted_findings(text, evidence)
    carried = ("supported", "neutral")
    return {
        "text": text,
        "sections": {
            "findings": facts_of(evidence),
            "facts": facts,
            "crude_report": evidence.crude_report,
            "checked": checked,
            "kept": " ".join(entry["sentence"] for entry in checked if entry["status"] in carried),
            "set_aside": [entry["sentence"] for entry in checked if entry["status"] not in carried],
            "omitted": omitted,
            "problems": count_problems(checked, omitted),
            "recommendations": recommendations(sorted(evidence.present), knowledge),
            "disclaimer": DISCLAIMER,
        },
    }
