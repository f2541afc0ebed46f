"""What the eyes learn from: films of shards, changed anew in each epoch, with their true boxes."""

import numpy as np
import pytest
import torch

from cliniqure_utils.pretraining import eyes, films
from cliniqure_utils.pretraining.appearance import change_appearance
from cliniqure_utils.pretraining.eyes import SimulatedFilms
from cliniqure_utils.vision.grey import even_grey
from cliniqure_utils.vocabulary import BOX, CLASSES, FINDINGS


def test_items_hold_the_true_boxes_at_the_size_asked_for(shards):
    size = films.SIZE // 2
    data = SimulatedFilms(shards, size, None)
    truth = [film for path in shards for film in films.read_shard(path)[1]]
    assert len(data) == len(truth) == 6
    for index, film in enumerate(truth):
        item = data[index]
        assert item["image"].shape == (1, size, size) and 0 <= item["image"].min() <= item["image"].max() <= 1
        wanted = np.array([[row[edge] / 2 for edge in BOX] for row in film["findings"]]).reshape(-1, 4)
        assert np.allclose(item["boxes"], wanted)
        named = {row["class_name"] for row in film["findings"]} or {"No finding"}
        assert {name for name, there in zip(CLASSES, item["targets"], strict=True) if there} == named
        assert [FINDINGS[n - 1] for n in item["box_labels"].tolist()] == [r["class_name"] for r in film["findings"]]


def test_changes_are_drawn_from_seed_epoch_and_place(shards):
    data, other = SimulatedFilms(shards, 96, 1), SimulatedFilms(shards, 96, 2)
    first = [data[k]["image"] for k in range(6)]
    torch.manual_seed(7)  # must play no part
    assert all(torch.equal(first[k], data[k]["image"]) for k in reversed(range(6)))
    assert not any(torch.equal(first[k], other[k]["image"]) for k in range(6))
    data.set_epoch(1)
    assert not any(torch.equal(first[k], data[k]["image"]) for k in range(6))
    assert data.fingerprint() != other.fingerprint()


def test_appearance_changes_values_and_moves_nothing(rng):
    """The place of a bright square stays; over many draws the values do not."""
    film = np.full((64, 64), 90, np.uint8)
    film[40:52, 8:20] = 200
    seen = []
    for _ in range(60):
        changed = change_appearance(film, rng)
        assert changed.shape == film.shape and changed.dtype == np.uint8
        seen.append(changed[42:50, 10:18].mean() - changed[20:30, 30:50].mean())
    assert np.mean(np.array(seen) > 0) > 0.9 and np.std(seen) > 5


def test_the_grey_scale_undoes_a_tone_curve_but_not_a_covered_border():
    film = torch.arange(256, dtype=torch.uint8).repeat(16).view(1, 64, 64)
    darker = (film.float() / 255).pow(1.7).mul(255).round().to(torch.uint8)
    even, again = even_grey(film, "rank").int(), even_grey(darker, "rank").int()
    assert (even - again).abs().float().mean() < 2


@pytest.mark.filterwarnings("ignore")
def test_a_training_step_teaches_and_is_repeatable(shards, tmp_path):
    data = SimulatedFilms(shards, 64, 1)
    states = []
    for name in ("one", "two"):
        model, _ = eyes.teach_classifier(data, tmp_path / name, epochs=3, seed=3, n_processes=1)
        states.append(model.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0]["heatmap.bias"], torch.full((14,), -4.0)), "nothing was learnt"
