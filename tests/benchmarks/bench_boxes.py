"""Annotations: reading them, merging the readers' boxes, and how the cost grows."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import Bench, cpu_seconds

from cliniqure_utils.annotations import (
    fuse_reader_boxes,
    leave_one_out,
    merge_reader_boxes,
    read_annotations,
    reader_ceiling,
)
from cliniqure_utils.annotations.merging import RULES
from cliniqure_utils.vocabulary import CLASSES, NO_FINDING_ID

READ = """
import resource, sys, time
from cliniqure_utils.annotations import read_annotations
started = time.process_time()
rows, rejected = read_annotations(sys.argv[1])
print(len(rows), len(rejected), time.process_time() - started,
      resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def many_rows(path: Path) -> None:
    """A CSV in Kaggle's layout, three times VinDr-CXR's: a fifth are findings, one of fifty of these is inside out."""
    rng = np.random.default_rng(0)
    n = 200_000
    kind = np.where(rng.random(n) < 0.2, rng.integers(0, 14, n), NO_FINDING_ID)
    corner, side = rng.uniform(0, 1000, (n, 2)), rng.uniform(10, 900, (n, 2))
    side[rng.random(n) < 0.02] *= -1
    with open(path, "w", encoding="utf-8") as file:
        file.write("image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\n")
        for k in range(n):
            (x, y), (w, h) = corner[k], side[k]
            box = f"{x:.1f},{y:.1f},{x + w:.1f},{y + h:.1f}" if kind[k] < NO_FINDING_ID else ",,,"
            file.write(f"{k // 3:032x},{CLASSES[kind[k]]},{kind[k]},R{8 + k % 3},{box}\n")


def main() -> None:
    bench = Bench("boxes")
    bench.state("read and check 67,914 rows", "CPU s", cpu_seconds(lambda: read_annotations("torchxrayvision")))
    with tempfile.TemporaryDirectory() as folder:
        many_rows(Path(folder) / "many.csv")
        command = [sys.executable, "-c", READ, str(Path(folder) / "many.csv")]
        _, refused, seconds, memory = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    bench.state(f"read 200,000 rows ({refused} rejected)", "CPU s", float(seconds))
    bench.state("largest memory of that process", "GB", float(memory))
    annotations, _ = read_annotations("torchxrayvision")
    some = annotations[annotations.image_id.isin(sorted(set(annotations.image_id))[:1500])]
    tenth = cpu_seconds(lambda: merge_reader_boxes(some, no_finding="drop"), 5)
    ours = cpu_seconds(lambda: merge_reader_boxes(annotations, no_finding="drop"))
    bench.compare("merge of 15,000 films", "CPU s", ours, 10 * tenth, "ten times 1,500 films: linear growth is 1.00")
    for rule in RULES:
        cost = cpu_seconds(lambda rule=rule: fuse_reader_boxes(annotations, rule), 2)
        bench.state(f"fuse 15,000 films by {rule}", "CPU s", cost)
    for name, found in (("leave one reader out, ten rules", leave_one_out),
                        ("reader ceiling", reader_ceiling)):  # fmt: skip
        bench.state(name, "CPU s", cpu_seconds(lambda found=found: found(annotations), 1))
    bench.write()
