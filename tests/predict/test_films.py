"""Films through a run's models: the run's own numbers, any kind of picture, broken files."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cliniqure_utils.predict import films as films_module
from cliniqure_utils.predict.films import stream_films
from cliniqure_utils.project import MissingInput
from cliniqure_utils.runs import read_jsonl, read_table
from cliniqure_utils.vocabulary import BOX, CLASSES, FINDINGS

REAL = Path(__file__).parents[3] / "shared" / "real"


def check(film):
    assert list(film["probabilities"]) == list(CLASSES)
    assert all(0 <= p <= 1 for p in film["probabilities"].values())
    boxes = film["boxes"]
    assert (boxes.x_max <= film["columns"] + 0.1).all() and (boxes.y_max <= film["rows"] + 0.1).all()
    assert boxes.class_name.isin(FINDINGS).all()
    assert isinstance(film["crude_report"], str)


def test_a_film_of_the_run_gets_the_run_s_own_answers(finished_run, run_dir):
    """Same cache size and grey scale, mirrored too, calibrated, same beams: notebooks 02, 03 and 04 wrote the same."""
    probabilities = read_table(run_dir / "03_classify/probabilities.csv").set_index("image_id")
    boxes = read_table(run_dir / "02_detect/predictions.csv")
    crude = {row["image_id"]: row["text"] for row in read_jsonl(run_dir / "04_crude_report/crude_reports.jsonl")}
    seen = []
    for path, film, reason in stream_films(sorted((finished_run / "films").iterdir()), run_dir, "cpu"):
        assert reason is None, reason
        seen.append(film["image_id"])
        expected = probabilities.loc[film["image_id"]].to_numpy()
        np.testing.assert_allclose(list(film["probabilities"].values()), expected, atol=2e-5)
        own = boxes[boxes.image_id == film["image_id"]].reset_index(drop=True)
        assert len(film["boxes"]) == len(own)
        for (
            box
        ) in own.itertuples():  # in another batch the last digit may differ, and with it the order of equal scores
            same = film["boxes"][film["boxes"].class_name == box.class_name]
            moved = (same[BOX] - [box.x_min, box.y_min, box.x_max, box.y_max]).abs().max(axis=1)
            assert ((moved < 0.03) & ((same.score - box.score).abs() < 2e-5)).any(), box
        assert film["crude_report"] == crude[film["image_id"]], path.name
    assert seen == list(probabilities.index)


def test_pictures_of_any_shape_get_findings_and_broken_files_a_reason(run_dir, tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (300, 200), dtype=np.uint8)).save(tmp_path / "tall.png")
    (tmp_path / "broken.dcm").write_bytes(b"nothing")
    (_, film, _), (broken, nothing, reason) = stream_films([tmp_path / "tall.png", tmp_path / "broken.dcm"], run_dir)
    assert nothing is None and broken.name == "broken.dcm" and reason.startswith("broken.dcm: neither DICOM nor")
    assert (film["source"], film["rows"], film["columns"]) == ("tall.png", 300, 200)
    assert film["shown"].shape == (300, 200)
    check(film)


def test_every_process_that_loads_the_models_keeps_freed_memory(finished_run, run_dir, tmp_path, monkeypatch):
    """A worker process does not come through `predict.command`."""
    asked = []
    monkeypatch.setattr(films_module, "keep_freed_memory", lambda: asked.append(True))
    shutil.copytree(run_dir, tmp_path / "run")  # models of another folder are loaded anew
    paths = sorted((finished_run / "films").iterdir())[:2]
    assert all(reason is None for _, _, reason in stream_films(paths, tmp_path / "run", "cpu"))
    assert asked == [True]


def test_a_run_without_models_is_named(tmp_path):
    with pytest.raises(MissingInput, match="run notebooks/02_detect.ipynb first"):
        list(stream_films([], tmp_path))


@pytest.mark.skipif(not REAL.is_dir(), reason="the real X-rays are not beside this checkout")
def test_real_x_rays(run_dir):
    paths = sorted([*REAL.glob("*.png"), *REAL.glob("*.dcm")])
    films = [film for _, film, _ in stream_films(paths, run_dir, "cpu")]
    assert len(films) == 3 and None not in films
    for film in films:
        assert min(film["rows"], film["columns"]) >= 512 and max(film["shown"].shape) <= 1024
        check(film)
