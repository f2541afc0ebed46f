"""Metrics of classification, boxes and texts, their trivial baselines and bootstrap intervals.

Every metric takes keyword arguments `references=` and `predictions=` (or `probabilities=`), because swapping the two
changes precision into recall without an error. The stress panel of the text metrics is in `evaluation.stress`.
"""

from cliniqure_utils.metrics.baselines import mean_box_baseline, whole_image_baseline
from cliniqure_utils.metrics.bert import (
    BertScorer,
    BertScores,
    MissingEncoder,
    bert_scores_by_system,
    encoder_folder,
    random_pairs,
    shuffled_order,
)
from cliniqure_utils.metrics.bootstrap import mean_interval, percentile_interval, resample_counts
from cliniqure_utils.metrics.calibration import calibration_error, reliability
from cliniqure_utils.metrics.classification import (
    always_one_class,
    auroc,
    average_precision,
    class_prior,
    classification_intervals,
    classification_scores,
    macro_auroc_interval,
    most_common_labels,
    per_class_intervals,
    per_image_f1,
    with_no_finding,
)
from cliniqure_utils.metrics.comparison import holm, paired_difference
from cliniqure_utils.metrics.detectability import box_contrast, found_references, recall_by
from cliniqure_utils.metrics.detection import (
    FROC_POINTS,
    best_score_threshold,
    best_score_thresholds,
    box_scores,
    box_scores_per_class,
    coco_map,
    froc,
    mean_average_precision,
    paired_map_difference,
)
from cliniqure_utils.metrics.errors import FINDING_F1, RATES, error_rates, paired_error_difference, report_errors
from cliniqure_utils.metrics.overlap import DEFINITIONS, box_overlap, check_iou_dice, with_no_finding_boxes
from cliniqure_utils.metrics.text import (
    all_the_same,
    finding_f1,
    finding_scores,
    meteor_exact_stem,
    most_common_report,
    pair_scores,
    reverse_meaning,
    rouge_l,
    text_scores,
)

__all__ = [
    "BertScorer",
    "BertScores",
    "DEFINITIONS",
    "FINDING_F1",
    "FROC_POINTS",
    "MissingEncoder",
    "RATES",
    "all_the_same",
    "always_one_class",
    "auroc",
    "average_precision",
    "bert_scores_by_system",
    "best_score_threshold",
    "best_score_thresholds",
    "box_contrast",
    "box_overlap",
    "box_scores",
    "box_scores_per_class",
    "calibration_error",
    "check_iou_dice",
    "class_prior",
    "classification_intervals",
    "classification_scores",
    "coco_map",
    "encoder_folder",
    "error_rates",
    "finding_f1",
    "finding_scores",
    "found_references",
    "froc",
    "holm",
    "macro_auroc_interval",
    "mean_average_precision",
    "mean_box_baseline",
    "mean_interval",
    "meteor_exact_stem",
    "most_common_labels",
    "most_common_report",
    "pair_scores",
    "paired_difference",
    "paired_error_difference",
    "paired_map_difference",
    "per_class_intervals",
    "per_image_f1",
    "percentile_interval",
    "random_pairs",
    "recall_by",
    "reliability",
    "report_errors",
    "resample_counts",
    "reverse_meaning",
    "rouge_l",
    "shuffled_order",
    "text_scores",
    "whole_image_baseline",
    "with_no_finding",
    "with_no_finding_boxes",
]
