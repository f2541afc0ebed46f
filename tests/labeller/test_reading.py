"""Sentences written by hand, with what a reader would take from them."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cliniqure_utils.labeller import denies_the_unnamed, find_mentions, label_matrix, overall_statement, split_sentences
from cliniqure_utils.vocabulary import FINDINGS

CODES = dict(zip("AE AT CA CM CO IL IN OP NM OL EF PT PX PF".split(), FINDINGS, strict=True))

# sentence -> mentions in reading order: code, + present, - absent, ? uncertain, then side l, r, b where said
SENTENCES = [
    # plain statements and synonyms
    ("There is cardiomegaly.", "CM+"),
    ("The heart is moderately enlarged.", "CM+"),
    ("Enlarged cardiac silhouette.", "CM+"),
    ("The cardiomediastinal silhouette remains mildly enlarged.", "CM+"),
    ("Cardiothoracic ratio is increased.", "CM+"),
    ("The aorta is tortuous and ectatic.", "AE+"),
    ("Tortuous, calcified thoracic aorta.", "AE+ CA+"),
    ("Dilatation of the ascending aorta.", "AE+"),
    ("The aortic knob appears prominent.", "AE+"),
    ("Small right pleural effusion.", "EF+r"),
    ("Blunting of the left costophrenic angle.", "EF+l"),
    ("The right costophrenic sulcus is blunted.", "EF+r"),
    ("Patchy infiltrate in the right middle lobe.", "IN+r"),
    ("Dense consolidation with air bronchograms in the left lower lobe.", "CO+l CO+l"),
    ("Airspace opacity is seen at both bases.", "OP+b"),
    ("Hazy opacification of the right lung.", "OP+r"),
    ("Bibasilar atelectasis.", "AT+b"),
    ("Partial collapse of the left upper lobe.", "AT+l"),
    ("Plate-like opacity at the right base.", "AT+r"),
    ("A 2.5 cm nodule projects over the left upper zone.", "NM+l"),
    ("Nodular opacity in the right apex.", "NM+r"),
    ("Large mass at the left hilum.", "NM+l"),
    ("Calcified granuloma in the right upper lobe.", "CA+r"),
    ("Tiny calcified left perihilar granuloma.", "CA+l"),
    ("Calcified lymph nodes and a granuloma on the left.", "CA+ NM+l"),
    ("Biapical scarring.", "PF+b"),
    ("Fibrotic changes in the left upper zone.", "PF+l"),
    ("Diffuse reticular pattern in keeping with interstitial lung disease.", "IL+ IL+"),
    ("Interstitial markings are increased bilaterally.", "IL+b"),
    ("Right apical pleural thickening.", "PT+r"),
    ("Calcified pleural plaques on the left.", "CA+l PT+l"),
    ("Moderate left-sided pneumothorax.", "PX+l"),
    ("Hydropneumothorax on the right.", "EF+r PX+r"),
    ("Old healed rib fracture.", "OL+"),
    ("Mild pulmonary edema.", "OL+"),
    ("There is a massive effusion.", "EF+"),
    ("Compression deformity with vertebral collapse.", ""),
    ("Trace pericardial effusion.", ""),
    ("Edema is present in both lungs.", "OL+b"),
    ("Soft tissue edema of the chest wall.", ""),
    ("Left hilar lymphadenopathy.", "OL+l"),
    ("Adenopathy is absent.", "OL-"),
    ("Bronchiectasis in the lingula.", "OL+l"),
    # normal statements must not make a finding present
    ("Heart size is normal.", "CM-"),
    ("The cardiac size is within the limits of normal.", "CM-"),
    ("Normal cardiac silhouette.", "CM-"),
    ("The heart is not enlarged.", "CM-"),
    ("The aorta is normal in caliber.", "AE-"),
    ("The thoracic aorta is unremarkable.", "AE-"),
    ("Costophrenic angles are sharp.", "EF-"),
    ("The lungs are clear.", "clear"),
    ("The left lung is clear.", "clearl"),
    ("The lungs are otherwise clear.", ""),
    ("No acute cardiopulmonary abnormality.", ""),
    # denial
    ("No focal consolidation, pleural effusion or pneumothorax.", "CO- EF- PX-"),
    ("There is no pneumothorax or pleural effusion.", "PX- EF-"),
    ("Lungs are clear without effusion.", "clear EF-"),
    ("The lungs are free of consolidation and nodules.", "CO- NM-"),
    ("No evidence of interstitial lung disease.", "IL-"),
    ("Pneumothorax is not seen.", "PX-"),
    ("The left effusion has resolved.", "EF-l"),
    ("Resolved right pneumothorax.", "PX-r"),
    ("Neither effusion nor pneumothorax is present.", "EF- PX-"),
    ("Negative for pneumothorax.", "PX-"),
    ("The lungs do not show a mass.", "NM-"),
    ("No pleural effusion or thickening.", "EF- PT-"),
    ("Pneumothorax: none.", "PX-"),
    ("Atelectasis rather than consolidation at the left base.", "AT+l CO-l"),
    ("There has been interval resolution of the right effusion.", "EF-r"),
    ("Pneumothorax is unlikely.", "PX-"),
    # a prefix denies its own word only
    ("Noncalcified nodule in the right apex.", "CA-r NM+r"),
    ("Non-calcified granuloma on the left.", "CA-l NM+l"),
    ("Nonconsolidated opacity.", "CO- OP+"),
    ("No noncalcified mass.", "NM-"),
    ("Nondisplaced fracture of a right rib.", "OL+r"),
    # where a denial ends
    ("No pneumothorax but there is a small left effusion.", "PX- EF+l"),
    ("No effusion, and the heart is enlarged.", "EF- CM+"),
    ("Without pneumothorax, stable cardiomegaly.", "PX- CM+"),
    ("No pneumothorax, small right pleural effusion.", "PX- EF+r"),
    ("No consolidation, large effusion or pneumothorax.", "CO- EF- PX-"),
    ("The effusion is small and the pneumothorax is not seen.", "EF+ PX-"),
    ("Cardiomegaly is present, however no effusion is identified.", "CM+ EF-"),
    ("The heart size is normal, but the aorta is dilated.", "CM- AE+"),
    ("No change in the right effusion.", "EF+r"),
    ("No significant interval change in cardiomegaly.", "CM+"),
    ("No abnormality except for a calcified granuloma.", "CA+"),
    # doubt
    ("Left basal opacity may represent atelectasis.", "OP+l AT?l"),
    ("Underlying consolidation cannot be excluded.", "CO?"),
    ("Cannot exclude a small pneumothorax.", "PX?"),
    ("Possible right lower lobe infiltrate.", "IN?r"),
    ("Opacity in the right base, likely atelectasis, and a small left effusion.", "OP+r AT?r EF+l"),
    ("Atelectasis versus consolidation in the right base.", "AT?r CO?r"),
    ("A nodule is suspected in the left upper lobe.", "NM?l"),
    ("The heart is borderline enlarged.", "CM?"),
    ("Findings suspicious for interstitial lung disease.", "IL?"),
    ("A small effusion may be present on the left.", "EF?l"),
    ("No definite effusion.", "EF-"),
    ("Left basal opacity may be due to atelectasis.", "OP+l AT?l"),
    ("Opacities that are likely secondary to edema.", "OP+ OL?"),
    ("Opacity due to atelectasis.", "OP+ AT+"),
    ("Volume loss, possibly due to a mass, and a right effusion.", "AT+ NM? EF+r"),
    ("The aorta is wide and tortuous.", "AE+"),
    ("There is suggestion of a left apical nodule.", "NM?l"),
    ("No suggestion of effusion.", "EF-"),
    # side
    ("Small right pleural effusion and left basilar atelectasis.", "EF+r AT+l"),
    ("Consolidation and effusion in the right lower zone.", "CO+r EF+r"),
    ("Small effusion on the left, consolidation in the right lower zone.", "EF+l CO+r"),
    ("Nodules in the left and right upper zones.", "NM+b"),
    ("On the right, there is consolidation.", "CO+r"),
    ("Effusions, right greater than left.", "EF+b"),
    ("Left effusion with cardiomegaly.", "EF+l CM+"),
    ("Lingular infiltrate.", "IN+l"),
    ("Opacity in the left lung, right lower zone nodule or mass, left effusion.", "OP+l NM+r NM+r EF+l"),
    ("Bibasilar opacities that may represent an atelectasis or some infiltrate.", "OP+b AT?b IN?b"),
    ("Unfolding and atherosclerotic calcification of the aorta.", "AE+ CA+"),
    ("Reticular change, likely fibrosis, likely atelectasis.", "IL+ PF? AT?"),
    ("Bibasilar infiltrate/atelectasis.", "IN+b AT+b"),
    # a denial is about its own side, and a side about its own statement
    ("Left effusion, no right effusion.", "EF+l EF-r"),
    ("No effusion on the right.", "EF-r"),
    ("No left or right effusion.", "EF-b"),
    ("No pneumothorax on either side.", "PX-b"),
    ("No right effusion or pneumothorax.", "EF-r PX-r"),
    ("There is a right but no left effusion.", "EF+r EF-l"),
    ("No left pleural effusion but a right one.", "EF-l EF+r"),
    ("No left effusion, but there is one on the right.", "EF-l EF+r"),
    ("Effusion on the left and none on the right.", "EF+l EF-r"),
    ("The opacity is on the left, not on the right.", "OP+l OP-r"),
    ("Left consolidation without effusion.", "CO+l EF-"),
    ("Small left effusion, no pneumothorax.", "EF+l PX-"),
    ("Removal of the right chest tube, no pneumothorax.", "PX-"),
    ("In the left lung, no consolidation is seen.", "CO-l"),
    ("The left lung shows no consolidation.", "CO-l"),
    ("Small left effusion, lungs are clear.", "EF+l clear"),
    ("Left effusion, the right lung is clear.", "EF+l clearr"),
    ("Left and right lungs are clear.", "clearb"),
    ("Effusion in the left lower zone and the right lower zone.", "EF+b"),
    ("Effusion in the left lower zone and the right lung is clear.", "EF+l clearr"),
    # parts of the film
    ("No abnormality in the right lung.", "clearr"),
    ("No abnormality is seen in the lungs.", "clear"),
    ("Heart and lungs are normal.", "CM- clear"),
    ("Heart and lungs without abnormality.", "CM- clear"),
    ("The bones show no abnormality.", ""),
    # talk about a disease in general
    ("Treatment of pleural effusion includes drainage.", ""),
    ("Treatment options: drainage of a pleural effusion.", ""),
    ("Pneumothorax is caused by air in the pleural space.", ""),
    ("Pleural effusion and atelectasis are commonly caused by heart failure.", ""),
    ("Symptoms of pleural effusion are cough and shortness of breath.", ""),
    ("Common causes of cardiomegaly include hypertension.", ""),
    ("The most common cause of atelectasis is surgery.", ""),
    ("Cardiomegaly is a condition in which the heart is enlarged.", ""),
    ("Cardiomegaly can be a sign of heart failure.", ""),
    ("Atelectasis is the collapse of lung tissue.", ""),
    ("A pneumothorax occurs when air leaks into the pleural space.", ""),
    ("Pneumothorax can cause mediastinal shift.", ""),
    ("Diuretics are used to treat pleural effusion and pulmonary edema.", ""),
    ("Thoracentesis is the treatment of choice for pleural effusion.", ""),
    ("Patients with pneumothorax may need a chest tube.", ""),
    ("The diagnosis of consolidation is made by chest radiograph.", ""),
    ("Diagnostic methods include chest CT for nodules.", ""),
    ("Symptoms of cardiomegaly include fatigue; no effusion.", "EF-"),
    ("Pneumothorax can cause pain, and the heart is enlarged.", "CM+"),
    ("Pneumothorax is a collapsed lung.", ""),
    ("Consolidation is typically seen in pneumonia.", ""),
    ("Pneumonia may lead to consolidation and effusion.", ""),
    ("In patients with cardiomegaly, echocardiography is useful.", ""),
    ("For pneumothorax, treatment includes a chest tube.", ""),
    ("If a pneumothorax is present, a chest tube is needed.", ""),
    ("CT is useful for evaluating pulmonary fibrosis.", ""),
    ("Cause: pneumonia most often; also edema, collapse or tumor.", ""),
    ("Red flags: fever with an effusion; tension pneumothorax.", ""),
    # ... and what only looks like it
    ("Pleural effusion causes compressive atelectasis.", "EF+ AT+"),
    ("Cardiomegaly with pleural effusion, commonly caused by heart failure.", "CM+ EF+"),
    ("The right pleural effusion may cause shortness of breath.", "EF+r"),
    ("There is consolidation which may be caused by pneumonia.", "CO+"),
    ("Findings consistent with pleural effusion.", "EF+"),
    ("The effusion is caused by heart failure.", "EF+"),
    ("Left pleural effusion is caused by heart failure.", "EF+l"),
    ("There is a left effusion, which is treated with drainage.", "EF+l"),
    ("A pleural effusion can be seen.", "EF+"),
    ("Signs of effusion are seen.", "EF+"),
    ("The diagnosis of pneumothorax is suspected.", "PX?"),
    ("Opacity is likely due to atelectasis.", "OP+ AT?"),
    ("Treatment of the effusion is advised.", "EF+"),
    ("No complications such as pneumothorax.", "PX-"),
    ("Diagnosis: left effusion.", "EF+l"),
    # questions and history
    ("Coarse reticular markings consistent with a known history of fibrosis.", "IL+ PF+"),
    ("Opacity at the left apex, patient with history of fibrosis.", "OP+l"),
    ("Evaluate for pneumothorax.", ""),
    ("History of effusion.", ""),
    ("Compared with the prior study, the effusion is larger.", "EF+"),
]


# What clear lungs deny, in the table "clear" and the side.
CLEAR = "AT- CO- IL- IN- OP- NM- PF-"


def spelled_out(expected):
    """The table's "clear", "clearl" as the denials that it stands for."""
    return re.sub(r"clear([lrb]?)", lambda match: CLEAR.replace("-", "-" + match[1]), expected)


