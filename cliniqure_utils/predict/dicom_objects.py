"""The report as DICOM: a secondary capture of the overlay, and a structured report whose regions lie on it.

Both are new objects. Nothing of the source's header goes into them: no name, id, date or UID. The two belong to one
study of their own, so that a viewer shows the report's regions on the overlay. Findings carry codes of our own scheme,
since VinDr-CXR's labels ("Nodule/Mass", "Other lesion") are not concepts of SNOMED CT.
"""

import hashlib
from collections.abc import Mapping

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from cliniqure_utils.predict.own import MAKER
from cliniqure_utils.reports import clean_field
from cliniqure_utils.vocabulary import CLASSES, DISCLAIMER, NO_FINDING

SCHEME = "99CLINIQURE"
CODES = {name: Code(f"CXR-{n:02d}", SCHEME, name) for n, name in enumerate(CLASSES)}
ZONES = {
    "midline": Code("ZONE-M", SCHEME, "midline"),
    **{
        f"{side} {zone} zone": Code(f"ZONE-{side[0]}{zone[0]}".upper(), SCHEME, f"{side} {zone} zone of the chest")
        for side in ("left", "right")
        for zone in ("upper", "mid", "lower")
    },
}


def uid(key: str, what: str) -> str:
    """A UID that is the same for the same key, and says nothing about the UIDs of the film's own file.

    A study belongs to a film, so its key is that of the file. Series and objects belong to what is in them: with other
    weights or another text they are others, as the standard wants it.
    """
    digest = hashlib.sha256(f"cliniqure {key} {what}".encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16])}"  # PS3.5 B.2: 2.25 and a number of 128 bits


def secondary_capture(overlay: np.ndarray, film_key: str, program: str):
    """The overlay, uint8 (height, width, 3), as a Secondary Capture Image that any viewer opens.

    Args:
        film_key: Of the film's file.
        program: Name and version of what made it.
    """
    from highdicom.sc import SCImage

    content = hashlib.sha256(film_key.encode() + overlay.tobytes()).hexdigest()
    image = SCImage(
        pixel_array=overlay,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),
        study_instance_uid=uid(film_key, "study"),
        series_instance_uid=uid(content, "overlay series"),
        series_number=1,
        sop_instance_uid=uid(content, "overlay"),
        instance_number=1,
        manufacturer=MAKER,
        patient_id=f"film-{film_key[:12]}",
        patient_name="Anonymous^",
    )
    image.SeriesDescription = "Boxes of a program. " + DISCLAIMER
    image.ImageComments = DISCLAIMER
    image.BodyPartExamined = "CHEST"
    _made_anew(image, program)
    return image


def structured_report(report: Mapping, boxes: np.ndarray, capture, content: str):
    """A Comprehensive SR (template 1500): one item per finding with its probability, one region per box.

    Args:
        report: From `writing.build_report`.
        boxes: The report's boxes (n, 4) in pixels of the capture.
        capture: The film's `secondary_capture`.
        content: A key of what the report says.
    """
    from highdicom import sr

    made_by = report["made_by"]
    device = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=uid("", "device"), name="cliniqure predict", manufacturer_name=MAKER, model_name=made_by["program"]
        ),
    )
    document = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=device),
        procedure_reported=Code("CXR", SCHEME, "Chest radiograph, computer reading for teaching"),
        imaging_measurements=[*_regions(report, boxes, capture, content), *_findings(report, capture, content)],
    )
    comment = f"{DISCLAIMER} Written by a program, seen by no physician.", made_by["learnt_from"]
    comment += (report["film"]["warning"],)
    for name, text in (
        (codes.DCM.Comment, " ".join(filter(None, comment))),
        (Code("FACTS", SCHEME, "Facts from the models"), report["report"]["facts"]),
        (Code("PROSE", SCHEME, "Prose of the language model, unchecked sentences included"), _prose(report)),
        (Code("CRUDE", SCHEME, "Crude report of the image-to-text model"), clean_field(report["crude_report"])),
        (Code("MODELS", SCHEME, "Run, commit and weights"), _models(made_by)),
    ):
        if text:
            document[0].ContentSequence.append(
                sr.TextContentItem(name=name, value=text, relationship_type=sr.RelationshipTypeValues.CONTAINS)
            )
    result = sr.ComprehensiveSR(
        evidence=[capture],
        content=document[0],
        series_instance_uid=uid(content, "report series"),
        series_number=2,
        sop_instance_uid=uid(content, "report"),
        instance_number=1,
        manufacturer=MAKER,
        is_complete=False,
        is_final=False,
        is_verified=False,
        series_description="Report of a program. " + DISCLAIMER,
    )
    _made_anew(result, made_by["program"])
    return result


def _models(made_by: Mapping) -> str:
    weights = [f"{name} {digest}" for name, digest in made_by["weights"].items()]
    return "; ".join([f"run {made_by['run']}", f"commit {made_by['commit'] or 'unknown'}", *weights])


def _regions(report: Mapping, boxes: np.ndarray, capture, content: str) -> list:
    from highdicom import sr

    items = []
    for number, (box, (x_min, y_min, x_max, y_max)) in enumerate(zip(report["boxes"], boxes, strict=True), start=1):
        outline = np.array([[x_min, y_min], [x_max, y_min], [x_max, y_max], [x_min, y_max], [x_min, y_min]])
        limits = np.array([capture.Columns, capture.Rows], dtype=float)
        items.append(
            sr.PlanarROIMeasurementsAndQualitativeEvaluations(
                tracking_identifier=sr.TrackingIdentifier(
                    uid(content, f"box {number}"), f"Box {number}: {box['class_name']}, {box['place']}"
                ),
                referenced_region=sr.ImageRegion(
                    sr.GraphicTypeValues.POLYLINE, np.clip(outline, 0, limits), sr.SourceImageForRegion(
                        capture.SOPClassUID, capture.SOPInstanceUID
                    ),
                ),
                finding_type=CODES[box["class_name"]],
                finding_sites=[sr.FindingSite(ZONES[box["place"]])],
                measurements=[_number("SCORE", "Score of the detector", box["score"])],
            )
        )  # fmt: skip
    return items


def _findings(report: Mapping, capture, content: str) -> list:
    """Findings above their threshold; "No finding" where there is none and no box either."""
    from highdicom import sr

    stated = [e for e in report["findings"] if e["said" if e["name"] == NO_FINDING else "present"]]
    return [
        sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(uid(content, entry["name"]), f"Film: {entry['name']}"),
            finding_type=CODES[entry["name"]],
            measurements=[_number("PROB", "Probability of the classifier", entry["probability"])],
            source_images=[sr.SourceImageForMeasurementGroup(capture.SOPClassUID, capture.SOPInstanceUID)],
        )
        for entry in stated
    ]


def _number(value: str, meaning: str, number: float):
    from highdicom import sr

    return sr.Measurement(name=Code(value, SCHEME, meaning), value=float(number), unit=codes.UCUM.NoUnits)


def _prose(report: Mapping) -> str:
    return "" if report["report"]["system"] == "template" else clean_field(report["report"]["text"], 4000)


def _made_anew(data: Dataset, program: str) -> None:
    data.SoftwareVersions = program
    data.SpecificCharacterSet = "ISO_IR 192"  # a language model may write any character
    data.PatientIdentityRemoved = "YES"
    data.DeidentificationMethod = "Made anew; nothing of the source's header"
