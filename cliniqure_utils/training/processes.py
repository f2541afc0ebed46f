"""`training.fit` on several processes: the job is pickled, `accelerate launch` trains it, the weights come back.

Notebook code (an `evaluate` function, a collate function) goes along by value through cloudpickle. The folder is
private to the user and removed afterwards; nothing from outside is ever unpickled.
"""

import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cloudpickle
import pandas as pd
import torch
from safetensors.torch import load, save_file

from cliniqure_utils.process import keep_freed_memory, usable_cores
from cliniqure_utils.training.plan import Plan
from cliniqure_utils.training.trainer import NonFiniteLoss


def fit_on_processes(
    fit: Callable, model: torch.nn.Module, data, plan: Plan, where: dict, n_processes: int
) -> pd.DataFrame:
    """Run `training.fit` on several processes; the trained weights are loaded into `model`.

    Args:
        fit: `training.fit`, which is handed over because it calls this function.
        where: Its keyword arguments, but for `n_processes`.

    Returns:
        The history, as `training.fit`.

    Raises:
        NonFiniteLoss: As `training.fit`.
        RuntimeError: A process ended in another way; the message has the last lines of its output.
    """
    with tempfile.TemporaryDirectory(prefix="cliniqure_") as folder:
        folder = Path(folder)
        job = {"fit": fit, "model": model.cpu(), "data": data, "plan": plan, "where": where, "parent": os.getpid()}
        (folder / "job.pkl").write_bytes(cloudpickle.dumps(job))
        command = [
            sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(n_processes),
            "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
            "-m", "cliniqure_utils.training.processes", str(folder),
        ]  # fmt: skip
        threads = str(max(1, usable_cores() // n_processes))
        environment = {"OMP_NUM_THREADS": threads, **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        if where["device"] == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        with open(folder / "output.txt", "w", encoding="utf-8") as output:
            ended = subprocess.run(command, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False)
        if (folder / "non_finite.txt").is_file():
            raise NonFiniteLoss((folder / "non_finite.txt").read_text(encoding="utf-8"))
        if ended.returncode != 0:
            lines = (folder / "output.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            errors = [line for line in lines if "Error: " in line] or lines[-5:]
            raise RuntimeError(f"training on {n_processes} processes failed: {errors[0] if errors else 'no output'}")
        model.load_state_dict(load((folder / "model.safetensors").read_bytes()))
        return pd.read_pickle(folder / "history.pkl")


def main(folder: Path) -> None:
    """One process of the training."""
    keep_freed_memory()
    job = pickle.loads((folder / "job.pkl").read_bytes())
    threading.Thread(target=_end_with, args=(job["parent"],), daemon=True).start()
    try:
        history = job["fit"](job["model"], job["data"], job["plan"], **job["where"])
    except NonFiniteLoss as error:
        (folder / "non_finite.txt").write_text(str(error), encoding="utf-8")
        raise
    if int(os.environ.get("RANK", "0")) == 0:
        weights = {name: value.detach().cpu().contiguous() for name, value in job["model"].state_dict().items()}
        save_file(weights, folder / "model.safetensors")
        history.to_pickle(folder / "history.pkl")


def _end_with(parent: int) -> None:
    """End this process when the process `parent` is killed: two trainings must not share a checkpoint folder."""
    import psutil

    while psutil.pid_exists(parent):
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
