"""From stored values to grey in [0, 1]: modality LUT, VOI LUT or window, polarity, once per grey level.

Source: DICOM PS3.3, C.7.6.3.1.2 (polarity), C.11.1 (modality LUT), C.11.2 (VOI LUT and window).
"""

from pathlib import Path

import numpy as np

from cliniqure_utils.dicom.header import UnreadableImage, get, numbers, padding_range
from cliniqure_utils.dicom.shrink import GreyScale


def grey_scale(path: Path, data, stored: np.ndarray, percentiles, notes: list[str]) -> GreyScale:
    """Choose how stored values become grey, from the header and the pixels.

    Args:
        path: Names the file in messages.
        data: pydicom data set.
        stored: Integers (rows, columns).
        percentiles: Two percentiles to clip at, or None for the header's LUT or window.
        notes: Gets what was odd.

    Raises:
        UnreadableImage: Every pixel is padding, or all have one value.
    """
    low, high = int(stored.min()), int(stored.max())
    padding = padding_range(data)
    has_padding = padding is not None and padding[0] <= high and padding[1] >= low
    # Only these cases need counts: every other mapping is monotonic, so the lowest and the highest level suffice.
    counted = has_padding or percentiles is not None or get(data, "ModalityLUTSequence") is not None
    stored, levels, counts = _levels(stored, low, high, counted)
    is_padding = np.zeros(len(levels), bool)
    if has_padding:
        is_padding = (levels >= padding[0]) & (levels <= padding[1])
    used = (counts > 0) & ~is_padding
    if not used.any():
        raise UnreadableImage(f"{path.name}: every pixel is padding")
    values = _modality(data, levels, notes)
    low, high = values[used].min(), values[used].max()
    if low == high:
        raise UnreadableImage(f"{path.name}: every pixel has the value {low:g}; the export is probably broken")
    grey = None
    if percentiles is not None:
        low, high = _percentiles(values[used], counts[used], percentiles)
        if high <= low:
            raise UnreadableImage(f"{path.name}: percentiles {percentiles} are the same grey value {low:g}")
    else:
        grey = _lookup_table(data, values, notes)
        if grey is not None and np.ptp(grey[used]) == 0 and not counted:  # both ends are equal: look between
            used = _levels(stored, int(levels[0]), int(levels[-1]), True)[2] > 0
        if grey is not None and np.ptp(grey[used]) == 0:
            notes.append("unusable VOI LUT; not used")
            grey = None
        if grey is None:
            grey = _window(data, values, used, notes)
    from_header = grey is not None
    if grey is None:
        grey = np.clip((values - low) / (high - low), 0, 1)
    if data.PhotometricInterpretation == "MONOCHROME1":
        grey = 1 - grey
    grey[is_padding] = 0
    if len(levels) <= int(levels[-1]) - int(levels[0]):  # levels with gaps: `stored` is an index
        levels = np.arange(len(levels))
    return GreyScale.of(stored, levels, grey, from_header)


