"""From a body to a film: the geometry of one exposure, the projection along its rays, and the detector's grey values.

A projection is linear, so the healthy body is projected once and each lesion adds the projection of its own density
change, computed only inside the lesion's part of the volume. The same small projection gives the lesion's box.

Lengths are in mm. Path lengths are in "mm of water": density relative to water, summed along a ray.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from cliniqure_utils.cohort.anatomy import Anatomy, average_depth
from cliniqure_utils.cohort.organs import HEART
from cliniqure_utils.vision.blur import wide_blur

SOURCE_DISTANCE = 1800.0  # mm from X-ray tube to detector, the usual distance of a standing chest film
AIR_GAP = 30.0  # mm between the body and the detector
STANDING = np.array([1.0, 1.12, 1.0])  # the CT was taken lying down; a standing chest is taller
WATER = 0.0192  # absorbed per mm of water at the mean energy of a 120 kVp chest beam
FULL_SCALE = 4095  # 12 bits
MIDDLE = 0.37  # steepest place of the tone curve: lungs come out dark grey, not black, so that shadows in them show


@dataclass
class PartialProjection:
    """A projection that covers only part of the detector.

    Attributes:
        values: float32 (rows, columns), mm of water.
        row, column: Where its upper left sample lies on the detector grid.
    """

    values: np.ndarray
    row: int
    column: int

    def add_to(self, image: np.ndarray) -> None:
        """Add the values to a full detector image, in place."""
        rows, columns = self.values.shape
        image[self.row : self.row + rows, self.column : self.column + columns] += self.values


@dataclass(frozen=True)
class Pose:
    """How one patient stands in front of the detector on one day.

    Attributes:
        pitch, yaw, roll: Bending forward, turning, leaning, in degrees.
        shift: mm to the side.
        fov: Side of the square film in mm at the detector.
        top_margin: mm of the volume above the upper edge of the film.
        breath: mm by which the diaphragm moves; negative: deeper breath.
        source: mm from X-ray tube to detector.
        tilt: mm by which the left half of the diaphragm moves more than the right.
        from_front: The beam enters at the chest and the detector lies at the back (anterior-posterior), as on portable
            films; else the other way round.
    """

    pitch: float
    yaw: float
    roll: float
    shift: float
    fov: float
    top_margin: float
    breath: float
    source: float = SOURCE_DISTANCE
    from_front: bool = False
    tilt: float = 0.0

    @classmethod
    def draw(cls, rng: np.random.Generator, vary: bool = True) -> "Pose":
        """Draw a pose; `vary` False gives the straight one with the same number of draws."""
        spread = 1.0 if vary else 0.0
        pitch, yaw, roll, shift = rng.standard_normal(4) * [2.5, 3.5, 1.6, 5.0] * spread
        fov, top_margin, breath = rng.uniform([-18, -5, -16], [18, 7, 12]) * spread + [306.0, 5.0, -6.0]
        return cls(*(float(value) for value in (pitch, yaw, roll, shift, fov, top_margin, breath)))


@dataclass(frozen=True)
class Shape:
    """What makes one patient's body another than the anatomy it is made from.

    Attributes:
        scale: Factors on depth, height and width.
        squeeze: By how much the heart is narrower than in the CT, as a share: standing and breathing in, it hangs
            narrower than lying down.
        waves: Slow waves through the body: direction (3, radians per mm), phase and amplitude (3, mm) of each.
    """

    scale: np.ndarray
    squeeze: float
    waves: tuple[tuple[np.ndarray, float, np.ndarray], ...]

    @classmethod
    def draw(cls, rng: np.random.Generator, vary: bool = True) -> "Shape":
        """Draw a shape; the number of draws never depends on findings. `vary` False gives the plain patient."""
        spread = 1.0 if vary else 0.0
        normal = rng.standard_normal(4) * spread
        scale = STANDING * np.exp(0.04 * normal[0:3] + 0.03 * normal[3])
        squeeze = 0.25 + spread * rng.uniform(-0.04, 0.04)
        return cls(scale, squeeze, draw_waves(rng, np.array([2.2, 3.0, 2.6]) * spread))


def draw_waves(rng: np.random.Generator, amplitude: np.ndarray) -> tuple[tuple[np.ndarray, float, np.ndarray], ...]:
    """Four slow waves through a body; `amplitude`: standard deviations (depth, height, width) in mm."""
    waves = []
    for _ in range(4):
        direction = rng.standard_normal(3) * 2 * np.pi / rng.uniform(200, 380)
        phase = rng.uniform(0, 2 * np.pi)
        waves.append((direction, phase, rng.standard_normal(3) * amplitude))
    return tuple(waves)


class Geometry:
    """One patient in the beam: size, turn, bend, breath and field of view.

    Args:
        anatomy: The body.
        shape: How the patient differs from it.
        pose: How the patient stands.
        n_grid: Detector samples per side (the film is enlarged from it).

    Attributes:
        fov: Side of the square film in mm at the detector.
        grid: torch tensor (n_steps, n_grid, n_grid, 3): for each sample of each ray its place in the volume, in the
            -1..1 coordinates (width, height, depth) of torch's grid_sample.
    """

    def __init__(self, anatomy: Anatomy, shape: Shape, pose: Pose, n_grid: int):
        import torch

        self.anatomy, self.n_grid, self.fov = anatomy, n_grid, pose.fov
        scale = shape.scale
        pitch, yaw, roll = np.deg2rad([pose.pitch, pose.yaw, pose.roll])

        extent = np.array(anatomy.shape) * anatomy.spacing
        heart_middle = [
            float((s.start + s.stop) / 2 * anatomy.spacing - e / 2)
            for s, e in zip(anatomy.organ_box[HEART][1:], extent[1:], strict=True)
        ]
        # Rays run nearly along the depth: voxels are averaged in groups along it and each group is sampled once.
        self.step = anatomy.group * anatomy.spacing
        self.n_steps = anatomy.shape[0] // anatomy.group
        # Positions are worked out on a coarse lattice and enlarged: they change slowly.
        n_coarse, d_coarse = max(20, n_grid // 8), max(8, self.n_steps // 5)
        depth = torch.linspace(self.step / 2, float(extent[0]) - self.step / 2, d_coarse)
        across = torch.linspace(-1, 1, n_coarse) * (self.fov - self.pixel) / 2
        d, h, w = torch.meshgrid(depth, across, across, indexing="ij")
        # Cone beam: what lies further from the detector is magnified more, so rays close in towards the source.
        middle = 1 - (extent[0] / 2 + AIR_GAP) / pose.source
        from_detector = float(extent[0]) - d if pose.from_front else d
        narrowing = (1 - (from_detector + AIR_GAP) / pose.source) / middle
        p = torch.stack([d - float(extent[0] / 2), h * narrowing, w * narrowing], -1)
        p = p @ torch.tensor(_rotation(pitch, yaw, roll).T / scale, dtype=torch.float32)
        centre_height = self.fov / 2 / scale[1] + pose.top_margin
        p = p + torch.tensor([0.0, centre_height - extent[1] / 2, pose.shift], dtype=torch.float32)

        bend = torch.zeros_like(p)
        for wave, phase, amplitude in shape.waves:
            bend += torch.sin(p @ torch.tensor(wave, dtype=torch.float32) + phase)[..., None] * torch.tensor(
                amplitude, dtype=torch.float32
            )
        p = p + bend
        across, along = p[..., 2] - heart_middle[1], p[..., 1] - heart_middle[0]
        p[..., 2] += shape.squeeze * across * torch.exp(-(across**2 + along**2) / (2 * 75.0**2))
        moved = pose.breath
        if pose.tilt:
            moved = moved + pose.tilt / 2 * torch.tanh(p[..., 2] / 40)
        p[..., 1] += moved * torch.sigmoid((p[..., 1] - 10) / 22)

        coarse = torch.stack([p[..., 2] / extent[2], p[..., 1] / extent[1], p[..., 0] / extent[0]]) * 2
        self.grid = _enlarge(coarse, (self.n_steps, n_grid, n_grid))
        self._coarse = coarse.numpy()

    @property
    def pixel(self) -> float:
        """mm between detector samples."""
        return self.fov / self.n_grid

    def project(self, volumes: np.ndarray) -> np.ndarray:
        """Project whole volumes.

        Args:
            volumes: float32 (n, n_steps, height, width), density relative to water, averaged along the depth as
                `Anatomy.projected` is.

        Returns:
            float32 (n, n_grid, n_grid), mm of water.
        """
        import torch
        from torch.nn import functional

        tensor = torch.from_numpy(volumes)[None]
        total = torch.zeros((len(volumes), self.n_grid, self.n_grid))
        for start in range(0, self.n_steps, 8):  # few steps at a time: the samples stay in the processor's cache
            part = self.grid[None, start : start + 8]
            sampled = functional.grid_sample(tensor, part, padding_mode="border", align_corners=False)
            total += sampled[0].sum(1)
        return (total * self.step).numpy()

    def project_parts(self, volumes: Sequence[np.ndarray], slices: tuple[slice, ...]) -> list[PartialProjection] | None:
        """Project things that exist only in one part of the volume, each for itself; None where they miss the film.

        Args:
            volumes: float (depth, height, width) on `slices` each, in full voxels; zero outside. Their rays are worked
                out once.
        """
        import torch
        from torch.nn import functional

        group = self.anatomy.group
        before, after = slices[0].start % group, -slices[0].stop % group
        if before or after:
            volumes = [np.pad(values, ((before, after), (0, 0), (0, 0))) for values in volumes]
        stack = np.stack([average_depth(values, group) for values in volumes]).astype(np.float32, copy=False)
        region = self._region(slices)
        if region is None:
            return None
        # From the coordinates of the whole volume (width, height, depth; -1 to 1) to those of the part.
        shape = np.array([*self.anatomy.shape[:0:-1], self.n_steps], np.float32)
        start = np.array([slices[2].start, slices[1].start, slices[0].start // group], np.float32)
        size = np.array(stack.shape[:0:-1], np.float32)
        scale, offset = torch.from_numpy(shape / size), torch.from_numpy((shape - 2 * start) / size - 1)
        part = torch.addcmul(offset, self.grid[region], scale)[None]
        sampled = functional.grid_sample(torch.from_numpy(stack)[None], part, padding_mode="zeros", align_corners=False)
        shadows = (sampled[0].sum(1) * self.step).numpy()
        return [PartialProjection(shadow, region[1].start, region[2].start) for shadow in shadows]

    def front_view(self, image: np.ndarray) -> np.ndarray:
        """Carry a map of the body seen from the front, (height, width) in voxels, to the detector grid.

        Uses the place of each ray at mid-depth: good to a few mm. Returns float32 (n_grid, n_grid).
        """
        import torch
        from torch.nn import functional

        tensor = torch.from_numpy(np.ascontiguousarray(image, np.float32))[None, None]
        rays = self.grid[self.n_steps // 2][None, ..., :2]
        return functional.grid_sample(tensor, rays, padding_mode="zeros", align_corners=False)[0, 0].numpy()

    def _region(self, slices: tuple[slice, ...]) -> tuple[slice, slice, slice] | None:
        """The part of the sample grid that can meet a part of the volume."""
        inside = np.ones(self._coarse.shape[1:], bool)
        spans = []
        for axis, s, n in zip((2, 1, 0), slices, self.anatomy.shape, strict=True):
            position = (self._coarse[axis] + 1) / 2 * n
            # A lattice cell may straddle a small box: widen the box by the largest cell on that axis.
            reach = max(np.abs(np.diff(position, axis=a)).max() for a in range(3))
            inside &= (position > s.start - 1 - reach) & (position < s.stop + 1 + reach)
        for axis, fine in zip(range(3), (self.n_steps, self.n_grid, self.n_grid), strict=True):
            hit = np.flatnonzero(inside.any(tuple(a for a in range(3) if a != axis)))
            if len(hit) == 0:
                return None
            per_cell = (fine - 1) / (inside.shape[axis] - 1)
            first, last = (hit[0] - 1) * per_cell, (hit[-1] + 1) * per_cell
            spans.append(slice(max(0, int(first)), min(fine, int(np.ceil(last)) + 1)))
        return tuple(spans)


@dataclass(frozen=True)
class Exposure:
    """What the X-ray machine and its software did to one film; never anything that depends on a finding.

    Attributes:
        bone: How much more bone absorbs than its density says (the beam's energy).
        habitus: mm of soft tissue in front of everything.
        breast_thickness, breast_width, breast_aspect, breast_height, breast_right, breast_left: The shadow of breasts,
            in mm and parts of the film; used where there are some.
        scatter: Share of scattered radiation.
        photons: Per pixel in air: fewer are noisier.
        detail, contrast, gamma: The machine's image processing.
        marker: Whether a lead letter L lies on the film.
        marker_left, marker_top: Where, in parts of the side.
    """

    bone: float
    habitus: float
    breast_thickness: float
    breast_width: float
    breast_aspect: float
    breast_height: float
    breast_right: float
    breast_left: float
    scatter: float
    photons: float
    detail: float
    contrast: float
    gamma: float
    marker: bool
    marker_left: float
    marker_top: float

    @classmethod
    def draw(cls, rng: np.random.Generator, vary: bool = True) -> "Exposure":
        """Draw an exposure; `vary` False gives the middle of every range (and no marker)."""
        low, high = np.array(
            [
                (1.2, 2.0), (-5.0, 26.0),
                (8.0, 26.0), (0.14, 0.19), (0.8, 1.05), (0.60, 0.70), (0.20, 0.25), (0.20, 0.25),
                (0.15, 0.5), (5e4, 15e4), (0.6, 1.3), (0.55, 0.8), (3.4, 5.0),
                (0.0, 1.0), (0.80, 0.90), (0.03, 0.08),
            ]
        ).T  # fmt: skip
        values = [float(v) for v in (rng.uniform(low, high) if vary else (low + high) / 2)]
        return cls(*values[:13], values[13] > 0.5, *values[14:])


def expose(
    soft: np.ndarray,
    bone: np.ndarray,
    size: int,
    exposure: Exposure,
    rng: np.random.Generator,
    breasts: bool = False,
) -> np.ndarray:
    """Turn projected tissue into the grey values of a digital film.

    Steps: beam attenuation, scatter, quantum noise, then what the scanner's own processing does (logarithm, several
    bands of detail weighted, an S-shaped tone curve).

    Args:
        soft, bone: float32 (n_grid, n_grid), mm of water.
        size: Side of the film in pixels.
        exposure: What was set at the machine.
        rng: Draws the quantum noise.
        breasts: Add the shadow of breasts.

    Returns:
        uint16 (size, size), 12 bits, dense tissue bright.
    """
    x = exposure
    soft = np.maximum(enlarge_film(soft, size), 0)
    bone = np.maximum(enlarge_film(bone, size), 0)
    body = sigmoid((soft - 14) / 4)
    soft = soft + body * x.habitus
    if breasts:
        shape = x.breast_thickness, x.breast_width, x.breast_aspect, x.breast_height, x.breast_right, x.breast_left
        for shadow in breast_shadows(size, *shape):
            soft = soft + shadow * body
    absorbed = WATER * (soft + 1.35 * x.bone * bone)
    if x.marker:
        absorbed[_side_marker(size, x.marker_left, x.marker_top)] += (
            2.2  # a lead letter L at the patient's left shoulder
        )
    beam = np.exp(-absorbed).astype(np.float32)
    beam = beam + 0.5 * x.scatter * wide_blur(beam, size * 0.06) + 0.002
    beam = (rng.poisson(beam * x.photons) / x.photons).astype(np.float32)
    beam = ndimage.gaussian_filter(beam, 0.45 * size / 512, truncate=3)

    log = -np.log(np.maximum(beam, 1e-4))
    fine, wide = ndimage.gaussian_filter(log, size * 0.012, truncate=3), wide_blur(log, size * 0.09)
    image = x.contrast * wide + 1.15 * (fine - wide) + (1.15 + x.detail) * (log - fine)
    inner = image[int(0.08 * size) : int(0.92 * size), int(0.12 * size) : int(0.88 * size)]
    low, high = np.percentile(inner, [1.0, 99])
    tone = sigmoid(((image - low) / (high - low) - MIDDLE) * x.gamma)
    dark, light = sigmoid(-MIDDLE * x.gamma), sigmoid((1 - MIDDLE) * x.gamma)
    return np.clip((tone - dark) / (light - dark) * 3700 + 150, 0, FULL_SCALE).astype(np.uint16)


def breast_shadows(
    size: int, thickness: float, width: float, aspect: float, height: float, right: float, left: float
) -> list[np.ndarray]:
    """mm of water of the right and the left breast, float (size, size); arguments as the attributes of `Exposure`."""
    down_film, across_film = _unit_grid(size)
    shadows = []
    for centre in (0.5 - right, 0.5 + left):
        down = (down_film - height) / (width * aspect)
        dome = np.sqrt(np.clip(1 - ((across_film - centre) / width) ** 2 - down**2, 0, 1))
        shadow = thickness * dome * sigmoid((0.25 + down) * 6)
        shadows.append(ndimage.gaussian_filter(shadow, size * 0.012, truncate=2.5))
    return shadows


def sigmoid(x):
    """1 / (1 + exp(-x)), safe for large |x|, float32 in and out."""
    return 1 / (1 + np.exp(-np.clip(x, -30, 30)))


def smooth_noise(shape: tuple[int, ...], scale: float, rng: np.random.Generator, octaves: int = 1) -> np.ndarray:
    """Smooth Gaussian noise of unit standard deviation, float32.

    Args:
        shape: (depth, height, width).
        scale: Distance between independent values, in voxels; each further octave halves it and weighs 1.6 times less.
    """
    import torch

    total = torch.zeros(shape)
    for octave in range(octaves):
        knots = [max(2, int(np.ceil(n / (scale / 2**octave))) + 1) for n in shape]
        values = torch.from_numpy(rng.standard_normal(knots, dtype=np.float32))[None]
        total += _enlarge(values, shape)[..., 0] / 1.6**octave
    return (total / total.std()).numpy()


def _rotation(pitch: float, yaw: float, roll: float) -> np.ndarray:
    """Rotation matrix in (depth, height, width): pitch = bending forward, yaw = turning, roll = leaning."""
    cp, sp, cy, sy, cr, sr = np.cos(pitch), np.sin(pitch), np.cos(yaw), np.sin(yaw), np.cos(roll), np.sin(roll)
    return (
        np.array([[cp, -sp, 0], [sp, cp, 0], [0, 0, 1]])
        @ np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
        @ np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    )


def _enlarge(values, size: tuple[int, ...]):
    """Trilinear interpolation of a torch tensor (channels, depth, height, width) to (*size, channels), ends kept."""
    from torch.nn import functional

    out = functional.interpolate(values[None], size=size, mode="trilinear", align_corners=True)[0]
    return out.permute(1, 2, 3, 0).contiguous()


def enlarge_film(image: np.ndarray, size: int) -> np.ndarray:
    """Bicubic interpolation of a square array to (size, size), float32."""
    import torch
    from torch.nn import functional

    tensor = torch.from_numpy(np.ascontiguousarray(image, np.float32))[None, None]
    return functional.interpolate(tensor, size=(size, size), mode="bicubic", align_corners=False)[0, 0].numpy()


@lru_cache(maxsize=4)
def _unit_grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    return y, x


def _side_marker(size: int, left: float, top: float) -> np.ndarray:
    """bool mask of a letter L, about 3% of the film high, at (left, top) in parts of the side."""
    y, x = _unit_grid(size)
    upright = (x > left) & (x < left + 0.008) & (y > top) & (y < top + 0.035)
    foot = (x > left) & (x < left + 0.024) & (y > top + 0.028) & (y < top + 0.035)
    return upright | foot
