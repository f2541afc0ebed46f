"""From X-ray files to what the models of a run say about them: findings, boxes, crude report."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from cliniqure_utils import dicom
from cliniqure_utils.dicom.archive import run_guarded
from cliniqure_utils.dicom.header import get, is_picture, read_dataset
from cliniqure_utils.dicom.loading import load_film
from cliniqure_utils.process import resolve_device
from cliniqure_utils.project import require
from cliniqure_utils.vocabulary import BOX, FINDINGS

MODELS = ("02_detect/model.safetensors", "03_classify/model.safetensors", "04_crude_report/model.safetensors")
SHOWN_SIDE = 1024  # pixels: longest side of the film in overlays
OLDEST = 89  # years: a higher age, on its own, can tell who somebody is
RADIOGRAPHS = ("CR", "DX", "RG", "DR", "RF", "XR", "OT", "SC")  # OT and SC: converted films, as in RSNA's archive


def find_films(inputs: Iterable[str | Path], out_dir: str | Path | None = None) -> tuple[list[Path], int]:
    """The films among files and folders.

    Args:
        inputs: A file is taken as it is; of a folder, everything below it that is a film by its extension, or by its
            first bytes where it has none.
        out_dir: A folder below an input that is left out: results of an earlier call.

    Returns:
        (paths, number of other files that were passed over). A file that is reached twice is taken once.

    Raises:
        FileNotFoundError: An input is not there.
    """
    out_dir = Path(out_dir).resolve() if out_dir else None
    found: dict[Path, Path] = {}
    passed = 0
    for entry in map(Path, inputs):
        if entry.is_file():
            found.setdefault(entry.resolve(), entry)
            continue
        if not entry.is_dir():
            raise FileNotFoundError(f"there is no file or folder {entry}")
        for path in sorted(entry.rglob("*")):
            inside = out_dir is not None and path.resolve().is_relative_to(out_dir)
            if inside or path.name.startswith(".") or not path.is_file():
                continue
            if path.suffix.lower() in dicom.EXTENSIONS or (not path.suffix and _starts_as_dicom(path)):
                found.setdefault(path.resolve(), path)
            else:
                passed += 1
    return list(found.values()), passed


def _starts_as_dicom(path: Path) -> bool:
    """Archives often name their files without an extension."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def refusal(path: str | Path) -> str | None:
    """Why a file is no frontal chest film, by its header; None where the header allows it or says nothing.

    Only what the header says is looked at: of a grey picture nobody can know here whether it shows a chest.

    Raises:
        UnreadableImage: The header cannot be read.
    """
    path = Path(path)
    if is_picture(path):
        return None
    try:
        data = read_dataset(path, [], header_only=True)
    except dicom.UnreadableImage as error:
        if _starts_as_dicom(path):
            raise
        raise dicom.UnreadableImage(f"{path.name}: neither DICOM nor PNG nor JPEG by its content") from error
    modality = _plain(get(data, "Modality"))
    if modality and modality not in RADIOGRAPHS:
        return f"{path.name}: modality {modality}; expected a radiograph (CR or DX)"
    view = _plain(get(data, "ViewPosition"))
    frontal = re.search(r"\b(AP|PA)\b", view)
    if re.fullmatch(r"LL|RL|LAT.*|.*LATERAL.*", view) and not frontal:
        return f"{path.name}: a lateral view (ViewPosition {view}); expected a frontal one (PA or AP)"
    if view and not frontal:
        return f"{path.name}: the view is {view}; expected a frontal one (PA or AP)"
    if not view:
        # Free text may hold anything, a name too: it is searched, never repeated.
        for name in ("ViewCodeSequence", "SeriesDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription"):
            text = _words(data, name)
            if re.search(r"\b(LAT|LATERAL)\b", text) and not re.search(r"\b(AP|PA|ANTERO|POSTERO)", text):
                return f"{path.name}: a lateral view by its {name}; expected a frontal one (PA or AP)"
    part = _plain(get(data, "BodyPartExamined")) or _plain(_words(data, "AnatomicRegionSequence"))
    chest = re.search(r"CHEST|THORA|LUNG", part) and not re.search(r"ABD|PELV|SPINE", part)
    if part and not chest and part not in ("UNKNOWN", "OTHER", "NONE"):
        return f"{path.name}: the body part is {part}; expected CHEST"
    if _plain(get(data, "BurnedInAnnotation")) == "YES":
        return (
            f"{path.name}: its header says that the picture itself shows text about the patient; "
            "blank that text and save the film as PNG"
        )
    return None


def _plain(value) -> str:
    """A coded header value in capitals, without anything that is not a letter, a digit or a blank."""
    return re.sub(r"[^A-Z0-9 ]+", " ", str(value or "").upper()).strip()[:32]


def _words(data, name: str) -> str:
    """A free text, or the meaning of a coded sequence's first item, in capitals."""
    value = get(data, name)
    if name.endswith("Sequence"):
        value = get(value[0], "CodeMeaning") if value else None
    return str(value or "").upper().replace("_", " ")


