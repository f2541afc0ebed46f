"""A text read sentence by sentence: which findings are named, with which status, on which side."""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from cliniqure_utils.labeller import terms, triggers
from cliniqure_utils.labeller.places import (
    Zones,
    clause_of,
    join_zones,
    lung_place,
    opening,
    own,
    said_of,
    side_words,
    size_of,
    zone_words,
)
from cliniqure_utils.labeller.terms import ABSENT, PRESENT, UNCERTAIN
from cliniqure_utils.vocabulary import FINDINGS, MIDLINE


@dataclass(frozen=True)
class Mention:
    """One finding named in one sentence.

    Attributes:
        finding: One of `FINDINGS`.
        status: "present", "absent" or "uncertain".
        side: The patient's side, "left", "right" or "both"; None where none is said (always None for heart and aorta).
        sentence: 0-based index into `split_sentences(text)`.
        words: The words that named it, lower case.
        side_shared: The side is said of a neighbour in a list, "left effusion and atelectasis", and may not be meant.
        zones: (side, zone) of each zone that is said, zone "upper", "mid" or "lower", side None where none is said.
        size: "small" or "large" where such a word stands beside it; None for a denied finding.
        lung_place: Words that put the heart or the aorta into a lung or on a side, where neither can be, else "".
    """

    finding: str
    status: str
    side: str | None
    sentence: int
    words: str = ""
    side_shared: bool = False
    zones: Zones = ()
    size: str | None = None
    lung_place: str = ""


def split_sentences(text: str) -> list[str]:
    """Sentences of a report, in order, white space tidied, empty ones left out.

    Ends at . ! ? and line breaks (never inside a number such as 1.5, nor after "Dr", "approx" or a list number).
    """
    text = re.sub(r"[ \t\r\f\v\u00a0]+", " ", str(text))
    parts = re.split(
        r"(?<!\bDr)(?<!\bvs)(?<!\bapprox)(?<!\be\.g)(?<!\bi\.e)(?<=[.!?])(?=\s|[A-Z])(?<!\b\d\.)|\n+", text
    )
    return [part.strip() for part in parts if re.search(r"\w", part)]


def find_mentions(text: str) -> list[Mention]:
    """Every finding a text names, with what is said about it.

    Args:
        text: Report prose, any case; None, NaN and "" give an empty list.

    Returns:
        Mentions in reading order. The same finding may come more than once. "The heart is normal in size" gives an
        absent Cardiomegaly, "the lungs are clear" absent `terms.CLEAR_DENIES`, "the left lung is clear" these on the
        left, "the lung bases are clear" these in the lower zones.

    Source: ours (see the head of the package, `labeller`).
    """
    if not isinstance(text, str):
        return []
    mentions = []
    for index, sentence in enumerate(split_sentences(text)):
        for finding, status, side, *more in _read_sentence(sentence):
            mentions.append(Mention(finding, status, side, index, *more))
    return mentions


def label_matrix(texts: Iterable[str]) -> np.ndarray:
    """Labels of many reports.

    Args:
        texts: n reports.

    Returns:
        bool array (n, 14), columns in the order of `FINDINGS`: True where a report states the finding or leaves
        it open ("may represent"); a statement outweighs a denial elsewhere in the same report.
    """
    texts = list(texts)
    labels = np.zeros((len(texts), len(FINDINGS)), dtype=bool)
    column = {finding: i for i, finding in enumerate(FINDINGS)}
    for row, text in enumerate(texts):
        for mention in find_mentions(text):
            if mention.status != ABSENT:
                labels[row, column[mention.finding]] = True
    return labels


def overall_statement(sentence: str) -> str | None:
    """What a sentence says of the whole film.

    Returns:
        "normal" ("normal chest radiograph", "no abnormality"), "otherwise normal" ("no other abnormality", "normal
        except for a nodule"), "no acute" ("no acute cardiopulmonary process"), or None, also where it speaks of a
        part: "no abnormality in the right lung", "normal chest wall".
    """
    sentence = _tidy(sentence)
    if terms.NO_ACUTE.search(sentence):
        return "no acute"
    for pattern in (terms.REST_NORMAL, terms.WHOLE_NORMAL):
        for match in pattern.finditer(sentence):
            lead = re.split(r"[,;:]|\b(?:but|and)\b", sentence[: match.start()])[-1]
            if not terms.ANOTHER_SUBJECT.search(lead):
                rest = pattern is terms.REST_NORMAL or terms.UNNAMED_ONLY.search(sentence)
                return "otherwise normal" if rest else "normal"
    return None


