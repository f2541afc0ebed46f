"""Turning a film the right way up: the patient's feet below, of a frontal film the patient's left on the right.

Source: DICOM PS3.3, C.7.6.1.1.1 (PatientOrientation), and the Exif standard, CIPA DC-008, tag Orientation.
"""

import re
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image

from cliniqure_utils.dicom.header import get


class Turn(NamedTuple):
    """What makes a stored film upright: rows and columns swapped, then either of them reversed."""

    swapped: bool
    rows_reversed: bool
    columns_reversed: bool

    def size(self, rows, columns) -> tuple:
        """Rows and columns of the upright film, or what else belongs to one of each."""
        return (columns, rows) if self.swapped else (rows, columns)

    def applied(self, film: np.ndarray) -> np.ndarray:
        """The film (height, width), turned."""
        film = film.T if self.swapped else film
        film = film[::-1] if self.rows_reversed else film
        return np.ascontiguousarray(film[:, ::-1] if self.columns_reversed else film)


AS_STORED = Turn(False, False, False)
EXIF_TURNS = {
    2: Turn(False, False, True),
    3: Turn(False, True, True),
    4: Turn(False, True, False),
    5: Turn(True, False, False),
    6: Turn(True, False, True),
    7: Turn(True, True, True),
    8: Turn(True, True, False),
}


def directions(data) -> tuple[str, str] | None:
    """Where in the patient the rows and the columns of a DICOM film lead: two of A, P, R, L, H, F.

    None where PatientOrientation is missing or names no two directions. Of one between two axes, such as "LA", the
    first letter counts: the standard puts the larger part there.
    """
    value = get(data, "PatientOrientation")
    parts = re.split(r"\\", value) if isinstance(value, str) else list(value or ())
    parts = [str(part).strip().upper() for part in parts]
    if len(parts) != 2 or not all(re.fullmatch("[APRLHF]{1,3}", part) for part in parts):
        return None
    return parts[0][0], parts[1][0]


def turn_of(data, notes: list[str]) -> Turn:
    """How a DICOM film has to be turned; `notes` gets what was done, or why nothing can be."""
    found = directions(data)
    upward = [direction in "HF" for direction in found or ()]
    if sum(upward) != 1:
        if any(str(part).strip() for part in get(data, "PatientOrientation") or ()):
            notes.append("unusable PatientOrientation; the film is read as it is stored")
        return AS_STORED
    along_rows, along_columns = reversed(found) if upward[0] else found
    turn = Turn(upward[0], along_columns == "H", along_rows == "R")
    if turn != AS_STORED:
        notes.append(f"stored with PatientOrientation {'/'.join(found)}; turned upright")
    return turn


def turn_of_picture(image: Image.Image, notes: list[str]) -> Turn:
    """How a PNG or JPEG has to be turned by its Exif or XMP Orientation; `notes` gets what was done."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
        turn = EXIF_TURNS.get(value, AS_STORED)
    except Exception:  # a damaged tag fails in many ways; the pixels are as good as without it
        notes.append("unusable Exif data; the picture is read as it is stored")
        return AS_STORED
    if turn != AS_STORED:
        notes.append(f"stored with Exif Orientation {value}; turned upright")
    return turn
