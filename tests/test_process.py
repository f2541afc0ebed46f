"""What the package does about memory that is freed: it is used again, and only where the user has not chosen."""

import os
import platform
import subprocess
import sys

import pytest

from cliniqure_utils.process import usable_cores, worker_count

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
for _ in range(2):
    np.full(2**23, 1.5)
before = faults()
for _ in range(20):
    np.full(2**23, 1.5)
print(faults() - before)
"""


def fresh_pages(asked: bool = True, **variables: str) -> int:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    ended = subprocess.run(
        [sys.executable, "-c", PAGES.format(asked=asked)],
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
def test_a_choice_of_the_user_stays():
    assert fresh_pages(MALLOC_MMAP_THRESHOLD_="1000000") > 20 * 16384 / 512
    assert fresh_pages(GLIBC_TUNABLES="glibc.malloc.mmap_threshold=1000000") > 20 * 16384 / 512


def test_where_there_is_no_glibc_nothing_is_done(monkeypatch):
    from cliniqure_utils.process import keep_freed_memory

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False


def test_loader_processes_only_beside_a_gpu():
    assert worker_count(-1, "cpu") == worker_count(4, "cpu") == 0
    assert worker_count(4, "cuda") == 4 and worker_count(-1, "cuda") >= 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux can take a core away")
def test_only_cores_that_this_process_may_use_are_counted():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cores() == 1 and worker_count(-1, "cuda") == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert usable_cores() == len(allowed)
