"""Wide simulation: films of patients as varied as real ones, for pretraining only.

The cohort (`cohort.patient.simulate`) shows one body, standing, in a narrow field. Here body, stance, field, machine
and what else lies on a film vary as they do in a hospital: wide and tall chests, deep and shallow breath, ribs and
spine of any contrast, arms, gas below the diaphragm, portable films taken lying down (anterior-posterior, with a large
heart that is none), letters, electrodes, tubes. Findings are the cohort's, down to smaller and fainter ones. All that
is no finding is drawn from generators that never see one.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from cliniqure_utils.cohort.anatomy import HALF_MM, Anatomy, average_depth
from cliniqure_utils.cohort.patient import CARDIOTHORACIC_LIMIT, Film, place_findings
from cliniqure_utils.cohort.projection import (
    SOURCE_DISTANCE,
    WATER,
    Geometry,
    Pose,
    Shape,
    breast_shadows,
    draw_waves,
    enlarge_film,
    sigmoid,
)
from cliniqure_utils.vision.blur import wide_blur

GRID_SHARE = 0.65  # detector samples per pixel of the film
SMALLER = 0.5  # the smallest lesions are half as large as the cohort's
PORTABLE_SHARE = 0.4  # films taken lying down
# Heart over chest from which a heart is large: a beam from the front draws the heart larger, so radiology allows more.
PORTABLE_HEART_LIMIT = 0.55
VERTEBRAE = (25, 51)  # label values of the spine in the CT, first and one past the last


@dataclass(frozen=True)
class WideBody:
    """A body ready for projection: soft tissue, spine and the other bones apart, so that each can be weighed.

    Attributes:
        anatomy: The body.
        parts: float32 (4, depth / group, height, width): soft tissue, spine, other bones, and what the vessels of the
            lungs add to their surroundings.
        middle: Height of the middle of the lungs, mm from the top of the volume.
    """

    anatomy: Anatomy
    parts: np.ndarray
    middle: float

    @classmethod
    def of(cls, anatomy: Anatomy) -> "WideBody":
        """Take a body apart."""
        if anatomy.source == "ct":
            spine = (anatomy.label >= VERTEBRAE[0]) & (anatomy.label < VERTEBRAE[1])
            spine = ndimage.binary_dilation(spine, iterations=2)
        else:  # the phantom's labels name no bone; its spine lies in the middle of the back
            depth, _, width = np.ogrid[tuple(map(slice, anatomy.shape))]
            spine = (np.abs(width - anatomy.shape[2] / 2) * anatomy.spacing < 26) & (depth > 0.6 * anatomy.shape[0])
        of_spine = average_depth(anatomy.bone * spine, anatomy.group)
        soft, bone = anatomy.projected
        rows = np.flatnonzero(anatomy.lung_silhouette.any(1))
        others = bone - of_spine
        if anatomy.source == "ct":  # its slices are 2.5 mm thick, which blurs the edges that ribs have on a film
            others = np.maximum(2 * others - ndimage.gaussian_filter(others, (0.5, 1.2, 1.2)), 0)
        local = ndimage.gaussian_filter(anatomy.soft, 6 / anatomy.spacing, truncate=2)
        vessels = np.maximum(anatomy.soft - local, 0) * (anatomy.depth * HALF_MM > 4)  # not the lung's border itself
        parts = np.stack([soft, of_spine, others, average_depth(vessels, anatomy.group)])
        return cls(anatomy, parts, float(rows.mean() * anatomy.spacing))


@dataclass(frozen=True)
class Look:
    """What shapes a film besides body, stance and findings; the machine and what lies on the patient.

    Attributes:
        spine, bone: What spine and other bones absorb beyond soft tissue, as a factor on their density.
        vessels: By how much the vessels of the lungs are denser than in the CT: they crowd in shallow breath.
        habitus: mm of soft tissue in front of everything.
        haze, base_haze: mm of soft tissue over the lungs, even and growing downwards: shallow breath, chest muscles.
        stout: mm of soft tissue outside the lungs: a stout patient's mediastinum and shoulders.
        abdomen: mm of soft tissue below the diaphragm, where the CT shows a slim patient lying down.
        breasts: None, or thickness in mm, width, aspect, height, right, left (see `projection.Exposure`).
        scatter: Share of scattered radiation that stays near.
        veil: Scattered radiation that reaches everywhere, as a share of the open beam: it hides what lies behind
            heart and diaphragm.
        photons: Per pixel in air.
        contrast, middle_detail, fine_detail: Weights of the coarse, middle and fine bands in the machine's processing.
        low, high: Percentiles of the film that become black and white.
        gamma, centre: Steepness and centre of the tone curve.
    """

    spine: float
    bone: float
    vessels: float
    habitus: float
    haze: float
    base_haze: float
    stout: float
    abdomen: float
    breasts: tuple[float, ...] | None
    scatter: float
    veil: float
    photons: float
    contrast: float
    middle_detail: float
    fine_detail: float
    low: float
    high: float
    gamma: float
    centre: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Look":
        """Draw a look; the number of draws is always the same."""
        breasts = rng.uniform([6, 0.12, 0.8, 0.55, 0.18, 0.18], [40, 0.22, 1.15, 0.74, 0.27, 0.27])
        with_breasts = rng.random() < 0.45
        values = rng.uniform(
            [0.0, 1.0, 0.0, -15, -12, -10, 0, 0, 0.1, -2.4, 5.1, 0.3, 0.7, 0.5, 0.3, 86.0, 2.0, 0.3],
            [0.4, 3.5, 1.8, 30, 30, 55, 60, 120, 0.8, -0.9, 6.3, 1.1, 1.8, 2.6, 4.0, 99.5, 6.0, 0.6],
        )
        *before, scatter, veil, photons = values[:11].tolist()
        breasts = tuple(breasts.tolist()) if with_breasts else None
        return cls(*before, breasts, scatter, 10**veil, 10**photons, *values[11:].tolist())


def draw_shape(rng: np.random.Generator, is_portable: bool, is_ct: bool) -> Shape:
    """A body of any build: on average wider and taller than the CT, which shows a narrow chest."""
    normal = rng.standard_normal(4)
    mean = np.array([1.0, 1.04 if is_portable else 1.12, 1.25 if is_ct else 1.1])
    scale = mean * np.exp([0.06, 0.06, 0.06] * normal[:3] + 0.04 * normal[3])
    return Shape(scale, rng.uniform(0.0, 0.3), draw_waves(rng, np.array([2.6, 3.6, 3.2])))


def draw_pose(rng: np.random.Generator, body: WideBody, shape: Shape, is_portable: bool) -> Pose:
    """A stance; on a portable film more turned, with less breath, and taken from the front at half the distance."""
    normal, field, breath = rng.standard_normal(6), rng.uniform(285, 430), rng.random()
    spread = 1.8 if is_portable else 1.0
    pitch, yaw, roll = (float(v) for v in normal[:3] * [3.0, 3.6, 1.8] * spread)
    top_margin = body.middle + 14 * normal[4] - field / 2 / shape.scale[1]
    return Pose(
        pitch, yaw, roll, float(9 * normal[3]), float(field), float(top_margin),
        float(-26 + 50 * breath if is_portable else -60 + 60 * breath),
        float(1000 + 400 * breath) if is_portable else SOURCE_DISTANCE, is_portable, float(12 * normal[5]),
    )  # fmt: skip


def simulate_wide(body: WideBody, findings: list[str], seed: list[int], size: int = 192) -> Film:
    """Simulate one film of one patient.

    Args:
        body: What the patient is made from.
        findings: Names from `vocabulary.FINDINGS` to put in; labelled as in `cohort.patient.simulate`.
        seed: Integers. The same seed with and without a finding differs in nothing but that finding.
        size: Side of the film in pixels.

    Returns:
        As `cohort.patient.simulate`; pixels uint8 (size, size), dense tissue bright.

    Raises:
        ValueError: A finding cannot be simulated.
    """
    stance = np.random.default_rng([*seed, 0])
    is_portable = bool(stance.random() < PORTABLE_SHARE)
    shape = draw_shape(stance, is_portable, body.anatomy.source == "ct")
    pose = draw_pose(stance, body, shape, is_portable)
    look = Look.draw(np.random.default_rng([*seed, 4]))
    geometry = Geometry(body.anatomy, shape, pose, max(48, int(GRID_SHARE * size)))
    soft, spine, bone, vessels = body.parts
    # One volume in place of three: a projection is linear, and sampling the volume is what costs most.
    # (The phantom's ribs are solid rods, which a real rib is not.)
    density = 1.35 if body.anatomy.source == "ct" else 0.6
    volume = soft + np.float32(density * look.spine) * spine + np.float32(density * look.bone) * bone
    volume += np.float32(look.vessels) * vessels
    shadows = geometry.project(volume[None])[0]
    limit = PORTABLE_HEART_LIMIT if is_portable else CARDIOTHORACIC_LIMIT
    found = place_findings(geometry, findings, seed, size, shadows, SMALLER, limit, any_build=True)
    lungs = geometry.front_view(body.anatomy.lung_field)
    lungs = ndimage.gaussian_filter(lungs, 7 / geometry.pixel, mode="nearest")
    down = np.linspace(-0.5, 1.2, geometry.n_grid, dtype=np.float32).clip(0)[:, None]
    over_lungs = (look.haze + look.base_haze * down) * lungs
    over_lungs = over_lungs + _scapulae(lungs, is_portable, np.random.default_rng([*seed, 6]))
    around = (look.stout + look.abdomen * _below_diaphragm(lungs, geometry.pixel)) * (1 - lungs)
    shadows += (around + over_lungs) * sigmoid((shadows - 14) / 4)
    pixels = develop(shadows, size, look, geometry.fov / size, is_portable, np.random.default_rng([*seed, 5]))
    return Film(pixels, *found)


def develop(
    shadows: np.ndarray, size: int, look: Look, pixel_mm: float, is_portable: bool, rng: np.random.Generator
) -> np.ndarray:
    """Turn mm of water, (n_grid, n_grid), into a film, uint8 (size, size), with what else lies in the beam."""
    tissue = np.maximum(enlarge_film(shadows, size), 0)
    body = sigmoid((tissue - 14) / 4)
    tissue = tissue + body * look.habitus
    if look.breasts is not None:
        tissue = tissue + sum(breast_shadows(size, *look.breasts)) * body
    tissue = tissue + _arms(size, pixel_mm, rng) + _gas(size, rng) * body
    absorbed = WATER * np.maximum(tissue, 0) + _devices(size, pixel_mm, is_portable, rng)
    beam = np.exp(-absorbed).astype(np.float32)
    beam = beam + 0.5 * look.scatter * wide_blur(beam, size * 0.06) + look.veil
    beam = (rng.poisson(beam * look.photons) / look.photons).astype(np.float32)
    log = -np.log(np.maximum(beam, 1e-4))
    fine, wide = ndimage.gaussian_filter(log, size * 0.012, truncate=3), wide_blur(log, size * 0.09)
    image = look.contrast * wide + look.middle_detail * (fine - wide) + look.fine_detail * (log - fine)
    inner = image[int(0.06 * size) : int(0.94 * size), int(0.08 * size) : int(0.92 * size)]
    low, high = np.percentile(inner, [look.low, look.high])
    tone = sigmoid(((image - low) / max(high - low, 1e-3) - look.centre) * look.gamma)
    dark, light = sigmoid(-look.centre * look.gamma), sigmoid((1 - look.centre) * look.gamma)
    return np.clip((tone - dark) / (light - dark) * 250 + 3, 0, 255).astype(np.uint8)


@lru_cache(maxsize=4)
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of a film, in parts of its side."""
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    return y, x


