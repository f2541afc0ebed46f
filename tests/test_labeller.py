"""The rule labeller on hand-written sentences: what is named, stated or denied, and on which side."""

import pytest

from cliniqure_utils.labeller import find_mentions, label_matrix
from cliniqure_utils.vindr import FINDINGS

PRESENT = [
    ("The heart is enlarged.", "Cardiomegaly", None),
    ("The cardiac silhouette is mildly enlarged.", "Cardiomegaly", None),
    ("Stable cardiomegaly.", "Cardiomegaly", None),
    ("The thoracic aorta is dilated and tortuous.", "Aortic enlargement", None),
    ("Dilated thoracic aorta.", "Aortic enlargement", None),
    ("There is a small left pleural effusion.", "Pleural effusion", "left"),
    ("The right costophrenic angle is blunted.", "Pleural effusion", "right"),
    ("Bilateral pleural effusions.", "Pleural effusion", "both"),
    ("Large right pneumothorax.", "Pneumothorax", "right"),
    ("Air in the left pleural space, a large pneumothorax.", "Pneumothorax", "left"),
    ("Left lower lobe atelectasis.", "Atelectasis", "left"),
    ("There is consolidation in the right mid zone.", "Consolidation", "right"),
    ("Patchy infiltrates in both lower zones.", "Infiltration", "both"),
    ("A hazy opacity in the left upper zone.", "Lung Opacity", "left"),
    ("A 2 cm nodule in the right upper lobe.", "Nodule/Mass", "right"),
    ("There is a large mass in the left lung.", "Nodule/Mass", "left"),
    ("Diffuse reticular interstitial pattern in both lungs.", "ILD", "both"),
    ("Interstitial lung disease.", "ILD", None),
    ("Fibrotic changes in the right upper zone.", "Pulmonary fibrosis", "right"),
    ("Biapical pleural thickening.", "Pleural thickening", "both"),
    ("Calcified granuloma in the left lung.", "Calcification", "left"),
]
ABSENT = [
    ("No pleural effusion.", "Pleural effusion"),
    ("There is no pneumothorax.", "Pneumothorax"),
    ("No focal consolidation, pleural effusion or pneumothorax.", "Consolidation"),
    ("No focal consolidation, pleural effusion or pneumothorax.", "Pneumothorax"),
    ("Lungs are free of consolidation.", "Consolidation"),
    ("The heart size is normal without pleural effusion.", "Pleural effusion"),
    ("No evidence of a nodule.", "Nodule/Mass"),
    ("Heart size is normal.", "Cardiomegaly"),
]
SILENT = ["The bones are intact.", "Follow-up is advised.", "The patient has a cough.", ""]


@pytest.mark.parametrize("sentence, finding, side", PRESENT)
def test_stated(sentence, finding, side):
    found = {m.finding: m for m in find_mentions(sentence) if m.status == "present"}
    assert finding in found and found[finding].side == side


@pytest.mark.parametrize("sentence, finding", ABSENT)
def test_denied(sentence, finding):
    statuses = {m.status for m in find_mentions(sentence) if m.finding == finding}
    assert statuses == {"absent"}
    assert not label_matrix([sentence]).any()


@pytest.mark.parametrize("sentence", SILENT)
def test_silent(sentence):
    assert not label_matrix([sentence]).any()


@pytest.mark.parametrize("sentence", ["Possible small left effusion.", "An effusion cannot be excluded.",
                                      "This may represent an effusion."])  # fmt: skip
def test_left_open(sentence):
    assert [m.status for m in find_mentions(sentence)] == ["uncertain"]
    assert label_matrix([sentence])[0, FINDINGS.index("Pleural effusion")]


def test_a_statement_outweighs_a_denial_elsewhere():
    labels = label_matrix(["Small right pneumothorax. Otherwise no pneumothorax on the left."])
    assert labels[0, FINDINGS.index("Pneumothorax")]


def test_every_sentence_form_of_the_cohort_is_read_as_it_is_meant():
    from cliniqure_utils.cohort import reports

    words = {"side": "left", "size": "small", "place": "the left lower zone", "where": "left lower zone"}
    words |= {key.capitalize(): text.capitalize() for key, text in words.items()}
    for name, (sentences, phrases) in reports.FORMS.items():
        for form in (*sentences, *phrases):
            text = form.format(**words)
            text = text[0].upper() + text[1:].rstrip(".") + "."
            stated = {m.finding for m in find_mentions(text) if m.status == "present"}
            assert stated == {name}, text