def general_talk(text: str) -> frozenset[int]:
    """Sentences that say nothing of this film: history, how frequent or serious a disease is, its causes or treatment.

    Advice ("follow-up is advised"), bones and devices are not among them; nor is a sentence that also states or denies
    a finding.

    Args:
        text: Report prose; None and NaN give an empty set.

    Returns:
        Indices into `split_sentences(text)`.

    Source: ours.
    """
    if not isinstance(text, str):
        return frozenset()
    return frozenset(i for i, sentence in enumerate(split_sentences(text)) if _is_general(sentence))


@functools.lru_cache(maxsize=4096)
def _is_general(sentence: str) -> bool:
    if _read_sentence(sentence) or overall_statement(sentence):
        return False
    sentence = join_zones(_tidy(sentence))
    if triggers.NOT_OF_THIS_FILM.search(sentence) or triggers.GENERAL_OPENING.match(sentence):
        return True
    return bool(_found(sentence))


def denies_the_unnamed(text: str) -> dict[int, frozenset[str]]:
    """What the sentences of a text deny without naming it.

    "Normal chest" denies all findings. "No other abnormality" and "normal except for a nodule" deny those that the text
    names nowhere, "the lungs are otherwise clear" those of them that clear lungs deny. "No acute abnormality" denies
    none: it leaves open what is old, and no finding is always new.

    Args:
        text: Report prose; None and NaN give {}.

    Returns:
        Index into `split_sentences(text)` -> names of findings, for the sentences that deny findings in this way. What
        a sentence names itself is in `find_mentions`, which reads "the lungs are clear" as absent findings.

    Source: ours.
    """
    if not isinstance(text, str):
        return {}
    denied, named = {}, None
    for index, sentence in enumerate(split_sentences(text)):
        kind = overall_statement(sentence)
        if kind == "normal":
            denied[index] = frozenset(FINDINGS)
            continue
        tidy = _tidy(sentence)
        rest = FINDINGS if kind == "otherwise normal" else ()
        rest_clear = terms.NOT_THE_WHOLE.search(tidy) and terms.REST_CLEAR.search(tidy)
        if kind is None and rest_clear and not side_words(tidy):
            rest = terms.CLEAR_DENIES
        if rest:
            named = {mention.finding for mention in find_mentions(text)} if named is None else named
            denied[index] = frozenset(rest) - named
    return {index: names for index, names in denied.items() if names}


def _tidy(sentence: str) -> str:
    sentence = sentence.lower().replace("\u2019", "'")
    sentence = re.sub("[\u2010-\u2015]", "-", sentence)
    sentence = re.sub(r"\bnon(?=calcif|consolidat|nodul|fibro|cavit|emphysem|enlarged|dilated)", "non-", sentence)
    return re.sub(r"\s+", " ", sentence).strip().rstrip(".!")


