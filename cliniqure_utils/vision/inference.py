"""What trained models say about films: one path for the notebooks and for `cliniqure predict`."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from cliniqure_utils.annotations import rescale_boxes
from cliniqure_utils.vision.detection import Detector
from cliniqure_utils.vocabulary import BOX, FINDINGS


def predict_boxes(
    detector: Detector,
    dataset,
    sizes: Mapping[str, tuple[int, int]],
    device: str = "cpu",
    batch_size: int = 16,
    progress: bool = True,
    flip: bool = False,
) -> pd.DataFrame:
    """Detect on every film of a FilmDataset, without augmentation.

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
    """Sigmoid probabilities (n_films, 15), order of CLASSES, for every film of a FilmDataset, without augmentation."""
    model.to(device).eval()
    batches = range(0, len(dataset), batch_size)
    probabilities = []
    for start in tqdm(batches, desc="classifying", unit="batch", disable=not progress):
        films = [dataset.film(i) for i in range(start, min(start + batch_size, len(dataset)))]
        images = torch.stack(films).to(device).float() / 255
        probabilities.append(model(images)["logits"].sigmoid().cpu())
    return torch.cat(probabilities).numpy()


def input_size(folder) -> int:
    """Side of the input that a saved classifier was trained on, pixels."""
    import json
    from pathlib import Path

    return json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))["image_size"]
