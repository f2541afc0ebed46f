"""LoRA on the upper layers: the states below are worked out once, and nothing else changes."""

import numpy as np
import pytest
import torch

from cliniqure_utils import training
from cliniqure_utils.writer import fine_tuning, lora, upper
from cliniqure_utils.writer.batches import encode_labels, encode_pairs


def items_of(task, tokenizer):
    if task == "seq_cls":
        return encode_labels(tokenizer, ["fever and cough", "back pain", "tired"] * 2, [0, 1, 2] * 2, 32)
    pairs = [(f"Film {n}?" * (n + 1), "The lungs are clear. " * (n % 3 + 1)) for n in range(6)]
    return encode_pairs(tokenizer, pairs, 120)[0]


@pytest.mark.parametrize("task", ["causal_lm", "seq_cls"])
def test_states_worked_out_once_give_the_losses_and_weights_of_the_plain_way(base, tmp_path, task):
    found = {}
    for plain in (True, False):
        torch.manual_seed(3)
        model, tokenizer, _ = base(n_labels=3 if task == "seq_cls" else None)
        model = lora.add_lora(model, task, dropout=0.0, n_layers=1)
        items = items_of(task, tokenizer)
        plan = training.Plan(seed=1, epochs=2, batch_size=3, learning_rate=0.01, optimizer="adamw")
        history = fine_tuning.fine_tune(
            model, tokenizer, items, plan, items[:4], plain, output_dir=tmp_path / str(plain), device="cpu", log_steps=1
        )
        weights = {name: value for name, value in model.state_dict().items() if "lora_" in name}
        found[plain] = history, weights
        assert len(model.get_base_model().model.layers) == 2, "the model is whole again"
    (plain, weights), (once, same) = found[True], found[False]
    assert len(plain) == 4 and plain.loss.iloc[-1] < plain.loss.iloc[0]
    np.testing.assert_allclose(once.loss, plain.loss, rtol=1e-5)
    np.testing.assert_allclose(once.held_out_loss.dropna(), plain.held_out_loss.dropna(), rtol=1e-5)
    assert weights.keys() == same.keys() and all(".layers.1." in name for name in weights)
    for name, value in weights.items():
        torch.testing.assert_close(same[name], value, rtol=0, atol=1e-5)


def test_an_adapter_of_upper_layers_is_saved_and_comes_back(base, tmp_path):
    model, tokenizer, _ = base()
    model = lora.add_lora(model, "causal_lm", n_layers=1)
    items = items_of("causal_lm", tokenizer)
    fine_tuning.fine_tune(
        model, tokenizer, items, training.Plan(seed=1, max_steps=2, batch_size=3, learning_rate=0.05),
        output_dir=tmp_path / "ck", device="cpu",
    )  # fmt: skip
    lora.save_adapter(model, tokenizer, tmp_path / "adapter")
    ids = torch.tensor([items[5]["input_ids"]])
    with torch.no_grad():
        expected = model.eval()(input_ids=ids).logits
        loaded = lora.load_adapter(base()[0], tmp_path / "adapter").eval()(input_ids=ids).logits
        untouched = base()[0].eval()(input_ids=ids).logits
    torch.testing.assert_close(loaded, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(untouched, expected, atol=1e-3)


def test_padding_is_on_the_left_and_positions_count_real_tokens():
    items = [{"states": torch.ones(2, 3), "labels": [-100, 7]}, {"states": torch.ones(4, 3), "labels": [-100, 5, 6, 7]}]
    batch = upper.pad_states(items)
    assert batch["attention_mask"].tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    assert batch["position_ids"].tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]
    assert batch["labels"].tolist() == [[-100, -100, -100, 7], [-100, 5, 6, 7]]
    assert batch["inputs_embeds"][0, :, 0].tolist() == [0, 0, 1, 1]


def test_a_model_whose_positions_enter_below_the_layers_is_not_cut(base, tiny_opt):
    model, tokenizer, _ = base()
    assert upper.can_be_cut(model) and not upper.can_be_cut(tiny_opt(tokenizer, positions=64))


def test_the_first_trained_layer_is_found(base):
    assert upper.first_trained_layer(lora.add_lora(base()[0], "causal_lm")) == 0
    assert upper.first_trained_layer(lora.add_lora(base()[0], "causal_lm", n_layers=1)) == 1
