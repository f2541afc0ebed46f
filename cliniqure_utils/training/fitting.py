"""`fit`: the Hugging Face Trainer, and around it what the notebooks need.

The Trainer brings gradient clipping, mixed precision, checkpoints, exact resume and several devices (`accelerate
launch`). This folder adds a plan that a checkpoint must agree with, a table of the history, one progress bar, a stop
at a loss that is not finite, which names the films, the choice of the best epoch by a metric of ours, an early stop,
averaged weights, and training on several processes from inside a notebook (`n_processes`).

Several GPUs or hosts. In a notebook: `fit(..., n_processes=4)`, which starts `accelerate launch --num_processes 4` and
brings the weights back. A script of one's own that calls `fit` is started with the same command:

    accelerate launch --multi_gpu --num_processes 4 --num_machines 1 --mixed_precision no --dynamo_backend no script.py

(`--num_machines 2 --machine_rank 0 --main_process_ip ADDRESS` for hosts). With `device="cpu"` the same command trains
on processes of one machine over gloo. Each process takes `batch_size` films per step, so the step grows with the number
of processes.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from transformers import TrainingArguments
from transformers.trainer_callback import PrinterCallback

from cliniqure_utils.training.callbacks import AveragedWeights, Progress, Steering, history_table, patience_is_over
from cliniqure_utils.training.checkpoints import MarkWhole, data_fingerprint, fingerprint, usable_checkpoint
from cliniqure_utils.training.plan import Plan
from cliniqure_utils.training.processes import fit_on_processes
from cliniqure_utils.training.trainer import CheckedTrainer, WeightedDraws, as_the_trainer_takes_it


def fit(
    model: nn.Module,
    data,
    plan: Plan,
    *,
    output_dir: str | Path,
    device: str,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    collate: Callable | None = None,
    n_workers: int = 0,
    n_processes: int = 1,
    log_steps: int | None = None,
    checkpoint_steps: int | None = None,
    resumable: bool = True,
    description: str = "training",
) -> pd.DataFrame:
    """Train `model` in place.

    A killed training goes on from its last checkpoint when plan, model and data are the same; else it starts anew. It
    also starts anew, and says so, where the data cannot be identified: they have no method `fingerprint()` that returns
    a text, and are not a list of dicts, lists, arrays, numbers and text.

    Args:
        model: `model(**batch)` returns a dict with a scalar `loss`.
        data: Map-style data set or list of dicts; an `image_id` in an item is kept out of the model and named when
            the loss is not finite. A `set_epoch(epoch)` method is called before each epoch.
        plan: What decides the result.
        output_dir: Holds checkpoints while training runs, so that a killed run resumes at its last epoch; removed at
            the end.
        device: "cpu", "cuda", "mps".
        evaluate: model (in eval mode, no gradients) -> dict of validation metrics, called after each epoch.
        collate: List of items -> batch dict. Default: torch's.
        n_workers: Loader processes; 0 loads in this one.
        n_processes: Above 1, train on that many processes or GPUs through `accelerate launch`, see the module. All
            arguments are pickled for them.
        log_steps: Steps from one row of the history to the next, for trainings shorter than an epoch. Default: one row
            per epoch.
        checkpoint_steps: Steps from one checkpoint to the next inside an epoch, for long epochs. Resuming from one is
            exact if items do not draw from torch's global random numbers (`FilmDataset(seed=...)`).
        resumable: False writes no checkpoints, for short trainings of large models; `plan.metric` then must be None.
        description: Text of the progress bar.

    Returns:
        One row per epoch (or `log_steps`): epoch, step, loss (mean since the last row), learning_rate, metrics. Its
        `attrs["waiting"]` is the share (0 to 1) of the steps' time that was spent waiting for data.

    Raises:
        NonFiniteLoss: The loss became NaN or infinite; the message has the image ids of the batch.
        ValueError: An empty data set, a `metric` that `evaluate` does not return, or arguments that contradict each
            other.
        RuntimeError: One of several processes ended with an error; the message has the last lines of its output.
    """
    if len(data) == 0:
        raise ValueError("the training data set is empty; there is nothing to train on")
    if plan.metric is not None and evaluate is None:
        raise ValueError(f"metric {plan.metric!r} needs a function `evaluate` that returns it")
    if plan.metric is not None and not resumable:
        raise ValueError("keeping the best epoch needs checkpoints; leave resumable=True or metric=None")
    weights = plan.sample_weights
    if weights is not None and len(weights) != len(data):
        raise ValueError(f"expected one sample weight per item, found {len(weights)} for {len(data)} items")
    of_data = data_fingerprint(data) if resumable else None
    if resumable and of_data is None and os.environ.get("RANK", "0") == "0":
        print(
            f"{description}: this training starts anew, and would again if it were killed, because its data cannot be "
            f"told from other data: {type(data).__name__} has no method fingerprint()"
        )
    output_dir = Path(output_dir).resolve()
    if n_processes > 1:
        where = dict(
            output_dir=output_dir, device=device, evaluate=evaluate, collate=collate, n_workers=n_workers,
            log_steps=log_steps, checkpoint_steps=checkpoint_steps, resumable=resumable, description=description,
        )  # fmt: skip
        return fit_on_processes(fit, model, data, plan, where, n_processes)
    fp16, bf16 = precision(device, plan.mixed_precision)
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        num_train_epochs=plan.epochs,
        max_steps=plan.max_steps or -1,
        per_device_train_batch_size=plan.batch_size,
        learning_rate=plan.learning_rate,
        lr_scheduler_type=plan.scheduler,
        warmup_steps=plan.warmup_steps,
        max_grad_norm=plan.max_grad_norm,
        seed=plan.seed,
        data_seed=plan.seed,
        train_sampling_strategy="random" if weights is None else "sequential",
        use_cpu=str(device) == "cpu",
        bf16=bf16,
        fp16=fp16,
        logging_strategy="steps" if log_steps else "epoch",
        logging_steps=log_steps or 500,
        eval_strategy="epoch" if evaluate else "no",
        save_strategy="epoch" if resumable else "no",
        save_total_limit=2,
        load_best_model_at_end=plan.metric is not None,
        metric_for_best_model=plan.metric,
        greater_is_better=True if plan.metric else None,
        remove_unused_columns=False,
        label_names=[],
        disable_tqdm=True,
        report_to=[],
        dataloader_num_workers=n_workers,
        dataloader_pin_memory=str(device).startswith("cuda"),
        full_determinism=False,
    )
    optimizer = make_optimizer(model, plan)
    found = of_data and fingerprint(plan, model, of_data, optimizer, collate, arguments.world_size)
    with arguments.main_process_first(local=False):  # one process clears the folder, the others look afterwards
        checkpoint = usable_checkpoint(output_dir, found)
    if checkpoint and plan.metric:
        state = json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))
        if patience_is_over(state["log_history"], plan.metric, plan.patience):
            arguments.max_steps = state["global_step"]  # it was killed after its early stop: nothing is left to train
    average = AveragedWeights(model, plan.ema_decay) if plan.ema_decay is not None else None
    if average and checkpoint:
        average.load(checkpoint)
    drawn = data if weights is None else WeightedDraws(data, weights, plan.seed)
    progress = Progress(description)
    trainer = CheckedTrainer(
        model=as_the_trainer_takes_it(model),
        args=arguments,
        train_dataset=drawn,
        eval_dataset=data if evaluate else None,  # not read; the Trainer refuses to evaluate without one
        data_collator=collate or torch.utils.data.default_collate,
        optimizers=(optimizer, None),
        callbacks=[
            *([average] if average else []),
            progress,
            Steering(drawn, checkpoint_steps if resumable else None, plan.metric, plan.patience),
            MarkWhole(average),
        ],
        evaluate_with=lambda: evaluate((average.module if average else model).eval()),
        metric=plan.metric,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=checkpoint)
    if average:
        if plan.metric:
            average.load(trainer.state.best_model_checkpoint)
        model.load_state_dict(average.module.state_dict())
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        shutil.rmtree(output_dir, ignore_errors=True)
    model.eval()
    history = history_table(trainer.state.log_history)
    history.attrs["waiting"] = progress.waiting
    return history


def make_optimizer(model: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    """Adam or AdamW over the plan's parameter groups."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = plan.param_groups(model) if plan.param_groups else [{"params": trained}]
    kind = torch.optim.Adam if plan.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=plan.learning_rate, weight_decay=plan.weight_decay)


def precision(device: str, mixed_precision: bool) -> tuple[bool, bool]:
    """(fp16, bf16) to train in: neither on a CPU, bf16 on a GPU that computes in it, else fp16 with loss scaling."""
    cuda = mixed_precision and str(device).startswith("cuda")
    bf16 = cuda and torch.cuda.is_bf16_supported()
    return cuda and not bf16, bf16
