"""Part `eyes`: trunk, neck, heat maps and classifier, then the detector, learn from simulated films and their truth."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torchvision import tv_tensors
from tqdm.auto import tqdm

from cliniqure_utils import training
from cliniqure_utils.pretraining.appearance import change_appearance
from cliniqure_utils.pretraining.films import read_shard
from cliniqure_utils.vision import classification, detection, trunks
from cliniqure_utils.vision.films import collate
from cliniqure_utils.vision.grey import even_grey
from cliniqure_utils.vision.transforms import augmentation
from cliniqure_utils.vocabulary import BOX, CLASSES, FINDINGS

GREY = "rank"
N_PROCESSES = 2  # one for each core that the recipe is for: small convolutions gain little from threads
MOVE = dict(rotate_probability=0.8, rotate_degrees=8.0, flip_probability=0.0, shift=0.06, zoom=0.2)


class SimulatedFilms(torch.utils.data.Dataset):
    """Films of shards with their true boxes; items as those of `vision.films.FilmDataset`, changed anew in each epoch.

    Args:
        shards: Paths of shards.
        size: Side of the model's input, pixels.
        seed: Of the changes; None leaves films as they are (but for the grey scale).
    """

    def __init__(self, shards: list[Path], size: int, seed: int | None):
        self.size, self.seed, self.epoch = size, seed, 0
        self.pixels, self.boxes, self.labels, self.kinds, self.reports = [], [], [], [], []
        for path in tqdm(shards, desc="reading films", unit="shard"):
            pixels, truth = read_shard(path)
            self.pixels.append(pixels)
            for film in truth:
                rows = film["findings"]
                boxes = np.array([[row[edge] for edge in BOX] for row in rows], np.float32).reshape(-1, 4)
                self.boxes.append(torch.from_numpy(boxes * np.float32(size / pixels.shape[-1])))
                self.labels.append(torch.tensor([FINDINGS.index(row["class_name"]) + 1 for row in rows]).long())
                self.kinds.append(film["kind"])
                self.reports.append(film["report"])
        self.pixels = np.concatenate(self.pixels)
        self.move = augmentation(**MOVE)

    def __len__(self) -> int:
        return len(self.pixels)

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the seed of the changes is mixed with."""
        self.epoch = epoch

    def fingerprint(self) -> str:
        """sha256 of films, boxes and how they are changed."""
        found = hashlib.sha256(self.pixels.tobytes())
        found.update(repr((self.size, self.seed, MOVE, GREY, [b.tolist() for b in self.boxes])).encode())
        return found.hexdigest()

    def targets(self, index: int) -> torch.Tensor:
        """Labels (15,), 0 or 1."""
        target = torch.zeros(len(CLASSES))
        if len(self.labels[index]):
            target[self.labels[index] - 1] = 1
        else:
            target[-1] = 1
        return target

    def film(self, index: int) -> torch.Tensor:
        """uint8 (1, size, size), on the grey scale of the models."""
        return even_grey(torch.from_numpy(self._resized(self.pixels[index]))[None], GREY)

    def __getitem__(self, index: int) -> dict:
        boxes, labels = self.boxes[index], self.labels[index]
        if self.seed is None:
            image = self.film(index).float().div_(255)
        else:
            draws = np.random.SeedSequence([self.seed, self.epoch, index])
            changed = change_appearance(self._resized(self.pixels[index]), np.random.default_rng(draws))
            image = even_grey(torch.from_numpy(changed)[None], GREY).float().div_(255)
            sample = {
                "image": tv_tensors.Image(image),
                "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(self.size, self.size)),
                "labels": labels,
            }
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(int(draws.generate_state(1)[0]))
                sample = self.move(sample)
            image, boxes = sample["image"].as_subclass(torch.Tensor), sample["boxes"].as_subclass(torch.Tensor)
            labels = sample["labels"]
        return {
            "image_id": str(index), "image": image, "boxes": boxes, "box_labels": labels, "targets": self.targets(index)
        }  # fmt: skip

    def _resized(self, film: np.ndarray) -> np.ndarray:
        if len(film) == self.size:
            return film
        from PIL import Image

        return np.array(Image.fromarray(film).resize((self.size, self.size), Image.Resampling.BOX))


class InBfloat16(torch.nn.Module):
    """Trains a heat-map classifier in bfloat16, twice as fast on a processor that multiplies in it (AMX): activations
    alone; weights, batch statistics and loss stay float32.

    Args:
        model: The classifier; it is trained in place.
    """

    def __init__(self, model: classification.HeatmapClassifier):
        super().__init__()
        self.model = model

    def forward(
        self, image: torch.Tensor, targets: torch.Tensor, boxes: list[torch.Tensor], box_labels: list[torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """A batch as `vision.films.collate` makes it -> loss."""
        with torch.autocast("cpu", torch.bfloat16):
            outputs = self.model(image)
        of_labels = self.model.loss(outputs["logits"].float(), targets)
        of_places = classification.heatmap_loss(outputs["heatmap"], boxes, box_labels, image.shape[-1])
        return {"loss": of_labels + self.model.heatmap_weight * of_places}


def teach_classifier(data: SimulatedFilms, work_dir: Path, epochs: int, seed: int, n_processes: int = N_PROCESSES):
    """Train trunk, neck, heat maps and classifier from random weights; returns the model and the history."""
    torch.manual_seed(seed)
    model = classification.build_classifier("seresnet_tiny", heatmap_weight=2.0)
    plan = training.Plan(
        seed=seed, epochs=epochs, batch_size=32 // n_processes, learning_rate=3e-3, weight_decay=0.02,
        optimizer="adamw", scheduler="cosine", warmup_steps=100, ema_decay=0.995,
    )  # fmt: skip
    history = training.fit(
        InBfloat16(model), data, plan, output_dir=work_dir / "checkpoints_classifier", device="cpu", collate=collate,
        log_steps=50, n_processes=n_processes, description="classifier",
    )  # fmt: skip
    return model.eval(), history


DETECTOR = dict(  # what notebook 02 builds
    backbone="tiny", image_size=192, anchor_scales=[20, 40, 67, 100], aspect_ratios=[0.5, 1.0, 2.0], neck="topdown",
    roi_pool_size=7, head_width=256, rois_per_image=32,
)  # fmt: skip


def teach_detector(
    body: trunks.TopDown, data: SimulatedFilms, work_dir: Path, epochs: float, seed: int, n_processes: int = N_PROCESSES
):
    """Train the detector from a trained body, body and heads together; returns the model and the history."""
    torch.manual_seed(seed)
    model = detection.build_detector(**DETECTOR, body=body)
    plan = training.Plan(
        seed=seed, epochs=epochs, batch_size=16 // n_processes, learning_rate=2e-3, weight_decay=0.02,
        optimizer="adamw", scheduler="cosine", warmup_steps=100, ema_decay=0.995,
    )  # fmt: skip
    history = training.fit(
        model, data, plan, output_dir=work_dir / "checkpoints_detector", device="cpu", collate=collate, log_steps=50,
        n_processes=n_processes, description="detector",
    )  # fmt: skip
    return model, history
