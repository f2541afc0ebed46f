"""Checking every sentence of a report against the evidence, offline, with the rule labeller.

It judges a text by what the classifier and the detector found, not by what the patient has: a supported sentence can
still be wrong. How many planted errors it finds: BENCHMARKS.md. Source: ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cliniqure_utils import labeller
from cliniqure_utils.reports.evidence import ZONES, Evidence
from cliniqure_utils.vocabulary import FINDINGS

# Status of a sentence -> the sign that stands before it in figures and pages.
MARKS = {"supported": "✓", "contradicted": "✗", "unsupported": "?", "neutral": "·", "general": "–"}
STATUSES = tuple(MARKS)
HALLUCINATION, CONTRADICTION, WRONG_SIDE, OMISSION = "hallucination", "contradiction", "wrong side", "omission"
WRONG_ZONE, WRONG_SIZE, NO_SUCH_PLACE = "wrong zone", "wrong size", "no such place"
UNTOLD_SIDE = "untold side"
PROBLEMS = (
    HALLUCINATION, CONTRADICTION, WRONG_SIDE, WRONG_ZONE, WRONG_SIZE, NO_SUCH_PLACE, UNTOLD_SIDE, OMISSION,
)  # fmt: skip
# A box may be said to be in a zone whose border its centre is within this share of the film's height of: anatomists cut
# zones by the ribs, `place_in_words` by the film.
NEAR_BORDER = 0.05
# The tallest box of a "large" effusion is at least this high, that of a "small" one lower than the second, as shares of
# the film's height. Between the two each word passes. From the cohort, whose words go by volume; the line is thin, as a
# box grows slower than the fluid: the smallest large ones have 0.38, all but one of 23 small ones less than 0.36.
LEAST_LARGE, MOST_SMALL = 0.36, 0.375
_BOTH = frozenset({"left", "right"})


@dataclass(frozen=True)
class _Box:
    """A box as the check sees it: side ("left", "right", or "" without one), zones it may be said to be in (none where
    the zone is not known), zone it surely is in or "", height as a share of the film's or None."""

    side: str
    zones: frozenset[str]
    zone: str
    height: float | None


def check_sentences(text: str, evidence: Evidence) -> list[dict]:
    """Check every sentence of a text against the evidence.

    Side, zone and size of a finding are known from its boxes alone. Each side that a sentence states must have one:
    "bilateral effusions" with a box on the left is as wrong of the right side as "left effusion and right effusion".
    Each zone that it states must be that of a box of this side. A denial of one side or zone is about that side or
    zone: "no right effusion" agrees with a box on the left, and contradicts one on the right.

    Size is judged of effusions alone, "small" and "large" and words like them: their boxes grow with them. Those of
    pneumothorax and of shadows in the lung do not, and their sizes pass; so does "moderate". Lobes pass, too.

    Returns:
        One dict per sentence: sentence, status, problems (list of {finding, problem}, empty where there is none).
        Status "contradicted": it states a finding that neither model reports ("hallucination"), on a side where none
        was found ("wrong side"), in another zone ("wrong zone"), large for small ("wrong size"), puts heart or aorta
        into a lung ("no such place"), or denies one that is there, or all of them: "normal chest" ("contradiction").
        "unsupported": it leaves open a finding that is not in the evidence (also a "hallucination"), or names the side
        or zone of one that only the classifier found, so that its side is unknown ("untold side"; not where it may
        belong to a neighbour alone: "left effusion and atelectasis").
        "supported": what it says about findings agrees with the evidence. "general": it is not about this film, but
        about a patient's history or a disease: "effusions are treated by drainage". "neutral": it says nothing about
        findings.
    """
    boxes = _boxes_of(evidence)
    mentions = labeller.find_mentions(text)
    denied_sides = _denied_sides(mentions)
    unnamed = labeller.denies_the_unnamed(text)
    general = labeller.general_talk(text)
    checked = []
    for number, sentence in enumerate(labeller.split_sentences(text)):
        # "Normal chest radiograph" denies everything at once; "no acute abnormality" leaves old findings open.
        no_acute = labeller.overall_statement(sentence) == "no acute" and not evidence.present
        status = "supported" if no_acute or number in unnamed else "general" if number in general else "neutral"
        problems = [(name, CONTRADICTION) for name in FINDINGS if name in unnamed.get(number, set()) & evidence.present]
        if problems:
            status = "contradicted"
        for mention in mentions:
            if mention.sentence != number:
                continue
            verdict, problem = _judge(mention, evidence.present, boxes.get(mention.finding, []), denied_sides)
            status = max(status, verdict, key=("general", "neutral", "supported", "unsupported", "contradicted").index)
            if problem and (mention.finding, problem) not in problems:
                problems.append((mention.finding, problem))
        entries = [{"finding": name, "problem": problem} for name, problem in problems]
        checked.append({"sentence": sentence, "status": status, "problems": entries})
    return checked


