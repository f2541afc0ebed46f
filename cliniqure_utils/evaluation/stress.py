"""Stress panel: does a text metric put harmless changes of a report above harmful ones?

A useful metric scores a report that says the same in other words above one that denies what is there. So a number of
reports are changed by rule, in ways whose effect on the meaning is known (`KINDS`), every metric scores all pairs, and
what counts is the order within one report, not the value. A metric that does not notice a reversed statement measures
how a report sounds.

How reports are changed is in `report_changes`. Real reports are read from the installed torchxrayvision at run time
(CC BY-NC-ND): print scores, never the pairs.
"""

import functools
from collections.abc import Sequence
from types import MappingProxyType

import numpy as np
import pandas as pd

from cliniqure_utils.evaluation.report_changes import RULES, prompt_echo, unrelated
from cliniqure_utils.metrics import BertScorer, pair_scores, percentile_interval, random_pairs, resample_counts
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
TOLD = 0.8  # a metric notices a kind of change where at least this share of comparisons is in the right order
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
            changed["prompt echo"] = prompt_echo(text)
            changed["unrelated"] = unrelated(text, pool, rng)
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