def spell(mentions):
    names = {name: code for code, name in CODES.items()}
    sign = {"present": "+", "absent": "-", "uncertain": "?"}
    side = {"left": "l", "right": "r", "both": "b", None: ""}
    return " ".join(names[m.finding] + sign[m.status] + side[m.side] for m in mentions)


@pytest.mark.parametrize("sentence, expected", SENTENCES, ids=[s for s, _ in SENTENCES])
def test_sentence(sentence, expected):
    assert spell(find_mentions(sentence)) == spelled_out(expected)


def test_a_side_that_a_list_shares_is_marked():
    own, shared = find_mentions("Left effusion and atelectasis.")
    assert (own.side, own.side_shared, shared.side, shared.side_shared) == ("left", False, "left", True)
    assert not any(m.side_shared for m in find_mentions("Left effusion, right atelectasis and cardiomegaly."))


def test_a_model_that_repeats_itself_is_read_to_the_end():
    assert [m.finding for m in find_mentions("effusion, " * 100)] == ["Pleural effusion"] * 100


def test_case_and_typography_do_not_matter():
    assert spell(find_mentions("THERE  IS\u00a0NO PNEUMOTHORAX")) == "PX-"
    assert spell(find_mentions("Plate\u2010like opacity; there isn\u2019t an effusion")) == "AT+ EF-"