def _levels(stored: np.ndarray, low: int, high: int, count: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stored levels, ascending, and how often each occurs; without `count` only the lowest and highest are looked for.

    Returns:
        (stored, levels, counts). Where few of many possible levels occur, only those are listed, and `stored` is the
        index of each pixel's level among them.
    """
    if high - low >= 2**17:
        levels, place, counts = np.unique(stored, return_inverse=True, return_counts=True)
        return place.reshape(stored.shape), levels, counts
    levels = np.arange(low, high + 1)
    counts = np.zeros(len(levels), np.int64)
    if not count:
        counts[[0, -1]] = 1
        return stored, levels, counts
    for block in np.array_split(stored, max(1, stored.size // 2**18)):  # small enough for the processor's cache
        counts += np.bincount(block.ravel().astype(np.intp) - low, minlength=len(levels))
    return stored, levels, counts


def _percentiles(values: np.ndarray, counts: np.ndarray, percentiles) -> np.ndarray:
    """np.percentile of values that occur `counts` times."""
    order = np.argsort(values)
    values, upto = values[order], np.cumsum(counts[order])
    rank = np.asarray(percentiles, float) / 100 * (upto[-1] - 1)
    below, above = (values[np.searchsorted(upto, f(rank), side="right")] for f in (np.floor, np.ceil))
    return below + (above - below) * (rank - np.floor(rank))


def keeps_under_averaging(data) -> bool:
    """True where grey values follow from the header alone, so that a film may be averaged before they are looked up."""
    tags = ("VOILUTSequence", "WindowCenter")
    return any(get(data, name) for name in tags) and padding_range(data) is None


def _modality(data, levels: np.ndarray, notes: list[str]) -> np.ndarray:
    """Stored levels to the scanner's values, float64."""
    if get(data, "ModalityLUTSequence"):
        looked_up, _ = _table(data.ModalityLUTSequence, levels)
        if looked_up is not None:
            return looked_up
        notes.append("unusable modality LUT; not used")
    slope, intercept = (
        numbers(get(data, n)) or [default] for n, default in (("RescaleSlope", 1), ("RescaleIntercept", 0))
    )
    if not np.isfinite([slope[0], intercept[0]]).all() or slope[0] == 0:
        notes.append(f"unusable rescale slope {slope[0]:g} and intercept {intercept[0]:g}; not used")
        return levels.astype(float)
    return levels * slope[0] + intercept[0]


def _table(sequence, values: np.ndarray) -> tuple[np.ndarray | None, float]:
    """Values looked up in a LUT sequence (PS3.3 C.11.1, C.11.2), and its largest entry; None where it is unusable."""
    try:
        n_entries, first, _ = (int(v) for v in sequence[0].LUTDescriptor)
        entries = sequence[0].LUTData
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return None, 0
    n_entries = n_entries or 2**16
    if first >= 2**15 and values.min() < 0:
        first -= 2**16  # a signed number whose sign got lost
    if isinstance(entries, bytes):
        entries = np.frombuffer(entries, "<u2" if len(entries) >= 2 * n_entries else np.uint8)
    entries = np.atleast_1d(np.asarray(entries)).astype(float)[:n_entries]
    if len(entries) < n_entries:
        return None, 0
    return entries[np.clip(np.rint(values) - first, 0, n_entries - 1).astype(int)], entries.max()


def _lookup_table(data, values: np.ndarray, notes: list[str]) -> np.ndarray | None:
    """Grey by the header's VOI LUT, in [0, 1]; None where there is none that is usable."""
    if not get(data, "VOILUTSequence"):
        return None
    looked_up, largest = _table(data.VOILUTSequence, values)
    if looked_up is None or largest <= 0:
        notes.append("unusable VOI LUT; not used")
        return None
    # The bits that the entries need: the number in the descriptor is often wrong and would leave the film near black.
    return looked_up / (2 ** int(largest).bit_length() - 1)


def _window(data, values: np.ndarray, used: np.ndarray, notes: list[str]) -> np.ndarray | None:
    """Grey by the header's first usable window, in [0, 1]; None where there is none (PS3.3 C.11.2.1.2)."""
    if "WindowCenter" not in data and "WindowWidth" not in data:
        return None
    centres, widths = numbers(get(data, "WindowCenter")), numbers(get(data, "WindowWidth"))
    function = str(get(data, "VOILUTFunction") or "LINEAR").strip().upper()
    linear = function not in ("SIGMOID", "LINEAR_EXACT")
    for centre, width in zip(centres, widths, strict=False):
        if not np.isfinite([centre, width]).all() or width <= (1 if linear else 0):
            continue
        if function == "SIGMOID":
            grey = 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
        elif linear:
            grey = np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
        else:
            grey = np.clip((values - centre) / width + 0.5, 0, 1)
        if np.ptp(grey[used]) > 0.02:
            return grey
    notes.append(f"unusable window (centre {centres or 'empty'}, width {widths or 'empty'}); the full range is used")
    return None
