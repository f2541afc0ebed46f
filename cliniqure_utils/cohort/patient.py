"""One simulated patient: how the body stands in the beam, the findings in it, the film, and the true boxes."""

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from cliniqure_utils.cohort import lesions
from cliniqure_utils.cohort.anatomy import Anatomy
from cliniqure_utils.cohort.projection import Exposure, Geometry, PartialProjection, Pose, Shape, expose
from cliniqure_utils.vocabulary import BOX, FINDINGS

CARDIOTHORACIC_LIMIT = 0.50  # heart width over chest width, the usual one
ARCH_LIMIT = 58.0  # mm across the projected arch; ours, between the two groups that the simulation makes

# Growth in mm, drawn for every patient; the film is labelled by what is measured after projection.
HEART_GROWTH, LARGE_HEART_GROWTH = (0.0, 4.0), (17.0, 30.0)
ARCH_GROWTH, LARGE_ARCH_GROWTH = (0.0, 2.0), (12.5, 17.5)

# A lesion is labelled when a reader can see it: mm of water at its darkest, mm^2 of shadow, and the share of the
# shadow that lies in the lung field (not behind the heart or the diaphragm).
LEAST_SHADOW, LEAST_AREA = 4.0, 90.0
LEAST_SHARE = {
    "Pleural effusion": 0.12,
    "ILD": 0.2,
    "Pneumothorax": 0.2,
    "Pleural thickening": 0.3,
    "Lung Opacity": 0.65,
}
LEAST_SHARE_OTHER = 0.55
EDGE = 0.18  # a box ends where the shadow falls below this share of its peak
BRIDGED = {"ILD": 8.0, "Pulmonary fibrosis": 8.0, "Infiltration": 8.0}  # mm of gap that still count as one lesion
BRIDGED_OTHER = 2.0
# mm that a box may leave the lung field: fluid fills its lower corner, thick pleura lies on its border.
BEYOND_FIELD = {"Pleural effusion": 25.0, "Pleural thickening": 14.0}
BEYOND_FIELD_OTHER = 5.0
TRIES = 6  # places that are tried for a lesion until one is found where it can be seen


@dataclass
class Film:
    """A simulated film and the truth about it.

    Attributes:
        pixels: uint16 (size, size), 12 bits, dense tissue bright.
        findings: One dict per box: class_name, x_min, y_min, x_max, y_max (whole pixels of the film, origin at the top
            left), side ("left", "right", "midline": the patient's, whose left is the right of the image), zone
            ("upper", "mid", "lower"), extent (0 small to 1 large; a nodule's diameter and the growth of heart and
            arch in mm), kind (the lesion's finer type, or ""). Empty on a normal film. Sorted by class id and box.
        measures: cardiothoracic_ratio, arch_width_mm, pixel_mm (spacing at the detector).
        hidden: Findings that were placed but that nobody could see; not labelled.
    """

    pixels: np.ndarray
    findings: list[dict] = field(default_factory=list)
    measures: dict = field(default_factory=dict)
    hidden: list[str] = field(default_factory=list)


def simulate(
    anatomy: Anatomy,
    findings: list[str],
    seed: list[int],
    size: int = 320,
    n_grid: int | None = None,
    breasts: bool = False,
    vary: bool = True,
    visit: int = 0,
) -> Film:
    """Simulate one film.

    Args:
        anatomy: The body.
        findings: Names from `vocabulary.FINDINGS` to put in. Heart and aorta are labelled by measurement, the
            others where their shadow can be seen on the film.
        seed: Integers. Geometry, exposure and each finding draw from generators of their own, so that the same seed
            with and without a finding differs in nothing but that finding.
        size: Side of the film in pixels.
        n_grid: Detector samples per side; default 0.6 of the size, since the body holds no detail below 1.5 mm.
        breasts: Add the shadow of breasts.
        vary: False gives a plain patient and exposure.
        visit: Another number is another day: the same body and the same lesions in another pose and exposure.

    Raises:
        ValueError: A finding cannot be simulated.
    """
    n_grid = n_grid or max(48, int(0.6 * size))
    pose, exposure = draw_day(seed, visit, vary)
    geometry = Geometry(anatomy, Shape.draw(np.random.default_rng([*seed, 0]), vary), pose, n_grid)
    soft, bone = geometry.project(anatomy.projected)
    placed = place_findings(geometry, findings, seed, size, soft)
    pixels = expose(soft, bone, size, exposure, np.random.default_rng([*seed, 5, visit]), breasts)
    return Film(pixels, *placed)


