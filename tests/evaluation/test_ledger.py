"""The claim ledger: complete against the paper's tables, well-formed, and alive: it moves when a metric moves."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from cliniqure_utils.evaluation import facts
from cliniqure_utils.evaluation.ledger import (
    COLUMNS,
    FIXED_RULES,
    STATUSES,
    BadClaims,
    evidence_kind,
    fill_ledger,
    is_transcribed,
    parse_value,
    read_claims,
    same,
)
from cliniqure_utils.metrics import box_overlap, classification_intervals, classification_scores
from cliniqure_utils.runs import RunStep

# Every cell of Tables 1 to 7 that holds a number (Table 1 by row), with the value as the paper prints it.
TABLE_2 = [
    (0.0, 0.0, 2336.0, 2836.0, [14]),
    (0.0, 0.0, 1994.0, 2430.0, [14]),
    (900.0, 583.0, 1205.0, 890.0, [6, 7]),
    (932.0, 567.0, 1197.0, 896.0, [4, 8]),
    (0.0, 0.0, 3000.0, 3000.0, [14]),
]
TABLE_CELLS = {
    **{f"t1_row{n}": None for n in range(1, 7)},
    **{
        f"t2_row{n}_{column}": value
        for n, row in enumerate(TABLE_2, start=1)
        for column, value in zip(("x_min", "y_min", "x_max", "y_max", "class_labels"), row, strict=True)
    },
    "t3_resize": 224, "t3_rotate_probability": 0.5, "t3_flip_probability": 0.5, "t3_learning_rate": 1e-4,
    "t3_weight_decay": 1e-5, "t3_epochs": 100,
    "t4_channels": 2048, "t4_map_size": [7, 7], "t4_anchor_scales": [32, 64, 128, 256, 512],
    "t4_aspect_ratios": [0.5, 1.0, 2.0], "t4_roi_pool": 7,
    "t6_rank": 8, "t6_alpha": 32, "t6_dropout": 0.1, "t6_learning_rate": 2e-5, "t6_batch_size": 8,
    "t7_classification_precision": 0.83, "t7_classification_recall": 0.81, "t7_classification_f1": 0.81,
    "t7_iou": 0.75, "t7_dice": 0.76,
    "t7_bertscore_precision": 0.9739, "t7_bertscore_recall": 0.9940, "t7_bertscore_f1": 0.9838,
}  # fmt: skip


@pytest.fixture(scope="module")
def table():
    return read_claims()


def status(table, run_dir, claim_id, **more):
    row = fill_ledger(table[table.claim_id == claim_id], run_dir, **more).iloc[0]
    return row.value, row.status


def made_up(**cells):
    row = dict.fromkeys(COLUMNS, "") | {"claim_id": "x"} | cells
    return pd.DataFrame([row])


def test_every_number_of_the_tables_has_a_row(table):
    printed = table.set_index("claim_id").paper_value
    assert set(TABLE_CELLS) <= set(printed.index)
    for claim_id, value in TABLE_CELLS.items():
        if value is not None:
            assert parse_value(printed[claim_id]) == value, claim_id
    assert table.claim_id[table.source == "Table 5"].tolist() == ["t5_row1", "t5_row2", "t5_row3"]
    assert table.claim_id[table.source == "Table 1"].tolist() == [f"t1_row{n}" for n in range(1, 7)]


def test_every_contradiction_of_the_notes_has_a_row(table):
    assert {f"note_{n:02d}" for n in range(1, 29)} <= set(table.claim_id)


def test_the_table_is_well_formed(table):
    assert table.claim_id.is_unique
    assert (table[["source", "claim", "notebook", "evidence", "rule"]] != "").all(axis=None)
    assert table.notebook.str.fullmatch(r"0[1-7]_[a-z_]+").all()
    cited = table[table.evidence.str.startswith("cited:")]
    assert cited.rule.isin(["contradicted", "not_reproducible"]).all(), "a citation cannot be compared with a number"
    contradicted = table[table.rule == "contradicted"]
    assert (contradicted.evidence != "none").all(), "a contradiction needs evidence"


def test_every_claim_points_at_a_cell_that_is_there(table, repository):
    """A cell is named by its id. Computed values and settings are in code; a setting is in the parameters cell."""
    cells = {}
    for path in sorted((repository / "notebooks").glob("0*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            cells[path.stem, cell["id"]] = cell
    for row in table.itertuples():
        cell = cells.get((row.notebook, row.cell))
        assert cell is not None, f"{row.claim_id}: {row.notebook} has no cell {row.cell!r}"
        assert cell["cell_type"] == "code", row.claim_id
        if evidence_kind(row.evidence) == "setting":
            (name,) = {part.rsplit(".")[-1] for part in row.evidence.split(";")}
            assert re.search(rf"^{name} = ", "".join(cell["source"]), re.MULTILINE), f"{row.claim_id}: no {name} there"


def test_a_table_without_cells_is_read(table, tmp_path):
    table.drop(columns="cell").to_csv(tmp_path / "claims.csv", index=False)
    found = read_claims(tmp_path / "claims.csv")
    assert list(found.columns) == COLUMNS and (found.cell == "").all()


def test_no_full_image_id_is_in_the_table(table):
    assert not re.search(r"\b[0-9a-f]{32}\b", table.to_csv())


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("evidence", "02_detect:metric:x", "of no known kind"),
        ("evidence", "profile:paper:02_detect", "of no known kind"),
        ("evidence", "table2:6:x_min", "of no known kind"),
        ("evidence", "fact:unheard_of", "no fact 'unheard_of'"),
        ("rule", "nearly", "rule 'nearly' is not known"),
    ],
)
def test_a_broken_row_is_refused(table, tmp_path, column, value, message):
    table.head(1).assign(**{column: value}).to_csv(tmp_path / "claims.csv", index=False)
    with pytest.raises(BadClaims, match=message):
        read_claims(tmp_path / "claims.csv")


def test_duplicate_ids_and_missing_columns_are_refused(table, tmp_path):
    pd.concat([table.head(1)] * 2).to_csv(tmp_path / "claims.csv", index=False)
    with pytest.raises(BadClaims, match="t1_row1 is there twice"):
        read_claims(tmp_path / "claims.csv")
    table.drop(columns="rule").to_csv(tmp_path / "claims.csv", index=False)
    with pytest.raises(BadClaims, match="lacks the column rule"):
        read_claims(tmp_path / "claims.csv")


def test_an_empty_run_leaves_metrics_open_and_does_not_crash(table, tmp_path):
    ledger = fill_ledger(table, tmp_path)
    assert len(ledger) == len(table)
    assert set(ledger.status) <= set(STATUSES)
    from_run = ledger[ledger.evidence.str.contains(":metrics:") & ~ledger.rule.isin(FIXED_RULES)]
    assert len(from_run) >= 12
    assert (from_run.status == "not computed in this run").all() and (from_run.value == "").all()


def test_the_ledger_moves_when_a_metric_moves(table, tmp_path):
    folder = tmp_path / "07_evaluate"
    folder.mkdir()
    seen = {}
    for value in (0.78, 0.6, None):
        (folder / "metrics.json").write_text(json.dumps({"table7/iou": value}))
        seen[value] = status(table, tmp_path, "t7_iou")
    assert seen[0.78] == ("0.78", "reproduced")
    assert seen[0.6] == ("0.6", "not reproducible here")
    assert seen[None] == ("", "not computed in this run")


def test_a_simulated_run_says_so(table, tmp_path):
    (tmp_path / "01_preprocess").mkdir()
    (tmp_path / "01_preprocess" / "truth.csv").write_text("image_id\n")
    metrics = {"07_evaluate": {"table7/iou": 0.8}}
    assert status(table, tmp_path, "t7_iou", metrics=metrics) == ("0.8", "reproduced on simulated data")
    assert status(table, tmp_path, "t1_row3")[1] == "reproduced", "the packaged annotations are real"


def test_tables_1_and_2_come_out_of_the_packaged_annotations(table, tmp_path):
    rows = table[table.source.isin(["Table 1", "Table 2"])]
    ledger = fill_ledger(rows, tmp_path).set_index("claim_id")
    sizes = [f"t2_row{n}_{c}" for n in (1, 2, 5) for c in ("x_max", "y_max")]
    assert (ledger.status.drop(sizes) == "reproduced").all()
    assert (ledger.status[sizes] == "not reproducible here").all(), "film sizes are not in the annotations"
    assert ledger.value["t2_row3_x_max"] == "1205.0" and ledger.value["t2_row4_class_labels"] == "[4, 8]"


def test_settings_are_read_from_the_profile_and_the_parameters_cell(table, tmp_path):
    cell = {
        "cell_type": "code",
        "metadata": {"tags": ["parameters"]},
        "source": 'backbone = "tiny"  # trunk\nroi_pool_size = 7\n',
    }
    (tmp_path / "02_detect.ipynb").write_text(json.dumps({"cells": [cell]}))
    (tmp_path / "profiles").mkdir()
    profile = tmp_path / "profiles" / "paper.yaml"

    profile.write_text("02_detect:\n  backbone: resnet50\n")
    assert status(table, tmp_path, "t4_backbone", notebooks_dir=tmp_path) == ("resnet50", "reproduced")
    assert status(table, tmp_path, "t4_roi_pool", notebooks_dir=tmp_path) == ("7", "reproduced")
    profile.write_text("02_detect:\n  backbone: resnet18\n")
    assert status(table, tmp_path, "t4_backbone", notebooks_dir=tmp_path) == ("resnet18", "not reproducible here")
    # Half of a joined evidence is missing: notebook 03 is not there.
    assert status(table, tmp_path, "t3_resize", notebooks_dir=tmp_path)[1] == "not computed in this run"


def test_table_cells_and_settings_are_told_from_results(table, tmp_path):
    kinds = table.evidence.map(evidence_kind)
    assert (evidence_kind("table1:3"), evidence_kind("table2:1:x_min")) == ("table cell", "table cell")
    transcribed = is_transcribed(kinds)
    assert transcribed.sum() == (kinds == "setting").sum() + table.evidence.str.startswith(("table1:", "table2:")).sum()
    assert not transcribed[table.source == "Table 7"].any()


def test_what_is_true_of_the_whole_data_set_is_not_called_contradicted(table, tmp_path):
    for claim, value in (("text_images", "15000"), ("text_findings", "14")):
        assert status(table, tmp_path, claim) == (value, "not reproducible here")


def test_contradictions_rest_on_values(table, tmp_path):
    values = fill_ledger(table[table.claim_id.str.startswith("note_")], tmp_path).set_index("claim_id")
    assert values.value["note_13"] == "0.8571"
    assert values.value["note_14"] == "0.08782"
    assert values.value["note_06"] == "0.5743"
    contradicted = values[values.status == "contradicted"]
    assert (contradicted.value != "").all()
    assert set(contradicted.evidence_kind) == {"computed", "cited"}


@pytest.mark.parametrize(
    ("value", "printed", "equal"),
    [
        (224, 224, True),
        (0.00001, 1e-5, True),
        ("seresnet50", "SE-ResNet50", True),
        ("resnet101", "ResNet-50", False),
        ([0.5, 1.0, 2.0], [0.5, 1, 2], True),
        ([6, 7], [7, 6], False),
        (True, True, True),
        (1, True, False),
    ],
)
def test_same(value, printed, equal):
    assert same(value, printed) is equal


def test_rules_compare_with_their_sign():
    metrics = {"07_evaluate": {"a": 0.5}}
    outcome = {}
    for rule, printed in [("at_least", "0.5"), ("at_least", "0.51"), ("at_most", "0.49"), ("within:0.02", "0.52")]:
        row = made_up(evidence="07_evaluate:metrics:a", rule=rule, paper_value=printed)
        outcome[rule, printed] = fill_ledger(row, "nowhere", metrics=metrics).status[0]
    assert outcome == {
        ("at_least", "0.5"): "reproduced",
        ("at_least", "0.51"): "not reproducible here",
        ("at_most", "0.49"): "not reproducible here",
        ("within:0.02", "0.52"): "reproduced",
    }


def test_the_stress_panel_is_a_fact_and_not_a_result_of_this_run(table):
    outcome = {}
    for share in (0.02, 0.9):
        measured = {"07_evaluate": {"stress/bertscore_raw/negation_flip": share}}
        outcome[share] = status(table, "nowhere", "text_semantics", metrics=measured)
    assert outcome == {0.02: ("0.02", "contradicted"), 0.9: ("0.9", "reproduced")}
    assert status(table, "nowhere", "text_semantics")[1] == "not computed in this run"


def test_a_lie_in_a_prediction_file_moves_the_number_the_interval_and_the_ledger(table, tmp_path):
    """The files of a small run, scored as notebook 07 scores them; then one is changed by hand, as a cheat would."""
    box, n = ["x_min", "y_min", "x_max", "y_max"], 40
    ids = [f"film{i:02d}" for i in range(n)]
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 500, (n, 2))
    truth = pd.DataFrame(np.c_[corners, corners + 200], columns=box).assign(image_id=ids, class_name="Nodule/Mass")
    said = truth.assign(score=rng.uniform(0.5, 1, n))
    said[box] = said[box] + rng.uniform(8, 20, (n, 1))  # honest boxes lie beside the truth
    there = rng.random((n, 15)) < 0.2
    decided = there ^ (rng.random((n, 15)) < 0.15)

    def write(folder, boxes, decisions):
        for step in ("01_preprocess", "02_detect", "03_classify"):
            (folder / step).mkdir(parents=True)
        boxes.to_csv(folder / "02_detect" / "predictions.csv", index=False)
        pd.DataFrame(decisions.astype(float)).to_csv(folder / "03_classify" / "probabilities.csv", index=False)

    def evaluate(folder):
        boxes = pd.read_csv(folder / "02_detect" / "predictions.csv")
        answers = pd.read_csv(folder / "03_classify" / "probabilities.csv").to_numpy() >= 0.5
        overlap = box_overlap(references=truth, predictions=boxes, image_ids=ids, definition="matched", n_resamples=200)
        scores = classification_scores(references=there, predictions=answers)
        intervals = classification_intervals(references=there, predictions=answers, n_resamples=200)
        found = {"table7/iou": overlap["iou"], "table7/classification_f1": scores["micro_f1"]}
        ledger = fill_ledger(table, folder, metrics={"07_evaluate": found}).set_index("claim_id")
        return overlap, scores["micro_f1"], intervals["micro_f1"], ledger

    write(tmp_path / "honest", said, decided)
    write(tmp_path / "lie", said, decided)
    file = tmp_path / "lie" / "02_detect" / "predictions.csv"
    file.write_text(truth.assign(score=1.0)[said.columns].to_csv(index=False))  # "our detector is perfect"
    file = tmp_path / "lie" / "03_classify" / "probabilities.csv"
    file.write_text(pd.DataFrame(there.astype(float)).to_csv(index=False))

    before, after = evaluate(tmp_path / "honest"), evaluate(tmp_path / "lie")
    assert 0.7 < before[0]["iou"] < 0.8 and after[0]["iou"] == 1
    assert (after[0]["iou_low"], after[0]["iou_high"]) == (1, 1) and before[0]["iou_high"] < 1
    assert before[1] < 0.8 and after[1] == 1 and after[2] == (1, 1) and before[2][1] < 1
    moved = before[3].status != after[3].status
    assert set(moved.index[moved]) == {"t7_classification_f1", "t7_iou"}
    assert after[3].status["t7_classification_f1"] == "reproduced"
    assert before[3].status["t7_classification_f1"] == "not reproducible here"
    assert after[3].value["t7_iou"] == "1.0" != before[3].value["t7_iou"]
    # IoU 1 is not the paper's .75 either: a lie that is too good is caught by the tolerance.
    assert (before[3].status["t7_iou"], after[3].status["t7_iou"]) == ("reproduced", "not reproducible here")


def test_facts_of_the_demo_chain(tmp_path):
    """Prompts are checked word by word against the symptoms they should carry."""
    for step in ("01_preprocess", "06_generate_report"):
        (tmp_path / step).mkdir()
    clinical = pd.DataFrame({"image_id": ["a", "b", "c"], "symptoms": ["fever, cough", "headache", ""]})
    clinical.to_csv(tmp_path / "01_preprocess" / "clinical.csv", index=False)
    ask = "Give the causes, symptoms, diagnostic methods and treatment options."
    prompts = [
        {"prompt_id": "p1", "image_id": "a", "prompt": f"Symptoms: Fever, cough. {ask}"},
        {"prompt_id": "p2", "image_id": "b", "prompt": f"Symptoms: none. {ask}"},
        {"prompt_id": "p3", "image_id": "c", "prompt": ask},
    ]
    path = tmp_path / "06_generate_report" / "prompts.jsonl"
    path.write_text("".join(json.dumps(p) + "\n" for p in prompts))
    assert facts.prompts_with_symptoms(tmp_path) == 0.5
    assert facts.prompts_ask_for_all_four(tmp_path) is True
    path.write_text(json.dumps(prompts[0] | {"prompt": "Describe the film."}) + "\n")
    assert facts.prompts_ask_for_all_four(tmp_path) is False


def test_a_half_written_film_of_a_killed_run_is_never_looked_at(tmp_path):
    """A run that was killed while films were converted once stopped in its last notebook."""
    from PIL import Image

    step = RunStep(tmp_path, "01_preprocess")
    (step.dir / "images").mkdir()
    Image.new("L", (64, 64), 200).save(step.dir / "images" / "film.png")
    half = step.dir / "images" / ".d0d68abd.film.png"
    half.write_bytes(b"\x89PNG")
    pd.DataFrame({"image_id": ["film"], "rows": 64, "columns": 64}).to_csv(step.dir / "index.csv", index=False)
    assert facts.films_are_scaled(tmp_path) is True
    other = step.dir / "images" / ".hidden.png"
    other.write_bytes(b"mine")
    (step.dir / ".0a1b2c3d.folder").mkdir()
    (step.dir / ".0a1b2c3d.folder" / "part").touch()
    RunStep(tmp_path, "01_preprocess")
    assert not half.exists() and not (step.dir / ".0a1b2c3d.folder").exists(), "the run that goes on clears them away"
    assert other.read_bytes() == b"mine" and (step.dir / "images" / "film.png").is_file()
