"""Which of the given files are frontal chest films, by what their headers say."""

import re
from collections.abc import Iterable
from pathlib import Path

from cliniqure_utils import dicom
from cliniqure_utils.dicom.header import get, is_picture, read_dataset
from cliniqure_utils.project import CannotStart

RADIOGRAPHS = ("CR", "DX", "RG", "DR", "RF", "XR", "OT", "SC")  # OT and SC: converted films, as in RSNA's archive


def find_films(inputs: Iterable[str | Path], out_dir: str | Path | None = None) -> tuple[list[Path], int]:
    """The films among files and folders.

    Args:
        inputs: A file is taken as it is; of a folder, everything below it that is a film by its extension, or by its
            first bytes where it has none.
        out_dir: A folder below an input that is left out: results of an earlier call.

    Returns:
        (paths, number of other files that were passed over). A file that is reached twice is taken once.

    Raises:
        CannotStart: An input is not there.
    """
    out_dir = Path(out_dir).resolve() if out_dir else None
    found: dict[Path, Path] = {}
    passed = 0
    for entry in map(Path, inputs):
        if entry.is_file():
            found.setdefault(entry.resolve(), entry)
            continue
        if not entry.is_dir():
            raise CannotStart(f"there is no file or folder {entry}")
        for path in sorted(entry.rglob("*")):
            inside = out_dir is not None and path.resolve().is_relative_to(out_dir)
            if inside or path.name.startswith(".") or not path.is_file():
                continue
            if path.suffix.lower() in dicom.EXTENSIONS or (not path.suffix and _starts_as_dicom(path)):
                found.setdefault(path.resolve(), path)
            else:
                passed += 1
    return list(found.values()), passed


def _starts_as_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM does; needed because archives often name their files without an extension."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def refusal(path: str | Path) -> str | None:
    """Why a file is not a frontal chest film, by its header; None where the header allows it or says nothing.

    Only the header is looked at: whether the pixels show a chest is not checked.

    Raises:
        UnreadableImage: The header cannot be read.
    """
    path = Path(path)
    if is_picture(path):
        return None
    try:
        data = read_dataset(path, [], header_only=True)
    except dicom.UnreadableImage as error:
        if _starts_as_dicom(path):
            raise
        raise dicom.UnreadableImage(f"{path.name}: neither DICOM nor PNG nor JPEG by its content") from error
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
        # Free text may hold anything, a name too: it is searched, never repeated.
        for name in ("ViewCodeSequence", "SeriesDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription"):
            text = _words(data, name)
            if re.search(r"\b(LAT|LATERAL)\b", text) and not re.search(r"\b(AP|PA|ANTERO|POSTERO)", text):
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