@functools.lru_cache(maxsize=4096)  # reports say the same sentences again and again
def _read_sentence(sentence: str) -> tuple[tuple, ...]:
    """Fields of the mentions of a sentence, less its number: finding, status, side, words, side_shared, zones,
    size, lung_place."""
    sentence = join_zones(_tidy(sentence))
    found = _found(sentence)
    general = _general(sentence, found)
    has_zones, has_sizes = "zone" in sentence, triggers.SIZE.search(sentence) is not None
    mentions: list[tuple] = []  # start, then as returned
    for position, (start, end, finding, fixed) in enumerate(found):
        status = fixed or _status(sentence, found, position)
        if status is None or position in general:
            continue
        size = size_of(sentence, found, position) if has_sizes and status != ABSENT else None
        words = sentence[start:end]
        if finding in MIDLINE:
            misplaced = lung_place(sentence, found, position) if status != ABSENT else ""
            mentions.append((start, finding, status, None, words, False, (), size, misplaced))
            continue
        sides = _sides(sentence, found, position, status)
        zones = own(sentence, found, position, zone_words) if has_zones and len(sides) == 1 else ()
        if has_zones and len(found) == len(sides) == 1:
            zones = zones or opening(sentence, zone_words)
        for said, side in sides:
            shared = side is not None and len(found) > 1 and own(sentence, found, position) is None
            mentions.append((start, finding, said, side, words, shared, zones, None if said == ABSENT else size, ""))
    if not terms.NOT_THE_WHOLE.search(sentence):
        named = {mention[1] for mention in mentions}
        for clear in (*terms.CLEAR.finditer(sentence), *terms.PART_NORMAL.finditer(sentence)):
            near = triggers.JOINER.split(triggers.TWO_SIDES.sub("both", sentence[: clear.start()]))[-1] + clear[0]
            side = side_words(near) or opening(sentence)
            part = triggers.CLEAR_PART.search(clear[0])
            zones = zone_words(near) or (((None, part["zone"] or "lower"),) if part else ())
            mentions += [
                (clear.start(), finding, ABSENT, side, clear[0], False, zones, None, "")
                for finding in terms.CLEAR_DENIES
                if finding not in named
            ]
    return tuple(mention[1:] for mention in sorted(mentions, key=lambda item: item[0]))


def _found(sentence: str) -> list[tuple[int, int, str, str | None]]:
    """(start, end, finding, fixed status) of every finding that a tidied sentence names, in order."""
    found, taken = [], []
    for finding, status, pattern in terms.TERMS:
        for match in pattern.finditer(sentence):
            start, end = match.span("m") if match.groupdict().get("m") else match.span()
            if any(start < other_end and other_start < end for other_start, other_end in taken):
                continue
            taken.append((start, end))
            found.append((start, end, finding, status))
    return sorted(found)


def _sides(sentence: str, found: list, position: int, status: str) -> list[tuple[str, str | None]]:
    """(status, side) of one name; two where it serves for both sides: "a left but no right effusion"."""
    start, end = found[position][:2]
    following = found[position + 1][0] if position + 1 < len(found) else len(sentence)
    if status == ABSENT:
        first = triggers.ONE_NOT_THE_OTHER.search(sentence, 0, start)
        if first:
            return [(PRESENT, first["side"]), (ABSENT, said_of(sentence, found, position))]
        second = triggers.BUT_ONE.search(sentence, end, following)
        if second:
            denied = (ABSENT, said_of(sentence[: second.start()], found[: position + 1], position))
            return [denied, (PRESENT, second["side"] or second["place"])]
        return [(ABSENT, said_of(sentence, found, position))]
    other = triggers.NOT_THERE.search(sentence, end, following)
    if other is None:
        return [(status, said_of(sentence, found, position))]
    rest = sentence[: other.start()] + "_" * len(other[0]) + sentence[other.end() :]
    return [(status, said_of(rest, found, position)), (ABSENT, other["side"])]


def _general(sentence: str, found: list) -> set[int]:
    """Positions of the mentions that are talk about a disease in general."""
    if not found:
        return set()
    reach = defined = 0  # how far the general talk goes, and the words of its definition: "is the collapse of"
    opening = triggers.GENERAL_OPENING.match(sentence)
    if opening:
        reach = _end_of(triggers.GENERAL_ENDS, sentence, opening.end())
    elif triggers.GENERAL_LEAD.fullmatch(sentence[: found[0][0]]):
        last = 0  # of the list that opens the sentence: "effusion and atelectasis are caused by"
        while last + 1 < len(found) and triggers.PLAIN_LIST.fullmatch(sentence[found[last][1] : found[last + 1][0]]):
            last += 1
        predicate = triggers.GENERAL_PREDICATE.match(sentence, found[last][1] + 1)
        if predicate:
            reach, defined = _end_of(triggers.GENERAL_ENDS, sentence, predicate.end()), predicate.end()
    definition = triggers.DEFINITION.search(sentence, found[0][1])  # "there is an effusion, a condition in which"
    defined_here = definition.start() if definition else len(sentence)
    general: set[int] = set()
    for position, (start, end, finding, _) in enumerate(found):
        listed = position - 1 in general and triggers.PLAIN_LIST.fullmatch(sentence[found[position - 1][1] : start])
        before = sentence[clause_of(sentence, start, end)[0] : start]
        led = before.endswith(triggers.GENERAL_TAILS) and triggers.GENERAL_BEFORE.search(before)
        if not (start < reach or start > defined_here or listed or led):
            continue
        of_this_film = triggers.HERE.search(before) or (
            finding not in MIDLINE
            and (own(sentence, found, position) or (start >= defined and triggers.THE.search(before)))
        )
        if not of_this_film and not (start >= reach and triggers.BEFORE_ABSENT.search(before)):
            general.add(position)
    return general


