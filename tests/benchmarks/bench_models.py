"""Films per second of the models and of the loader, each beside a plain alternative, in CPU seconds; and whether the
RoI sampling that makes the paper's detector affordable costs anything.

`make bench ONLY=models`. With a finished demo run the loader reads its films, and the paper's detector on a small
trunk is trained with either sampling (5 minutes); else films for the loader are made.
"""

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import Bench, cost
from PIL import Image
from torchvision.ops import MultiScaleRoIAlign

from cliniqure_utils import metrics, training
from cliniqure_utils.annotations import boxes_per_class, film_sizes, read_merged
from cliniqure_utils.vision import classification, detection, inference, transforms, trunks
from cliniqure_utils.vision.films import FilmDataset, collate
from cliniqure_utils.vocabulary import BOX

FILMS = Path(__file__).parents[2] / "outputs" / "demo" / "01_preprocess"
DEMO = dict(backbone="tiny", neck="topdown", image_size=160, anchor_scales=[20, 40, 67, 100], head_width=256)
SEEDS, STEPS = (0, 1, 2), 150  # of the trainings that compare the samplings


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
    batch, optimizer = batch_of(size, n), torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-5)

    def step():
        optimizer.zero_grad(set_to_none=True)
        model(**batch)["loss"].backward()
        optimizer.step()

    return step


def set_sampling(detector: detection.Detector, as_torchvision: bool) -> None:
    """Our sizes for the paper's detector, or all as torchvision has them."""
    detector.network.roi_heads.fg_bg_sampler.batch_size_per_image = 512 if as_torchvision else 64
    detector.network.rpn._pre_nms_top_n["training"] = 2000 if as_torchvision else 1000
    detector.network.rpn._post_nms_top_n["training"] = 2000 if as_torchvision else 300


def paper_detector(as_torchvision: bool, **changes) -> detection.Detector:
    """The paper's detector with our sampling, or with every sampling size as torchvision has it."""
    detector = detection.build_detector(rois_per_image=64, **changes)
    if as_torchvision:
        set_sampling(detector, True)
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


def there_is_a_run() -> bool:
    return (FILMS / "index.csv").is_file()


def demo_films(split: str, size: int, augment=None, most: int | None = None) -> FilmDataset:
    """Films of the demo run with their merged boxes."""
    index = pd.read_csv(FILMS / "index.csv", dtype={"image_id": str})
    splits = pd.read_csv(FILMS / "splits.csv", dtype={"image_id": str})
    boxes = boxes_per_class(read_merged(FILMS / "annotations.csv"))
    ids = sorted(splits.image_id[splits.split == split])[:most]
    return FilmDataset(FILMS / "images", ids, size, film_sizes(index), boxes, augment, seed=0)


def dataset_of(folder: Path, size: int, augment):
    """The demo's training films with their boxes; random films when there is no demo run."""
    if there_is_a_run():
        return demo_films("train", size, augment, most=128)
    rng = np.random.default_rng(0)
    ids = [f"film{i}" for i in range(64)]
    for image_id in ids:
        Image.fromarray(rng.integers(0, 255, (256, 224), dtype=np.uint8)).save(folder / f"{image_id}.png")
    index = pd.DataFrame({"image_id": ids, "rows": 2560, "columns": 2240})
    boxes = pd.DataFrame({"image_id": ids, "class_id": 3, "class_name": "Cardiomegaly"})
    boxes[BOX] = [500.0, 1200.0, 1700.0, 2000.0]
    return FilmDataset(folder, ids, size, film_sizes(index), boxes, augment)


def load_all(dataset) -> None:
    for start in range(0, len(dataset), 16):
        collate([dataset[i] for i in range(start, min(start + 16, len(dataset)))])


@torch.no_grad()
def validation(detector: detection.Detector, films: FilmDataset) -> tuple[float, float, float]:
    """(mAP@0.4, loss over the regions that we would sample, over those of torchvision) on films with merged boxes."""
    index = pd.read_csv(FILMS / "index.csv", dtype={"image_id": str})
    boxes = boxes_per_class(read_merged(FILMS / "annotations.csv"))
    found = inference.predict_boxes(detector, films, film_sizes(index), progress=False)
    known = boxes[boxes.image_id.isin(films.image_ids)]
    score = metrics.mean_average_precision(references=known, predictions=found)[0]
    detector.train().network.backbone.eval()  # losses, but no new batch statistics
    losses = []
    for as_torchvision in (False, True):
        set_sampling(detector, as_torchvision)
        torch.manual_seed(0)
        total = 0.0
        for start in range(0, len(films), 16):
            batch = collate([films[i] for i in range(start, min(start + 16, len(films)))])
            batch.pop("image_id")
            total += len(batch["image"]) * detector(**batch)["loss"].item()
        losses.append(total / len(films))
    return score, *losses


