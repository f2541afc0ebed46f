"""Making a whole cohort: its patients in parallel, resumable after a stop; then the tables, and cohort.json last."""

import hashlib
import json
import shutil
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from cliniqure_utils.cohort.anatomy import Anatomy, ensure_anatomy
from cliniqure_utils.cohort.plan import has_follow_up, plan_patient, plan_visits
from cliniqure_utils.process import keep_freed_memory
from cliniqure_utils.runs import clear_unfinished, lock, write_json, write_jsonl, write_table
from cliniqure_utils.vocabulary import BOX, CLASSES, FINDINGS, NO_FINDING, PHYSIONET_TO_KAGGLE

VERSION = 4  # raise when a change alters the films or the tables
LAYOUTS = {  # layout -> file with the readers' boxes
    "kaggle": "train.csv",
    "physionet": "annotations/annotations_train.csv",
}
TABLES = ("truth.csv", "clinical.csv", "reports.jsonl")
BATCH = 5  # patients that a worker takes at a time


class CohortError(ValueError):
    """The folder cannot be used for a simulated cohort."""


def ensure_cohort(
    data_dir: str | Path,
    n_patients: int = 600,
    size: int = 320,
    seed: int = 2024,
    n_jobs: int = -1,
    anatomy_dir: str | Path | None = None,
    layout: str = "kaggle",
    anatomy: str = "auto",
) -> dict:
    """Make the cohort below `data_dir` unless it is already there with these settings.

    Writes train/<image_id>.dicom, train.csv (three readers, Kaggle layout), truth.csv (simulated truth with side and
    zone), clinical.csv, reports.jsonl and, last, cohort.json, which marks the cohort as complete. Interrupted work is
    taken up where it stopped; films that were deleted from a complete cohort are made again. The result depends on the
    settings and the anatomy only, not on `n_jobs`. A second process waits until the first has finished.

    Args:
        data_dir: Folder of the cohort; made when missing.
        n_patients: Number of patients. Each has one film, every fortieth a second one.
        size: Side of the films in pixels; 320 for the demo, up to 1024 or so.
        seed: Seed of the cohort (not of the run that uses it).
        n_jobs: Worker processes; -1 for one per core.
        anatomy_dir: Where the cleaned CT is cached; default data_dir/anatomy.
        layout: "kaggle", or "physionet": annotations/annotations_train.csv with the finer names of PhysioNet's release,
            and annotations/image_labels_train.csv, in place of train.csv.
        anatomy: "auto", the CT where it is installed, or "phantom", a chest built from formulas: other bones, lungs and
            vessels with the same findings, for a test set outside the domain. It needs a folder of its own.

    Returns:
        The settings, as cohort.json holds them.

    Raises:
        CohortError: The folder holds films or annotations that are not ours (real data is never touched), or an unknown
            layout.
    """
    if layout not in LAYOUTS:
        raise CohortError(f"layout must be one of {', '.join(LAYOUTS)}, found {layout!r}")
    data_dir = Path(data_dir)
    _refuse_real_data(data_dir)
    data_dir.mkdir(parents=True, exist_ok=True)
    with lock(data_dir / ".cohort.lock"):
        clear_unfinished(data_dir)
        settings = {
            "version": VERSION, "n_patients": n_patients, "size": size, "seed": seed, "layout": layout,
            "findings": list(FINDINGS),
        }  # fmt: skip
        made = _read_json(data_dir / "cohort.json")
        if made and anatomy == "phantom" and made.get("anatomy") != "phantom":
            raise CohortError(f"{data_dir} holds a cohort made from the CT; choose another folder for the phantom's")
        # A finished cohort is kept even when the CT was removed or installed in the meantime.
        complete = bool(made) and {k: v for k, v in made.items() if k != "anatomy"} == settings
        complete = complete and all((data_dir / name).is_file() for name in (*TABLES, LAYOUTS[layout]))
        films = data_dir / "train"
        if complete and all((films / f"{i}.dicom").is_file() for i in image_ids(seed, n_patients)):
            return made
        anatomy_path = ensure_anatomy(anatomy_dir if anatomy_dir is not None else data_dir / "anatomy", anatomy)
        settings["anatomy"] = anatomy_path.stem
        return _make(data_dir, anatomy_path, settings, n_jobs, only_missing_films=complete and made == settings)


