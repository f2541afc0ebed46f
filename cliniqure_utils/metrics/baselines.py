"""Trivial baselines of boxes: predictions of a method that never looks at a film; and what a baseline beats."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from cliniqure_utils.metrics.matching import checked_boxes
from cliniqure_utils.vocabulary import BOX, NO_FINDING


def mean_box_baseline(
    train_boxes: pd.DataFrame, image_sizes: Mapping[str, tuple[float, float]], train_sizes: Mapping | None = None
) -> pd.DataFrame:
    """Trivial baseline: per class the mean training box, on every film, scored by how common the class is.

    Boxes are averaged as shares of their film, so that films of different sizes count alike.

    Args:
        train_boxes: Boxes of the training films, as in `detection`. "No finding" rows are no boxes.
        image_sizes: image_id -> (width, height) in pixels of the films to predict.
        train_sizes: The same for all training films, those without a box included: their number is what prevalence
            is a share of. None: the training films are those that train_boxes names, and their sizes are taken from
            image_sizes (so they are predicted too).

    Returns:
        image_id, class_name, score (share of the training films with the class), x_min, y_min, x_max, y_max (pixels).

    Raises:
        ValueError: A training film has no size.
    """
    n_train = train_boxes["image_id"].nunique() if train_sizes is None else len(train_sizes)
    boxes = checked_boxes(train_boxes, "train_boxes", None)
    boxes = boxes[boxes.class_name != NO_FINDING]
    shares = boxes[BOX].to_numpy() / image_scale(boxes.image_id, image_sizes if train_sizes is None else train_sizes)
    means = pd.DataFrame(shares, columns=BOX).groupby(boxes.class_name.to_numpy()).mean()
    scores = boxes.groupby("class_name").image_id.nunique()[means.index] / n_train
    return on_every_image(means.index, means.to_numpy(), scores.to_numpy(), image_sizes)


def whole_image_baseline(
    prevalence: Mapping[str, float], image_sizes: Mapping[str, tuple[float, float]]
) -> pd.DataFrame:
    """Trivial baseline: on every film one box over all of it per class, scored by the class's prevalence."""
    names = list(prevalence)
    corners = np.tile([0.0, 0.0, 1.0, 1.0], (len(names), 1))
    return on_every_image(names, corners, np.array([prevalence[n] for n in names], dtype=float), image_sizes)


def on_every_image(names: Iterable[str], corners: np.ndarray, scores: np.ndarray, image_sizes) -> pd.DataFrame:
    """The same relative boxes (k, 4) on every film, in its pixels."""
    names, image_ids = list(names), list(image_sizes)
    ids = np.repeat(np.array(image_ids, dtype=object), len(names))
    table = pd.DataFrame(
        {"image_id": ids, "class_name": names * len(image_ids), "score": np.tile(scores, len(image_ids))}
    )
    table[BOX] = np.tile(corners.reshape(-1, 4), (len(image_ids), 1)) * image_scale(ids, image_sizes)
    return table


def image_scale(image_ids, image_sizes) -> np.ndarray:
    """(n, 4) width, height, width, height of each row's film."""
    missing = next((i for i in image_ids if i not in image_sizes), None)
    if missing is not None:
        raise ValueError(f"image {missing} has no entry in the image sizes")
    sizes = np.array([image_sizes[i] for i in image_ids], dtype=float).reshape(-1, 2)
    return np.tile(sizes, 2)


def not_beaten(value: float, answers: Mapping[str, float], lower_is_better: bool = False) -> dict[str, float]:
    """The trivial answers that a value does not beat, the best first: name -> its value.

    Args:
        value: Of the system. NaN, it beats nothing.
        answers: Name of a trivial answer -> its value; NaN counts as none.
        lower_is_better: For errors.

    Returns:
        Those of `answers` that are as good or better.
    """
    sign = -1 if lower_is_better else 1
    found = {name: other for name, other in answers.items() if other == other and not sign * value > sign * other}
    return dict(sorted(found.items(), key=lambda item: -sign * item[1]))