def test_sentences_are_numbered_and_decimals_do_not_split():
    text = "The heart is normal. A 1.5 cm nodule is seen on the left.\nNo effusion!"
    assert split_sentences(text) == ["The heart is normal.", "A 1.5 cm nodule is seen on the left.", "No effusion!"]
    assert [(m.finding, m.sentence) for m in find_mentions(text)] == [
        ("Cardiomegaly", 0),
        ("Nodule/Mass", 1),
        ("Pleural effusion", 2),
    ]


@pytest.mark.parametrize("nothing", ["", None, float("nan"), "   ", "."])
def test_no_text_no_mention(nothing):
    assert find_mentions(nothing) == []


def test_label_matrix_takes_present_and_uncertain():
    texts = ["Cardiomegaly. No effusion.", "Possible nodule.", "No mass. There is a mass.", ""]
    labels = label_matrix(texts)
    assert labels.shape == (4, 14) and labels.dtype == bool
    named = [[FINDINGS[i] for i in np.flatnonzero(row)] for row in labels]
    assert named == [["Cardiomegaly"], ["Nodule/Mass"], ["Nodule/Mass"], []]


@pytest.mark.parametrize("sentence, kind", [
    ("No abnormality.", "normal"), ("There is no abnormality.", "normal"), ("No abnormality is detected.", "normal"),
    ("No significant abnormality in the chest.", "normal"), ("The chest shows no abnormality.", "normal"),
    ("Unremarkable examination of the chest.", "normal"), ("The chest X-ray is normal.", "normal"),
    ("No other abnormality.", "otherwise normal"), ("Otherwise normal chest.", "otherwise normal"),
    ("Normal except for a nodule.", "otherwise normal"), ("The rest of the film is normal.", "otherwise normal"),
    ("No abnormality other than a left effusion.", "otherwise normal"),
    ("Tortuous aorta, otherwise unremarkable.", "otherwise normal"),
    ("No acute abnormality.", "no acute"), ("No other acute abnormality.", "no acute"),
    ("No abnormality in the right lung.", None), ("No abnormality of the bones.", None),
    ("No abnormal findings on the right.", None), ("The bones show no abnormality.", None),
    ("No findings of pneumothorax.", None), ("No abnormal calcification.", None), ("Normal chest wall.", None),
    ("The chest is not normal.", None), ("This is not a normal chest.", None), ("Normal heart.", None),
    ("The prior chest X-ray is normal.", None), ("The heart is otherwise normal.", None),
    ("The lungs are clear.", None),
])  # fmt: skip
def test_a_statement_on_the_whole_film_is_told_from_one_on_a_part(sentence, kind):
    assert overall_statement(sentence) == kind


