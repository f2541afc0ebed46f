"""This process: its seed, its device, its threads and its memory. Called, never on import."""

import ctypes
import os
import platform
import random
import shutil
from collections.abc import Mapping
from pathlib import Path

# A waiting thread that spins takes the core from one that works, and one that sleeps at once wakes up too late for the
# next of many short operations: a short spin (libgomp), then sleep. BENCHMARKS.md has what it saves.
THREADS = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "2000"}
SHARED_MEMORY = Path("/dev/shm")
WORKER_BYTES = 256 * 2**20  # of it for a loader process: four batches of 16 films of 1,024 pixels


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


def keep_freed_memory(keep: bool = True) -> bool:
    """Let this process use freed memory again instead of handing each large array back to the system.

    By default glibc asks the system for every array of more than some MB, which then fills it with zeros page by page;
    a training step allocates and frees such arrays by the hundred, and on the machine of BENCHMARKS.md that was a third
    of a step of the demo's detector. Results do not change. Up to 2 GB that are free stay with the process. A
    MALLOC_... or GLIBC_TUNABLES of the user is left alone. Source: ours, mallopt(3).

    Args:
        keep: False goes back to the default. For a language model in bfloat16: its blocks are of another size in each
            step and do not fit into what the step before freed; 30 steps of eight texts grew to 20 GB, by default 3.

    Returns:
        Whether it was done: only on Linux with glibc, and where the user has not chosen otherwise.
    """
    chosen = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if platform.libc_ver()[0] != "glibc" or chosen:
        return False
    mmap_max, trim_threshold, top_pad = -4, -1, -2  # malloc.h
    if keep:
        options = {mmap_max: 0, trim_threshold: 2**31 - 1, top_pad: 64 * 2**20}
    else:
        options = {mmap_max: 65536, trim_threshold: 128 * 1024, top_pad: 128 * 1024}
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(option, value) == 1 for option, value in options.items()])


def thread_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Settings of a process that is about to start; one that `environment` has is the user's choice.

    `THREADS`, none where one of them is set; and as many threads as cores where a container may use fewer than it sees
    (`docker --cpus`): OpenMP does not ask for that limit.
    """
    settings = {} if THREADS.keys() & environment.keys() else dict(THREADS)
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if usable_cores() < seen and "OMP_NUM_THREADS" not in environment:
        settings["OMP_NUM_THREADS"] = str(usable_cores())
    return settings


def resolve_device(device: str) -> str:
    """`auto` -> "cuda" or "mps" where there is one that works, else "cpu"; any other name is passed on.

    A GPU works if it can convolve and add. One for which torch brings no kernels (a GTX 10 or a P100 with a new CUDA),
    or whose memory is full, is passed over with a line.
    """
    if device != "auto":
        return device
    import torch

    for name, is_there in (("cuda", torch.cuda.is_available), ("mps", torch.backends.mps.is_available)):
        if is_there():
            try:
                film = torch.ones(1, 1, 8, 8, device=name)
                torch.nn.functional.conv2d(film, film[..., :3, :3]).sum().item()
                return name
            except RuntimeError as error:  # a kernel that is not there (NotImplementedError) is one, too
                said = str(error).strip().splitlines() or [type(error).__name__]
                print(f"device: {name} is there but does not work ({said[0][:100]}); the CPU takes its place")
    return "cpu"


def usable_cores() -> int:
    """Processor cores that this process may use: fewer than the machine has where `taskset`, a scheduler or a container
    (`docker --cpus`) says so."""
    from joblib import cpu_count

    return cpu_count()


def worker_count(n_jobs: int, device: str) -> int:
    """Loader processes: none beside a CPU, which computes with all cores; else n_jobs, -1 for all cores but one.

    Batches travel through /dev/shm, of which a container has 64 MB by default: no more workers than fit into it, and a
    line where these are fewer.
    """
    if device == "cpu":
        return 0
    wanted = max(1, usable_cores() - 1) if n_jobs < 0 else n_jobs
    room = shutil.disk_usage(SHARED_MEMORY).free // WORKER_BYTES if SHARED_MEMORY.is_dir() else wanted
    if room < wanted:
        print(f"{SHARED_MEMORY} has room for {room} of {wanted} loader processes (docker: --shm-size=8g)")
    return min(room, wanted)
