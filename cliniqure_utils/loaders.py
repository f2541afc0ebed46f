"""Films, boxes and labels as torch data sets.

Films come from the cache that notebook 01 writes. They are resized to a square without keeping the aspect, as the
paper's table 3 does, and boxes move with them. Items hold tv_tensors, so that one random transform moves the film and
its boxes together.
"""

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from joblib import Parallel, delayed
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2
from tqdm.auto import tqdm

from cliniqure_utils import vindr

BOX = ["x_min", "y_min", "x_max", "y_max"]
MIN_BOX_SIDE = 1.0  # pixels of the model's input; thinner boxes have no area for RoIAlign
KEEP_BYTES = 2**31  # films are kept in memory up to this size; VinDr-CXR's 15,000 at 1,024 pixels would be 16 GB


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
        keep_in_memory: Read every film once (uint8, size x size bytes each). None: when all fit into KEEP_BYTES.
        labels: Table (films, 15) of 0/1, index image_id, columns `vindr.FINDINGS` + "No finding", such as
            `reader_labels` makes: `targets` in place of those that follow from the boxes.
        seed: Draw each film's transform from (seed, epoch, place) instead of torch's global random numbers. Then it
            does not depend on the number of loader processes, nor on where a killed training resumes.

    Raises:
        ValueError: A box of another class than the 14, or a film without a row in `labels`.
    """

    def __init__(
        self,
        image_dir: str | Path,
        image_ids: Sequence[str],
        size: int,
        sizes: pd.DataFrame,
        boxes: pd.DataFrame | None = None,
        augment: v2.Transform | None = None,
        keep_in_memory: bool | None = None,
        labels: pd.DataFrame | None = None,
        seed: int | None = None,
    ):
        self.image_dir, self.image_ids, self.size = Path(image_dir), [str(i) for i in image_ids], size
        if keep_in_memory is None:
            keep_in_memory = len(self.image_ids) * size * size <= KEEP_BYTES
        self.augment, self.keep_in_memory, self.seed, self.epoch = augment, keep_in_memory, seed, 0
        self._targets = None if labels is None else _target_rows(labels, self.image_ids)
        self._films: dict[int, torch.Tensor] = {}
        self._boxes, self._labels = [], []
        groups = {} if boxes is None else dict(list(boxes.groupby("image_id")))
        for image_id in self.image_ids:
            found = groups.get(image_id)
            if found is None:
                self._boxes.append(torch.zeros(0, 4))
                self._labels.append(torch.zeros(0, dtype=torch.int64))
                continue
            if not found.class_id.between(0, len(vindr.FINDINGS) - 1).all():
                raise ValueError(f"film {image_id} has a box of class {sorted(set(found.class_id))}, expected 0 to 13")
            scaled = scale_boxes(found[BOX].to_numpy(), sizes.columns_[image_id], sizes.rows_[image_id], size)
            self._boxes.append(torch.from_numpy(scaled))
            self._labels.append(torch.from_numpy(found.class_id.to_numpy().astype(np.int64) + 1))

    def __len__(self) -> int:
        return len(self.image_ids)

    def set_epoch(self, epoch: int) -> None:
        """The epoch that `seed` is mixed with; the training engine calls it."""
        self.epoch = epoch

    def fingerprint(self) -> str:
        """sha256 of everything but the films that decides what an item is: size, seed, transform, boxes, labels."""
        targets = [self.targets(i).tolist() for i in range(len(self))]
        boxes = [torch.cat([b, n[:, None].float()], 1).tolist() for b, n in zip(self._boxes, self._labels, strict=True)]
        content = repr((self.image_ids, self.size, self.seed, repr(self.augment), targets, boxes))
        return hashlib.sha256(content.encode()).hexdigest()

    def film(self, index: int) -> torch.Tensor:
        """uint8 (1, size, size), without augmentation."""
        if index in self._films:
            return self._films[index]
        film = read_film(self.image_dir / f"{self.image_ids[index]}.png", self.size)
        if self.keep_in_memory:
            self._films[index] = film
        return film

    def read_films(self, n_jobs: int = -1) -> None:
        """Read all films now, in n_jobs threads (-1: one per core), so that no training step waits for a file.

        Does nothing where films are not kept in memory: there loader processes read ahead.
        """
        left = [index for index in range(len(self)) if index not in self._films] if self.keep_in_memory else []
        films = Parallel(n_jobs or 1, prefer="threads", return_as="generator")(delayed(self.film)(i) for i in left)
        bar = tqdm(films, desc="reading films", total=len(left), unit="film", disable=not left)
        self._films.update(zip(left, bar, strict=True))

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_films": {}}  # another process reads the files: less than what a pickle would hold

    def targets(self, index: int) -> torch.Tensor:
        """Multi-label target (15,): from `labels`, or 1 where a box names the finding; the last is "No finding"."""
        if self._targets is not None:
            return self._targets[index]
        target = torch.zeros(len(vindr.FINDINGS) + 1)
        labels = self._labels[index]
        if len(labels):
            target[labels - 1] = 1
        else:
            target[-1] = 1
        return target

    def __getitem__(self, index: int) -> dict:
        image = self.film(index).float().div_(255)
        boxes, labels = self._boxes[index], self._labels[index]
        if self.augment is not None:
            moved = self._move(
                {
                    "image": tv_tensors.Image(image),
                    "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(self.size, self.size)),
                    "labels": labels,
                },
                index,
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

    def _move(self, sample: dict, index: int) -> dict:
        if self.seed is None:
            return self.augment(sample)
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed: where there is no GPU it notes each call, with a traceback, for one that may come.
            torch.default_generator.manual_seed(
                int(np.random.SeedSequence([self.seed, self.epoch, index]).generate_state(1)[0])
            )
            return self.augment(sample)


def _target_rows(labels: pd.DataFrame, image_ids: list[str]) -> torch.Tensor:
    columns = [*vindr.FINDINGS, vindr.NO_FINDING]
    missing = sorted(set(image_ids) - set(labels.index.astype(str)))
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(image_ids)} films have no row in the labels, the first is {missing[0]}"
        )
    return torch.tensor(labels.loc[image_ids, columns].to_numpy(np.float32))


def reader_labels(
    readings: pd.DataFrame, image_ids: Sequence[str], rule: str = "any", n_readers: int | None = None
) -> pd.DataFrame:
    """Labels of whole films from what each reader marked.

    Args:
        readings: Reader rows: image_id, rad_id, class_id (14 is "No finding"), one per reader and finding.
        image_ids: Films, in the order wanted.
        rule: A finding holds where "any" reader names it, where a "majority" does (more than half), or in "consensus"
            (all do). "No finding" holds exactly where no finding does, so it excludes the others.
        n_readers: Readers of each film, for tables in which a reader who saw nothing leaves no row. None: those with a
            row for the film; VinDr-CXR has three each.

    Returns:
        Table (n, 15) of 0/1, index image_id, columns `vindr.FINDINGS` + "No finding".

    Raises:
        ValueError: Unknown rule, a film that nobody has read, or one with more readers than n_readers.
    """
    if rule not in vindr.LABEL_RULES:
        raise ValueError(f"unknown label rule {rule!r}; expected one of {', '.join(vindr.LABEL_RULES)}")
    image_ids = [str(i) for i in image_ids]
    rows = readings[["image_id", "rad_id", "class_id"]].astype({"image_id": str, "class_id": int}).drop_duplicates()
    rows = rows[rows.image_id.isin(set(image_ids))]
    seen = rows.groupby("image_id").rad_id.nunique().reindex(image_ids)
    if n_readers is None and seen.isna().any():
        raise ValueError(f"film {seen.index[seen.isna()][0]} has no reader; leave it out or give n_readers")
    readers = seen if n_readers is None else pd.Series(n_readers, seen.index)
    if (seen > readers).any():
        raise ValueError(f"film {seen.index[seen > readers][0]} has {int(seen.max())} readers, more than {n_readers}")
    votes = pd.crosstab(rows.image_id, rows.class_id).reindex(
        index=image_ids, columns=range(len(vindr.FINDINGS)), fill_value=0
    )
    least = {"any": 1 + 0 * readers, "majority": readers // 2 + 1, "consensus": readers}[rule]
    labels = votes.ge(least.to_numpy(), axis=0).astype(int).set_axis(list(vindr.FINDINGS), axis=1)
    return labels.assign(**{vindr.NO_FINDING: 1 - labels.max(axis=1)}).rename_axis(index=None, columns=None)


def balance_weights(labels: pd.DataFrame | np.ndarray, least_share: float = 0.1) -> np.ndarray:
    """One sampling weight per film, so that rare findings are seen more often (`training.fit(sample_weights=...)`).

    A film counts as its rarest finding says: sqrt(least_share / share of films with the finding), at least 1.

    Args:
        labels: (n, k) 0/1, films and classes.
        least_share: Findings on at least this share of the films are not drawn more often.

    Returns:
        float (n,), at least 1.

    Source: repeat factors of Gupta, Dollar and Girshick 2019 (LVIS, arXiv 1908.03195).
    """
    labels = np.asarray(labels, dtype=float)
    share = labels.mean(0)
    repeat = np.sqrt(np.divide(least_share, share, out=np.ones_like(share), where=share > 0)).clip(1)
    return np.where(labels > 0, repeat, 1.0).max(1)


def worker_count(n_jobs: int, device: str) -> int:
    """Loader processes: none beside a CPU, which computes with all cores; else n_jobs, -1 for all cores but one."""
    if device == "cpu":
        return 0
    return max(1, (os.cpu_count() or 2) - 1) if n_jobs < 0 else n_jobs


class _Affine(v2.RandomAffine):
    """torchvision's RandomAffine without shear: the same numbers in a third of the time.

    Its grid is the product of a matrix (pixels, 3) with one of (3, 2), which starts threads for little work, and its
    boxes pass through twenty small calls. Here one axis is added to the other. Source: ours.
    """

    def forward(self, sample: dict) -> dict:
        params = self.make_params([sample["image"]])
        how = params["angle"], params["translate"], params["scale"]
        film = tv_tensors.wrap(_turn_film(sample["image"].as_subclass(torch.Tensor), *how), like=sample["image"])
        boxes = sample["boxes"]
        if len(sample["labels"]):
            boxes = tv_tensors.wrap(_turn_boxes(boxes, boxes.canvas_size, *how), like=boxes)
        return {**sample, "image": film, "boxes": boxes}


def _turn_film(film: torch.Tensor, angle: float, translate: Sequence[float], scale: float) -> torch.Tensor:
    """Film (1, rows, columns) turned clockwise (degrees) and scaled about its centre, then shifted (pixels right and
    down); what comes from outside is 0."""
    rows, columns = film.shape[-2:]
    cos, sin = math.cos(math.radians(angle)) / scale, math.sin(math.radians(angle)) / scale
    right, down = translate
    # From a pixel of the result to where it comes from: centre at 0, sides from -1 to 1. In numpy, which starts no
    # threads for so little, and in two planes, which have long rows where pairs have none.
    from_x, from_y, shift = np.float32(
        [[cos, -sin], [sin, cos], [-cos * right - sin * down, sin * right - cos * down]]
    ) / (np.float32([columns, rows]) / 2)
    x = (np.arange(columns) - (columns - 1) / 2).astype(np.float32) * from_x[:, None]
    y = (np.arange(rows) - (rows - 1) / 2).astype(np.float32) * from_y[:, None]
    grid = x[:, None] + y[..., None]
    grid += shift[:, None, None]
    with_ones = np.ones((1, 2, rows, columns), np.float32)  # the second one fades the edge out, as torchvision does
    with_ones[0, 0] = film[0]
    grid = torch.from_numpy(grid).permute(1, 2, 0)[None]
    moved, known = F.grid_sample(torch.from_numpy(with_ones), grid, align_corners=False)[0]
    return moved.mul_(known)[None]


def _turn_boxes(
    boxes: torch.Tensor, canvas: tuple[int, int], angle: float, translate: Sequence[float], scale: float
) -> torch.Tensor:
    """Boxes (n, 4) on a film of canvas (rows, columns) moved with it: the box around the four moved corners."""
    cos, sin = scale * math.cos(math.radians(angle)), scale * math.sin(math.radians(angle))
    centre = np.array([canvas[1], canvas[0]]) / 2
    matrix = np.array([[cos, sin], [-sin, cos]])
    shift = (centre + translate - centre @ matrix).astype(np.float32)
    corners = boxes.numpy()[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    by_x, by_y = matrix.astype(np.float32)
    moved = corners[..., :1] * by_x + corners[..., 1:] * by_y + shift
    return torch.from_numpy(np.concatenate([moved.min(1), moved.max(1)], axis=1))


class _Exposure(v2.Transform):
    """Random gain and offset, as films differ in exposure. Values stay in [0, 1]. Source: ours."""

    def __init__(self, strength: float):
        super().__init__()
        self.strength = strength

    def forward(self, sample: dict) -> dict:
        gain, offset = (torch.randn(2) * self.strength).tolist()
        film = sample["image"].as_subclass(torch.Tensor)  # arithmetic on a tv_tensor takes a detour through Python
        film = (film * (1 + gain)).add_(offset).clamp_(0, 1)
        return {**sample, "image": tv_tensors.wrap(film, like=sample["image"])}


class _TidyBoxes(v2.Transform):
    """Cut boxes at the film's edge; remove those thinner than MIN_BOX_SIDE, with their labels.

    What torchvision's ClampBoundingBoxes and SanitizeBoundingBoxes do, which would be a third of an item's time: they
    walk through the sample four times, also where a film has no box. Source: ours.
    """

    def forward(self, sample: dict) -> dict:
        if not len(sample["labels"]):
            return sample
        rows, columns = sample["boxes"].canvas_size
        boxes = np.clip(sample["boxes"].numpy(), 0, np.float32([columns, rows, columns, rows]))
        thick = (boxes[:, 2:] - boxes[:, :2] >= MIN_BOX_SIDE).all(1)
        boxes = tv_tensors.wrap(torch.from_numpy(boxes[thick]), like=sample["boxes"])
        return {**sample, "boxes": boxes, "labels": sample["labels"][torch.from_numpy(thick)]}


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
        move = _Affine(
            degrees=rotate_degrees,
            translate=(shift, shift) if shift else None,
            scale=(1 - zoom, 1 + zoom) if zoom else None,
        )
        steps.append(v2.RandomApply([move], p=rotate_probability))
    if flip_probability > 0:
        steps.append(v2.RandomHorizontalFlip(flip_probability))
    if exposure > 0:
        steps.append(_Exposure(exposure))
    return v2.Compose([*steps, _TidyBoxes()])


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
