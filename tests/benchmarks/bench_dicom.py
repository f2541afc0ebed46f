"""Reading films: ours beside the usual few lines of pydicom, numpy and Pillow, on files of VinDr-CXR's size."""

import io
import shutil
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
from common import Bench, cost
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.pixels import apply_voi_lut
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless

from cliniqure_utils import dicom

ROWS, COLUMNS = 2836, 2336  # the film that opens the paper's table 2
SHARED = Path(__file__).parents[3] / "shared" / "real" / "00000001_000.png"


def film_12_bits() -> np.ndarray:
    """A real film, enlarged to VinDr-CXR's size and given the noise of a detector."""
    if SHARED.is_file():
        grey = np.asarray(Image.open(SHARED).convert("L"), np.float32)
    else:
        from pydicom.data import get_testdata_file

        grey = pydicom.dcmread(get_testdata_file("RG1_UNCR.dcm", download=False)).pixel_array.astype(np.float32)
    grey = (grey - grey.min()) / np.ptp(grey) * 3800 + 100
    large = np.asarray(Image.fromarray(grey).resize((COLUMNS, ROWS), Image.BICUBIC))
    noise = np.random.default_rng(0).normal(0, 12, large.shape)
    return np.clip(np.rint(large + noise), 0, 4095).astype(np.uint16)


def write(path: Path, pixels: np.ndarray, photometric: str = "MONOCHROME2", syntax=None, lut: bool = False) -> Path:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3"
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PixelRepresentation = 1, 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PhotometricInterpretation = photometric
    if lut:
        table = pydicom.Dataset()
        table.LUTDescriptor = [4096, 0, 16]
        table.LUTData = np.uint16(65535 / (1 + np.exp(-(np.arange(4096) - 2048) / 500))).tobytes()
        table["LUTData"].VR = "OW"
        data.VOILUTSequence = [table]
    else:
        data.WindowCenter, data.WindowWidth = 2048, 3600
    data.PixelData = pixels.tobytes()
    data["PixelData"].VR = "OW"
    if syntax is not None:
        data.compress(syntax, generate_instance_uid=False)
    data.save_as(path, enforce_file_format=True)
    return path


def usual(path: Path, size: int) -> Image.Image:
    """What notebooks for this data set do, one film."""
    data = pydicom.dcmread(path)
    values = apply_voi_lut(data.pixel_array, data)
    if data.PhotometricInterpretation == "MONOCHROME1":
        values = np.amax(values) - values
    values = values - np.min(values)
    picture = Image.fromarray((values / np.max(values) * 255).astype(np.uint8))
    factor = size / max(picture.size)
    return picture.resize([round(side * factor) for side in picture.size])


def save(picture: Image.Image, **options) -> None:
    picture.save(io.BytesIO(), format="PNG", **options)


def usual_png(path: Path, size: int) -> None:
    save(usual(path, size))


def halved(stream: bytes, halvings: int) -> None:
    with Image.open(io.BytesIO(stream)) as picture:
        picture.reduce = halvings
        picture.load()


def decibel(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(-10 * np.log10(max(np.mean((found.astype(float) - wanted) ** 2), 1e-12)))


def main() -> None:
    bench = Bench("dicom")
    pixels = film_12_bits()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        files = {
            "native": write(folder / "native.dcm", pixels),
            "native, MONOCHROME1": write(folder / "mono1.dcm", 4095 - pixels, "MONOCHROME1"),
            "native, VOI LUT": write(folder / "lut.dcm", pixels, lut=True),
            "JPEG 2000 lossless": write(folder / "j2k.dcm", pixels, syntax=JPEG2000Lossless),
        }
        print(f"{COLUMNS} x {ROWS} pixels of 12 bits, one film; the usual way is pixel_array, apply_voi_lut, resize")
        for name, path in files.items():
            for size in (1024, 224):
                found = cost(partial(dicom.load_cxr, path, size), partial(usual, path, size), repeats=5)
                bench.compare_cost(f"load {name}, {size}", *found, "the usual way")
        native, packed = files["native"], files["JPEG 2000 lossless"]
        decode, decode_packed = (
            partial(lambda path: pydicom.dcmread(path).pixel_array, path) for path in (native, packed)
        )
        bench.state("floor: reading the bytes, native", "CPU ms", cost(native.read_bytes)[0].cpu)
        bench.state("floor: pixel_array, native", "CPU ms", cost(decode)[0].cpu)
        bench.state("floor: pixel_array, JPEG 2000", "CPU ms", cost(decode_packed, repeats=3)[0].cpu)
        stream = get_frame(pydicom.dcmread(packed).PixelData, 0, number_of_frames=1)
        for halvings in (1, 2, 3):
            bench.state(
                f"floor: Pillow, JPEG 2000 halved {halvings} times", "CPU ms",
                cost(partial(halved, stream, halvings), repeats=3)[0].cpu,
            )  # fmt: skip
        for size in (1024, 512, 224):
            whole = dicom.load_cxr(native, size)  # the same pixels, all of them
            found = decibel(dicom.load_cxr(packed, size), whole)
            bench.state(f"JPEG 2000 levels against full decode, {size}", "dB", found)

        def convert(path: Path, size: int) -> None:
            shutil.rmtree(folder / "out", ignore_errors=True)
            dicom.convert_archive([path], folder / "out", size, n_jobs=1)

        for name in ("native", "JPEG 2000 lossless"):
            for size in (1024, 224):
                found = cost(partial(convert, files[name], size), partial(usual_png, files[name], size))
                bench.compare_cost(f"convert {name} to PNG, {size}", *found, "the usual way and PNG")
        grey = Image.fromarray(np.uint8(dicom.load_cxr(native, 1024) * 255))
        found = cost(partial(save, grey, compress_level=dicom.PNG_LEVEL), partial(save, grey))
        bench.compare_cost("of that, the PNG itself, 1024", *found, "Pillow's own setting")
    bench.write()
