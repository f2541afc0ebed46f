"""VinDr-CXR: label vocabulary, reading and checking annotations, label tables, splits.

Boxes are in DICOM pixels, origin at the upper left corner, x to the right, y down; x_max and y_max are outer edges.
Source of the labels: Nguyen et al. 2022, Scientific Data 9:429, and Kaggle's "VinBigData Chest X-ray Abnormalities
Detection". The agreement forbids re-sharing rows of the data set: the packaged copy is read where it is installed.
"""

from cliniqure_utils.vindr.annotations import packaged_path, read_annotations, read_merged
from cliniqure_utils.vindr.labels import LABEL_RULES, global_labels_per_film, label_matrix, read_global_labels
from cliniqure_utils.vindr.splits import make_splits
from cliniqure_utils.vindr.tables import BadAnnotations
from cliniqure_utils.vindr.vocabulary import (
    BOX,
    COLUMNS,
    FINDINGS,
    GLOBAL_LABELS,
    NO_FINDING,
    NO_FINDING_ID,
    PHYSIONET_TO_KAGGLE,
)

__all__ = [
    "BOX",
    "COLUMNS",
    "FINDINGS",
    "GLOBAL_LABELS",
    "LABEL_RULES",
    "NO_FINDING",
    "NO_FINDING_ID",
    "PHYSIONET_TO_KAGGLE",
    "BadAnnotations",
    "global_labels_per_film",
    "label_matrix",
    "make_splits",
    "packaged_path",
    "read_annotations",
    "read_global_labels",
    "read_merged",
]
