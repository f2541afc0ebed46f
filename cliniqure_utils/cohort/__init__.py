"""The demo cohort: a chest X-ray data set that anyone may have, in the layout of VinDr-CXR.

Films are simulated physically from one chest CT (`anatomy`), with findings built into the body (`lesions`), one
geometry and exposure per patient (`projection`, `film`), three readers who disagree (`readers`), reports and clinical
context (`reports`), written as the DICOM files that scanners write (`files`). `data/demo_cohort.md` is the data sheet.
"""

import hashlib
import json
import shutil
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from cliniqure_utils import vindr
from cliniqure_utils.cohort.anatomy import Anatomy, ensure_anatomy
from cliniqure_utils.runs import write_json, write_jsonl, write_table

VERSION = 3  # raise when a change alters the films or the tables
SIMULATED_FINDINGS = vindr.FINDINGS
_X = tuple(
    name for name in vindr.FINDINGS if name not in ("Calcification", "Other lesion", "Pleural thickening")
)
NORMAL_SHARE = 0.37  # films planned without a finding; VinDr-CXR: .71, with too few of each finding in a small cohort
N_FINDINGS = ((1, 2, 3, 4), (0.28, 0.36, 0.24, 0.12))  # findings of an abnormal film and their probabilities
TABLES = ("train.csv", "truth.csv", "clinical.csv", "reports.jsonl")
BATCH = 5  # patients that a worker takes at a time

__all__ = [
    "SIMULATED_FINDINGS", "Anatomy", "CohortError", "ensure_anatomy", "ensure_cohort", "image_id_of", "plan_patient",
]  # fmt: skip


class CohortError(ValueError):
    """The folder cannot be used for a simulated cohort."""


def ensure_cohort(
    data_dir: str | Path,
    n_patients: int = 600,
    size: int = 320,
    seed: int = 2024,
    n_jobs: int = -1,
    anatomy_dir: str | Path | None = None,
) -> dict:
    """Make the cohort below `data_dir` unless it is already there with these settings.

    Writes train/<image_id>.dicom, train.csv (three readers, Kaggle layout), truth.csv (simulated truth with side and
    zone), clinical.csv, reports.jsonl and, last, cohort.json, which marks the cohort as complete. Interrupted work is
    taken up where it stopped; films that were deleted from a complete cohort are made again. The result depends on the
    settings and the anatomy only, not on `n_jobs`. A second process waits until the first has finished.

    Args:
        data_dir: Folder of the cohort; made when missing.
        n_patients: Patients, one film each.
        size: Side of the films in pixels.
        seed: Seed of the cohort (not of the run that uses it).
        n_jobs: Worker processes; -1 for one per core.
        anatomy_dir: Where the cleaned CT is cached; default data_dir/anatomy.

    Returns:
        The settings, as cohort.json holds them.

    Raises:
        CohortError: The folder holds films or a train.csv that are not ours: real data is never touched.
    """
    from filelock import FileLock

    data_dir = Path(data_dir)
    _refuse_real_data(data_dir)
    data_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(data_dir / ".cohort.lock"):
        settings = {
            "version": VERSION, "n_patients": n_patients, "size": size, "seed": seed,
            "findings": list(SIMULATED_FINDINGS),
        }  # fmt: skip
        made = _read_json(data_dir / "cohort.json")
        # A finished cohort stays as it is where the CT has meanwhile gone, or come.
        complete = bool(made) and {k: v for k, v in made.items() if k != "anatomy"} == settings
        complete = complete and all((data_dir / name).is_file() for name in TABLES)
        films = data_dir / "train"
        if complete and all((films / f"{image_id_of(seed, i)}.dicom").is_file() for i in range(n_patients)):
            return made
        anatomy_path = ensure_anatomy(anatomy_dir if anatomy_dir is not None else data_dir / "anatomy")
        settings["anatomy"] = anatomy_path.stem
        return _make(data_dir, anatomy_path, settings, n_jobs, only_missing_films=complete and made == settings)


def image_id_of(seed: int, index: int) -> str:
    """32 hexadecimal characters, as VinDr-CXR's ids."""
    return hashlib.sha256(f"cliniqure cohort {seed} {index}".encode()).hexdigest()[:32]


def plan_patient(seed: int, index: int) -> tuple[list[str], int, str]:
    """What a patient's film shall show, in class-id order, and age in years and sex ("F", "M").

    Films are normal with the probability NORMAL_SHARE; else all findings are equally likely. Which of the planned
    findings can be seen, and whether heart or aorta measure as large without a plan, is decided by the simulation.
    """
    # A generator for each purpose: what a film looks like otherwise never depends on its findings.
    plan, person = np.random.default_rng([seed, index, 10]), np.random.default_rng([seed, index, 11])
    normal, count = plan.random() < NORMAL_SHARE, plan.choice(N_FINDINGS[0], p=N_FINDINGS[1])
    chosen = set(plan.choice(SIMULATED_FINDINGS, count, replace=False))
    findings = [] if normal else [name for name in SIMULATED_FINDINGS if name in chosen]
    age, sex = int(np.clip(person.normal(54, 16), 18, 90)), "F" if person.random() < 0.45 else "M"
    return findings, age, sex


