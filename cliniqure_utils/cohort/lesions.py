"""The findings as changes of density inside the body, in three dimensions, before any projection.

Every maker takes the anatomy, the current soft tissue (earlier lesions included, so that two lesions in one place do
not add up to more than solid tissue), a random generator, and by which share the smallest and faintest lesions may lie
below the cohort's (0 in the cohort). It returns one Lesion per thing that a reader would outline. Lengths are in mm,
densities relative to water. Appearances follow the definitions of the Fleischner Society's glossary (Hansell et al.
2008, doi 10.1148/radiol.2462070712); shapes and sizes are ours, chosen so that a finding can be seen clearly on a small
film.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from cliniqure_utils.cohort.anatomy import Anatomy
from cliniqure_utils.cohort.organs import AORTA, HEART, LOBES
from cliniqure_utils.cohort.projection import sigmoid, smooth_noise

SOLID = 1.05  # density of tumour, fluid or airless lung


@dataclass
class Lesion:
    """One lesion: a change of density in part of the body, and what a reader would outline of it.

    Attributes:
        finding: One of `vocabulary.FINDINGS`.
        slices: The part of the volume it lies in.
        change: float32 on `slices`, density added (negative: taken away).
        outline: float32 on `slices`: what a reader outlines, where that is not simply the changed tissue.
        side: "left", "right" or "midline", as the patient's side.
        extent: Size: mm for a nodule (diameter), the heart and the aorta (growth); 0 to 1, small to large, for others.
        kind: Finer type, where a finding has several appearances: of "Other lesion" the name in PhysioNet's
            finer vocabulary ("Lung cavity", "Lung cyst"), of pleural thickening "apical" or "lateral".
    """

    finding: str
    slices: tuple[slice, ...]
    change: np.ndarray
    outline: np.ndarray | None
    side: str
    extent: float
    kind: str = ""


def nodule(anatomy: Anatomy, soft: np.ndarray, rng: np.random.Generator, smaller: float = 0.0) -> list[Lesion]:
    """One to three round, solid nodules or masses (above 30 mm in diameter)."""
    lesions = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        radius = rng.uniform(11 * (1 - smaller), 15) if rng.random() < 0.55 else rng.uniform(15, 24)
        place = _place(anatomy, rng, anatomy.point_depth > max(6.0, 0.5 * radius))
        stretch = rng.uniform(0.88, 1.12, 3)
        slices, distance = _ellipsoid(anatomy, place, radius * stretch, reach=1.4)
        distance = distance + 0.11 * smooth_noise(distance.shape, 7.5 / anatomy.spacing, rng, 2)
        edge = sigmoid((1 - distance) * 14) * (soft[slices] < 0.9)
        lesions.append(
            Lesion("Nodule/Mass", slices, (1.5 - soft[slices]) * edge, None, _side(anatomy, place), 2 * radius)
        )
    return lesions


def consolidation(anatomy: Anatomy, soft: np.ndarray, rng: np.random.Generator, smaller: float = 0.0) -> list[Lesion]:
    """Dense airspace filling that stops at the border of its lobe, with air still in the larger bronchi."""
    place, lobe = _lobe_place(anatomy, rng, 8)
    radii = rng.uniform(36 * (1 - smaller), 56, 3) * [1.3, 1, 1]
    slices, distance = _ellipsoid(anatomy, place, radii, reach=1.4)
    ragged = smooth_noise(distance.shape, 21 / anatomy.spacing, rng, 3)
    inside = ndimage.gaussian_filter((anatomy.label[slices] == lobe).astype(np.float32), 1.2)
    weight = sigmoid((1 - distance + 0.25 * ragged) * 8) * inside
    bronchi = np.exp(-((smooth_noise(distance.shape, 12 / anatomy.spacing, rng) / 0.12) ** 2))
    amplitude = rng.uniform(0.95 * (1 - smaller / 2), 1.1)
    change = amplitude * np.clip(SOLID - soft[slices], 0, 1) * weight * (1 - 0.5 * bronchi)
    return [Lesion("Consolidation", slices, change, None, _side(anatomy, place), _share(radii[1:].mean(), 36, 56))]


def infiltration(anatomy: Anatomy, soft: np.ndarray, rng: np.random.Generator, smaller: float = 0.0) -> list[Lesion]:
    """Patchy, ill-defined densities over a large part of one lung, lobes ignored."""
    place, _ = _lobe_place(anatomy, rng, 8)
    radii = rng.uniform(42 * (1 - smaller), 66, 3)
    slices, distance = _ellipsoid(anatomy, place, radii, reach=1.4)
    side = _side(anatomy, place)
    patches = np.clip(1.6 * smooth_noise(distance.shape, 11 / anatomy.spacing, rng, 2) - 0.35, 0, 1.3)
    weight = sigmoid((1 - distance) * 6) * patches * anatomy.lung(side, slices)
    change = rng.uniform(0.6 * (1 - smaller / 2), 0.85) * np.clip(SOLID - soft[slices], 0, 1) * weight
    return [Lesion("Infiltration", slices, change, None, side, _share(radii[1:].mean(), 42, 66))]


def opacity(anatomy: Anatomy, soft: np.ndarray, rng: np.random.Generator, smaller: float = 0.0) -> list[Lesion]:
    """A homogeneous haze without a sharp border, through which vessels are still seen."""
    place, _ = _lobe_place(anatomy, rng, 12)
    radii = rng.uniform(36 * (1 - smaller), 56, 3) * [1.3, 1, 1]
    slices, distance = _ellipsoid(anatomy, place, radii, reach=1.5)
    side = _side(anatomy, place)
    weight = np.exp(-((distance / 0.85) ** 4)) * anatomy.lung(side, slices)
    change = rng.uniform(0.58 * (1 - smaller / 2), 0.76) * np.clip(SOLID - soft[slices], 0, 1) * weight
    return [Lesion("Lung Opacity", slices, change, None, side, _share(radii[1:].mean(), 36, 56))]


def atelectasis(anatomy: Anatomy, soft: np.ndarray, rng: np.random.Generator, smaller: float = 0.0) -> list[Lesion]:
    """One or two flat, nearly horizontal bands of airless lung (plate-like atelectasis)."""
    place, _ = _lobe_place(anatomy, rng, 10, lower=True)
    side = _side(anatomy, place)
    radii = np.array([48.0, 34.0, 46.0]) * rng.uniform(0.8 * (1 - smaller), 1.15)
    slices, distance = _ellipsoid(anatomy, place, radii, reach=1.1)
    normal = np.array([rng.normal(0, 0.16), 1.0, rng.normal(0, 0.35)])  # seen edge-on from the front
    normal /= np.linalg.norm(normal)
    grids = np.ogrid[slices]
    height = sum((g - c) * n for g, c, n in zip(grids, place, normal, strict=True)) * anatomy.spacing
    height = height + 2.2 * smooth_noise(distance.shape, 24 / anatomy.spacing, rng)
    thickness = rng.uniform(5.2 * (1 - smaller), 8.5)
    bands = np.abs(height)
    if rng.random() < 0.5:
        bands = np.minimum(bands, np.abs(height - rng.uniform(16, 24)))
    taper = thickness * (1.05 - np.clip(distance, 0, 1))
    weight = sigmoid((taper - bands) / 0.9) * sigmoid((1 - distance) * 10) * anatomy.lung(side, slices)
    change = np.clip(SOLID - soft[slices], 0, 1.1) * weight
    return [Lesion("Atelectasis", slices, change, None, side, _share(thickness, 5.2, 8.5))]


def effusion(anatomy: Anatomy, soft: np.ndarray, rng: np.random.Generator, smaller: float = 0.0) -> list[Lesion]:
    """Fluid at the bottom of one or both pleural spaces, with a surface that climbs along the chest wall."""
    lesions = []
    for side in (["left"], ["right"], ["left", "right"])[rng.choice(3, p=[0.38, 0.38, 0.24])]:
        slices = anatomy.lung_box[side]
        lung = anatomy.lung(side, slices)
        rows = np.flatnonzero(lung.any((0, 2)))
        extent = rng.uniform(-smaller, 1)
        level = rows[-1] - (56 + 80 * extent) / anatomy.spacing
        climb = 30 / anatomy.spacing * np.exp(-anatomy.mm("wall", slices) / 9)
        height = np.arange(lung.shape[1], dtype=np.float32)[None, :, None]
        filled = sigmoid((height - (level - climb)) * (anatomy.spacing / 1.8))
        change = np.clip(SOLID - soft[slices], 0, 1.1) * _soft_mask(lung) * filled
        lesions.append(Lesion("Pleural effusion", slices, change, None, side, max(extent, 0.0)))
    return lesions


def pneumothorax(anatomy: Anatomy, soft: np.ndarray, rng: np.random.Generator, smaller: float = 0.0) -> list[Lesion]:
    """Air between chest wall and lung, widest at the apex; a thin line marks the edge of the collapsed lung."""
    side = str(rng.choice(["left", "right"]))
    slices = anatomy.lung_box[side]
    lung = anatomy.lung(side, slices)
    extent = rng.uniform(-smaller, 1)
    widest, fall = 28 + 34 * extent, rng.uniform(0.85, 1.4)
    down = np.linspace(0, 1, lung.shape[1], dtype=np.float32)[None, :, None]
    width = widest * np.clip(1 - fall * down, 0, 1) + 4 + 2 * smooth_noise(lung.shape, 45 / anatomy.spacing, rng)
    wall = anatomy.mm("wall", slices)
    air = lung & (wall < width)
    edge = np.exp(-(((wall - width - 1.2) / 1.1) ** 2)) * lung
    part = soft[slices]
    change = np.where(air, -part * np.float32(0.97), 0.09 * (lung & ~air)) + edge * 0.85 * np.clip(1 - part, 0, 1)
    outline = air.astype(np.float32) * 0.2
    return [Lesion("Pneumothorax", slices, change.astype(np.float32), outline, side, max(extent, 0.0))]


def fibrosis(anatomy: Anatomy, soft: np.ndarray, rng: np.random.Generator, smaller: float = 0.0) -> list[Lesion]:
    """Coarse strands with some dense scarring, in the upper or lower part of one or both lungs."""
    sides = (["left"], ["right"], ["left", "right"])[rng.integers(3)]
    upper = rng.random() < 0.6
    lesions = []
    for side in sides:
        slices = anatomy.lung_box[side]
        lung = anatomy.lung(side, slices)
        down = np.linspace(0, 1, lung.shape[1], dtype=np.float32)[None, :, None]
        region = sigmoid((0.40 - down) * 18) if upper else sigmoid((down - 0.45) * 18)
        rows = slice(0, int(0.62 * lung.shape[1])) if upper else slice(int(0.25 * lung.shape[1]), lung.shape[1])
        slices = (slices[0], slice(slices[1].start + rows.start, slices[1].start + rows.stop), slices[2])
        lung, region = lung[:, rows], region[:, rows]
        strands = np.exp(-((smooth_noise(lung.shape, rng.uniform(13, 17) / anatomy.spacing, rng) / 0.28) ** 2))
        uneven = np.clip(0.75 + 0.6 * smooth_noise(lung.shape, 38 / anatomy.spacing, rng), 0, 1.4)
        amplitude = rng.uniform(0.7 * (1 - smaller / 2), 0.95)
        change = amplitude * np.clip(SOLID - soft[slices], 0, 1) * np.clip(strands * region * uneven, 0, 1.1) * lung
        lesions.append(Lesion("Pulmonary fibrosis", slices, change, None, side, _share(amplitude, 0.7, 0.95)))
    return lesions


def interstitial(anatomy: Anatomy, soft: np.ndarray, rng: np.random.Generator, smaller: float = 0.0) -> list[Lesion]:
    """A fine net over both lungs, denser towards the surface (interstitial lung disease)."""
    mesh, amplitude = rng.uniform(6.5, 9.5), rng.uniform(0.6 * (1 - smaller / 2), 0.9)
    lesions = []
    for side in ("left", "right"):
        slices = anatomy.lung_box[side]
        lung = anatomy.lung(side, slices)
        lines = np.exp(-((smooth_noise(lung.shape, mesh / anatomy.spacing, rng) / 0.5) ** 2))
        surface = 0.35 + 0.65 * np.exp(-anatomy.mm("depth", slices) / 18)
        uneven = np.clip(0.75 + 0.45 * smooth_noise(lung.shape, 38 / anatomy.spacing, rng), 0, 1.3)
        change = amplitude * np.clip(SOLID - soft[slices], 0, 1) * lines * surface * uneven * lung
        lesions.append(Lesion("ILD", slices, change, None, side, _share(amplitude, 0.6, 0.9)))
    return lesions


def calcification(anatomy: Anatomy, soft: np.ndarray, rng: np.random.Generator, smaller: float = 0.0) -> list[Lesion]:
    """A group of small, sharp, very dense grains, as healed granulomas and lymph nodes leave them."""
    place = _place(anatomy, rng, anatomy.point_depth > 8)
    reach = rng.uniform(11 * (1 - smaller), 18)
    slices = anatomy.box_around(place, reach + 8)
    grids = np.ogrid[slices]
    change = np.zeros([s.stop - s.start for s in slices], np.float32)
    for _ in range(rng.integers(4, 9)):
        centre = place + np.clip(rng.standard_normal(3) * 0.55, -1, 1) * reach / anatomy.spacing
        radius, density = rng.uniform(3.0, 5.6), rng.uniform(3.4, 4.8)  # calcium absorbs far more than water
        distance = np.sqrt(sum((g - c) ** 2 for g, c in zip(grids, centre, strict=True))) * anatomy.spacing
        change = np.maximum(change, density * np.clip((radius - distance) / anatomy.spacing + 0.5, 0, 1))
    return [
        Lesion("Calcification", slices, change.astype(np.float32), None, _side(anatomy, place), _share(reach, 11, 18))
    ]


def other_lesion(anatomy: Anatomy, soft: np.ndarray, rng: np.random.Generator, smaller: float = 0.0) -> list[Lesion]:
    """A ring: a cavity with a thick wall and often a level of fluid, or a cyst, thin-walled and blacker than lung."""
    is_cavity = rng.random() < 0.6
    low, high = (19, 30) if is_cavity else (24, 36)
    radius = rng.uniform(low * (1 - smaller), high)
    thickness = rng.uniform(5, 8) if is_cavity else 3.4
    place = _place(anatomy, rng, anatomy.point_depth > 0.55 * radius)
    side = _side(anatomy, place)
    slices, distance = _ellipsoid(anatomy, place, radius * rng.uniform(0.9, 1.1, 3), reach=1.4)
    distance = radius * (
        distance + (0.06 if is_cavity else 0.03) * smooth_noise(distance.shape, 18 / anatomy.spacing, rng)
    )
    near = ndimage.binary_dilation(anatomy.lung(side, slices), iterations=max(1, int(3 / anatomy.spacing)))
    near = near & (soft[slices] < 0.95)
    part = soft[slices]
    hollow = sigmoid((radius - thickness - distance) / 0.8)
    ball = sigmoid((radius - distance) / 0.8)
    filled = hollow * 0
    if is_cavity and rng.random() < 0.7:  # a horizontal level of fluid
        down = (np.arange(part.shape[1]) + slices[1].start - place[1])[None, :, None] * anatomy.spacing
        filled = hollow * sigmoid((down - rng.uniform(0.0, 0.45) * radius) / 0.8)
    dense = np.clip(ball - hollow + filled, 0, 1)
    change = (SOLID - part) * dense - 0.97 * part * np.clip(hollow - filled, 0, 1)
    kind = "Lung cavity" if is_cavity else "Lung cyst"
    outline = (0.2 * ball * near).astype(np.float32)
    extent = _share(radius, 19, 34)
    return [Lesion("Other lesion", slices, (change * near).astype(np.float32), outline, side, extent, kind)]


def thickening(anatomy: Anatomy, soft: np.ndarray, rng: np.random.Generator, smaller: float = 0.0) -> list[Lesion]:
    """A cap of dense pleura over one or both apices, or a band along the side of the chest wall."""
    is_cap = rng.random() < 0.6
    both = rng.random() < 0.35
    first = str(rng.choice(["left", "right"]))
    lesions = []
    for side in ("left", "right") if is_cap and both else (first,):
        slices = anatomy.lung_box[side]
        extent = rng.uniform(-smaller, 1)
        lung = anatomy.lung(side, slices)
        rows = np.flatnonzero(lung.any((0, 2)))
        columns = np.flatnonzero(lung.any((0, 1)))
        down = (np.arange(lung.shape[1], dtype=np.float32) - rows[0])[None, :, None] * anatomy.spacing
        if is_cap:
            thickness = 8 + 7 * extent
            region = sigmoid((24 + 14 * extent - down) / 3)
        else:
            thickness = 8 + 6 * extent
            long = (rows[-1] - rows[0]) * anatomy.spacing
            middle, half = rng.uniform(0.35, 0.68) * long, 32 + 26 * extent
            outwards = (np.arange(lung.shape[2], dtype=np.float32) - columns[0]) / max(1, columns[-1] - columns[0])
            outwards = outwards if side == "left" else 1 - outwards
            region = sigmoid((half - np.abs(down - middle)) / 4) * sigmoid((outwards - 0.72) * 30)[None, None]
        thickness = thickness * (1 + 0.22 * smooth_noise(lung.shape, 18 / anatomy.spacing, rng))
        layer = sigmoid((thickness - anatomy.mm("wall", slices)) / 0.9) * region * _soft_mask(lung)
        change = np.clip(SOLID + 0.1 - soft[slices], 0, 1.1) * layer
        kind = "apical" if is_cap else "lateral"
        lesions.append(
            Lesion("Pleural thickening", slices, change.astype(np.float32), None, side, max(extent, 0.0), kind)
        )
    return lesions


def enlarged_heart(anatomy: Anatomy, soft: np.ndarray, growth: float) -> Lesion:
    """The heart grown by `growth` mm towards the left and half as much towards the right.

    Every patient has some growth; whether that is cardiomegaly is decided by measuring the projected heart.
    """
    around = anatomy.organ_box[HEART]
    margin = int((growth + 6) / anatomy.spacing)
    slices = tuple(
        slice(max(0, s.start - margin), min(n, s.stop + margin)) for s, n in zip(around, anatomy.shape, strict=True)
    )
    heart = anatomy.label[slices] == HEART
    across = np.arange(heart.shape[2])
    middle = float((heart.sum((0, 1)) * across).sum() / heart.sum())
    limit = growth * (0.55 + 0.45 * sigmoid((across - middle) * anatomy.spacing / 6))[None, None]
    distance = anatomy.mm("heart_distance", slices)
    rim = sigmoid((limit - distance) / 1.0) * ((soft[slices] < 0.85) & ~heart)
    change = np.clip(SOLID - soft[slices], 0, 1.1) * rim
    outline = (heart | (rim > 0.5)).astype(np.float32)
    return Lesion("Cardiomegaly", slices, change.astype(np.float32), outline, "midline", growth)


def enlarged_arch(anatomy: Anatomy, soft: np.ndarray, growth: float) -> Lesion:
    """The upper aorta thickened by `growth` mm all round; measured after projection like the heart."""
    around = anatomy.organ_box[AORTA]
    margin = int((growth + 6) / anatomy.spacing)
    arch_rows = slice(around[1].start, min(around[1].stop, around[1].start + int(40 / anatomy.spacing)))
    changed_rows = slice(around[1].start, min(around[1].stop, around[1].start + int(85 / anatomy.spacing)))
    slices = tuple(
        slice(max(0, s.start - margin), min(n, s.stop + margin))
        for s, n in zip((around[0], changed_rows, around[2]), anatomy.shape, strict=True)
    )
    aorta = anatomy.label[slices] == AORTA
    distance = anatomy.mm("aorta_distance", slices)
    rim = sigmoid((growth - distance) / 0.8) * ((soft[slices] < 0.85) & ~aorta)
    change = np.clip(SOLID - soft[slices], 0, 1.1) * rim
    outline = (aorta | (rim > 0.5)).astype(np.float32)
    outline[:, arch_rows.stop - slices[1].start :] = 0  # readers box the arch, not the whole vessel
    return Lesion("Aortic enlargement", slices, change.astype(np.float32), outline, "midline", growth)


# Lesions of the lungs and pleura, in the order in which they are put in: air first, fluid last, so that later ones fill
# what earlier ones left. Heart and aorta are grown and measured for every patient.
MAKERS: dict[str, Callable[[Anatomy, np.ndarray, np.random.Generator, float], list[Lesion]]] = {
    "Pneumothorax": pneumothorax,
    "ILD": interstitial,
    "Pulmonary fibrosis": fibrosis,
    "Other lesion": other_lesion,
    "Lung Opacity": opacity,
    "Infiltration": infiltration,
    "Consolidation": consolidation,
    "Atelectasis": atelectasis,
    "Nodule/Mass": nodule,
    "Calcification": calcification,
    "Pleural thickening": thickening,
    "Pleural effusion": effusion,
}


def _place(anatomy: Anatomy, rng: np.random.Generator, allowed: np.ndarray) -> np.ndarray:
    """A random allowed place inside the lungs, (depth, height, width) in voxels."""
    candidates = np.flatnonzero(allowed)
    if len(candidates) == 0:
        raise ValueError(f"the {anatomy.source} anatomy has no place in its lungs for this lesion")
    return anatomy.points[candidates[rng.integers(len(candidates))]].astype(float)


def _lobe_place(
    anatomy: Anatomy, rng: np.random.Generator, min_depth: float, lower: bool = False
) -> tuple[np.ndarray, int]:
    """A place at least `min_depth` mm inside a random lobe, and the lobe's label. `lower` leaves out the apices."""
    deep = anatomy.point_depth > min_depth
    if lower:
        rows = np.flatnonzero(anatomy.lung_field.any(1))
        deep &= anatomy.points[:, 1] > rows[0] + 0.35 * (rows[-1] - rows[0])
    present = [value for value in LOBES.values() if (deep & (anatomy.point_label == value)).any()]
    lobe = int(rng.choice(present))
    return _place(anatomy, rng, deep & (anatomy.point_label == lobe)), lobe


def _ellipsoid(anatomy: Anatomy, place, radii_mm, reach: float) -> tuple[tuple[slice, ...], np.ndarray]:
    """Slices around an ellipsoid and the distance from its centre there (1 on its surface), float32."""
    slices = anatomy.box_around(place, np.asarray(radii_mm) * reach)
    radii = np.broadcast_to(radii_mm, 3) / anatomy.spacing
    squares = [((g - c) / r).astype(np.float32) ** 2 for g, c, r in zip(np.ogrid[slices], place, radii, strict=True)]
    return slices, np.sqrt(squares[0] + squares[1] + squares[2])


def _share(value: float, low: float, high: float) -> float:
    """Where a value lies between two limits, 0 to 1."""
    return float(np.clip((value - low) / (high - low), 0, 1))


def _side(anatomy: Anatomy, place: np.ndarray) -> str:
    label = anatomy.label[tuple(place.astype(int))]
    return "left" if label in (10, 11) else "right"


def _soft_mask(mask: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(mask.astype(np.float32), 1.0, truncate=2)
