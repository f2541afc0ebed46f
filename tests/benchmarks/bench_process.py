"""What the settings of a process save: freed memory that is used again (`process.keep_freed_memory`) and threads that
spin a little before they sleep (`process.THREADS`). A training step of the demo's detector with them, without the
one and without the other, in turns, each in a process of its own.

`make bench ONLY=process`, 2 minutes. The first is for glibc, the second for libgomp; elsewhere they are equal.
"""

import json
import os
import resource
import subprocess
import sys

from common import Bench, Cost, cost

from cliniqure_utils.process import THREADS

SETTINGS = {
    "ours": THREADS,
    # A value that glibc has anyway: a choice of the user, so the package leaves all of them alone.
    "glibc's own memory settings": THREADS | {"MALLOC_MMAP_MAX_": "65536"},
    "threads that sleep at once": THREADS | {"GOMP_SPINCOUNT": "0"},
}
ROUNDS = 3


def step() -> None:
    """In the child: the cheapest of some steps, and the fresh pages of the last one."""
    import bench_models
    import torch

    from cliniqure_utils.vision import detection

    torch.manual_seed(0)
    detector = detection.build_detector(rois_per_image=32, **bench_models.DEMO)
    one_step = bench_models.step_of(detector, 160, 16)
    found = cost(one_step, repeats=4)[0]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    one_step()
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"cost": found, "pages": used.ru_minflt - before, "peak": used.ru_maxrss / 1024}))


def child(variables: dict[str, str]) -> dict:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    ended = subprocess.run(
        [sys.executable, __file__, "step"], env=kept | variables, check=True, capture_output=True, text=True
    )
    return json.loads(ended.stdout.splitlines()[-1])


def main() -> None:
    bench = Bench("process")
    runs = {name: [] for name in SETTINGS}
    for _ in range(ROUNDS):
        for name, variables in SETTINGS.items():
            runs[name].append(child(variables))
    best = {name: Cost(*(min(run["cost"][i] for run in found) for i in (0, 1))) for name, found in runs.items()}
    for name in list(SETTINGS)[1:]:
        bench.compare_cost("demo detector, step of 16 films", best["ours"], best[name], name)
    for name, found in runs.items():
        bench.state(f"{name}: step", "ms", best[name].wall)
        bench.state(f"{name}: fresh pages in a step", "pages", max(run["pages"] for run in found))
        bench.state(f"{name}: peak memory", "MB", max(run["peak"] for run in found))
    bench.write()


if __name__ == "__main__":
    step() if sys.argv[1:] == ["step"] else main()
