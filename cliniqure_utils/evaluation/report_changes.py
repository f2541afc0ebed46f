"""Changing a report by rule, harmlessly or so that it says something else: the pairs of the stress panel.

The rules are plain word patterns of this module. They do not use the labeller, so that finding F1, which is built on
it, gets no pairs that were made to suit it. The patterns are crude and now and then write a clumsy sentence.
Each of `RULES` takes a report and a generator and returns the changed report, None where it does not apply.
"""

import re
from collections.abc import Callable

import numpy as np

from cliniqure_utils.labeller import split_sentences
from cliniqure_utils.reports import Evidence, build_prompt

_NOUN = re.compile(
    r"\b(effusions?|pneumothora(?:x|ces)|consolidations?|atelecta\w+|infiltrat\w+|opacit(?:y|ies)|nodules?|mass(?:es)?|"
    r"cardiomegaly|fibrosis|fibrotic|scar\w*|edema|emphysema\w*|granulomas?|calcifi\w+|fractures?)\b",
    re.IGNORECASE,
)
_DENIAL = re.compile(
    r"\b(no|not|without|none|free of|clear of|negative for|absent|resolved|rather than|cannot|may|might|could|"
    r"possib\w+|prior|previous)\b",
    re.IGNORECASE,
)
_DENIED = re.compile(r"(?:there (?:is|are) )?no (?:(?:sign|evidence) of |definite |focal |acute )*(.+)$", re.IGNORECASE)
_SEVERITY = {
    "small": "large", "tiny": "huge", "mild": "severe", "minimal": "massive", "slight": "marked", "trace": "large",
    "mildly": "severely", "slightly": "markedly", "minimally": "severely", "moderate": "minimal",
    "moderately": "minimally", "faint": "dense", "large": "small", "huge": "tiny", "severe": "mild",
    "massive": "minimal", "marked": "slight", "severely": "mildly", "markedly": "slightly", "dense": "faint",
    "extensive": "minimal",
}  # fmt: skip
# A stem that the report must not hold, and the sentence that is put in.
_INVENTED = (
    ("pneumothora", "There is a moderate right pneumothorax."),
    ("effusion|costophrenic|pleural", "A small left pleural effusion is present."),
    ("nodul|mass", "A solitary nodule lies in the right upper lobe."),
    ("consolidat|airspace", "Consolidation is seen in the left lower lobe."),
    ("fibro|scar", "Fibrosis is seen in the right upper lobe."),
    ("atelecta", "There is atelectasis at the left base."),
    ("interstiti|reticul", "There is a diffuse interstitial pattern."),
    ("opaci|infiltrat", "Patchy infiltrates are seen on the left."),
)
# What the prompt of a film lists: finding -> (first letters of the word that states it, a probability).
_PROMPTED = {
    "Pleural effusion": ("effusio", 0.93), "Pneumothorax": ("pneumot", 0.91), "Consolidation": ("consoli", 0.88),
    "Atelectasis": ("atelect", 0.86), "Infiltration": ("infiltr", 0.83), "Lung Opacity": ("opacit", 0.81),
    "Nodule/Mass": ("nodule", 0.78), "Cardiomegaly": ("cardiom", 0.76), "Pulmonary fibrosis": ("fibro", 0.73),
    "Calcification": ("calcifi", 0.71),
}  # fmt: skip
# Paraphrases: our own, checked for keeping the meaning. Applied in turn to every sentence.
_REWORDED = tuple(
    (re.compile(pattern, re.IGNORECASE), new)
    for pattern, new in (
        (r"^(?:there (?:is|are) )?no (?:sign|evidence) of (.+?)\.?$", r"The film shows no \1."),
        (r"^there (?:is|are) no (.+?)\.?$", r"No \1 is shown."),
        (r"^there (?:is|are) (?:an? )?(.+?)\.?$", r"The film shows \1."),
        (r"\bthe (left|right) (upper|middle|mid|lower) (lobe|zone|lung)\b", r"the \2 \3 on the \1"),
        (r"\bthe (left|right) (?:lung )?base\b", r"the lung base on the \1"),
        (r"\bcan be (?:seen|identified|made out)\b", "is shown"),
        (r"\b(is|are) (?:seen|identified|present|noted|visualized|visible)\b", r"\1 shown"),
        (r"^(the )?heart (size )?is (?:normal|within normal limits)(?: in size)?\b", "There is no cardiac enlargement"),
        (r"^(the )?heart is of normal size", "There is no cardiac enlargement"),
        (
            r"^(the )?heart size and mediastin\w+( contours?)? are (?:normal|within normal limits)",
            "Heart and mediastinum are unremarkable",
        ),
        (
            r"^(the )?(?:heart|cardiac silhouette) is (mildly |moderately )?enlarged",
            r"The size of the heart is \2increased",
        ),
        (r"^enlarged cardiac silhouette", "Enlargement of the heart"),
        (r"\bcardiomediastinal silhouette\b", "outline of the heart and mediastinum"),
        (r"^(the |both )?lungs are clear", "The lung fields are clear"),
        (r"\bpleural effusion(s?)\b", r"pleural fluid collection\1"),
        (r"\bosseous structures\b", "bones"),
        (r"\bunremarkable\b", "within normal limits"),
        (r"\bunchanged\b", "the same as before"),
        (r"\bdegenerative changes\b", "degeneration"),
        (r"\bsmall\b", "minor"),
        (r"\bmild\b", "slight"),
        (r"\blarge\b(?! in size)", "sizeable"),
        (r"\bvague\b", "ill-defined"),
        (r"\bpatchy\b", "blotchy"),
        (r"\bdense\b", "compact"),
        (r"\brounded?\b", "circular"),
        (r"\bsolitary\b", "single"),
        (r"\bcoarse\b", "thick"),
        (r"\bintact\b", "undamaged"),
        (r"\b(is|are) enlarged\b", r"\1 increased in size"),
        (r"\bdemonstrates?\b", "shows"),
        (r"\bappears? to be\b", "seems"),
        (r"\bappears?\b", "looks"),
    )
)