def describe_films(
    paths: Iterable[str | Path], run_dir: str | Path, device: str = "auto", beam_size: int = 3, n_jobs: int = 1
) -> tuple[list[dict], pd.DataFrame]:
    """Apply the detector, the classifier and the report model of a finished run.

    Args:
        paths: DICOM files, or grey PNG or JPEG pictures.
        run_dir: Folder of the run, such as outputs/demo.
        device: "auto", "cpu", "cuda" or "mps".
        beam_size: Of the report model; 1 is greedy.
        n_jobs: Worker processes, each with models of its own; within joblib's Dask backend, tasks of its cluster.

    Returns:
        (films, rejected). films: one dict per readable file: source, image_id, rows, columns, view, age_years (None
        above 89), sex, notes, probabilities (15 classes), boxes (DataFrame, pixels of the file), crude_report, shown
        (uint8, longest side at most 1024), key (of the file's content). rejected: source, image_id, reason.

    Raises:
        MissingInput: The run lacks a model; the message names the notebook that makes it.
    """
    films, rejected = [], []
    for path, film, reason in stream_films(paths, run_dir, device, beam_size, n_jobs):
        if film is not None:
            films.append(film)
        else:
            rejected.append({"source": path.name, "image_id": dicom.image_id_of(path), "reason": reason})
    return films, pd.DataFrame(rejected, columns=["source", "image_id", "reason"])


def stream_films(
    paths: Iterable[str | Path], run_dir: str | Path, device: str = "auto", beam_size: int = 3, n_jobs: int = 1
) -> Iterator[tuple[Path, dict | None, str | None]]:
    """`describe_films` film by film, in order: (path, film or None, reason or None)."""
    run_dir = Path(run_dir)
    check_models(run_dir)
    made = tuple((run_dir / name).stat().st_mtime_ns for name in MODELS)
    work = partial(_describe, run_dir=run_dir.resolve(), made=made, device=resolve_device(device), beam_size=beam_size)
    yield from run_guarded(work, [Path(path) for path in paths], n_jobs)


def check_models(run_dir: Path) -> None:
    """Raises MissingInput where a run lacks a model."""
    for name in MODELS:
        require(run_dir, name)


@lru_cache(maxsize=1)
def _models(run_dir: Path, made: tuple, device: str):
    """Loaded once per process and run; `made` tells a run from a later one in the same folder."""
    from cliniqure_utils import cmn
    from cliniqure_utils.vision import classification, detection, inference

    detector = detection.load_detector(run_dir / "02_detect").to(device)
    classifier = classification.load_classifier(run_dir / "03_classify").to(device)
    size = inference.input_size(run_dir / "03_classify")
    return detector, classifier, size, cmn.load(run_dir / "04_crude_report").to(device)


def _describe(path: Path, run_dir: Path, made: tuple, device: str, beam_size: int):
    """One film: (path, what the models say, None) or (path, None, why not)."""
    try:
        reason = refusal(path)
        if reason is not None:
            return path, None, reason
        film, facts, notes = load_film(path, None, None)
    except dicom.UnreadableImage as error:
        return path, None, str(error)
    import torch

    from cliniqure_utils import cmn
    from cliniqure_utils.vocabulary import CLASSES

    detector, classifier, size, reporter = _models(run_dir, made, device)
    with torch.no_grad():
        logits = classifier(_square(film, size).to(device))["logits"]
        probabilities = logits.sigmoid()[0].cpu().numpy().astype(float)
        found = detector.detect(_square(film, detector.image_size).to(device))[0]
        ids = reporter.generate(cmn.model_input(reporter, film).to(device), beam_size)[0]
        report = cmn.to_prose(reporter.tokenizer.decode(ids.tolist()))
    scale = np.array([film.shape[1], film.shape[0]] * 2) / detector.image_size
    boxes = pd.DataFrame(found["boxes"].cpu().numpy() * scale, columns=BOX).round(1)
    boxes.insert(0, "score", found["scores"].cpu().numpy().astype(float).round(4))
    names = np.array(FINDINGS, dtype=object)[found["labels"].cpu().numpy() - 1]
    boxes.insert(0, "class_name", names)
    age, view = facts["age_years"], re.search(r"\b(AP|PA)\b", _plain(facts["view"]))
    described = {
        "source": path.name,
        "image_id": dicom.image_id_of(path),
        "rows": film.shape[0],
        "columns": film.shape[1],
        "view": view[1] if view else None,
        "age_years": age if age is None or age <= OLDEST else None,
        "sex": facts["sex"],
        "notes": notes,
        "probabilities": dict(zip(CLASSES, probabilities.round(4).tolist(), strict=True)),
        "boxes": boxes,
        "crude_report": report,
        "shown": _shown(film),
        "key": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    return path, described, None


def _shown(film: np.ndarray) -> np.ndarray:
    """The film for people to look at: uint8, at most `SHOWN_SIDE` pixels long, never enlarged."""
    image = Image.fromarray(np.uint8(np.rint(film * 255)))
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.BOX, reducing_gap=None)
    return np.asarray(image)


def _square(film: np.ndarray, size: int):
    """Film (height, width) in [0, 1] -> (1, 1, size, size), through the same 8 bits as the training films."""
    import torch

    image = Image.fromarray(np.uint8(np.rint(film * 255)))
    method = Image.Resampling.BOX if min(image.size) >= size else Image.Resampling.BILINEAR
    return torch.from_numpy(np.asarray(image.resize((size, size), method), np.float32) / 255)[None, None]
