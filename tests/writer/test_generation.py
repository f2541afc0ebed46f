"""Writing: a batch as one at a time, drawing with a temperature, prompts that cannot be answered."""

import json

import numpy as np
import pytest
import torch

from cliniqure_utils.labeller import split_sentences
from cliniqure_utils.reports import Evidence, verify_texts
from cliniqure_utils.writer import generation


def test_a_batch_writes_what_each_prompt_gets_alone(base):
    model, tokenizer, _ = base()
    prompts = ["Short.", "A much longer prompt about the heart and the lungs.", "Middle length prompt"]
    together = generation.generate(model, tokenizer, prompts, max_new_tokens=12, batch_size=3)
    alone = [generation.generate(model, tokenizer, [p], max_new_tokens=12)[0] for p in prompts]
    assert together == alone
    assert not any(p in text for p, text in zip(prompts, together, strict=True))


def test_words_are_drawn_only_with_a_temperature_and_the_same_for_the_same_seed(base):
    model, tokenizer, _ = base()
    texts = ["Short.", "A longer prompt"]

    def write(**more):
        return generation.generate(model, tokenizer, texts, max_new_tokens=12, **more)

    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    drawn = write(temperature=1.0, seed=1)
    assert torch.equal(before, torch.random.get_rng_state()), "the random state outside moved"
    assert drawn == write(temperature=1.0, seed=1) != write(temperature=1.0, seed=2)
    assert write(seed=1) == write(seed=2), "greedy search knows no seed"
    alone = [generation.generate(model, tokenizer, [t], max_new_tokens=12, temperature=1.0, seed=1)[0] for t in texts]
    assert drawn == alone, "the draw of one text depends on the others"
    with pytest.raises(ValueError, match="temperature of 0 or more, found -1"):
        write(temperature=-1)


def test_an_empty_prompt_gives_an_empty_text_and_a_too_long_one_is_refused(base):
    model, tokenizer, _ = base()
    alone = generation.generate(model, tokenizer, ["Short."], max_new_tokens=4)[0]
    assert generation.generate(model, tokenizer, ["  ", "Short."], max_new_tokens=4) == ["", alone]
    with pytest.raises(ValueError, match="the model takes 1024"):
        generation.generate(model, tokenizer, ["x" * 2000])
    assert np.all(generation.generate(model, tokenizer, []) == np.array([]))


def test_short_long_and_empty_prompts_together_on_opt(base, tiny_opt, cases):
    _, tokenizer, _ = base()
    model = tiny_opt(tokenizer, positions=512)
    raw = [entry["prompt"] for entry in json.loads((cases / "C60" / "prompts.json").read_text(encoding="utf-8"))]
    assert "" in raw and max(map(len, raw)) > 5000 > min(map(len, raw))
    texts = [prompt[:400] for prompt in raw]
    together = generation.generate(model, tokenizer, texts, max_new_tokens=12)
    assert together == [generation.generate(model, tokenizer, [text], max_new_tokens=12)[0] for text in texts]
    assert any(together) and all(written == "" for written, text in zip(together, texts, strict=True) if not text)
    assert not any(text and text in written for text, written in zip(texts, together, strict=True))


def test_what_comes_next_is_one_sentence_drawn_alike_alone_and_together(trained_writer):
    model, tokenizer, _ = trained_writer

    def draw(prompts, begun, seed=1, draws=3):
        return generation.next_sentences(model, tokenizer, prompts, begun, 4, seed, draws)

    prompts, begun = ["Film?", "A longer prompt about the heart."], ["", "The heart is large."]
    together = draw(prompts, begun)
    assert together == [draw([p], [b])[0] for p, b in zip(prompts, begun, strict=True)]
    assert together == draw(prompts, begun) != draw(prompts, begun, seed=2)
    assert all(len(split_sentences(sentence)) == 1 for found in together for sentence in found)
    assert len({*together[0], *together[1]}) > 2, "the draws are all the same"
    assert draw(["Film?"], ["word " * 1000]) == [["", "", ""]], "no room among the model's positions"
    assert draw([], []) == []


def test_verified_writing_asks_the_model_itself_and_takes_facts_where_it_talks_nonsense(base):
    model, tokenizer, _ = base()
    films = [Evidence("a", [("Consolidation", 0.8)]), Evidence("b")]
    asked = generation.ask_again(model, tokenizer, ["Film a?", "Film b?"], batch_size=4, seed=1)
    texts = ["The heart is of normal size. The lungs are clear of consolidation.", "No effusion. There is a nodule."]
    sick, well = verify_texts(films, texts, asked)
    assert sick.text == "The heart is of normal size. There is consolidation."
    assert well.text == "No effusion." and well.set_aside[0]["instead"] is None
    assert sick.tries == well.tries == 2
    assert asked([1, 0], ["", "No."], 0) == [asked([1], [""], 0)[0], asked([0], ["No."], 0)[0]]
    assert asked([1], [""], 0) != asked([1], [""], 1), "each round draws anew"
    assert asked([1], [""], 0) != asked([1], ["No effusion."], 0), "it goes on from what is there"
