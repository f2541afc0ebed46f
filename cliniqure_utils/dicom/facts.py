"""What a file says about a film besides its grey values: size, view, patient facts."""

import hashlib
import re
from pathlib import Path

from PIL import Image

from cliniqure_utils.dicom.header import UnreadableImage, get, image_id_of, integer, is_picture, numbers, read_dataset
from cliniqure_utils.dicom.upright import AS_STORED, Turn, turn_of, turn_of_picture

# Patient ids that anonymisers write for everybody: the films are not one patient's.
_NO_PATIENT = {"", "0", "anon", "anonymous", "anonymized", "anonymised", "deidentified", "none", "na", "n/a", "unknown"}


def read_header(path: str | Path) -> dict:
    """Facts from the header, without reading pixels; what the header does not say is None, never a guess.

    Returns:
        image_id (the file's stem, exactly), rows and columns (of the upright film), turned (whether it is stored in
        another way and the header says so), age_years (float; months, weeks and days are converted, 000Y
        and unreadable ages are None), sex ("F", "M" or None), view, spacing_mm (row, column at the detector),
        transfer_syntax, photometric, bits_stored, uid_key, study_key and patient_key. The keys are hashes: no name, id
        or date leaves the file, but a hash of a short number can be found by trying all of them. Of a PNG or JPEG only
        the size is known.

    Raises:
        UnreadableImage: With file and reason.
    """
    path = Path(path)
    if is_picture(path):
        try:
            with Image.open(path) as image:
                return picture_facts(path, image.height, image.width, turn_of_picture(image, []))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UnreadableImage(f"{path.name}: not a readable picture ({error})") from error
    data = read_dataset(path, [], header_only=True)
    return dataset_facts(path, data, turn_of(data, []))


def picture_facts(path: Path, rows: int, columns: int, turn: Turn) -> dict:
    """The facts of `read_header` for a PNG or JPEG stored with so many rows and columns."""
    unknown = ("age_years", "sex", "view", "spacing_mm", "transfer_syntax", "photometric", "bits_stored", "uid_key",
               "study_key", "patient_key")  # fmt: skip
    rows, columns = turn.size(rows, columns)
    size = {"rows": rows, "columns": columns, "turned": turn != AS_STORED}
    return {"image_id": image_id_of(path), **size, **dict.fromkeys(unknown)}


def dataset_facts(path: Path, data, turn: Turn) -> dict:
    """The facts of `read_header` for a pydicom data set that has been read already."""

    def text(name):
        return str(get(data, name) or "").strip()

    sex, patient, uid = text("PatientSex").upper(), text("PatientID"), text("SOPInstanceUID")
    study = text("StudyInstanceUID")
    spacing = numbers(get(data, "PixelSpacing")) or numbers(get(data, "ImagerPixelSpacing"))
    rows, columns = turn.size(integer(data, "Rows"), integer(data, "Columns"))
    return {
        "image_id": image_id_of(path),
        "rows": rows,
        "columns": columns,
        "turned": turn != AS_STORED,
        "age_years": _age(text("PatientAge")),
        "sex": sex if sex in ("F", "M") else None,
        "view": text("ViewPosition").upper() or None,
        "spacing_mm": turn.size(*spacing) if len(spacing) == 2 and min(spacing) > 0 else None,
        "transfer_syntax": data.file_meta.TransferSyntaxUID.name,
        "photometric": text("PhotometricInterpretation") or None,
        "bits_stored": integer(data, "BitsStored"),
        "uid_key": _hash("image", uid) if uid else None,
        "study_key": _hash("study", study) if study else None,
        "patient_key": None if patient.lower() in _NO_PATIENT else _hash("patient", patient),
    }


def _hash(kind: str, text: str) -> str:
    return hashlib.sha256(f"cliniqure {kind} {text}".encode()).hexdigest()[:16]


def _age(text: str) -> float | None:
    """Years from an age string (PS3.5: three digits and D, W, M or Y); None where the unit is missing or it is 0."""
    match = re.fullmatch(r"(\d{1,3})([DWMY])", text.upper())
    if not match or int(match[1]) == 0:
        return None
    years = int(match[1]) / {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}[match[2]]
    return round(years, 2) if years <= 120 else None
