"""The profiles for real data, `paper` and `beyond`, through all seven notebooks, on films as real data comes.

Real data is a table of the readers' boxes and a folder of films: no truth, no reports, no clinical table. The films are
the smoke cohort's; for OPT-1.3B, which cannot be had without a network, stands a random OPT of two narrow layers.

This file is also the program that makes such a run: `python test_profiles_for_real_data.py paper|beyond`, in an empty
folder. The tests start it in the background and look at what it left (conftest.py).
"""

import json
import math
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cliniqure_utils.course.chain.parameters import resolve
from cliniqure_utils.notebooks import find_notebooks, read_profile
from cliniqure_utils.runs import STEPS

pytestmark = [pytest.mark.chain, pytest.mark.timeout(900)]

REPOSITORY = Path(__file__).resolve().parents[2]
LAYOUT = {"paper": "kaggle", "beyond": "physionet"}
# Shares of what a few films and an untrained model may not have: boxes above the threshold, findings named or denied;
# and comparisons with the pretrained writer, who is SmolLM2's alone.
MAY_BE_MISSING = re.compile(r"wrong_side|hallucination|text/pretrained_|(?:iou|dice)(?:_matched)?$")

# All that differs from the profiles, and why.
STAND_INS = {  # what is downloaded
    "02_detect.weights": None,
    "03_classify.weights": None,
    "04_crude_report.trunk_weights": None,
    "05_finetune_llm.base_model": "opt",  # made in the rehearsal's folder
    "06_generate_report.base_model": "opt",
    "05_finetune_llm.disease_table": "../data/diseases.csv",
}
ONE_STEP = {  # as many training films as one step takes
    "02_detect.n_epochs": 1,
    "03_classify.n_epochs": 1,
    "04_crude_report.n_steps": 1,
    "05_finetune_llm.seq_cls_epochs": 1,
    "05_finetune_llm.causal_steps": 2,  # notebook 05 writes the loss down at every second step
    "05_finetune_llm.least_rows": 10,  # our own table
}
SMALL = {  # what would take minutes on two cores
    "01_preprocess.max_images": 24,
    "02_detect.image_size": 96,
    "02_detect.head_width": 64,  # of 1024: without a neck 103 of 165 million weights are one layer of it, 2 GB on disk
    "02_detect.n_resamples": 50,
    "03_classify.image_size": 96,
    "03_classify.n_resamples": 50,
    "04_crude_report.visual_extractor": "resnet50",  # of resnet101: each film is seen twice at 224 pixels
    "04_crude_report.batch_size": 4,
    "04_crude_report.max_train_images": 4,
    "04_crude_report.memory_slots": 256,  # of 2048: every word looks at all of them, in every beam
    "04_crude_report.max_length": 30,  # of 100: a model after one step writes to the end
    "06_generate_report.max_new_tokens": 16,  # of 160: so does a random OPT
    "07_evaluate.n_random_pairs": 50,
    "07_evaluate.n_resamples": 50,
    "07_evaluate.n_stress_reports": 2,
}
OWN = {
    "paper": {"02_detect.max_train_images": 4, "03_classify.max_train_images": 4},
    "beyond": {
        "01_preprocess.cache_size": 128,
        "02_detect.max_train_images": 8,
        "02_detect.rois_per_image": 32,
        "03_classify.max_train_images": 16,
    },
}


def overrides_of(profile: str) -> dict:
    return STAND_INS | ONE_STEP | SMALL | OWN[profile]


def main(profile: str) -> int:
    """Make the data and the small OPT in the current folder, and run the chain into its folder `run`."""
    from cliniqure_utils import cli

    folder = Path.cwd()
    data = as_real_data(smoke_cohort(), folder / "data", LAYOUT[profile])
    save_small_opt(folder / "opt")
    command = ["run", "--profile", profile, "--run-dir", "run", "--data-dir", str(data)]
    for name, value in overrides_of(profile).items():
        value = str(folder / "opt") if value == "opt" else value
        command += ["--set", f"{name}={'null' if value is None else value}"]
    return cli.main(command)


def smoke_cohort() -> Path:
    """The cohort that notebook 01 makes with the profile `smoke`; made here when it is not there yet."""
    from cliniqure_utils import cohort

    notebooks = REPOSITORY / "notebooks"
    values = resolve(find_notebooks(notebooks), read_profile(notebooks / "profiles", "smoke"), {})["01_preprocess"]
    data_dir, anatomy_dir = (notebooks / values[name] for name in ("data_dir", "anatomy_dir"))
    cohort.ensure_cohort(data_dir, values["n_patients"], values["cohort_size"], values["cohort_seed"], 1, anatomy_dir)
    return data_dir


