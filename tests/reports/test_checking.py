"""The sentence checker: errors planted by hand into sentences and reports, each caught, and nothing else."""

import pytest

from cliniqure_utils import labeller
from cliniqure_utils.reports import (
    CONTRADICTION,
    HALLUCINATION,
    KNOWLEDGE,
    NO_SUCH_PLACE,
    UNTOLD_SIDE,
    WRONG_SIDE,
    WRONG_SIZE,
    WRONG_ZONE,
    Evidence,
    assemble_report,
    check_sentences,
    count_problems,
    facts_of,
    omitted_findings,
)

# Short names of the errors in the tables below: H hallucination, C contradiction, S wrong side, Z wrong zone, W wrong
# size, N no such place, U untold side.
PROBLEM = {"H": HALLUCINATION, "C": CONTRADICTION, "S": WRONG_SIDE, "Z": WRONG_ZONE, "W": WRONG_SIZE,
           "N": NO_SUCH_PLACE, "U": UNTOLD_SIDE}  # fmt: skip
FILMS = {
    "failing heart": Evidence(
        "a",
        findings=[("Cardiomegaly", 0.91), ("Pleural effusion", 0.75), ("Aortic enlargement", 0.4)],
        boxes=[("Pleural effusion", 0.8, "left lower zone"), ("Cardiomegaly", 0.7, "midline")],
    ),
    "old scars": Evidence(
        "b",
        findings=[("Pulmonary fibrosis", 0.6), ("Pleural thickening", 0.5)],
        boxes=[
            ("Nodule/Mass", 0.4, "right upper zone"),
            ("Pulmonary fibrosis", 0.5, "left upper zone"),
            ("Pulmonary fibrosis", 0.3, "right upper zone"),
            ("Pleural thickening", 0.6, "right upper zone"),
        ],
    ),
    "collapse": Evidence(
        "c",
        findings=[("Pneumothorax", 0.8), ("Atelectasis", 0.55)],
        boxes=[("Pneumothorax", 0.9, "right upper zone"), ("Consolidation", 0.5, "left lower zone")],
    ),
    "normal": Evidence("d"),
    # boxes on a film of 1000 rows: an effusion low on the left, a tall one on the right, a nodule near the border of
    # upper and mid zone, an opacity well inside the upper one, opacities in the right lower and left mid zone
    "measured": Evidence(
        "e",
        findings=[("Cardiomegaly", 0.9)],
        boxes=[
            ("Pleural effusion", 0.9, "left lower zone"),
            ("Pleural effusion", 0.8, "right lower zone"),
            ("Nodule/Mass", 0.7, "left upper zone"),
            ("Consolidation", 0.6, "right upper zone"),
            ("Lung Opacity", 0.5, "right lower zone"),
            ("Lung Opacity", 0.5, "left mid zone"),
        ],
        corners=[
            (600.0, 700.0, 900.0, 950.0),
            (100.0, 400.0, 400.0, 950.0),
            (600.0, 320.0, 660.0, 400.0),
            (200.0, 100.0, 300.0, 300.0),
            (200.0, 700.0, 300.0, 800.0),
            (700.0, 430.0, 800.0, 530.0),
        ],
        height=1000.0,
    ),  # fmt: skip
}
SENTENCES = [
    # film, sentence, planted errors, status
    # nothing planted
    ("failing heart", "The heart is enlarged.", "", "supported"),
    ("failing heart", "There is a small left pleural effusion.", "", "supported"),
    ("failing heart", "Blunting of the left costophrenic angle.", "", "supported"),
    ("failing heart", "The aorta is tortuous.", "", "supported"),
    ("failing heart", "Cardiomegaly with a left effusion and no pneumothorax.", "", "supported"),
    ("failing heart", "An effusion may be present on the left.", "", "supported"),
    ("failing heart", "No acute cardiopulmonary process.", "", "neutral"),
    ("failing heart", "Correlate with the clinical picture.", "", "neutral"),
    ("old scars", "Scarring in both upper zones.", "", "supported"),
    ("old scars", "There is a nodule in the right upper lobe.", "", "supported"),
    ("old scars", "Right apical pleural thickening.", "", "supported"),
    ("old scars", "No pleural effusion or pneumothorax.", "", "supported"),
    ("collapse", "Large right pneumothorax.", "", "supported"),
    ("collapse", "Consolidation at the left base.", "", "supported"),
    ("collapse", "Plate-like atelectasis is seen.", "", "supported"),
    ("normal", "The lungs are clear.", "", "supported"),
    ("normal", "Normal chest radiograph.", "", "supported"),
    ("normal", "Heart size is within normal limits.", "", "supported"),
    ("normal", "No effusion, consolidation or pneumothorax.", "", "supported"),
    # an extra finding
    ("failing heart", "There is a pneumothorax.", "Pneumothorax H", "contradicted"),
    ("failing heart", "A nodule is seen in the right upper lobe.", "Nodule/Mass H", "contradicted"),
    ("failing heart", "Consolidation in the left lower zone.", "Consolidation H", "contradicted"),
    ("failing heart", "Left pleural effusion with atelectasis.", "Atelectasis H", "contradicted"),
    ("failing heart", "There is a calcified granuloma.", "Calcification H", "contradicted"),
    ("failing heart", "Reticular changes in both lungs.", "ILD H", "contradicted"),
    ("failing heart", "Old rib fracture on the right.", "Other lesion H", "contradicted"),
    ("old scars", "The heart is mildly enlarged.", "Cardiomegaly H", "contradicted"),
    ("old scars", "There is a right pleural effusion.", "Pleural effusion H", "contradicted"),
    ("old scars", "Patchy infiltrate in the right lower lobe.", "Infiltration H", "contradicted"),
    ("old scars", "Scarring and a pneumothorax.", "Pneumothorax H", "contradicted"),
    ("collapse", "The aorta is unfolded.", "Aortic enlargement H", "contradicted"),
    ("collapse", "Hazy opacity in the right base.", "Lung Opacity H", "contradicted"),
    ("collapse", "Pleural thickening on the left.", "Pleural thickening H", "contradicted"),
    ("normal", "There is cardiomegaly.", "Cardiomegaly H", "contradicted"),
    ("normal", "Small left effusion.", "Pleural effusion H", "contradicted"),
    ("normal", "A mass is present in the left lung.", "Nodule/Mass H", "contradicted"),
    ("normal", "Cardiomegaly and bilateral effusions.", "Cardiomegaly H, Pleural effusion H", "contradicted"),
    ("normal", "Fibrosis at the apices.", "Pulmonary fibrosis H", "contradicted"),
    # an extra finding, left open
    ("failing heart", "A small pneumothorax cannot be excluded.", "Pneumothorax H", "unsupported"),
    ("old scars", "Possible consolidation in the left base.", "Consolidation H", "unsupported"),
    ("collapse", "Findings suspicious for interstitial lung disease.", "ILD H", "unsupported"),
    ("normal", "The heart is borderline enlarged.", "Cardiomegaly H", "unsupported"),
    ("normal", "Atelectasis versus consolidation.", "Atelectasis H, Consolidation H", "unsupported"),
    # a finding that is there, denied
    ("failing heart", "The heart size is normal.", "Cardiomegaly C", "contradicted"),
    ("failing heart", "No pleural effusion.", "Pleural effusion C", "contradicted"),
    ("failing heart", "The costophrenic angles are sharp.", "Pleural effusion C", "contradicted"),
    ("failing heart", "No effusion or pneumothorax is seen.", "Pleural effusion C", "contradicted"),
    ("failing heart", "The aorta is normal.", "Aortic enlargement C", "contradicted"),
    ("failing heart", "Heart and aorta are of normal size; no effusion.",
     "Cardiomegaly C, Pleural effusion C", "contradicted"),
    ("old scars", "No nodule or mass.", "Nodule/Mass C", "contradicted"),
    ("old scars", "There is no scarring.", "Pulmonary fibrosis C", "contradicted"),
    ("old scars", "Without pleural thickening.", "Pleural thickening C", "contradicted"),
    ("collapse", "No pneumothorax.", "Pneumothorax C", "contradicted"),
    ("collapse", "The pneumothorax has resolved.", "Pneumothorax C", "contradicted"),
    ("collapse", "The lungs are clear.", "Atelectasis C, Consolidation C", "contradicted"),
    ("old scars", "The lung fields are clear.", "Nodule/Mass C, Pulmonary fibrosis C", "contradicted"),
    ("failing heart", "The lungs are clear.", "", "supported"),  # the pleura and the heart are no lung
    ("collapse", "No focal consolidation.", "Consolidation C", "contradicted"),
    ("collapse", "Pneumothorax without atelectasis.", "Atelectasis C", "contradicted"),
    ("collapse", "Normal chest.", "Atelectasis C, Consolidation C, Pneumothorax C", "contradicted"),
    ("old scars", "The examination is unremarkable.",
     "Nodule/Mass C, Pleural thickening C, Pulmonary fibrosis C", "contradicted"),
    # the right finding on the other side
    ("failing heart", "There is a small right pleural effusion.", "Pleural effusion S", "contradicted"),
    ("failing heart", "Cardiomegaly with a right effusion.", "Pleural effusion S", "contradicted"),
    ("failing heart", "Blunted right costophrenic angle.", "Pleural effusion S", "contradicted"),
    ("old scars", "A nodule in the left upper lobe.", "Nodule/Mass S", "contradicted"),
    ("old scars", "Left apical pleural thickening.", "Pleural thickening S", "contradicted"),
    ("collapse", "Left pneumothorax.", "Pneumothorax S", "contradicted"),
    ("collapse", "On the right, there is consolidation.", "Consolidation S", "contradicted"),
    ("collapse", "Left pneumothorax and right lower lobe consolidation.",
     "Pneumothorax S, Consolidation S", "contradicted"),
    ("failing heart", "Bilateral effusions.", "Pleural effusion S", "contradicted"),  # right of the left one only
    ("failing heart", "Cardiomegaly with effusions on both sides.", "Pleural effusion S", "contradicted"),
    ("collapse", "A left pneumothorax may be present.", "Pneumothorax S", "contradicted"),
    # a side that no box shows
    ("collapse", "Left basal atelectasis.", "Atelectasis U", "unsupported"),
    ("collapse", "Bilateral atelectasis.", "Atelectasis U", "unsupported"),
    ("collapse", "Possible atelectasis on the right.", "Atelectasis U", "unsupported"),
    ("collapse", "No atelectasis on the left.", "Atelectasis U", "unsupported"),
    ("collapse", "Right pneumothorax and left atelectasis.", "Atelectasis U", "unsupported"),
    ("collapse", "Right pneumothorax and atelectasis.", "", "supported"),  # the side may be the neighbour's alone
    ("collapse", "Left pneumothorax and left atelectasis.", "Pneumothorax S, Atelectasis U", "contradicted"),
    # one side denied
    ("failing heart", "Left effusion, no right effusion.", "", "supported"),
    ("failing heart", "No effusion on the right.", "", "supported"),
    ("failing heart", "The right costophrenic angle is sharp.", "", "supported"),
    ("failing heart", "Effusion on the left and none on the right.", "", "supported"),
    ("failing heart", "There is a left but no right effusion.", "", "supported"),
    ("old scars", "The left lung is free of nodules.", "", "supported"),
    ("collapse", "The right lung is clear.", "Atelectasis U", "unsupported"),
    ("collapse", "The left lung is clear.", "Consolidation C, Atelectasis U", "contradicted"),
    ("old scars", "The left lung is clear.", "Pulmonary fibrosis C", "contradicted"),
    ("failing heart", "The left lung is clear.", "", "supported"),
    ("old scars", "The lung bases are clear.", "", "supported"),
    ("old scars", "The upper zones are clear.", "Nodule/Mass C, Pulmonary fibrosis C", "contradicted"),
    ("failing heart", "No effusion on the left.", "Pleural effusion C", "contradicted"),
    ("failing heart", "The left costophrenic angle is sharp.", "Pleural effusion C", "contradicted"),
    ("failing heart", "No effusion on either side.", "Pleural effusion C", "contradicted"),
    ("failing heart", "No left or right effusion.", "Pleural effusion C", "contradicted"),
    ("old scars", "No scarring on the left.", "Pulmonary fibrosis C", "contradicted"),
    ("failing heart", "Right effusion, no left effusion.",
     "Pleural effusion S, Pleural effusion C", "contradicted"),
    ("failing heart", "No left pleural effusion but a right one.",
     "Pleural effusion S, Pleural effusion C", "contradicted"),
    ("collapse", "Left consolidation, no pneumothorax.", "Pneumothorax C", "contradicted"),  # on no side
    ("failing heart", "The right base is clear, no effusion.", "Pleural effusion C", "contradicted"),
    # the whole film, or a part of it
    ("failing heart", "No acute abnormality.", "", "neutral"),
    ("failing heart", "No abnormality in the right lung.", "", "supported"),
    ("failing heart", "The heart shows no abnormality.", "Cardiomegaly C", "contradicted"),
    ("failing heart", "No bony abnormality.", "", "neutral"),
    ("failing heart", "Normal chest wall.", "", "neutral"),
    ("failing heart", "This is not a normal chest.", "", "neutral"),
    ("failing heart", "No findings of pneumothorax.", "", "supported"),
    ("failing heart", "No other abnormality.",
     "Cardiomegaly C, Pleural effusion C, Aortic enlargement C", "contradicted"),
    ("failing heart", "Normal chest except for cardiomegaly.",
     "Pleural effusion C, Aortic enlargement C", "contradicted"),
    ("old scars", "The remainder of the chest is normal.",
     "Nodule/Mass C, Pleural thickening C, Pulmonary fibrosis C", "contradicted"),
    ("normal", "No other abnormality is seen.", "", "supported"),
    # talk about diseases in general, and what only looks like it
    ("normal", "Treatment of pleural effusion includes drainage.", "", "general"),
    ("normal", "Pneumothorax is caused by air in the pleural space.", "", "general"),
    ("normal", "Symptoms of cardiomegaly are fatigue and shortness of breath.", "", "general"),
    ("normal", "There is consolidation which may be caused by pneumonia.", "Consolidation H", "contradicted"),
    ("normal", "Findings consistent with a pneumothorax.", "Pneumothorax H", "contradicted"),
    ("normal", "The effusion is caused by heart failure.", "Pleural effusion H", "contradicted"),
    ("failing heart", "Cardiomegaly is a rare and serious condition.", "", "general"),
    ("normal", "Pleural effusion is a common finding in heart failure.", "", "general"),
    ("normal", "Atelectasis is very common after surgery.", "", "general"),
    ("failing heart", "The patient has a history of cardiopulmonary disease.", "", "general"),
    ("failing heart", "A 67-year-old woman with a history of cardiomegaly.", "", "general"),
    ("failing heart", "It is a serious condition that can be caused by hypertension.", "", "general"),
    ("normal", "Treatment options include diuretics and oxygen.", "", "general"),
    ("failing heart", "There is cardiomegaly, which can be caused by hypertension.", "", "supported"),
    ("failing heart", "Left effusion, a condition characterized by fluid and atelectasis.", "", "supported"),
    ("normal", "The patient has a history of asthma and there is a left effusion.", "Pleural effusion H",
     "contradicted"),
    ("failing heart", "Follow-up is advised.", "", "neutral"),
    ("failing heart", "The bones are intact.", "", "neutral"),
    ("collapse", "The pneumothorax is serious.", "", "supported"),
    # heart and aorta have no zone and no side
    ("failing heart", "Cardiomegaly, right mid zone.", "Cardiomegaly N", "contradicted"),
    ("failing heart", "There is cardiomegaly in the left lower zone.", "Cardiomegaly N", "contradicted"),
    ("failing heart", "Aortic enlargement in the right upper lobe.", "Aortic enlargement N", "contradicted"),
    ("failing heart", "Left upper zone aortic enlargement.", "Aortic enlargement N", "contradicted"),
    ("failing heart", "Bilateral cardiomegaly.", "Cardiomegaly N", "contradicted"),
    ("failing heart", "Cardiomegaly, left effusion.", "", "supported"),
    ("failing heart", "Cardiomegaly, left lower zone effusion.", "", "supported"),
    ("failing heart", "Left effusion with cardiomegaly.", "", "supported"),
    ("failing heart", "Left heart enlargement.", "", "supported"),
    ("failing heart", "The heart is enlarged, the right lung is clear.", "", "supported"),
    ("normal", "Cardiomegaly, right mid zone.", "Cardiomegaly H", "contradicted"),
    # zones
    ("measured", "Nodule in the left upper zone.", "", "supported"),
    ("measured", "Left mid zone nodule.", "", "supported"),  # its centre is at 0.36, the border at 0.38
    ("measured", "Nodule in the left lower zone.", "Nodule/Mass Z", "contradicted"),
    ("measured", "Nodule in the right upper zone.", "Nodule/Mass S", "contradicted"),
    ("measured", "There is a nodule in the lower zones.", "Nodule/Mass Z", "contradicted"),
    ("measured", "Nodule in the left lower lobe.", "", "supported"),  # a lobe is no zone
    ("measured", "Consolidation in the right mid zone.", "Consolidation Z", "contradicted"),
    ("measured", "Opacity in the left mid and right lower zones.", "", "supported"),
    ("measured", "Right lower and left mid zone opacities.", "", "supported"),
    ("measured", "Opacity in the right mid and left lower zones.", "Lung Opacity S", "contradicted"),
    ("measured", "Opacity in the left mid and right upper zones.", "Lung Opacity Z", "contradicted"),
    ("measured", "Left upper zone nodule and right upper zone consolidation.", "", "supported"),
    ("measured", "Left upper zone nodule and right lower zone consolidation.", "Consolidation Z", "contradicted"),
    ("measured", "No nodule in the right upper zone.", "", "supported"),
    ("measured", "No consolidation in the right lower zone.", "", "supported"),
    ("measured", "No consolidation in the right upper zone.", "Consolidation C", "contradicted"),
    ("old scars", "Left lower zone scarring.", "Pulmonary fibrosis Z", "contradicted"),
    ("old scars", "Left mid zone scarring.", "", "supported"),  # without corners the next zone may be meant
    ("collapse", "Left mid zone atelectasis.", "Atelectasis U", "unsupported"),
    # sizes of effusions: 0.25 and 0.55 of the film's height
    ("measured", "Small left pleural effusion.", "", "supported"),
    ("measured", "Large left pleural effusion.", "Pleural effusion W", "contradicted"),
    ("measured", "The left costophrenic angle is blunted by a massive effusion.", "Pleural effusion W",
     "contradicted"),
    ("measured", "The right effusion is small.", "Pleural effusion W", "contradicted"),
    ("measured", "Moderate left effusion.", "", "supported"),
    ("measured", "Bilateral pleural effusions, large in size.", "", "supported"),
    ("measured", "Bilateral pleural effusions, tiny in size.", "Pleural effusion W", "contradicted"),
    ("measured", "Small left and large right effusions.", "", "supported"),
    ("measured", "Large left nodule and effusion.", "", "supported"),  # only effusions are measured
    ("failing heart", "Large left effusion.", "", "supported"),  # no corners, no size
    # several kinds in one sentence
    ("failing heart", "Right effusion, a lung nodule, and the heart is not enlarged.",
     "Pleural effusion S, Nodule/Mass H, Cardiomegaly C", "contradicted"),
    ("collapse", "No atelectasis but a large left effusion.", "Atelectasis C, Pleural effusion H", "contradicted"),
]  # fmt: skip


