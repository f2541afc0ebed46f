"""Models come back from their two files as they were."""

import pytest
import torch

from cliniqure_utils.vision import classification, detection, saving


def test_a_classifier_comes_back_with_the_head_it_was_saved_with(tmp_path, timm_classifier):
    film = torch.rand(1, 1, 64, 64)
    for weight in (0.0, 1.0):
        model, settings = timm_classifier(weight).eval(), {"model_name": "test_resnet", "image_size": 64}
        classification.save_classifier(model, tmp_path, {**settings, "heatmap_weight": weight})
        again = classification.load_classifier(tmp_path)
        assert again.heatmap_weight == weight and set(again(film)) == set(model(film))
        assert all(torch.equal(value, again(film)[name]) for name, value in model(film).items())
    classification.save_classifier(timm_classifier(0.0), tmp_path, settings)  # written before there was a head
    assert "heatmap" not in classification.load_classifier(tmp_path)(film)


def test_models_round_trip_through_their_folder(tmp_path, small_detector):
    detector = small_detector()
    settings = dict(backbone="tiny", image_size=64, anchor_scales=[16, 32], neck="topdown", head_width=16)
    detection.save_detector(detector, tmp_path, settings)
    assert saving.grey_of(tmp_path) == "none"
    detection.save_detector(detector, tmp_path, settings | {"grey": "rank"})
    assert saving.grey_of(tmp_path) == "rank"
    again = detection.load_detector(tmp_path)
    film = torch.rand(1, 1, 64, 64)
    first, second = detector.detect(film)[0], again.detect(film)[0]
    assert torch.equal(first["boxes"], second["boxes"])
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model.safetensors is missing"):
        detection.load_detector(tmp_path)
