"""Where a finding is said to be, and how large: the side, zone and size words that belong to one mention."""

import re
from collections.abc import Callable

from cliniqure_utils.labeller import triggers
from cliniqure_utils.vocabulary import MIDLINE

Zones = tuple[tuple[str | None, str], ...]


def side_words(text: str) -> str | None:
    """ "left", "right" or "both"; None where no side is named."""
    sides = set()
    for match in triggers.SIDE.finditer(text):
        sides.add(match.lastgroup)
    if not sides:
        return None
    return sides.pop() if len(sides) == 1 else "both"


def zone_words(text: str) -> Zones:
    """(side, zone) of each zone a text names, "the left upper and right mid zones"; a side is None where none is
    said."""
    pairs: list[tuple[str | None, str]] = []
    for phrase in triggers.ZONES.finditer(text):
        sides: list[str] = []
        in_sides = False
        for word in triggers.ZONE_PART.findall(phrase[0]):
            is_side = word in ("left", "right", "both", "bilateral")
            if is_side:
                sides = (sides if in_sides else []) + ([word] if word in ("left", "right") else ["left", "right"])
            else:
                pairs += [(side, word.replace("middle", "mid")) for side in sides or [None]]
            in_sides = is_side
    return tuple(dict.fromkeys(pairs))


def join_zones(sentence: str) -> str:
    """The sentence with "left upper and right mid zones" as one place: no "and" cuts it in two."""
    if "zone" not in sentence:
        return sentence
    return triggers.ZONES.sub(lambda phrase: triggers.ZONE_JOINER.sub(" & ", phrase[0]), sentence)


def clause_of(sentence: str, start: int, end: int) -> tuple[int, int]:
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


def said_of(sentence: str, found: list, position: int) -> str | None:
    """Side of a mention: its own, else that of what it explains, of its list, of its clause, of the sentence's head.

    Args:
        found: (start, end, finding, status) of the sentence's mentions, in order.
        position: Of the mention in `found`.
    """
    here_said = own(sentence, found, position)
    if here_said:
        return here_said
    first, last = clause_of(sentence, *found[position][:2])

    def gap(left: int) -> str:
        """Words between two neighbouring mentions, "#" where one of them has no side by nature."""
        if not 0 <= left < len(found) - 1 or {found[left][2], found[left + 1][2]} & MIDLINE:
            return "#"
        words = sentence[found[left][1] : found[left + 1][0]]
        # what is denied is not where the stated neighbour is: "left consolidation without effusion"
        return "#" if triggers.DENIAL_BEGINS.search(words) else words

    # A list shares its place: "consolidation and effusion at the right base" ...
    here = position
    while here < position + triggers.LIST_REACH and triggers.LISTED.fullmatch(gap(here)) and not side_words(gap(here)):
        here += 1
        if own(sentence, found, here):
            return own(sentence, found, here)
    # ... "left effusion and atelectasis"; and what explains a shadow is where the shadow is: "opacity at the right
    # base, likely atelectasis or infiltrate".
    here = position
    while here > position - triggers.LIST_REACH:
        between = gap(here - 1)
        if not (triggers.LISTED.fullmatch(between) or triggers.EXPLAINS.search(between)):
            break
        here -= 1
        if own(sentence, found, here):
            return own(sentence, found, here)
    if sum(first <= item[0] < last for item in found) > 1:
        return None
    # A denial has the side of its own part of the clause: not "the left base is clear, no effusion".
    denials = list(triggers.DENIAL_BEGINS.finditer(sentence, first, found[position][0]))
    if denials:
        first += len(re.match(r"(?:.*(?:,| and ))?", sentence[first : denials[-1].start()])[0])
    # "On the right, there is consolidation": the place opens the sentence.
    return side_words(sentence[first:last]) or opening(sentence)


def opening(sentence: str, read: Callable = side_words):
    """Place with which a sentence opens, "On the right, ..."; read: `side_words` or `zone_words`."""
    place = triggers.OPENING_PLACE.match(sentence)
    return read(place[0] if place else "")


def own(sentence: str, found: list, position: int, read: Callable = side_words):
    """Place said inside a mention's words, else just before them, else just after. Arguments as in `said_of` and
    `opening`."""
    start, end = found[position][:2]
    first, last = clause_of(sentence, start, end)
    inside = read(sentence[start:end])
    if inside:
        return inside
    # Just before: back to the previous mention or joining word.
    previous = found[position - 1][1] if position else 0
    before = sentence[max(first, previous) : start]
    # "left and right lower zone consolidation" is one place, so a joiner between two sides does not cut
    near = triggers.JOINER.split(triggers.TWO_SIDES.sub("both", before))[-1]
    if read(near):
        return read(near)
    # Just after: up to the next mention, less the phrase that leads into that one.
    following = found[position + 1][0] if position + 1 < len(found) else len(sentence)
    after = sentence[end : min(last, following)]
    if position + 1 < len(found) and following <= last:
        cuts = [match.start() for match in triggers.JOINER.finditer(after)]
        after = after[: cuts[-1]] if cuts else after
    else:
        after = re.split(r"[;:]|,(?!\s*(?:left|right|mid|upper|lower))", after)[0]
    return read(after)


def lung_place(sentence: str, found: list, position: int) -> str:
    """The part of a lung, or the side, in which the words put the heart or the aorta, which have none; "" where they
    do not: "cardiomegaly, right mid zone", "left cardiomegaly". Arguments as in `said_of`.
    """
    start, end = found[position][:2]
    after = triggers.LUNG_AFTER.match(sentence, end)
    if after:
        return after["place"]
    before = triggers.LUNG_BEFORE.search(sentence, 0, start)
    if not before or (before["side"] and triggers.PART_OF_HEART.match(sentence, start)):
        return ""
    return before["place"] or before["side"]


def size_of(sentence: str, found: list, position: int) -> str | None:
    """ "small" or "large" where one of these, or a word like it, stands beside a mention, and no other. Arguments as
    in `said_of`."""
    start, end = found[position][:2]
    previous = found[position - 1][1] if position else 0
    near = triggers.JOINER.split(sentence[previous:start])[-1]
    words = [match.lastgroup for match in triggers.SIZE.finditer(near)]
    after = triggers.SIZE_AFTER.match(sentence, end)
    words += [match.lastgroup for match in triggers.SIZE.finditer(after[0])] if after else []
    return words[0] if len(set(words)) == 1 and words[0] != "moderate" else None
