"""A small DICOM file, written as a test wants it."""

import numpy as np
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

RAMP = np.linspace(0, 4095, 64 * 48).reshape(64, 48).astype(np.uint16)  # 12 bits, dark to bright


@pytest.fixture(scope="session")
def write():
    """Function: path, pixels, tags by keyword -> that path, with a DICOM file in it."""

    def file(path, pixels=RAMP, photometric="MONOCHROME2", syntax=None, **tags):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3"
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, tags.pop("uid", "1.2.3")
        data.Rows, data.Columns = pixels.shape
        data.SamplesPerPixel, data.PixelRepresentation = 1, 0
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
        data.PhotometricInterpretation = photometric
        data.PixelData = pixels.astype("<u2").tobytes()
        data["PixelData"].VR = "OW"
        for name, value in tags.items():
            setattr(data, name, value)
        if syntax is not None:
            data.compress(syntax, generate_instance_uid=False)
        data.save_as(path, enforce_file_format=True)
        return path

    return file


@pytest.fixture(scope="session")
def gdcm_compress():
    """Function: path, target, gdcm's name of a transfer syntax -> target, with the film compressed."""

    def compress(path, target, syntax):
        gdcm = pytest.importorskip("gdcm")
        reader = gdcm.ImageReader()
        reader.SetFileName(str(path))
        assert reader.Read()
        changer = gdcm.ImageChangeTransferSyntax()
        changer.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
        changer.SetInput(reader.GetImage())
        assert changer.Change()
        writer = gdcm.ImageWriter()
        writer.SetFile(reader.GetFile())
        writer.SetImage(changer.GetOutput())
        writer.SetFileName(str(target))
        assert writer.Write()
        return target

    return compress
