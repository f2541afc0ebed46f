"""The card: what is in pretrained.json, and what a demo run reached, for people."""

import json

import pytest
import torch

from cliniqure_utils import pretrained
from cliniqure_utils.pretraining import card
from cliniqure_utils.project import MissingInput


@pytest.fixture()
def parts(tmp_path):
    folder = tmp_path / "pretrained"
    seen = {"films": 1234, "epochs": 5, "minutes": 7.4, "hours": 0.5, "seed": 9, "commit": "abc", "image_size": 64}
    for part in pretrained.PARTS:
        pretrained.save_part(part, {"w": torch.zeros(4, 4)}, seen, folder)
    return folder


def test_scores_of_a_run_and_of_real_films_are_entered(parts, tmp_path):
    step = tmp_path / "run" / "03_classify"
    step.mkdir(parents=True)
    (step / "metrics.json").write_text(json.dumps({"classification/macro_auroc": 0.91234, "other/number": 1.0}))
    row = {"finding": "any finding", "films": 40, "positives": 9, "auroc": 0.61234, "low": 0.5, "high": 0.7}
    rows = [
        row | {"view": "all"},
        row | {"view": "PA", "auroc": 0.1},
        row | {"finding": "ILD", "view": "all", "auroc": None},
    ]
    (tmp_path / "real.json").write_text(json.dumps(rows))
    card.enter_scores(tmp_path / "run", tmp_path / "real.json", parts)
    eyes = pretrained.settings_of("eyes", parts)
    assert eyes["scores"] == {"classification/macro_auroc": 0.912}
    assert eyes["real"] == {"n_films": 40, "any_finding": [0.612, 0.5, 0.7]}
    text = (parts / "card.md").read_text(encoding="utf-8")
    for said in ("0.912", "40 real films", "| any finding | 0.61 | 0.50 to 0.70 |", "1,234", "no patient", "CC BY 3.0"):
        assert said in text, said
    assert "0.10" not in text and "other/number" not in text
    pretrained.load_part("eyes", parts)  # the entry leaves the weights as they are


def test_without_real_films_the_card_says_nothing_of_them(parts):
    card.write_card(parts)
    assert "real films" not in (parts / "card.md").read_text(encoding="utf-8")


def test_an_unfinished_run_is_no_source_of_scores(parts, tmp_path):
    with pytest.raises(MissingInput, match=r"run holds no metrics.json; finish a demo run first"):
        card.enter_scores(tmp_path / "run", tmp_path / "real.json", parts)
