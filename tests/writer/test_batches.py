"""Texts as batches: what the loss counts, what is cut, padding, and batches of like length."""

import pytest
import torch

from cliniqure_utils.writer.batches import (
    IGNORED,
    answers_only,
    batches_of_like_length,
    chat_overhead,
    encode_pairs,
    pad_batch,
)


def test_loss_counts_the_answer_only_and_cut_items_are_left_out(base):
    _, tokenizer, _ = base()
    items, left_out = encode_pairs(
        tokenizer, [("Symptoms?", "Fever."), ("Symptoms?", "  "), ("x" * 400, "Fever.")], max_length=100
    )
    assert left_out == 2 and len(items) == 1
    (item,) = items
    counted = [i for i, label in zip(item["input_ids"], item["labels"], strict=True) if label != IGNORED]
    assert tokenizer.decode(counted, skip_special_tokens=True) == "Fever."
    assert counted[-1] == tokenizer.eos_token_id
    batch = pad_batch(tokenizer, [item, {"input_ids": [5], "labels": [5]}])
    assert batch["attention_mask"].sum(1).tolist() == [len(item["input_ids"]), 1]
    assert (batch["labels"][1, 1:] == IGNORED).all()


def test_a_batch_is_padded_on_the_right_whatever_the_loss_is_of(base):
    _, tokenizer, _ = base()
    per_token = [{"input_ids": [5, 6, 7], "labels": [IGNORED, 6, 7]}, {"input_ids": [8], "labels": [8]}]
    per_text = [{**item, "labels": n} for n, item in enumerate(per_token)]
    for items, labels in ((per_token, [[IGNORED, 6, 7], [8, IGNORED, IGNORED]]), (per_text, [0, 1])):
        batch = {name: value.tolist() for name, value in pad_batch(tokenizer, items).items()}
        pad = tokenizer.pad_token_id
        assert batch == {
            "input_ids": [[5, 6, 7], [8, pad, pad]], "attention_mask": [[1, 1, 1], [1, 0, 0]], "labels": labels,
        }  # fmt: skip


@pytest.mark.parametrize("template", [None, "{% for m in messages %}<s>user: {{ m['content'] }}</s>{% endfor %}<s>"])
def test_the_overhead_of_the_chat_format_makes_a_pair_fit_exactly(base, template):
    _, tokenizer, _ = base()
    tokenizer.chat_template = template
    prompt, answer = "Patient: 54 years", "Clear."
    size = [len(tokenizer(text, add_special_tokens=False).input_ids) for text in (prompt, answer)]
    ((whole,), _) = encode_pairs(tokenizer, [(prompt, answer)], sum(size) + chat_overhead(tokenizer))
    ((cut,), _) = encode_pairs(tokenizer, [(prompt, answer)], sum(size) + chat_overhead(tokenizer) - 1)
    assert whole["input_ids"][-1] == tokenizer.eos_token_id != cut["input_ids"][-1]


def test_the_loss_over_answers_only_is_the_loss_over_everything(base):
    model, tokenizer, _ = base()
    items, _ = encode_pairs(tokenizer, [("Film?", "The lungs are clear."), ("A longer question?", "No.")], 100)
    batch = pad_batch(tokenizer, items)
    short = answers_only(batch)
    assert 0 < short["logits_to_keep"] < batch["input_ids"].shape[1]
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(**short).loss, model(**batch).loss)


def test_batches_hold_items_of_like_length_and_every_item_once():
    items = [{"input_ids": [0] * n, "labels": n} for n in range(1, 50)]
    batches = batches_of_like_length(items, 4, seed=0)
    lengths = [[item["labels"] for item in batch] for batch in batches]
    assert sorted(sum(lengths, [])) == list(range(1, 50))
    assert all(max(batch) - min(batch) == len(batch) - 1 for batch in lengths), "one pool: neighbours in length"
    assert batches == batches_of_like_length(items, 4, seed=0)
