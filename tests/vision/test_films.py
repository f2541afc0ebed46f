"""The data set of films: boxes in the square input, labels, memory, and draws that depend on nothing but the seed."""

import pickle

import pandas as pd
import pytest
import torch

from cliniqure_utils.annotations import boxes_per_class, film_sizes
from cliniqure_utils.vision import films as films_module
from cliniqure_utils.vision import transforms
from cliniqure_utils.vision.films import FilmDataset, collate
from cliniqure_utils.vision.grey import even_grey
from cliniqure_utils.vocabulary import CLASSES


def test_boxes_follow_the_film_into_the_square_input(films):
    folder, index, merged = films
    sizes, boxes = film_sizes(index), boxes_per_class(merged)
    item = FilmDataset(folder, ["a", "b"], 32, sizes, boxes)[0]
    # 40 columns -> 32: factor 0.8; 80 rows -> 32: factor 0.4
    assert item["boxes"].tolist() == [[8, 8, 16, 24], [8, 8, 16, 24], [0, 0, 32, 32]]
    assert item["box_labels"].tolist() == [5, 9, 4], "labels are class ids + 1; 0 is background"
    assert item["image"].shape == (1, 32, 32) and 0 <= item["image"].min() and item["image"].max() <= 1
    assert item["targets"].nonzero().flatten().tolist() == [3, 4, 8]
    normal = FilmDataset(folder, ["a", "b"], 32, sizes, boxes)[1]
    assert normal["boxes"].shape == (0, 4) and normal["targets"].nonzero().flatten().tolist() == [14]


def test_data_with_another_augmentation_are_other_data(films):
    """Else a killed training would go on with films that move more often, and nobody would know."""
    folder, index, merged = films
    changes = {"rotate_probability": 0.2, "rotate_degrees": 5.0, "flip_probability": 0.2, "shift": 0.1, "zoom": 0.1}

    def fingerprint(**options):
        augment = transforms.augmentation(**options)
        return FilmDataset(folder, ["a"], 32, film_sizes(index), boxes_per_class(merged), augment, seed=7).fingerprint()

    assert fingerprint() == fingerprint()
    assert len({fingerprint(), *(fingerprint(**{name: value}) for name, value in changes.items())}) == 6


def test_a_film_of_the_data_set_is_on_its_grey_scale(films):
    folder, index, _ = films
    plain, ranked = (FilmDataset(folder, ["a"], 32, film_sizes(index), grey=grey) for grey in ("none", "rank"))
    assert torch.equal(ranked.film(0), even_grey(plain.film(0), "rank"))
    assert not torch.equal(ranked.film(0), plain.film(0)) and plain.fingerprint() != ranked.fingerprint()
    with pytest.raises(ValueError, match="grey must be one of none, rank, found 'bands'"):
        FilmDataset(folder, ["a"], 32, film_sizes(index), grey="bands")


def test_a_draw_depends_on_seed_epoch_and_film_alone(films):
    folder, index, merged = films
    sizes, boxes = film_sizes(index), boxes_per_class(merged)

    def batches(n_workers, epoch=0):
        augment = transforms.augmentation(flip_probability=0.5, shift=0.1, exposure=0.1)
        dataset = FilmDataset(folder, ["a", "b", "c", "d"], 32, sizes, boxes, augment, seed=7)
        dataset = pickle.loads(pickle.dumps(dataset))  # as a worker under spawn receives it
        dataset.set_epoch(epoch)
        torch.manual_seed(n_workers)  # torch's own random numbers must not matter
        loader = torch.utils.data.DataLoader(dataset, 2, num_workers=n_workers, collate_fn=collate)
        return torch.cat([batch["image"] for batch in loader])

    assert torch.equal(batches(0), batches(2))
    assert not torch.equal(batches(0), batches(0, epoch=1))


def test_films_are_kept_in_memory_only_as_far_as_they_fit(films, monkeypatch):
    folder, index, _ = films
    monkeypatch.setattr(films_module, "KEEP_BYTES", 4 * 32 * 32)
    sizes = film_sizes(index)
    assert FilmDataset(folder, ["a", "b", "c", "d"], 32, sizes).keep_in_memory
    assert not FilmDataset(folder, ["a", "b", "c", "d"], 33, sizes).keep_in_memory
    assert FilmDataset(folder, ["a"], 64, sizes, keep_in_memory=True).keep_in_memory


@pytest.mark.parametrize("n_jobs", [-1, 0, 1, 2])
def test_films_read_ahead_need_their_files_no_more(films, n_jobs):
    folder, index, _ = films
    sizes, ids = film_sizes(index), ["a", "b", "c", "d"]
    kept, left = (FilmDataset(folder, ids, 32, sizes, keep_in_memory=keep) for keep in (True, False))
    expected = [left[i]["image"] for i in range(4)]
    kept.read_films(n_jobs)
    left.read_films(n_jobs)
    for path in folder.glob("*.png"):
        path.unlink()
    assert all(torch.equal(kept[i]["image"], expected[i]) for i in range(4)), "each film in its own place"
    with pytest.raises(FileNotFoundError, match="a.png"):
        left[0]
    with pytest.raises(FileNotFoundError, match="a.png"):
        pickle.loads(pickle.dumps(kept))[0]  # a process that receives the data set reads for itself


@pytest.mark.parametrize("class_id", [-1, 14, 99])
def test_a_box_of_an_unknown_class_never_becomes_a_label(films, class_id):
    folder, index, merged = films
    boxes = boxes_per_class(merged).assign(class_id=class_id)
    with pytest.raises(ValueError, match="expected 0 to 13"):
        FilmDataset(folder, ["a"], 32, film_sizes(index), boxes)


def test_labels_of_a_rule_replace_the_targets_that_follow_from_boxes(films):
    folder, index, merged = films
    labels = pd.DataFrame(0, index=["a", "b"], columns=list(CLASSES))
    labels.loc["a", "Cardiomegaly"] = labels.loc["b", "No finding"] = 1
    sizes, boxes = film_sizes(index), boxes_per_class(merged)
    dataset = FilmDataset(folder, ["b", "a"], 32, sizes, boxes, labels=labels)
    assert dataset[1]["targets"].nonzero().flatten().tolist() == [3]
    assert len(dataset[1]["boxes"]) == 3, "the boxes stay what they are"
    with pytest.raises(ValueError, match="1 of 2 films have no row in the labels, the first is c"):
        FilmDataset(folder, ["a", "c"], 32, sizes, boxes, labels=labels)


def test_boxes_too_thin_for_the_detector_are_counted(films, recwarn):
    folder, index, merged = films
    sizes, boxes = film_sizes(index), boxes_per_class(merged)
    thin = boxes.assign(x_max=boxes.x_min + sizes["a"][0] / 32 * 0.9)
    FilmDataset(folder, ["a", "b"], 32, sizes, boxes, transforms.augmentation())
    FilmDataset(folder, ["a", "b"], 32, sizes, thin)
    assert not len(recwarn), "boxes of one pixel and more stay, and without a transform all do"
    with pytest.warns(
        UserWarning, match=r"3 boxes of 1 films are thinner than 1 pixel of 32: training leaves them out"
    ):
        plain = transforms.augmentation(rotate_probability=0.0, flip_probability=0.0)  # a turn may widen a thin box
        dataset = FilmDataset(folder, ["a"], 32, sizes, thin, plain)
    assert len(dataset[0]["boxes"]) == 0 and dataset.targets(0)[:14].any(), "the labels of the film stay"
