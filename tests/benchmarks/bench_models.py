"""Films per second of the models and of the loader, each beside a plain alternative, in CPU seconds; and whether the
RoI sampling that makes the paper's detector affordable costs anything.

`make bench ONLY=models`. With a finished demo run the loader reads its films; else such films are made.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import Bench, cost
from PIL import Image

from cliniqure_utils import classification, detection, loaders

FILMS = Path(__file__).parents[2] / "outputs" / "demo" / "01_preprocess"
DEMO = dict(backbone="tiny", neck="topdown", image_size=192, anchor_scales=[24, 48, 80, 120], head_width=256)


def batch_of(size: int, n: int) -> dict:
    return {
        "image": torch.rand(n, 1, size, size),
        "boxes": [torch.tensor([[10.0, 10, 90, 90], [100, 40, 150, 90]]) for _ in range(n)],
        "box_labels": [torch.tensor([1, 5])] * n,
        "targets": torch.zeros(n, 15),
    }


def step_of(model: torch.nn.Module, size: int, n: int):
    """A whole training step: forward, backward, Adam."""
    model.train()
    batch, optimizer = batch_of(size, n), torch.optim.Adam(model.parameters(), lr=1e-5)

    def step():
        optimizer.zero_grad(set_to_none=True)
        model(**batch)["loss"].backward()
        optimizer.step()

    return step


def paper_detector(as_torchvision: bool, **changes) -> detection.Detector:
    """The paper's detector with our sampling, or with every sampling size as torchvision has it."""
    detector = detection.build_detector(rois_per_image=512 if as_torchvision else 64, **changes)
    if as_torchvision:
        detector.network.rpn._pre_nms_top_n["training"] = detector.network.rpn._post_nms_top_n["training"] = 2000
    return detector


def sampled_rois(as_torchvision: bool) -> float:
    """RoIs per film that reach the head, on the small trunk (the same 735 anchors)."""
    torch.manual_seed(0)
    detector = paper_detector(as_torchvision, backbone="tiny", head_width=64).train()
    heads, found = detector.network.roi_heads, []
    select = heads.select_training_samples

    def counted(*arguments):
        result = select(*arguments)
        found.extend(len(rois) for rois in result[0])
        return result

    heads.select_training_samples = counted
    for _ in range(4):
        detector(**batch_of(224, 4))
    return float(np.mean(found))


def dataset_of(folder: Path, size: int, augment):
    """The demo's training films with their boxes; random films when there is no demo run."""
    if (FILMS / "index.csv").is_file():
        from cliniqure_utils import vindr

        index = pd.read_csv(FILMS / "index.csv", dtype={"image_id": str})
        splits = pd.read_csv(FILMS / "splits.csv", dtype={"image_id": str})
        boxes = loaders.boxes_per_class(vindr.read_merged(FILMS / "annotations.csv"))
        ids = sorted(splits.image_id[splits.split == "train"])[:128]
        return loaders.FilmDataset(FILMS / "images", ids, size, loaders.dicom_sizes(index), boxes, augment)
    rng = np.random.default_rng(0)
    ids = [f"film{i}" for i in range(64)]
    for image_id in ids:
        Image.fromarray(rng.integers(0, 255, (256, 224), dtype=np.uint8)).save(folder / f"{image_id}.png")
    index = pd.DataFrame({"image_id": ids, "rows": 2560, "columns": 2240})
    boxes = pd.DataFrame({"image_id": ids, "class_id": 3, "class_name": "Cardiomegaly"})
    boxes[loaders.BOX] = [500.0, 1200.0, 1700.0, 2000.0]
    return loaders.FilmDataset(folder, ids, size, loaders.dicom_sizes(index), boxes, augment)


def load_all(dataset) -> None:
    for start in range(0, len(dataset), 16):
        loaders.collate([dataset[i] for i in range(start, min(start + 16, len(dataset)))])


def main() -> None:
    bench = Bench("models")
    torch.manual_seed(0)
    print("whole training steps (forward, backward, Adam); films/s are per CPU second of all threads together")
    bench.state("RoIs per film, torchvision wants 512", "RoIs", sampled_rois(True))
    bench.state("RoIs per film, we want 64", "RoIs", sampled_rois(False))
    after, before = (cost(step_of(paper_detector(plain), 224, 4), repeats=1)[0] for plain in (False, True))
    bench.compare_cost("paper detector, step of 4 films", after, before, "torchvision's sampling sizes")
    bench.state("paper detector, our sampling", "films/s", 4000 / after.cpu)
    bench.state("paper detector, torchvision's sampling", "films/s", 4000 / before.cpu)
    demo = cost(step_of(detection.build_detector(rois_per_image=32, **DEMO), 192, 16), repeats=2)[0]
    bench.state("demo detector, batch 16", "films/s", 16000 / demo.cpu)
    paper = cost(step_of(classification.build_classifier("seresnet50"), 224, 4), repeats=2)[0]
    small = cost(step_of(classification.build_classifier("seresnet_tiny"), 192, 16), repeats=2)[0]
    bench.state("paper classifier (seresnet50, 224)", "films/s", 4000 / paper.cpu)
    bench.state("demo classifier, batch 16", "films/s", 16000 / small.cpu)

    augment = loaders.augmentation(0.5, 5.0, 0.0, shift=0.04, zoom=0.06, exposure=0.06)
    with tempfile.TemporaryDirectory() as folder:
        dataset = dataset_of(Path(folder), 192, augment)
        started = time.process_time()
        load_all(dataset)
        first = len(dataset) / (time.process_time() - started)
        again = 1000 * len(dataset) / cost(lambda: load_all(dataset), repeats=2)[0].cpu
    bench.state("loader, first epoch (files)", "films/s", first)
    bench.state("loader, later epochs (memory)", "films/s", again)
    for name, step in (("detector", demo), ("classifier", small)):
        share = 100 * (16 / again) / (16 / again + step.cpu / 1000)
        bench.state(f"share of a demo {name} step spent loading", "%", share)
    bench.write()


if __name__ == "__main__":
    main()
