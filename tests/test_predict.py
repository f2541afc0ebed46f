"""The prediction path on films: own pictures, broken files, and real X-rays where they are at hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cliniqure_utils import classification, cmn, detection, predict
from cliniqure_utils.runs import MissingInput

torch.set_num_threads(1)
REAL = Path(__file__).parents[2] / "shared" / "real"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run folder with untrained models of the demo's kind, only smaller."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    settings = dict(backbone="tiny", image_size=96, anchor_scales=[12, 48], neck="topdown", head_width=16)
    detector = detection.build_detector(**settings)
    detector.network.roi_heads.score_thresh = 0.0
    detection.save_detector(detector, folder / "02_detect", settings)
    classifier = classification.build_classifier("seresnet_tiny")
    classification.save_classifier(
        classifier, folder / "03_classify", {"model_name": "seresnet_tiny", "image_size": 96}
    )
    trunk = cmn.build_extractor("tiny")
    config = cmn.CMNConfig(visual_extractor="tiny", d_vf=trunk.channels, d_model=16, d_ff=16, num_heads=2, num_layers=1,
                           topk=4, cmm_size=8, cmm_dim=16, max_length=8)  # fmt: skip
    reporter = cmn.R2GenCMN(cmn.Tokenizer.from_reports(["the lungs are clear ."], threshold=1), config, trunk)
    cmn.save(reporter, folder / "04_crude_report")
    return folder


def check(film):
    assert list(film["probabilities"]) == list(classification.CLASSES)
    assert all(0 <= p <= 1 for p in film["probabilities"].values())
    boxes = film["boxes"]
    assert (boxes.x_max <= film["columns"] + 0.1).all() and (boxes.y_max <= film["rows"] + 0.1).all()
    assert boxes.class_name.isin(classification.CLASSES[:14]).all()
    assert isinstance(film["crude_report"], str)


def test_pictures_of_any_shape_get_findings_and_broken_files_a_reason(run_dir, tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (300, 200), dtype=np.uint8)).save(tmp_path / "tall.png")
    (tmp_path / "broken.dcm").write_bytes(b"nothing")
    films, rejected = predict.describe_films([tmp_path / "tall.png", tmp_path / "broken.dcm"], run_dir, "cpu")
    assert [f["source"] for f in films] == ["tall.png"] and rejected.source.tolist() == ["broken.dcm"]
    assert (films[0]["rows"], films[0]["columns"]) == (300, 200)
    check(films[0])


def test_a_run_without_models_is_named(tmp_path):
    with pytest.raises(MissingInput, match="run notebooks/02_detect.ipynb first"):
        predict.describe_films([], tmp_path)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real X-rays are not beside this checkout")
def test_real_x_rays(run_dir):
    paths = sorted([*REAL.glob("*.png"), *REAL.glob("*.dcm")])
    films, rejected = predict.describe_films(paths, run_dir, "cpu")
    assert len(films) == 3 and rejected.empty
    for film in films:
        assert min(film["rows"], film["columns"]) >= 512
        check(film)
