"""A chest built from formulas, for places without the CT, for tests, and as another body than the CT's.

Cruder than the CT: an elliptic chest with lungs, heart, aorta, airways, branching vessels, ribs, spine, clavicles and
shoulder blades. Every length is drawn around adult values; all shapes are ours. Axes, units and label values are those
of `anatomy`.
"""

import numpy as np
from scipy import ndimage

from cliniqure_utils.cohort.organs import AORTA, HEART

EXTENT = (255.0, 333.0, 360.0)  # mm: depth, height, width


def build(seed: int, spacing: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Build one body.

    Args:
        seed: Another seed is another body.
        spacing: Edge of a voxel in mm.

    Returns:
        soft, bone (float32, relative to water) and label (uint8), each (depth, height, width).
    """
    return _Builder(seed, spacing).build()


class _Builder:
    """The volumes while they are filled. In mm: y to the back and x to the left, both from the middle; z down."""

    def __init__(self, seed: int, spacing: float):
        self.rng = np.random.default_rng(seed)
        self.spacing = spacing
        self.shape = tuple(int(round(extent / spacing)) for extent in EXTENT)
        y, z, x = ((np.arange(n, dtype=np.float32) + 0.5) * spacing for n in self.shape)
        self.y, self.z, self.x = (y - EXTENT[0] / 2)[:, None, None], z[None, :, None], (x - EXTENT[2] / 2)[None, None]
        self.half_width, self.half_depth = self._draw(124, 142), self._draw(78, 92)
        self.apex = self._draw(20, 28)  # height of the top of the lungs

    def build(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x, y, z = self.x, self.y, self.z
        taper = np.sqrt(np.maximum(1 - (1 - np.clip((z - self.apex) / 247, 0, 1)) ** 2.7, 0))
        chest_x, chest_y = self.half_width * taper + 0.1, self.half_depth * taper + 0.1
        body = self._body(chest_x, chest_y)
        cavity = ((x / chest_x) ** 2 + (y / chest_y) ** 2 < 1) & (z > self.apex)
        heart = self._heart()
        aorta = self._aorta()
        dome = self._diaphragm()
        middle = (np.abs(x - 2) < 19 + 5 * np.sin(z / 26) + np.clip((z - 150) * 0.05, 0, 6)) & (y < 62)
        spine_side = x**2 + ((y - 70) / 1.1) ** 2 < 24**2
        wall = max(1, int(round(4.5 / self.spacing)))
        lung = ndimage.binary_erosion(cavity, iterations=wall) & (z < dome)
        lung &= ~(middle | heart | spine_side | ndimage.binary_dilation(aorta))
        lung = ndimage.binary_opening(lung, iterations=max(1, int(3 / self.spacing)))

        soft = np.where(body, np.float32(1.0), np.float32(0.0))
        noise = ndimage.gaussian_filter(self.rng.standard_normal(self.shape, dtype=np.float32), 2.0)
        texture = 0.17 + 0.025 * noise / noise.std() + 0.05 * y / self.half_depth
        soft[lung] = texture[lung]
        vessels = self._vessels()
        soft = np.where(lung, np.maximum(soft, 1.04 * vessels), soft)
        soft[(x**2 + (y - 8) ** 2 < 64) & (z < 108)] = 0  # trachea
        for side in (-1, 1):  # main bronchi
            tube = (y - 10) ** 2 + (z - 108 - 0.75 * np.abs(x)) ** 2 < 36
            soft[tube & (x * side > 0) & (x * side < 34)] = 0.02
        bubble = ((x - 78) / 26) ** 2 + ((y + 35) / 30) ** 2 + ((z - dome.min() - 44) / 13) ** 2 < 1
        soft[bubble & (z > dome)] = 0.03  # air in the stomach

        bone = self._bones(taper) * body
        soft[bone > 0.1] = 1.0
        label = self._lobes(lung)
        label[heart] = HEART
        label[aorta] = AORTA
        return ndimage.gaussian_filter(soft, 0.45).astype(np.float32), bone.astype(np.float32), label

    def _draw(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def _body(self, chest_x, chest_y) -> np.ndarray:
        """Chest wall with shoulders and neck."""
        fat = self._draw(16, 30)
        shoulders = np.clip((60 - self.z) / 60, 0, 1)
        half_x = np.maximum(chest_x, 105) + fat + 55 * shoulders**0.7
        half_y = np.maximum(chest_y, 72) + 0.8 * fat - 10 * shoulders
        half_x = half_x * (1 - 0.1 * np.clip((14 - self.z) / 10, 0, 1))
        return (np.abs(self.x) / half_x) ** 2.5 + (np.abs(self.y - 4) / half_y) ** 2.3 < 1

    def _heart(self) -> np.ndarray:
        """A tilted ellipsoid towards the left, and the right atrium."""
        left, height, tilt = self._draw(20, 28), self._draw(178, 192), self._draw(0.5, 0.75)
        along = (self.x - left) * np.cos(tilt) + (self.z - height) * np.sin(tilt)
        across = -(self.x - left) * np.sin(tilt) + (self.z - height) * np.cos(tilt)
        a, b, c = self._draw(54, 62), self._draw(44, 50), self._draw(40, 46)
        ventricles = (along / a) ** 2 + ((self.y + 22) / b) ** 2 + (across / c) ** 2 < 1
        atrium = ((self.x + 18) / 26) ** 2 + ((self.y + 15) / 35) ** 2 + ((self.z - height - 8) / 38) ** 2 < 1
        return ventricles | atrium

    def _aorta(self) -> np.ndarray:
        """A tube: up from the heart, over to the left and back, down along the spine."""
        radius, top = self._draw(11, 13), self._draw(80, 92)
        points = [(-11 + 3 * q, -18.0, 150 - (138 - top) * q) for q in np.linspace(0, 1, 60)]
        points += [(-8 + 24 * q, -18 + 62 * q, top + 12 - 14 * np.sin(np.pi * q)) for q in np.linspace(0, 1, 60)]
        points += [(16 - 6 * q, 46 + 8 * q, top + 12 + (EXTENT[1] - top - 12) * q) for q in np.linspace(0, 1, 200)]
        tube = np.zeros(self.shape, np.float32)
        for point in points:
            self._stamp(tube, point, radius, 1.0)
        return tube > 0.5

    def _diaphragm(self) -> np.ndarray:
        """Height of the dome at each (depth, width); the left one lies lower."""
        right = self._draw(212, 226)
        left = right + self._draw(6, 16)
        back = np.where(self.y > 0, 0.0075, 0.0028) * self.y**2
        return np.where(self.x < 0, right + 0.0042 * (self.x + 62) ** 2, left + 0.0042 * (self.x - 72) ** 2) + back

    def _vessels(self) -> np.ndarray:
        """Trees that branch from both hila."""
        tree = np.zeros(self.shape, np.float32)

        def grow(point, direction, radius, generation):
            for _ in range(int(self._draw(9, 15))):
                point = point + direction * 3.2
                direction = direction + self.rng.normal(0, 0.13, 3)
                direction = direction / np.linalg.norm(direction)
                self._stamp(tree, point, radius, 1.0)
                radius *= 0.985
            if radius > 0.9 and generation < 5:
                for _ in range(2 if self.rng.random() < 0.85 else 3):
                    turned = direction + self.rng.normal(0, 0.5, 3)
                    grow(point, turned / np.linalg.norm(turned), radius * self._draw(0.62, 0.8), generation + 1)

        for side in (-1, 1):
            for _ in range(8):
                direction = np.array([side * self._draw(0.3, 1), self.rng.normal(0, 0.6), self.rng.normal(0.25, 0.75)])
                start = np.array([side * 26.0, 5.0, 128 + self.rng.normal(0, 9)])
                grow(start, direction / np.linalg.norm(direction), self._draw(4, 6.5), 0)
        return tree

    def _bones(self, taper) -> np.ndarray:
        """Spine, ribs, clavicles, shoulder blades, upper arms and breastbone."""
        bone = np.zeros(self.shape, np.float32)
        x, y, z = self.x, self.y, self.z
        disc = np.cos(2 * np.pi * (z - 10) / self._draw(23, 26)) > 0.82
        core = x**2 + ((y - 66) / 0.9) ** 2
        bone[(core < 17**2) & ~disc] = 0.28
        bone[(core < 17**2) & (core >= 14**2) & ~disc] = 0.62
        bone[(np.abs(x) < 3.5) & (y > 84) & (y < 112) & (np.cos(2 * np.pi * z / 24) > -0.2)] = 0.5
        heights, widths = z.ravel(), taper.ravel()
        for side in (-1, 1):
            slope = self._draw(0.95, 1.15)
            for rib in range(11):
                top = self.apex + 4 + rib * self._draw(20.5, 22.5) + self.rng.normal(0, 1)
                drop, radius = (26 + 8.5 * min(rib, 7)) * slope, self._draw(4.6, 5.8)
                for q in np.linspace(0, 0.92 if rib < 7 else 0.8 - 0.07 * (rib - 7), 180):
                    angle = np.pi * (0.5 - q)
                    height = top + drop * q**1.15 - 4 * np.sin(np.pi * q)
                    wide = max(float(np.interp(height, heights, widths)), 0.34 if rib == 0 else 0.45)
                    point = (
                        side * np.cos(angle) * (self.half_width * wide + 1),
                        np.sin(angle) * (self.half_depth * wide + 1) * 0.97,
                        height,
                    )
                    self._stamp(bone, point, radius * (1 - 0.15 * q), 0.8 if q < 0.74 else 0.3)
            for q in np.linspace(0, 1, 120):  # clavicle
                point = (side * (16 + 135 * q), -58 + 52 * q + 8 * np.sin(3 * q), 34 - 20 * q - 6 * np.sin(np.pi * q))
                self._stamp(bone, point, 5.2, 0.62)
            for q in np.linspace(0, 1, 60):  # shoulder blade
                for w in np.linspace(0, 1, 18):
                    self._stamp(bone, (side * (92 + 52 * w * (1 - q) + 20 * q), 66 - 8 * w, 34 + 110 * q), 2.4, 0.42)
            for q in np.linspace(0, 1, 30):  # head of the upper arm
                self._stamp(bone, (side * (158 + 10 * q), 10, 20 + 40 * q), 14, 0.4)
        front = self.half_depth
        sternum = (np.abs(x) < 16) & (y < -front * 0.92 + 6) & (y > -front - 4) & (z > 40) & (z < 190)
        bone = np.where(sternum, np.float32(0.22), bone)
        return ndimage.gaussian_filter(bone, 0.5)

    def _lobes(self, lung: np.ndarray) -> np.ndarray:
        """Lobe labels: an oblique fissure on both sides, a horizontal one on the right."""
        upper = np.broadcast_to(self.z < 150 - 0.75 * self.y, self.shape)
        middle = np.broadcast_to((self.z > 128) & (self.y < 8), self.shape)
        right = np.broadcast_to(self.x < 0, self.shape)
        lobe = np.where(right, np.where(middle, 13, np.where(upper, 12, 14)), np.where(upper, 10, 11))
        return np.where(lung, lobe, 0).astype(np.uint8)

    def _stamp(self, volume: np.ndarray, point, radius: float, value: float) -> None:
        """Draw a ball with a soft edge at (x, y, z) mm, keeping the larger value."""
        centre = (point[1] + EXTENT[0] / 2, point[2], point[0] + EXTENT[2] / 2)
        index = [c / self.spacing - 0.5 for c in centre]
        reach = radius / self.spacing + 1
        around = tuple(
            slice(max(0, int(np.ceil(i - reach))), max(0, min(n, int(i + reach) + 1)))
            for i, n in zip(index, self.shape, strict=True)
        )
        if any(s.stop <= s.start for s in around):
            return
        d, h, w = (
            (np.arange(s.start, s.stop, dtype=np.float32) - np.float32(i)) ** 2
            for s, i in zip(around, index, strict=True)
        )
        distance = np.sqrt(d[:, None, None] + h[None, :, None] + w[None, None])
        weight = np.clip(radius / self.spacing - distance + 0.5, 0, 1) * np.float32(value)
        part = volume[around]
        np.maximum(part, weight, out=part)