def compare_samplings(bench: Bench) -> None:
    """Train the paper's shape (one 7 x 7 map, 735 anchors, RoIAlign to 7 x 7) on a small trunk with either sampling.

    The same films, steps, first weights and seeds. The trunk is taught by heat maps first, as the demo's is, since from
    random weights neither finds anything in so few steps; then it stays as it is, or 512 RoIs would take an hour.
    """
    augment = transforms.augmentation(0.5, 5.0, 0.0, shift=0.04, zoom=0.06, exposure=0.06)
    train_set, val_set = demo_films("train", 224, augment), demo_films("val", 224)
    found: dict[bool, list] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder:
        where = dict(device="cpu", output_dir=Path(folder) / "training", collate=collate, resumable=False)
        common = training.Plan(seed=0, optimizer="adamw", weight_decay=0.01, warmup_steps=20)
        torch.manual_seed(0)
        warmup = classification.HeatmapClassifier()
        training.fit(warmup, train_set, replace(common, epochs=3, batch_size=16, learning_rate=0.002), **where)
        trunks.save_body(warmup.body, Path(folder) / "trunk.safetensors")
        for seed in SEEDS:
            for as_torchvision in (False, True):
                torch.manual_seed(seed)
                detector = paper_detector(
                    as_torchvision, backbone="tiny", head_width=256, weights=Path(folder) / "trunk.safetensors"
                )
                detector.network.backbone.requires_grad_(False)
                started = time.process_time()
                plan = replace(common, seed=seed, max_steps=STEPS, batch_size=4, learning_rate=0.001)
                training.fit(detector, train_set, plan, **where)
                cpu = time.process_time() - started
                found[as_torchvision].append((*validation(detector, val_set), cpu))
                print(f"seed {seed}, {512 if as_torchvision else 64} RoIs: {found[as_torchvision][-1]}", flush=True)
    ours, theirs = (np.array(found[name]) for name in (False, True))
    columns = (
        (0, "mAP@0.4 on val", "", 3), (1, "val loss, our regions", "", 3),
        (2, "val loss, torchvision's regions", "", 3), (3, "CPU of it", "s", 0),
    )  # fmt: skip
    for column, name, unit, digits in columns:
        for who, values in (("64 RoIs", ours), ("512 RoIs", theirs)):
            shown = ", ".join(f"{value:.{digits}f}" for value in values[:, column])
            bench.state(f"{STEPS} steps, {who}: {name} ({shown})", unit, values[:, column].mean())


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
    detectors = [detection.build_detector(rois_per_image=32, **DEMO) for _ in range(2)]
    detectors[1].network.roi_heads.box_roi_pool = MultiScaleRoIAlign(["0"], output_size=7, sampling_ratio=1)
    demo, aligned = cost(*(step_of(detector, DEMO["image_size"], 16) for detector in detectors))
    bench.compare_cost("demo detector, step of 16 films", demo, aligned, "torchvision's RoIAlign")
    bench.state("demo detector, batch 16", "films/s", 16000 / demo.cpu)
    paper = cost(step_of(classification.build_classifier("seresnet50"), 224, 4), repeats=2)[0]
    classifiers = [classification.build_classifier("seresnet_tiny", heatmap_weight=2.0) for _ in range(2)]
    classifiers[0].body.trunk.freeze(2)
    small, whole = cost(*(step_of(classifier, DEMO["image_size"], 16) for classifier in classifiers))
    bench.compare_cost("demo classifier, step, two parts frozen", small, whole, "the same trained whole")
    bench.state("paper classifier (seresnet50, 224)", "films/s", 4000 / paper.cpu)
    bench.state("demo classifier, batch 16", "films/s", 16000 / small.cpu)

    moves = dict(rotate_probability=0.5, rotate_degrees=10.0, flip_probability=0.0, shift=0.04, zoom=0.06)
    with tempfile.TemporaryDirectory() as folder:
        dataset = dataset_of(Path(folder), DEMO["image_size"], transforms.augmentation(**moves))
        started = time.process_time()
        dataset.read_films()
        bench.state("reading films from files", "films/s", len(dataset) / (time.process_time() - started))
        plain = dataset_of(Path(folder), DEMO["image_size"], transforms.augmentation(**moves, plain=True))
        plain.read_films()
        load, plainly = cost(lambda: load_all(dataset), lambda: load_all(plain))
        bench.compare_cost(f"batches of {len(dataset)} films in memory", load, plainly, "torchvision's transforms")
        bench.state("loader, films in memory", "films/s", 1000 * len(dataset) / load.cpu)
        dataset.augment = transforms.augmentation(**moves, exposure=0.06)
        for name, model in (("detector", detectors[0]), ("classifier", classifiers[0])):
            history = training.fit(
                model, dataset, training.Plan(seed=0, epochs=3, batch_size=16), output_dir=Path(folder) / name,
                device="cpu", collate=collate, resumable=False, description=f"demo {name}",
            )  # fmt: skip
            bench.state(f"demo {name}, share of a step that waits for films", "%", 100 * history.attrs["waiting"])
    if there_is_a_run():
        compare_samplings(bench)
    else:
        print("no demo run: the two samplings are not trained against each other (make run first)")
    bench.write()


if __name__ == "__main__":
    main()