def _judge(
    mention: labeller.Mention, present: set[str], boxes: Sequence[_Box], denied_sides: Mapping[str, set[str]]
) -> tuple[str, str | None]:
    """Status and problem of one mention; boxes are those of its finding."""
    said, known = _as_set(mention.side), {box.side for box in boxes} - {""}
    if mention.status == labeller.ABSENT:
        if mention.finding not in present:
            return "supported", None
        if mention.zones and known:
            return ("contradicted", CONTRADICTION) if _denies_a_zone(mention, boxes) else ("supported", None)
        if not mention.zones and (not said or denied_sides[mention.finding] == _BOTH) or said & known:
            return "contradicted", CONTRADICTION
        return ("supported", None) if known else ("unsupported", UNTOLD_SIDE)
    if mention.finding not in present:
        return "unsupported" if mention.status == labeller.UNCERTAIN else "contradicted", HALLUCINATION
    if mention.lung_place:
        return "contradicted", NO_SUCH_PLACE
    if (said or mention.zones) and not known:
        return ("supported", None) if mention.side_shared else ("unsupported", UNTOLD_SIDE)
    if said - known:
        return "contradicted", WRONG_SIDE
    wrong = _wrong_place(mention, boxes) or _wrong_size(mention, boxes)
    return ("contradicted", wrong) if wrong else ("supported", None)


def _wrong_place(mention: labeller.Mention, boxes: Sequence[_Box]) -> str | None:
    """WRONG_SIDE or WRONG_ZONE where a zone is said in which no box lies; the side is wrong where a box that no other
    zone speaks of lies in this zone on the other side."""
    if mention.side_shared or not all(box.zones for box in boxes):
        return None
    places = _places(mention)
    unsaid = [box for box in boxes if not any(_holds(box, *place) for place in places)]
    lost = [place for place in places if not any(_holds(box, *place) for box in boxes)]
    if not lost:
        return None
    mirrored = [any(zone in box.zones and side and box.side != side for box in unsaid) for side, zone in lost]
    return WRONG_SIDE if all(mirrored) else WRONG_ZONE


def _wrong_size(mention: labeller.Mention, boxes: Sequence[_Box]) -> str | None:
    said = _as_set(mention.side) or _BOTH
    heights = [box.height for box in boxes if box.side in said]
    if mention.finding != "Pleural effusion" or mention.size is None or not heights or None in heights:
        return None
    fits = max(heights) >= LEAST_LARGE if mention.size == "large" else max(heights) < MOST_SMALL
    return None if fits else WRONG_SIZE


def _denies_a_zone(mention: labeller.Mention, boxes: Sequence[_Box]) -> bool:
    """Is a box in a denied zone, and not just near its border?"""
    return any(box.zone == zone and side in (None, box.side) for side, zone in _places(mention) for box in boxes)


def _places(mention: labeller.Mention) -> list[tuple[str | None, str]]:
    """(side, zone) of each zone that a mention names; the side of the mention where the zone has none."""
    sides = sorted(_as_set(mention.side)) if mention.side in _BOTH else [None]
    return [(side or other, zone) for side, zone in mention.zones for other in sides]


def _holds(box: _Box, side: str | None, zone: str) -> bool:
    return side in (None, box.side) and zone in box.zones


def omitted_findings(text: str, evidence: Evidence) -> list[str]:
    """Findings of the evidence that a text neither states nor denies, in class order; a denied one contradicts.

    "No right effusion" says nothing of an effusion on the left.
    """
    mentions = labeller.find_mentions(text)
    denied_sides, boxes = _denied_sides(mentions), _boxes_of(evidence)
    spoken = set().union(*labeller.denies_the_unnamed(text).values())
    for mention in mentions:
        name = mention.finding
        problem = _judge(mention, evidence.present, boxes.get(name, []), denied_sides)[1]
        if mention.status != labeller.ABSENT or problem == CONTRADICTION:
            spoken.add(name)
    return [name for name in FINDINGS if name in evidence.present - spoken]


def _boxes_of(evidence: Evidence) -> dict[str, list[_Box]]:
    """Finding -> its boxes."""
    boxes: dict[str, list[_Box]] = {}
    corners = evidence.corners or [None] * len(evidence.boxes)
    for (name, _, place), box in zip(evidence.boxes, corners, strict=True):
        side, zone = (*place.split(), "")[:2]
        order, zones, height = list(ZONES), set(), None
        if zone not in ZONES:
            zone = ""
        elif box and evidence.height:
            middle, height = (box[1] + box[3]) / 2 / evidence.height, (box[3] - box[1]) / evidence.height
            zones = {z for z, (top, end) in ZONES.items() if top - NEAR_BORDER < middle < end + NEAR_BORDER}
            zone = zone if len(zones) == 1 else ""
        else:  # from the words alone: the next zone may be meant, too
            zones = {z for z in order if abs(order.index(z) - order.index(zone)) < 2}
        boxes.setdefault(name, []).append(_Box(side if side in _BOTH else "", frozenset(zones), zone, height))
    return boxes


def _denied_sides(mentions: Sequence[labeller.Mention]) -> dict[str, set[str]]:
    """Finding -> sides that a text denies: "no effusion on the right. None on the left" denies it as a whole."""
    denied: dict[str, set[str]] = {}
    for mention in mentions:
        if mention.status == labeller.ABSENT and not mention.zones:
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
