"""What the package does about memory that is freed: it is used again, and only where the user has not chosen."""

import os
import platform
import subprocess
import sys

import pytest

from cliniqure_utils import process
from cliniqure_utils.process import resolve_device, thread_settings, usable_cores, worker_count

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")

# An array of 64 MB, 20 times made and freed after the first two: 16,384 pages of 4 KB each time they come anew.
PAGES = """
import resource
import numpy as np
import cliniqure_utils.process

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if {asked}:
    cliniqure_utils.process.keep_freed_memory()
if {undone}:
    cliniqure_utils.process.keep_freed_memory(False)
for _ in range(2):
    np.full(2**23, 1.5)
before = faults()
for _ in range(20):
    np.full(2**23, 1.5)
print(faults() - before)
"""


def fresh_pages(asked: bool = True, undone: bool = False, **variables: str) -> int:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    ended = subprocess.run(
        [sys.executable, "-c", PAGES.format(asked=asked, undone=undone)],
        env=kept | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(ended.stdout)


@glibc
def test_freed_memory_is_used_again():
    assert fresh_pages() < 1000


@glibc
def test_an_import_alone_changes_nothing():
    assert fresh_pages(asked=False) > 20 * 16384 / 512  # numpy asks for huge pages where the system has them


@glibc
def test_what_was_asked_can_be_undone():
    assert fresh_pages(undone=True) > 20 * 16384 / 512


@glibc
def test_a_choice_of_the_user_stays():
    assert fresh_pages(MALLOC_MMAP_THRESHOLD_="1000000") > 20 * 16384 / 512
    assert fresh_pages(GLIBC_TUNABLES="glibc.malloc.mmap_threshold=1000000") > 20 * 16384 / 512


def test_where_there_is_no_glibc_nothing_is_done(monkeypatch):
    from cliniqure_utils.process import keep_freed_memory

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False


def test_loader_processes_only_beside_a_gpu():
    assert worker_count(-1, "cpu") == worker_count(4, "cpu") == 0
    assert worker_count(2, "cuda") == 2 and worker_count(-1, "cuda") >= 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux can take a core away")
def test_only_cores_that_this_process_may_use_are_counted():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cores() == 1 and worker_count(-1, "cuda") == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert usable_cores() == len(allowed)


def test_a_container_that_may_use_fewer_cores_than_it_sees(monkeypatch):
    """`docker --cpus=1`: joblib reads the limit, OpenMP does not; a choice of the user stays."""
    monkeypatch.setattr("joblib.cpu_count", lambda: 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    assert usable_cores() == 1
    assert thread_settings({}) == {**process.THREADS, "OMP_NUM_THREADS": "1"}
    assert thread_settings({"OMP_NUM_THREADS": "3"}) == process.THREADS
    assert thread_settings({"OMP_WAIT_POLICY": "active"}) == {"OMP_NUM_THREADS": "1"}
    monkeypatch.setattr("joblib.cpu_count", lambda: 4)
    assert thread_settings({}) == process.THREADS


def test_a_small_shared_memory_takes_fewer_loader_processes(monkeypatch, tmp_path, capsys):
    from collections import namedtuple

    usage = namedtuple("usage", "free")
    monkeypatch.setattr(process, "SHARED_MEMORY", tmp_path)
    for megabytes, workers in ((64, 0), (600, 2), (8192, 4)):
        monkeypatch.setattr(process.shutil, "disk_usage", lambda path, m=megabytes: usage(m * 2**20))
        assert worker_count(4, "cuda") == workers
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and "has room for 0 of 4 loader processes" in said[0]
    monkeypatch.setattr(process, "SHARED_MEMORY", tmp_path / "nowhere")
    assert worker_count(4, "cuda") == 4


@pytest.mark.parametrize("there", ["cuda", "mps"])
def test_a_gpu_that_does_not_work_is_passed_over_with_a_line(monkeypatch, capsys, there):
    import torch

    error = RuntimeError("CUDA error: no kernel image is available for execution on the device\nCompile with ...")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there == "cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: there == "mps")
    plain, device = torch.ones, {"broken": True}

    def ones(*sizes, device_="cpu", **options):
        if options.pop("device", "cpu") == there and device["broken"]:
            raise error
        return plain(*sizes, **options)

    monkeypatch.setattr(torch, "ones", ones)
    assert resolve_device("auto") == "cpu"
    said = capsys.readouterr().out
    assert (
        said.startswith(f"device: {there} is there but does not work (CUDA error: no kernel") and said.count("\n") == 1
    )
    device["broken"] = False
    assert resolve_device("auto") == there and resolve_device("cuda:1") == "cuda:1" and not capsys.readouterr().out


def test_an_account_without_a_home_folder_gets_its_answer(repository):
    """A container's user that no table of users knows, with HOME unset."""
    code = (
        "import pwd, sys\n"
        "def unknown(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = unknown\n"
        "from cliniqure_utils.course.refresh import private_path\n"
        "assert private_path('a ~ b') is None\n"
        "from cliniqure_utils.course.doctor import OPTIONAL_FILES, _is_there\n"
        "from pathlib import Path\n"
        "print([_is_there(place, Path('.')) for _, place, _ in OPTIONAL_FILES][3:])"
    )
    left = ("HOME", "TORCH_HOME", "HF_HOME", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in left}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd="/")
    assert ended.returncode == 0, ended.stderr