def _stated(sentence: str) -> set[str]:
    """First letters of the findings that a sentence states, empty where it denies or doubts."""
    return set() if _DENIAL.search(sentence) else {found[:7].lower() for found in _NOUN.findall(sentence)}


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _paraphrase(text: str, rng: np.random.Generator) -> str | None:
    sentences = split_sentences(text)
    changed = []
    for sentence in sentences:
        for pattern, new in _REWORDED:
            sentence = pattern.sub(lambda m, new=new: m.expand(new), sentence)
        changed.append(_capital(re.sub(r" {2,}", " ", sentence).strip()))
    n_changed = sum(old != new for old, new in zip(sentences, changed, strict=True))
    return " ".join(changed) if n_changed > len(sentences) / 2 else None  # else it would be a copy


def _reorder(text: str, rng: np.random.Generator) -> str | None:
    sentences = split_sentences(text)
    return " ".join(reversed(sentences)) if len(sentences) >= 3 else None


def opposite(sentence: str) -> str | None:
    """The sentence denied if it states a finding, stated if it denies one; None where no rule fits."""
    bare = sentence.rstrip(" .")
    if _NOUN.search(bare):
        denied = _DENIED.match(bare)
        if denied:
            rest = re.sub(r"\bor\b", "and", denied[1])
            return _capital(rest) + "." if re.search(r"\b(?:is|are|can be) \w+", rest) else f"There is {_lower(rest)}."
        if re.search(r"\b(is|are) absent\b", bare, re.I):
            return re.sub(r"\babsent\b", "present", bare, flags=re.I) + "."
        if re.search(r"\bnot (seen|identified|present|visualized)\b", bare, re.I):
            return re.sub(r"\bnot ", "", bare, count=1, flags=re.I) + "."
        if _stated(bare):
            there = re.match(r"there (is|are) (?:an? )?(.+)$", bare, re.I)
            if there:
                return f"There {there[1].lower()} no {there[2]}."
            if not re.match(r"(the|both|this)\b", bare, re.I):
                return f"No {_lower(re.sub(r'^an? ', '', bare, flags=re.I))}."
    for verb, new in ((r"\b(is|are) enlarged\b", r"\1 not enlarged"), (r"\blungs are clear\b", "lungs are not clear")):
        if re.search(verb, bare, re.I):
            return re.sub(verb, new, bare, flags=re.I) + "."
    return None


