"""LoRA adapters (Hu et al. 2021) on the query and value projections: added, saved and loaded, through the library peft.

Two tasks: `seq_cls` is what the paper describes, symptom text in, disease number out; `causal_lm` writes.
"""

import os
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from cliniqure_utils import pretrained
from cliniqure_utils.project import MissingWeights
from cliniqure_utils.runs import atomic_path

TARGET_MODULES = ("q_proj", "v_proj")  # "the attention layers" (paper, section 5.3); the pair of the LoRA paper
# peft asks models for an attribute that transformers 5 has renamed, and transformers warns whoever asks.
RENAMED_ATTRIBUTE = ".*is_gradient_checkpointing.*"


def add_lora(
    model: nn.Module,
    task: str,
    rank: int = 8,
    alpha: int = 32,
    dropout: float = 0.1,
    n_layers: int | None = None,
    modules: Sequence[str] = TARGET_MODULES,
):
    """Freeze the model and add LoRA matrices to its layers.

    Args:
        task: "seq_cls" or "causal_lm".
        rank, alpha, dropout: Paper, table 6.
        n_layers: Adapt the last so many layers; None, the paper's choice, all.
        modules: Names of the projections that are adapted in a layer.

    Returns:
        peft model; for "seq_cls" its new classification head is trained too.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    tasks = {"seq_cls": TaskType.SEQ_CLS, "causal_lm": TaskType.CAUSAL_LM}
    if task not in tasks:
        raise ValueError(f"unknown task {task!r}; expected seq_cls or causal_lm")
    n_all = model.config.num_hidden_layers
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(modules), task_type=tasks[task],
        layers_to_transform=None if n_layers is None else list(range(max(0, n_all - n_layers), n_all)),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=RENAMED_ATTRIBUTE)
        return get_peft_model(model, config)


def load_adapter(model: nn.Module, folder: str | Path, merge: bool = True) -> nn.Module:
    """Put a saved adapter on a causal base model; a seq_cls adapter loses its classification head.

    Args:
        model: Base model from `load_base` (n_labels None).
        folder: What `save_adapter` wrote.
        merge: Add the LoRA product to the frozen weights, which makes generation as fast as the base.

    Raises:
        MissingWeights: There is no adapter in the folder.

    Warns:
        UserWarning: The adapter lacks weights for some of its layers.
    """
    from peft import PeftConfig, PeftModel, TaskType

    if not (Path(folder) / "adapter_config.json").is_file():
        raise MissingWeights(f"adapter/{Path(folder).name} is missing: run notebooks/05_finetune_llm.ipynb first")
    config = PeftConfig.from_pretrained(str(folder))
    config.task_type, config.modules_to_save = TaskType.CAUSAL_LM, None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=RENAMED_ATTRIBUTE)
        adapted = PeftModel.from_pretrained(model, str(folder), config=config)
    return adapted.merge_and_unload() if merge else adapted


def adapter_state(model) -> dict:
    """The LoRA matrices of an adapted model, by peft's names."""
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(model, save_embedding_layers=False)


def pretrained_writer(model: nn.Module, folder: Path = pretrained.FOLDER):
    """Put our own pretrained adapter (`cliniqure pretrain --part writer`) on the base model that it was made for.

    Args:
        model: From `base_model.load_base("smollm2")`.
        folder: Where the pretrained parts lie.

    Returns:
        peft model.

    Raises:
        MissingWeights: The file is missing or damaged, or the base model is another.
    """
    from peft import set_peft_model_state_dict

    state, settings = pretrained.load_part("writer", folder), pretrained.settings_of("writer", folder)
    adapted = add_lora(model, "causal_lm", **settings["lora"])
    expected = {name: tuple(value.shape) for name, value in adapter_state(adapted).items()}
    if expected != {name: tuple(value.shape) for name, value in state.items()}:
        raise MissingWeights(f"the pretrained writer is made for {settings['base_model']}, this is another base model")
    set_peft_model_state_dict(adapted, state)
    return adapted


def save_adapter(model, tokenizer, folder: str | Path) -> None:
    """Write adapter and tokenizer, replacing what was there."""
    folder = Path(folder)
    with atomic_path(folder.with_name(folder.name + ".new")) as temporary:
        model.save_pretrained(temporary, save_embedding_layers=False)
        tokenizer.save_pretrained(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(folder.with_name(folder.name + ".new"), folder)