def as_real_data(source: Path, target: Path, layout: str) -> Path:
    """A copy of a cohort's films and readers' boxes, and of nothing else, in Kaggle's or PhysioNet's layout."""
    shutil.copytree(source / "train", target / "train")
    if layout == "kaggle":
        shutil.copy(source / "train.csv", target)
        return target
    rows = pd.read_csv(source / "train.csv", dtype=str, keep_default_na=False)
    (target / "annotations").mkdir()
    rows.drop(columns="class_id").to_csv(target / "annotations" / "annotations_train.csv", index=False)
    labels = rows[["image_id", "rad_id"]].drop_duplicates().assign(Pneumonia=0, Tuberculosis=0)
    normal = rows[rows.class_name == "No finding"].set_index(["image_id", "rad_id"]).index
    labels["No finding"] = [int(pair in normal) for pair in zip(labels.image_id, labels.rad_id, strict=True)]
    labels["Other diseases"] = 1 - labels["No finding"]
    labels.to_csv(target / "annotations" / "image_labels_train.csv", index=False)
    return target


def save_small_opt(folder: Path) -> None:
    """A random OPT and a tokenizer of OPT's kind: byte-level pairs, </s> at both ends, more embeddings than tokens."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tables = [(REPOSITORY / "data" / name).read_text(encoding="utf-8") for name in ("diseases.csv", "knowledge.csv")]
    backend.train_from_iterator(tables, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="</s>", eos_token="</s>", pad_token="<pad>", unk_token="</s>",
        model_max_length=2048,
    )  # fmt: skip
    config = OPTConfig(
        vocab_size=len(tokenizer) + 7, hidden_size=32, word_embed_proj_dim=32, num_hidden_layers=2, ffn_dim=64,
        num_attention_heads=4, max_position_embeddings=2048, pad_token_id=1, bos_token_id=2, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    OPTForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def check_end(run) -> None:
    assert run.returncode == 0, run.log[-8000:]
    assert run.blocked == "", "something tried to reach a network"
    entries = json.loads((run.run_dir / "run.json").read_text())["notebooks"]
    assert list(entries) == list(STEPS) and {entry["status"] for entry in entries.values()} == {"done"}


def check_parameters(run, profile: str) -> None:
    """Each notebook ran with the profile's parameters, but for the named exceptions."""
    notebooks = find_notebooks(REPOSITORY / "notebooks")
    wanted = resolve(notebooks, read_profile(REPOSITORY / "notebooks" / "profiles", profile), {})
    for name, value in overrides_of(profile).items():
        notebook, parameter = name.split(".")
        assert wanted[notebook][parameter] != value, f"{name} is as in the profile and no exception"
        wanted[notebook][parameter] = str(run.folder / "opt") if value == "opt" else value
    entries = json.loads((run.run_dir / "run.json").read_text())["notebooks"]
    for name, entry in entries.items():
        places = {"run_dir": entry["parameters"]["run_dir"], "data_dir": entry["parameters"]["data_dir"]}
        assert entry["profile"] == profile and entry["parameters"] == wanted[name] | places, name


def check_numbers(run) -> None:
    """What any run has whatever its films, is there and finite; and nothing was written that only a cohort has."""
    metrics = {}
    for name in STEPS:
        metrics |= json.loads((run.run_dir / name / "metrics.json").read_text())
    missing = [name for name, value in metrics.items() if value is None or not math.isfinite(value)]
    assert not [name for name in missing if not MAY_BE_MISSING.search(name)]
    for name in ("02_detect", "03_classify", "04_crude_report", "05_finetune_llm"):
        history = pd.read_csv(run.run_dir / name / "history.csv")
        assert len(history) and np.isfinite(history.loss.dropna()).all() and history.loss.notna().any(), name
    reports = [json.loads(line) for line in open(run.run_dir / "01_preprocess" / "reference_reports.jsonl")]
    assert len(reports) == SMALL["01_preprocess.max_images"] == metrics["data/n_images"]
    assert {report["source"] for report in reports} == {"labels"}
    assert not (run.run_dir / "01_preprocess" / "truth.csv").exists()
    splits = pd.read_csv(run.run_dir / "01_preprocess" / "splits.csv", dtype=str, keep_default_na=False)
    crude = [json.loads(line)["image_id"] for line in open(run.run_dir / "04_crude_report" / "crude_reports.jsonl")]
    assert sorted(crude) == sorted(splits.image_id[splits.split != "train"])
    written = [json.loads(line) for line in open(run.run_dir / "06_generate_report" / "reports.jsonl")]
    test = set(splits.image_id[splits.split == "test"])  # n_films: null means all of them
    for system in ("base", "seq_cls", "causal_lm", "template"):
        assert {report["image_id"] for report in written if report["system"] == system} == test, system


def test_paper_runs_through_all_seven_notebooks_on_data_as_kaggle_has_it(paper_run):
    check_end(paper_run)
    check_parameters(paper_run, "paper")
    check_numbers(paper_run)


def test_beyond_runs_through_all_seven_notebooks_on_data_as_physionet_has_it(beyond_run):
    check_end(beyond_run)
    check_parameters(beyond_run, "beyond")
    check_numbers(beyond_run)
    assert (beyond_run.run_dir / "01_preprocess" / "global_labels.csv").is_file()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
