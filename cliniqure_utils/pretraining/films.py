"""Part `films`: thousands of simulated films, straight into arrays, in shards that a stopped run keeps.

Two in five are as the cohort's (its body, stance and machine), three in ten are wide films of the same CT, three in
ten of bodies built from formulas. The phantom of the tests, seed 0, is not among them. Findings are planned as the
cohort's; films with some get more of the small ones, of which a network needs many to learn.
"""

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from cliniqure_utils.cohort.anatomy import Anatomy, anatomy_from_phantom, ensure_anatomy
from cliniqure_utils.cohort.patient import simulate
from cliniqure_utils.cohort.plan import plan_patient
from cliniqure_utils.cohort.report_text import write_report
from cliniqure_utils.pretraining.simulation import WideBody, simulate_wide
from cliniqure_utils.process import keep_freed_memory
from cliniqure_utils.runs import atomic_path, write_json
from cliniqure_utils.vocabulary import FINDINGS

VERSION = 4  # raise when a change alters the films or what is true of them
SEED = 190_001  # no cohort has it, so no patient of a cohort is among these
SHARD = 50  # films in a file, all of one body
SIZE = 192  # pixels
RAY_STEP = 6.0  # mm; the cohort's 4.5 show nothing more at this size
KINDS = ("cohort", "wide", "phantom", "cohort", "wide", "phantom", "cohort", "wide", "phantom", "cohort")
N_PHANTOMS = 12
SMALL = ("Atelectasis", "Calcification", "Nodule/Mass", "Other lesion")
MORE_SMALL = 0.15  # chance of each on a film with other findings; normal films stay as many


def simulate_films(
    folder: str | Path, anatomy_dir: str | Path, n_films: int, seed: int = SEED, n_jobs: int = -1
) -> int:
    """Simulate the films that are missing in a folder. Shards of another version or seed are made anew.

    Shards are made in their order, through joblib: inside `joblib.parallel_config(backend="dask")` a cluster makes
    them. The result depends on seed and number alone.

    Args:
        folder: Where shard 0 becomes 00000.npz, and so on; `read_shard` reads one.
        anatomy_dir: Where the bodies are cached.
        n_films: How many there shall be, rounded up to whole shards.
        seed: Another seed is other patients.
        n_jobs: Worker processes; -1 for one per core.

    Returns:
        How many films are in the folder now.
    """
    from joblib import Parallel, delayed

    folder, anatomy_dir = Path(folder), Path(anatomy_dir)
    folder.mkdir(parents=True, exist_ok=True)
    mark, made_by = folder / "films.json", {"version": VERSION, "seed": seed}
    if not mark.is_file() or json.loads(mark.read_text(encoding="utf-8")) != made_by:
        for old in folder.glob("*.npz"):
            old.unlink()
        write_json(mark, made_by)
    for kind in range(N_PHANTOMS + 1):
        body_path(anatomy_dir, kind)
    n_shards = -(-n_films // SHARD)
    missing = [k for k in range(n_shards) if not shard_path(folder, k).is_file()]
    work = Parallel(n_jobs=n_jobs, return_as="generator_unordered")(
        delayed(_simulate_shard)(str(folder), str(anatomy_dir), k, seed) for k in missing
    )
    with tqdm(total=n_shards * SHARD, initial=(n_shards - len(missing)) * SHARD, desc="films", unit="film") as bar:
        for _ in work:
            bar.update(SHARD)
    return n_shards * SHARD


def shard_path(folder: str | Path, number: int) -> Path:
    """Where a shard lies."""
    return Path(folder) / f"{number:05d}.npz"


def read_shard(path: str | Path) -> tuple[np.ndarray, list[dict]]:
    """Films of a shard, uint8 (n, size, size), and what is true of each: kind, findings (rows of a `Film`), report."""
    with np.load(path) as stored:
        return stored["pixels"], json.loads(str(stored["truth"]))


def body_of(number: int) -> int:
    """The body of a shard: 0 the CT, else the seed of a phantom, from 1 on."""
    rounds, place = divmod(number, len(KINDS))
    if KINDS[place] != "phantom":
        return 0
    return 1 + (rounds * KINDS.count("phantom") + KINDS[:place].count("phantom")) % N_PHANTOMS


def body_path(anatomy_dir: Path, number: int) -> Path:
    """Path of a body, made where it is missing: 0 is the CT, above it phantoms of that seed."""
    if number == 0:
        return ensure_anatomy(anatomy_dir)
    path = anatomy_dir / f"phantom-{number}.npz"
    if not path.is_file():
        anatomy_from_phantom(number).save(path)
    return path


@lru_cache(maxsize=2)
def load_body(path: str | Path) -> WideBody:
    """A body as wide films need it, from its cache; the last two are kept."""
    return WideBody.of(Anatomy.load(path, RAY_STEP))


def _with_small(findings: list[str], rng: np.random.Generator) -> list[str]:
    """Findings and more small ones, in class-id order."""
    more = {name for name, chance in zip(SMALL, rng.random(len(SMALL)), strict=True) if chance < MORE_SMALL}
    return [name for name in FINDINGS if name in more or name in findings]


def _simulate_shard(folder: str, anatomy_dir: str, number: int, seed: int) -> None:
    """Worker: simulate and write the films of one shard."""
    import torch

    keep_freed_memory()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one thread per process, else the processes compete for cores
    kind = KINDS[number % len(KINDS)]
    body = load_body(body_path(Path(anatomy_dir), body_of(number)))
    pixels, truth = [], []
    try:
        for index in range(number * SHARD, (number + 1) * SHARD):
            findings, _, sex = plan_patient(seed, index)
            if findings:
                findings = _with_small(findings, np.random.default_rng([seed, index, 17]))
            if kind == "cohort":
                film = simulate(body.anatomy, findings, [seed, index], SIZE, int(0.65 * SIZE), breasts=sex == "F")
                film.pixels = (film.pixels >> 4).astype(np.uint8)
            else:
                film = simulate_wide(body, findings, [seed, index], SIZE)
            pixels.append(film.pixels)
            report = write_report(film.findings, np.random.default_rng([seed, index, 14]))
            truth.append({"kind": kind, "findings": film.findings, "report": report})
    finally:
        torch.set_num_threads(threads)
    with atomic_path(shard_path(folder, number)) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, pixels=np.stack(pixels), truth=json.dumps(truth))
