"""Checkpoints of the public code and our own folder: what opens, and why something does not."""

import json
import pickle

import numpy as np
import pytest
import torch

from cliniqure_utils import cmn
from cliniqure_utils.cmn.patches import TinyPatches
from cliniqure_utils.project import MissingWeights

SIZES = dict(d_vf=3, d_model=8, d_ff=12, num_heads=2, num_layers=2, topk=3, cmm_size=7, cmm_dim=8, threshold=1)


@pytest.fixture
def published(tmp_path, small_model, vocabulary, official_state):
    """(model, annotation.json, state dict with the published names)."""
    model = small_model(4)
    annotation = tmp_path / "annotation.json"
    text = " ".join(word for word in vocabulary if word not in ("<unk>", "."))
    annotation.write_text(json.dumps({"train": [{"report": text}]}))
    return model, annotation, official_state(model)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_checkpoints_of_the_public_code_load(published, tmp_path, zipped, prefix, features_for, pool):
    model, annotation, state = published
    wrapper = {"epoch": 3, "state_dict": {prefix + key: value for key, value in state.items()}}
    wrapper["monitor_best"] = np.float64(0.1)  # ROUGE-L as the trainer's metric is a numpy number
    wrapper["optimizer"] = torch.optim.Adam(model.parameters()).state_dict()
    torch.save(wrapper, tmp_path / "best.pth", _use_new_zipfile_serialization=zipped)
    loaded = cmn.load_r2gencmn(tmp_path / "best.pth", annotation, visual_extractor=pool, max_length=9, **SIZES)
    assert not loaded.training and loaded.tokenizer.words == model.tokenizer.words
    features = features_for(model, 4)
    assert loaded.generate(features=features).tolist() == model.generate(features=features).tolist()
    torch.save(state, tmp_path / "bare.pth")
    bare = cmn.load_r2gencmn(tmp_path / "bare.pth", annotation, visual_extractor=pool, **SIZES)
    assert bare.config.max_length == 100
    torch.testing.assert_close(bare.state_dict(), loaded.state_dict())


class Runs:
    def __reduce__(self):
        return (print, ("code ran while a checkpoint was opened",))


def test_unusable_checkpoints_say_why(published, tmp_path, capsys, pool):
    model, annotation, state = published
    path = tmp_path / "model.pth"

    def refused(message, sizes=SIZES, error=cmn.BadCheckpoint):
        with pytest.raises(error, match=message) as caught:
            cmn.load_r2gencmn(path, annotation, visual_extractor=pool, **sizes)
        assert "\n" not in str(caught.value) and str(tmp_path) not in str(caught.value)

    refused("does not exist", error=FileNotFoundError)
    for zipped in (True, False):
        torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=zipped)
        whole = path.read_bytes()
        for share in (0.1, 0.5, 0.95):
            path.write_bytes(whole[: int(len(whole) * share)])
            refused("damaged, cut short")
    path.write_bytes(b"")
    refused("damaged, cut short")
    path.write_bytes(b"this is text, not a checkpoint\n" * 9)
    refused("damaged, cut short")
    path.write_bytes(pickle.dumps({"state_dict": Runs()}, protocol=2))
    refused("could run code")
    torch.save({"state_dict": state, "extra": Runs()}, path)
    refused("could run code")
    assert capsys.readouterr().out == ""

    torch.save({"state_dict": state}, path)
    refused("trained with 11 words, but annotation.json gives 1 .*threshold 10.*iu_xray", SIZES | {"threshold": 10})
    refused("decoder.2.* given sizes|given sizes.*3 layers.*no tensor for", SIZES | {"num_layers": 3})
    refused("has no place", SIZES | {"num_layers": 1})
    refused(r"shape \(7, 8\), expected \(6, 8\)", SIZES | {"cmm_size": 6})

    twins = dict(state)
    twins["encoder_decoder.model.cmn.linears.0.bias"] = state["encoder_decoder.cmn.linears.0.bias"] + 1
    torch.save(twins, path)
    refused("differs from its twin")
    torch.save({"encoder_decoder.model.rm.attn.weight": torch.zeros(2)}, path)
    refused("R2Gen")
    torch.save([1, 2], path)
    refused("no state dict")


def test_our_own_folder_round_trips(tmp_path, small_model, pool, vocabulary):
    torch.manual_seed(0)
    config = cmn.CMNConfig(
        visual_extractor="tiny", d_vf=TinyPatches().channels, d_model=8, d_ff=8, num_heads=2, num_layers=1, topk=2,
        cmm_size=4, cmm_dim=8, max_length=5,
    )  # fmt: skip
    model = cmn.R2GenCMN(cmn.Tokenizer(vocabulary), config).eval()
    cmn.save(model, tmp_path / "made")
    assert sorted(p.name for p in (tmp_path / "made").iterdir()) == [
        "config.json",
        "model.safetensors",
        "vocabulary.json",
    ]
    again = cmn.load(tmp_path / "made")
    images = torch.randn(2, 3, 224, 224)
    assert again.config == config and again.tokenizer.words == model.tokenizer.words
    assert again.generate(images).tolist() == model.generate(images).tolist()

    weights = tmp_path / "made" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(cmn.BadCheckpoint, match="model.safetensors does not fit"):
        cmn.load(tmp_path / "made")
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="made/model.safetensors is missing: run notebooks/04_crude"):
        cmn.load(tmp_path / "made")
    cmn.save(small_model(), tmp_path / "custom")
    with pytest.raises(cmn.BadCheckpoint, match="visual extractor of the caller"):
        cmn.load(tmp_path / "custom")
    assert cmn.load(tmp_path / "custom", pool).config.visual_extractor == "custom"


def test_our_own_pretrained_model_is_missing_where_nothing_lists_it(tmp_path):
    with pytest.raises(MissingWeights, match="pretrained weights report are missing"):
        cmn.load_pretrained(tmp_path)