def image_id_of(seed: int, index: int, visit: int = 0) -> str:
    """32 hexadecimal characters, as VinDr-CXR's ids; visit 1 is the second film of a patient who has two."""
    later = f" {visit}" if visit else ""
    return hashlib.sha256(f"cliniqure cohort {seed} {index}{later}".encode()).hexdigest()[:32]


def image_ids(seed: int, n_patients: int) -> list[str]:
    """Ids of all films of a cohort, patient by patient."""
    return [i for index in range(n_patients) for i in _ids_of_patient(seed, index)]


def _ids_of_patient(seed: int, index: int) -> list[str]:
    return [image_id_of(seed, index, visit) for visit in range(1 + has_follow_up(index))]


def _refuse_real_data(data_dir: Path) -> None:
    """Raise where a folder holds annotations or films without a mark of ours."""
    ours = (data_dir / "cohort.json").is_file() or (data_dir / "parts" / "settings.json").is_file()
    for name in (*LAYOUTS.values(), "train"):
        if (data_dir / name).exists() and not ours:
            raise CohortError(
                f"{data_dir} holds {name} but no cohort.json: it looks like real data and is left alone; "
                "choose another folder for the simulated cohort"
            )


def _make(data_dir: Path, anatomy_path: Path, settings: dict, n_jobs: int, only_missing_films: bool) -> dict:
    """Simulate what is missing, join the tables, and write cohort.json, the mark of a complete cohort."""
    from joblib import Parallel, cpu_count, delayed
    from tqdm.auto import tqdm

    from cliniqure_utils.cohort.readers import measure_vindr

    films, parts, mark = data_dir / "train", data_dir / "parts", data_dir / "cohort.json"
    n_patients, size, seed = settings["n_patients"], settings["size"], settings["seed"]
    if _read_json(parts / "settings.json") != settings:
        shutil.rmtree(parts, ignore_errors=True)
        write_json(parts / "settings.json", settings)  # from here on the folder is known to be ours
        if not only_missing_films:
            shutil.rmtree(films, ignore_errors=True)
    films.mkdir(exist_ok=True)
    if not only_missing_films:
        mark.unlink(missing_ok=True)

    def is_finished(index: int) -> bool:
        has_films = all((films / f"{i}.dicom").is_file() for i in _ids_of_patient(seed, index))
        return has_films and (only_missing_films or (parts / f"{index:05d}.json").is_file())

    missing = [i for i in range(n_patients) if not is_finished(i)]
    plans = {i: (plan_visits(seed, i), *plan_patient(seed, i)[1:]) for i in missing}
    model = measure_vindr()  # measured once, here, not once per worker

    workers = min(cpu_count() if n_jobs < 0 else max(1, n_jobs), max(1, len(missing)))
    batches = [{i: plans[i] for i in missing[k : k + BATCH]} for k in range(0, len(missing), BATCH)]
    work = Parallel(n_jobs=workers, return_as="generator_unordered")(
        delayed(_simulate_patients)(str(data_dir), str(anatomy_path), batch, seed, size, model) for batch in batches
    )
    with tqdm(total=n_patients, initial=n_patients - len(missing), desc="simulating films", unit="patient") as bar:
        for done in work:
            bar.update(done)
    if not only_missing_films:
        _assemble(data_dir, n_patients, settings["layout"])
        write_json(mark, settings)
    shutil.rmtree(parts)
    return settings


