"""An archive is converted once, film by film; what cannot be read is listed, what broke is made anew."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cliniqure_utils import dicom
from cliniqure_utils.dicom.archive import run_guarded

RAMP = np.linspace(0, 4095, 64 * 48).reshape(64, 48).astype(np.uint16)  # 12 bits, dark to bright


def test_archive_keeps_going_resumes_and_lists_what_it_refused(write, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    names = ["a.b.c", " lead space", "tên ảnh 01", "x-ray (copy) #2"]
    for n, name in enumerate(names):
        write(source / f"{name}.dicom", uid=f"1.2.{n}", PatientID=f"P{n}")
    (source / "broken.dicom").write_bytes(b"nothing")
    paths = sorted(source.iterdir())
    index, rejected = dicom.convert_archive(paths, out, size=32, n_jobs=1)
    assert sorted(index.image_id) == sorted(names) and rejected.image_id.tolist() == ["broken"]
    assert {p.stem for p in out.glob("*.png")} == set(names)
    assert (index.height == 32).all() and (index.width == 24).all() and (index["rows"] == 64).all()
    assert index.patient_key.is_unique and not index.patient_key.str.startswith("P").any()
    with Image.open(out / "a.b.c.png") as image:
        assert image.mode == "L" and image.size == (24, 32)
    before = (out / "a.b.c.png").stat().st_mtime_ns
    (out / "tên ảnh 01.png").unlink()
    again, _ = dicom.convert_archive(paths, out, size=32, n_jobs=2)
    assert (out / "a.b.c.png").stat().st_mtime_ns == before, "what is there is kept"
    assert (out / "tên ảnh 01.png").is_file()
    assert again.image_id.tolist() == index.image_id.tolist()


def test_shared_identifiers_are_reported_and_nothing_is_overwritten(write, tmp_path):
    for name in ("one", "two"):
        write(tmp_path / f"{name}.dcm", uid="1.2.9")
    with pytest.warns(UserWarning, match="share the unique identifier"):
        index, _ = dicom.convert_archive(sorted(tmp_path.glob("*.dcm")), tmp_path / "out", 32, n_jobs=1)
    assert len(index) == 2 and index.duplicate_of.tolist() == ["", "one"]


def test_an_image_id_never_leaves_the_folder():
    for name in ("../x", "a/b", "a\\b", "", " ", "..", "a\0b"):
        assert not dicom.safe_name(name)
    assert dicom.safe_name("a.b.c")


def test_two_files_with_one_image_id(write, tmp_path):
    for folder, pixels in (("one", RAMP), ("two", 4095 - RAMP)):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "film.dcm", pixels)
    paths = [tmp_path / folder / "film.dcm" for folder in ("one", "two")]
    index, rejected = dicom.convert_archive(paths, tmp_path / "out", 32, n_jobs=2)
    assert index.image_id.tolist() == ["film"] and "second file" in rejected.reason[0]
    kept = np.asarray(Image.open(tmp_path / "out" / "film.png"))
    assert kept[0, 0] < kept[-1, -1], "the first file is the one that is kept"


def test_a_film_that_changed_is_converted_again_and_one_that_broke_loses_its_picture(write, tmp_path):
    path, out = tmp_path / "a.dcm", tmp_path / "out"
    write(path, WindowWidth=0, WindowCenter=5)
    index, _ = dicom.convert_archive([path], out, 32, n_jobs=1)
    assert "unusable window" in index.notes[0]
    before = np.asarray(Image.open(out / "a.png"))
    write(path, 4095 - RAMP)
    dicom.convert_archive([path], out, 32, n_jobs=1)
    assert (np.asarray(Image.open(out / "a.png")) != before).any()
    path.write_bytes(path.read_bytes()[:-3000])
    index, rejected = dicom.convert_archive([path], out, 32, n_jobs=1)
    assert index.empty and len(rejected) == 1 and not (out / "a.png").exists()


def test_a_film_that_ends_its_worker_is_refused_and_the_others_are_converted():
    paths = [Path(f"film{k:02d}.dcm") for k in range(24)]

    def work(path):  # a local function: workers get a copy and need not import this file
        if path.stem in ("film05", "film06"):
            os.abort()
        return path, {"image_id": path.stem}, None

    out = list(run_guarded(work, paths, n_jobs=2))
    assert [path for path, _, _ in out] == paths
    assert {path.stem: reason for path, _, reason in out if reason} == {
        name: f"{name}.dcm: the decoder ended the worker process; the file is damaged" for name in ("film05", "film06")
    }


def test_file_names_that_cannot_be_used_are_rows_of_the_rejected_table(write, tmp_path):
    good = write(tmp_path / "good.dcm")
    long = write(tmp_path / f"{'x' * 240}.dcm")
    paths = [long, good]
    try:
        no_text = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.dcm"))
        no_text.write_bytes(good.read_bytes())
        paths.append(no_text)
    except (OSError, UnicodeError):
        no_text = None  # a file system that takes text only
    index, rejected = dicom.convert_archive(paths, tmp_path / "out", 32, n_jobs=1)
    assert index.image_id.tolist() == ["good"]
    assert rejected.image_id.tolist() == ["x" * 240] + (["bad\\udcff"] if no_text else [])
    assert rejected.reason.str.contains("cannot be a file name").all()


@pytest.mark.parametrize("damage", ["note", "picture"])
def test_a_damaged_cache_is_made_again(write, tmp_path, damage):
    path, out = write(tmp_path / "a.dcm"), tmp_path / "out"
    dicom.convert_archive([path], out, 32, n_jobs=1)
    whole = (out / "a.png").read_bytes()
    if damage == "note":
        (out / ".facts" / "a.json").write_text('{"stamp": ')
    else:
        (out / "a.png").write_bytes(whole[:40])
    index, rejected = dicom.convert_archive([path], out, 32, n_jobs=1)
    assert len(index) == 1 and rejected.empty and (out / "a.png").read_bytes() == whole


def test_a_dask_cluster_converts_what_one_process_converts(write, tmp_path):
    from dask.distributed import Client, LocalCluster
    from joblib import parallel_config

    rng = np.random.default_rng(5)
    paths = [
        write(tmp_path / f"f{n}.dcm", rng.integers(0, 4096, (64, 48)).astype(np.uint16), uid=f"1.2.{n}")
        for n in range(40)
    ]
    paths.insert(7, tmp_path / "broken.dcm")
    paths[7].write_bytes(b"no film")
    one = dicom.convert_archive(paths, tmp_path / "one", 32, n_jobs=1)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster),
        parallel_config(backend="dask"),
    ):
        spread = dicom.convert_archive(paths, tmp_path / "spread", 32, n_jobs=-1)
    for found, wanted in zip(spread, one, strict=True):
        pd.testing.assert_frame_equal(found, wanted)
    assert len(one[0]) == 40 and one[1].source.tolist() == ["broken.dcm"]
    for picture in (tmp_path / "one").glob("*.png"):
        assert (tmp_path / "spread" / picture.name).read_bytes() == picture.read_bytes()


def test_hidden_files_are_passed_over(write, tmp_path):
    film = write(tmp_path / "a.dicom")
    for name in ("._a.dicom", ".a.dcm", "._b.png"):  # what macOS leaves on other disks
        film.with_name(name).write_bytes(b"\0\5\26\7Mac OS X")
    index, rejected = dicom.convert_archive(sorted(tmp_path.iterdir()), tmp_path / "out", 16, n_jobs=1)
    assert index.image_id.tolist() == ["a"] and rejected.empty
