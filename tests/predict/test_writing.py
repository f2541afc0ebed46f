"""Reports as data: facts, checked prose and table text, by the settings of the run."""

import json

from cliniqure_utils.predict.writing import read_settings
from cliniqure_utils.vocabulary import CLASSES, DISCLAIMER


def test_the_report_is_facts_checked_prose_and_table_text(predicted, run_dir):
    report = json.loads((predicted[1] / "one_report.json").read_text())
    settings = read_settings(run_dir)
    assert report["disclaimer"] == DISCLAIMER and report["image_id"] == "one"
    assert report["film"] == {
        "rows": 120, "columns": 90, "view": "PA", "age_years": None, "sex": "F", "notes": [],
    }  # fmt: skip
    assert [entry["name"] for entry in report["findings"]] == list(CLASSES)
    for entry in report["findings"]:
        assert entry["present"] == (entry["probability"] >= 0.4 == settings.thresholds[entry["name"]])
    assert all(box["score"] >= settings.box_threshold for box in report["boxes"])
    assert len({(box["class_name"], box["place"]) for box in report["boxes"]}) == len(report["boxes"])
    present = [e["name"] for e in report["findings"] if e["present"] and e["name"] != "No finding"]
    assert all(name.split("/")[0].split()[-1].lower() in report["report"]["facts"].lower() for name in present)
    assert report["report"]["system"] == "base" and report["report"]["checked"]
    assert report["symptoms"] == "cough & fever"  # marks that a prompt or a page could mistake for its own are gone
    assert report["made_by"]["simulated"] is True
