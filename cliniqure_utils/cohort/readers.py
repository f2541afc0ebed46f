"""Three simulated readers: each draws what the truth holds, with the errors that people make.

Sizes of the errors are ours, set so that readers disagree visibly but not wildly; the real readers' agreement is
measured in notebook 01.
"""

import numpy as np

from cliniqure_utils import vindr

READERS = ("R8", "R9", "R10")  # three of VinDr-CXR's seventeen
JITTER = 0.07  # standard deviation of each edge, as a share of the box's side
MISSED = 0.10  # share of true boxes that a reader does not draw
EXTRA, EXTRA_ON_NORMAL = 0.03, 0.01  # share of films on which a reader draws a box that is not there
CONFUSED = 0.10  # share of boxes of a look-alike finding that a reader calls by the name of another one
LOOK_ALIKES = ("Consolidation", "Infiltration", "Lung Opacity")
EXTRA_NAMES = (*LOOK_ALIKES, "Nodule/Mass", "Pulmonary fibrosis")
LEAST_SIDE = 3  # pixels


def annotate(truth: list[dict], size: int, rng: np.random.Generator) -> list[dict]:
    """What the three readers write down for one film.

    Args:
        truth: Dicts with class_name, x_min, y_min, x_max, y_max in pixels; empty for a normal film.
        size: Side of the film in pixels; boxes are cut at it.
        rng: Generator of this film's readers.

    Returns:
        Rows class_name, class_id, rad_id, x_min, y_min, x_max, y_max (whole pixels). As in VinDr-CXR a film never mixes
        "No finding" with findings: where any reader drew a box, readers without one have no row; where none did, each
        has one "No finding" row without coordinates (None).
    """
    rows = []
    for reader in READERS:
        for box in truth:
            missed, confused = rng.random() < MISSED, rng.random() < CONFUSED
            shifts = np.clip(rng.normal(0, JITTER, 4), -0.2, 0.2)
            other = rng.integers(1, len(LOOK_ALIKES))
            if missed:
                continue
            name = box["class_name"]
            if confused and name in LOOK_ALIKES:
                name = LOOK_ALIKES[(LOOK_ALIKES.index(name) + other) % len(LOOK_ALIKES)]
            width, height = box["x_max"] - box["x_min"], box["y_max"] - box["y_min"]
            edges = [
                box["x_min"] + shifts[0] * width,
                box["y_min"] + shifts[1] * height,
                box["x_max"] + shifts[2] * width,
                box["y_max"] + shifts[3] * height,
            ]
            rows += _row(reader, name, edges, size)
        chance, kind = rng.random(2)
        left, top = rng.uniform(0.2, 0.7, 2)
        wide, high = rng.uniform(0.08, 0.25, 2)
        if chance < (EXTRA if truth else EXTRA_ON_NORMAL):
            edges = [left * size, top * size, (left + wide) * size, (top + high) * size]
            rows += _row(reader, EXTRA_NAMES[int(kind * len(EXTRA_NAMES))], edges, size)
    if rows:
        return rows
    nothing = {"class_name": vindr.NO_FINDING, "class_id": vindr.NO_FINDING_ID}
    return [{**nothing, "rad_id": reader, **dict.fromkeys(vindr.BOX)} for reader in READERS]


def _row(reader: str, name: str, edges: list[float], size: int) -> list[dict]:
    x_min, y_min, x_max, y_max = (int(round(min(max(edge, 0), size))) for edge in edges)
    if x_max - x_min < LEAST_SIDE or y_max - y_min < LEAST_SIDE:
        return []
    place = dict(zip(vindr.BOX, (x_min, y_min, x_max, y_max), strict=True))
    return [{"class_name": name, "class_id": vindr.FINDINGS.index(name), "rad_id": reader, **place}]
