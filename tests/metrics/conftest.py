"""Labels, boxes and an encoder that the tests of several metrics share."""

import numpy as np
import pandas as pd
import pytest

from cliniqure_utils.vocabulary import BOX


@pytest.fixture(scope="session")
def boxes():
    """Function: rows (image_id, class_name, x_min, y_min, x_max, y_max[, score]) -> table."""

    def table(*rows):
        columns = ["image_id", "class_name", *BOX] + (["score"] if rows and len(rows[0]) == 7 else [])
        return pd.DataFrame(rows, columns=columns)

    return table


@pytest.fixture(scope="session")
def random_labels():
    rng = np.random.default_rng(1)
    return rng.random((80, 6)) < [0.5, 0.3, 0.2, 0.1, 0.05, 0.0], rng.random((80, 6)) < 0.3


@pytest.fixture(scope="session")
def random_boxes():
    """40 images, 3 classes, distinct scores; predictions are jittered references and noise."""
    rng = np.random.default_rng(2)
    ids = [f"image{i}" for i in range(40)]

    def table(n):
        corner, size = rng.uniform(0, 150, (n, 2)), rng.uniform(50, 120, (n, 2))
        frame = pd.DataFrame(np.c_[corner, corner + size], columns=BOX)
        return frame.assign(image_id=rng.choice(ids, n), class_name=rng.choice(["A", "B", "C"], n))

    references, noise = table(90), table(150)
    near = pd.concat([references, references], ignore_index=True)
    near[BOX] = near[BOX] + rng.normal(0, 9, (180, 4))
    predictions = pd.concat([near, noise], ignore_index=True)
    predictions["score"] = rng.permutation(len(predictions)) / len(predictions)
    return references, predictions, ids
