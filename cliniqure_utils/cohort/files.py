"""Films as DICOM files, in the kinds that scanners and archives produce. No name, no date, no real identity."""

import hashlib
from pathlib import Path

import numpy as np

from cliniqure_utils.cohort.projection import FULL_SCALE
from cliniqure_utils.runs import atomic_path

KINDS = (("native", 0.80), ("rle", 0.10), ("jpeg2000", 0.10))  # transfer syntax and its share
INVERTED = 0.25  # share of MONOCHROME1 files: the lowest value is white


def write_film(path: Path, pixels: np.ndarray, image_id: str, age: int, sex: str, rng: np.random.Generator) -> None:
    """Write one film as a DICOM file, atomically.

    Args:
        path: File to write.
        pixels: uint16 (rows, columns), 12 bits, dense tissue bright.
        image_id: Becomes, hashed, the made-up patient code and the unique identifiers.
        age, sex: Patient's age in years, "F" or "M".
        rng: Draws polarity, transfer syntax and window, none of which depends on a finding.
    """
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

    inverted = rng.random() < INVERTED
    kind = rng.choice([name for name, _ in KINDS], p=[share for _, share in KINDS])
    low, high = np.percentile(pixels, [0.5, 99.5])
    spread = rng.uniform(1.02, 1.12)

    code = hashlib.sha256(image_id.encode()).hexdigest()
    uid = pydicom.uid.PYDICOM_ROOT_UID + str(int(code[:24], 16))
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"  # digital X-ray, for presentation
    meta.MediaStorageSOPInstanceUID = uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, uid
    data.PatientID = f"SIM{code[:12]}"
    data.PatientAge, data.PatientSex = f"{age:03d}Y", sex
    data.Modality, data.BodyPartExamined, data.ViewPosition = "DX", "CHEST", "PA"
    data.Rows, data.Columns = pixels.shape
    spacing = round(310 / pixels.shape[1], 4)  # mm, at the detector
    data.ImagerPixelSpacing = [spacing, spacing]
    data.SamplesPerPixel, data.PixelRepresentation = 1, 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    centre = (low + high) / 2
    data.WindowCenter = round(float(FULL_SCALE - centre if inverted else centre))
    data.WindowWidth = round(float((high - low) * spread))
    data.set_pixel_data(
        FULL_SCALE - pixels if inverted else pixels,
        data.PhotometricInterpretation,
        bits_stored=12,
        generate_instance_uid=False,
    )
    if kind == "rle":
        data.compress(RLELossless, generate_instance_uid=False)
    elif kind == "jpeg2000":
        data.compress(JPEG2000Lossless, generate_instance_uid=False)
    with atomic_path(path) as temporary:
        data.save_as(temporary, enforce_file_format=True)
