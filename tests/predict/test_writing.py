"""Reports as data: facts, checked prose and table text, by the settings of the run."""

import json
import shutil

import pytest

from cliniqure_utils.predict.writing import read_settings
from cliniqure_utils.project import CannotStart
from cliniqure_utils.runs import write_json
from cliniqure_utils.vocabulary import CLASSES, DISCLAIMER


def test_the_report_is_facts_checked_prose_and_table_text(predicted, run_dir):
    report = json.loads((predicted[1] / "one_report.json").read_text())
    settings = read_settings(run_dir)
    assert report["disclaimer"] == DISCLAIMER and report["image_id"] == "one"
    assert report["film"] == {
        "rows": 120, "columns": 90, "view": "PA", "age_years": None, "sex": "F", "notes": [],
        "unfamiliar": None, "warning": "",
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


def test_a_run_of_an_earlier_version_is_not_read_with_the_parameters_of_another(run_dir, tmp_path):
    """It kept all parameters in one place of run.json; its thresholds are for probabilities that are not calibrated."""
    run = tmp_path / "run"
    shutil.copytree(run_dir, run)
    record = json.loads((run / "run.json").read_text())
    del record["notebooks"]["06_generate_report"]  # run by hand: the notebook's own parameters
    write_json(run / "run.json", record)
    assert read_settings(run).max_new_tokens == 56 != read_settings(run_dir).max_new_tokens
    record["notebooks"]["07_evaluate"].pop("parameters")
    write_json(run / "run.json", record | {"parameters": {"07_evaluate": {"report_system": "base"}}})
    with pytest.raises(CannotStart, match="run.json of run does not say with which parameters 07_evaluate ran"):
        read_settings(run)
