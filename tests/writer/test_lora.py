"""LoRA adapters: what they train, and that they come back as they were saved, on the paper's road too."""

import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cliniqure_utils import pretrained, training
from cliniqure_utils.project import MissingWeights
from cliniqure_utils.writer import base_model, fine_tuning, generation, lora
from cliniqure_utils.writer.batches import encode_labels


def test_lora_trains_two_thin_matrices_per_projection(base):
    model, _, _ = base()
    adapted = lora.add_lora(model, "causal_lm", rank=4)
    # Two layers; q: 32 -> 32, v: 32 -> 16 (two of four heads); A is rank x in, B is out x rank.
    thin = 2 * (4 * (32 + 32) + 4 * (32 + 16))
    whole = sum(p.numel() for p in model.parameters())
    assert adapted.get_nb_trainable_parameters() == (thin, whole)
    with pytest.raises(ValueError, match="unknown task 'chat'"):
        lora.add_lora(model, "chat")


def test_an_adapter_reloads_with_equal_logits(base, trained_writer, tmp_path):
    model, tokenizer, _ = trained_writer
    lora.save_adapter(model, tokenizer, tmp_path / "adapter")
    ids = torch.tensor([tokenizer("The heart").input_ids])
    with torch.no_grad():
        wanted = model.eval()(input_ids=ids).logits
        for merge in (False, True):
            loaded = lora.load_adapter(base()[0], tmp_path / "adapter", merge).eval()
            torch.testing.assert_close(loaded(input_ids=ids).logits, wanted, atol=1e-5, rtol=1e-5)
    with pytest.raises(MissingWeights, match="adapter/nothing is missing: run notebooks/05"):
        lora.load_adapter(base()[0], tmp_path / "nothing")


def test_the_pretrained_writer_writes_as_it_was_saved_and_fits_its_base_model_alone(base, tiny_opt, tmp_path):
    settings = {"base_model": base_model.TINY, "lora": {"rank": 4, "alpha": 8, "n_layers": 1, "modules": ["q_proj"]}}
    with pytest.raises(MissingWeights, match="pretrained weights writer are missing"):
        lora.pretrained_writer(base()[0], tmp_path)
    torch.manual_seed(0)
    made = lora.add_lora(base()[0], "causal_lm", **settings["lora"])
    for name, weight in made.named_parameters():
        if "lora_" in name:
            weight.data.normal_()
    pretrained.save_part("writer", lora.adapter_state(made), settings, tmp_path)
    tokenizer = base()[1]
    ids = torch.tensor([tokenizer("The heart").input_ids])
    with torch.no_grad():
        wanted, found, untouched = (
            model.eval()(input_ids=ids).logits
            for model in (made, lora.pretrained_writer(base()[0], tmp_path), base()[0])
        )
    torch.testing.assert_close(found, wanted, atol=0.02, rtol=0.02)  # the part is in half precision
    assert (wanted - untouched).abs().max() > 0.1
    with pytest.raises(MissingWeights, match="made for tiny-random, this is another base model"):
        lora.pretrained_writer(tiny_opt(tokenizer, positions=64), tmp_path)


def test_an_adapter_that_lacks_weights_says_so_and_a_whole_one_says_nothing(base, trained_writer, tmp_path):
    model, tokenizer, _ = trained_writer
    lora.save_adapter(model, tokenizer, tmp_path / "adapter")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lora.load_adapter(base()[0], tmp_path / "adapter")
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    kept = {name: value for name, value in weights.items() if "layers.1." not in name}
    save_file(kept, tmp_path / "adapter" / "adapter_model.safetensors", {"format": "pt"})
    with pytest.warns(UserWarning, match="missing adapter keys.*layers.1"):
        lora.load_adapter(base()[0], tmp_path / "adapter")


def test_the_seq_cls_adapter_carries_over_to_the_writer(base, trained_classifier, tmp_path):
    model, tokenizer, _ = trained_classifier
    answers = generation.classify_texts(model, tokenizer, ["fever cough", "back pain"], 32)
    assert answers.shape == (2,) and set(answers.tolist()) <= {0, 1}
    assert generation.classify_texts(model, tokenizer, [], 32).shape == (0,), (
        "a table of one row per disease leaves none"
    )
    lora.save_adapter(model, tokenizer, tmp_path / "adapter")
    carried = lora.load_adapter(base()[0], tmp_path / "adapter", merge=False)
    trained = {k.split("layers.")[-1]: v for k, v in model.state_dict().items() if "lora_" in k}
    loaded = {k.split("layers.")[-1]: v for k, v in carried.state_dict().items() if "lora_" in k}
    assert trained.keys() == loaded.keys() and len(trained) == 8
    assert all(torch.equal(trained[k], loaded[k]) for k in trained)
    assert any(v.abs().max() > 0 for k, v in trained.items() if "lora_B" in k), "training moved the adapter"


def test_opt_goes_the_way_of_the_paper_from_symptoms_to_a_writer(base, tiny_opt, tmp_path):
    _, tokenizer, _ = base()
    tiny_opt(tokenizer, positions=256).save_pretrained(tmp_path / "opt")
    tokenizer.save_pretrained(tmp_path / "opt")
    model, tokenizer, notes = base_model.load_base(str(tmp_path / "opt"), n_labels=2)
    assert "already there; embedding rows added: 0" in notes, "OPT has a padding token, and rows to spare"
    model = lora.add_lora(model, "seq_cls")
    items = encode_labels(tokenizer, ["fever cough", "back pain"] * 4, [0, 1] * 4, 32)
    plan = training.Plan(seed=1, epochs=2, batch_size=4, learning_rate=0.02)
    history = fine_tuning.fine_tune(
        model, tokenizer, items, plan, output_dir=tmp_path / "ck", device="cpu", log_steps=1
    )
    assert np.isfinite(history.loss).all()
    lora.save_adapter(model, tokenizer, tmp_path / "adapter")
    carried = lora.load_adapter(base_model.load_base(str(tmp_path / "opt"))[0], tmp_path / "adapter", merge=False)
    trained = {k.split("layers.")[-1]: v for k, v in model.state_dict().items() if "lora_" in k}
    loaded = {k.split("layers.")[-1]: v for k, v in carried.state_dict().items() if "lora_" in k}
    assert trained.keys() == loaded.keys() and all(torch.equal(trained[k], loaded[k]) for k in trained)
    prompts = ["Short.", "A longer prompt about the heart."]
    together = generation.generate(carried, tokenizer, prompts, max_new_tokens=8)
    assert together == [generation.generate(carried, tokenizer, [prompt], max_new_tokens=8)[0] for prompt in prompts]
