"""Films as DICOM files, in the kinds that scanners and archives produce. No name, no date, no real identity."""

import hashlib
from pathlib import Path

import numpy as np

from cliniqure_utils.cohort.projection import FULL_SCALE
from cliniqure_utils.runs import atomic_path

KINDS = (("native", 0.80), ("rle", 0.10), ("jpeg2000", 0.10))  # transfer syntax and its share
INVERTED = 0.25  # share of MONOCHROME1 files: the lowest value is white
DIGITAL_XRAY = "1.2.840.10008.5.1.4.1.1.1.1"  # SOP class: Digital X-Ray Image Storage - For Presentation


def write_film(
    path: Path,
    pixels: np.ndarray,
    image_id: str,
    age: int,
    sex: str,
    pixel_mm: float,
    rng: np.random.Generator,
    inverted: bool | None = None,
    kind: str | None = None,
) -> None:
    """Write one film as a DICOM file, atomically.

    Args:
        path: File to write.
        pixels: uint16 (rows, columns), 12 bits, dense tissue bright.
        image_id: Becomes, hashed, the made-up patient code and the unique identifiers.
        age, sex: Patient's age in years, "F" or "M".
        pixel_mm: Distance of two pixels at the detector.
        rng: Draws polarity, transfer syntax and window, none of which depends on a finding.
        inverted, kind: Fix the polarity (True: MONOCHROME1) and the transfer syntax in place of a draw; for tests.
    """
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

    drawn_inverted, drawn_kind = rng.random() < INVERTED, _weighted(rng)
    widened = rng.uniform(1.02, 1.12)
    inverted = drawn_inverted if inverted is None else inverted
    kind = drawn_kind if kind is None else kind
    low, high = np.percentile(pixels, [0.5, 99.5])
    centre = round(float((low + high) / 2))

    code = hashlib.sha256(f"patient of {image_id}".encode()).hexdigest()
    uid = pydicom.uid.PYDICOM_ROOT_UID + str(int(code[:24], 16))
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = DIGITAL_XRAY, uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = DIGITAL_XRAY, uid
    data.PatientID = f"SIM{code[:12]}"
    data.PatientAge, data.PatientSex = f"{age:03d}Y", sex
    data.Modality, data.BodyPartExamined, data.ViewPosition = "DX", "CHEST", "PA"
    data.PixelSpacing = data.ImagerPixelSpacing = [round(pixel_mm, 4)] * 2
    data.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    # The reader's window, in stored values; mirrored so that both polarities show exactly the same picture
    # (PS3.3 C.11.2.1.2: the linear function is symmetric about centre - 0.5).
    data.WindowCenter = FULL_SCALE + 1 - centre if inverted else centre
    data.WindowWidth = round(float((high - low) * widened))
    data.set_pixel_data(
        FULL_SCALE - pixels if inverted else pixels,
        "MONOCHROME1" if inverted else "MONOCHROME2",
        bits_stored=12,
        generate_instance_uid=False,
    )
    if kind == "rle":
        data.compress(RLELossless, generate_instance_uid=False)
    elif kind == "jpeg2000":
        data.compress(JPEG2000Lossless, generate_instance_uid=False)
    elif kind != "native":
        raise ValueError(f"{path}: found transfer syntax {kind!r}, expected native, rle or jpeg2000")
    with atomic_path(path) as temporary:
        data.save_as(temporary, enforce_file_format=True)


def _weighted(rng: np.random.Generator) -> str:
    return str(rng.choice([name for name, _ in KINDS], p=[share for _, share in KINDS]))
