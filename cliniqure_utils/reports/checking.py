"""Checking every sentence of a report against the evidence, offline, with the rule labeller.

The checker knows five errors. It judges a text by what the classifier and the detector found, not by what the patient
has: a supported sentence can still be wrong. Source: ours.
"""

from collections.abc import Mapping, Sequence

from cliniqure_utils import labeller
from cliniqure_utils.reports.evidence import Evidence
from cliniqure_utils.vocabulary import FINDINGS

# Status of a sentence -> the sign that stands before it in figures and pages.
MARKS = {"supported": "✓", "contradicted": "✗", "unsupported": "?", "neutral": "·"}
STATUSES = tuple(MARKS)
HALLUCINATION, CONTRADICTION, WRONG_SIDE, OMISSION = "hallucination", "contradiction", "wrong side", "omission"
UNTOLD_SIDE = "untold side"
PROBLEMS = (HALLUCINATION, CONTRADICTION, WRONG_SIDE, UNTOLD_SIDE, OMISSION)
_BOTH = frozenset({"left", "right"})


def check_sentences(text: str, evidence: Evidence) -> list[dict]:
    """Check every sentence of a text against the evidence.

    The side of a finding is known from its boxes alone. Each side that a sentence states must have one: "bilateral
    effusions" with a box on the left is as wrong of the right side as "left effusion and right effusion". A denial of
    one side is about that side: "no right effusion" agrees with a box on the left, and contradicts one on the right.

    Returns:
        One dict per sentence: sentence, status, problems (list of {finding, problem}, empty where there is none).
        Status "contradicted": it states a finding that neither model reports ("hallucination"), on a side where none
        was found ("wrong side"), or denies one that is there, or all of them: "normal chest" ("contradiction").
        "unsupported": it leaves open a finding that is not in the evidence (also a "hallucination"), or names the side
        of one that only the classifier found, so that its side is unknown ("untold side"; not where the side may belong
        to a neighbour alone: "left effusion and atelectasis").
        "supported": what it says about findings agrees with the evidence. "neutral": it says nothing about them in this
        film, as general talk does: "effusions are treated by drainage".
    """
    sides = _sides_of(evidence)
    mentions = labeller.find_mentions(text)
    denied_sides = _denied_sides(mentions)
    unnamed = labeller.denies_the_unnamed(text)
    checked = []
    for number, sentence in enumerate(labeller.split_sentences(text)):
        # "Normal chest radiograph" denies everything at once; "no acute abnormality" leaves old findings open.
        no_acute = labeller.overall_statement(sentence) == "no acute" and not evidence.present
        status = "supported" if no_acute or number in unnamed else "neutral"
        problems = [(name, CONTRADICTION) for name in FINDINGS if name in unnamed.get(number, set()) & evidence.present]
        if problems:
            status = "contradicted"
        for mention in mentions:
            if mention.sentence != number:
                continue
            verdict, problem = _judge(mention, evidence.present, sides, denied_sides)
            status = max(status, verdict, key=("neutral", "supported", "unsupported", "contradicted").index)
            if problem and (mention.finding, problem) not in problems:
                problems.append((mention.finding, problem))
        entries = [{"finding": name, "problem": problem} for name, problem in problems]
        checked.append({"sentence": sentence, "status": status, "problems": entries})
    return checked


def _judge(
    mention: labeller.Mention, present: set[str], sides: Mapping[str, set[str]], denied_sides: Mapping[str, set[str]]
) -> tuple[str, str | None]:
    """Status and problem of one mention."""
    said, known = _as_set(mention.side), sides.get(mention.finding, set())
    if mention.status == labeller.ABSENT:
        if mention.finding not in present:
            return "supported", None
        if not said or denied_sides[mention.finding] == _BOTH or said & known:
            return "contradicted", CONTRADICTION
        return ("supported", None) if known else ("unsupported", UNTOLD_SIDE)
    if mention.finding not in present:
        return "unsupported" if mention.status == labeller.UNCERTAIN else "contradicted", HALLUCINATION
    if said and not known:
        return ("supported", None) if mention.side_shared else ("unsupported", UNTOLD_SIDE)
    return ("contradicted", WRONG_SIDE) if said - known else ("supported", None)


def omitted_findings(text: str, evidence: Evidence) -> list[str]:
    """Findings of the evidence that a text neither states nor denies, in class order; a denied one contradicts.

    "No right effusion" says nothing of an effusion on the left.
    """
    mentions = labeller.find_mentions(text)
    denied_sides, sides = _denied_sides(mentions), _sides_of(evidence)
    spoken = set().union(*labeller.denies_the_unnamed(text).values())
    for mention in mentions:
        name, said = mention.finding, _as_set(mention.side)
        whole = not said or denied_sides.get(name) == _BOTH or said & sides.get(name, set())
        if mention.status != labeller.ABSENT or whole:
            spoken.add(name)
    return [name for name in FINDINGS if name in evidence.present - spoken]


def _sides_of(evidence: Evidence) -> dict[str, set[str]]:
    """Finding -> sides of its boxes; none for heart and aorta."""
    sides: dict[str, set[str]] = {}
    for name, _, place in evidence.boxes:
        sides.setdefault(name, set()).update({place.split()[0]} & _BOTH)
    return sides


def _denied_sides(mentions: Sequence[labeller.Mention]) -> dict[str, set[str]]:
    """Finding -> sides that a text denies: "no effusion on the right. None on the left" denies it as a whole."""
    denied: dict[str, set[str]] = {}
    for mention in mentions:
        if mention.status == labeller.ABSENT:
            denied.setdefault(mention.finding, set()).update(_as_set(mention.side))
    return denied


def _as_set(side: str | None) -> set[str]:
    return {"both": {"left", "right"}, None: set()}.get(side, {side})


def count_problems(checked: Sequence[dict], omitted: Sequence[str]) -> dict[str, int]:
    """How many findings of a report have each of `PROBLEMS`: once per finding, in however many sentences it stands."""
    found = {(p["finding"], p["problem"]) for entry in checked for p in entry["problems"]}
    counts = {problem: sum(kind == problem for _, kind in found) for problem in PROBLEMS}
    counts[OMISSION] = len(set(omitted))
    return counts