def planted(text):
    return sorted((part[:-2], PROBLEM[part[-1]]) for part in text.split(", ") if part)


def test_there_are_sixty_sentences_and_every_kind_of_error_in_ten():
    assert len(SENTENCES) >= 60 and len({(film, s) for film, s, _, _ in SENTENCES}) == len(SENTENCES)
    for kind in "HCS":
        assert sum(f" {kind}" in errors for _, _, errors, _ in SENTENCES) >= 10


@pytest.mark.parametrize("film, sentence, errors, status", SENTENCES, ids=[f"{f}-{s}" for f, s, _, _ in SENTENCES])
def test_a_planted_error_is_caught_and_nothing_else(film, sentence, errors, status):
    (checked,) = check_sentences(sentence, FILMS[film])
    assert checked["sentence"] == sentence
    assert sorted((p["finding"], p["problem"]) for p in checked["problems"]) == planted(errors)
    assert checked["status"] == status


@pytest.mark.parametrize("film, text, missing", [
    ("failing heart", "The heart is enlarged. Left pleural effusion. The aorta is tortuous.", []),
    ("failing heart", "The heart is enlarged. The aorta is tortuous.", ["Pleural effusion"]),
    ("failing heart", "Left pleural effusion.", ["Aortic enlargement", "Cardiomegaly"]),
    ("failing heart", "No effusion. Enlarged heart, dilated aorta.", []),  # denied: a contradiction, not an omission
    ("failing heart", "An effusion may be present. Cardiomegaly.", ["Aortic enlargement"]),
    ("failing heart", "Normal chest.", []),
    ("failing heart", "", ["Aortic enlargement", "Cardiomegaly", "Pleural effusion"]),
    ("failing heart", "Enlarged heart, wide aorta. No right effusion.", ["Pleural effusion"]),
    ("failing heart", "The heart is enlarged, the aorta is wide. No left effusion.", []),
    ("failing heart", "The heart is enlarged. No other abnormality.", []),  # the others are contradicted
    ("failing heart", "Cardiomegaly. No acute abnormality.", ["Aortic enlargement", "Pleural effusion"]),
    ("failing heart", "Cardiomegaly. The aorta is wide. Treatment of pleural effusion includes drainage.",
     ["Pleural effusion"]),
    ("failing heart", "Cardiomegaly, wide aorta. No abnormality in the right lung.", ["Pleural effusion"]),
    ("collapse", "Right pneumothorax. The lungs are otherwise clear.", []),  # denied
    ("measured", "Cardiomegaly, effusions, nodule, opacities. No consolidation in the left upper zone.",
     ["Consolidation"]),
    ("collapse", "Pneumothorax, consolidation. No atelectasis on the left.", ["Atelectasis"]),
    ("collapse", "Pneumothorax, consolidation. No atelectasis on the left. No atelectasis on the right.", []),
    ("old scars", "Right upper lobe nodule.", ["Pleural thickening", "Pulmonary fibrosis"]),
    ("collapse", "There is a pneumothorax with atelectasis.", ["Consolidation"]),
    ("normal", "The heart is enlarged.", []),
])  # fmt: skip
def test_findings_that_a_report_does_not_name_are_omissions(film, text, missing):
    assert omitted_findings(text, FILMS[film]) == missing


