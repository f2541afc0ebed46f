"""Reports with exactly one error, planted by rule into a reference report, and what the check says of them.

The rules are word patterns for the sentences of `cohort.report_text`; they do not use the labeller, on which the check
is built. The evidence is the film's truth: every box is there, none is invented.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cliniqure_utils.cohort.report_text import write_report
from cliniqure_utils.labeller import split_sentences
from cliniqure_utils.reports import (
    CONTRADICTION,
    HALLUCINATION,
    OMISSION,
    WRONG_SIDE,
    WRONG_SIZE,
    WRONG_ZONE,
    Evidence,
    check_sentences,
    omitted_findings,
    place_in_words,
)
from cliniqure_utils.vocabulary import BOX, FINDINGS, MIDLINE

# Kind of error -> what the check should call it.
KINDS = {
    "dropped": OMISSION,
    "added": HALLUCINATION,
    "denied": CONTRADICTION,
    "mirrored": WRONG_SIDE,
    "zone": WRONG_ZONE,
    "severity": WRONG_SIZE,
}
OTHER_SEVERITY = "severity, other findings"  # a size that no box shows: counted apart
STEMS = {
    "Aortic enlargement": "aort", "Atelectasis": "atelecta", "Calcification": "calcif",
    "Cardiomegaly": "heart|cardi", "Consolidation": "consolidation", "ILD": "interstitial|reticular",
    "Infiltration": "infiltrat", "Lung Opacity": "opacity", "Nodule/Mass": r"nodules?\b|mass(?:es)?\b",
    "Other lesion": "cavity|bulla|cyst", "Pleural effusion": "effusion",
    "Pleural thickening": "pleural thickening|thickened pleura|apical cap", "Pneumothorax": "pneumothorax",
    "Pulmonary fibrosis": "fibro",
}  # fmt: skip
NOUNS = {
    "Cardiomegaly": "enlargement of the heart", "Aortic enlargement": "enlargement of the aorta",
    "ILD": "interstitial lung disease", "Nodule/Mass": "nodule or mass", "Other lesion": "cavity or cyst",
}  # fmt: skip
DENIALS = ("There is no {}.", "No {} is seen.", "Signs of {} are absent.", "No sign of {}.")
DENIES = re.compile(r"\b(?:no|absent|normal|norm|clear|without)\b", re.IGNORECASE)
SWAPPED = {"left": "right", "right": "left", "small": "large", "large": "small"}


@dataclass(frozen=True)
class Draft:
    """A report with one error: the finding it is about, and its sentence (index); None where a sentence is missing."""

    text: str
    finding: str
    sentence: int | None


def evidence_of(boxes: Sequence[Mapping], size: float) -> Evidence:
    """The truth of a film of `size` x `size` pixels as evidence: box columns and class_name of each box."""
    corners = [tuple(float(box[name]) for name in BOX) for box in boxes]
    names = [box["class_name"] for box in boxes]
    return Evidence(
        "film",
        findings=[(name, 1.0) for name in FINDINGS if name in names],
        boxes=[(n, 1.0, place_in_words(n, c, size, size)) for n, c in zip(names, corners, strict=True)],
        corners=corners,
        height=size,
    )


def plant(kind: str, report: Mapping[str, str], boxes: Sequence[Mapping], size: float, rng) -> Draft | None:
    """One error of a kind of `KINDS` (or `OTHER_SEVERITY`) in a report; None where the film has no place for it.

    Args:
        report: findings and impression.
        boxes: True boxes: class_name, the box columns, side. size: Side of the film in pixels.
    """
    findings, impression = split_sentences(report["findings"]), split_sentences(report["impression"])
    present = {box["class_name"] for box in boxes}
    if kind == "added":
        return _add([*findings, *impression], present, rng)
    if kind == "dropped":  # only the findings section, where each finding is said once
        places = [(i, name) for i, name, _ in _stated(findings, present)]
        if len(findings) < 2 or not places:
            return None
        place, name = places[rng.integers(len(places))]
        return Draft(" ".join(findings[:place] + findings[place + 1 :]), name, None)
    sentences = [*findings, *impression]
    changes = []
    for i, name, part in _stated(sentences, present):
        there = [box for box in boxes if box["class_name"] == name]
        new = _changed(kind, name, part, sentences[i] == part and i < len(findings), there, size, rng)
        if new:
            changes.append((i, name, sentences[i].replace(part, new)))
    if not changes:
        return None
    place, name, new = changes[rng.integers(len(changes))]
    return Draft(" ".join([*sentences[:place], new, *sentences[place + 1 :]]), name, place)


def _stated(sentences: Sequence[str], present: Iterable[str]) -> list[tuple[int, str, str]]:
    """(sentence, finding, part of the sentence that states it), where a part states one finding alone."""
    found = []
    for i, sentence in enumerate(sentences):
        if DENIES.search(sentence):
            continue
        names = [name for name in FINDINGS if re.search(STEMS[name], sentence, re.IGNORECASE)]
        parts = [sentence] if len(names) == 1 else re.split(", | and ", sentence)
        for part in parts:
            named = [name for name in names if re.search(STEMS[name], part, re.IGNORECASE)]
            if len(named) == 1 and named[0] in present:
                found.append((i, named[0], part))
    return found


def _changed(kind: str, name: str, part: str, whole: bool, boxes: Sequence[Mapping], size: float, rng) -> str | None:
    sides = re.findall(r"\b(?:left|right)\b", part, re.IGNORECASE)
    zones = re.findall(r"\b(upper|mid|lower)(?= zone)", part, re.IGNORECASE)
    if kind == "denied":
        return DENIALS[rng.integers(len(DENIALS))].format(NOUNS.get(name, name.lower())) if whole else None
    if kind == "mirrored":
        one_side = len({box["side"] for box in boxes}) == 1 and name not in MIDLINE
        return _swap(part, "left|right") if one_side and len(sides) == 1 else None
    if kind == "zone":
        if len(zones) != 1 or len(sides) != 1 or len(boxes) != 1:
            return None
        top, end = boxes[0]["y_min"] / size, boxes[0]["y_max"] / size
        cuts = {"upper": (0, 0.38), "mid": (0.38, 0.58), "lower": (0.58, 1)}
        free = [zone for zone, (start, stop) in cuts.items() if end <= start or top >= stop]
        free = [zone for zone in free if zone != zones[0].lower()]  # a zone that the box does not touch
        return part.replace(zones[0], free[rng.integers(len(free))]) if free else None
    if (name == "Pleural effusion") == (kind == "severity"):
        return _swap(part, "small|large") if re.search(r"\b(small|large)\b", part, re.IGNORECASE) else None
    return None


def _add(sentences: Sequence[str], present: set[str], rng) -> Draft:
    absent = [name for name in FINDINGS if name not in present]
    name = absent[rng.integers(len(absent))]
    side, zone = ("left", "right")[rng.integers(2)], ("upper", "mid", "lower")[rng.integers(3)]
    invented = {"class_name": name, "side": side, "zone": zone, "extent": float(rng.uniform(0, 1)), "kind": ""}
    written = split_sentences(write_report([invented], rng)["findings"])
    (new,) = [written[i] for i, _, _ in _stated(written, [name])]
    place = int(rng.integers(len(sentences) + 1))
    return Draft(" ".join([*sentences[:place], new, *sentences[place:]]), name, place)


def _swap(text: str, words: str) -> str:
    def other(found: re.Match) -> str:
        new = SWAPPED[found[0].lower()]
        return new.capitalize() if found[0][0].isupper() else new

    return re.sub(rf"\b(?:{words})\b", other, text, flags=re.IGNORECASE)


def score(drafts: Mapping[str, Sequence[tuple[Draft, Evidence]]]) -> tuple[dict[str, Counter], list[tuple]]:
    """What the check says of drafts.

    Returns:
        kind -> Counter of n, caught (the sentence is marked, or an omission is named), named (finding and kind of
        error, too), clean (other sentences), marked (of those, contradicted or unsupported); and (kind, draft, what was
        said) of each miss and each clean sentence that was marked.
    """
    counts, misses = {}, []
    for kind, entries in drafts.items():
        count = counts[kind] = Counter(n=len(entries))
        for draft, evidence in entries:
            checked, omitted = check_sentences(draft.text, evidence), omitted_findings(draft.text, evidence)
            marked = [entry["status"] in ("contradicted", "unsupported") for entry in checked]
            if draft.sentence is None:
                caught, named = bool(omitted), omitted == [draft.finding]
            else:
                problems = [(p["finding"], p["problem"]) for p in checked[draft.sentence]["problems"]]
                caught = marked.pop(draft.sentence)
                named = problems == [(draft.finding, KINDS.get(kind, WRONG_SIZE))]
            count.update(caught=caught, named=named, clean=len(marked), marked=sum(marked))
            if not named or any(marked):
                misses.append(
                    (kind, draft, [(e["sentence"], e["problems"]) for e in checked if e["problems"]], omitted)
                )
    return counts, misses


def drafts_of(films: Sequence[tuple[Mapping[str, str], Sequence[Mapping]]], size: float, most: int, seed: int) -> dict:
    """kind -> (draft, evidence) of up to `most` films each, drawn anew for every kind.

    Args:
        films: (report, true boxes) of each.
    """
    rng = np.random.default_rng(seed)
    drafts: dict[str, list] = {}
    for kind in (*KINDS, OTHER_SEVERITY):
        planted = []
        for i in rng.permutation(len(films)):
            draft = plant(kind, *films[i], size, rng)
            if draft and len(planted) < most:
                planted.append((draft, evidence_of(films[i][1], size)))
        drafts[kind] = planted
    return drafts
