"""Reports say what is there, on its side, and deny nothing that is there."""

import numpy as np
import pytest

from cliniqure_utils import labeller
from cliniqure_utils.cohort import report_text
from cliniqure_utils.cohort.plan import (
    plan_patient,
)
from cliniqure_utils.cohort.report_text import clinical_context, write_report
from cliniqure_utils.labeller import find_mentions
from cliniqure_utils.vocabulary import FINDINGS


def made_up_truth(findings, rng):
    """Rows with every mix of sides and zones that the simulation can give."""
    rows = []
    for name in findings:
        midline = name in ("Cardiomegaly", "Aortic enlargement")
        several = [("left",), ("right",), ("left", "right"), ("left", "left")][rng.integers(4)]
        one = ("left", "right")[rng.integers(2)]
        sides = ("midline",) if midline else ("left", "right") if name == "ILD" else several
        for side in (one,) if name == "Pneumothorax" else dict.fromkeys(sides) if "effusion" in name else sides:
            extent = rng.uniform(15, 50) if name == "Nodule/Mass" else rng.random()
            zone = ("upper", "mid", "lower")[rng.integers(3)]
            looks = {"Other lesion": ("Lung cavity", "Lung cyst"), "Pleural thickening": ("apical", "lateral")}
            kind = looks.get(name, ("", ""))[rng.integers(2)]
            rows.append({"class_name": name, "side": side, "zone": zone, "extent": float(extent), "kind": kind})
    return rows


@pytest.fixture(scope="module")
def written():
    """200 truths and their reports."""
    rng = np.random.default_rng(1)
    truths = [made_up_truth(plan_patient(3, i)[0], rng) for i in range(200)]
    return [(truth, write_report(truth, rng)) for truth in truths]


def test_reports_name_what_is_there_and_nothing_else(written):
    expected = np.array([[name in {row["class_name"] for row in truth} for name in FINDINGS] for truth, _ in written])
    for part in ("findings", "impression"):
        np.testing.assert_array_equal(labeller.label_matrix([report[part] for _, report in written]), expected)


def test_reports_never_deny_what_is_there_and_name_its_side(written):
    for truth, report in written:
        for part in ("findings", "impression"):
            for mention in find_mentions(report[part]):
                rows = [row for row in truth if row["class_name"] == mention.finding]
                assert (mention.status != "absent") == bool(rows), f"{mention} in: {report[part]}"
                sides = {row["side"] for row in rows} - {"midline"}
                # One finding a sentence, so the side there can be no other finding's. Of "the left upper and right
                # lower zones" the labeller may take either.
                allowed = sides | {"both"} if len(sides) == 2 else sides
                if part == "findings" and sides and mention.side is not None:
                    assert mention.side in allowed, f"{mention}: {report[part]}"


def test_reports_vary_in_a_small_vocabulary(written):
    texts = [report["text"] for _, report in written]
    assert all(text.endswith(".") and "{" not in text and "  " not in text for text in texts)
    words = {word.strip(".,").lower() for text in texts for word in text.split()}
    assert len(words) < 400
    assert len({sentence for text in texts for sentence in text.rstrip(".").split(". ")}) > 150
    assert len(set(texts)) > 180
    forms = (report_text.FORMS, report_text.ONE, report_text.SEVERAL)
    assert sum(len(sentences) for part in forms for sentences, _ in part.values()) >= 60


def test_clinical_context_fits():
    rng = np.random.default_rng(0)
    nodule = [{"class_name": "Nodule/Mass"}]
    assert clinical_context(nodule, 60, "F", rng, is_follow_up=True)["indication"] == "follow-up"
    rows = [clinical_context(truth, 60, "F", rng) for truth in (nodule, []) for _ in range(300)]
    assert all(row["age_years"] == 60 and row["sex"] == "F" and row["indication"] for row in rows)
    sick, well = ([row["symptoms"] for row in part] for part in (rows[:300], rows[300:]))
    assert np.mean(["weight loss" in text or "coughing up blood" in text for text in sick]) > 0.4
    assert not any("weight loss" in text or "coughing up blood" in text for text in well)
    assert 0.3 < np.mean([text == "" for text in well]) < 0.5 and 0.01 < np.mean([text == "" for text in sick]) < 0.1