def _refuse_real_data(data_dir: Path) -> None:
    """Raise where a folder holds annotations or films without a mark of ours."""
    ours = (data_dir / "cohort.json").is_file() or (data_dir / "parts" / "settings.json").is_file()
    for name in ("train.csv", "train"):
        if (data_dir / name).exists() and not ours:
            raise CohortError(
                f"{data_dir} holds {name} but no cohort.json: it looks like real data and is left alone; "
                "choose another folder for the simulated cohort"
            )


def _make(data_dir: Path, anatomy_path: Path, settings: dict, n_jobs: int, only_missing_films: bool) -> dict:
    """Simulate what is missing, join the tables, set the mark."""
    from joblib import Parallel, cpu_count, delayed
    from tqdm.auto import tqdm

    films, parts, mark = data_dir / "train", data_dir / "parts", data_dir / "cohort.json"
    n_patients, size, seed = settings["n_patients"], settings["size"], settings["seed"]
    if _read_json(parts / "settings.json") != settings:
        shutil.rmtree(parts, ignore_errors=True)
        write_json(parts / "settings.json", settings)  # from here on the folder is known to be ours
        if not only_missing_films:
            shutil.rmtree(films, ignore_errors=True)
    films.mkdir(exist_ok=True)
    if only_missing_films:
        missing = [i for i in range(n_patients) if not (films / f"{image_id_of(seed, i)}.dicom").is_file()]
    else:
        mark.unlink(missing_ok=True)
        missing = [i for i in range(n_patients) if not _finished(data_dir, i, seed)]

    workers = min(cpu_count() if n_jobs < 0 else max(1, n_jobs), max(1, len(missing)))
    batches = [missing[k : k + BATCH] for k in range(0, len(missing), BATCH)]
    work = Parallel(n_jobs=workers, return_as="generator_unordered")(
        delayed(_simulate_patients)(str(data_dir), str(anatomy_path), batch, seed, size) for batch in batches
    )
    with tqdm(total=n_patients, initial=n_patients - len(missing), desc="simulating films", unit="film") as bar:
        for done in work:
            bar.update(done)
    if not only_missing_films:
        _assemble(data_dir, n_patients)
        write_json(mark, settings)
    shutil.rmtree(parts)
    return settings


def _read_json(path: Path) -> dict | None:
    """The content of a JSON file, or None where there is no readable one (killed while it was written)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _finished(data_dir: Path, index: int, seed: int) -> bool:
    film = data_dir / "train" / f"{image_id_of(seed, index)}.dicom"
    return (data_dir / "parts" / f"{index:05d}.json").is_file() and film.is_file()


@lru_cache(maxsize=1)
def _load_anatomy(path: str) -> Anatomy:
    return Anatomy.load(path)


def _simulate_patients(data_dir: str, anatomy_path: str, indices: list[int], seed: int, size: int) -> int:
    """Worker: simulate and write some patients; returns their number."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one thread per process, else they fight for the cores
    try:
        for index in indices:
            _simulate_patient(Path(data_dir), _load_anatomy(anatomy_path), index, seed, size)
    finally:
        torch.set_num_threads(threads)
    return len(indices)


def _simulate_patient(data_dir: Path, anatomy: Anatomy, index: int, seed: int, size: int) -> None:
    from cliniqure_utils.cohort.files import write_film
    from cliniqure_utils.cohort.film import simulate
    from cliniqure_utils.cohort.readers import annotate
    from cliniqure_utils.cohort.reports import clinical_context, write_report

    findings, age, sex = plan_patient(seed, index)
    header, reading, writing, clinic = (np.random.default_rng([seed, index, purpose]) for purpose in (12, 13, 14, 15))
    film = simulate(anatomy, findings, [seed, index], size, breasts=sex == "F")
    image_id = image_id_of(seed, index)
    path = data_dir / "train" / f"{image_id}.dicom"
    write_film(path, film.pixels, image_id, age, sex, film.measures["pixel_mm"], header)
    nothing = {"class_name": vindr.NO_FINDING, **dict.fromkeys((*vindr.BOX, "side", "zone"))}
    part = {
        "image_id": image_id,
        "truth": film.findings or [nothing],
        "readers": annotate(film.findings, size, reading),
        "clinical": clinical_context(film.findings, age, sex, clinic),
        "report": write_report(film.findings, writing),
    }
    write_json(data_dir / "parts" / f"{index:05d}.json", part)


def _assemble(data_dir: Path, n_patients: int) -> None:
    """Join the patients' parts into the tables of the cohort."""
    parts = [
        json.loads((data_dir / "parts" / f"{index:05d}.json").read_text(encoding="utf-8"))
        for index in range(n_patients)
    ]
    ids = {name: i for i, name in enumerate((*vindr.FINDINGS, vindr.NO_FINDING))}
    for name, key, columns in (
        ("train.csv", "readers", ["image_id", "class_name", "class_id", "rad_id", *vindr.BOX]),
        ("truth.csv", "truth", ["image_id", "class_name", "class_id", *vindr.BOX, "side", "zone"]),
    ):
        table = pd.DataFrame([{"image_id": p["image_id"], **row} for p in parts for row in p[key]])
        table["class_id"] = table.class_name.map(ids)
        table[vindr.BOX] = table[vindr.BOX].astype("Int64")
        write_table(data_dir / name, table[columns])
    write_table(data_dir / "clinical.csv", pd.DataFrame([{"image_id": p["image_id"], **p["clinical"]} for p in parts]))
    write_jsonl(data_dir / "reports.jsonl", [{"image_id": p["image_id"], **p["report"]} for p in parts])
