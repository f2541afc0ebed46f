"""What the report model learns from: what the eyes saw, once per appearance, and reports in one order."""

import json
import re

import numpy as np
import pytest
import torch

from cliniqure_utils import cmn, labeller, pretrained
from cliniqure_utils.cohort.report_text import write_report
from cliniqure_utils.pretraining import films, report
from cliniqure_utils.vision import classification
from cliniqure_utils.vision.trunks import normalise
from cliniqure_utils.vocabulary import FINDINGS


def sentences(text):
    return re.split(r"(?<=\.) ", text)


def lesion(name, zone="upper", kind=""):
    return {"class_name": name, "side": "left", "zone": zone, "extent": 0.5, "kind": kind}


def test_a_report_says_the_same_in_one_order():
    findings = [lesion("Pneumothorax"), lesion("Nodule/Mass"), lesion("Cardiomegaly")]
    for number in range(30):
        text = report.report_of(findings, [1, number])
        plain = write_report(findings, np.random.default_rng([1, number]))["findings"]
        assert sorted(sentences(text)) == sorted(sentences(plain))
        stated = [np.flatnonzero(labeller.label_matrix([sentence])[0]) for sentence in sentences(text)]
        assert [FINDINGS[n] for row in stated[:3] for n in row] == ["Cardiomegaly", "Nodule/Mass", "Pneumothorax"]
        assert not any(len(row) for row in stated[3:])


@pytest.fixture()
def eyes():
    torch.manual_seed(3)
    return classification.build_classifier("seresnet_tiny", heatmap_weight=2.0).eval()


@pytest.fixture()
def small(monkeypatch):
    sizes = dict(d_model=16, d_ff=16, num_heads=2, num_layers=1, topk=4, cmm_size=8, cmm_dim=16, max_length=12)
    monkeypatch.setattr(report, "SIZES", report.SIZES | sizes)
    monkeypatch.setattr(report, "HELD_OUT", 3)


@pytest.mark.filterwarnings("ignore")
def test_the_model_reads_films_as_they_are_and_is_kept_whole(shards, eyes, small, tmp_path):
    before = {name: value.clone() for name, value in eyes.state_dict().items()}
    model, history = report.teach_reporter(shards, eyes.state_dict(), tmp_path / "work", epochs=2, seed=4)
    assert len(history) == 2 and history.loss.is_monotonic_decreasing and history.finding_f1.between(0, 1).all()
    assert not list((tmp_path / "work").rglob("*.npy")), "what the eyes saw is not needed any more"
    for name, value in model.visual_extractor.model.eyes.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} was trained"

    pixels = films.read_shard(shards[0])[0]
    look = model.config.grey, model.config.image_size
    images = torch.stack([cmn.preprocess(film, *look) for film in pixels])
    pretrained.save_part("report", model.state_dict(), report.settings_of_reporter(model, history), tmp_path)
    again = cmn.load_pretrained(tmp_path)
    assert again.tokenizer.words == model.tokenizer.words and again.config == model.config
    recorded = json.loads((tmp_path / "pretrained.json").read_text())["report"]["history"]
    assert [row["epoch"] for row in recorded] == [1, 2]
    assert again.generate(images, beam_size=2).shape == (len(pixels), 12)


@pytest.mark.filterwarnings("ignore")
def test_a_stopped_run_goes_on_and_ends_the_same(shards, eyes, small, tmp_path, monkeypatch):
    whole, _ = report.teach_reporter(shards, eyes.state_dict(), tmp_path / "whole", epochs=2, seed=4)

    class Stopped(Exception):
        pass

    def stop(*_, **__):
        raise Stopped

    work, looked = tmp_path / "stopped", report.SimulatedFilms.__getitem__
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(report.training, "fit", stop)
        report.teach_reporter(shards, eyes.state_dict(), work, epochs=2, seed=4)
    monkeypatch.setattr(report.SimulatedFilms, "__getitem__", stop)
    again, _ = report.teach_reporter(shards, eyes.state_dict(), work, epochs=2, seed=4)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    other = {name: value + 1 for name, value in eyes.state_dict().items() if value.is_floating_point()}
    with pytest.raises(Stopped):  # other eyes see something else
        report.teach_reporter(shards, eyes.state_dict() | other, work, epochs=2, seed=4)
    monkeypatch.setattr(report.SimulatedFilms, "__getitem__", looked)


def test_items_change_with_the_epoch_and_held_out_ones_do_not():
    rng = np.random.default_rng(0)
    features = [rng.standard_normal((4, 9, 5)).astype(np.float16) for _ in range(2)]
    findings = [[lesion("Cardiomegaly")], [], [lesion("Pneumothorax")], [lesion("Nodule/Mass")]]
    tokenizer = cmn.Tokenizer.from_reports([report.report_of(f, [k]) for f in findings for k in range(99)], threshold=1)
    scaling = torch.zeros(5), torch.full((5,), 2.0)
    data = report.SeenFilms(features, np.array([1, 3]), findings, scaling, tokenizer, 6)
    asked = report.SeenFilms(features, np.array([1, 3]), findings, scaling, tokenizer, None)
    first, kept = data[1], asked[1]
    assert len(data) == 2 and first["image_id"] == "3" and torch.equal(first["ids"], data[1]["ids"])
    np.testing.assert_allclose(kept["features"].numpy(), features[0][3].astype(np.float32) / 2)
    looks, texts = set(), set()
    for epoch in range(6):
        data.set_epoch(epoch), asked.set_epoch(epoch)
        looks.add(data[1]["features"].sum().item()), texts.add(tokenizer.decode(data[1]["ids"][1:]))
        assert torch.equal(asked[1]["features"], kept["features"]) and torch.equal(asked[1]["ids"], kept["ids"])
    assert len(looks) == 2 and len(texts) > 3
    assert len({d.fingerprint() for d in (data, asked)}) == 2


def test_patches_of_the_eyes_hold_the_classifiers_heat_maps(eyes):
    extractor = cmn.build_extractor("eyes").eval()
    extractor.eyes.load_state_dict(eyes.state_dict())
    image = torch.rand(2, 1, 96, 96)
    with torch.no_grad():
        seen = extractor(normalise(image.expand(-1, 3, -1, -1)))
        heatmap = eyes(image)["heatmap"]
    assert seen.shape == (2, extractor.channels, 3, 3) and heatmap.shape == (2, 14, 12, 12)
    corner = heatmap[:, :, :4, 8:]  # the upper right of the 3 x 3 patches
    start = 2 * eyes.body.out_channels
    torch.testing.assert_close(seen[:, start : start + 14, 0, 2], corner.mean((2, 3)))
    torch.testing.assert_close(seen[:, start + 14 : start + 28, 0, 2], corner.amax((2, 3)))