def place_findings(
    geometry: Geometry,
    findings: list[str],
    seed: list[int],
    size: int,
    shadows: np.ndarray,
    smaller: float = 0.0,
    heart_limit: float = CARDIOTHORACIC_LIMIT,
    any_build: bool = False,
) -> tuple[list[dict], dict, list[str]]:
    """Put findings into a body that stands in the beam, and add their shadows to its projection.

    Args:
        geometry: The body in the beam.
        findings: Names from `vocabulary.FINDINGS`.
        seed: Integers; each finding draws from a generator of its own.
        size: Side of the film that the boxes are for, pixels.
        shadows: float32 (n_grid, n_grid), mm of water; changed in place.
        smaller: By which share the smallest lesions are smaller than the cohort's, 0 to 1.
        heart_limit: Cardiothoracic ratio from which the heart counts as large.
        any_build: Bodies may be much wider than the CT's, and their arches with them: a wide arch is labelled only
            where it was grown.

    Returns:
        findings, measures and hidden of a `Film`.

    Raises:
        ValueError: A finding cannot be simulated.
    """
    unknown = set(findings) - set(FINDINGS)
    if unknown:
        raise ValueError(f"cannot simulate {', '.join(sorted(unknown))}; expected names of vocabulary.FINDINGS")
    anatomy = geometry.anatomy
    body = anatomy.soft.copy()  # the body with the lesions so far
    to_film = size / geometry.n_grid
    boxes: list[dict] = []
    hidden: list[str] = []

    def put(lesion: lesions.Lesion, shadow: PartialProjection | None) -> None:
        body[lesion.slices] += lesion.change
        if shadow is not None:
            shadow.add_to(shadows)

    growth = np.random.default_rng([*seed, 1])
    heart_growth = _either(growth, HEART_GROWTH, LARGE_HEART_GROWTH, "Cardiomegaly" in findings)
    arch_growth = _either(growth, ARCH_GROWTH, LARGE_ARCH_GROWTH, "Aortic enlargement" in findings)
    heart = lesions.enlarged_heart(anatomy, body, heart_growth)
    shadow, outline = geometry.project_parts([heart.change, heart.outline], heart.slices)
    put(heart, shadow)
    heart_box = _bounds(outline, 10.0)
    arch = lesions.enlarged_arch(anatomy, body, arch_growth)
    shadow, outline = geometry.project_parts([arch.change, arch.outline], arch.slices)
    put(arch, shadow)
    arch_box = _bounds(outline, 8.0)
    ratio = (heart_box[2] - heart_box[0]) / _chest_width(geometry)
    arch_width = (arch_box[2] - arch_box[0]) * geometry.pixel
    if ratio > heart_limit:
        boxes.append(_row(heart, heart_box, "lower", to_film, size))
    if arch_width > ARCH_LIMIT and (not any_build or "Aortic enlargement" in findings):
        boxes.append(_row(arch, arch_box, "upper", to_film, size))

    lung_field = geometry.front_view(anatomy.lung_field)
    for name in (name for name in lesions.MAKERS if name in findings):
        rng = np.random.default_rng([*seed, 2, FINDINGS.index(name)])
        for _ in range(TRIES):
            made = []
            for lesion in lesions.MAKERS[name](anatomy, body, rng, smaller):
                if "Pneumothorax" in findings and name not in ("Pneumothorax", "Pleural effusion"):
                    lesion.change *= body[lesion.slices] > 0.03  # only fluid can lie in the free air
                made.append((lesion, *_look(geometry, lesion, lung_field)))
            if any(box is not None for _, _, box in made):
                break
        for lesion, shadow, box in made:
            put(lesion, shadow)
            if box is None:
                hidden.append(name)
            else:
                zone = anatomy.lung_zone(_middle_height(lesion), lesion.side)
                boxes.append(_row(lesion, box, zone, to_film, size))

    boxes = sorted(_merge_same(boxes), key=lambda b: (FINDINGS.index(b["class_name"]), b["x_min"], b["y_min"]))
    measures = {
        "cardiothoracic_ratio": round(float(ratio), 4),
        "arch_width_mm": round(float(arch_width), 2),
        "pixel_mm": round(geometry.fov / size, 4),
    }
    return boxes, measures, hidden


def draw_day(seed: list[int], visit: int = 0, vary: bool = True) -> tuple[Pose, Exposure]:
    """Draw pose and exposure of one visit: all that shapes a film besides the body and its findings, on which neither
    depends."""
    return (
        Pose.draw(np.random.default_rng([*seed, 3, visit]), vary),
        Exposure.draw(np.random.default_rng([*seed, 4, visit]), vary),
    )


def _either(rng: np.random.Generator, usual: tuple[float, float], large: tuple[float, float], is_large: bool) -> float:
    """One draw, scaled into one of two ranges: the number of draws does not depend on the finding."""
    low, high = large if is_large else usual
    return low + (high - low) * rng.random()