def test_what_is_denied_without_being_named():
    everything = frozenset(FINDINGS)
    assert denies_the_unnamed("Cardiomegaly. Normal chest.") == {1: everything}
    assert denies_the_unnamed("Cardiomegaly. No effusion. No other abnormality.") == {
        2: everything - {"Cardiomegaly", "Pleural effusion"}
    }
    assert denies_the_unnamed("Normal chest except for a nodule. Scarring.") == {
        0: everything - {"Nodule/Mass", "Pulmonary fibrosis"}
    }
    assert denies_the_unnamed("Left opacity. The lungs are otherwise clear.") == {
        1: frozenset({"Atelectasis", "Consolidation", "ILD", "Infiltration", "Nodule/Mass", "Pulmonary fibrosis"})
    }
    for text in ("No acute abnormality.", "No abnormality in the right lung.", "The lungs are clear.", "", None):
        assert denies_the_unnamed(text) == {}


def test_overall_statement():
    assert overall_statement("No acute cardiopulmonary process.") == "no acute"
    assert overall_statement("Normal chest radiograph.") == "normal"
    assert overall_statement("No abnormality is seen.") == "normal"
    assert overall_statement("There is an effusion.") is None


def test_agrees_with_the_truth_of_the_simulated_cohort():
    data = Path(__file__).parents[2] / "data" / "demo"
    if not (data / "truth.csv").exists():
        pytest.skip("data/demo is not there: notebook 01 makes it")
    truth = pd.read_csv(data / "truth.csv", dtype={"image_id": str})
    reports = [json.loads(line) for line in (data / "reports.jsonl").read_text(encoding="utf-8").split("\n") if line]
    labels = label_matrix([report["text"] for report in reports])
    wrong = []
    for report, row in zip(reports, labels, strict=True):
        expected = set(truth.class_name[truth.image_id == report["image_id"]]) - {"No finding"}
        found = {FINDINGS[i] for i in np.flatnonzero(row)}
        if found != expected:
            wrong.append((report["text"], sorted(expected ^ found)))
    assert len(wrong) <= len(reports) // 100, wrong[:5]
