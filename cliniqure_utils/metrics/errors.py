"""Errors of written reports against reference reports: omission, contradiction, hallucination, wrong side.

Counted per finding as the rule labeller reads both texts, so that a rate is a ratio of two sums over reports and two
systems can be compared on the same resampled reports. Source: ours; the kinds of error follow Yu et al. 2023 (Patterns
4:100802): a false finding, a missing finding, a wrong place.

Two of the numbers ask what an error would change. Errors per report that a doctor would act on: a finding missed
(left out or denied), invented, or put on the wrong side, once per finding however often it is said, and only findings
other than `NOT_ACTED_ON`. The idea of counting what is acted on is RadMatch's (arXiv 2609.01470), the count is ours:
it knows no severity, and "consolidation" for "infiltration" counts as one missed and one invented. Recall on the urgent
subset: of the findings of `vocabulary.URGENT` in the references, the share that is stated, on whatever side.
"""

from collections.abc import Sequence
from types import MappingProxyType

import numpy as np
import pandas as pd

from cliniqure_utils import labeller
from cliniqure_utils.metrics.bootstrap import percentile_interval, resample_counts
from cliniqure_utils.metrics.comparison import p_value, random_signs
from cliniqure_utils.metrics.text import text_pairs
from cliniqure_utils.ratios import ratio
from cliniqure_utils.vocabulary import FINDINGS, URGENT

# Rate -> (counted, out of); both are columns of `report_errors`. Micro F1 is 2 right / (there + said).
RATES = MappingProxyType(
    {
        "omission": ("omitted", "there"),
        "contradiction": ("contradicted", "there"),
        "hallucination": ("hallucinated", "said"),
        "wrong_side": ("wrong_side", "sided"),
        "errors_per_report": ("acted_on", "reports"),
        "urgent_recall": ("urgent_right", "urgent"),
    }
)
FINDING_F1 = "finding_f1"
CRG = "crg"
# As a rule old scars: reported, but nothing is done about them. Source: ours.
NOT_ACTED_ON = frozenset({"Calcification", "Pleural thickening"})
_COLUMNS = [
    "there", "said", "right", "omitted", "contradicted", "hallucinated", "sided", "wrong_side", "acted_on", "urgent",
    "urgent_right", "words", "reports",
]  # fmt: skip
_BOTH = frozenset({"left", "right"})


def report_errors(*, references: Sequence[str], predictions: Sequence[str]) -> pd.DataFrame:
    """Count the findings of each pair of texts. A finding that is left open ("may be") counts as stated.

    Returns:
        One row per pair, all counts of findings: there (stated by the reference), said (stated by the prediction),
        right (by both), omitted (there, the prediction is silent), contradicted (there, the prediction denies it, or
        calls the whole film normal), hallucinated (said, not there), sided (right, and the sides can be compared),
        wrong_side (of those: the prediction names a side that the reference does not name or denies, or denies one that
        it names), acted_on (errors that a doctor would act on, see above), urgent (there, and of `vocabulary.URGENT`),
        urgent_right (of those: right); and words (of the prediction), reports (1). there = right + omitted +
        contradicted.
        A denial of one side is no denial of the other: "no right effusion" is silent on a left one.

    Raises:
        ValueError: The two lists differ in length, or an entry is not text.
    """
    references, predictions = text_pairs(references, predictions)
    read = {text: _read(text) for text in {*references, *predictions}}
    rows = []
    for reference, prediction in zip(references, predictions, strict=True):
        (there, not_there), (said, denied) = read[reference], read[prediction]
        right = there.keys() & said.keys()
        lost = there.keys() - said.keys()
        contradicted = {n for n in lost if n in denied and (denied[n] == _BOTH or denied[n] & there[n])}
        wrong, sided = set(), set()
        for name in right:
            named, extra = there[name] & said[name], said[name] - there[name] if there[name] else set()
            clash = extra | (said[name] & _part(not_there, name)) | (there[name] & _part(denied, name))
            if clash or named:
                sided.add(name)
            if clash:
                wrong.add(name)
        acted_on = (lost | (said.keys() - there.keys()) | wrong) - NOT_ACTED_ON
        rows.append(
            {
                "there": len(there),
                "said": len(said),
                "right": len(right),
                "omitted": len(lost - contradicted),
                "contradicted": len(contradicted),
                "hallucinated": len(said.keys() - there.keys()),
                "sided": len(sided),
                "wrong_side": len(wrong),
                "acted_on": len(acted_on),
                "urgent": len(there.keys() & set(URGENT)),
                "urgent_right": len(right & set(URGENT)),
                "words": len(prediction.split()),
                "reports": 1,
            }
        )
    return pd.DataFrame(rows, columns=_COLUMNS)


