"""Training steps of the models, demo and paper size, beside plain alternatives, in CPU seconds."""

import torch
from common import Bench, cpu_seconds

from cliniqure_utils import classification, detection


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
    bench = Bench("models")
    torch.manual_seed(0)
    ours, plain = (cpu_seconds(detector_step(rois_per_image=n), 2) for n in (64, 512))
    bench.compare("paper detector, step of 4 films", "CPU s", ours, plain, "torchvision's 512 RoIs per film")
    demo = dict(backbone="tiny", neck="topdown", image_size=192, anchor_scales=[24, 48, 80, 120], head_width=256)
    ours = cpu_seconds(detector_step(rois_per_image=32, **demo), 3)
    bench.compare("demo detector, step of 4 films", "CPU s", ours, plain, "the paper's detector with 512 RoIs")
    ours = cpu_seconds(classifier_step("seresnet_tiny", 192, 4), 3)
    plain = cpu_seconds(classifier_step("seresnet50", 224, 4), 2)
    bench.compare("demo classifier, step of 4 films", "CPU s", ours, plain, "seresnet50 at 224")
    bench.write()
