"""One simulated patient: which findings, how the body stands in the beam, the film, and the true boxes.

Every patient has random streams of its own, one per subject (labels, geometry, film, ...), all derived from the
cohort's seed and the patient's number. So a patient does not depend on who else is simulated or in how many
processes, and nothing about the exposure can depend on a finding: those draws never meet.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from cliniqure_utils.cohort import lesions
from cliniqure_utils.cohort.anatomy import Anatomy
from cliniqure_utils.cohort.lesions import Lesion
from cliniqure_utils.cohort.projection import Geometry, PartialProjection, expose
from cliniqure_utils.vindr import FINDINGS

NOT_SIMULATED = ("Calcification", "Other lesion", "Pleural thickening")
SIMULATED_FINDINGS = tuple(name for name in FINDINGS if name not in NOT_SIMULATED)

NORMAL_SHARE = 0.35
N_FINDINGS = {1: 0.27, 2: 0.38, 3: 0.23, 4: 0.12}  # findings of an abnormal film -> share; mean 2.2

# Limits of the two findings that are measured, not drawn.
CARDIOTHORACIC_LIMIT = 0.50  # the usual limit on a PA film
AORTIC_WIDTH_LIMIT = 82.0  # mm across the projected arch; ours, between the two groups

STREAMS = ("labels", "demographics", "geometry", "lesions", "film", "header", "readers", "report", "clinic")
# Air goes in first, fluid last: later lesions fill what earlier ones left.
ORDER = (
    "Pneumothorax", "ILD", "Pulmonary fibrosis", "Lung Opacity", "Infiltration", "Consolidation", "Atelectasis",
    "Nodule/Mass", "Pleural effusion",
)  # fmt: skip


@dataclass
class TrueBox:
    """One finding as it is seen on the film.

    Attributes:
        finding: Name as in vindr.FINDINGS.
        box: x_min, y_min, x_max, y_max in pixels of the film, origin at the top left.
        side: "left", "right" or "midline", as the patient's side (the patient's left is the right of the image).
        zone: "upper", "mid" or "lower" part of the lung field.
        extent: mm in diameter for Nodule/Mass, mm of growth for heart and aorta, else 0 (small) to 1 (large).
    """

    finding: str
    box: tuple[int, int, int, int]
    side: str
    zone: str
    extent: float


@dataclass
class Film:
    """A simulated film and the truth about it.

    Attributes:
        pixels: uint16 (size, size), 12 bits, dense tissue bright.
        boxes: What can be seen; empty on a normal film.
        pixel_spacing: mm per pixel at the detector.
        age_years, sex: Of the made-up patient; sex is "F" or "M".
        cardiothoracic_ratio, aortic_width: The two measurements, the width in mm.
        hidden: Findings that were placed but cannot be seen, such as a nodule behind the diaphragm; not labelled.
    """

    pixels: np.ndarray
    boxes: list[TrueBox]
    pixel_spacing: float
    age_years: int
    sex: str
    cardiothoracic_ratio: float
    aortic_width: float
    hidden: list[str] = field(default_factory=list)


def stream(seed: int, index: int, name: str) -> np.random.Generator:
    """The random generator of one subject (one of STREAMS) of one patient."""
    return np.random.default_rng([seed, index, STREAMS.index(name)])


def grid_for(size: int) -> int:
    """Detector samples per side for a film of `size` pixels: the body holds no finer detail than about 1.5 mm."""
    return int(min(size, max(64, round(size * 0.65))))


def plan_findings(rng: np.random.Generator) -> tuple[str, ...]:
    """Draw what a film shall show: nothing in 35% of films, else one to four findings, all equally likely."""
    normal, count = rng.random() < NORMAL_SHARE, int(rng.choice(list(N_FINDINGS), p=list(N_FINDINGS.values())))
    chosen = rng.permutation(len(SIMULATED_FINDINGS))[:count]
    return () if normal else tuple(SIMULATED_FINDINGS[i] for i in sorted(chosen))


def simulate(
    anatomy: Anatomy, seed: int, index: int, size: int = 320, findings: tuple[str, ...] | None = None, vary: bool = True
) -> Film:
    """Simulate one patient.

    Args:
        anatomy: The body.
        seed, index: The cohort's seed and the patient's number; the same pair gives the same film to the bit.
        size: Side of the film in pixels.
        findings: What to place, in place of what the patient's own stream draws; for figures and tests. The same
            patient with and without a finding differs in nothing else.
        vary: False gives every patient the same straight body and exposure.
    """
    import torch

    if findings is None:
        findings = plan_findings(stream(seed, index, "labels"))
    unknown = set(findings) - set(SIMULATED_FINDINGS)
    if unknown:
        raise ValueError(f"cannot simulate {sorted(unknown)}; expected names from {SIMULATED_FINDINGS}")
    age, sex, breasts = _demographics(stream(seed, index, "demographics"), findings)
    geometry = Geometry(anatomy, stream(seed, index, "geometry"), grid_for(size), vary)
    soft_projection, bone_projection = geometry.project(
        torch.stack([torch.from_numpy(anatomy.soft), torch.from_numpy(anatomy.bone)])[None]
    )
    soft = anatomy.soft.copy()  # the body with the lesions so far
    to_pixels = size / geometry.n_grid
    found: list[TrueBox] = []
    hidden: list[str] = []

    def add(lesion: Lesion, shadow: PartialProjection | None) -> None:
        soft[lesion.slices] += lesion.change
        if shadow is not None:
            shadow.add_to(soft_projection)

    # One stream per finding: how many numbers one lesion draws must not move the next one.
    shape = np.random.default_rng([seed, index, STREAMS.index("lesions"), 99])
    small_heart, large_heart, small_aorta, large_aorta = shape.uniform(
        [0.0, 17.0, 0.0, 10.0], [6.0, 30.0, 2.0, 17.0]
    )
    heart = lesions.enlarged_heart(anatomy, soft, large_heart if "Cardiomegaly" in findings else small_heart)
    add(heart, geometry.project_part(heart.change, heart.slices))
    aorta = lesions.enlarged_aorta(anatomy, soft, large_aorta if "Aortic enlargement" in findings else small_aorta)
    add(aorta, geometry.project_part(aorta.change, aorta.slices))

    chest_width = _width(geometry.project_part(*lesions.lung_mask(anatomy)), 4.0)
    heart_box = _outline(geometry.project_part(heart.outline, heart.slices), 4.0)
    aorta_box = _outline(geometry.project_part(aorta.outline, aorta.slices), 4.0)
    ratio = (heart_box[2] - heart_box[0]) / chest_width
    aortic_width = (aorta_box[2] - aorta_box[0]) * geometry.pixel
    if aortic_width > AORTIC_WIDTH_LIMIT:
        box = _to_film(aorta_box, to_pixels, size)
        found.append(TrueBox("Aortic enlargement", box, "midline", "upper", aorta.extent))
    if ratio > CARDIOTHORACIC_LIMIT:
        box = _to_film(heart_box, to_pixels, size)
        found.append(TrueBox("Cardiomegaly", box, "midline", "lower", heart.extent))

    lung_field = geometry.front_view(anatomy.lung_field)
    for finding in (name for name in ORDER if name in findings):
        air_filled = "Pneumothorax" in findings and finding != "Pneumothorax"
        rng = np.random.default_rng([seed, index, STREAMS.index("lesions"), FINDINGS.index(finding)])
        for _ in range(4):  # where chance hides a lesion, try another place
            made = []
            for lesion in lesions.MAKERS[finding](anatomy, soft, rng):
                if air_filled and finding != "Pleural effusion":
                    lesion.change *= soft[lesion.slices] > 0.03  # only fluid can lie in the air of a pneumothorax
                made.append((lesion, *_look(geometry, lesion, lung_field)))
            if any(box is not None for _, _, box in made):
                break
        for lesion, shadow, box in made:
            add(lesion, shadow)
            if box is None:
                hidden.append(finding)
            else:
                zone = anatomy.lung_zone(_middle_height(lesion), lesion.side)
                film_box = _to_film(box, to_pixels, size)
                found.append(TrueBox(finding, film_box, lesion.side, zone, lesion.extent))
    pixels = expose(
        soft_projection, bone_projection, size, stream(seed, index, "film"), breasts=breasts, vary=vary
    )
    found = _merge_same(found)
    found.sort(key=lambda one: (FINDINGS.index(one.finding), one.box))
    return Film(pixels, found, geometry.fov / size, age, sex, float(ratio), float(aortic_width), hidden)


def _demographics(rng: np.random.Generator, findings: tuple[str, ...]) -> tuple[int, str, bool]:
    """Age, sex, and whether breasts show on the film. Older with the findings of age; the film never depends on age."""
    sex = "F" if rng.random() < 0.5 else "M"
    breasts = bool(rng.random() < 0.8) and sex == "F"
    age = rng.normal(50, 15)
    if {"Cardiomegaly", "Aortic enlargement", "Pulmonary fibrosis"} & set(findings):
        age += 9
    return int(np.clip(age, 18, 90)), sex, breasts


# How a lesion's shadow is outlined: mm by which gaps are bridged, and mm by which it may leave the lung field.
_BRIDGE = {"ILD": 8.0, "Pulmonary fibrosis": 8.0, "Infiltration": 8.0}
_BEYOND_FIELD = {"Pleural effusion": 25.0}
_MIN_SHARE = {"Pleural effusion": 0.12, "ILD": 0.2, "Pneumothorax": 0.2}


def _look(geometry: Geometry, lesion: Lesion, lung_field: np.ndarray):
    """Project a lesion; return its shadow and its box in detector samples (None where a reader could not see it)."""
    shadow = geometry.project_part(lesion.change, lesion.slices)
    if shadow is None:
        return None, None
    seen = shadow if lesion.outline is None else geometry.project_part(lesion.outline, lesion.slices)
    values = seen.values
    limit = max(0.18 * values.max(), 0.5)
    rows, columns = values.shape
    window = lung_field[seen.row : seen.row + rows, seen.column : seen.column + columns] > 0.3
    beyond = _BEYOND_FIELD.get(lesion.finding, 5.0)
    window = ndimage.binary_dilation(window, iterations=max(1, round(beyond / geometry.pixel)))
    visible = (values > limit) & window
    if visible.sum() * geometry.pixel**2 < 90 or values[visible].max(initial=0) < 4:
        return shadow, None
    if values[visible].sum() < _MIN_SHARE.get(lesion.finding, 0.4) * values.sum():
        return shadow, None
    bridge = max(1, round(_BRIDGE.get(lesion.finding, 2.0) / geometry.pixel))
    pieces, _ = ndimage.label(ndimage.binary_dilation(visible, iterations=bridge))
    sizes = np.bincount(pieces[visible])
    sizes[0] = 0
    y, x = np.nonzero((pieces == sizes.argmax()) & visible)
    box = (x.min() + seen.column, y.min() + seen.row, x.max() + 1 + seen.column, y.max() + 1 + seen.row)
    return shadow, box


def _outline(projection: PartialProjection, limit: float) -> tuple[int, int, int, int]:
    """Box around the samples above `limit` mm, in detector samples."""
    y, x = np.nonzero(projection.values > limit)
    column, row = projection.column, projection.row
    return x.min() + column, y.min() + row, x.max() + 1 + column, y.max() + 1 + row


def _width(projection: PartialProjection, limit: float) -> float:
    """Greatest width of the shadow above `limit` mm in any row, outer border to outer border, in samples."""
    shadow = projection.values > limit
    columns = np.arange(shadow.shape[1])
    right = np.where(shadow, columns, -1).max(1)
    left = np.where(shadow, columns, shadow.shape[1]).min(1)
    return float((right - left + 1).max())


def _middle_height(lesion: Lesion) -> float:
    """Centre of the changed tissue along the body, voxels."""
    weight = np.abs(lesion.change).sum((0, 2))
    return float(lesion.slices[1].start + (weight * np.arange(len(weight))).sum() / weight.sum())


def _to_film(box, scale: float, size: int) -> tuple[int, int, int, int]:
    """Detector samples -> whole pixels of the film, outwards, inside the film."""
    low = [max(0, int(np.floor(v * scale))) for v in box[:2]]
    high = [min(size, int(np.ceil(v * scale))) for v in box[2:]]
    return (*low, *high)


def _merge_same(boxes: list[TrueBox]) -> list[TrueBox]:
    """Join boxes of the same finding and side that overlap by more than 0.3: seen from the front they are one."""
    merged: list[TrueBox] = []
    for one in boxes:
        for position, other in enumerate(merged):
            if (other.finding, other.side) == (one.finding, one.side) and _iou(other.box, one.box) > 0.3:
                joined = (*np.minimum(other.box[:2], one.box[:2]), *np.maximum(other.box[2:], one.box[2:]))
                joined = tuple(int(v) for v in joined)
                larger = other if other.extent >= one.extent else one
                merged[position] = TrueBox(one.finding, joined, one.side, larger.zone, larger.extent)
                break
        else:
            merged.append(one)
    return merged


def _iou(a, b) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(0, width) * max(0, height)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)
