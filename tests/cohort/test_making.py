"""The simulated cohort: the same for everyone, resumable, and its tables agree with each other."""

import hashlib
import json

import pandas as pd
import pydicom
import pytest

from cliniqure_utils import cohort
from cliniqure_utils.annotations import read_annotations, read_global_labels
from cliniqure_utils.cohort import anatomy as anatomy_module
from cliniqure_utils.cohort import making
from cliniqure_utils.cohort.anatomy import ensure_anatomy
from cliniqure_utils.dicom import read_header
from cliniqure_utils.vocabulary import BOX, FINDINGS, GLOBAL_LABELS, NO_FINDING, NO_FINDING_ID, PHYSIONET_TO_KAGGLE

SIZE, N, SEED = 96, 12, 5  # the cohort of conftest.py; patient 5 has a second film


def fingerprint(folder) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".cohort.lock"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_two_processes_make_the_same_files_as_one(made, make, tmp_path):
    settings = make(tmp_path, n_jobs=2)
    assert settings["anatomy"] == "phantom" and settings["n_patients"] == N
    prints = fingerprint(tmp_path)
    assert prints == fingerprint(made)
    assert len([name for name in prints if name.endswith(".dicom")]) == N + 1
    assert set(prints) >= {"train.csv", "truth.csv", "clinical.csv", "reports.jsonl", "cohort.json"}
    assert json.loads((tmp_path / "cohort.json").read_text()) == settings


def test_patients_do_not_depend_on_how_many_there_are(made, make, tmp_path):
    make(tmp_path, n_patients=2)
    few, many = fingerprint(tmp_path), fingerprint(made)
    films = [name for name in few if name.endswith(".dicom")]
    assert len(films) == 2 and all(few[name] == many[name] for name in films)


def test_interrupted_work_is_taken_up(made, make, tmp_path, monkeypatch):
    real, done = making._simulate_patient, []

    def die_at_seven(data_dir, anatomy, index, *rest):
        if index == 7:
            raise KeyboardInterrupt
        done.append(index)
        real(data_dir, anatomy, index, *rest)

    monkeypatch.setattr(making, "_simulate_patient", die_at_seven)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path)
    assert done == list(range(7)) and not (tmp_path / "cohort.json").exists()

    # A film whose file got lost is made again, though its part is there.
    (tmp_path / "train" / f"{making.image_id_of(SEED, 3)}.dicom").unlink()
    done.clear()
    monkeypatch.setattr(making, "_simulate_patient", lambda *args: (done.append(args[2]), real(*args)))
    make(tmp_path)
    assert done == [3, *range(7, N)]
    assert fingerprint(tmp_path) == fingerprint(made)


def test_a_finished_cohort_is_kept_and_repaired(made, make, tmp_path, monkeypatch):
    make(tmp_path)
    real, done = making._simulate_patient, []
    monkeypatch.setattr(making, "_simulate_patient", lambda *args: (done.append(args[2]), real(*args)))
    settings = cohort.ensure_cohort(
        tmp_path, N, SIZE, SEED, anatomy_dir="nowhere"
    )  # complete: not even the anatomy is looked for
    assert done == [] and settings["n_patients"] == N
    (tmp_path / "train" / f"{making.image_id_of(SEED, 4)}.dicom").unlink()
    (tmp_path / "train" / f"{making.image_id_of(SEED, 5, visit=1)}.dicom").unlink()
    half = tmp_path / "train" / f".0a1b2c3d.{making.image_id_of(SEED, 4)}.dicom"  # of a killed run
    half.write_bytes(b"half")
    make(tmp_path)
    assert not half.exists(), "or reading *.dicom would find it"
    assert done == [4, 5] and fingerprint(tmp_path) == fingerprint(made)


def test_other_settings_make_another_cohort(made, make, tmp_path):
    make(tmp_path, n_patients=2)
    make(tmp_path, n_patients=2, seed=SEED + 1)
    names = {path.stem for path in (tmp_path / "train").iterdir()}
    assert names == {making.image_id_of(SEED + 1, i) for i in range(2)}
    assert set(pd.read_csv(tmp_path / "train.csv").image_id) == names


