"""The mark by which results of `cliniqure predict` are known again, so that they are never read as films."""

from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cliniqure_utils.dicom.header import get, is_picture, read_dataset

MAKER = "CliniQure course project"  # Manufacturer of DICOM objects, Software of pictures
ENDINGS = {
    "page": "_report.html",
    "report": "_report.json",
    "overlay": "_overlay.png",
    "capture": "_overlay.dcm",
    "structured": "_report.dcm",
}


def png_mark() -> PngInfo:
    """The mark of a PNG file."""
    info = PngInfo()
    info.add_text("Software", MAKER)
    return info


def is_own(path: Path) -> bool:
    """Whether a file is a result of an earlier call, by its mark; a file that cannot be opened is not."""
    try:
        if not is_picture(path):
            return str(get(read_dataset(path, [], header_only=True), "Manufacturer")) == MAKER
        with Image.open(path) as image:
            return image.info.get("Software") == MAKER
    except Exception:  # what is wrong with it is said where it is read
        return False