def _read_json(path: Path) -> dict | None:
    """The content of a JSON file, or None where there is no readable one (killed while it was written)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


@lru_cache(maxsize=1)
def _load_anatomy(path: str) -> Anatomy:
    return Anatomy.load(path)


def _simulate_patients(data_dir: str, anatomy_path: str, plans: dict[int, tuple], seed: int, size: int, model) -> int:
    """Worker: simulate and write some patients; returns their number."""
    import torch

    keep_freed_memory()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one thread per process, else the processes compete for cores
    try:
        for index, plan in plans.items():
            _simulate_patient(Path(data_dir), _load_anatomy(anatomy_path), index, plan, seed, size, model)
    finally:
        torch.set_num_threads(threads)
    return len(plans)


def _simulate_patient(data_dir: Path, anatomy: Anatomy, index: int, plan: tuple, seed: int, size: int, model) -> None:
    """Simulate and write one patient's films; `plan`: findings of each visit, age, sex."""
    from cliniqure_utils.cohort.files import draw_header, write_film
    from cliniqure_utils.cohort.patient import simulate
    from cliniqure_utils.cohort.readers import annotate
    from cliniqure_utils.cohort.report_text import clinical_context, write_report

    visits, age, sex = plan
    nothing = {"class_name": NO_FINDING, **dict.fromkeys((*BOX, "side", "zone"))}
    part = []
    for visit, findings in enumerate(visits):
        reading, writing, clinic = (np.random.default_rng([seed, index, purpose, visit]) for purpose in (13, 14, 15))
        film = simulate(anatomy, findings, [seed, index], size, breasts=sex == "F", visit=visit)
        image_id = image_id_of(seed, index, visit)
        path = data_dir / "train" / f"{image_id}.dicom"
        write_film(
            path, film.pixels, image_id, age, sex, film.measures["pixel_mm"], draw_header(seed, index, visit),
            patient=image_id_of(seed, index),
        )  # fmt: skip
        part.append(
            {
                "image_id": image_id,
                "truth": film.findings or [nothing],
                "readers": annotate(film.findings, size, reading, model),
                "clinical": clinical_context(film.findings, age, sex, clinic, is_follow_up=visit > 0),
                "report": write_report(film.findings, writing),
            }
        )
    write_json(data_dir / "parts" / f"{index:05d}.json", part)


def _assemble(data_dir: Path, n_patients: int, layout: str) -> None:
    """Join the patients' parts into the tables of the cohort."""
    parts = [
        film
        for index in range(n_patients)
        for film in json.loads((data_dir / "parts" / f"{index:05d}.json").read_text(encoding="utf-8"))
    ]
    ids = {name: i for i, name in enumerate(CLASSES)}

    def table(key: str) -> pd.DataFrame:
        rows = pd.DataFrame([{"image_id": p["image_id"], **row} for p in parts for row in p[key]])
        rows["class_id"] = rows.class_name.map(ids)
        rows[BOX] = rows[BOX].astype("Int64")
        return rows

    readers = table("readers")
    (data_dir / LAYOUTS[layout]).parent.mkdir(exist_ok=True)
    if layout == "kaggle":
        columns = ["image_id", "class_name", "class_id", "rad_id", *BOX]
    else:
        readers["class_name"] = readers.local_name
        columns = ["image_id", "rad_id", "class_name", *BOX]
        write_table(data_dir / "annotations" / "image_labels_train.csv", _image_labels(readers))
    write_table(data_dir / LAYOUTS[layout], readers[columns])
    write_table(data_dir / "truth.csv", table("truth")[["image_id", "class_name", "class_id", *BOX, "side", "zone"]])
    write_table(data_dir / "clinical.csv", pd.DataFrame([{"image_id": p["image_id"], **p["clinical"]} for p in parts]))
    write_jsonl(data_dir / "reports.jsonl", [{"image_id": p["image_id"], **p["report"]} for p in parts])


def _image_labels(readers: pd.DataFrame) -> pd.DataFrame:
    """PhysioNet's labels of whole films, a row per film and reader: 22 local names, and six about the whole film."""
    found = readers[["image_id", "rad_id"]].drop_duplicates().set_index(["image_id", "rad_id"])
    named = readers.groupby(["image_id", "rad_id"], sort=False).class_name.agg(set).reindex(found.index)
    for name in PHYSIONET_TO_KAGGLE:
        found[name] = [int(name in names) for names in named]
    # What a reader concludes about the whole film: a rough rule of ours, only so that the columns are not empty.
    found["COPD"] = found["Lung cyst"]
    found["Lung tumor"] = found["Nodule/Mass"]
    found["Pneumonia"] = found[["Consolidation", "Infiltration"]].max(axis=1)
    found["Tuberculosis"] = found["Lung cavity"]
    found["Other diseases"] = found[["Pleural effusion", "Pneumothorax", "ILD", "Cardiomegaly"]].max(axis=1)
    found[NO_FINDING] = [int(NO_FINDING in names) for names in named]
    return found.reset_index()
