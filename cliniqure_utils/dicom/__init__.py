"""DICOM files of chest films: grey values, header facts, and the conversion of an archive to a cache.

Order of steps (DICOM PS3.3, C.7.6.3.1.2 and C.11.2): modality LUT, then VOI LUT or window, then polarity. They are
worked out once per grey level that occurs in the film and looked up per pixel. Decoders: pydicom with python-gdcm (JPEG
family, BSD), pyjpegls and pylibjpeg-openjpeg (MIT); RLE and deflate are pydicom's own.
"""

from cliniqure_utils.dicom.archive import PNG_LEVEL, convert_archive, safe_name
from cliniqure_utils.dicom.facts import read_header
from cliniqure_utils.dicom.header import EXTENSIONS, UnreadableImage, image_id_of
from cliniqure_utils.dicom.loading import load_cxr

__all__ = [
    "EXTENSIONS",
    "PNG_LEVEL",
    "UnreadableImage",
    "convert_archive",
    "image_id_of",
    "load_cxr",
    "read_header",
    "safe_name",
]