@pytest.mark.parametrize("name", ["train.csv", "train/film.dicom", "annotations/annotations_train.csv"])
def test_real_data_is_never_touched(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("real")
    with pytest.raises(cohort.CohortError, match="looks like real data"):
        cohort.ensure_cohort(tmp_path, 2, SIZE)
    assert (tmp_path / name).read_text() == "real"
    assert [path.name for path in tmp_path.iterdir()] == [name.split("/")[0]]


def test_tables_agree_with_each_other(made):
    truth, readers_table = pd.read_csv(made / "truth.csv"), pd.read_csv(made / "train.csv")
    clinical = pd.read_csv(made / "clinical.csv", keep_default_na=False)
    reports = [json.loads(line) for line in (made / "reports.jsonl").read_text().splitlines()]
    ids = cohort.image_ids(SEED, N)
    assert len(set(ids)) == N + 1 and ids[5:7] == [making.image_id_of(SEED, 5, visit) for visit in (0, 1)]
    assert all(len(i) == 32 and set(i) <= set("0123456789abcdef") for i in ids)
    assert list(truth.columns) == ["image_id", "class_name", "class_id", *BOX, "side", "zone"]
    for table in (truth.image_id, readers_table.image_id, clinical.image_id, [r["image_id"] for r in reports]):
        assert list(dict.fromkeys(table)) == ids
    assert all(r["text"] == f"{r['findings']} {r['impression']}" for r in reports)

    annotations, rejected = read_annotations(made / "train.csv", dict.fromkeys(ids, (SIZE, SIZE)))
    assert len(rejected) == 0 and len(annotations) == len(readers_table)
    for table in (truth, readers_table):
        nothing = table.class_name == NO_FINDING
        assert table[BOX].isna().all(axis=1).equals(nothing)
        assert (nothing == (table.class_id == NO_FINDING_ID)).all()
        assert nothing.groupby(table.image_id).nunique().max() == 1  # never mixed on one film
        if table is readers_table:
            assert (table.groupby("image_id").rad_id.nunique() == 3).all()  # as in VinDr-CXR
        boxes = table[~nothing]
        assert boxes[BOX].ge(0).all(axis=None) and boxes[BOX].le(SIZE).all(axis=None)
        assert (boxes.x_min < boxes.x_max).all() and (boxes.y_min < boxes.y_max).all()
        assert list(boxes.class_id) == [FINDINGS.index(name) for name in boxes.class_name]
    assert set(truth.class_name) <= {*FINDINGS, NO_FINDING}
    assert (truth.groupby("image_id").size()[truth[truth.class_name == NO_FINDING].image_id] == 1).all()


def test_headers_hold_no_identity_and_one_patient_each(made):
    codes, ages = {}, 0
    for path in (made / "train").iterdir():
        header = pydicom.dcmread(path, stop_before_pixels=True)
        for element in header:
            assert element.VR not in ("PN", "DA", "TM", "DT"), f"{element.name} may identify a person"
        assert (header.Rows, header.Columns, header.BitsAllocated, header.BitsStored) == (SIZE, SIZE, 16, 12)
        assert header.ViewPosition == "PA" and header.PatientIdentityRemoved == "YES"
        assert path.stem not in str(header)
        ages += header.PatientAge.endswith("Y") and header.PatientSex in ("F", "M")
        codes.setdefault(read_header(path)["patient_key"], set()).add(path.stem)
    assert ages > 0.8 * N
    # Whole patients go into one split: the header alone says which films are one person's.
    assert sorted(codes.values(), key=len)[-1] == {making.image_id_of(SEED, 5, visit) for visit in (0, 1)}
    assert len(codes) == N


def test_physionet_layout_holds_the_same_readings(made, make, tmp_path):
    make(tmp_path, layout="physionet")
    assert not (tmp_path / "train.csv").exists()
    kaggle, _ = read_annotations(made / "train.csv")
    path = tmp_path / "annotations" / "annotations_train.csv"
    physionet, rejected = read_annotations(path)
    assert len(rejected) == 0
    columns = ["image_id", "rad_id", "class_id", *BOX]
    pd.testing.assert_frame_equal(physionet[columns], kaggle[columns])
    local = set(pd.read_csv(path).class_name)
    assert local <= {*PHYSIONET_TO_KAGGLE, NO_FINDING} and local & {"Lung cavity", "Lung cyst"}
    labels = read_global_labels(tmp_path / "annotations" / "image_labels_train.csv")
    assert len(labels) == 3 * (N + 1) and set(GLOBAL_LABELS) < set(labels.columns)
    with pytest.raises(cohort.CohortError, match="layout must be one of kaggle, physionet"):
        cohort.ensure_cohort(tmp_path / "x", layout="nih")


def test_the_phantom_makes_a_cohort_of_its_own(tmp_path, phantom, monkeypatch):
    monkeypatch.setattr(anatomy_module, "anatomy_from_phantom", lambda: phantom)  # the coarse one: seconds less
    settings = cohort.ensure_cohort(tmp_path / "phantom", 3, 64, 5, 1, tmp_path / "anatomy", anatomy="phantom")
    assert settings["anatomy"] == "phantom" and (tmp_path / "anatomy" / "phantom.npz").is_file()
    assert len(list((tmp_path / "phantom" / "train").glob("*.dicom"))) == len(cohort.image_ids(5, 3))
    with pytest.raises(ValueError, match="anatomy must be 'auto' or 'phantom', found 'ct'"):
        ensure_anatomy(tmp_path, "ct")
