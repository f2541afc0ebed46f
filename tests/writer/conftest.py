"""A tiny random language model, and one of the paper's architecture, for every test of the writer."""

from pathlib import Path

import pytest
import torch

from cliniqure_utils import training
from cliniqure_utils.writer import base_model, fine_tuning, lora
from cliniqure_utils.writer.batches import encode_labels, encode_pairs

CASES = Path(__file__).parents[3] / "shared" / "cases"


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def base(models_dir):
    """Function: (model, tokenizer, notes) of the tiny random model; n_labels makes it a classifier."""
    return lambda **kwargs: base_model.load_base(base_model.TINY, models_dir, **kwargs)


@pytest.fixture(scope="session")
def train(base, tmp_path_factory):
    """Function: task -> (model with a trained adapter, tokenizer, history)."""

    def run(task):
        torch.manual_seed(3)
        model, tokenizer, _ = base(n_labels=2 if task == "seq_cls" else None)
        model = lora.add_lora(model, task)
        if task == "seq_cls":
            items = encode_labels(tokenizer, ["fever cough", "back pain"] * 4, [0, 1] * 4, 32)
        else:
            items, _ = encode_pairs(tokenizer, [("Film?", "The lungs are clear.")] * 8, 64)
        plan = training.Plan(seed=1, epochs=4, batch_size=4, learning_rate=0.02, optimizer="adamw")
        folder = tmp_path_factory.mktemp("made")
        history = fine_tuning.fine_tune(model, tokenizer, items, plan, output_dir=folder, device="cpu")
        return model, tokenizer, history

    return run


@pytest.fixture(scope="session")
def trained_writer(train):
    return train("causal_lm")


@pytest.fixture(scope="session")
def trained_classifier(train):
    return train("seq_cls")


@pytest.fixture(scope="session")
def tiny_opt():
    """Function: the paper's architecture with random weights; its table has more rows than the tokenizer has tokens, as
    OPT's."""
    from transformers import OPTConfig, OPTForCausalLM

    def build(tokenizer, positions):
        torch.manual_seed(0)
        return OPTForCausalLM(OPTConfig(
            vocab_size=len(tokenizer) + 7, hidden_size=16, num_hidden_layers=2, ffn_dim=32, num_attention_heads=2,
            word_embed_proj_dim=16, max_position_embeddings=positions, pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, init_std=0.5,
        ))  # fmt: skip

    return build


@pytest.fixture
def cases():
    """Hand-made cases that not every checkout has."""
    if not CASES.is_dir():
        pytest.skip("../shared/cases is not there")
    return CASES
