"""Stress panel: does a text metric put harmless changes of a report above harmful ones?

A metric is only worth its name if a report that says the same in other words scores above one that denies what is
there. So each of some reports is changed by rule, in ways whose effect on the meaning is known (`KINDS`), every metric
scores all pairs, and what counts is the order within one report, not the value. A metric that does not notice a
reversed statement measures how a report sounds.

The rules are plain word patterns of this module. They do not use the labeller, so that finding F1, which is built on
it, gets no pairs that were made to suit it; they are crude all the same, and now and then write a clumsy sentence.
Real reports are read from the installed torchxrayvision at run time (CC BY-NC-ND): print scores, never the pairs.
"""

import functools
import re
from collections.abc import Callable, Sequence
from types import MappingProxyType

import numpy as np
import pandas as pd

from cliniqure_utils.labeller import split_sentences
from cliniqure_utils.metrics import BertScorer, pair_scores, percentile_interval, random_pairs, resample_counts
from cliniqure_utils.reports import Evidence, build_prompt
from cliniqure_utils.writer import indiana

# Kind of change -> (is it harmless, what was done).
KINDS = MappingProxyType(
    {
        "paraphrase": (True, "the same statements in other words"),
        "sentence order": (True, "the same sentences, from last to first"),
        "negation flip": (False, "one statement turned into its opposite"),
        "severity": (False, "small for large, mild for severe, and back"),
        "side swap": (False, "left for right and back, where a finding is stated"),
        "finding dropped": (False, "one stated finding left out"),
        "finding added": (False, "a finding invented that the report does not mention"),
        "prompt echo": (False, "no report at all: the prompt that lists the right findings"),
        "unrelated": (False, "the report of another film, with other findings"),
    }
)
HARMLESS = tuple(kind for kind, (harmless, _) in KINDS.items() if harmless)
HARMFUL = tuple(kind for kind, (harmless, _) in KINDS.items() if not harmless)
METRICS = MappingProxyType(
    {
        "bertscore_raw": "BERTScore F1, raw",
        "bertscore_rescaled": "BERTScore F1, rescaled",
        "bleu_4": "BLEU-4",
        "rouge_l": "ROUGE-L",
        "meteor_exact_stem": "METEOR, exact and stem",
        "finding_f1": "finding F1",
        "finding_side_f1": "finding F1 with side",
    }
)
TOLD = 0.8  # share of comparisons in the right order from which on a metric is said to notice a kind of change
FLUENCY_ONLY = "fluency only"


@functools.cache
def indiana_findings() -> tuple[str, ...]:
    """FINDINGS sections of the Indiana University reports in the installed torchxrayvision, each text once.

    Sections with the de-identification mark XXXX are left out, because a hole in a sentence is nothing to paraphrase.

    Raises:
        indiana.MissingReports: The package or its file is missing.
    """
    found = {}
    for report in indiana.read_reports():
        if report.findings and indiana.HOLE not in report.findings and "&" not in report.findings:
            found.setdefault(report.findings, report.report_id)
    return tuple(sorted(found, key=found.get))


def make_pairs(*, real: Sequence[str], simulated: Sequence[str], n_reports: int = 16, seed: int = 0) -> pd.DataFrame:
    """Change reports by rule.

    Args:
        real, simulated: Reports (or their findings sections) to draw references from, a pool for each source.
        n_reports: Reports drawn from each. Drawn at random from those that can be paraphrased, reordered, and harmed in
            at least four of the five small ways: mostly reports with a finding on one side, where a mistake matters.
        seed: Seed of the draw and of the changes.

    Returns:
        One row per pair: report (number of the reference), source (real or simulated), kind (a key of `KINDS`),
        harmless, reference, prediction. Kinds that do not apply to a report are missing for it.
    """
    rows, number = [], 0
    for place, (source, pool) in enumerate((("real", real), ("simulated", simulated))):
        rng = np.random.default_rng([seed, place])
        pool = sorted({text.strip() for text in pool if text.strip()})
        taken = 0
        for index in rng.permutation(len(pool)):
            if taken == n_reports:
                break
            text = pool[index]
            changed = {kind: rule(text, rng) for kind, rule in RULES.items()}
            changed = {kind: new for kind, new in changed.items() if new and new != text}
            if not set(HARMLESS) <= set(changed) or len(changed) < len(HARMLESS) + 4:
                continue
            changed["prompt echo"] = _echo(text)
            changed["unrelated"] = _unrelated(text, pool, rng)
            for kind in KINDS:
                if changed.get(kind):
                    row = {"report": number, "source": source, "kind": kind, "harmless": KINDS[kind][0]}
                    rows.append(row | {"reference": text, "prediction": changed[kind]})
            taken, number = taken + 1, number + 1
    columns = ["report", "source", "kind", "harmless", "reference", "prediction"]
    return pd.DataFrame(rows, columns=columns)


