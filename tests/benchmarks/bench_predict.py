"""`cliniqure predict` end to end, from DICOM files to pages: films per second with and without the language model."""

import tempfile
import time
from pathlib import Path

import torch
from common import Bench

from cliniqure_utils.predict.command import predict

PROJECT = Path(__file__).parents[2]
N_FILMS = 16


def films_per_second(films: list[Path], run_dir: Path, **options) -> float:
    """Wall time of one call, models loaded within it, as for a user."""
    with tempfile.TemporaryDirectory() as out:
        began = time.perf_counter()
        done, _ = predict(films, run_dir, out, echo=lambda line: None, **options)
        return done / (time.perf_counter() - began)


def main() -> None:
    run_dir = PROJECT / "outputs" / "demo"
    films = sorted((PROJECT / "data" / "demo" / "train").glob("*.dicom"))[:N_FILMS]
    if not films or not (run_dir / "run.json").is_file():
        print("== predict: needs the demo run; make run first")
        return
    bench = Bench("predict")
    torch.set_num_threads(1)
    films_per_second(films[:1], run_dir, use_llm=False)  # imports and compiled code, once per machine
    facts = films_per_second(films, run_dir, use_llm=False)
    bench.state(f"{len(films)} films, facts alone", "film/s", facts)
    bench.state(f"{len(films)} films, with prose", "film/s", films_per_second(films, run_dir))
    bench.write()
