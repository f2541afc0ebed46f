"""Metrics of classification, boxes and texts, their trivial baselines and bootstrap intervals.

`METRICS` names every one with its definition. Every metric takes keyword arguments `references=` and `predictions=` (or
`probabilities=`), because swapping the two changes precision into recall without an error. The stress panel of the text
metrics is in `stress`.
"""

from .baselines import mean_box_baseline, whole_image_baseline
from .bert import (
    BertScorer,
    BertScores,
    MissingEncoder,
    bert_scores,
    bert_scores_by_system,
    encoder_folder,
    random_pairs,
    shuffled_order,
)
from .bootstrap import mean_interval, percentile_interval, resample_counts
from .calibration import calibration_error, reliability
from .classification import (
    always_one_class,
    auroc,
    average_precision,
    class_prior,
    classification_intervals,
    classification_scores,
    macro_auroc_interval,
    most_common_labels,
    per_class_intervals,
    per_class_scores,
    per_image_f1,
    with_no_finding,
)
from .comparison import holm, paired_classification_difference, paired_difference
from .contract import METRICS, Metric
from .detection import (
    FROC_POINTS,
    best_score_threshold,
    best_score_thresholds,
    box_scores,
    box_scores_per_class,
    coco_map,
    froc,
    map_interval,
    mean_average_precision,
    paired_map_difference,
)
from .overlap import DEFINITIONS, box_overlap, check_iou_dice, with_no_finding_boxes
from .text import (
    MissingExtra,
    chexbert_scores,
    finding_f1,
    finding_scores,
    meteor_exact_stem,
    missing_extras,
    most_common_report,
    pair_scores,
    radgraph_f1,
    reverse_meaning,
    rouge_l,
    text_scores,
)

__all__ = [
    "BertScorer",
    "BertScores",
    "DEFINITIONS",
    "FROC_POINTS",
    "METRICS",
    "Metric",
    "MissingEncoder",
    "MissingExtra",
    "always_one_class",
    "auroc",
    "average_precision",
    "bert_scores",
    "bert_scores_by_system",
    "best_score_threshold",
    "best_score_thresholds",
    "box_overlap",
    "box_scores",
    "box_scores_per_class",
    "calibration_error",
    "check_iou_dice",
    "chexbert_scores",
    "class_prior",
    "classification_intervals",
    "classification_scores",
    "coco_map",
    "encoder_folder",
    "finding_f1",
    "finding_scores",
    "froc",
    "holm",
    "macro_auroc_interval",
    "map_interval",
    "mean_average_precision",
    "mean_box_baseline",
    "mean_interval",
    "meteor_exact_stem",
    "missing_extras",
    "most_common_labels",
    "most_common_report",
    "pair_scores",
    "paired_classification_difference",
    "paired_difference",
    "paired_map_difference",
    "per_class_intervals",
    "per_class_scores",
    "per_image_f1",
    "percentile_interval",
    "radgraph_f1",
    "random_pairs",
    "reliability",
    "resample_counts",
    "reverse_meaning",
    "rouge_l",
    "shuffled_order",
    "text_scores",
    "whole_image_baseline",
    "with_no_finding",
    "with_no_finding_boxes",
]
