"""A text read sentence by sentence: which findings are named, with which status, on which side."""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from cliniqure_utils.labeller import terms, triggers
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
    """

    finding: str
    status: str
    side: str | None
    sentence: int
    words: str = ""
    side_shared: bool = False


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
        absent Cardiomegaly, "the lungs are clear" absent Consolidation, Infiltration and Lung Opacity.

    Source: ours (see the head of the package, `labeller`).
    """
    if not isinstance(text, str):
        return []
    mentions = []
    for index, sentence in enumerate(split_sentences(text)):
        for finding, status, side, words, shared in _read_sentence(_tidy(sentence)):
            mentions.append(Mention(finding, status, side, index, words, shared))
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


def denies_the_unnamed(text: str) -> dict[int, frozenset[str]]:
    """What the sentences of a text deny without naming it.

    "Normal chest" denies all findings. "No other abnormality" and "normal except for a nodule" deny those that the text
    names nowhere, "the lungs are otherwise clear" those of them that clear lungs deny. "No acute abnormality" denies
    none: it leaves open what is old, and no finding is always new.

    Args:
        text: Report prose; None and NaN give {}.

    Returns:
        Index into `split_sentences(text)` -> names of findings, for the sentences that deny findings in this way. What
        a sentence names itself is in `find_mentions`, which reads "the lungs are clear" as three absent findings.

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
        if kind is None and rest_clear and not _side_words(tidy):
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
def _read_sentence(sentence: str) -> tuple[tuple[str, str, str | None, str, bool], ...]:
    """(finding, status, side, words, whether the side is shared) of a tidied sentence."""
    found, taken = [], []  # found: (start, end, finding, fixed status)
    for finding, status, pattern in terms.TERMS:
        for match in pattern.finditer(sentence):
            start, end = match.span("m") if match.groupdict().get("m") else match.span()
            if any(start < other_end and other_start < end for other_start, other_end in taken):
                continue
            taken.append((start, end))
            found.append((start, end, finding, status))
    found.sort()
    general = _general(sentence, found)
    mentions = []  # (start, finding, status, side, words, shared)
    for position, (start, end, finding, fixed) in enumerate(found):
        status = fixed or _status(sentence, found, position)
        if status is None or position in general:
            continue
        for said, side in [(status, None)] if finding in MIDLINE else _sides(sentence, found, position, status):
            shared = side is not None and len(found) > 1 and _own_side(sentence, found, position) is None
            mentions.append((start, finding, said, side, sentence[start:end], shared))
    if not terms.NOT_THE_WHOLE.search(sentence):
        named = {mention[1] for mention in mentions}
        for clear in (*terms.CLEAR.finditer(sentence), *terms.PART_NORMAL.finditer(sentence)):
            near = triggers.JOINER.split(triggers.TWO_SIDES.sub("both", sentence[: clear.start()]))[-1] + clear[0]
            side = _side_words(near) or _opening_side(sentence)
            mentions += [
                (clear.start(), finding, ABSENT, side, clear[0], False)
                for finding in terms.CLEAR_DENIES
                if finding not in named
            ]
    return tuple(mention[1:] for mention in sorted(mentions, key=lambda item: item[0]))


def _sides(sentence: str, found: list, position: int, status: str) -> list[tuple[str, str | None]]:
    """(status, side) of one name; two where it serves for both sides: "a left but no right effusion"."""
    start, end = found[position][:2]
    following = found[position + 1][0] if position + 1 < len(found) else len(sentence)
    if status == ABSENT:
        first = triggers.ONE_NOT_THE_OTHER.search(sentence, 0, start)
        if first:
            return [(PRESENT, first["side"]), (ABSENT, _side(sentence, found, position))]
        second = triggers.BUT_ONE.search(sentence, end, following)
        if second:
            denied = (ABSENT, _side(sentence[: second.start()], found[: position + 1], position))
            return [denied, (PRESENT, second["side"] or second["place"])]
        return [(ABSENT, _side(sentence, found, position))]
    other = triggers.NOT_THERE.search(sentence, end, following)
    if other is None:
        return [(status, _side(sentence, found, position))]
    rest = sentence[: other.start()] + "_" * len(other[0]) + sentence[other.end() :]
    return [(status, _side(rest, found, position)), (ABSENT, other["side"])]


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
    general: set[int] = set()
    for position, (start, end, finding, _) in enumerate(found):
        listed = position - 1 in general and triggers.PLAIN_LIST.fullmatch(sentence[found[position - 1][1] : start])
        before = sentence[_clause(sentence, start, end)[0] : start]
        led = before.endswith(triggers.GENERAL_TAILS) and triggers.GENERAL_BEFORE.search(before)
        if not (start < reach or listed or led):
            continue
        of_this_film = triggers.HERE.search(before) or (
            finding not in MIDLINE
            and (_own_side(sentence, found, position) or (start >= defined and triggers.THE.search(before)))
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
    first, last = _clause(sentence, start, end)
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


def _clause(sentence: str, start: int, end: int) -> tuple[int, int]:
    """The stretch around a mention that no hard break crosses."""
    first, last = 0, len(sentence)
    for match in triggers.BREAK.finditer(sentence):
        if match.end() <= start:
            first = match.end()
        elif match.start() >= end:
            last = match.start()
            if match[0] == ":":  # "Pneumothorax: absent" is one statement
                last = len(sentence)
            break
    return first, last


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


def _side_words(text: str) -> str | None:
    sides = set()
    for match in triggers.SIDE.finditer(text):
        sides.add(match.lastgroup)
    if not sides:
        return None
    return sides.pop() if len(sides) == 1 else "both"


def _side(sentence: str, found: list, position: int) -> str | None:
    """Side of a mention: its own, else that of what it explains, of its list, of its clause, of the sentence's head."""
    own = _own_side(sentence, found, position)
    if own:
        return own
    first, last = _clause(sentence, *found[position][:2])

    def gap(left: int) -> str:
        """Words between two neighbouring mentions, "#" where one of them has no side by nature."""
        if not 0 <= left < len(found) - 1 or {found[left][2], found[left + 1][2]} & MIDLINE:
            return "#"
        words = sentence[found[left][1] : found[left + 1][0]]
        # what is denied is not where the stated neighbour is: "left consolidation without effusion"
        return "#" if triggers.DENIAL_BEGINS.search(words) else words

    # A list shares its place: "consolidation and effusion at the right base" ...
    here = position
    while here < position + triggers.LIST_REACH and triggers.LISTED.fullmatch(gap(here)) and not _side_words(gap(here)):
        here += 1
        if _own_side(sentence, found, here):
            return _own_side(sentence, found, here)
    # ... "left effusion and atelectasis"; and what explains a shadow is where the shadow is: "opacity at the right
    # base, likely atelectasis or infiltrate".
    here = position
    while here > position - triggers.LIST_REACH:
        between = gap(here - 1)
        if not (triggers.LISTED.fullmatch(between) or triggers.EXPLAINS.search(between)):
            break
        here -= 1
        if _own_side(sentence, found, here):
            return _own_side(sentence, found, here)
    if sum(first <= item[0] < last for item in found) > 1:
        return None
    # A denial has the side of its own part of the clause: not "the left base is clear, no effusion".
    denials = list(triggers.DENIAL_BEGINS.finditer(sentence, first, found[position][0]))
    if denials:
        first += len(re.match(r"(?:.*(?:,| and ))?", sentence[first : denials[-1].start()])[0])
    # "On the right, there is consolidation": the place opens the sentence.
    return _side_words(sentence[first:last]) or _opening_side(sentence)