def _look(geometry: Geometry, lesion: lesions.Lesion, lung_field: np.ndarray):
    """Project a lesion: its shadow and its box in detector samples (None where a reader could not see it)."""
    volumes = [lesion.change] if lesion.outline is None else [lesion.change, lesion.outline]
    shadows = geometry.project_parts(volumes, lesion.slices)
    if shadows is None:
        return None, None
    shadow, seen = shadows[0], shadows[-1]
    values = seen.values
    rows, columns = values.shape
    window = lung_field[seen.row : seen.row + rows, seen.column : seen.column + columns] > 0.3
    beyond = BEYOND_FIELD.get(lesion.finding, BEYOND_FIELD_OTHER)
    window = ndimage.binary_dilation(window, iterations=max(1, round(beyond / geometry.pixel)))
    visible = (values > max(EDGE * values.max(), 0.5)) & window
    if visible.sum() * geometry.pixel**2 < LEAST_AREA or values[visible].max() < LEAST_SHADOW:
        return shadow, None
    if values[visible].sum() < LEAST_SHARE.get(lesion.finding, LEAST_SHARE_OTHER) * values.sum():
        return shadow, None
    bridge = max(1, round(BRIDGED.get(lesion.finding, BRIDGED_OTHER) / geometry.pixel))
    pieces, _ = ndimage.label(ndimage.binary_dilation(visible, iterations=bridge))
    counts = np.bincount(pieces[visible])
    # A lesion that heart or bone cuts in two is still one: keep every piece at least a quarter of the largest.
    kept = np.isin(pieces, np.flatnonzero(counts >= 0.25 * counts.max())) & visible
    return shadow, _bounds(PartialProjection(kept.astype(np.float32), seen.row, seen.column), 0.5)


def _bounds(projection: PartialProjection, limit: float) -> tuple[int, int, int, int]:
    """x_min, y_min, x_max, y_max around the samples above `limit`, in detector samples, outer edges."""
    y, x = np.nonzero(projection.values > limit)
    column, row = projection.column, projection.row
    return x.min() + column, y.min() + row, x.max() + 1 + column, y.max() + 1 + row


def _chest_width(geometry: Geometry) -> float:
    """Greatest inner width of the chest, outer border to outer border of the lungs, in detector samples."""
    lungs = geometry.front_view(geometry.anatomy.lung_silhouette) > 0.5
    columns = np.arange(lungs.shape[1])
    last, first = np.where(lungs, columns, -1).max(1), np.where(lungs, columns, lungs.shape[1]).min(1)
    return float((last - first + 1).max())


def _middle_height(lesion: lesions.Lesion) -> float:
    """Height of the centre of what is outlined, in voxels from the top of the volume."""
    weight = np.abs(lesion.change if lesion.outline is None else lesion.outline).sum((0, 2))
    return float(lesion.slices[1].start + (weight * np.arange(len(weight))).sum() / weight.sum())


def _row(lesion: lesions.Lesion, box, zone: str, to_film: float, size: int) -> dict:
    """A box in detector samples as a row of the truth: whole pixels of the film, rounded outwards, inside the film."""
    x_min, y_min = (max(0, int(np.floor(edge * to_film))) for edge in box[:2])
    x_max, y_max = (min(size, int(np.ceil(edge * to_film))) for edge in box[2:])
    place = dict(zip(BOX, (x_min, y_min, x_max, y_max), strict=True))
    more = {"side": lesion.side, "zone": zone, "extent": round(lesion.extent, 3), "kind": lesion.kind}
    return {"class_name": lesion.finding, **place, **more}


def _merge_same(boxes: list[dict]) -> list[dict]:
    """Boxes of one finding that overlap by more than half of the smaller one become one: a reader would draw one."""
    merged: list[dict] = []
    for box in boxes:
        for other in merged:
            if (other["class_name"], other["side"]) != (box["class_name"], box["side"]):
                continue
            width = min(box["x_max"], other["x_max"]) - max(box["x_min"], other["x_min"])
            height = min(box["y_max"], other["y_max"]) - max(box["y_min"], other["y_min"])
            smaller = min((b["x_max"] - b["x_min"]) * (b["y_max"] - b["y_min"]) for b in (box, other))
            if width > 0 and height > 0 and width * height > 0.5 * smaller:
                for corner, pick in (("x_min", min), ("y_min", min), ("x_max", max), ("y_max", max), ("extent", max)):
                    other[corner] = pick(other[corner], box[corner])
                break
        else:
            merged.append(dict(box))
    return merged