def knowledge():
    import pandas as pd

    from cliniqure_utils.vocabulary import FINDINGS

    table = pd.DataFrame("", index=list(FINDINGS), columns=[*KNOWLEDGE, "source_date", "sourced_fields"])
    return table.assign(source="unsourced").rename_axis("finding")


def test_a_report_counts_every_error_of_its_text():
    text = ("The heart is enlarged. There is a right pleural effusion. A small pneumothorax is possible. "
            "Follow-up is advised. There is a nodule.")  # fmt: skip
    sections = assemble_report(FILMS["failing heart"], text, knowledge(), "base")["sections"]
    assert [entry["sentence"] for entry in sections["checked"] if entry["problems"]] == [
        "There is a right pleural effusion.", "A small pneumothorax is possible.", "There is a nodule."
    ]  # fmt: skip
    assert sections["omitted"] == ["Aortic enlargement"]
    assert sections["problems"] == {
        "hallucination": 2, "contradiction": 0, "wrong side": 1, "wrong zone": 0, "wrong size": 0, "no such place": 0,
        "untold side": 0, "omission": 1,
    }  # fmt: skip


@pytest.mark.parametrize("film, text, of_last", [
    ("failing heart", "Enlarged heart. Left effusion. No other abnormality.", {"Aortic enlargement"}),
    ("failing heart", "No other abnormality than these: enlarged heart, wide aorta, left effusion.", set()),
    ("failing heart", "Cardiomegaly, wide aorta, left effusion. Otherwise normal chest.", set()),
    ("collapse", "Right pneumothorax. Otherwise the lungs are clear.", {"Atelectasis", "Consolidation"}),
    ("collapse", "Left consolidation. The lungs are otherwise clear.", {"Atelectasis"}),
    ("collapse", "Left consolidation, atelectasis. The lungs are otherwise clear.", set()),
    ("collapse", "Left consolidation. Right pneumothorax. No further abnormality.", {"Atelectasis"}),
])  # fmt: skip
def test_a_rest_that_is_normal_denies_only_what_the_text_does_not_name(film, text, of_last):
    *others, last = check_sentences(text, FILMS[film])
    assert {entry["status"] for entry in others} <= {"supported"}
    assert {p["finding"] for p in last["problems"]} == of_last
    assert {p["problem"] for p in last["problems"]} <= {CONTRADICTION}
    assert last["status"] == ("contradicted" if of_last else "supported")


