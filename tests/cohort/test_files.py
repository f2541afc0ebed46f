"""Every kind of DICOM file that the cohort writes shows the same film."""

import numpy as np
import pydicom
import pytest

from cliniqure_utils.cohort.files import ODD, Header, draw_header, write_film
from cliniqure_utils.cohort.patient import simulate
from cliniqure_utils.dicom import load_cxr, read_header

SIZE = 96


@pytest.mark.parametrize(
    "kind, odd", [(k, "") for k in ("native", "rle", "jpeg2000")] + [("native", odd) for odd in ODD]
)
def test_every_kind_of_file_shows_the_same_film(phantom, tmp_path, kind, odd):
    pixels = simulate(phantom, [], [1], SIZE).pixels
    films = []
    for inverted in (False, True):
        path = tmp_path / f"{inverted}.dicom"
        write_film(path, pixels, "a" * 32, 50, "F", 3.0, Header(kind, inverted, odd))
        stored = pydicom.dcmread(path)
        assert stored.PhotometricInterpretation == ("MONOCHROME1" if inverted else "MONOCHROME2")
        inside = slice(4, -4) if odd == "padded" else slice(None)
        expected = 4095 - pixels if inverted else pixels
        np.testing.assert_array_equal(stored.pixel_array[:, inside], expected[:, inside])
        films.append(load_cxr(path)[:, inside])
        assert (read_header(path)["age_years"] is None) == (odd == "no age")
        assert "error" not in str(read_header(path))
    np.testing.assert_allclose(films[0], films[1], atol=2e-3)
    assert np.corrcoef(films[0].ravel(), pixels[:, inside].ravel())[0, 1] > 0.97  # dense tissue bright
    assert films[0].std() > 0.15  # the window suits the film


def test_headers_come_in_every_kind():
    headers = [draw_header(2024, i) for i in range(600)]
    assert {h.kind for h in headers} == {"native", "rle", "jpeg2000"} and {h.odd for h in headers} == {"", *ODD}
    assert 0.2 < np.mean([h.inverted for h in headers]) < 0.3
    assert 0.1 < np.mean([h.odd != "" for h in headers]) < 0.2
    assert all(h.kind == "native" for h in headers if h.odd in ("implicit", "deflated"))


@pytest.mark.parametrize(
    "header, message", [(Header(kind="gif"), "expected native, rle or jpeg2000"), (Header(odd="x"), "found oddity 'x'")]
)
def test_an_unknown_kind_of_file_is_refused(tmp_path, header, message):
    with pytest.raises(ValueError, match=message):
        write_film(tmp_path / "a", np.eye(8, dtype=np.uint16), "a", 5, "M", 1.0, header)
    assert not any(tmp_path.iterdir())
