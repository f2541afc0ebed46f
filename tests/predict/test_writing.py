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
    prose = report["report"]
    assert prose["prompt"].startswith("Patient: ") and prose["left_out_of_prompt"] >= 0
    written = [entry["sentence"] for entry in prose["checked"]]
    kept = [entry["sentence"] for entry in prose["verified"] if entry["origin"] == "model"]
    assert sorted(kept + [entry["sentence"] for entry in prose["set_aside"]]) == sorted(written), "a sentence is lost"
    assert report["symptoms"] == "cough & fever"  # marks that a prompt or a page could mistake for its own are gone
    assert report["made_by"]["simulated"] is True


def test_a_run_of_an_earlier_version_is_not_read_with_the_parameters_of_another(run_dir, tmp_path):
    """It kept all parameters in one place of run.json; its thresholds are for probabilities that are not calibrated."""
    run = tmp_path / "run"
    shutil.copytree(run_dir, run)
    record = json.loads((run / "run.json").read_text())
    del record["notebooks"]["06_generate_report"]  # run by hand: the notebook's own parameters
    write_json(run / "run.json", record)
    assert read_settings(run).max_new_tokens != read_settings(run_dir).max_new_tokens
    record["notebooks"]["07_evaluate"].pop("parameters")
    write_json(run / "run.json", record | {"parameters": {"07_evaluate": {"report_system": "base"}}})
    with pytest.raises(CannotStart, match="run.json of run does not say with which parameters 07_evaluate ran"):
        read_settings(run)


def test_the_writer_is_the_one_that_notebook_07_names_or_the_best_that_the_run_has(run_dir, tmp_path):
    def system(wanted, *adapters):
        run = tmp_path / f"{wanted}{len(adapters)}"
        shutil.copytree(run_dir, run)
        shutil.rmtree(run / "05_finetune_llm", ignore_errors=True)
        for name in adapters:
            (run / "05_finetune_llm" / "adapter" / name).mkdir(parents=True)
            (run / "05_finetune_llm" / "adapter" / name / "adapter_model.safetensors").write_bytes(b"")
        record = json.loads((run / "run.json").read_text())
        record["notebooks"]["07_evaluate"]["parameters"]["report_system"] = wanted
        write_json(run / "run.json", record)
        return read_settings(run).system

    assert system(None, "causal_lm", "causal_lm_pretrained") == "causal_lm_pretrained"
    assert system(None, "causal_lm") == "causal_lm", "a run on another base model has no pretrained writer"
    assert system("base", "causal_lm", "causal_lm_pretrained") == "base"