def _end_of(pattern: re.Pattern, sentence: str, start: int) -> int:
    match = pattern.search(sentence, start)
    return match.start() if match else len(sentence)


def _status(sentence: str, found: list, position: int) -> str | None:
    """present / absent / uncertain for one mention; None when it is a question or history."""
    start, end = found[position][:2]
    first, last = clause_of(sentence, start, end)
    before, inside, after = sentence[first:start], sentence[start:end], sentence[end:last]

    if triggers.NOT_A_STATEMENT.search(triggers.BORNE_OUT.sub("_", before)):
        return None
    if before.endswith(("non-", "non ")):  # "no noncalcified nodule" says nothing of calcified ones
        return None if triggers.BEFORE_ABSENT.search(before) else ABSENT
    if re.search(r"\b(?:not|no longer)\b", inside):
        return ABSENT

    if triggers.ANSWER_NO.match(after):
        return ABSENT
    # A trigger behind the mention reaches back over the list it closes, not over an earlier verb.
    for pattern, status in ((triggers.AFTER_UNCERTAIN, UNCERTAIN), (triggers.AFTER_ABSENT, ABSENT)):
        trigger = pattern.search(after)
        doubts_a_cause = trigger and re.match(r"\s*(?:due|secondary) to\b", sentence[end + trigger.end() :])
        if trigger and not doubts_a_cause and not triggers.VERB.search(after[: trigger.start()]):
            return status

    # Triggers behind other mentions must not be read again as triggers in front of this one.
    blanked = before
    for pattern in (triggers.PSEUDO, triggers.AFTER_UNCERTAIN, triggers.AFTER_ABSENT):
        blanked = pattern.sub(lambda match: "_" * len(match[0]), blanked)
    if triggers.CANNOT_EXCLUDE.search(blanked):
        return UNCERTAIN
    denials = list(triggers.BEFORE_ABSENT.finditer(blanked))
    if denials and not _soft_break(sentence, first + denials[-1].end(), start, last):
        return ABSENT
    if re.search(r"\b(?:likely|probably|possibly|may|might|could|borderline)\b", inside):
        return UNCERTAIN
    doubts = list(triggers.BEFORE_UNCERTAIN.finditer(blanked))
    if doubts and _doubt_reaches(sentence, found, position, first + doubts[-1].end()):
        return UNCERTAIN
    if triggers.DOUBTED_CAUSE.search(sentence[:first].rstrip()) and _doubt_reaches(sentence, found, position, first):
        return UNCERTAIN
    if re.match(r"\s*(?:versus|vs\.?)\s", after) or re.match(r"\s*\?", after):
        return UNCERTAIN
    return PRESENT


def _soft_break(sentence: str, start: int, end: int, last: int) -> bool:
    """Does a new statement begin between a denial and the mention? Not inside a list closed by "or" or "nor"."""
    for match in triggers.SOFT_BREAK.finditer(sentence, start, end):
        if not re.search(r"\bn?or\b", sentence[match.end() : last]):
            return True
    return False


def _doubt_reaches(sentence: str, found: list, position: int, trigger_end: int) -> bool:
    """A doubt covers the first mention after it and those joined to that one by or / versus / comma."""
    covered = [item for item in found if item[0] >= trigger_end]
    for earlier, later in zip(covered, covered[1:], strict=False):
        if earlier is found[position]:
            return True
        if not triggers.JOINED.fullmatch(sentence[earlier[1] : later[0]]):
            return False
        if later is found[position]:
            return True
    return bool(covered) and covered[0] is found[position]
