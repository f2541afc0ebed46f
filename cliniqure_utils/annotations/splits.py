"""Dividing films into training, validation and test set, patient by patient."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd


def make_splits(
    image_ids: Sequence[str],
    labels: pd.DataFrame,
    patient_keys: Mapping[str, str],
    seed: int,
    fractions: Sequence[float] = (0.7, 0.1, 0.2),
    together: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Divide films into train, val and test.

    Whole patients are dealt, so that no patient is in two splits. Iterative stratification (Sechidis et al. 2011): the
    rarest finding left is dealt first, and each patient goes to the split that lacks most of its share of it.

    Args:
        image_ids: Films; their order does not matter, and one that is named twice counts once.
        labels: `label_matrix` of them.
        patient_keys: image_id -> patient; a film that is not in it, or has no value there, is a patient of its own.
        seed: Breaks ties.
        fractions: Shares of train, val and test; a share of 0 leaves that split empty (the paper's 80:20 is
            (0.8, 0.2, 0)). Any other split gets at least one patient as long as there are enough.
        together: image_id -> key; films with the same key stay in one split too, whoever the patient is (films whose
            pixels are the same).

    Returns:
        DataFrame image_id, patient_key, split, sorted by image_id.

    Raises:
        ValueError: Shares that do not add to 1, or a film without a row of labels.
    """
    fractions = np.array(fractions, float)
    if len(fractions) != 3 or (fractions < 0).any() or abs(fractions.sum() - 1) > 1e-6:
        raise ValueError(f"fractions must be three shares that add to 1, found {fractions.tolist()}")
    table = pd.DataFrame({"image_id": sorted(set(map(str, image_ids)))}, dtype=str)
    labels = labels[~labels.index.duplicated()]
    unlabelled = table.image_id[~table.image_id.isin(labels.index)]
    if len(unlabelled):
        raise ValueError(f"{len(unlabelled)} films have no row of labels, the first is {unlabelled.iloc[0]!r}")
    table["patient_key"] = _keys(table.image_id, patient_keys)
    group = _groups(table, together or {})
    per_group = labels.loc[table.image_id].groupby(group.to_numpy()).sum()
    films = group.groupby(group).size()
    # A hash of seed and group orders the groups: independent of the order of rows.
    order = sorted(per_group.index, key=lambda key: hashlib.sha256(f"{seed} {key}".encode()).digest())
    per_group = per_group.loc[order].to_numpy()
    weight = films.loc[order].to_numpy()

    wanted_films = fractions * weight.sum()
    wanted = fractions[:, None] * per_group.sum(0)
    given = np.full(len(order), -1)
    while (given < 0).any():
        left = given < 0
        remaining = per_group[left].sum(0)
        rarest = np.where(remaining > 0, remaining, np.inf).argmin() if remaining.any() else None
        chosen = np.flatnonzero(left & (per_group[:, rarest] > 0)) if rarest is not None else np.flatnonzero(left)
        for n in chosen:
            need = wanted[:, rarest] if rarest is not None else wanted_films
            split = max(range(3), key=lambda k: (fractions[k] > 0, round(need[k], 9), round(wanted_films[k], 9)))
            given[n] = split
            wanted[split] -= per_group[n]
            wanted_films[split] -= weight[n]
    for split in np.flatnonzero(fractions > 0):
        count = np.bincount(given, minlength=3)
        if count[split] == 0 and count.max() > 1:
            given[np.flatnonzero(given == count.argmax())[-1]] = split
    names = dict(zip(order, np.array(["train", "val", "test"])[given], strict=True))
    table["split"] = group.map(names)
    return table


def _keys(image_ids: pd.Series, given: Mapping) -> pd.Series:
    """Per film its key as text; the image id where there is none (absent, empty, None or NaN)."""
    found = [given.get(i) for i in image_ids]
    own = [key is None or key == "" or key != key for key in found]
    keys = [i if none else str(key) for i, key, none in zip(image_ids, found, own, strict=True)]
    return pd.Series(keys, index=image_ids.index, dtype=str)


def _groups(table: pd.DataFrame, together: Mapping[str, str]) -> pd.Series:
    """Per film, a name shared by all films that must stay in one split: those linked by patient or by `together`."""
    names = table.patient_key
    if together:
        other = _keys(table.image_id, together)
        before = None
        while before is None or not names.equals(before):
            before = names
            names = names.groupby(other).transform("min").groupby(table.patient_key).transform("min")
    return names
