"""Films, boxes and labels as torch data sets.

Films come from the cache that notebook 01 writes. They are resized to a square without keeping the aspect, as the
paper's table 3 does, and boxes move with them. Items hold tv_tensors, so that one random transform moves the film and
its boxes together.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from cliniqure_utils import vindr

BOX = ["x_min", "y_min", "x_max", "y_max"]
MIN_BOX_SIDE = 1.0  # pixels of the model's input; thinner boxes have no area for RoIAlign


def read_film(path: str | Path, size: int) -> torch.Tensor:
    """One cached film as uint8 tensor (1, size, size); area-averaging resize, aspect not kept (paper, table 3)."""
    with Image.open(path) as image:
        image = image.convert("L")
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.BOX if min(image.size) >= size else Image.BILINEAR)
        return torch.from_numpy(np.asarray(image).copy())[None]


def boxes_per_class(annotations: pd.DataFrame) -> pd.DataFrame:
    """Merged boxes -> one training box per class of each merged box; "No finding" rows give none.

    Args:
        annotations: As `vindr.read_merged` returns them (class_labels: list of int, boxes in DICOM pixels).

    Returns:
        image_id, class_id (0-13), class_name, x_min, y_min, x_max, y_max.

    Source: paper section 4.1 keeps several classes in one box; Faster R-CNN takes one label per box, so ours is one
    box per class.
    """
    rows = annotations.explode("class_labels").rename(columns={"class_labels": "class_id"})
    rows = rows.assign(class_id=rows.class_id.astype(int))
    rows = rows[(rows.class_id < len(vindr.FINDINGS)) & rows[BOX].notna().all(axis=1)]
    names = np.array(vindr.FINDINGS)[rows.class_id]
    return rows.assign(class_name=names)[["image_id", "class_id", "class_name", *BOX]].reset_index(drop=True)


def scale_boxes(boxes: np.ndarray, columns: int, rows: int, size: int) -> np.ndarray:
    """Boxes (n, 4) from DICOM pixels (columns x rows) to a size x size input; float32."""
    return np.asarray(boxes, np.float32).reshape(-1, 4) * np.float32([size / columns, size / rows] * 2)


class FilmDataset(torch.utils.data.Dataset):
    """Films with their boxes and labels.

    An item is a dict: image_id; image, float32 (1, size, size) in [0, 1]; boxes, float32 (n, 4) in input pixels;
    box_labels, int64 (n,), 1-14 (0 is the detector's background); targets, float32 (15,), order of
    `vindr.FINDINGS` + "No finding".

    Args:
        image_dir: Folder of `<image_id>.png`.
        image_ids: Films to serve, in this order.
        size: Side of the square input, pixels.
        sizes: `dicom_sizes(index)`.
        boxes: `boxes_per_class` of the reader annotations. None: no boxes, no targets.
        augment: A torchvision v2 transform for (image, boxes), or None.
        keep_in_memory: Read every film once (uint8, size x size bytes each).
    """

    def __init__(
        self,
        image_dir: str | Path,
        image_ids: Sequence[str],
        size: int,
        sizes: pd.DataFrame,
        boxes: pd.DataFrame | None = None,
        augment: v2.Transform | None = None,
        keep_in_memory: bool = True,
    ):
        self.image_dir, self.image_ids, self.size = Path(image_dir), [str(i) for i in image_ids], size
        self.augment, self.keep_in_memory = augment, keep_in_memory
        self._films: dict[int, torch.Tensor] = {}
        self._boxes, self._labels = [], []
        groups = {} if boxes is None else dict(list(boxes.groupby("image_id")))
        for image_id in self.image_ids:
            found = groups.get(image_id)
            if found is None:
                self._boxes.append(torch.zeros(0, 4))
                self._labels.append(torch.zeros(0, dtype=torch.int64))
                continue
            scaled = scale_boxes(found[BOX].to_numpy(), sizes.columns_[image_id], sizes.rows_[image_id], size)
            self._boxes.append(torch.from_numpy(scaled))
            self._labels.append(torch.from_numpy(found.class_id.to_numpy().astype(np.int64) + 1))

    def __len__(self) -> int:
        return len(self.image_ids)

    def film(self, index: int) -> torch.Tensor:
        """uint8 (1, size, size), without augmentation."""
        if index in self._films:
            return self._films[index]
        film = read_film(self.image_dir / f"{self.image_ids[index]}.png", self.size)
        if self.keep_in_memory:
            self._films[index] = film
        return film

    def targets(self, index: int) -> torch.Tensor:
        """Multi-label target (15,): 1 where a reader marked the finding; the last is "No finding"."""
        target = torch.zeros(len(vindr.FINDINGS) + 1)
        labels = self._labels[index]
        if len(labels):
            target[labels - 1] = 1
        else:
            target[-1] = 1
        return target

    def __getitem__(self, index: int) -> dict:
        image = self.film(index).float() / 255
        boxes, labels = self._boxes[index], self._labels[index]
        if self.augment is not None:
            moved = self.augment(
                {
                    "image": tv_tensors.Image(image),
                    "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(self.size, self.size)),
                    "labels": labels,
                }
            )
            image, boxes, labels = moved["image"].as_subclass(torch.Tensor), moved["boxes"], moved["labels"]
            boxes = boxes.as_subclass(torch.Tensor)
        return {
            "image_id": self.image_ids[index],
            "image": image,
            "boxes": boxes,
            "box_labels": labels,
            "targets": self.targets(index),
        }


class _Exposure(v2.Transform):
    """Random gain and offset, as films differ in exposure. Values stay in [0, 1]. Source: ours."""

    def __init__(self, strength: float):
        super().__init__()
        self.strength = strength

    def make_params(self, flat_inputs):
        gain, offset = (torch.randn(2) * self.strength).tolist()
        return {"gain": 1 + gain, "offset": offset}

    def transform(self, inpt, params):
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        return tv_tensors.wrap((inpt * params["gain"] + params["offset"]).clamp(0, 1), like=inpt)


def augmentation(
    rotate_probability: float = 0.5,
    rotate_degrees: float = 10.0,
    flip_probability: float = 0.5,
    shift: float = 0.0,
    zoom: float = 0.0,
    exposure: float = 0.0,
) -> v2.Transform:
    """Random transform of a film and its boxes.

    Args:
        rotate_probability: Share of films rotated (paper, table 3: 0.5).
        rotate_degrees: Largest angle; the paper gives none, 10 is ours.
        flip_probability: Share of films mirrored left to right (paper, table 3: 0.5). It moves the heart to the
            other side, which no film of a healthy patient shows: 0 keeps it where it belongs.
        shift: Largest shift as a share of the side (ours; 0 = none).
        zoom: Largest relative change of scale (ours; 0 = none).
        exposure: Standard deviation of a random gain and offset (ours; 0 = none).

    Returns:
        A transform for a dict of tv_tensors (image, boxes) and labels. Boxes that leave the film or become thinner than
        MIN_BOX_SIDE are removed together with their labels.
    """
    steps: list[v2.Transform] = []
    if rotate_probability > 0:
        move = v2.RandomAffine(
            degrees=rotate_degrees,
            translate=(shift, shift) if shift else None,
            scale=(1 - zoom, 1 + zoom) if zoom else None,
            interpolation=v2.InterpolationMode.BILINEAR,
        )
        steps.append(v2.RandomApply([move], p=rotate_probability))
    if flip_probability > 0:
        steps.append(v2.RandomHorizontalFlip(flip_probability))
    if exposure > 0:
        steps.append(_Exposure(exposure))
    steps.append(v2.ClampBoundingBoxes())
    steps.append(v2.SanitizeBoundingBoxes(min_size=MIN_BOX_SIDE, labels_getter=lambda sample: sample["labels"]))
    return v2.Compose(steps)


def collate(items: list[dict]) -> dict:
    """Items of a FilmDataset -> batch: image (n, 1, size, size); targets (n, 15); boxes, box_labels, image_id lists."""
    return {
        "image_id": [item["image_id"] for item in items],
        "image": torch.stack([item["image"] for item in items]),
        "targets": torch.stack([item["targets"] for item in items]),
        "boxes": [item["boxes"] for item in items],
        "box_labels": [item["box_labels"] for item in items],
    }


def dicom_sizes(index: pd.DataFrame) -> pd.DataFrame:
    """index.csv of step 01 -> table indexed by image_id with `columns_` and `rows_` (DICOM pixels).

    The underscore keeps the names apart from DataFrame.columns.
    """
    return index.set_index("image_id")[["columns", "rows"]].rename(columns={"columns": "columns_", "rows": "rows_"})


def image_sizes(index: pd.DataFrame) -> Mapping[str, tuple[int, int]]:
    """index.csv of step 01 -> image_id -> (width, height) in DICOM pixels."""
    return dict(zip(index.image_id, zip(index["columns"].tolist(), index["rows"].tolist(), strict=True), strict=True))
