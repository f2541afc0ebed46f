"""`cliniqure pretrain`: parts, their files, and what it refuses."""

import json

import pytest
import torch

from cliniqure_utils import cmn, pretrained
from cliniqure_utils.cli import main
from cliniqure_utils.pretraining import command, films, writer
from cliniqure_utils.project import REPOSITORY, CannotStart, MissingWeights
from cliniqure_utils.vision import classification, detection
from cliniqure_utils.writer import base_model, lora


def test_unknown_parts_and_hours_are_refused(tmp_path, capsys):
    assert main(["pretrain", "--part", "ears"]) == 2
    assert "unknown part 'ears'; expected one of films, eyes, report, writer, card" in capsys.readouterr().err
    with pytest.raises(CannotStart, match="hours must be above 0, found 0"):
        command.pretrain("films", 0, work_dir=tmp_path)
    with pytest.raises(CannotStart, match="shards of films are missing: cliniqure pretrain --part films"):
        command.pretrain("eyes", 0.01, work_dir=tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_films_then_eyes_then_report_then_writer_make_parts_that_load(coarse, tmp_path, monkeypatch):
    for name, value in (
        ("FILMS_PER_HOUR", 4), ("CLASSIFIER_EPOCHS", 1), ("DETECTOR_EPOCHS", 1), ("REPORT_EPOCHS", 1)
    ):  # fmt: skip
        monkeypatch.setattr(command, name, value)
    monkeypatch.setattr(films, "SIZE", 64)
    where = dict(hours=1.0, n_jobs=1, work_dir=tmp_path / "work", folder=tmp_path / "pretrained")
    command.pretrain("films", **where)
    with pytest.raises(CannotStart, match="eyes are missing.*make them first: cliniqure pretrain --part eyes"):
        command.pretrain("report", **where)
    command.pretrain("eyes", **where)
    command.pretrain("report", **where)
    monkeypatch.setattr(writer, "BASE_MODEL", base_model.TINY)
    monkeypatch.setattr(writer, "LORA", dict(rank=2, alpha=4, dropout=0.0, n_layers=1, modules=("q_proj", "v_proj")))
    monkeypatch.setattr(writer, "PROMPT_TOKENS", 700)  # the tiny model's tokens are single letters
    monkeypatch.setattr(writer, "LENGTH", 900)
    command.pretrain("writer", **where)
    tiny, tokenizer, _ = base_model.load_base(base_model.TINY, REPOSITORY / "data" / "models")
    adapted = lora.pretrained_writer(tiny, where["folder"])
    listed = pretrained.settings_of("writer", where["folder"])
    assert listed["pairs"] > 300 and listed["seed"] == writer.SEED != films.SEED, "rows of the disease table are in it"
    lora.save_adapter(adapted, tokenizer, tmp_path / "adapter")
    assert lora.load_adapter(
        base_model.load_base(base_model.TINY, REPOSITORY / "data" / "models")[0], tmp_path / "adapter"
    )
    for part, build in (
        ("eyes", lambda: classification.build_classifier("seresnet_tiny", heatmap_weight=2.0)),
        (
            "detector",
            lambda: detection.build_detector(**pretrained.settings_of("detector", where["folder"])["settings"]),
        ),
    ):
        build().load_state_dict(pretrained.load_part(part, where["folder"]))
    assert cmn.load_pretrained(where["folder"]).config.image_size == 64
    for part in ("eyes", "detector", "report"):
        listed = pretrained.settings_of(part, where["folder"])
        assert (listed["films"], listed["epochs"], listed["hours"], listed["seed"]) == (4, 1, 1.0, films.SEED)


def test_a_part_is_read_as_it_was_saved(tmp_path):
    state = {"a.weight": torch.randn(8, 4), "a.bias": torch.randn(8), "n": torch.tensor(3)}
    pretrained.save_part("eyes", state, {"image_size": 64}, tmp_path)
    read = pretrained.load_part("eyes", tmp_path)
    assert torch.equal(read["a.bias"], state["a.bias"]) and torch.equal(read["n"], state["n"])
    assert read["a.weight"].dtype == torch.float32
    assert torch.equal(read["a.weight"], state["a.weight"].half().float())


def test_missing_and_damaged_parts_are_one_sentence(tmp_path):
    with pytest.raises(MissingWeights, match="pretrained.json does not list them"):
        pretrained.load_part("eyes", tmp_path)
    pretrained.save_part("eyes", {"w": torch.ones(4, 4)}, {}, tmp_path)
    path = tmp_path / "eyes.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(MissingWeights, match=r"eyes.safetensors are damaged"):
        pretrained.load_part("eyes", tmp_path)
    path.unlink()
    with pytest.raises(MissingWeights, match=r"eyes.safetensors are missing"):
        pretrained.load_part("eyes", tmp_path)
    pretrained.save_part("eyes", {"w": torch.ones(4, 4)}, {}, tmp_path)
    (tmp_path / "pretrained.json").write_text(json.dumps({})[:1])
    with pytest.raises(MissingWeights, match="does not list them"):
        pretrained.load_part("eyes", tmp_path)
