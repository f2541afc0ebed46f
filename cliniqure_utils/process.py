"""This process: its seed, its device, its threads and its memory. Called, never on import."""

import ctypes
import os
import platform
import random
from collections.abc import Mapping

# A waiting thread that spins takes the core from one that works, and one that sleeps at once wakes up too late for the
# next of many short operations: a short spin (libgomp), then sleep. BENCHMARKS.md has what it saves.
THREADS = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "2000"}


def prepare_process(seed: int) -> None:
    """Make this process ready for a notebook's work: freed memory is reused, every random number is seeded.

    Seeds Python, numpy and torch, asks torch for deterministic algorithms where they exist, and calls
    `keep_freed_memory`.
    """
    import numpy as np
    import torch

    keep_freed_memory()
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries still draw from the global generator
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Else torch's deterministic mode fills every new tensor with NaN: a thousand per step, all overwritten anyway.
    torch.utils.deterministic.fill_uninitialized_memory = False


def keep_freed_memory() -> bool:
    """Let this process use freed memory again instead of handing each large array back to the system.

    By default glibc asks the system for every array of more than some MB, which then fills it with zeros page by page;
    a training step allocates and frees such arrays by the hundred, and on the machine of BENCHMARKS.md that was a third
    of a step of the demo's detector. Results do not change. Up to 2 GB that are free stay with the process. A
    MALLOC_... or GLIBC_TUNABLES of the user is left alone. Source: ours, mallopt(3).

    Returns:
        Whether it was done: only on Linux with glibc, and where the user has not chosen otherwise.
    """
    chosen = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if platform.libc_ver()[0] != "glibc" or chosen:
        return False
    mmap_max, trim_threshold, top_pad = -4, -1, -2  # malloc.h
    options = {mmap_max: 0, trim_threshold: 2**31 - 1, top_pad: 64 * 2**20}
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(option, value) == 1 for option, value in options.items()])


def thread_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """`THREADS` for a process that is about to start; none where `environment` sets one: the user has chosen."""
    return {} if THREADS.keys() & environment.keys() else dict(THREADS)


def resolve_device(device: str) -> str:
    """`auto` -> "cuda" or "mps" where there is one, else "cpu"; any other name is passed on."""
    if device != "auto":
        return device
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def usable_cores() -> int:
    """Processor cores that this process may use: fewer than the machine has where `taskset` or a scheduler says so."""
    if hasattr(os, "process_cpu_count"):  # from Python 3.13 on
        return os.process_cpu_count() or 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_count(n_jobs: int, device: str) -> int:
    """Loader processes: none beside a CPU, which computes with all cores; else n_jobs, -1 for all cores but one."""
    if device == "cpu":
        return 0
    return max(1, usable_cores() - 1) if n_jobs < 0 else n_jobs
