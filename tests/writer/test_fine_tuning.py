"""Training a LoRA model on texts, and what a step costs."""

import json

import numpy as np
import pytest
import torch

from cliniqure_utils import training
from cliniqure_utils.writer import fine_tuning, lora
from cliniqure_utils.writer.batches import encode_pairs


def test_training_lowers_the_loss_and_repeats_itself(train, trained_writer):
    (first, _, history), (again, _, _) = trained_writer, train("causal_lm")
    assert history.loss.iloc[-1] < history.loss.iloc[0]
    for (name, a), b in zip(first.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_items_without_an_answer_are_left_out_and_counted_and_the_loss_stays_finite(base, tiny_opt, cases, tmp_path):
    _, tokenizer, _ = base()
    entries = json.loads((cases / "C61" / "sft.json").read_text(encoding="utf-8"))
    items, left_out = encode_pairs(tokenizer, [(entry["prompt"], entry["target"]) for entry in entries], 512)
    assert (len(items), left_out) == (1, 2)
    model = lora.add_lora(tiny_opt(tokenizer, positions=512), "causal_lm")
    plan = training.Plan(seed=1, max_steps=3, batch_size=2)
    history = fine_tuning.fine_tune(
        model, tokenizer, items, plan, output_dir=tmp_path / "ck", device="cpu", log_steps=1
    )
    assert len(history) == 3 and np.isfinite(history.loss).all()
    lora.save_adapter(model, tokenizer, tmp_path / "adapter")
    loaded = lora.load_adapter(tiny_opt(tokenizer, positions=512), tmp_path / "adapter", merge=False).eval()
    ids = torch.tensor([items[0]["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-5, rtol=1e-5)


def test_the_cost_of_a_step_counts_weights_gradients_and_adam(base):
    model, tokenizer, _ = base()
    items, _ = encode_pairs(tokenizer, [("Film?", "Clear."), ("And?", "No.")], 60)
    total = sum(p.numel() for p in model.parameters())
    full = fine_tuning.step_cost(model, tokenizer, items)
    assert full["trainable"] == total
    assert full["weights"] == full["gradients"] == pytest.approx(total * 4 / 1e6)
    assert full["optimizer"] == pytest.approx(2 * total * 4 / 1e6, rel=0.01)  # two moments, and a count per tensor
    adapted = lora.add_lora(base()[0], "causal_lm")
    thin = fine_tuning.step_cost(adapted, tokenizer, items)
    # Two layers, query 32 -> 32 and value 32 -> 16, rank 8.
    assert thin["trainable"] == 2 * (8 * (32 + 32) + 8 * (32 + 16))
    assert thin["gradients"] == pytest.approx(thin["trainable"] * 4 / 1e6) and thin["seconds"] > 0
