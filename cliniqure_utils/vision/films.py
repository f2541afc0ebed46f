"""Films, boxes and labels as torch data sets.

Films come from the cache that notebook 01 writes. They are resized to a square without keeping the aspect, as the
paper's table 3 does, and boxes move with them. Items hold tv_tensors, so that one random transform moves the film and
its boxes together.
"""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2
from tqdm.auto import tqdm

from cliniqure_utils.annotations import rescale_boxes
from cliniqure_utils.vision.grey import check_grey, even_grey
from cliniqure_utils.vision.transforms import MIN_BOX_SIDE
from cliniqure_utils.vocabulary import BOX, CLASSES, FINDINGS

KEEP_BYTES = 2**31  # films are kept in memory up to this size; VinDr-CXR's 15,000 at 1,024 pixels would be 16 GB


def read_film(path: str | Path, size: int, grey: str = "none") -> torch.Tensor:
    """One cached film as a model takes it: uint8 tensor (1, size, size). Arguments of `to_square`."""
    with Image.open(path) as image:
        return to_square(image.convert("L"), size, grey)


def to_square(film: Image.Image, size: int, grey: str = "none") -> torch.Tensor:
    """A grey film as a model takes it: the one way, whichever film it is.

    Args:
        film: 8 bit, one channel.
        size: Side of the square, pixels; area-averaging resize, aspect not kept (paper, table 3).
        grey: Grey scale of the result (`grey.even_grey`).

    Returns:
        uint8 (1, size, size).
    """
    if film.size != (size, size):
        film = film.resize((size, size), Image.Resampling.BOX if min(film.size) >= size else Image.Resampling.BILINEAR)
    return even_grey(torch.from_numpy(np.asarray(film).copy())[None], grey)


class FilmDataset(torch.utils.data.Dataset):
    """Films with their boxes and labels.

    An item is a dict: image_id; image, float32 (1, size, size) in [0, 1]; boxes, float32 (n, 4) in input pixels;
    box_labels, int64 (n,), 1-14 (0 is the detector's background); targets, float32 (15,), order of
    `CLASSES`.

    Args:
        image_dir: Folder of `<image_id>.png`.
        image_ids: Films to serve, in this order.
        size: Side of the square input, pixels.
        sizes: image_id -> (width, height) in DICOM pixels (`annotations.film_sizes`).
        boxes: `boxes_per_class` of the reader annotations. None: no boxes, no targets.
        augment: A torchvision v2 transform for (image, boxes), or None. `transforms.augmentation` takes boxes out that
            are thinner than MIN_BOX_SIDE; a warning counts them.
        keep_in_memory: Read every film once and keep it (uint8, size x size bytes each). None: if all of them fit into
            KEEP_BYTES.
        labels: Table (films, 15) of 0/1, index image_id, columns `CLASSES`, such as `reader_labels`
            makes: `targets` in place of those that follow from the boxes.
        seed: Draw each film's transform from (seed, epoch, place) instead of torch's global random numbers. Then it
            does not depend on the number of loader processes, nor on where a killed training resumes.
        grey: Grey scale of the films (`grey.even_grey`).

    Raises:
        ValueError: A box of another class than the 14, a film without a row in `labels`, or an unknown grey scale.
    """

    def __init__(
        self,
        image_dir: str | Path,
        image_ids: Sequence[str],
        size: int,
        sizes: Mapping[str, tuple[int, int]],
        boxes: pd.DataFrame | None = None,
        augment: v2.Transform | None = None,
        keep_in_memory: bool | None = None,
        labels: pd.DataFrame | None = None,
        seed: int | None = None,
        grey: str = "none",
    ):
        check_grey(grey)
        self.image_dir, self.image_ids, self.size = Path(image_dir), [str(i) for i in image_ids], size
        self.grey = grey
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
            if not found.class_id.between(0, len(FINDINGS) - 1).all():
                raise ValueError(f"film {image_id} has a box of class {sorted(set(found.class_id))}, expected 0 to 13")
            scaled = rescale_boxes(found[BOX].to_numpy(np.float32), sizes[image_id], (size, size))
            self._boxes.append(torch.from_numpy(scaled))
            self._labels.append(torch.from_numpy(found.class_id.to_numpy().astype(np.int64) + 1))
        thin = [int(((found[:, 2:] - found[:, :2]) < MIN_BOX_SIDE).any(1).sum()) for found in self._boxes]
        if augment is not None and any(thin):
            warnings.warn(
                f"{sum(thin)} boxes of {np.count_nonzero(thin)} films are thinner than {MIN_BOX_SIDE:g} pixel of "
                f"{size}: training leaves them out, but for those that a turn of the film widens",
                stacklevel=2,
            )

    def __len__(self) -> int:
        return len(self.image_ids)

    def set_epoch(self, epoch: int) -> None:
        """The epoch that `seed` is mixed with; called before each epoch of a training."""
        self.epoch = epoch

    def fingerprint(self) -> str:
        """sha256 of what decides an item beside the file: its id, size, grey scale, seed, transform, boxes, labels."""
        targets = [self.targets(i).tolist() for i in range(len(self))]
        boxes = [torch.cat([b, n[:, None].float()], 1).tolist() for b, n in zip(self._boxes, self._labels, strict=True)]
        content = repr((self.image_ids, self.size, self.grey, self.seed, repr(self.augment), targets, boxes))
        return hashlib.sha256(content.encode()).hexdigest()

    def film(self, index: int) -> torch.Tensor:
        """uint8 (1, size, size), without augmentation."""
        if index in self._films:
            return self._films[index]
        film = read_film(self.image_dir / f"{self.image_ids[index]}.png", self.size, self.grey)
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
        return {**self.__dict__, "_films": {}}  # another process reads the files itself; films make a large pickle

    def targets(self, index: int) -> torch.Tensor:
        """Multi-label target (15,): from `labels`, or 1 where a box names the finding; the last is "No finding"."""
        if self._targets is not None:
            return self._targets[index]
        target = torch.zeros(len(CLASSES))
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
            # Not torch.manual_seed: it seeds GPUs too, and as long as no GPU has been used it stores every such call
            # with its traceback.
            torch.default_generator.manual_seed(
                int(np.random.SeedSequence([self.seed, self.epoch, index]).generate_state(1)[0])
            )
            return self.augment(sample)


def _target_rows(labels: pd.DataFrame, image_ids: list[str]) -> torch.Tensor:
    missing = sorted(set(image_ids) - set(labels.index.astype(str)))
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(image_ids)} films have no row in the labels, the first is {missing[0]}"
        )
    return torch.tensor(labels.loc[image_ids, list(CLASSES)].to_numpy(np.float32))


def collate(items: list[dict]) -> dict:
    """Items of a FilmDataset -> batch: image (n, 1, size, size); targets (n, 15); boxes, box_labels, image_id lists."""
    return {
        "image_id": [item["image_id"] for item in items],
        "image": torch.stack([item["image"] for item in items]),
        "targets": torch.stack([item["targets"] for item in items]),
        "boxes": [item["boxes"] for item in items],
        "box_labels": [item["box_labels"] for item in items],
    }
