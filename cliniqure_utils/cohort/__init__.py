"""The demo cohort: a chest X-ray data set that anyone may have, in the layout of VinDr-CXR.

Films are simulated physically from one chest CT (`anatomy`), with findings built into the body (`lesions`), one
geometry and exposure per patient (`projection`, `film`), three readers who disagree (`readers`), reports and clinical
context (`reports`), written as the DICOM files that scanners write. `data/demo_cohort.md` is the data sheet.
"""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from cliniqure_utils import vindr
from cliniqure_utils.cohort.anatomy import Anatomy, ensure_anatomy
from cliniqure_utils.runs import write_json, write_jsonl, write_table

VERSION = 1  # raise when a change alters the films or the tables
SIMULATED_FINDINGS = tuple(
    name for name in vindr.FINDINGS if name not in ("Calcification", "Other lesion", "Pleural thickening")
)
NORMAL_SHARE = 0.36  # films without a finding; VinDr-CXR: .71, with too few of each finding left in a small cohort
N_FINDINGS = ((1, 2, 3, 4), (0.28, 0.36, 0.24, 0.12))  # findings of an abnormal film and their probabilities
BOX = ("x_min", "y_min", "x_max", "y_max")

__all__ = ["SIMULATED_FINDINGS", "Anatomy", "CohortError", "ensure_anatomy", "ensure_cohort", "image_id_of"]


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
    taken up where it stopped. The result depends on the settings and the anatomy only, not on `n_jobs`.

    Args:
        data_dir: Folder of the cohort.
        n_patients: Patients, one film each.
        size: Side of the films in pixels.
        seed: Seed of the cohort (not of the run that uses it).
        n_jobs: Worker processes; -1 for one per core.
        anatomy_dir: Where the cleaned CT is cached; default data_dir/anatomy.

    Returns:
        The settings, as cohort.json holds them.

    Raises:
        CohortError: The folder holds a train.csv that is not ours: real data is never touched.
    """
    from joblib import Parallel, cpu_count, delayed
    from tqdm.auto import tqdm

    data_dir = Path(data_dir)
    anatomy_path = ensure_anatomy(anatomy_dir if anatomy_dir is not None else data_dir / "anatomy")
    settings = {
        "version": VERSION, "n_patients": n_patients, "size": size, "seed": seed, "anatomy": anatomy_path.stem,
        "findings": list(SIMULATED_FINDINGS),
    }  # fmt: skip
    mark, parts = data_dir / "cohort.json", data_dir / "parts"
    if mark.is_file():
        if json.loads(mark.read_text(encoding="utf-8")) == settings:
            return settings
        mark.unlink()
        shutil.rmtree(data_dir / "train", ignore_errors=True)
    elif (data_dir / "train.csv").is_file() and not parts.is_dir():
        raise CohortError(f"{data_dir} holds a train.csv but no cohort.json: real data is not overwritten")
    started = parts / "settings.json"
    if not started.is_file() or json.loads(started.read_text(encoding="utf-8")) != settings:
        shutil.rmtree(parts, ignore_errors=True)
        shutil.rmtree(data_dir / "train", ignore_errors=True)
        write_json(started, settings)
    (data_dir / "train").mkdir(exist_ok=True)

    missing = [i for i in range(n_patients) if not _finished(data_dir, i, seed)]
    workers = min(cpu_count() if n_jobs < 0 else max(1, n_jobs), max(1, len(missing)))
    batches = [missing[k : k + 5] for k in range(0, len(missing), 5)]
    work = Parallel(n_jobs=workers, return_as="generator_unordered")(
        delayed(_simulate_patients)(str(data_dir), str(anatomy_path), batch, seed, size) for batch in batches
    )
    with tqdm(total=n_patients, initial=n_patients - len(missing), desc="simulating films", unit="film") as bar:
        for done in work:
            bar.update(done)
    _assemble(data_dir, n_patients)
    write_json(mark, settings)
    shutil.rmtree(parts)
    return settings


def image_id_of(seed: int, index: int) -> str:
    """32 hexadecimal characters, as VinDr-CXR's ids."""
    return hashlib.sha256(f"cliniqure cohort {seed} {index}".encode()).hexdigest()[:32]


