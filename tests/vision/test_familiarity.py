"""Films that are unlike those that a classifier learnt from are told."""

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from scipy.spatial.distance import mahalanobis

from cliniqure_utils.vision.classification import build_classifier
from cliniqure_utils.vision.familiarity import Familiar, film_features, film_strangeness, learn_familiar
from cliniqure_utils.vision.films import FilmDataset
from cliniqure_utils.vision.grey import even_grey


def test_the_distance_is_mahalanobis(tmp_path):
    rng = np.random.default_rng(0)
    known, others = (rng.normal(size=(n, 3)) @ rng.normal(size=(3, 3)) + [5, 0, 100] for n in (400, 200))
    familiar = Familiar.of(known, others)
    inverse = np.linalg.inv(np.cov(known.T, bias=True))
    expected = np.array([mahalanobis(row, known.mean(0), inverse) ** 2 for row in others])
    found = familiar.strangeness(others)
    np.testing.assert_allclose(found, expected / np.quantile(expected, 0.99), rtol=0.01)
    assert (found > 1).sum() == 2, "of 200 one in a hundred lies beyond"
    familiar.save(tmp_path / "familiar.npz")
    np.testing.assert_allclose(Familiar.load(tmp_path / "familiar.npz").strangeness(others), found, rtol=1e-3)


def test_what_is_kept_takes_kilobytes(tmp_path):
    features = np.random.default_rng(0).normal(size=(100, 256))
    Familiar.of(features, features).save(tmp_path / "familiar.npz")
    assert (tmp_path / "familiar.npz").stat().st_size < 25_000


def chest(rng) -> np.ndarray:
    """Dark lungs in a bright body, a heart to the right, bright below: uint8 (64, 64)."""
    y, x = np.mgrid[:64, :64] / 63 + rng.normal(0, 0.02, (2, 1, 1))
    lungs = ((np.abs(x - 0.5) - 0.2) ** 2 / 0.02 + (y - 0.42) ** 2 / 0.12) < 1
    heart = (x - 0.58) ** 2 + (y - 0.62) ** 2 < 0.02
    film = 170 + 40 * y - 110 * lungs + 90 * (heart & lungs) + rng.normal(0, 4, (64, 64))
    return ndimage.gaussian_filter(film, 1).clip(0, 255).astype(np.uint8)


def test_noise_and_films_the_wrong_way_round_are_unfamiliar(tmp_path):
    rng = np.random.default_rng(1)
    names = [f"{n:03d}" for n in range(110)]
    for name in names:
        Image.fromarray(chest(rng)).save(tmp_path / f"{name}.png")
    sizes = dict.fromkeys(names, (64, 64))
    train, val, test = (
        FilmDataset(tmp_path, part, 64, sizes, grey="rank") for part in (names[:60], names[60:90], names[90:])
    )
    torch.manual_seed(0)
    model = build_classifier("seresnet_tiny").eval()
    familiar = learn_familiar(model, train, val, "cpu", seed=3)
    films = [test.film(n) for n in range(len(test))]
    assert (film_strangeness(familiar, model, films, "cpu") > 1).sum() <= 2
    noise = rng.integers(0, 256, (64, 64), dtype=np.uint8)
    page = np.where(rng.random((64, 64)) < 0.2, 0, 255).astype(np.uint8)
    strange = [even_grey(torch.from_numpy(picture)[None], "rank") for picture in (noise, page)]
    strange += [films[0].flip(-2), 255 - films[1]]
    assert (film_strangeness(familiar, model, strange, "cpu") > 1).all()
    again = learn_familiar(model, train, val, "cpu", seed=3)
    assert again.limit == familiar.limit


def test_a_timm_network_has_features_too(timm_classifier):
    films = [torch.randint(0, 256, (1, 64, 64), dtype=torch.uint8) for _ in range(3)]
    found = film_features(timm_classifier(0.0), films, "cpu", batch_size=2)
    assert found.shape[0] == 3 and found.shape[1] % 2 == 0 and np.isfinite(found).all()
