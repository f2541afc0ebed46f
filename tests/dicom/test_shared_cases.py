"""Awkward DICOM files of the shared cases, and what must come out; skipped where they are not beside the checkout."""

import json
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest

from cliniqure_utils import dicom

SHARED = Path(__file__).parents[3] / "shared" / "cases"


needs_cases = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared cases are not beside this checkout")


def shared(case, *names):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [dicom.load_cxr(SHARED / case / f"{name}.dicom") for name in names]


@needs_cases
def test_shared_files_that_must_be_equal():
    for case, plain, others, tolerance in (
        ("C01", "mono2", ["mono1"], 2 / 255),
        ("C02", "mono2_win", ["mono1_win"], 2 / 255),
        ("C06", "plain", ["width_zero", "centre_only", "both_empty", "width_negative"], 3 / 255),
        ("C10", "plain", ["rle12"], 0),
        ("C13", "plain", ["no_preamble_implicit", "no_transfer_syntax"], 1 / 255),
        ("C14", "plain", ["no_photometric", "odd_case"], 1e-6),
    ):
        wanted, *found = shared(case, plain, *others)
        for image in found:
            np.testing.assert_allclose(image, wanted, atol=tolerance)


@needs_cases
@pytest.mark.parametrize("case", ["C11", "C12", "C20", "C28"])
def test_shared_broken_files_are_refused_and_the_good_one_loads(case, tmp_path):
    paths = sorted((SHARED / case).glob("*.dicom"))
    index, rejected = dicom.convert_archive(paths, tmp_path, 64, n_jobs=1)
    assert index.image_id.tolist() == ["good"]
    assert len(rejected) == len(paths) - 1 and (rejected.reason.str.len() > 10).all()


@needs_cases
def test_shared_ages_and_sexes():
    table = json.loads((SHARED / "C22" / "expected.json").read_text())["table"]
    for name, wanted in table.items():
        header = dicom.read_header(SHARED / "C22" / name)
        assert header["sex"] == wanted["sex"]
        if not isinstance(wanted["age_years"], str):
            assert header["age_years"] == wanted["age_years"]


@needs_cases
def test_shared_probes_of_the_window():
    for case, name, key in (("C02", "mono2_win", "probe"), ("C03", "twelve_in_sixteen", "probe_if_windowed")):
        stored = pydicom.dcmread(SHARED / case / f"{name}.dicom").pixel_array
        (image,) = shared(case, name)
        for probe in json.loads((SHARED / case / "expected.json").read_text())[key]:
            at = np.unravel_index(np.abs(stored.astype(int) - probe["stored"]).argmin(), stored.shape)
            if stored[at] == probe["stored"]:
                assert abs(image[at] * 255 - probe["u8"]) <= 1
        order = np.argsort(stored, axis=None)
        assert (np.diff(image.ravel()[order]) >= 0).all() and len(np.unique(np.rint(image * 255))) >= 100


@needs_cases
@pytest.mark.parametrize("case", ["C01", "C02", "C03", "C06", "C10", "C13", "C14"])
def test_shared_films_have_a_bright_spine_and_marker_and_dark_lungs(case):
    expected = json.loads((SHARED / case / "expected.json").read_text())
    for name in expected["files"]:
        (image,) = shared(case, name.removesuffix(".dicom"))

        def mean(key, image=image):
            x0, y0, x1, y1 = expected[key]
            return image[y0:y1, x0:x1].mean()

        assert list(image.shape) == expected["shape"]
        assert mean("brighter_box") > mean("darker_box") and mean("marker_box_bright") > 0.6


@needs_cases
def test_shared_identical_films_are_reported_and_stay_together(tmp_path):
    expected = json.loads((SHARED / "C24" / "expected.json").read_text())
    with pytest.warns(UserWarning, match="share the unique identifier"):
        index, _ = dicom.convert_archive(sorted((SHARED / "C24").glob("*.dicom")), tmp_path, 64, n_jobs=1)
    assert len(index) == expected["n_out"] == len(list(tmp_path.glob("*.png")))
    twins = index[index.same_pixels_as != ""]
    assert {*twins.image_id, *twins.same_pixels_as} == set(expected["identical_pixels"])


@needs_cases
def test_shared_awkward_names(tmp_path):
    paths = [p for p in (SHARED / "C25").iterdir() if p.suffix.lower() in dicom.EXTENSIONS]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        index, rejected = dicom.convert_archive(paths, tmp_path, 64, n_jobs=1)
    stems = json.loads((SHARED / "C25" / "expected.json").read_text())["stems"]
    assert sorted(index.image_id) == sorted(stems) and rejected.empty
    assert all((tmp_path / f"{stem}.png").is_file() for stem in stems)
