"""From X-ray files to what the models of a run say about them: findings, boxes, crude report."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from cliniqure_utils import classification, cmn, detection, dicom, loaders, vindr
from cliniqure_utils.runs import MissingInput, resolve_device

MODELS = ("02_detect/model.safetensors", "03_classify/model.safetensors", "04_crude_report/model.safetensors")


def describe_films(
    paths: Iterable[str | Path], run_dir: str | Path, device: str = "auto", beam_size: int = 3
) -> tuple[list[dict], pd.DataFrame]:
    """Apply the detector, the classifier and the report model of a finished run.

    Args:
        paths: DICOM files, or grey PNG or JPEG pictures.
        run_dir: Folder of the run, such as outputs/demo.
        device: "auto", "cpu", "cuda" or "mps".
        beam_size: Of the report model; 1 is greedy.

    Returns:
        (films, rejected). films: one dict per readable file: source, rows, columns, probabilities (15 classes), boxes
        (DataFrame, DICOM pixels), crude_report. rejected: source, reason.

    Raises:
        MissingInput: The run lacks a model; the message names the notebook that makes it.
    """
    run_dir = Path(run_dir)
    for name in MODELS:
        if not (run_dir / name).is_file():
            raise MissingInput(f"{name} is missing in {run_dir.name}: run notebooks/{name.split('/')[0]}.ipynb first")
    device = resolve_device(device)
    detector = detection.load_detector(run_dir / "02_detect").to(device)
    classifier = classification.load_classifier(run_dir / "03_classify").to(device)
    size = classification.input_size(run_dir / "03_classify")
    reporter = cmn.load(run_dir / "04_crude_report").to(device)

    films, rejected = [], []
    for path in map(Path, paths):
        try:
            film = dicom.load_cxr(path)
        except dicom.UnreadableImage as error:
            rejected.append({"source": path.name, "reason": str(error)})
            continue
        with torch.no_grad():
            logits = classifier(_square(film, size).to(device))["logits"]
            probabilities = logits.sigmoid()[0].cpu().numpy().astype(float)
            found = detector.detect(_square(film, detector.image_size).to(device))[0]
            ids = reporter.generate(cmn.preprocess(film)[None].to(device), beam_size)[0]
            report = cmn.to_prose(reporter.tokenizer.decode(ids.tolist()))
        scale = np.array([film.shape[1], film.shape[0]] * 2) / detector.image_size
        boxes = pd.DataFrame(found["boxes"].cpu().numpy() * scale, columns=loaders.BOX).round(1)
        boxes.insert(0, "score", found["scores"].cpu().numpy().astype(float).round(4))
        names = np.array(vindr.FINDINGS, dtype=object)[found["labels"].cpu().numpy() - 1]
        boxes.insert(0, "class_name", names)
        films.append(
            {
                "source": path.name,
                "rows": film.shape[0],
                "columns": film.shape[1],
                "probabilities": dict(zip(classification.CLASSES, probabilities.round(4).tolist(), strict=True)),
                "boxes": boxes,
                "crude_report": report,
            }
        )
    return films, pd.DataFrame(rejected, columns=["source", "reason"])


def _square(film: np.ndarray, size: int) -> torch.Tensor:
    """Film (height, width) in [0, 1] -> (1, 1, size, size), through the same 8 bits as the training films."""
    image = Image.fromarray(np.uint8(np.rint(film * 255)))
    method = Image.Resampling.BOX if min(image.size) >= size else Image.Resampling.BILINEAR
    return torch.from_numpy(np.asarray(image.resize((size, size), method), np.float32) / 255)[None, None]
