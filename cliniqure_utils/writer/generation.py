"""What a language model writes, or which label it gives."""

from collections.abc import Sequence

import numpy as np
import torch
from tqdm.auto import tqdm

from cliniqure_utils.writer.batches import encode_prompt


@torch.no_grad()
def classify_texts(model, tokenizer, texts: Sequence[str], max_length: int, batch_size: int = 16) -> np.ndarray:
    """Predicted label numbers (n,) of a sequence classifier; none for no text."""
    if not len(texts):
        return np.zeros(0, dtype=np.int64)
    model.eval()
    found = []
    for start in range(0, len(texts), batch_size):
        batch = tokenizer(
            list(texts[start : start + batch_size]), truncation=True, max_length=max_length, padding=True,
            padding_side="right", return_token_type_ids=False, return_tensors="pt",
        )  # fmt: skip
        found.append(model(**batch.to(model.device)).logits.argmax(1).cpu())
    return torch.cat(found).numpy()


@torch.no_grad()
def generate(
    model,
    tokenizer,
    prompts: Sequence[str],
    max_new_tokens: int = 80,
    batch_size: int = 8,
    description: str = "writing",
    temperature: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """Write one text per prompt, by greedy search unless a temperature is given.

    Prompts are sorted by length and padded on the left, so that a greedy batch gives each prompt the text it would get
    alone. The text never repeats the prompt. An empty prompt gives an empty text: there is nothing to write about.

    Args:
        temperature: 0 for greedy search; above it words are drawn, more freely the higher it is.
        seed: Of the draw; the random state outside stays as it was.

    Raises:
        ValueError: The temperature is negative, or a prompt with its answer is longer than the model's positions;
            `reports.build_prompt` shortens.
    """
    if temperature < 0:
        raise ValueError(f"expected a temperature of 0 or more, found {temperature}")
    limit = getattr(model.config, "max_position_embeddings", 2048)
    encoded = [encode_prompt(tokenizer, prompt) if prompt.strip() else [] for prompt in prompts]
    longest = max(map(len, encoded), default=0)
    if longest + max_new_tokens > limit:
        raise ValueError(
            f"a prompt has {longest} tokens and {max_new_tokens} new ones are asked for; the model takes {limit}"
        )
    model.eval()
    order = sorted((i for i in range(len(prompts)) if encoded[i]), key=lambda i: len(encoded[i]))
    texts: list[str] = [""] * len(prompts)
    search = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    bar = tqdm(total=len(order), desc=description, unit="report")
    with torch.random.fork_rng(), bar:
        torch.manual_seed(seed)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = tokenizer.pad(
                {"input_ids": [encoded[i] for i in chosen]}, padding_side="left", return_tensors="pt"
            ).to(model.device)
            out = model.generate(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=max_new_tokens,
                num_beams=1, use_cache=True, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
                **search,
            )  # fmt: skip
            width = batch["input_ids"].shape[1]
            for row, i in enumerate(chosen):
                texts[i] = tokenizer.decode(out[row, width:], skip_special_tokens=True).strip()
            bar.update(len(chosen))
    return texts