def turn_round(text: str) -> str:
    """Control: the report with every sentence turned round that `opposite` has a rule for, the others as they are.

    In nearly the same words it says much of the opposite: a metric that rates it like a right report measures style.
    """
    return " ".join(opposite(sentence) or sentence for sentence in split_sentences(text))


def _flip(text: str, rng: np.random.Generator) -> str | None:
    sentences = split_sentences(text)
    flipped = [(i, new) for i, sentence in enumerate(sentences) if (new := opposite(sentence))]
    if not flipped:
        return None
    place, new = flipped[rng.integers(len(flipped))]
    return " ".join([*sentences[:place], new, *sentences[place + 1 :]])


def _swap_severity(text: str, rng: np.random.Generator) -> str | None:
    pattern = re.compile(rf"\b({'|'.join(_SEVERITY)})\b", re.IGNORECASE)

    def other(found: re.Match) -> str:
        new = _SEVERITY[found[0].lower()]
        return _capital(new) if found[0][0].isupper() else new

    sentences = [s if _DENIAL.search(s) else pattern.sub(other, s) for s in split_sentences(text)]
    return _if_changed(sentences, text)


def _swap_sides(text: str, rng: np.random.Generator) -> str | None:
    sides = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}
    sentences = []
    for sentence in split_sentences(text):
        named = {word.lower() for word in re.findall(r"\b(?:left|right)\b", sentence, re.I)}
        # "Left and right" is the same both ways round.
        if len(named) == 1 and _stated(sentence):
            sentence = re.sub(r"\b[Ll]eft\b|\b[Rr]ight\b", lambda found: sides[found[0]], sentence)
        sentences.append(sentence)
    return _if_changed(sentences, text)


def _drop(text: str, rng: np.random.Generator) -> str | None:
    sentences = split_sentences(text)
    stated = [_stated(sentence) for sentence in sentences]
    places = [i for i, names in enumerate(stated) if names]
    if not places:
        return None
    # Said twice, it must go twice.
    gone = stated[places[rng.integers(len(places))]]
    kept = [sentence for sentence, names in zip(sentences, stated, strict=True) if not names & gone]
    return " ".join(kept) if len(kept) >= 2 else None


def _add(text: str, rng: np.random.Generator) -> str | None:
    fitting = [new for stem, new in _INVENTED if not re.search(stem, text, re.I)]
    if not fitting:
        return None
    sentences = split_sentences(text)
    place = int(rng.integers(len(sentences) + 1))
    return " ".join([*sentences[:place], fitting[rng.integers(len(fitting))], *sentences[place:]])


def _if_changed(sentences: list[str], text: str) -> str | None:
    return " ".join(sentences) if sentences != split_sentences(text) else None


def prompt_echo(text: str) -> str:
    """Return, as an answer, the prompt that a classifier without errors would give for the film of this report."""
    found = [(name, probability) for name, (letters, probability) in _PROMPTED.items() if _states(text, letters)]
    return build_prompt(Evidence("film", findings=found))[0]


def _states(text: str, letters: str) -> bool:
    return any(name.startswith(letters) for sentence in split_sentences(text) for name in _stated(sentence))


def unrelated(text: str, pool: list[str], rng: np.random.Generator) -> str | None:
    """Another report of the pool that states other findings; None where a hundred draws find none."""
    own = set().union(*map(_stated, split_sentences(text)))
    for index in rng.integers(len(pool), size=100):
        others = set().union(*map(_stated, split_sentences(pool[index])))
        if others and not own & others:
            return pool[index]
    return None


RULES: dict[str, Callable[[str, np.random.Generator], str | None]] = {
    "paraphrase": _paraphrase,
    "sentence order": _reorder,
    "negation flip": _flip,
    "severity": _swap_severity,
    "side swap": _swap_sides,
    "finding dropped": _drop,
    "finding added": _add,
}