def _finished(data_dir: Path, index: int, seed: int) -> bool:
    film = data_dir / "train" / f"{image_id_of(seed, index)}.dicom"
    return (data_dir / "parts" / f"{index:05d}.json").is_file() and film.is_file()


_LOADED: dict[str, Anatomy] = {}


def _simulate_patients(data_dir: str, anatomy_path: str, indices: list[int], seed: int, size: int) -> int:
    """Worker: simulate and write some patients; returns their number."""
    import torch

    torch.set_num_threads(1)  # one thread per process, else they fight for the cores
    if anatomy_path not in _LOADED:
        _LOADED[anatomy_path] = Anatomy.load(anatomy_path)
    for index in indices:
        _simulate_patient(Path(data_dir), _LOADED[anatomy_path], index, seed, size)
    return len(indices)


def _simulate_patient(data_dir: Path, anatomy: Anatomy, index: int, seed: int, size: int) -> None:
    from cliniqure_utils.cohort.files import write_film
    from cliniqure_utils.cohort.film import simulate
    from cliniqure_utils.cohort.readers import annotate
    from cliniqure_utils.cohort.reports import clinical_context, write_report

    # A generator for each purpose: what a film looks like otherwise never depends on its findings.
    plan, person, reading, writing = (np.random.default_rng([seed, index, purpose]) for purpose in (10, 11, 12, 13))
    findings: list[str] = []
    if plan.random() > NORMAL_SHARE:
        findings = list(plan.choice(SIMULATED_FINDINGS, plan.choice(N_FINDINGS[0], p=N_FINDINGS[1]), replace=False))
    age, sex = int(np.clip(person.normal(54, 16), 18, 90)), "F" if person.random() < 0.45 else "M"
    film = simulate(anatomy, findings, [seed, index], size, breasts=sex == "F")

    image_id = image_id_of(seed, index)
    write_film(data_dir / "train" / f"{image_id}.dicom", film.pixels, image_id, age, sex, person)
    nothing = [{"class_name": vindr.NO_FINDING, **dict.fromkeys(BOX), "side": None, "zone": None}]
    part = {
        "image_id": image_id,
        "truth": film.findings or nothing,
        "readers": [
            {k: None if v != v else v for k, v in row.items()} for row in annotate(film.findings, size, reading)
        ],
        "clinical": clinical_context(film.findings, age, sex, writing),
        "report": write_report(film.findings, size, writing),
        "measures": film.measures,
    }
    write_json(data_dir / "parts" / f"{index:05d}.json", part)


def _assemble(data_dir: Path, n_patients: int) -> None:
    """Join the patients' parts into the tables of the cohort."""
    parts = [
        json.loads((data_dir / "parts" / f"{index:05d}.json").read_text(encoding="utf-8"))
        for index in range(n_patients)
    ]
    ids = {name: i for i, name in enumerate((*vindr.FINDINGS, vindr.NO_FINDING))}
    columns = ["image_id", "class_name", "class_id", "rad_id", *BOX]
    readers = pd.DataFrame([{"image_id": p["image_id"], **row} for p in parts for row in p["readers"]])
    readers[list(BOX)] = readers[list(BOX)].astype("Int64")
    write_table(data_dir / "train.csv", readers[columns])
    truth = pd.DataFrame([{"image_id": p["image_id"], **row} for p in parts for row in p["truth"]])
    truth["class_id"] = truth.class_name.map(ids)
    write_table(data_dir / "truth.csv", truth[["image_id", "class_name", "class_id", *BOX, "side", "zone"]])
    write_table(data_dir / "clinical.csv", pd.DataFrame([{"image_id": p["image_id"], **p["clinical"]} for p in parts]))
    write_jsonl(data_dir / "reports.jsonl", [{"image_id": p["image_id"], **p["report"]} for p in parts])
