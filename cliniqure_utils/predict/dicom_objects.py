"""The report as DICOM: a secondary capture of the overlay, and a structured report whose regions lie on it.

Both are new objects. Nothing of the source's header goes into them: no name, id, date or UID. The two belong to one
study of their own, so that a viewer shows the report's regions on the overlay. Findings carry codes of our own scheme,
since VinDr-CXR's labels ("Nodule/Mass", "Other lesion") are not concepts of SNOMED CT.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from cliniqure_utils.predict.own import MAKER
from cliniqure_utils.reports import clean_field
from cliniqure_utils.reports.reading import NOTHING, explained
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


def secondary_capture(overlay: np.ndarray, film_key: str, program: str, boxes: Sequence[Mapping]):
    """The overlay, uint8 (height, width, 3), as a Secondary Capture Image that any viewer opens.

    Args:
        boxes: The report's boxes: what the numbers on the overlay stand for, for viewers that show no report.
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
    image.ImageComments = " ".join([DISCLAIMER, *(_box_in_words(n, box) + "." for n, box in enumerate(boxes, start=1))])
    image.BodyPartExamined = "CHEST"
    _made_anew(image, program)
    return image


def structured_report(report: Mapping, boxes: np.ndarray, capture, content: str):
    """A Comprehensive SR (template 1500), read from the top: impression, findings, measurements, table text.

    The measurements stand in the reading order, urgent findings first and marked: one group per finding with its
    probability, one region per box. What is said of a disease in general has a section of its own.

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
        imaging_measurements=_measurements(report, boxes, capture, content),
    )
    root = document[0].ContentSequence
    measured = next(n for n, item in enumerate(root) if item.name == codes.DCM.ImagingMeasurements)
    root[measured:measured] = [
        _section(codes.DCM.Impressions, codes.DCM.Impression, report["impression"]),
        _section(codes.DCM.Findings, codes.DCM.Finding, _findings(report)),
    ]
    comment = f"{DISCLAIMER} Written by a program, seen by no physician.", made_by["learnt_from"]
    comment += (report["film"]["warning"],)
    for name, text in (
        (codes.DCM.Comment, " ".join(filter(None, comment))),
        (Code("VERIFIED", SCHEME, "Prose of the language model after the check"), _verified(report)),
        (Code("PROSE", SCHEME, "Prose of the language model, as written"), _prose(report)),
        (Code("CRUDE", SCHEME, "Crude report of the image-to-text model"), clean_field(report["crude_report"])),
        (Code("MODELS", SCHEME, "Run, commit and weights"), _models(made_by)),
    ):
        if text:
            root.append(_text(name, text))
    if report["report"]["recommendations"]:
        root.append(_section(codes.DCM.Recommendations, codes.DCM.Recommendation, _in_general(report)))
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


def _text(name, value: str):
    from highdicom import sr

    return sr.TextContentItem(name=name, value=value, relationship_type=sr.RelationshipTypeValues.CONTAINS)


def _section(heading, name, lines: Sequence[str]):
    """A container of text items, one a line."""
    from highdicom import sr

    section = sr.ContainerContentItem(name=heading, relationship_type=sr.RelationshipTypeValues.CONTAINS)
    section.ContentSequence = sr.ContentSequence([_text(name, line) for line in lines])
    return section


def _findings(report: Mapping) -> list[str]:
    """The findings as sentences, urgent ones marked, with the numbers of their boxes."""
    lines = []
    for entry in report["reading"]:
        numbers = ", ".join(str(box["number"]) for box in entry["boxes"])
        boxes = f" Box {numbers}." if len(entry["boxes"]) == 1 else f" Boxes {numbers}." if numbers else ""
        lines.append(f"{'Urgent: ' if entry['urgent'] else ''}{entry['sentence']}{boxes}")
    return lines or [NOTHING]


def _in_general(report: Mapping) -> list[str]:
    """Table text in the reading order, one line a finding, with its sources."""
    rows = {row["finding"]: row for row in report["report"]["recommendations"]}
    ordered = [rows[entry["name"]] for entry in report["reading"] if entry["name"] in rows]
    texts, _ = explained(ordered)
    return [
        f"{name}, in general, not of this patient. "
        + " ".join(f"{heading}: {said}" for heading, said in text["fields"].items())
        + f" Sources: {' ; '.join(text['sources'])}"
        for name, text in texts.items()
    ]


def _box_in_words(number: int, box: Mapping) -> str:
    return f"Box {number}: {box['class_name']}, {box['place']}"


def _measurements(report: Mapping, boxes: np.ndarray, capture, content: str) -> list:
    """Groups in the reading order: a finding that the classifier says, then its boxes; else "No finding"."""
    number, items = 0, []
    for entry in report["reading"]:
        if entry["probability"] is not None:
            items.append(_whole_film(entry["name"], entry["probability"], entry, capture, content))
        for box in entry["boxes"]:
            items.append(_region(box, entry, boxes[number], capture, content))
            number += 1
    normal = [found for found in report["findings"] if found["name"] == NO_FINDING and found["said"]]
    return items + [_whole_film(NO_FINDING, found["probability"], None, capture, content) for found in normal]


def _region(box: Mapping, entry: Mapping, corners: np.ndarray, capture, content: str):
    from highdicom import sr

    x_min, y_min, x_max, y_max = corners
    outline = np.array([[x_min, y_min], [x_max, y_min], [x_max, y_max], [x_min, y_max], [x_min, y_min]])
    limits = np.array([capture.Columns, capture.Rows], dtype=float)
    words = _box_in_words(box["number"], {"class_name": entry["name"], "place": box["place"]})
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid(content, f"box {box['number']}"), words),
        referenced_region=sr.ImageRegion(
            sr.GraphicTypeValues.POLYLINE,
            np.clip(outline, 0, limits),
            sr.SourceImageForRegion(capture.SOPClassUID, capture.SOPInstanceUID),
        ),
        finding_type=CODES[entry["name"]],
        finding_sites=[sr.FindingSite(ZONES[box["place"]])],
        measurements=[_number("SCORE", "Score of the detector", box["score"])],
        qualitative_evaluations=_judged(entry),
    )


def _whole_film(name: str, probability: float, entry: Mapping | None, capture, content: str):
    from highdicom import sr

    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid(content, name), f"Film: {name}"),
        finding_type=CODES[name],
        measurements=[_number("PROB", "Probability of the classifier", probability)],
        qualitative_evaluations=_judged(entry) if entry else None,
        source_images=[sr.SourceImageForMeasurementGroup(capture.SOPClassUID, capture.SOPInstanceUID)],
    )


def _judged(entry: Mapping) -> list:
    """How certain a finding is, and whether it is urgent, as coded answers."""
    from highdicom import sr

    word = entry["certainty"]
    answers = [(Code("CERTAINTY", SCHEME, "Certainty"), Code(word.upper().replace(" ", "-"), SCHEME, word))]
    if entry["urgent"]:
        answers.append((Code("URGENCY", SCHEME, "Urgency"), Code("URGENT", SCHEME, "urgent")))
    return [sr.QualitativeEvaluation(name=name, value=value) for name, value in answers]


def _number(value: str, meaning: str, number: float):
    from highdicom import sr

    return sr.Measurement(name=Code(value, SCHEME, meaning), value=float(number), unit=codes.UCUM.NoUnits)


def _verified(report: Mapping) -> str:
    if report["report"]["system"] == "template":
        return ""
    return clean_field(" ".join(entry["sentence"] for entry in report["report"]["verified"]), 4000)


def _prose(report: Mapping) -> str:
    return "" if report["report"]["system"] == "template" else clean_field(report["report"]["text"], 4000)


def _made_anew(data: Dataset, program: str) -> None:
    data.SoftwareVersions = program
    data.SpecificCharacterSet = "ISO_IR 192"  # a language model may write any character
    data.PatientIdentityRemoved = "YES"
    data.DeidentificationMethod = "Made anew; nothing of the source's header"
