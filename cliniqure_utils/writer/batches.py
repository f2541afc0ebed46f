"""Texts as batches of token numbers."""

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


def fit_prompt(tokenizer, prompt: str, max_tokens: int) -> tuple[str, int]:
    """Shorten a prompt whose longest line is a list: items go from the end of that line until the rest fits.

    Args:
        prompt: Text; its other lines, the instruction among them, stay as they are.
        max_tokens: Most tokens of the prompt in the model's format.

    Returns:
        (prompt, number of items taken away).

    Raises:
        ValueError: Even with one item the prompt is too long.
    """
    lines = prompt.split("\n")
    longest = max(range(len(lines)), key=lambda i: len(lines[i]))
    items = lines[longest].split(", ")

    def with_items(n: int) -> str:
        return "\n".join([*lines[:longest], ", ".join(items[:n]), *lines[longest + 1 :]])

    def fits(n: int) -> bool:
        return len(encode_prompt(tokenizer, with_items(n))) <= max_tokens

    if fits(len(items)):
        return prompt, 0
    if not fits(1):
        raise ValueError(f"a prompt does not fit into {max_tokens} tokens, even with its longest line cut")
    low, high = 1, len(items)  # the most items that fit lie in [low, high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return with_items(low), len(items) - low


def encode_pairs(tokenizer, pairs: Sequence[tuple[str, str]], max_length: int) -> tuple[list[dict], int]:
    """(prompt, answer) pairs -> items for causal training, with the loss on the answer only.

    Returns:
        (items with input_ids and labels, number left out). A pair is left out where the answer is empty or the length
        limit cuts it away: its loss would be the mean of nothing.
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


def pad_batch(items: Sequence[dict], pad_id: int) -> dict[str, torch.Tensor]:
    """Right-padded batch: input_ids, attention_mask, labels (per token, or one per item)."""
    longest = max(len(item["input_ids"]) for item in items)
    ids = torch.full((len(items), longest), pad_id)
    mask = torch.zeros((len(items), longest), dtype=torch.int64)
    per_token = isinstance(items[0]["labels"], list)
    labels = torch.full((len(items), longest), IGNORED) if per_token else torch.tensor([i["labels"] for i in items])
    for row, item in enumerate(items):
        n = len(item["input_ids"])
        ids[row, :n] = torch.tensor(item["input_ids"])
        mask[row, :n] = 1
        if per_token:
            labels[row, :n] = torch.tensor(item["labels"])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def bucket(items: Sequence[dict], batch_size: int, seed: int, pool: int = 16) -> list[list[dict]]:
    """Batches of items of like length, so that little of a batch is padding.

    Items are shuffled, sorted by length inside pools of `pool` batches, and cut into batches. Every item comes once.
    """
    order = np.random.default_rng(seed).permutation(len(items))
    batches = []
    for start in range(0, len(order), pool * batch_size):
        part = sorted(order[start : start + pool * batch_size], key=lambda i: len(items[i]["input_ids"]))
        batches += [[items[i] for i in part[k : k + batch_size]] for k in range(0, len(part), batch_size)]
    return batches


def keeps_logits(model) -> bool:
    """Can the model be told to score only the last positions of a text?"""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # below peft's wrapper
    return "logits_to_keep" in inspect.signature(inner.forward).parameters


def answers_only(batch: dict) -> dict:
    """Have the model score only the positions from the first answer on: same loss, and the large output layer is not
    run over the prompts."""
    counted = (batch["labels"] != IGNORED).any(0).nonzero()
    first = int(counted[0]) - 1  # the token before an answer predicts its first token
    keep = batch["labels"].shape[1] - max(first, 0)
    return {**batch, "labels": batch["labels"][:, -keep:], "logits_to_keep": keep}