def _below_diaphragm(lungs: np.ndarray, pixel_mm: float) -> np.ndarray:
    """0 above, 1 below the two domes of the diaphragm, smooth between; `lungs`: where they are, (n_grid, n_grid)."""
    n = len(lungs)
    bottoms = []
    for half in (lungs[:, : n // 2], lungs[:, n // 2 :]):
        rows = [np.flatnonzero(column > 0.5)[-1] for column in half.T if (column > 0.5).any()]
        bottoms.append(np.percentile(rows, 40) if rows else n)
    row, column = np.mgrid[:n, :n].astype(np.float32)
    dome = bottoms[0] + (bottoms[1] - bottoms[0]) * sigmoid((column - n / 2) * pixel_mm / 15)
    return sigmoid((row - dome) * pixel_mm / 10 - 1)


def _scapulae(lungs: np.ndarray, is_portable: bool, rng: np.random.Generator) -> np.ndarray:
    """mm of water of the shoulder blades, which lie over the outer lungs unless the arms are turned forward, as in the
    CT; `lungs`: where they are, (n_grid, n_grid)."""
    n = len(lungs)
    canvas = Image.new("F", (2 * n, 2 * n), 0.0)
    draw = ImageDraw.Draw(canvas)
    draws = rng.uniform([0, 0.05, 0.0, 0.05, 0.45, 3, 1], [1, 0.45, 0.3, 0.25, 0.8, 13, 9], (2, 7))
    for side, values in zip((-1, 1), draws, strict=True):
        present, upper, lower, top, bottom, depth, edge = map(float, values)
        half = lungs[:, : n // 2] if side < 0 else lungs[:, n // 2 :]
        rows, columns = np.flatnonzero((half > 0.5).any(1)), np.flatnonzero((half > 0.5).any(0))
        if present > (0.85 if is_portable else 0.35) or len(rows) < 4 or len(columns) < 4:
            continue
        outer = columns[0] if side < 0 else columns[-1] + n // 2
        width, height = columns[-1] - columns[0], rows[-1] - rows[0]
        inner = [
            (2.0 * (outer - side * upper * width), 2.0 * (rows[0] + top * height)),
            (2.0 * (outer - side * lower * width), 2.0 * (rows[0] + bottom * height)),
        ]
        beyond = 2.0 * (outer + side * 0.35 * width)
        draw.polygon([*inner, (beyond, inner[1][1] - 0.5 * height), (beyond, inner[0][1])], fill=depth)
        draw.line(inner, fill=depth + edge, width=3)
    return np.asarray(canvas.resize((n, n), Image.Resampling.BOX))


def _arms(size: int, pixel_mm: float, rng: np.random.Generator) -> np.ndarray:
    """mm of water of two arms that hang or lie beside the chest, each present or not; bone in their middle."""
    y, x = _grid(size)
    total = np.zeros((size, size), np.float32)
    draws = rng.uniform([0, 150, 165, 28, 40], [1, 185, 235, 46, 90], (2, 5))  # mm from the middle at top and bottom
    for side, (present, top, bottom, radius, start) in zip((-1, 1), draws, strict=True):
        if present > 0.55:
            continue
        down = np.maximum(y * size * pixel_mm - start, 0)
        centre = top + (bottom - top) * np.minimum(down / 300, 1)
        distance = np.abs(side * (x - 0.5) * size * pixel_mm - centre)
        flesh = 2 * np.sqrt(np.maximum(radius**2 - distance**2, 0))
        marrow = 26 * np.sqrt(np.maximum(1 - (distance / 11) ** 2, 0))
        total += (flesh + marrow) * sigmoid((y * size * pixel_mm - start) / 12)
    return total


def _gas(size: int, rng: np.random.Generator) -> np.ndarray:
    """mm of water that gas below the diaphragm takes away: a few bubbles in stomach and bowel."""
    y, x = _grid(size)
    total = np.zeros((size, size), np.float32)
    bubbles = rng.uniform([0.3, 0.84, 0.02, 0.015, 10], [0.85, 1.02, 0.08, 0.05, 50], (5, 5))
    for column, row, width, height, depth in bubbles[: max(0, rng.integers(-3, 6))]:
        total -= depth * np.sqrt(np.maximum(1 - ((x - column) / width) ** 2 - ((y - row) / height) ** 2, 0))
    return total


def _devices(size: int, pixel_mm: float, is_portable: bool, rng: np.random.Generator) -> np.ndarray:
    """What a lead letter, electrodes with wires, tubes and a pacemaker absorb (optical depth); drawn at four times the
    film's resolution, where thin lines have a width."""
    scale = 4
    canvas = Image.new("F", (size * scale, size * scale), 0.0)
    draw = ImageDraw.Draw(canvas)
    mm = scale / pixel_mm

    def line(points, width, depth):
        points = [(float(x) * size * scale, float(y) * size * scale) for x, y in points]
        draw.line(points, fill=float(depth), width=max(1, round(width * mm)), joint="curve")

    def curve(start, middle, end):
        t = np.linspace(0, 1, 24)[:, None]
        start, middle, end = map(np.asarray, (start, middle, end))
        return (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end

    often = 1.8 if is_portable else 0.6
    chance = rng.random(6)
    if chance[0] < 0.7:  # a letter and sometimes a word
        size_of_letter = float(rng.uniform(9, 22) * mm)
        at = rng.uniform([0.02, 0.01], [0.94, 0.14]) * size * scale
        words = ("L", "R", "AP", "PORTABLE", "ERECT", "PA")
        text = words[int(rng.integers(len(words)))]
        draw.text(tuple(map(float, at)), text, fill=float(rng.uniform(0.5, 2.5)), font=_font(round(size_of_letter)))
    if chance[1] < 0.22 * often:  # electrodes and their wires
        for x, y in rng.uniform([0.15, 0.1], [0.85, 0.8], (int(rng.integers(2, 6)), 2)):
            radius, depth = rng.uniform(3, 7) * mm / (size * scale), float(rng.uniform(0.5, 1.6))
            box = [
                (x - radius) * size * scale,
                (y - radius) * size * scale,
                (x + radius) * size * scale,
                (y + radius) * size * scale,
            ]
            draw.ellipse(list(map(float, box)), fill=depth)
            end = rng.uniform([-0.1, 0.5], [1.1, 1.1])
            line(curve((x, y), rng.uniform(0.1, 0.9, 2), end), 1.2, rng.uniform(0.25, 0.9))
    if chance[2] < 0.18 * often:  # a tube in the windpipe
        line(
            curve((0.5, 0), (0.5 + rng.normal(0, 0.01), 0.1), (0.5 + rng.normal(0, 0.015), rng.uniform(0.18, 0.34))),
            2.0,
            0.5,
        )
    if chance[3] < 0.2 * often:  # a catheter in a large vein
        side = float(rng.choice([-1, 1]))
        start = (0.5 + side * rng.uniform(0.1, 0.4), rng.uniform(0, 0.16))
        line(
            curve(start, (0.5 + side * 0.02, 0.18), (0.5 - rng.uniform(0.02, 0.06), rng.uniform(0.3, 0.5))),
            2.0,
            rng.uniform(0.25, 0.7),
        )
    if chance[4] < 0.12 * often:  # a feeding tube
        line(
            curve((0.5, 0), (0.5 + rng.normal(0, 0.02), 0.5), (0.55 + rng.normal(0, 0.03), rng.uniform(0.8, 1))),
            2.4,
            rng.uniform(0.25, 0.6),
        )
    if chance[5] < 0.04:  # a pacemaker and its lead
        x, y = rng.uniform([0.68, 0.14], [0.82, 0.26])
        half = float(rng.uniform(18, 25) * mm)
        x, y = float(x * size * scale), float(y * size * scale)
        draw.rounded_rectangle([x - half, y - half, x + half, y + half], radius=half * 0.6, fill=3.0)
        line(curve((x / size / scale, y / size / scale), (0.5, 0.2), (0.55, 0.62)), 2.0, 1.0)
    return np.asarray(canvas.resize((size, size), Image.Resampling.BOX))


@lru_cache(maxsize=64)
def _font(size: int):
    from PIL import ImageFont

    return ImageFont.load_default(max(6, size))
