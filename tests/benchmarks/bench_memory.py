"""What it saves that freed memory is used again (`runs.keep_freed_memory`): a training step of the demo's detector,
with it and with glibc's own settings, in turns, each in a process of its own.

`make bench ONLY=memory`, 1 minute. On another system than Linux with glibc both are the same.
"""

import json
import os
import resource
import subprocess
import sys

from common import Bench, Cost, cost

GLIBC_DEFAULT = {"MALLOC_MMAP_MAX_": "65536"}  # a value that glibc has anyway: a choice, which the package leaves alone
ROUNDS = 3


def step() -> None:
    """In the child: the cheapest of some steps, and the fresh pages of the last one."""
    import bench_models
    import torch

    from cliniqure_utils import detection

    torch.manual_seed(0)
    detector = detection.build_detector(rois_per_image=32, **bench_models.DEMO)
    one_step = bench_models.step_of(detector, 192, 16)
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
    bench = Bench("memory")
    runs = [(child({}), child(GLIBC_DEFAULT)) for _ in range(ROUNDS)]
    best = [Cost(*(min(run[who]["cost"][i] for run in runs) for i in (0, 1))) for who in (0, 1)]
    bench.compare_cost("demo detector, step of 16 films", *best, "glibc's own settings")
    for who, name in enumerate(("freed memory kept", "glibc's own settings")):
        bench.state(f"{name}: fresh pages in a step", "pages", max(run[who]["pages"] for run in runs))
        bench.state(f"{name}: peak memory", "MB", max(run[who]["peak"] for run in runs))
    bench.write()


if __name__ == "__main__":
    step() if sys.argv[1:] == ["step"] else main()
