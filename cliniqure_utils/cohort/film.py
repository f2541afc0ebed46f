"""One simulated patient: geometry, findings, film, and the true boxes."""

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from cliniqure_utils.cohort import lesions as shapes
from cliniqure_utils.cohort.anatomy import Anatomy
from cliniqure_utils.cohort.projection import Geometry, PartialProjection, expose

CARDIOTHORACIC_LIMIT = 0.53  # heart width over chest width; on this body a healthy heart stays below it
ARCH_LIMIT = 65.0  # mm; projected width of arch and rim on this body, healthy ones stay below it
LEAST_SHADOW = 2.0  # mm of water: a fainter shadow is not visible and not labelled


@dataclass
class Film:
    """Attributes: pixels (uint16, 12 bits, dense tissue bright); findings: one dict per box (class_name, x_min, y_min,
    x_max, y_max in pixels, side, zone); measures: cardiothoracic ratio and arch width in mm."""

    pixels: np.ndarray
    findings: list[dict] = field(default_factory=list)
    measures: dict = field(default_factory=dict)


def simulate(
    anatomy: Anatomy,
    findings: list[str],
    seed: list[int],
    size: int = 320,
    n_grid: int | None = None,
    breasts: bool = False,
    vary: bool = True,
) -> Film:
    """Simulate one film.

    Args:
        anatomy: The body.
        findings: Names of `lesions.LESIONS` to put in. The heart and the aorta are labelled by measurement, the others
            where their shadow is visible on the film.
        seed: Integers; geometry, lesions and exposure draw from generators of their own, so that what a film looks like
            otherwise never depends on its findings.
        size: Side of the film in pixels.
        n_grid: Detector samples per side; default 0.6 of the size.
        breasts: Add the shadow of breasts.
        vary: False gives a plain patient and exposure.
    """
    import torch

    n_grid = n_grid or max(48, int(0.6 * size))
    geometry = Geometry(anatomy, np.random.default_rng([*seed, 0]), n_grid, vary)
    rng = np.random.default_rng([*seed, 1])
    volumes = torch.from_numpy(np.stack([anatomy.soft, anatomy.bone]))[None]
    soft, bone = geometry.project(volumes)
    body = anatomy.soft.copy() if findings else anatomy.soft

    boxes: list[dict] = []
    heart_rim = arch_rim = None
    for name in sorted(findings):
        made = shapes.LESIONS[name](anatomy, body, rng)
        shadows = []
        for lesion in made:
            delta = np.maximum(lesion.delta.astype(np.float32), -body[lesion.slices])
            body[lesion.slices] += delta
            stride = 2 if delta.shape[0] * anatomy.spacing > 70 else 1
            shadow = geometry.project_part(delta, lesion.slices, stride)
            if shadow is None:
                continue
            shadow.add_to(soft)
            if name == "Cardiomegaly":
                heart_rim = lesion
            elif name == "Aortic enlargement":
                arch_rim = lesion
            else:
                region = shadow
                if lesion.region is not None:
                    region = geometry.project_part(lesion.region, lesion.slices, 3)
                shadows.append((region, lesion))
        boxes += _visible_boxes(name, shadows, geometry, size)

    heart, ratio = _heart(anatomy, geometry, heart_rim)
    if ratio > CARDIOTHORACIC_LIMIT:
        boxes.append({"class_name": "Cardiomegaly", **_box(heart, size), "side": "midline", "zone": "mid"})
    arch, width = _arch(anatomy, geometry, arch_rim)
    if width > ARCH_LIMIT:
        boxes.append({"class_name": "Aortic enlargement", **_box(arch, size), "side": "midline", "zone": "upper"})

    pixels = expose(soft, bone, size, np.random.default_rng([*seed, 2]), breasts, vary)
    order = sorted(_merge_same(boxes), key=lambda box: (box["class_name"], box["x_min"], box["y_min"]))
    return Film(pixels, order, {"cardiothoracic_ratio": round(ratio, 4), "arch_width_mm": round(width, 2)})


