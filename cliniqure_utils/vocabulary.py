"""Names of the findings, of the labels of whole films, and of the columns; the sentence that every output carries."""

DISCLAIMER = "For teaching only, not for clinical use."

FINDINGS = (
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Consolidation",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Nodule/Mass",
    "Other lesion",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
)
NO_FINDING = "No finding"
NO_FINDING_ID = len(FINDINGS)
CLASSES = (*FINDINGS, NO_FINDING)  # what the classifier answers
# The heart and the aorta are single: "right" near them never says on which side they are.
MIDLINE = frozenset({"Cardiomegaly", "Aortic enlargement"})
# What changes within hours or days what is done for the patient, the most pressing first: a reader wants to be told of
# these at the top. A label has no size, so every effusion counts as a large one. Source: ours.
URGENT = ("Pneumothorax", "Nodule/Mass", "Pleural effusion", "Consolidation")
BOX = ["x_min", "y_min", "x_max", "y_max"]
ANNOTATION_COLUMNS = ["image_id", "rad_id", "class_id", "class_name", *BOX]

# PhysioNet's release names 22 local findings, Kaggle's 14 of them. No published table says where the other eight went;
# putting them under "Other lesion" is our choice, so that a film with a broken rib does not count as normal.
# Source of the 22 names: Nguyen et al. 2022, table 1.
PHYSIONET_TO_KAGGLE = {
    **{name: name for name in FINDINGS},
    "Clavicle fracture": "Other lesion",
    "Edema": "Other lesion",
    "Emphysema": "Other lesion",
    "Enlarged PA": "Other lesion",
    "Lung cavity": "Other lesion",
    "Lung cyst": "Other lesion",
    "Mediastinal shift": "Other lesion",
    "Rib fracture": "Other lesion",
}
# Six further labels of PhysioNet's image_labels_*.csv are about the whole film and have no box.
GLOBAL_LABELS = ("COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other diseases", NO_FINDING)


def plain(name: str) -> str:
    """A name without the differences that mean nothing: case, and blanks around or doubled within."""
    return " ".join(name.split()).lower()


# The training file says "Other diseases", the test file "Other disease".
LABEL_SPELLINGS = {plain(name): name for name in (*PHYSIONET_TO_KAGGLE, *GLOBAL_LABELS)} | {
    "other disease": "Other diseases"
}
