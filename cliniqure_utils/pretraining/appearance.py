"""Random appearance: what machines, archives and screens do to a film, drawn anew each time a network sees it.

Values are ours; the kinds are those that public projects found to carry networks from simulated to real films (SyntheX,
Gao et al. 2023, Nature Machine Intelligence 5:294-308).
"""

import numpy as np
from scipy import ndimage

from cliniqure_utils.vision.blur import wide_blur


def change_appearance(film: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change grey values and sharpness of a film, cover its borders, add noise; nothing moves.

    Args:
        film: uint8 (size, size).
        rng: Decides; the labels of the film play no part.

    Returns:
        uint8 (size, size).
    """
    size = len(film)
    image = film.astype(np.float32) / 255
    chance = rng.random(6)
    if chance[0] < 0.5:  # sharpened or blurred
        blurred = ndimage.gaussian_filter(image, rng.uniform(0.7, 1.6), truncate=2.5)
        image += np.float32(rng.uniform(-0.9, 1.6)) * (image - blurred)
    if chance[1] < 0.5:  # local contrast
        image += np.float32(rng.uniform(-0.5, 0.9)) * (image - wide_blur(image, size * rng.uniform(0.04, 0.1)))
    if chance[2] < 0.3:  # uneven exposure
        knots = ndimage.zoom(rng.standard_normal((4, 4)), size / 4, order=1).astype(np.float32)
        image += np.float32(rng.uniform(0, 0.12)) * knots[:size, :size]
    if chance[3] < 0.5:  # tone: what is clipped here no grey scale brings back
        low, high = rng.uniform([-0.03, 0.72], [0.14, 1.03])
        image = np.clip((image - np.float32(low)) / np.float32(high - low), 0, 1) ** np.float32(
            np.exp(rng.uniform(-0.6, 0.6))
        )
    if chance[4] < 0.4:
        noise = rng.standard_normal((size, size), dtype=np.float32)
        image = image + np.float32(rng.uniform(0.005, 0.05)) * noise
    if chance[5] < 0.3:  # collimator or paper border
        for side in np.flatnonzero(rng.random(4) < 0.45):
            width = max(1, int(rng.uniform(0.01, 0.13) * size))
            cover = (np.s_[:width], np.s_[-width:], np.s_[:, :width], np.s_[:, -width:])[side]
            image[cover] = float(rng.random() < 0.25)
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)