def error_rates(counts: pd.DataFrame) -> dict[str, float]:
    """What `report_errors` counted, as rates over all reports.

    Returns:
        finding_f1 (micro) and crg (`crg_score`), 1 is best; the rates of `RATES`: omission, contradiction,
        hallucination, wrong_side in [0, 1], 0 is best; errors_per_report (0 is best, up to 14); urgent_recall in
        [0, 1], 1 is best; words (mean). NaN where there is nothing to count.
    """
    rates = {name: float(_rate(name, counts.sum())) for name in (FINDING_F1, CRG, *RATES)}
    return rates | {"words": float(counts.words.mean()) if len(counts) else float("nan")}


def crg_score(true_positives, false_negatives, false_positives, n_labels) -> np.ndarray:
    """CRG, a score of stated findings that no trivial answer can win by the rarity of findings.

    With T labels in all, A = TP + FN of them positive, and w = (T - A) / (2 A), the value of a finding:
    s = w TP - w FN - FP, s_max = w A, CRG = s_max / (2 s_max - s).

    Args:
        true_positives, false_negatives, false_positives: Numbers or arrays, summed over all reports and findings.
        n_labels: T, reports times findings.

    Returns:
        float array of their common shape, in [1/5, 1]. 1: all right. 1/3: always normal, and also every finding in
        every report. 1/5: all wrong. NaN where no label, or every label, is positive.

    Source: Hamamci et al. 2025, "CRG Score", arXiv 2505.17167, equations 1 to 3. Theirs are labels of a CT volume (18);
    ours are the 14 findings as the rule labeller reads them.
    """
    positive = np.add(true_positives, false_negatives)
    weight = ratio(n_labels - positive, 2 * positive)
    best = weight * positive
    score = weight * np.subtract(true_positives, false_negatives) - false_positives
    return ratio(best, 2 * best - score)


def paired_error_difference(
    counts_a: pd.DataFrame, counts_b: pd.DataFrame, rate: str = FINDING_F1, n_resamples: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Difference of two systems in one rate on the same reports, resampled together.

    Args:
        counts_a, counts_b: From `report_errors`, same references in the same order.
        rate: "finding_f1", "crg" or a key of `RATES`.
        n_resamples: Resamples of the bootstrap and swaps of the test.
        seed: Seed of both.

    Returns:
        a, b, difference (a - b), low, high (95% percentile interval), p (as in `paired_difference`, the two systems'
        counts swapped at random report by report; NaN without a difference), n.

    Raises:
        ValueError: The tables differ in length or in what is there, are empty, or the rate is unknown.
    """
    if rate not in (FINDING_F1, CRG, *RATES):
        raise ValueError(f"unknown rate {rate!r}; expected one of {', '.join((FINDING_F1, CRG, *RATES))}")
    if len(counts_a) == 0 or list(counts_a.there) != list(counts_b.there):
        raise ValueError("the two systems were not scored on the same references")
    a, b = (counts.to_numpy(dtype=float) for counts in (counts_a, counts_b))
    weights, keep = resample_counts(len(a), n_resamples, seed), random_signs(n_resamples, len(a), seed) > 0
    values = [_rate(rate, _sums(counts.sum(0))) for counts in (a, b)]
    resampled = [_rate(rate, _sums(weights @ counts)) for counts in (a, b)]
    swapped = [_rate(rate, _sums(keep @ one + ~keep @ other)) for one, other in ((a, b), (b, a))]
    low, high = percentile_interval(resampled[0] - resampled[1])
    difference = float(values[0] - values[1])
    p = p_value(difference, swapped[0] - swapped[1])
    return {"a": float(values[0]), "b": float(values[1]), "difference": difference, "low": low, "high": high, "p": p,
            "n": len(a)}  # fmt: skip


def _sums(counts: np.ndarray) -> dict[str, np.ndarray]:
    """(..., columns) -> column: sums."""
    return dict(zip(_COLUMNS, np.moveaxis(counts, -1, 0), strict=True))


def _rate(rate: str, sums) -> np.ndarray:
    if rate == FINDING_F1:
        return ratio(2 * sums["right"], sums["there"] + sums["said"])
    if rate == CRG:
        missed = sums["there"] - sums["right"]
        return crg_score(sums["right"], missed, sums["hallucinated"], len(FINDINGS) * sums["reports"])
    counted, out_of = RATES[rate]
    return ratio(sums[counted], sums[out_of])


def _part(denied: dict[str, set[str]], name: str) -> set[str]:
    """The one side that is denied of a finding; a denial of the whole says nothing about sides."""
    return set() if denied.get(name, _BOTH) == _BOTH else denied[name]


def _read(text: str) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """(findings stated -> their sides, findings denied -> the sides denied, both for a denial without a side)."""
    stated: dict[str, set[str]] = {}
    denied: dict[str, set[str]] = {}
    for mention in labeller.find_mentions(text):
        absent = mention.status == labeller.ABSENT
        if absent and mention.zones:  # "the bases are clear" is silent on the rest
            continue
        sides = {"both": _BOTH, None: _BOTH if absent else set()}.get(mention.side, {mention.side})
        (denied if absent else stated).setdefault(mention.finding, set()).update(sides)
    for names in labeller.denies_the_unnamed(text).values():
        denied |= {name: set(_BOTH) for name in names}
    return stated, denied
