"""Stage 01: reading and checking annotations, labels of films, merging readers' boxes, their agreement, splits.

Boxes are in DICOM pixels, origin at the upper left corner, x to the right, y down; x_max and y_max are outer edges.
Source of the labels: Nguyen et al. 2022, Scientific Data 9:429, and Kaggle's "VinBigData Chest X-ray Abnormalities
Detection". The agreement forbids re-sharing rows of the data set: the packaged copy is read where it is installed.
"""

from cliniqure_utils.annotations.agreement import READERS, leave_one_out, match_boxes, reader_ceiling
from cliniqure_utils.annotations.boxes import (
    boxes_per_class,
    film_sizes,
    films_left_out,
    iou_matrix,
    rescale_boxes,
)
from cliniqure_utils.annotations.labels import (
    LABEL_RULES,
    global_labels_per_film,
    label_matrix,
    read_global_labels,
    reader_labels,
)
from cliniqure_utils.annotations.merging import fuse_reader_boxes, merge_reader_boxes
from cliniqure_utils.annotations.reading import packaged_path, read_annotations, read_merged, vindr_annotations
from cliniqure_utils.annotations.reports import read_reports
from cliniqure_utils.annotations.splits import make_splits
from cliniqure_utils.annotations.tables import BadAnnotations

__all__ = [
    "BadAnnotations",
    "LABEL_RULES",
    "READERS",
    "boxes_per_class",
    "fuse_reader_boxes",
    "global_labels_per_film",
    "film_sizes",
    "films_left_out",
    "iou_matrix",
    "label_matrix",
    "leave_one_out",
    "make_splits",
    "match_boxes",
    "merge_reader_boxes",
    "packaged_path",
    "read_annotations",
    "read_global_labels",
    "read_merged",
    "read_reports",
    "reader_ceiling",
    "reader_labels",
    "rescale_boxes",
    "vindr_annotations",
]
