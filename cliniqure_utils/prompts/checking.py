"""Every sentence of a report held against the evidence, offline, by the rule labeller.

The checker knows four errors. It judges a text by what the classifier and the detector found, not by what the patient
has: a supported sentence can still be wrong. Source: ours.
"""

from collections.abc import Sequence

from cliniqure_utils import labeller
from cliniqure_utils.vindr import FINDINGS

from .evidence import Evidence

STATUSES = ("supported", "contradicted", "unsupported", "neutral")
HALLUCINATION, CONTRADICTION, WRONG_SIDE, OMISSION = "hallucination", "contradiction", "wrong side", "omission"
PROBLEMS = (HALLUCINATION, CONTRADICTION, WRONG_SIDE, OMISSION)


def check_sentences(text: str, evidence: Evidence) -> list[dict]:
    """Hold every sentence of a text against the evidence.

    Returns:
        One dict per sentence: sentence, status, problems (list of {finding, problem}, empty where there is none).
        Status "contradicted": it states a finding that neither model stands for ("hallucination"), on a side where none
        was found ("wrong side"), or denies one that is there, or all of them: "normal chest" ("contradiction").
        "supported": what it says about findings agrees with the evidence. "neutral": it names no finding.
        "unsupported": it leaves open a finding that is not in the evidence (also a "hallucination").
    """
    sides: dict[str, set[str]] = {}
    for name, _, place in evidence.boxes:
        sides.setdefault(name, set()).add(place.split()[0])
    mentions = labeller.find_mentions(text)
    checked = []
    for number, sentence in enumerate(labeller.split_sentences(text)):
        # "Normal chest radiograph" denies everything at once; "no acute abnormality" leaves old findings open.
        whole = labeller.overall_statement(sentence)
        status = "neutral" if whole is None or (whole == "no acute" and evidence.present) else "supported"
        problems = []
        if whole == "normal" and evidence.present:
            status = "contradicted"
            problems = [(name, CONTRADICTION) for name in FINDINGS if name in evidence.present]
        for mention in mentions:
            if mention.sentence != number:
                continue
            verdict, problem = _judge(mention, evidence.present, sides.get(mention.finding, set()) - {"midline"})
            status = max(status, verdict, key=("neutral", "supported", "unsupported", "contradicted").index)
            if problem and (mention.finding, problem) not in problems:
                problems.append((mention.finding, problem))
        entries = [{"finding": name, "problem": problem} for name, problem in problems]
        checked.append({"sentence": sentence, "status": status, "problems": entries})
    return checked


def _judge(mention: labeller.Mention, present: set[str], found: set[str]) -> tuple[str, str | None]:
    """Status and problem of one mention; `found`: the sides of the finding's boxes."""
    there = mention.finding in present
    side = {"both": {"left", "right"}}.get(mention.side, {mention.side} if mention.side else set())
    if mention.status == labeller.ABSENT:
        return ("contradicted", CONTRADICTION) if there else ("supported", None)
    if not there:
        return "unsupported" if mention.status == labeller.UNCERTAIN else "contradicted", HALLUCINATION
    if side and found and not side & found:
        return "contradicted", WRONG_SIDE
    return "supported", None


def omitted_findings(text: str, evidence: Evidence) -> list[str]:
    """Findings of the evidence that a text neither states nor denies, in class order; a denied one contradicts."""
    if any(labeller.overall_statement(sentence) == "normal" for sentence in labeller.split_sentences(text)):
        return []
    named = {mention.finding for mention in labeller.find_mentions(text)}
    return [name for name in FINDINGS if name in evidence.present - named]


def count_problems(checked: Sequence[dict], omitted: Sequence[str]) -> dict[str, int]:
    """How often each of `PROBLEMS` occurs in a report: findings, not sentences."""
    counts = dict.fromkeys(PROBLEMS, 0)
    for entry in checked:
        for problem in entry["problems"]:
            counts[problem["problem"]] += 1
    counts[OMISSION] = len(omitted)
    return counts
