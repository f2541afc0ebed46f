"""Which of the given files are frontal chest films, by what their headers say."""

import re
from pathlib import Path

from cliniqure_utils import dicom
from cliniqure_utils.dicom.header import get, is_picture, read_dataset
from cliniqure_utils.dicom.upright import directions
from cliniqure_utils.predict.folders import starts_as_dicom
from cliniqure_utils.predict.own import MAKER, is_own

RADIOGRAPHS = ("CR", "DX", "RG", "DR", "RF", "XR", "OT", "SC")  # OT and SC: converted films, as in RSNA's archive
OWN_RESULT = "a result of an earlier predict; expected a film"
# What free text in capitals says of the view, in the languages of common scanners.
_LATERAL = re.compile(
    r"\b(LL|LAT|LATERA\w*|SEITL\w*|PROFIL|PERFIL|ZIJDEL\w*|BOCZN\w*|BOČN\w*|NGHI[EÊ]NG|БОКОВ\w*)\b|[侧側]位|側面|측면"
)
_FRONTAL = re.compile(r"\b(AP|PA|A\.P|P\.A|FRONTAL\w*|FACE|FRENTE)\b|\b(ANTERO|POSTERO)|正[位面]")


def refusal(path: str | Path) -> str | None:
    """Why a file is not a frontal chest film, by its header; None where the header allows it or says nothing.

    Only the header is looked at: whether the pixels show a chest is not checked.

    Raises:
        UnreadableImage: The header cannot be read.
    """
    path = Path(path)
    if is_picture(path):
        return f"{path.name}: {OWN_RESULT}" if is_own(path) else None
    try:
        data = read_dataset(path, [], header_only=True)
    except dicom.UnreadableImage as error:
        if starts_as_dicom(path):
            raise
        raise dicom.UnreadableImage(f"{path.name}: neither DICOM nor PNG nor JPEG by its content") from error
    if get(data, "Manufacturer") == MAKER:
        return f"{path.name}: {OWN_RESULT}"
    modality = coded_value(get(data, "Modality"))
    if modality and modality not in RADIOGRAPHS:
        return f"{path.name}: modality {modality}; expected a radiograph (CR or DX)"
    view = coded_value(get(data, "ViewPosition"))
    frontal = frontal_view(view)
    if re.fullmatch(r"LL|RL|LAT.*|.*LATERAL.*", view) and not frontal:
        return f"{path.name}: a lateral view (ViewPosition {view}); expected a frontal one (PA or AP)"
    if view and not frontal:
        return f"{path.name}: the view is {view}; expected a frontal one (PA or AP)"
    if not view:
        if set(directions(data) or ()) & {"A", "P"}:
            return f"{path.name}: a lateral view by its PatientOrientation; expected a frontal one (PA or AP)"
        # Free text may hold anything, a name too: it is searched, never repeated.
        for name in ("ViewCodeSequence", "SeriesDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription"):
            text = _words(data, name)
            if _LATERAL.search(text) and not _FRONTAL.search(text):
                return f"{path.name}: a lateral view by its {name}; expected a frontal one (PA or AP)"
    part = coded_value(get(data, "BodyPartExamined")) or coded_value(_words(data, "AnatomicRegionSequence"))
    chest = re.search(r"CHEST|THORA|LUNG", part) and not re.search(r"ABD|PELV|SPINE", part)
    if part and not chest and part not in ("UNKNOWN", "OTHER", "NONE"):
        return f"{path.name}: the body part is {part}; expected CHEST"
    if coded_value(get(data, "BurnedInAnnotation")) == "YES":
        return (
            f"{path.name}: its header says that the picture itself shows text about the patient; "
            "blank that text and save the film as PNG"
        )
    return None


def frontal_view(value) -> str | None:
    """PA or AP where a header's view position says so, else None."""
    found = re.search(r"\b(AP|PA)\b", coded_value(value))
    return found[1] if found else None


def coded_value(value) -> str:
    """A coded header value in capitals, without anything that is not a letter, a digit or a blank."""
    return re.sub(r"[^A-Z0-9 ]+", " ", str(value or "").upper()).strip()[:32]


def _words(data, name: str) -> str:
    """A free text, or the meaning of a coded sequence's first item, in capitals."""
    value = get(data, name)
    if name.endswith("Sequence"):
        value = get(value[0], "CodeMeaning") if value else None
    return str(value or "").upper().replace("_", " ")
