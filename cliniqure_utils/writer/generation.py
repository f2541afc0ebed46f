"""What a language model writes, or which label it gives."""

from collections.abc import Sequence

import numpy as np
import torch
from tqdm.auto import tqdm

from cliniqure_utils.labeller import split_sentences
from cliniqure_utils.writer.batches import encode_prompt

TEMPERATURE = 0.7  # of a drawn sentence
SENTENCE_TOKENS = 24  # length limit of a drawn sentence


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

    Prompts are sorted by length and padded on the left, so that a batch gives each prompt the text it would get alone.
    The text never repeats the prompt. An empty prompt gives an empty text: there is nothing to write about.

    Args:
        temperature: 0 for greedy search; above it words are drawn, more freely the higher it is.
        seed: Of the draw; the random state outside stays as it was.

    Raises:
        ValueError: The temperature is negative, or a prompt with its answer is longer than the model's positions;
            `reports.build_prompt` shortens.
    """
    if temperature < 0:
        raise ValueError(f"expected a temperature of 0 or more, found {temperature}")
    encoded = [encode_prompt(tokenizer, prompt) if prompt.strip() else [] for prompt in prompts]
    longest, limit = max(map(len, encoded), default=0), _positions(model)
    if longest + max_new_tokens > limit:
        raise ValueError(
            f"a prompt has {longest} tokens and {max_new_tokens} new ones are asked for; the model takes {limit}"
        )
    seeds = [seed] * len(prompts)
    return _write(model, tokenizer, encoded, max_new_tokens, batch_size, description, temperature, seeds)


def next_sentences(
    model,
    tokenizer,
    prompts: Sequence[str],
    begun: Sequence[str],
    batch_size: int,
    seed: int,
    draws: int = 2,
    max_new_tokens: int = SENTENCE_TOKENS,
) -> list[list[str]]:
    """Draw what could come next, for each prompt whose answer has begun: one sentence, `draws` times.

    Args:
        begun: The answer so far, "" for none.
        seed: Of the draw. A sentence depends on it, on its prompt and on the answer so far, not on the other prompts.
        max_new_tokens: Length limit of a sentence; one that is cut off has no mark at its end.

    Returns:
        For each prompt its sentences; "" where the model ends the answer instead, or where prompt and answer leave no
        room among the model's positions.
    """
    encoded = []
    for prompt, text in zip(prompts, begun, strict=True):
        ids = encode_prompt(tokenizer, prompt)
        if text:
            ids = ids + tokenizer(text, add_special_tokens=False).input_ids
        encoded += [ids if len(ids) + max_new_tokens <= _positions(model) else []] * draws
    seeds = [seed * draws + k for k in range(draws)] * len(prompts)
    texts = _write(
        model, tokenizer, encoded, max_new_tokens, batch_size, None, TEMPERATURE, seeds, stop_after_a_sentence=True
    )
    first = [next(iter(split_sentences(text)), "") for text in texts]
    return [first[k : k + draws] for k in range(0, len(first), draws)]


def ask_again(model, tokenizer, prompts: Sequence[str], batch_size: int, seed: int):
    """What `reports.verify_texts` asks for other sentences: `next_sentences`, with a new seed in each round."""

    def ask(films: Sequence[int], begun: Sequence[str], number: int) -> list[list[str]]:
        return next_sentences(model, tokenizer, [prompts[n] for n in films], begun, batch_size, seed + number)

    return ask


def _positions(model) -> int:
    return getattr(model.config, "max_position_embeddings", 2048)


@torch.no_grad()
def _write(
    model, tokenizer, encoded: Sequence[list[int]], max_new_tokens: int, batch_size: int, description: str | None,
    temperature: float, seeds: Sequence[int], stop_after_a_sentence: bool = False,
) -> list[str]:  # fmt: skip
    """One text for each row of token numbers; "" for a row of none. No description: no progress bar."""
    model.eval()
    order = sorted((i for i in range(len(encoded)) if encoded[i]), key=lambda i: len(encoded[i]))
    texts = [""] * len(encoded)
    with tqdm(total=len(order), desc=description, unit="report", disable=description is None) as bar:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = tokenizer.pad(
                {"input_ids": [encoded[i] for i in chosen]}, padding_side="left", return_tensors="pt"
            ).to(model.device)
            width = batch["input_ids"].shape[1]
            draw = [_Draw(temperature, [[seeds[i], *encoded[i]] for i in chosen])] if temperature else []
            stop = [_AfterASentence(tokenizer, width)] if stop_after_a_sentence else []
            out = model.generate(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=max_new_tokens,
                do_sample=False, num_beams=1, use_cache=True, logits_processor=draw, stopping_criteria=stop,
                pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
            )  # fmt: skip
            for row, i in enumerate(chosen):
                texts[i] = tokenizer.decode(out[row, width:], skip_special_tokens=True).strip()
            bar.update(len(chosen))
    return texts


class _Draw:
    """Turns greedy search into a draw: the largest of logits / temperature + Gumbel noise is a draw from the softmax.

    Each row has noise of its own, so that its text does not depend on the rows beside it. Source: Gumbel 1954; Maddison
    et al. 2014 (arXiv 1411.0030).
    """

    def __init__(self, temperature: float, seeds: Sequence[list[int]]):
        self.temperature = temperature
        self.noise = [np.random.default_rng(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        noise = np.stack([rng.gumbel(size=scores.shape[1]) for rng in self.noise])
        return scores / self.temperature + torch.as_tensor(noise, dtype=scores.dtype, device=scores.device)


class _AfterASentence:
    """Stops a row as soon as its new tokens hold more than one sentence."""

    def __init__(self, tokenizer, width: int):
        self.tokenizer, self.width = tokenizer, width

    def __call__(self, input_ids: torch.Tensor, scores, **kwargs) -> torch.Tensor:
        texts = self.tokenizer.batch_decode(input_ids[:, self.width :], skip_special_tokens=True)
        return torch.tensor([len(split_sentences(text)) > 1 for text in texts], device=input_ids.device)
