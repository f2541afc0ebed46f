"""Training pairs of the writer: prompts as the chain will make them, answers that people (or the cohort) wrote."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from cliniqure_utils import labeller
from cliniqure_utils.reports import Evidence, build_prompt, check_sentences, clean_field, gather_evidence
from cliniqure_utils.vocabulary import BOX, FINDINGS, MIDLINE
from cliniqure_utils.writer import indiana


def training_evidence(
    image_ids: Sequence[str],
    labels: pd.DataFrame,
    boxes: pd.DataFrame,
    reports: Mapping[str, dict],
    clinical: pd.DataFrame,
    sizes: Mapping[str, tuple[float, float]],
    seed: int,
    tokenizer=None,
    max_tokens: int | None = None,
) -> dict[str, Evidence]:
    """Evidence of training films in the form that the earlier stages give for unseen ones, but true.

    A writer must learn to say what the prompt lists, so a finding is listed only where the answer to be learned states
    it. The imperfect evidence of unseen films is imitated: probabilities anywhere from 0.15 to 1, in the order
    in which the impression names the findings; the boxes of four findings in ten missed (`training_answer` then says no
    side of them); for one film in four a crude report that belongs to another film, since crude reports are not to be
    trusted. Source: ours.

    Args:
        labels: Indexed by image_id, class columns 0/1 (`annotations.label_matrix`).
        boxes: One class per row, in DICOM pixels; may be empty.
        reports: image_id -> dict with impression, findings and text.
        clinical, sizes: As in `gather_evidence`.
        tokenizer, max_tokens: Those of `training_answer`, which cuts the answer; without them it is the whole report.
    """
    rng = np.random.default_rng(seed)
    probabilities = pd.DataFrame(0.0, index=list(image_ids), columns=labels.columns)
    for image_id in image_ids:
        named = [mention.finding for mention in labeller.find_mentions(reports[image_id]["impression"])]
        present = [name for name in FINDINGS if labels.loc[image_id, name]]
        present.sort(key=lambda name, named=named: named.index(name) if name in named else len(named))
        probabilities.loc[image_id, present] = sorted(rng.uniform(0.15, 1.0, len(present)), reverse=True)
    missed = {(i, name) for i in image_ids for name in FINDINGS if rng.random() < 0.4}
    boxes = boxes if len(boxes) else pd.DataFrame(columns=["image_id", "class_name", *BOX])
    seen = [pair not in missed for pair in zip(boxes.image_id, boxes.class_name, strict=True)]
    found = boxes[np.array(seen, dtype=bool)].assign(score=1.0)
    others = rng.permutation(np.array(image_ids, dtype=object))
    crude = {i: reports[o]["text"] for i, o in zip(image_ids, others, strict=True) if rng.random() < 0.25}
    gathered = gather_evidence(
        image_ids, probabilities, dict.fromkeys(FINDINGS, 0.1), found, 0.5, crude, clinical, sizes
    )  # fmt: skip
    return {i: _only_what_is_answered(gathered[i], reports[i], tokenizer, max_tokens) for i in image_ids}


def _only_what_is_answered(
    evidence: Evidence, report: Mapping[str, str], tokenizer, max_tokens: int | None
) -> Evidence:
    """The evidence without what the answer does not state.

    Without the box of a finding the answer says no side of it and is shorter, so that a sentence more may fit; what
    that sentence states is listed, too, but not its box, or the sentence would grow again.
    """

    def listed(names: set[str], boxed: set[str]) -> Evidence:
        kept = [n for n, (name, _, _) in enumerate(evidence.boxes) if name in boxed]
        return replace(
            evidence,
            findings=[finding for finding in evidence.findings if finding[0] in names],
            boxes=[evidence.boxes[n] for n in kept],
            corners=[evidence.corners[n] for n in kept if evidence.corners],
        )

    def stated(told: Evidence) -> set[str]:
        answer = training_answer(report, tokenizer, max_tokens, told)
        return {mention.finding for mention in _stated(answer)}

    boxed = stated(evidence)
    return listed(stated(listed(boxed, boxed)), boxed)


def training_answer(
    report: Mapping[str, str], tokenizer=None, max_tokens: int | None = None, evidence: Evidence | None = None
) -> str:
    """What the writer should answer: the impression, then as many whole sentences of the findings as fit.

    The impression comes first: it names the findings in a few words, so that even a short text holds them.

    Args:
        report: impression and findings.
        tokenizer, max_tokens: Measure of the cut; without them nothing is cut.
        evidence: If given, the answer says no place of a finding whose box the prompt does not hold: a writer that is
            taught to say sides it was not told learns to invent them.
    """
    sided = None if evidence is None else {name for name, _, place in evidence.boxes if place != "midline"}

    def told(sentence: str) -> str:
        return sentence if sided is None else _without_untold_places(sentence, sided)

    text = " ".join(map(told, labeller.split_sentences(report["impression"])))
    cut = tokenizer is not None and max_tokens is not None
    for sentence in labeller.split_sentences(report.get("findings", "")):
        longer = f"{text} {told(sentence)}".strip()
        if cut and text and len(tokenizer(longer).input_ids) > max_tokens:
            break
        text = longer
    return text


def told_answer(report: str, evidence: Evidence, tokenizer, max_tokens: int) -> str:
    """What a report says of a film as far as the evidence carries it, in the order in which the prompt lists it.

    A finding that the evidence lacks is left out, and so are a place that it does not show, and sizes; a denial of what
    it holds, too: the writer may pass over weak evidence, but shall not speak against it. A finding of the evidence
    that is not in the report is not in the answer either: that is the lesson.

    Args:
        report: Sentences that are true of the film.
        tokenizer, max_tokens: As many whole sentences are kept as fit.

    Returns:
        The answer, never empty.
    """
    listed = [name for name, _ in sorted(evidence.findings, key=lambda f: (-f[1], f[0]))]
    listed += [name for name, _, _ in sorted(evidence.boxes, key=lambda b: (-b[1], b[0]))]
    sentences = []
    for sentence in labeller.split_sentences(_SIZE.sub("", report)):
        sentence = sentence[:1].upper() + sentence[1:]
        for told in (sentence, _without_untold_places(sentence, set())):
            if check_sentences(told, evidence)[0]["status"] not in ("contradicted", "unsupported"):
                places = [listed.index(mention.finding) for mention in _stated(told) if mention.finding in listed]
                sentences.append((min(places, default=len(listed)), told))
                break
    text = ""
    for _, sentence in sorted(sentences, key=lambda entry: entry[0]):
        longer = f"{text} {sentence}".strip()
        if text and len(tokenizer(longer).input_ids) > max_tokens:
            break
        text = longer
    return text or "No finding is certain."


def disease_pair(row: Mapping[str, str]) -> tuple[str, str]:
    """(prompt, answer) of a row of the disease table: symptoms in; disease, cause, tests and treatment out."""
    answer = f"Disease: {row['disease']}."
    for title, column in (("Cause", "cause"), ("Diagnostic methods", "diagnostic_methods"), ("Treatment", "treatment")):
        if row.get(column):
            answer += f" {title}: {row[column]}."
    return f"Symptoms: {clean_field(row['common_symptom'])}\nWhich disease fits, and why?", answer


_SIZE = re.compile(r",? \b(?:small|moderate|large) in size|\b(?:small|moderate|large) ", re.IGNORECASE)
_SIDE = "(?:left|right|both|bilateral)"
_AFTER_NOUN = re.compile(
    rf"\s+(?:(?:in|over|at|on|along|next to|projects? over|crosses) (?:the )?|crosses ){_SIDE}\b[^,.;]*?"
    r"\b(?:zones?|lobes?|lungs?|bases?|sides?|ribs|wall|apex|apices)\b",
    re.IGNORECASE,
)
_BEFORE_NOUN = re.compile(
    rf"\b{_SIDE}(?:(?: and)? (?:left|right|upper|mid|middle|lower))*(?: (?:zones?|lobes?|lungs?|basal|basilar))?\s+",
    re.IGNORECASE,
)


def _without_untold_places(sentence: str, sided: set[str]) -> str:
    """The sentence without the places of stated findings that are not among `sided`, phrase by phrase."""
    kept = []
    for phrase in _phrases(sentence):
        stated = [m for m in labeller.find_mentions(phrase) if m.status != labeller.ABSENT and m.side]
        if any(mention.finding not in sided for mention in stated):
            phrase = _BEFORE_NOUN.sub("", _AFTER_NOUN.sub("", phrase))
            phrase = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", phrase)
        kept.append(phrase)
    text = "".join(kept).strip()
    return text[:1].upper() + text[1:] if sentence[:1].isupper() else text


def _phrases(sentence: str) -> list[str]:
    """Parts of a sentence, cut at commas and "and", each naming a finding: "left and right zone nodules" is one."""
    parts: list[str] = []
    for part in re.split(r"(?<=,)(?= )|(?= and )", sentence):
        if parts and not (labeller.find_mentions(parts[-1]) and labeller.find_mentions(part)):
            parts[-1] += part
        else:
            parts.append(part)
    return parts


def indiana_pairs(
    n: int, tokenizer, max_prompt_tokens: int, max_answer_tokens: int, seed: int = 0
) -> list[tuple[str, str]]:
    """(prompt, answer) pairs of reports that radiologists wrote, read from the installed package. Never print them.

    The report is the answer; the prompt lists what the answer states, as the rule labeller reads it, so the two
    agree. Only reports without holes that state a finding are drawn, each text once (many reports of healthy
    lungs are equal to the letter). Source: ours.

    Args:
        n: Most pairs. tokenizer: Measures the lengths. seed: Of the draw and of the probabilities in the prompts.

    Raises:
        indiana.MissingReports: The reports are not on this machine.
    """
    rng = np.random.default_rng(seed)
    reports = [r for r in indiana.read_reports() if r.whole and r.impression and r.findings]
    pairs, taken = [], set()
    for index in rng.permutation(len(reports)):
        if len(pairs) >= n:
            break
        report = reports[index]
        text = f"{report.findings} {report.impression}".lower()
        if text in taken:
            continue
        taken.add(text)
        sections = {"impression": report.impression, "findings": report.findings}
        answer = training_answer(sections, tokenizer, max_answer_tokens)
        if len(tokenizer(answer).input_ids) > max_answer_tokens:
            continue
        stated = _stated(answer)
        names = list(dict.fromkeys(mention.finding for mention in stated))
        if not names:
            continue
        probabilities = sorted(rng.uniform(0.15, 1.0, len(names)), reverse=True)
        boxes = {}
        for mention in stated:
            if rng.random() < 0.6 and (mention.side or mention.finding in MIDLINE):
                sides = ("left", "right") if mention.side == "both" else (mention.side,)
                places = ["midline"] if mention.finding in MIDLINE else [f"{side} lung" for side in sides]
                boxes |= {(mention.finding, place): (mention.finding, 1.0, place) for place in places}
        symptoms = "" if indiana.HOLE in report.indication or "&" in report.indication else report.indication
        evidence = Evidence(
            f"indiana-{report.report_id}",
            list(zip(names, probabilities, strict=True)),
            list(boxes.values()),
            symptoms=symptoms,
        )
        prompt, left_out = build_prompt(evidence, tokenizer, max_prompt_tokens)
        told = training_answer(sections, tokenizer, max_answer_tokens, evidence)
        # Without untold places it is shorter, and a sentence more may fit: not one that states what the prompt lacks.
        if not left_out and {mention.finding for mention in _stated(told)} <= set(names):
            pairs.append((prompt, told))
    return pairs


def _stated(text: str) -> list[labeller.Mention]:
    return [mention for mention in labeller.find_mentions(text) if mention.status != labeller.ABSENT]
