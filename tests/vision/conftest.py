"""Shared by the tests of vision: one thread, a few films with boxes, and small models."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from cliniqure_utils.vision import classification, detection

torch.set_num_threads(1)

SMALL_DETECTOR = dict(backbone="tiny", image_size=64, anchor_scales=[16, 32], neck="topdown", head_width=16)


@pytest.fixture
def films(tmp_path):
    """Four films of 80 x 40 DICOM pixels, cached at 40 x 20, and two boxes on the first."""
    rng = np.random.default_rng(0)
    ids = ["a", "b", "c", "d"]
    for image_id in ids:
        Image.fromarray(rng.integers(0, 255, (40, 20), dtype=np.uint8)).save(tmp_path / f"{image_id}.png")
    index = pd.DataFrame({"image_id": ids, "rows": 80, "columns": 40})
    merged = pd.DataFrame(
        {
            "image_id": ["a", "a", "b"],
            "x_min": [10.0, 0.0, 0.0],
            "y_min": [20.0, 0.0, 0.0],
            "x_max": [20.0, 40.0, 40.0],
            "y_max": [60.0, 80.0, 80.0],
            "class_labels": [[4, 8], [3], [14]],
        }
    )
    return tmp_path, index, merged


@pytest.fixture(scope="session")
def small_detector():
    """Build a detector of the demo's kind for films of 64 pixels: `small_detector(head_width=32)`."""
    return lambda **changes: detection.build_detector(**{**SMALL_DETECTOR, **changes})


@pytest.fixture(scope="session")
def timm_classifier():
    """A timm network with or without heat maps, always with the same weights: `timm_classifier(1.0)`.

    Its default is timm's smallest ResNet (0.4 million weights), made for tests.
    """
    built = {}

    def copy_of(heatmap_weight=1.0, name="test_resnet"):
        if (heatmap_weight, name) not in built:
            torch.manual_seed(0)
            built[heatmap_weight, name] = classification.build_classifier(name, heatmap_weight=heatmap_weight)
        return copy.deepcopy(built[heatmap_weight, name])

    return copy_of