def _visible_boxes(name: str, shadows: list, geometry: Geometry, size: int) -> list[dict]:
    boxes = []
    for region, lesion in shadows:
        if region is None:
            continue
        peak = float(region.values.max())
        if lesion.region is None and peak < LEAST_SHADOW or peak <= 0:
            continue
        mask = region.values > max(lesion.threshold * peak, 0.5 if lesion.region is None else 0)
        pieces, n = ndimage.label(ndimage.binary_dilation(mask))
        if n == 0:
            continue
        counts = np.bincount(pieces.ravel())
        counts[0] = 0
        # A lesion that bone or heart cuts in two is still one: keep every piece at least a quarter of the largest.
        kept = np.isin(pieces, np.flatnonzero(counts >= 0.25 * counts.max())) & mask
        full = _on_detector(PartialProjection(kept.astype(np.float32), region.row, region.column), geometry.n_grid)
        if not full.any():
            continue
        side, zone = _where(geometry.anatomy, lesion)
        boxes.append({"class_name": name, **_box(full, size), "side": side, "zone": zone})
    return boxes


def _on_detector(part: PartialProjection, n_grid: int) -> np.ndarray:
    full = np.zeros((n_grid, n_grid), np.float32)
    part.add_to(full)
    return full > 0


def _box(mask: np.ndarray, size: int) -> dict:
    """Box around a mask on the detector grid, in pixels of the film, cut at its border."""
    scale = size / mask.shape[0]
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return {
        "x_min": round(float(columns[0]) * scale, 1),
        "y_min": round(float(rows[0]) * scale, 1),
        "x_max": round(float(columns[-1] + 1) * scale, 1),
        "y_max": round(float(rows[-1] + 1) * scale, 1),
    }


def _where(anatomy: Anatomy, lesion: shapes.Lesion) -> tuple[str, str]:
    """Patient's side and zone of a lesion, from the centre of its mass."""
    mass = np.abs(lesion.delta) if lesion.region is None else lesion.region
    across = mass.sum((0, 1))
    down = mass.sum((0, 2))
    column = lesion.slices[2].start + float((across * np.arange(len(across))).sum() / across.sum())
    row = lesion.slices[1].start + float((down * np.arange(len(down))).sum() / down.sum())
    side = "left" if column > anatomy.shape[2] / 2 else "right"
    return side, anatomy.lung_zone(row, side)


def _heart(anatomy: Anatomy, geometry: Geometry, rim) -> tuple[np.ndarray, float]:
    """Heart shadow on the detector grid and the cardiothoracic ratio."""
    slices, heart, _ = shapes.heart_region(anatomy)
    region = heart.astype(np.float32) if rim is None else rim.region
    shadow = geometry.project_part(region, slices if rim is None else rim.slices, 3)
    mask = _on_detector(
        PartialProjection((shadow.values > 0.18 * shadow.values.max()).astype(np.float32), shadow.row, shadow.column),
        geometry.n_grid,
    )
    lungs = geometry.front_view(anatomy.lung_silhouette) > 0.5
    inside = np.flatnonzero(lungs.any(0))
    chest = inside[-1] - inside[0] + 1
    across = np.flatnonzero(mask.any(0))
    return mask, float(across[-1] - across[0] + 1) / float(chest)


def _arch(anatomy: Anatomy, geometry: Geometry, rim) -> tuple[np.ndarray, float]:
    """Shadow of the aortic arch on the detector grid and its width in mm in the body."""
    slices, arch, _ = shapes.arch_region(anatomy)
    if rim is None:
        height = np.arange(slices[1].start, slices[1].stop)[None, :, None]
        region = (arch & (height < slices[1].start + 70 / anatomy.spacing)).astype(np.float32)
    else:
        slices, region = rim.slices, rim.region
    shadow = geometry.project_part(region, slices, 3)
    mask = _on_detector(
        PartialProjection((shadow.values > 0.18 * shadow.values.max()).astype(np.float32), shadow.row, shadow.column),
        geometry.n_grid,
    )
    across = np.flatnonzero(mask.any(0))
    return mask, float(across[-1] - across[0] + 1) * geometry.pixel


def _merge_same(boxes: list[dict]) -> list[dict]:
    """Boxes of one finding that overlap by more than half of the smaller one become one: a reader would draw one."""
    merged: list[dict] = []
    for box in boxes:
        for other in merged:
            if other["class_name"] != box["class_name"]:
                continue
            width = min(box["x_max"], other["x_max"]) - max(box["x_min"], other["x_min"])
            height = min(box["y_max"], other["y_max"]) - max(box["y_min"], other["y_min"])
            smaller = min((b["x_max"] - b["x_min"]) * (b["y_max"] - b["y_min"]) for b in (box, other))
            if width > 0 and height > 0 and width * height > 0.5 * smaller:
                for corner, pick in (("x_min", min), ("y_min", min), ("x_max", max), ("y_max", max)):
                    other[corner] = pick(other[corner], box[corner])
                break
        else:
            merged.append(dict(box))
    return merged
