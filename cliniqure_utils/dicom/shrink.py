"""Grey values of a film at the size wanted, in one pass over its pixels.

Each pixel's grey is looked up and added to the averages that it is part of in one loop: that takes less time than
storing the looked-up film in between. numba compiles the loop when a process first uses it, which takes 1 s
(`make bench ONLY=dicom` compares). Its cache would save that second, but write into the package's own folder.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import njit
from scipy.sparse import csr_array


class GreyScale(NamedTuple):
    """A film as indices into a table of greys: pixel p has grey[p].

    pixels: uint8, uint16 or uint32 (rows, columns); the loop is fastest where no index can be negative. grey: float32
    in [0, 1]. from_header: the greys are those of the header (LUT or window), not of the pixels' own range.
    """

    pixels: np.ndarray
    grey: np.ndarray
    from_header: bool

    @classmethod
    def of(cls, stored: np.ndarray, levels: np.ndarray, grey: np.ndarray, from_header: bool = False) -> "GreyScale":
        """Stored values of any integer type; `grey` of the `levels`, which are ascending and without a gap."""
        low, high = int(levels[0]), int(levels[-1])
        if stored.dtype in (np.uint8, np.uint16):
            pixels, place = stored, levels
        elif stored.dtype == np.int16:  # the bits of a negative number are those of itself plus 2**16
            pixels, place = stored.view(np.uint16), levels % 2**16
        else:
            pixels, place = (stored - low).astype(np.uint16 if high - low < 2**16 else np.uint32), levels - low
        table = np.zeros(int(place.max()) + 1, np.float32)
        table[place] = grey
        return cls(np.ascontiguousarray(pixels), table, from_header)


def shrink(film: GreyScale, shape: tuple[int, int], reduction: int, size: int | None) -> np.ndarray:
    """Shrink a film to a longest side of `size` by averaging areas; it is never enlarged.

    Args:
        film: Pixels, all of them or what `decode_pixels` made of them by `reduction` halvings.
        shape: Rows and columns of the whole film.
        reduction: See `decode_pixels`.
        size: Longest side wanted, in pixels; None for that of the film.

    Returns:
        float32 (height, width) in [0, 1].

    Raises:
        ValueError: A size below 1.
    """
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1 pixel, found {size}")
    longest = max(shape)
    if size is None or longest <= size:
        return film.grey[film.pixels]
    height, width = (max(1, round(side * (size / longest))) for side in shape)
    down = area_weights(shape[0], height, reduction)
    first, taps = _taps(shape[1], width, reduction)
    out = np.empty((height, width), np.float32)
    _average(film.pixels, film.grey, down.indptr, down.indices, down.data, first, taps, out)
    return np.clip(out, 0, 1, out=out)


@njit(nogil=True, fastmath=True)
def _average(pixels, grey, start, rows, shares, first, taps, out):
    """Fill `out`: of each of its rows, the weighted sum of pixel rows, then of that the weighted sums of columns.

    A pixel row on the border of two areas is part of both: it is looked up once and added to `row` and `next_row`.
    """
    n_columns, n_taps = pixels.shape[1], taps.shape[0]
    row = np.zeros(n_columns + n_taps, np.float32)
    next_row = np.zeros(n_columns + n_taps, np.float32)
    begun = False  # the first pixel row of this area was looked up with the area before
    for i in range(out.shape[0]):
        last = start[i + 1] - 1
        shared = i + 1 < out.shape[0] and rows[start[i + 1]] == rows[last]
        for k in range(start[i] + begun, start[i + 1]):
            line, share = pixels[rows[k]], shares[k]
            if shared and k == last:
                share_of_next = shares[start[i + 1]]
                for x in range(n_columns):
                    value = grey[line[x]]
                    row[x] += share * value
                    next_row[x] = share_of_next * value
            else:
                for x in range(n_columns):
                    row[x] += share * grey[line[x]]
        out[i] = 0
        for k in range(n_taps):
            for j in range(out.shape[1]):
                out[i, j] += taps[k, j] * row[first[j] + np.uint32(k)]
        row, next_row = next_row, row
        next_row[:] = 0
        begun = shared


@lru_cache(maxsize=32)
def area_weights(whole: int, new: int, reduction: int = 0) -> csr_array:
    """Sparse float32 (new, old): row i averages old samples over pixels [i, i + 1) * whole / new, by their share.

    Old samples are the `whole` pixels, or what `reduction` halvings leave of them, which stand off-centre. Pillow's box
    filter takes whole pixels only, which shows as uneven steps where the factor is near 1.
    """
    old = -(-whole // 2**reduction)
    edges = (np.arange(new + 1) * (whole / new) - 0.5) / 2**reduction + 0.5
    edges = np.clip(edges, 0, old)
    first = np.floor(edges[:-1] + 1e-9).astype(int)
    sample = first[:, None] + np.arange(int(np.ceil(whole / new / 2**reduction)) + 1)
    share = np.minimum(sample + 1, edges[1:, None]) - np.maximum(sample, edges[:-1, None])
    share = np.where((sample < old) & (share > 1e-6), share, 0)
    share /= share.sum(axis=1, keepdims=True)
    row = np.broadcast_to(np.arange(new)[:, None], sample.shape)
    used = share > 0
    return csr_array((share[used].astype(np.float32), (row[used], sample[used])), shape=(new, old))


@lru_cache(maxsize=32)
def _taps(whole: int, new: int, reduction: int) -> tuple[np.ndarray, np.ndarray]:
    """`area_weights` as the first sample of each area (new,) and the weights of that and those after it (taps, new)."""
    weights = area_weights(whole, new, reduction)
    n_taps = int(np.diff(weights.indptr).max())
    place = weights.indptr[:-1] + np.arange(n_taps)[:, None]
    inside = place < weights.indptr[1:]
    taps = np.where(inside, weights.data[np.where(inside, place, 0)], 0)
    return weights.indices[weights.indptr[:-1]].astype(np.uint32), np.ascontiguousarray(taps, np.float32)
