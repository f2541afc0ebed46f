"""Films as DICOM files, in the kinds that scanners and archives produce. No name, no date, no real identity."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cliniqure_utils.cohort.projection import FULL_SCALE
from cliniqure_utils.runs import atomic_path

KINDS = (("native", 0.80), ("rle", 0.10), ("jpeg2000", 0.10))  # transfer syntax and its share
INVERTED = 0.25  # share of MONOCHROME1 files: the lowest value is white
DIGITAL_XRAY = "1.2.840.10008.5.1.4.1.1.1.1"  # SOP class: Digital X-Ray Image Storage - For Presentation
ODD_SHARE = 0.15  # of files with one value in the header that is legal but that careless code misreads
ODD = {
    "two windows": "WindowCenter and WindowWidth hold two values each",
    "table": "a VOI LUT Sequence in place of a window",
    "no window": "neither window nor table: the full range of the pixels counts",
    "sigmoid": "VOI LUT Function SIGMOID: the window is no straight line",
    "rescaled": "Rescale Intercept -1024, and a window in rescaled values",
    "padded": "Pixel Padding Value in strips at both sides",
    "implicit": "no value representations (Implicit VR Little Endian); native pixels only",
    "deflated": "the whole data set is compressed (Deflated Explicit VR Little Endian); native pixels only",
    "no age": "Patient's Age is empty and Patient's Sex is O (other)",
}


@dataclass(frozen=True)
class Header:
    """How one film is written; nothing of it depends on a finding.

    Attributes:
        kind: Transfer syntax: "native", "rle" or "jpeg2000".
        inverted: MONOCHROME1.
        odd: A key of ODD, or "".
        widened: Width of the window as a multiple of the film's own range of grey values.
    """

    kind: str = "native"
    inverted: bool = False
    odd: str = ""
    widened: float = 1.07


def draw_header(seed: int, index: int, visit: int = 0) -> Header:
    """The header of one film of a cohort."""
    rng = np.random.default_rng([seed, index, 12, visit])
    kind = str(rng.choice([name for name, _ in KINDS], p=[share for _, share in KINDS]))
    inverted, is_odd, odd = rng.random() < INVERTED, rng.random() < ODD_SHARE, str(rng.choice(list(ODD)))
    widened = float(rng.uniform(1.02, 1.12))
    return Header("native" if is_odd and odd in ("implicit", "deflated") else kind, inverted, odd * is_odd, widened)


def write_film(
    path: Path,
    pixels: np.ndarray,
    image_id: str,
    age: int,
    sex: str,
    pixel_mm: float,
    header: Header = Header(),  # noqa: B008  (frozen)
    patient: str = "",
) -> None:
    """Write one film as a DICOM file, atomically.

    Args:
        path: File to write.
        pixels: uint16 (rows, columns), 12 bits, dense tissue bright.
        image_id: Becomes, hashed, the unique identifiers.
        age, sex: Patient's age in years, "F" or "M".
        pixel_mm: Distance of two pixels at the detector.
        header: How to write it.
        patient: Becomes, hashed, the made-up patient code; default the image id.

    Raises:
        ValueError: An unknown kind or oddity.
    """
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import (
        DeflatedExplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        JPEG2000Lossless,
        RLELossless,
    )

    if header.kind not in dict(KINDS):
        raise ValueError(f"{path}: found transfer syntax {header.kind!r}, expected native, rle or jpeg2000")
    if header.odd and header.odd not in ODD:
        raise ValueError(f"{path}: found oddity {header.odd!r}, expected one of {', '.join(ODD)}")
    root = pydicom.uid.PYDICOM_ROOT_UID

    def uid(of: str) -> str:
        return root + str(int(hashlib.sha256(of.encode()).hexdigest()[:24], 16))

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = DIGITAL_XRAY, uid(f"film {image_id}")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SpecificCharacterSet, data.ImageType = "ISO_IR 100", ["ORIGINAL", "PRIMARY"]
    data.SOPClassUID, data.SOPInstanceUID = DIGITAL_XRAY, meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID, data.SeriesInstanceUID = uid(f"study {image_id}"), uid(f"series {image_id}")
    data.PatientID = f"SIM{hashlib.sha256(f'patient of {patient or image_id}'.encode()).hexdigest()[:12]}"
    is_vague = header.odd == "no age"
    data.PatientAge, data.PatientSex = ("", "O") if is_vague else (f"{age:03d}Y", sex)
    data.PatientIdentityRemoved, data.DeidentificationMethod = "YES", "simulated: there never was a patient"
    data.Manufacturer, data.ManufacturerModelName = "CliniQure", "simulated DR"
    data.Modality, data.BodyPartExamined, data.ViewPosition = "DX", "CHEST", "PA"
    data.PresentationIntentType, data.PatientOrientation = "FOR PRESENTATION", ["L", "F"]
    data.ImageLaterality, data.InstanceNumber, data.BurnedInAnnotation = "U", 1, "NO"
    data.KVP, data.DistanceSourceToDetector, data.DetectorType = 120, 1800, "DIRECT"
    data.PixelSpacing = data.ImagerPixelSpacing = [round(pixel_mm, 4)] * 2
    data.PixelIntensityRelationship, data.PixelIntensityRelationshipSign = "LOG", -1 if header.inverted else 1
    data.LossyImageCompression = "00"
    data.PresentationLUTShape = "INVERSE" if header.inverted else "IDENTITY"
    data.RescaleIntercept, data.RescaleSlope, data.RescaleType = -1024 if header.odd == "rescaled" else 0, 1, "US"
    stored = FULL_SCALE - pixels if header.inverted else pixels
    _set_window(data, pixels, header)
    if header.odd == "padded":
        stored = stored.copy()
        strip = max(1, stored.shape[1] // 40)
        data.PixelPaddingValue = FULL_SCALE if header.inverted else 0
        stored[:, :strip] = stored[:, -strip:] = data.PixelPaddingValue
    photometric = "MONOCHROME1" if header.inverted else "MONOCHROME2"
    data.set_pixel_data(np.ascontiguousarray(stored), photometric, bits_stored=12, generate_instance_uid=False)
    if header.kind == "rle":
        data.compress(RLELossless, generate_instance_uid=False)
    elif header.kind == "jpeg2000":
        data.compress(JPEG2000Lossless, generate_instance_uid=False)
    elif header.odd == "implicit":
        meta.TransferSyntaxUID = ImplicitVRLittleEndian
    elif header.odd == "deflated":
        meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    with atomic_path(path) as temporary:
        data.save_as(temporary, enforce_file_format=True)


def _set_window(data, pixels: np.ndarray, header: Header) -> None:
    """The reader's grey scale, such that both polarities show the same picture."""
    from pydicom.dataset import Dataset

    low, high = np.percentile(pixels, [0.5, 99.5])
    centre, width = round(float((low + high) / 2)), round(float((high - low) * header.widened))
    if header.odd == "no window":
        return
    if header.odd == "table":
        ramp = np.clip((np.arange(FULL_SCALE + 1) - centre) / width + 0.5, 0, 1)
        item = Dataset()
        item.LUTDescriptor, item.LUTExplanation = [FULL_SCALE + 1, 0, 16], "CHEST"
        entries = np.round((1 - ramp[::-1] if header.inverted else ramp) * 65535).astype("<u2")
        item.add_new("LUTData", "OW", entries.tobytes())
        data.VOILUTSequence = [item]
        return
    if header.odd == "sigmoid":
        data.VOILUTFunction, width = "SIGMOID", round(width * 0.8)
    # Mirrored for the other polarity (PS3.3 C.11.2.1.2: the linear function is symmetric about centre - 0.5).
    stored_centre = FULL_SCALE + 1 - centre if header.inverted else centre
    stored_centre += int(data.RescaleIntercept)
    data.WindowCenter, data.WindowWidth = stored_centre, width
    if header.odd == "two windows":
        data.WindowCenter, data.WindowWidth = [stored_centre, stored_centre], [width, round(width * 0.6)]
        data.WindowCenterWidthExplanation = ["NORMAL", "HARD"]
