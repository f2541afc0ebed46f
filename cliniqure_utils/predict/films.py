"""Films one after another through the models of a run: findings, boxes, crude report."""

import hashlib
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from PIL import Image

from cliniqure_utils.dicom import UnreadableImage, image_id_of
from cliniqure_utils.dicom.archive import run_guarded, small_film
from cliniqure_utils.dicom.header import is_picture
from cliniqure_utils.notebooks import ran_with
from cliniqure_utils.predict.inputs import frontal_view, refusal
from cliniqure_utils.predict.names import printable
from cliniqure_utils.process import keep_freed_memory, resolve_device
from cliniqure_utils.project import require

# What the models are made of, and how the run used them.
NEEDED = (
    "02_detect/model.safetensors",
    "03_classify/model.safetensors",
    "03_classify/temperature.json",
    "04_crude_report/model.safetensors",
)
SHOWN_SIDE = 1024  # pixels: longest side of the film in overlays
SMALLEST_SIDE = 32  # pixels: a shorter longest side shows no chest
FEWEST_GREYS = 16  # of a film; real ones have hundreds
OLDEST = 89  # years: a higher age, on its own, can tell who somebody is


def stream_films(
    paths: Iterable[str | Path], run_dir: str | Path, device: str = "auto", n_jobs: int = 1, eyes: str | None = None
) -> Iterator[tuple[Path, dict | None, str | None]]:
    """Apply the detector, the classifier and the report model of a finished run, film by film.

    Args:
        paths: DICOM files, or grey PNG or JPEG pictures.
        run_dir: Folder of the run, such as outputs/demo.
        device: "auto", "cpu", "cuda" or "mps".
        n_jobs: Worker processes, each with models of its own; within joblib's Dask backend, tasks of its cluster.
        eyes: Weights of `vision.xrv.load_xrv` that classify instead of the run's classifier.

    Yields:
        (path, film, None), or (path, None, reason) for a file that is not read, in the order of the paths. film is a
        dict: source, image_id, rows, columns, view, age_years (None above 89), sex, notes, probabilities (15 classes,
        calibrated; with `eyes` those that they know, as they say them), beside (what `eyes` say that is none of the
        15), unfamiliar (unlike the films that the run's models know; None where the run cannot tell), few_greys
        (`has_few_greys`), boxes (DataFrame in the form of predictions.csv), crude_report, shown (uint8, longest side at
        most 1024), key (of the file's content), uid_key (hash of the SOP Instance UID, None where there is none).

    Raises:
        MissingInput: The run lacks a model; the message names the notebook that makes it.
    """
    run_dir = Path(run_dir).resolve()
    check_models(run_dir)
    made = tuple((run_dir / name).stat().st_mtime_ns for name in NEEDED)
    work = partial(_describe, run_dir=run_dir, made=made, device=resolve_device(device), eyes=eyes)
    yield from run_guarded(work, [Path(path) for path in paths], n_jobs)


def check_models(run_dir: str | Path) -> None:
    """Raises MissingInput where a run lacks a model."""
    for name in NEEDED:
        require(run_dir, name)


@lru_cache(maxsize=1)
def _models(run_dir: Path, made: tuple, device: str, eyes: str | None):
    """Detector and classifier, report model, the options with which notebook 04 wrote, and the other eyes or None.

    Loaded once per process and run; `made` tells a run from a later one in the same folder.
    """
    from cliniqure_utils import cmn
    from cliniqure_utils.vision.inference import RunModels
    from cliniqure_utils.vision.xrv import load_xrv

    keep_freed_memory()  # worker processes and a Dask cluster's workers come through here, too
    writing = ran_with(run_dir, "04_crude_report")
    options = {name: writing[name] for name in ("beam_size", "max_length")}
    reporter = cmn.load(run_dir / "04_crude_report").to(device)
    return RunModels(run_dir, device), reporter, options, load_xrv(eyes).to(device) if eyes else None


def in_one_line(error: Exception) -> str:
    """Kind and text of an unforeseen error, for the table of rejected files."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def _describe(path: Path, run_dir: Path, made: tuple, device: str, eyes: str | None):
    """One film: (path, what the models say, None) or (path, None, why not)."""
    models = _models(run_dir, made, device, eyes)  # a run's fault is not a film's
    try:
        reason = refusal(path)
        return (path, _said_of(path, models), None) if reason is None else (path, None, reason)
    except UnreadableImage as error:
        return path, None, str(error)
    except Exception as error:  # whatever one film does to a decoder or a network, the others go on
        return path, None, f"{path.name}: cannot be read ({in_one_line(error)})"


def _said_of(path: Path, models: tuple) -> dict:
    """What the models say of a film that its header allows."""
    from cliniqure_utils import cmn

    eyes, reporter, options, others = models
    pixels, facts, notes = small_film(path, eyes.cache_size)
    if max(facts["rows"], facts["columns"]) < SMALLEST_SIDE:
        size = f"{facts['columns']} x {facts['rows']} pixels"
        raise UnreadableImage(f"{path.name}: {size}; expected a film of at least {SMALLEST_SIDE}")
    shown, _, _ = small_film(path, SHOWN_SIDE)
    image_id = printable(image_id_of(path))
    size = (facts["columns"], facts["rows"])
    table, boxes = eyes.answer([image_id], [pixels], {image_id: size})
    probabilities = table.drop(columns="image_id").iloc[0].to_dict()
    strangeness = eyes.strangeness([pixels])
    beside = {}
    if others:
        probabilities, asked = others.ask(shown)
        beside = {name: value for name, value in asked.items() if value >= 0.5}
        if beside:
            said = ", ".join(f"{name} ({value:.2f})" for name, value in beside.items())
            notes = [*notes, f"torchxrayvision's network also says what is no finding of this project: {said}"]
    device = next(reporter.parameters()).device
    ids = reporter.generate(cmn.model_input(reporter, pixels).to(device), **options)[0]
    age = facts["age_years"]
    return {
        "source": printable(path.name),
        "image_id": image_id,
        "rows": facts["rows"],
        "columns": facts["columns"],
        "view": frontal_view(facts["view"]),
        "age_years": age if age is None or age <= OLDEST else None,
        "sex": facts["sex"],
        "notes": notes,
        "probabilities": probabilities,
        "beside": list(beside),
        "unfamiliar": None if strangeness is None else bool(strangeness[0] > 1),
        "few_greys": has_few_greys(path, shown),
        "boxes": boxes,
        "crude_report": cmn.to_prose(reporter.tokenizer.decode(ids.tolist())),
        "shown": shown,
        "key": hashlib.sha256(path.read_bytes()).hexdigest(),
        "uid_key": facts["uid_key"],
    }


def has_few_greys(path: Path, shown: np.ndarray) -> bool:
    """Whether a picture has fewer than `FEWEST_GREYS` grey values: a mask, a drawing or a fax of a film, no film.

    Args:
        path: Its file; of a PNG or JPEG its own pixels are counted, since smaller ones hold values in between.
        shown: uint8 (height, width), the film made smaller.
    """
    if not is_picture(path):
        return len(np.unique(shown)) < FEWEST_GREYS
    with Image.open(path) as image:
        if image.mode in ("I", "F") or "I;16" in image.mode:  # Pillow counts values of 8 bits only
            return len(np.unique(np.asarray(image))) < FEWEST_GREYS
        return image.getcolors(FEWEST_GREYS - 1) is not None
