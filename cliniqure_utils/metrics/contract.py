"""The list of metrics: a name, one sentence, and one way of calling each.

`METRICS[name](references=..., predictions=...)` gives one float for every kind of metric, whatever its function is
called and whatever else that returns. Keywords only: a swap of the two sides turns precision into recall without an
error, so positions are refused.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from cliniqure_utils.metrics.bert import bert_scores
from cliniqure_utils.metrics.classification import auroc, classification_scores
from cliniqure_utils.metrics.detection import box_scores, mean_average_precision
from cliniqure_utils.metrics.overlap import DEFINITIONS, box_overlap
from cliniqure_utils.metrics.text import (
    chexbert_scores,
    finding_f1,
    finding_scores,
    meteor_exact_stem,
    radgraph_f1,
    text_scores,
)


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: As in metrics.json and tables.
        definition: One sentence.
        takes: "labels" (0/1 arrays, images x classes), "probabilities" (predictions are scores), "boxes" (DataFrames)
            or "texts" (lists).
        symmetric: Does swapping the two sides leave the value?
        higher_is_better: False for a loss.
        function: Called by `__call__` with references, predictions and further keywords of that kind of metric.
    """

    name: str
    definition: str
    takes: str
    symmetric: bool
    function: Callable
    higher_is_better: bool = True

    def __call__(self, *, references, predictions, **more) -> float:
        """The value; `more` is passed on, such as image_ids of boxes or scorer of BERTScore."""
        return float(self.function(references=references, predictions=predictions, **more))


def _entry(function: Callable, key: str) -> Callable:
    return lambda **arguments: function(**arguments)[key]


def _mean(function: Callable) -> Callable:
    return lambda **arguments: np.mean(function(**arguments))


def _macro_auroc(*, references, predictions) -> float:
    values = auroc(references=references, probabilities=predictions)
    return np.nanmean(values) if (~np.isnan(values)).any() else np.nan


def _mean_average_precision(**arguments) -> float:
    return mean_average_precision(**arguments)[0]


def _overlap(definition: str, part: str) -> Callable:
    return lambda **arguments: box_overlap(definition=definition, **arguments)[part]


def _bert(part: str) -> Callable:
    return lambda **arguments: bert_scores(**arguments).raw[part]


def _rescaled_bert(**arguments) -> float:
    scores = bert_scores(**arguments)
    return scores.rescaled["f1"] if scores.rescaled else np.nan


_AVERAGES = {
    "micro": "over all image-class decisions together",
    "macro": "per class, then the plain mean over classes",
    "weighted": "per class, then the mean weighted by the number of positive references",
    "samples": "per image, then the mean over images",
}
_PARTS = {
    "precision": "Share of the stated classes that are there",
    "recall": "Share of the classes that are there that were stated",
    "f1": "Harmonic mean of precision and recall",
}


def _build() -> dict[str, Metric]:
    metrics = []
    for average, how in _AVERAGES.items():
        for part, what in _PARTS.items():
            name = f"{average}_{part}"
            # Weights come from the references, so the weighted F1 is not symmetric although each class's F1 is.
            symmetric = part == "f1" and average != "weighted"
            metrics.append(Metric(name, f"{what}, {how}.", "labels", symmetric, _entry(classification_scores, name)))
    metrics += [
        Metric("hamming_loss", "Share of image-class decisions that are wrong.", "labels", True,
               _entry(classification_scores, "hamming_loss"), higher_is_better=False),
        Metric("macro_auroc", "Chance that an image with a class scores above one without, mean over classes that have "
               "both.", "probabilities", False, _macro_auroc),
        Metric("map_40", "Mean over classes of the area under the precision-recall curve of boxes, a hit from IoU 0.4 "
               "on.", "boxes", False, _mean_average_precision),
    ]  # fmt: skip
    hits = {
        "precision": "Share of predicted boxes that hit a free reference box of their class",
        "recall": "Share of reference boxes that a predicted box of their class hits",
        "f1": "Harmonic mean of box precision and recall",
    }
    for part, what in hits.items():
        definition = f"{what}, a hit from IoU 0.4 on."
        metrics.append(Metric(f"box_{part}", definition, "boxes", part == "f1", _entry(box_scores, part)))
    for definition, how in DEFINITIONS.items():
        for part in ("iou", "dice"):
            title = {"iou": "Intersection over union", "dice": "Dice overlap"}[part]
            symmetric = definition in ("pooled", "pooled_total")
            metrics.append(Metric(f"{part}_{definition}", f"{title} of boxes: {how}.", "boxes", symmetric,
                                  _overlap(definition, part)))  # fmt: skip
    for order in range(1, 5):
        metrics.append(Metric(
            f"bleu_{order}", f"Geometric mean of the shares of word sequences of length 1 to {order} that the "
            "reference has too, over the corpus, with a penalty for short predictions.", "texts", False,
            _entry(text_scores, f"bleu_{order}"),
        ))  # fmt: skip
    metrics += [
        Metric("rouge_l", "F1 of the longest common subsequence of words, mean over pairs.", "texts", True,
               _entry(text_scores, "rouge_l")),
        Metric("meteor_exact_stem", "Aligned words (equal, or of equal stem, no synonyms), recall weighing nine times "
               "precision, less a penalty for broken order, mean over pairs.", "texts", False,
               _mean(meteor_exact_stem)),
        Metric("bertscore_precision", "Mean over predicted words of the largest cosine with a reference word.", "texts",
               False, _bert("precision")),
        Metric("bertscore_recall", "Mean over reference words of the largest cosine with a predicted word.", "texts",
               False, _bert("recall")),
        Metric("bertscore_f1", "Harmonic mean of BERTScore precision and recall, raw.", "texts", True, _bert("f1")),
        Metric("bertscore_rescaled_f1", "BERTScore F1 moved so that a random pair of references is 0 and identity 1.",
               "texts", False, _rescaled_bert),
        Metric("finding_f1", "F1 of the findings that two texts state, as the rule labeller reads them, mean over "
               "pairs.", "texts", True, _mean(finding_f1)),
        Metric("finding_side_f1", "The same with a finding counting only on the right side.", "texts", True,
               lambda **arguments: np.mean(finding_f1(with_side=True, **arguments))),
        Metric("radgraph_f1", "Agreement of entities and relations that a trained model finds in both texts, mean over "
               "pairs (optional extra).", "texts", True, _mean(radgraph_f1)),
        Metric("chexbert_micro_f1", "Micro F1 of the 14 CheXpert labels that a trained model reads from both texts "
               "(optional extra).", "texts", True, _entry(chexbert_scores, "micro_f1")),
    ]  # fmt: skip
    for part, what in _PARTS.items():
        definition = f"{what}, classes being the findings that texts state, over all texts together."
        name = f"finding_micro_{part}"
        metrics.append(Metric(name, definition, "labels", part == "f1", _entry(finding_scores, f"micro_{part}")))
    return {metric.name: metric for metric in metrics}


METRICS = MappingProxyType(_build())