def test_errors_are_counted_once_per_finding_however_many_sentences_repeat_them():
    text = ("There is a pneumothorax and a nodule. The pneumothorax is large. No cardiomegaly or effusion. "
            "Normal chest. The heart is of normal size. Right effusion. Another right effusion.")  # fmt: skip
    film = FILMS["failing heart"]
    counts = count_problems(check_sentences(text, film), omitted_findings(text, film))
    assert {kind: n for kind, n in counts.items() if n} == {"hallucination": 2, "contradiction": 3, "wrong side": 1}


def test_an_untold_side_is_counted_with_its_own_word():
    text = "Left basal atelectasis. Right pneumothorax. Left consolidation."
    sections = assemble_report(FILMS["collapse"], text, knowledge(), "base")["sections"]
    assert [entry["sentence"] for entry in sections["checked"] if entry["problems"]] == ["Left basal atelectasis."]
    assert sections["problems"]["untold side"] == 1 and sum(sections["problems"].values()) == 1


def test_the_facts_of_a_report_give_probability_side_zone_and_box():
    film = Evidence(
        "a", [("Pleural effusion", 0.75)],
        [("Pleural effusion", 0.8, "left lower zone"), ("Cardiomegaly", 0.7, "midline")],
        [(60.0, 70.0, 90.0, 95.0), (30.0, 40.0, 70.0, 80.0)], crude_report="small effusion .",
    )  # fmt: skip
    sections = assemble_report(film, "", knowledge(), "template")["sections"]
    assert sections["findings"] == [
        {"name": "Cardiomegaly", "probability": None,
         "boxes": [{"score": 0.7, "side": None, "zone": None, "box": [30.0, 40.0, 70.0, 80.0]}]},
        {"name": "Pleural effusion", "probability": 0.75,
         "boxes": [{"score": 0.8, "side": "left", "zone": "lower", "box": [60.0, 70.0, 90.0, 95.0]}]},
    ]  # fmt: skip
    assert sections["crude_report"] == "small effusion ."
    without = facts_of(FILMS["old scars"])
    assert [entry["boxes"][0]["box"] for entry in without] == [None] * 3, "no box where the corners are not known"


def test_the_labeller_reads_every_table_sentence_as_one_sentence():
    assert all(labeller.split_sentences(sentence) == [sentence] for _, sentence, _, _ in SENTENCES)
