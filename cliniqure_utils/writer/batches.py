"""From texts to batches of token numbers: prompts, answers that count in the loss, padding."""

import inspect
from collections.abc import Sequence

import numpy as np
import torch

IGNORED = -100  # label of tokens that the loss leaves out


def as_chat(tokenizer, prompt: str) -> str:
    """The prompt in the model's chat format where it has one, else with a plain mark for the answer."""
    if getattr(tokenizer, "chat_template", None):
        return tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
    return f"{prompt}\n\nReport:\n"


def encode_prompt(tokenizer, prompt: str) -> list[int]:
    """Token numbers of `as_chat`: a chat template brings its own special tokens; without one the tokenizer adds what
    the model saw in training (OPT: `</s>` in front)."""
    return tokenizer(
        as_chat(tokenizer, prompt), add_special_tokens=not getattr(tokenizer, "chat_template", None)
    ).input_ids


def chat_overhead(tokenizer) -> int:
    """Tokens that the chat format, or the plain mark for the answer, adds to a prompt, and one for the end."""
    prompt = "Symptoms: cough"
    return len(encode_prompt(tokenizer, prompt)) - len(tokenizer(prompt, add_special_tokens=False).input_ids) + 1


def encode_pairs(tokenizer, pairs: Sequence[tuple[str, str]], max_length: int) -> tuple[list[dict], int]:
    """(prompt, answer) pairs -> items for causal training, with the loss on the answer only.

    Returns:
        (items with input_ids and labels, number left out). A pair is left out where the answer is empty or the length
        limit cuts it away: its loss would be a mean over no token.
    """
    items, left_out = [], 0
    for prompt, answer in pairs:
        head = encode_prompt(tokenizer, prompt)
        tail = tokenizer(answer.strip(), add_special_tokens=False).input_ids if answer.strip() else []
        if not tail or len(head) >= max_length:
            left_out += 1
            continue
        ids = (head + tail + [tokenizer.eos_token_id])[:max_length]
        items.append({"input_ids": ids, "labels": ([IGNORED] * len(head) + ids[len(head) :])[:max_length]})
    return items, left_out


def encode_labels(tokenizer, texts: Sequence[str], labels: Sequence[int], max_length: int) -> list[dict]:
    """Symptom texts and disease numbers -> items for sequence classification."""
    encoded = tokenizer(list(texts), truncation=True, max_length=max_length).input_ids
    return [{"input_ids": ids, "labels": int(label)} for ids, label in zip(encoded, labels, strict=True)]


def pad_batch(tokenizer, items: Sequence[dict]) -> dict[str, torch.Tensor]:
    """Items -> batch (n, length of the longest), padded on the right: input_ids, attention_mask, labels (per token,
    padded with IGNORED, or one per item)."""
    from transformers import DataCollatorForSeq2Seq, DataCollatorWithPadding

    kind = DataCollatorForSeq2Seq if isinstance(items[0]["labels"], list) else DataCollatorWithPadding
    return dict(kind(tokenizer)(list(items)))


def batches_of_like_length(items: Sequence[dict], batch_size: int, seed: int, pool: int = 16) -> list[list[dict]]:
    """Cut items into batches of like length, so that little of a batch is padding. Every item comes once.

    Items are shuffled, sorted by length inside pools of `pool` batches, and cut into batches.
    """
    # Padding of the demo's symptoms and reports: 2.9 and 1.3 %; with the Trainer's group_by_length 6.5 and 0.7 %.
    order = np.random.default_rng(seed).permutation(len(items))
    batches = []
    for start in range(0, len(order), pool * batch_size):
        part = sorted(order[start : start + pool * batch_size], key=lambda i: len(items[i]["input_ids"]))
        batches += [[items[i] for i in part[k : k + batch_size]] for k in range(0, len(part), batch_size)]
    return batches


def keeps_logits(model) -> bool:
    """Whether the model can be told to score only the last positions of a text."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # below peft's wrapper
    return "logits_to_keep" in inspect.signature(inner.forward).parameters


def answers_only(batch: dict) -> dict:
    """The batch with `logits_to_keep`, so that the model scores only the positions from the first answer on: the loss
    stays the same, and the large output layer is not run over the prompts."""
    counted = (batch["labels"] != IGNORED).any(0).nonzero()
    first = int(counted[0]) - 1  # the token before an answer predicts its first token
    keep = batch["labels"].shape[1] - max(first, 0)
    return {**batch, "labels": batch["labels"][:, -keep:], "logits_to_keep": keep}