def score_pairs(
    pairs: pd.DataFrame, scorer: BertScorer | None = None, n_random_pairs: int = 300, seed: int = 0
) -> pd.DataFrame:
    """Every metric of every pair.

    Args:
        pairs: From `make_pairs`.
        scorer: BERTScore encoder; None loads the default one.
        n_random_pairs: Random pairs of the references of one source, whose mean is the zero of that source's
            rescaled BERTScore.
        seed: Seed of those pairs.

    Returns:
        report, source, kind, harmless and one column per key of `METRICS`. No text.
    """
    references, predictions = pairs.reference.tolist(), pairs.prediction.tolist()
    scores = pairs[["report", "source", "kind", "harmless"]].reset_index(drop=True)
    pool = {source: rows.reference.drop_duplicates().tolist() for source, rows in pairs.groupby("source")}
    drawn = {source: random_pairs(texts, n_random_pairs // len(pool), seed) for source, texts in pool.items()}
    # One call: bert-score encodes each different text once per call.
    first = [pool[source][i] for source, (a, _) in drawn.items() for i in a]
    second = [pool[source][j] for source, (_, b) in drawn.items() for j in b]
    table = (scorer or BertScorer()).score_pairs(references=references + first, predictions=predictions + second)
    f1 = table.f1.to_numpy()
    scores["bertscore_raw"], rest = f1[: len(pairs)], f1[len(pairs) :]
    zero, start = {}, 0
    for source, (a, _) in drawn.items():
        zero[source] = rest[start : start + len(a)].mean() if len(a) else 0.0
        start += len(a)
    floor = scores.source.map(zero).to_numpy(dtype=float)
    scores["bertscore_rescaled"] = (scores.bertscore_raw - floor) / (1 - floor)
    others = pair_scores(references=references, predictions=predictions)
    return pd.concat([scores, others[[name for name in METRICS if name in others]]], axis=1)


def order_table(scores: pd.DataFrame, n_resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """How often each metric puts a harmless change of a report above a harmful change of the same report.

    Args:
        scores: From `score_pairs`, or any table with report, kind, harmless and metric columns.
        n_resamples: Bootstrap resamples of reports.
        seed: Seed of the resampling.

    Returns:
        One row per metric and harmful kind: metric, kind, share (of comparisons in the right order, equal values count
        half: 1 always right, 0.5 blind, 0 the wrong way round), low, high (95% interval by report), told (share at
        least `TOLD`), n (comparisons), harmless_mean, harmful_mean.
    """
    names = [name for name in scores.columns if name not in ("report", "source", "kind", "harmless")]
    rows = []
    for kind in HARMFUL:
        harmful = scores[scores.kind == kind]
        both = harmful.merge(scores[scores.harmless], on="report", suffixes=("_harmful", "_harmless"))
        if both.empty:
            continue
        report, n_reports = pd.factorize(both.report)[0], both.report.nunique()
        weights = resample_counts(n_reports, n_resamples, seed)
        n_pairs = np.bincount(report, minlength=n_reports)
        for name in names:
            gap = (both[f"{name}_harmless"] - both[f"{name}_harmful"]).to_numpy()
            right = np.where(np.abs(gap) < 1e-6, 0.5, gap > 0)
            right_per_report = np.bincount(report, right, minlength=n_reports)
            low, high = percentile_interval(weights @ right_per_report / (weights @ n_pairs))
            share = float(right.mean())
            rows.append(
                {
                    "metric": name, "kind": kind, "share": share, "low": low, "high": high, "told": share >= TOLD,
                    "n": len(both), "harmless_mean": float(both[f"{name}_harmless"].mean()),
                    "harmful_mean": float(harmful[name].mean()),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def verdicts(order: pd.DataFrame) -> pd.DataFrame:
    """One line per metric: metric, verdict, notices, misses (kinds, comma-separated).

    `FLUENCY_ONLY` when it does not notice a negation; "orders all kinds right"; else "content, but not all of it".
    """
    rows = []
    for name, part in order.groupby("metric", sort=False):
        told = part.set_index("kind").told
        if not told.get("negation flip", False):
            verdict = FLUENCY_ONLY
        else:
            verdict = "orders all kinds right" if told.all() else "content, but not all of it"
        notices, misses = (", ".join(told.index[told == value]) for value in (True, False))
        rows.append({"metric": name, "verdict": verdict, "notices": notices, "misses": misses})
    return pd.DataFrame(rows)


# --- The rules. Each takes a report and a generator and returns the changed report, None where it does not apply.

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
# What is said in other words: our own, checked for keeping the meaning. Applied in turn to every sentence.
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


def _echo(text: str) -> str:
    """The prompt of a film whose classifier is never wrong, given back as an answer."""
    found = [(name, probability) for name, (letters, probability) in _PROMPTED.items() if _states(text, letters)]
    return build_prompt(Evidence("film", findings=found))[0]


def _states(text: str, letters: str) -> bool:
    return any(name.startswith(letters) for sentence in split_sentences(text) for name in _stated(sentence))


def _unrelated(text: str, pool: list[str], rng: np.random.Generator) -> str | None:
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
