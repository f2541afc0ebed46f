"""One grey scale: what a network sees does not depend on the machine that took the film.

Detectors, exposures and vendors' processing give the same chest other grey values, and a network trained on one of them
reads the others as disease. Ranks do not change: the darkest tenth of a chest stays the darkest tenth under any tone
curve. So each film's values are replaced by their ranks, in training, in evaluation and in `cliniqure predict` alike.
"""

import numpy as np
import torch

GREY_SCALES = ("none", "rank")


def check_grey(grey: str) -> None:
    """Raises ValueError where there is no such grey scale."""
    if grey not in GREY_SCALES:
        raise ValueError(f"grey must be one of {', '.join(GREY_SCALES)}, found {grey!r}")


def even_grey(film: torch.Tensor, grey: str) -> torch.Tensor:
    """A film on the grey scale that the models see.

    Args:
        film: uint8 (1, rows, columns).
        grey: "none" leaves it as it is (the paper). "rank": each value becomes the share of pixels in the middle of
            the film (three quarters of each side) that are darker, ties counted by half, as 0 to 255.

    Returns:
        uint8, same shape.

    Raises:
        ValueError: Another name.

    Source: histogram equalisation (Hummel 1977, Computer Graphics and Image Processing 6:184-195). Another way for
    chest films are energy bands (Philipsen et al. 2015, IEEE TMI 34:1965-1975), which are not built here.
    """
    check_grey(grey)
    if grey == "none":
        return film
    rows, columns = film.shape[-2:]
    pixels = film.numpy()
    middle = pixels[..., rows // 8 : rows - rows // 8, columns // 8 : columns - columns // 8]
    counts = np.bincount(middle.reshape(-1), minlength=256)
    darker = (np.cumsum(counts) - counts / 2) / middle.size
    return torch.from_numpy((darker * 255).round().astype(np.uint8)[pixels])
