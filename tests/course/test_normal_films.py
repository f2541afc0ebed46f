"""Notebook 01 on films that nobody found anything on, as they come from a stranger's folder."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cliniqure_utils.course.chain.runner import run_chain

pytestmark = [pytest.mark.chain, pytest.mark.timeout(600)]


def test_films_without_a_finding_hidden_files_and_an_empty_report(tmp_path):
    data, rng = tmp_path / "data", np.random.default_rng(0)
    (data / "train").mkdir(parents=True)
    names = [f"{n:03d}" for n in range(12)]
    for name in names:
        Image.fromarray(rng.integers(40, 200, (120, 100), dtype=np.uint8)).save(data / "train" / f"{name}.png")
        (data / "train" / f"._{name}.png").write_bytes(b"left by macOS")
    rows = [f"{name},No finding,14,R{reader},,,," for name in names for reader in (1, 2, 3)]
    head = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"
    (data / "train.csv").write_text("\n".join([head, *rows, ""]), encoding="utf-8")
    reports = [{"image_id": name, "findings": "Clear.", "impression": "", "text": "Clear."} for name in names]
    reports[2] |= {"findings": " ", "text": " "}
    (data / "reports.jsonl").write_text("\n".join(map(json.dumps, reports)), encoding="utf-8")
    run_chain(
        profile="smoke", run_dir=tmp_path / "run", data_dir=data, until="01", overrides={"01_preprocess.max_images": 11}
    )
    step = tmp_path / "run" / "01_preprocess"
    assert len(pd.read_csv(step / "index.csv")) == 11, "hidden files are not counted among max_images"
    rejected = pd.read_csv(step / "rejected.csv", dtype=str)
    of_reports = rejected[rejected.source == "reports.jsonl"]
    assert of_reports[["row", "image_id"]].to_numpy().tolist() == [["3", "002"]]
    assert json.loads((step / "metrics.json").read_text(encoding="utf-8"))["data/n_boxes_raw"] == 0
