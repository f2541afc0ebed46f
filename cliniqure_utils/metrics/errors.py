"""Errors of written reports against reference reports: omission, contradiction, hallucination, wrong side.

Counted per finding as the rule labeller reads both texts, so that a rate is a ratio of two sums over reports and two
systems can be compared on the same resampled reports. Source: ours; the kinds of error follow Yu et al. 2023 (Patterns
4:100802): a false finding, a missing finding, a wrong place.
"""

from collections.abc import Sequence
from types import MappingProxyType

import numpy as np
import pandas as pd

from cliniqure_utils import labeller
from cliniqure_utils.metrics.bootstrap import percentile_interval, resample_counts
from cliniqure_utils.metrics.text import text_pairs
from cliniqure_utils.ratios import ratio

# Rate -> (counted, out of); both are columns of `report_errors`. Micro F1 is 2 right / (there + said).
RATES = MappingProxyType(
    {
        "omission": ("omitted", "there"),
        "contradiction": ("contradicted", "there"),
        "hallucination": ("hallucinated", "said"),
        "wrong_side": ("wrong_side", "sided"),
    }
)
FINDING_F1 = "finding_f1"
_BOTH = frozenset({"left", "right"})


def report_errors(*, references: Sequence[str], predictions: Sequence[str]) -> pd.DataFrame:
    """Count the findings of each pair of texts. A finding that is left open ("may be") counts as stated.

    Returns:
        One row per pair, all counts of findings: there (stated by the reference), said (stated by the prediction),
        right (by both), omitted (there, the prediction is silent), contradicted (there, the prediction denies it, or
        calls the whole film normal), hallucinated (said, not there), sided (right, and the sides can be compared),
        wrong_side (of those: the prediction names a side that the reference does not name or denies, or denies one that
        it names); and words (of the prediction). there = right + omitted + contradicted.
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
                "words": len(prediction.split()),
            }
        )
    return pd.DataFrame(rows, columns=["there", "said", "right", "omitted", "contradicted", "hallucinated", "sided",
                                       "wrong_side", "words"])  # fmt: skip


def error_rates(counts: pd.DataFrame) -> dict[str, float]:
    """Micro finding F1 and the four rates of `RATES`, in [0, 1], NaN where there is nothing to count; mean words."""
    rates = {name: float(_rate(name, counts.sum())) for name in (FINDING_F1, *RATES)}
    return rates | {"words": float(counts.words.mean()) if len(counts) else float("nan")}


def paired_error_difference(
    counts_a: pd.DataFrame, counts_b: pd.DataFrame, rate: str = FINDING_F1, n_resamples: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Difference of two systems in one rate on the same reports, resampled together.

    Args:
        counts_a, counts_b: From `report_errors`, same references in the same order.
        rate: "finding_f1" or a key of `RATES`.

    Returns:
        a, b, difference (a - b), low, high (95% percentile interval), n.

    Raises:
        ValueError: The tables differ in length or in what is there, are empty, or the rate is unknown.
    """
    if rate != FINDING_F1 and rate not in RATES:
        raise ValueError(f"unknown rate {rate!r}; expected one of {', '.join((FINDING_F1, *RATES))}")
    if len(counts_a) == 0 or list(counts_a.there) != list(counts_b.there):
        raise ValueError("the two systems were not scored on the same references")
    weights = resample_counts(len(counts_a), n_resamples, seed)
    values = [_rate(rate, counts.sum()) for counts in (counts_a, counts_b)]
    resampled = [
        _rate(rate, {name: weights @ counts[name].to_numpy(dtype=float) for name in counts.columns})
        for counts in (counts_a, counts_b)
    ]
    low, high = percentile_interval(resampled[0] - resampled[1])
    a, b = map(float, values)
    return {"a": a, "b": b, "difference": a - b, "low": low, "high": high, "n": len(counts_a)}


def _rate(rate: str, sums) -> np.ndarray:
    if rate == FINDING_F1:
        return ratio(2 * sums["right"], sums["there"] + sums["said"])
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
        sides = {"both": _BOTH, None: _BOTH if absent else set()}.get(mention.side, {mention.side})
        (denied if absent else stated).setdefault(mention.finding, set()).update(sides)
    for names in labeller.denies_the_unnamed(text).values():
        denied |= {name: set(_BOTH) for name in names}
    return stated, denied
