"""The report: facts by a template, checked prose, and table text with its source, kept apart from each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cliniqure_utils.reports.checking import check_sentences, count_problems, omitted_findings
from cliniqure_utils.reports.evidence import Evidence, noun_of
from cliniqure_utils.vocabulary import DISCLAIMER, FINDINGS

KNOWLEDGE = ("cause", "symptoms", "diagnostic_methods", "treatment_options", "red_flags")
# Who wrote a sentence of a verified text: the language model at once, at a second try, or nobody: a sentence of facts.
ORIGINS = MODEL, SECOND_TRY, FACTS = "model", "second try", "facts"
_ARTICLES = dict.fromkeys(("Nodule/Mass", "Lung Opacity", "Pleural effusion", "Pneumothorax"), "a ") | {
    "Other lesion": "some "
}  # fmt: skip


@dataclass(frozen=True)
class Verified:
    """A text after the check.

    Attributes:
        text: What is left and what was put in.
        sentences: Of the text, in order: sentence, origin (one of `ORIGINS`), status.
        set_aside: What is no longer in it, in order: sentence, why (one of `verifying.REASONS`), problems (as
            check_sentences gives them), instead (origin of what took its place; None for nothing).
        tries: Sentences of the language model that were looked at in place of others.
    """

    text: str
    sentences: list[dict]
    set_aside: list[dict]
    tries: int


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
    return " ".join(fact_sentences(evidence).values()) or "No finding is reported by the models."


def fact_sentences(evidence: Evidence) -> dict[str, str]:
    """Finding of the evidence -> its sentence in the template's report, in class order.

    "(possible)" where the probability is below one half or only the detector has it, as `reading.certainty` says.
    """
    probability = dict(evidence.findings)
    sentences = {}
    for name in FINDINGS:
        if name not in evidence.present:
            continue
        places = list(dict.fromkeys(w for n, _, w in evidence.boxes if n == name and w != "midline"))
        where = f" in the {' and the '.join(places)}" if places else ""
        weak = " (possible)" if probability.get(name, 0) < 0.5 else ""
        sentences[name] = f"There is {_ARTICLES.get(name, '')}{noun_of(name)}{where}{weak}."
    return sentences


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


def assemble_report(
    evidence: Evidence, prose: str, knowledge: pd.DataFrame, system: str, verified: Verified | None = None
) -> dict:
    """Join facts, prose and table text into one report.

    Args:
        prose: As the language model wrote it; not looked at for the template.
        verified: The prose after `verifying.verify_texts`; None for prose that is only checked, and for the template,
            which is its own verified text.

    Returns:
        dict with `text` (the prose as written, or the template's text), `verified` (the verified text) and `sections`:
        findings (`facts_of`), facts (the template's text), crude_report, checked (sentences of `text` with status and
        problems), problems (of `text`, counted), verified (sentences of the verified text with origin and status),
        set_aside (sentences of `text` that are not in it, and why), tries (sentences asked for in their place), omitted
        (findings of the evidence that the verified text does not name), recommendations (table rows with source),
        disclaimer. Prose that is only checked has no `verified`, set_aside and tries; omitted is then of `text`.
    """
    facts = template_report(evidence)
    text = facts if system == "template" else prose
    checked = check_sentences(text, evidence)
    if system == "template":
        sentences = [{"sentence": c["sentence"], "origin": FACTS, "status": c["status"]} for c in checked]
        verified = Verified(text, sentences, [], 0)
    final, beside = {}, {}
    if verified is not None:
        final = {"verified": verified.text}
        beside = {"verified": verified.sentences, "set_aside": verified.set_aside, "tries": verified.tries}
    return {
        "text": text,
        **final,
        "sections": {
            "findings": facts_of(evidence),
            "facts": facts,
            "crude_report": evidence.crude_report,
            "checked": checked,
            "problems": count_problems(checked, omitted_findings(text, evidence)),
            **beside,
            "omitted": omitted_findings(final.get("verified", text), evidence),
            "recommendations": recommendations(sorted(evidence.present), knowledge),
            "disclaimer": DISCLAIMER,
        },
    }
