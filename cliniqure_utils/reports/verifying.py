"""Verified writing: what the evidence speaks against is written again, or gives way to a sentence of facts.

A sentence is set aside that the evidence contradicts, or that names a side which the evidence does not tell. The
language model tries it again: of the sentences that it draws, the first counts that the evidence supports and that
speaks of the same findings of the evidence. If none does, the sentences of facts about those findings take its place;
where there are no such findings, nothing does. A text that runs in circles ends where it repeats itself, and a last
sentence that the length limit cut off goes. What the text leaves out stays left out: a writer may have reasons to
distrust weak evidence. Sides come from the evidence alone. Source: ours.
"""

import re
from collections.abc import Callable, Sequence

from cliniqure_utils import labeller
from cliniqure_utils.reports.assembly import FACTS, MODEL, SECOND_TRY, Verified, fact_sentences
from cliniqure_utils.reports.checking import UNTOLD_SIDE, check_sentences
from cliniqure_utils.reports.evidence import Evidence

ROUNDS = 3  # of asking the language model; a text with more sentences at fault gets facts for the rest
REASONS = AGAINST, REPEATED, AFTERWARDS, UNFINISHED = (
    "against the evidence", "repeated", "after a repeated sentence", "unfinished",
)  # fmt: skip
# (films to ask about, as numbers from 0; their texts so far; number of the round from 0) -> for each film the sentences
# that were drawn, best first
Ask = Callable[[Sequence[int], Sequence[str], int], Sequence[Sequence[str]]]


def verify_texts(evidence: Sequence[Evidence], texts: Sequence[str], ask: Ask | None) -> list[Verified]:
    """Check texts against the evidence and mend them; all films that need another sentence are asked about together.

    Args:
        texts: As written, one for each film of `evidence`.
        ask: The language model, by `writer.generation.ask_again`; None: no second try, facts at once.

    Returns:
        One result per film, in order.
    """
    films = [_Film(known, labeller.split_sentences(text)) for known, text in zip(evidence, texts, strict=True)]
    for number in range(ROUNDS if ask else 0):
        asked = [n for n, film in enumerate(films) if film.needs_a_sentence()]
        if not asked:
            break
        answers = ask(asked, [films[n].text for n in asked], number)
        for n, drawn in zip(asked, answers, strict=True):
            films[n].take(drawn)
    verified = [film.finish() for film in films]
    assert len(verified) == len(evidence), "a text was lost"
    return verified


class _Film:
    """One text on its way: what waits to be looked at, what is accepted, what is set aside."""

    def __init__(self, evidence: Evidence, sentences: list[str]):
        self.evidence = evidence
        self.waiting = list(sentences)
        self.cut_off = self.waiting.pop() if sentences and not _ended(sentences[-1]) else None
        self.accepted: list[tuple[str, str]] = []  # sentence, origin
        self.set_aside: list[dict] = []
        self.tries = 0

    @property
    def text(self) -> str:
        return _joined([sentence for sentence, _ in self.accepted])

    def needs_a_sentence(self) -> bool:
        """Accept sentences up to the first at fault, which stays the first that waits. False where there is none."""
        while self.waiting:
            sentence = self.waiting[0]
            if runs_in_circles(sentence) or _key(sentence) in self._said():
                self._give_facts(REPEATED)
                while self.waiting:
                    self._put_aside(AFTERWARDS)
            elif any(map(_at_fault, self._check(sentence))):
                return True
            else:
                self.accepted.append((self.waiting.pop(0), MODEL))
        return False

    def take(self, drawn: Sequence[str]) -> None:
        """The first good one of the drawn sentences, or facts, in place of the sentence that waits first."""
        for sentence in drawn:
            self.tries += 1
            if self._is_good(sentence):
                self._put_aside(AGAINST, SECOND_TRY)
                self.accepted.append((sentence, SECOND_TRY))
                return
        self._give_facts(AGAINST)

    def finish(self) -> Verified:
        while self.needs_a_sentence():
            self._give_facts(AGAINST)
        if self.cut_off is not None:
            self.waiting = [self.cut_off]
            self._put_aside(UNFINISHED)
        origins = [origin for _, origin in self.accepted]
        sentences = [
            {"sentence": entry["sentence"], "origin": origin, "status": entry["status"]}
            for entry, origin in zip(check_sentences(self.text, self.evidence), origins, strict=True)
        ]
        return Verified(self.text, sentences, self.set_aside, self.tries)

    def _is_good(self, sentence: str) -> bool:
        coming = {_key(other) for other in self.waiting}
        if not _ended(sentence) or runs_in_circles(sentence) or _key(sentence) in self._said() | coming:
            return False
        checked = self._check(sentence)
        if checked[-1]["status"] != "supported" or any(map(_at_fault, checked)):
            return False
        return self._findings_of(self.waiting[0]) <= self._findings_of(sentence)

    def _give_facts(self, why: str) -> None:
        names = self._findings_of(self.waiting[0]) - _stated(self.text)
        facts = [text for name, text in fact_sentences(self.evidence).items() if name in names]
        self._put_aside(why, FACTS if facts else None)
        self.accepted += [(text, FACTS) for text in facts]

    def _put_aside(self, why: str, instead: str | None = None) -> None:
        problems = self._check(self.waiting[0])[-1]["problems"]
        entry = {"sentence": self.waiting.pop(0), "why": why, "problems": problems, "instead": instead}
        self.set_aside.append(entry)

    def _check(self, sentence: str) -> list[dict]:
        """The accepted sentences and one more, checked: what a sentence says depends on those before it."""
        return check_sentences(_joined([*(said for said, _ in self.accepted), sentence]), self.evidence)

    def _said(self) -> set[tuple]:
        return {_key(said) for said, _ in self.accepted} | {_key(entry["sentence"]) for entry in self.set_aside}

    def _findings_of(self, sentence: str) -> set[str]:
        """Findings of the evidence that a sentence states or leaves open, and those that it is at fault about."""
        problems = self._check(sentence)[-1]["problems"]
        return (_stated(sentence) | {problem["finding"] for problem in problems}) & self.evidence.present


def runs_in_circles(sentence: str) -> bool:
    """Whether words come again at once: four or more of them twice in a row, or any three times; "and", "or" and
    punctuation between them do not count. "In the left mid zone, left mid zone cavity" is no circle."""
    words = [word for word in re.findall(r"[\w-]+", sentence.lower()) if word not in ("and", "or")]
    for n in range(1, len(words) // 2 + 1):
        for i in range(len(words) - 2 * n + 1):
            block = words[i : i + n]
            if block == words[i + n : i + 2 * n] and (n >= 4 or block == words[i + 2 * n : i + 3 * n]):
                return True
    return False


def _stated(text: str) -> set[str]:
    return {mention.finding for mention in labeller.find_mentions(text) if mention.status != labeller.ABSENT}


def _at_fault(entry: dict) -> bool:
    untold = any(problem["problem"] == UNTOLD_SIDE for problem in entry["problems"])
    return untold or entry["status"] == "contradicted"


def _ended(sentence: str) -> bool:
    return bool(re.search(r"[.!?][\"')\]]*$", sentence))


def _key(sentence: str) -> tuple[str, ...]:
    """The words of a sentence, whatever their order."""
    return tuple(sorted(re.findall(r"[\w-]+", sentence.lower())))


def _joined(sentences: Sequence[str]) -> str:
    """A text that is split into these sentences again."""
    text = " ".join(sentences)
    return text if labeller.split_sentences(text) == list(sentences) else "\n".join(sentences)
