"""Is a film like those that a classifier learnt from? What it says about any other is not worth reading.

A film becomes the channels of the trunk's last map, averaged and at their highest. Of the training films' features mean
and spread are kept, and how far a film may lie from them: noise, a hand, a screenshot, a film on its side lie beyond.
Source: Mahalanobis distance of features (Lee et al. 2018, arXiv 1807.03888), with a covariance of few directions and
one spread for all others (Tipping and Bishop 1999, probabilistic principal components), since films are few.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cliniqure_utils.pretraining.appearance import change_appearance
from cliniqure_utils.runs import atomic_path
from cliniqure_utils.vision.classification import HeatmapClassifier
from cliniqure_utils.vision.films import FilmDataset, read_film
from cliniqure_utils.vision.grey import even_grey
from cliniqure_utils.vision.trunks import normalise

FILMS_SEEN = 400  # training films that are enough to know how films look
DIRECTIONS = 16  # in which the features' spread is kept; with 4 or 8 too few pictures that are no chest lie beyond
LIMIT_SHARE = 0.99  # of the val films are to count as familiar


@dataclass(frozen=True)
class Familiar:
    """What is known of the training films' features.

    Attributes:
        mean, scale: (d,) of each feature.
        directions: (k, d), orthonormal, of scaled features; variances: (k,) along them.
        rest: Variance in every other direction.
        limit: Largest distance of a familiar film.
    """

    mean: np.ndarray
    scale: np.ndarray
    directions: np.ndarray
    variances: np.ndarray
    rest: float
    limit: float

    def strangeness(self, features: np.ndarray) -> np.ndarray:
        """Squared Mahalanobis distance of features (n, d), as a share of the limit: above 1 a film is unfamiliar."""
        return self._distance(features) / self.limit

    def _distance(self, features: np.ndarray) -> np.ndarray:
        scaled = (np.asarray(features, np.float64) - self.mean) / self.scale
        along = scaled @ self.directions.T
        beside = np.maximum((scaled**2).sum(1) - (along**2).sum(1), 0)
        return (along**2 / self.variances).sum(1) + beside / self.rest

    @classmethod
    def of(cls, known: np.ndarray, held_out: np.ndarray) -> "Familiar":
        """From features of training films (n, d), and of others like them (m, d) that set the limit."""
        known = np.asarray(known, np.float64)
        mean, scale = known.mean(0), known.std(0) + 1e-3 * known.std() + 1e-9
        _, sizes, directions = np.linalg.svd((known - mean) / scale, full_matrices=False)
        n = min(DIRECTIONS, len(known) // 4, known.shape[1])
        variances = sizes**2 / len(known)
        left = known.shape[1] - n
        rest = max(variances[n:].sum() / left, 1e-6) if left else 1.0
        found = cls(mean, scale, directions[:n], np.maximum(variances[:n], 1e-9), rest, 1.0)
        limit = float(np.quantile(found._distance(held_out), LIMIT_SHARE))
        return cls(mean, scale, directions[:n], found.variances, rest, max(limit, 1e-6))

    def save(self, path: str | Path) -> None:
        """Write an .npz of some kilobytes, atomically."""
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **{name: np.float32(value) for name, value in vars(self).items()})

    @classmethod
    def load(cls, path: str | Path) -> "Familiar":
        with np.load(path, allow_pickle=False) as stored:
            values = {name: stored[name].astype(np.float64) for name in cls.__dataclass_fields__}
        return cls(**values | {name: float(values[name]) for name in ("rest", "limit")})


def film_strangeness(familiar: Familiar, model: nn.Module, films: list[torch.Tensor], device: str) -> np.ndarray:
    """How unlike the known films each film is, (n,): above 1 it is unfamiliar.

    The film's distance as a share of the limit, or of what the same film would have upside down or with dark and bright
    swapped, if that is more: a film that would be more familiar so lies so, or is inverted.

    Args:
        films: uint8 (1, size, size) each, on the model's grey scale.
    """
    ways = films, [film.flip(-2) for film in films], [255 - film for film in films]
    as_it_is, upside_down, inverted = (familiar.strangeness(film_features(model, way, device)) for way in ways)
    return as_it_is * np.max([np.ones(len(films)), 1 / upside_down.clip(1e-9), 1 / inverted.clip(1e-9)], axis=0)


def learn_familiar(model: nn.Module, train: FilmDataset, val: FilmDataset, device: str, seed: int) -> Familiar:
    """What a trained classifier's films look like to it.

    Each film is taken as another machine might have stored it (`pretraining.appearance`): another sharpness or tone, a
    border or noise make no film unfamiliar. Val films are taken as they are, too.

    Args:
        train, val: The films that it learnt from, and others of the same kind; nothing moves them.
    """
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(train))[:FILMS_SEEN])
    varied = [_as_another_machine(train, index, rng) for index in chosen]
    others = [_as_another_machine(val, index, rng) for index in range(len(val))]
    others += [val.film(index) for index in range(len(val))]
    return Familiar.of(film_features(model, varied, device), film_features(model, others, device))


def _as_another_machine(data: FilmDataset, index: int, rng: np.random.Generator) -> torch.Tensor:
    film = read_film(data.image_dir / f"{data.image_ids[index]}.png", data.size)
    return even_grey(torch.from_numpy(change_appearance(film[0].numpy(), rng))[None], data.grey)


@torch.no_grad()
def film_features(model: nn.Module, films: list[torch.Tensor], device: str, batch_size: int = 32) -> np.ndarray:
    """Features (n, 2 x channels) of films, uint8 (1, size, size) each, on the model's grey scale."""
    model.to(device).eval()
    found = []
    for start in range(0, len(films), batch_size):
        images = torch.stack(films[start : start + batch_size]).to(device).float() / 255
        images = normalise(images.expand(-1, 3, -1, -1))
        if isinstance(model, HeatmapClassifier):
            last = model.body.trunk.stages(images)[-1]
        else:
            last = model.network.forward_features(images)
        # A transformer's last layer is (n, tokens, channels).
        last = last.flatten(2) if last.ndim == 4 else last.transpose(1, 2)
        found.append(torch.cat([last.mean(2), last.amax(2)], dim=1).float().cpu())
    return torch.cat(found).numpy()
