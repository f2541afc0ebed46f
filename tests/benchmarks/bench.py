"""`make bench`: cost of the hot paths, each beside a plain alternative measured in the same run.

Prints a table and writes outputs/bench/bench.json. CPU seconds, so that a busy machine changes little.
"""

import time
from pathlib import Path

import numpy as np
import torch

from cliniqure_utils import boxes, classification, detection, vindr
from cliniqure_utils.runs import write_json

ROOT = Path(__file__).parents[2]


def cpu_seconds(function, repeats: int = 3) -> float:
    """Median CPU seconds of some calls, after one to warm up."""
    function()
    found = []
    for _ in range(repeats):
        started = time.process_time()
        function()
        found.append(time.process_time() - started)
    return float(np.median(found))


def detector_step(**changes):
    detector = detection.build_detector(**changes).train()
    size = detector.image_size
    batch = {
        "image": torch.rand(4, 1, size, size),
        "boxes": [torch.tensor([[10.0, 10, 90, 90], [100, 40, 150, 90]]) for _ in range(4)],
        "box_labels": [torch.tensor([1, 5])] * 4,
    }
    return lambda: detector(**batch)["loss"].backward()


def classifier_step(name, size, batch_size):
    model = classification.build_classifier(name).train()
    images, targets = torch.rand(batch_size, 1, size, size), torch.zeros(batch_size, 15)
    return lambda: model(images, targets)["loss"].backward()


def main() -> None:
    rows = []

    def compare(name, unit, ours, plain, what):
        rows.append({"name": name, "unit": unit, "ours": ours, "plain": plain, "ratio": plain / ours, "plain_is": what})
        print(f"{name:34} {ours:8.2f} {unit:12} against {plain:8.2f} ({what}): {plain / ours:5.2f} times")

    torch.manual_seed(0)
    ours, plain = (cpu_seconds(detector_step(rois_per_image=n), 2) for n in (64, 512))
    compare("paper detector, step of 4 films", "CPU s", ours, plain, "torchvision's 512 RoIs per film")
    demo = dict(backbone="tiny", neck="topdown", image_size=192, anchor_scales=[24, 48, 80, 120], head_width=256)
    ours = cpu_seconds(detector_step(rois_per_image=32, **demo), 3)
    compare("demo detector, step of 4 films", "CPU s", ours, plain, "the paper's detector with 512 RoIs")
    ours = cpu_seconds(classifier_step("seresnet_tiny", 192, 4), 3)
    plain = cpu_seconds(classifier_step("seresnet50", 224, 4), 2)
    compare("demo classifier, step of 4 films", "CPU s", ours, plain, "seresnet50 at 224")

    annotations, _ = vindr.read_annotations("torchxrayvision")
    ours = cpu_seconds(lambda: boxes.merge_reader_boxes(annotations, no_finding="drop"), 2)
    some = annotations[annotations.image_id.isin(sorted(set(annotations.image_id))[:1500])]
    tenth = cpu_seconds(lambda: boxes.merge_reader_boxes(some, no_finding="drop"), 2)
    compare("merge of 15,000 films", "CPU s", ours, 10 * tenth, "ten times 1,500 films: linear growth is 1.00")
    write_json(ROOT / "outputs" / "bench" / "bench.json", rows)


if __name__ == "__main__":
    main()