def _opening_side(sentence: str) -> str | None:
    place = triggers.OPENING_PLACE.match(sentence)
    return _side_words(place[0]) if place else None


def _own_side(sentence: str, found: list, position: int) -> str | None:
    """Side said inside a mention's words, else just before them, else just after."""
    start, end = found[position][:2]
    first, last = _clause(sentence, start, end)
    inside = _side_words(sentence[start:end])
    if inside:
        return inside
    # Just before: back to the previous mention or joining word.
    previous = found[position - 1][1] if position else 0
    before = sentence[max(first, previous) : start]
    # "left and right lower zone consolidation" is one place, so a joiner between two sides does not cut
    near = triggers.JOINER.split(triggers.TWO_SIDES.sub("both", before))[-1]
    if _side_words(near):
        return _side_words(near)
    # Just after: up to the next mention, less the phrase that leads into that one.
    following = found[position + 1][0] if position + 1 < len(found) else len(sentence)
    after = sentence[end : min(last, following)]
    if position + 1 < len(found) and following <= last:
        cuts = [match.start() for match in triggers.JOINER.finditer(after)]
        after = after[: cuts[-1]] if cuts else after
    else:
        after = re.split(r"[;:]|,(?!\s*(?:left|right|mid|upper|lower))", after)[0]
    return _side_words(after)
