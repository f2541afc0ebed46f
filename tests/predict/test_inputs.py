"""Which files are films: what is found in folders, and what a header refuses."""

import pytest
from pydicom.dataset import Dataset

from cliniqure_utils.predict.inputs import refusal


def coded(meaning: str) -> list[Dataset]:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "99TEST", meaning
    return [item]


@pytest.mark.parametrize(
    "tags, reason",
    [
        ({"Modality": "CT"}, "modality CT; expected a radiograph"),
        ({"ViewPosition": "LATERAL"}, "a lateral view (ViewPosition LATERAL)"),
        ({"ViewPosition": "LAO"}, "the view is LAO; expected a frontal one"),
        ({"ViewCodeSequence": coded("left lateral")}, "a lateral view by its ViewCodeSequence"),
        ({"SeriesDescription": "Chest_LAT Secretperson"}, "a lateral view by its SeriesDescription; expected"),
        *[({"SpecificCharacterSet": "ISO_IR 192", "SeriesDescription": text}, "a lateral view by its SeriesDescription")
          for text in ("Thorax seitlich", "Thorax de profil", "Tórax perfil", "Torace laterale", "Ngực nghiêng",
                       "Klatka piersiowa boczne", "грудная клетка, боковая", "胸部侧位", "Paediatric chest lateral")],
        *[({"PatientOrientation": way}, "a lateral view by its PatientOrientation")
          for way in (["A", "F"], ["P", "F"], ["AL", "F"], ["F", "A"], ["P", "H"])],
        ({"BodyPartExamined": "KNEE"}, "the body part is KNEE; expected CHEST"),
        ({"BodyPartExamined": "CHESTABDOMEN"}, "the body part is CHESTABDOMEN"),
        ({"AnatomicRegionSequence": coded("Hand")}, "the body part is HAND"),
        ({"BurnedInAnnotation": "YES"}, "the picture itself shows text about the patient"),
    ],
)  # fmt: skip
def test_the_header_refuses(tmp_path, write_dicom, grey, tags, reason):
    found = refusal(write_dicom(tmp_path / "x.dcm", grey, **tags))
    assert found.startswith("x.dcm: ") and reason in found and "Secretperson" not in found


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"Modality": "CR", "ViewPosition": "AP", "BodyPartExamined": "CHEST"},
        {"ViewPosition": "PA ERECT", "BodyPartExamined": "PORT CHEST", "BurnedInAnnotation": "NO"},
        {"SeriesDescription": "Chest PA and lateral", "BodyPartExamined": "THORAX"},
        {"SeriesDescription": "CHEST, PLATE 2", "BodyPartExamined": "UNKNOWN"},
        {"ViewCodeSequence": coded("postero-anterior")},
        {"SeriesDescription": "Thorax p.a. und seitlich", "PatientOrientation": ["L", "F"]},
        {"ViewPosition": "PA", "PatientOrientation": ["A", "F"]},
    ],
)
def test_the_header_allows(tmp_path, write_dicom, grey, tags):
    assert refusal(write_dicom(tmp_path / "x.dcm", grey, **tags)) is None
