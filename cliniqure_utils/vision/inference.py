"""What trained models say about films: one path for the notebooks and for `cliniqure predict`.

Notebooks 02 and 03 give the films of notebook 01's cache to `predict_boxes` and `predict_probabilities`. Films of any
other source come through `read_images`, which shrinks each file as notebook 01 would have done and calls the same two
functions: the same film gives the same numbers whichever way it came.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn
from tqdm.auto import tqdm

from cliniqure_utils.annotations import rescale_boxes
from cliniqure_utils.dicom import image_id_of
from cliniqure_utils.dicom.archive import small_film
from cliniqure_utils.notebooks import ran_with
from cliniqure_utils.process import resolve_device
from cliniqure_utils.project import require
from cliniqure_utils.vision.calibration import apply_temperature
from cliniqure_utils.vision.classification import load_classifier
from cliniqure_utils.vision.detection import Detector, load_detector
from cliniqure_utils.vision.familiarity import Familiar, film_strangeness
from cliniqure_utils.vision.films import to_square
from cliniqure_utils.vision.saving import grey_of
from cliniqure_utils.vocabulary import BOX, CLASSES, FINDINGS

FILMS_AT_ONCE = 32  # films that `read_images` holds in memory


def predict_boxes(
    detector: Detector,
    dataset,
    sizes: Mapping[str, tuple[int, int]],
    device: str = "cpu",
    batch_size: int = 16,
    progress: bool = True,
    flip: bool = False,
) -> pd.DataFrame:
    """Detect on every film of a FilmDataset or of FilmsInMemory, without augmentation.

    Args:
        sizes: image_id -> (width, height) in DICOM pixels (`annotations.film_sizes`).
        flip: Detect on the mirrored film too and fuse both answers (`fuse_views`). For a detector trained with flips:
            one that never saw a mirrored heart finds it in the wrong place.

    Returns:
        image_id, class_name, score, x_min, y_min, x_max, y_max, in DICOM pixels, best score first within a film.
    """
    detector.to(device)
    tables = []
    for start in tqdm(range(0, len(dataset), batch_size), desc="detecting", unit="batch", disable=not progress):
        chosen = range(start, min(start + batch_size, len(dataset)))
        films = torch.stack([dataset.film(i) for i in chosen]).to(device).float() / 255
        answers = detector.detect(films)
        if flip:
            mirrored = detector.detect(films.flip(-1))
            for found in mirrored:
                found["boxes"] = unflip(found["boxes"], detector.image_size)
            answers = [fuse_views(views, detector.image_size) for views in zip(answers, mirrored, strict=True)]
        for i, found in zip(chosen, answers, strict=True):
            image_id = dataset.image_ids[i]
            corners = found["boxes"].cpu().numpy().astype(float)
            corners = rescale_boxes(corners, (detector.image_size, detector.image_size), sizes[image_id])
            table = pd.DataFrame(corners, columns=BOX).round(2)
            table.insert(0, "score", found["scores"].cpu().numpy().astype(float).round(5))
            table.insert(0, "class_name", np.array(FINDINGS, dtype=object)[found["labels"].cpu().numpy() - 1])
            table.insert(0, "image_id", image_id)
            tables.append(table)
    columns = ["image_id", "class_name", "score", *BOX]
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=columns)


def unflip(boxes: torch.Tensor, width: float) -> torch.Tensor:
    """Boxes (n, 4) of a mirrored film -> where they lie on the film itself; twice gives the same boxes back."""
    return torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)


def fuse_views(views: Sequence[dict[str, torch.Tensor]], size: float, iou_threshold: float = 0.4) -> dict:
    """Fuse what a detector found on several views of one film (test-time augmentation).

    Args:
        views: Per view boxes (n, 4) in pixels of the unmoved film, labels (n,), scores (n,).
        size: Side of the square input, pixels.
        iou_threshold: Boxes of one class that overlap more are one box.

    Returns:
        boxes, labels, scores, best first. A fused box is the mean weighted by scores; its score is the mean over views,
        so a box that only one of two views found keeps half its score.

    Source: Solovyev, Wang and Gabruseva 2021 (weighted boxes fusion, arXiv 1910.13302), package ensemble-boxes.
    """
    from ensemble_boxes import weighted_boxes_fusion

    boxes, scores, labels = weighted_boxes_fusion(
        [(view["boxes"].cpu().numpy() / size).clip(0, 1) for view in views],
        [view["scores"].cpu().numpy() for view in views],
        [view["labels"].cpu().numpy() for view in views],
        iou_thr=iou_threshold,
        conf_type="box_and_model_avg",  # the package's default lets boxes of one view add up beyond 1
    )
    order = np.argsort(-scores, kind="stable")
    return {
        "boxes": torch.from_numpy(boxes[order].reshape(-1, 4).astype(np.float32) * size),
        "labels": torch.from_numpy(labels[order].astype(np.int64)),
        "scores": torch.from_numpy(scores[order].astype(np.float32)),
    }


@torch.no_grad()
def predict_probabilities(
    model: nn.Module, dataset, device: str = "cpu", batch_size: int = 32, progress: bool = True
) -> np.ndarray:
    """Sigmoid probabilities (n_films, 15), order of CLASSES, of a FilmDataset or of FilmsInMemory, not augmented."""
    model.to(device).eval()
    batches = range(0, len(dataset), batch_size)
    probabilities = []
    for start in tqdm(batches, desc="classifying", unit="batch", disable=not progress):
        films = [dataset.film(i) for i in range(start, min(start + batch_size, len(dataset)))]
        images = torch.stack(films).to(device).float() / 255
        probabilities.append(model(images)["logits"].sigmoid().cpu())
    return torch.cat(probabilities).numpy()


@dataclass(frozen=True)
class FilmsInMemory:
    """Films for `predict_boxes` and `predict_probabilities` that are held in memory instead of a folder.

    Attributes:
        image_ids: Names of the films.
        pixels: uint8 (height, width) each, of the size that the run's cache has.
        size: Side of the model's square input, pixels.
        grey: Grey scale on which the model sees films (`grey.even_grey`).
    """

    image_ids: Sequence[str]
    pixels: Sequence[np.ndarray]
    size: int
    grey: str = "none"

    def __len__(self) -> int:
        return len(self.image_ids)

    def film(self, index: int) -> torch.Tensor:
        """uint8 (1, size, size)."""
        return to_square(Image.fromarray(self.pixels[index]), self.size, self.grey)


def probability_table(image_ids: Sequence[str], probabilities: np.ndarray, temperature: float) -> pd.DataFrame:
    """Rows of probabilities.csv: what the classifier said, calibrated.

    Args:
        probabilities: (n, 15) in [0, 1] as `predict_probabilities` gives them, order of CLASSES.
        temperature: Of temperature.json, which notebook 03 fitted on val.

    Returns:
        image_id and the 15 names. Fifteen digits, because the order of the films must stay: calibration can push two
        small probabilities so close together that fewer digits would make them equal.
    """
    rounded = np.asarray(probabilities, dtype=float).round(5)
    table = pd.DataFrame(apply_temperature(rounded, temperature).round(15), columns=list(CLASSES))
    table.insert(0, "image_id", list(image_ids))
    return table


class RunModels:
    """The detector and the classifier of a finished run, and how the run read its films.

    Args:
        run_dir: Folder of the run, such as outputs/demo.
        device: Where the models work: "cpu", "cuda" or "mps".

    Attributes:
        cache_size: Longest side of the films in notebook 01's cache, pixels.

    Raises:
        MissingInput: The run lacks a model or the temperature; the message names the notebook that makes it.
        CannotStart: run.json cannot be read.
    """

    def __init__(self, run_dir: str | Path, device: str = "cpu"):
        self.device = device
        self.cache_size: int = ran_with(run_dir, "01_preprocess")["cache_size"]
        self._flip: bool = ran_with(run_dir, "02_detect")["test_flip"]
        folder = require(run_dir, "02_detect/model.safetensors").parent
        self._detector, self._detector_grey = load_detector(folder), grey_of(folder)
        folder = require(run_dir, "03_classify/model.safetensors").parent
        self._classifier, self._classifier_grey = load_classifier(folder), grey_of(folder)
        self._classifier_size = json.loads((folder / "config.json").read_text(encoding="utf-8"))["image_size"]
        known = folder / "familiar.npz"
        self._familiar = Familiar.load(known) if known.is_file() else None
        said = require(run_dir, "03_classify/temperature.json").read_text(encoding="utf-8")
        self._temperature = json.loads(said)["temperature"]

    def answer(
        self, image_ids: Sequence[str], pixels: Sequence[np.ndarray], sizes: Mapping[str, tuple[int, int]]
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """What the models say about films that `dicom.archive.small_film` made at `cache_size`.

        Args:
            pixels: uint8 (height, width) each.
            sizes: image_id -> (width, height) in pixels of the file.

        Returns:
            (probabilities, boxes) as `read_images` returns them.
        """
        films = FilmsInMemory(image_ids, pixels, self._classifier_size, self._classifier_grey)
        said = predict_probabilities(self._classifier, films, self.device, progress=False)
        films = FilmsInMemory(image_ids, pixels, self._detector.image_size, self._detector_grey)
        boxes = predict_boxes(self._detector, films, sizes, self.device, progress=False, flip=self._flip)
        return probability_table(image_ids, said, self._temperature), boxes

    def strangeness(self, pixels: Sequence[np.ndarray]) -> np.ndarray | None:
        """How unlike the run's training films each film is: above 1 the models do not know its kind.

        Args:
            pixels: As for `answer`.

        Returns:
            (n,), at least 0; None where the run did not write 03_classify/familiar.npz.
        """
        if self._familiar is None:
            return None
        films = FilmsInMemory(["film"] * len(pixels), pixels, self._classifier_size, self._classifier_grey)
        seen = [films.film(index) for index in range(len(pixels))]
        return film_strangeness(self._familiar, self._classifier, seen, self.device)


def read_images(
    paths: Iterable[str | Path], run_dir: str | Path, device: str = "auto"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What the models of a finished run say about films of any source, read the way that run read its own.

    Each file is made as small as the films of notebook 01's cache, with the same grey scale; the models see it at the
    size they were trained on, mirrored too where notebook 02 did so, and probabilities are calibrated.

    Args:
        paths: DICOM files, or grey PNG or JPEG pictures.
        run_dir: Folder of the run, such as outputs/demo.
        device: "auto", "cpu", "cuda" or "mps".

    Returns:
        (probabilities, boxes) in the form of probabilities.csv and predictions.csv: image_id and the 15 names, one row
        per film in the order of the paths; image_id, class_name, score, x_min, y_min, x_max, y_max in pixels of the
        file, best score first within a film. image_id is the file's name without its ending.

    Raises:
        UnreadableImage: A file is no film; the message names it.
        ValueError: No file, or two with the same image_id.
        MissingInput: The run lacks a file; the message names the notebook that makes it.
        CannotStart: run.json cannot be read.
    """
    paths = [Path(path) for path in paths]
    names = [image_id_of(path) for path in paths]
    if not names:
        raise ValueError("no film was given")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two files have the image id {twice}; expected one of each")
    models = RunModels(run_dir, resolve_device(device))
    probabilities, boxes = [], []
    for start in range(0, len(paths), FILMS_AT_ONCE):
        image_ids, pixels, sizes = names[start : start + FILMS_AT_ONCE], [], {}
        for image_id, path in zip(image_ids, paths[start : start + FILMS_AT_ONCE], strict=True):
            film, facts, _ = small_film(path, models.cache_size)
            pixels.append(film)
            sizes[image_id] = (facts["columns"], facts["rows"])
        for tables, table in zip((probabilities, boxes), models.answer(image_ids, pixels, sizes), strict=True):
            tables.append(table)
    filled = [table for table in boxes if len(table)] or boxes[:1]
    return pd.concat(probabilities, ignore_index=True), pd.concat(filled, ignore_index=True)
