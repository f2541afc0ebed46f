"""Timing and the table that every bench prints and keeps."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cliniqure_utils.runs import write_json

OUT = Path(__file__).parents[2] / "outputs" / "bench"


def cpu_seconds(function: Callable, repeats: int = 3) -> float:
    """Median CPU seconds of some calls, after one to warm up."""
    function()
    found = []
    for _ in range(repeats):
        started = time.process_time()
        function()
        found.append(time.process_time() - started)
    return float(np.median(found))


class Cost(NamedTuple):
    """Milliseconds: CPU of all threads together, and wall."""

    cpu: float
    wall: float


def cost(*functions: Callable, repeats: int = 5) -> list[Cost]:
    """Least cost of a call of each, taken in turns after one to warm up: a busy moment meets all of them."""
    found = [[] for _ in functions]
    for _ in range(repeats + 1):
        for calls, function in zip(found, functions, strict=True):
            wall, cpu = time.perf_counter(), time.process_time()
            function()
            calls.append((1000 * (time.process_time() - cpu), 1000 * (time.perf_counter() - wall)))
    return [Cost(*np.min(calls[1:], axis=0).tolist()) for calls in found]


class Bench:
    """Rows of one bench; `write` puts them into outputs/bench/<name>.json."""

    def __init__(self, name: str):
        self.name, self.rows = name, []
        print(f"== {name}")

    def compare(self, what: str, unit: str, ours: float, plain: float, plain_is: str, **more: float) -> None:
        row = {"name": what, "unit": unit, "ours": ours, "plain": plain, "ratio": plain / ours, "plain_is": plain_is}
        self.rows.append(row | more)
        text = "".join(f", {name.replace('_', ' ')} {value:.1f}" for name, value in more.items())
        line = f"{what:40} {ours:8.2f} {unit:6} against {plain:8.2f} ({plain_is}): {plain / ours:5.1f} times{text}"
        print(line, flush=True)

    def compare_cost(self, what: str, ours: Cost, plain: Cost, plain_is: str) -> None:
        self.compare(what, "CPU ms", ours.cpu, plain.cpu, plain_is, by_wall_time=plain.wall / ours.wall)

    def state(self, what: str, unit: str, value: float) -> None:
        self.rows.append({"name": what, "unit": unit, "ours": value})
        print(f"{what:40} {value:8.2f} {unit}", flush=True)

    def write(self) -> None:
        write_json(OUT / f"{self.name}.json", self.rows)
