"""Metrics of classification, boxes and texts, their trivial baselines and bootstrap intervals.

Every metric takes keyword arguments `references=` and `predictions=` (or `probabilities=`), because swapping the two
changes precision into recall without an error.
"""

from .bootstrap import mean_interval, percentile_interval, resample_counts
from .classification import (
    always_one_class,
    auroc,
    class_prior,
    classification_intervals,
    classification_scores,
    macro_auroc_interval,
    most_common_labels,
    per_class_scores,
    per_image_f1,
    with_no_finding,
)
from .detection import (
    DEFINITIONS,
    best_score_threshold,
    box_overlap,
    box_scores,
    check_iou_dice,
    map_interval,
    mean_average_precision,
    mean_box_baseline,
    paired_map_difference,
    whole_image_baseline,
)
from .text import (
    BertScorer,
    BertScores,
    MissingEncoder,
    bert_scores,
    bert_scores_by_system,
    encoder_folder,
    finding_scores,
    most_common_report,
    random_pairs,
    reverse_meaning,
    shuffled_order,
    text_scores,
)

__all__ = [
    "DEFINITIONS",
    "BertScorer",
    "BertScores",
    "MissingEncoder",
    "always_one_class",
    "auroc",
    "bert_scores",
    "bert_scores_by_system",
    "best_score_threshold",
    "box_overlap",
    "box_scores",
    "check_iou_dice",
    "class_prior",
    "classification_intervals",
    "classification_scores",
    "encoder_folder",
    "finding_scores",
    "macro_auroc_interval",
    "map_interval",
    "mean_average_precision",
    "mean_box_baseline",
    "mean_interval",
    "most_common_labels",
    "most_common_report",
    "paired_map_difference",
    "per_class_scores",
    "per_image_f1",
    "percentile_interval",
    "random_pairs",
    "resample_counts",
    "reverse_meaning",
    "shuffled_order",
    "text_scores",
    "whole_image_baseline",
    "with_no_finding",
]
