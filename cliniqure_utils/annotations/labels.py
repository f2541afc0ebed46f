"""Labels of whole films: PhysioNet's files of labels, labels from readers' rows, and the 0/1 matrix."""

import ast
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cliniqure_utils.annotations.tables import MISSING, BadAnnotations, read_table, to_numbers
from cliniqure_utils.vocabulary import CLASSES, FINDINGS, LABEL_SPELLINGS, NO_FINDING, NO_FINDING_ID, plain

LABEL_RULES = ("any", "majority", "consensus")


def read_global_labels(path: str | Path) -> pd.DataFrame:
    """PhysioNet's image-level labels (`image_labels_*.csv`): 22 local names and the six of `GLOBAL_LABELS`.

    image_labels_train.csv has one row per film and reader; image_labels_test.csv one per film, the consensus of its
    readers, and no rad_id. `global_labels_per_film` makes one row per film of either.

    Returns:
        DataFrame as in the file: image_id (text), rad_id where there is one, and one column (0/1) per label: int, or
        Int64 with <NA> where the file has empty cells. Known labels are spelled as in `PHYSIONET_TO_KAGGLE` and
        `GLOBAL_LABELS`.

    Raises:
        BadAnnotations: As `read_annotations`; also a value other than 0 and 1, a row without image_id, or two rows of
            one reader for one film.
    """
    path = Path(path)
    cells, reasons = read_table(path)
    if "image_id" not in cells.columns:
        raise BadAnnotations(f"{path.name}: column image_id is missing; found {', '.join(cells.columns)[:200]}")
    if cells.empty:
        raise BadAnnotations(f"{path.name}: there are no rows, only a header")
    _refuse(reasons != "", path, lambda n: f"has {reasons[n]}")
    _refuse((cells.image_id.str.strip() == "").to_numpy(), path, lambda n: "has no image_id")
    names = [LABEL_SPELLINGS.get(plain(name), name) for name in cells.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadAnnotations(f"{path.name}: column {', '.join(twice)} is there more than once")
    cells.columns = names
    labels = cells.columns.difference(["image_id", "rad_id"], sort=False)
    if not len(labels):
        raise BadAnnotations(f"{path.name}: there is no label column beside image_id")
    if "rad_id" in cells.columns:
        cells["rad_id"] = cells.rad_id.str.strip()
        named = ~cells.rad_id.str.lower().isin(MISSING)
        _refuse(
            (cells.duplicated(["image_id", "rad_id"]) & named).to_numpy(),
            path,
            lambda n: f"is a second one of reader {cells.rad_id.iloc[n]!r} for film {cells.image_id.iloc[n]!r}",
        )
    for name in labels:
        values, unreadable = to_numbers(cells[name])
        wrong = unreadable | ~(np.isnan(values) | np.isin(values, [0, 1]))
        _refuse(wrong, path, lambda n, name=name: f"holds {cells[name].iloc[n]!r} in column {name}; expected 0 or 1")
        cells[name] = pd.array(values, dtype="Int64") if np.isnan(values).any() else values.astype(int)
    return cells


def _refuse(where: np.ndarray, path: Path, reason) -> None:
    if where.any():
        n = int(np.flatnonzero(where)[0])
        raise BadAnnotations(f"{path.name}: data row {n + 1} {reason(n)}")


def global_labels_per_film(table: pd.DataFrame, rule: str = "majority") -> pd.DataFrame:
    """One row of labels per film, from one row per film and reader.

    These labels stand beside the boxes: a film of which a reader says "Pneumonia" but draws nothing has no finding
    among the boxes, and yet is not a normal film.

    Args:
        table: As `read_global_labels` returns it. A row per film (PhysioNet's test set) comes out as it is.
        rule: A label holds where "any" reader names it, where a "majority" does (more than half, so not one of two), or
            in "consensus" (all do). "No finding" needs the same share of votes (under "any" all of them) and never
            holds beside another label. A film on which all readers name different things may thus have no label at all.

    Returns:
        DataFrame with index image_id in order of appearance and one column per label (0/1), int. A reader whose cell is
        empty does not vote; where nobody votes the value is <NA> and the column Int64.

    Raises:
        ValueError: An unknown rule.
    """
    if rule not in LABEL_RULES:
        raise ValueError(f"rule must be one of {', '.join(LABEL_RULES)}, found {rule!r}")
    labels = table.columns.difference(["image_id", "rad_id"], sort=False)
    groups = table[labels].astype("Float64").groupby(table.image_id, sort=False)
    yes, votes = groups.sum().to_numpy(float), groups.count()
    n_votes = votes.to_numpy()
    share = {"any": yes > 0, "majority": yes > n_votes / 2, "consensus": yes == n_votes}
    held = share[rule].copy()
    if NO_FINDING in labels:
        own = labels.get_loc(NO_FINDING)
        if rule == "any":
            held[:, own] = share["consensus"][:, own]
        others = np.delete(held & (n_votes > 0), own, axis=1)
        held[:, own] &= ~others.any(axis=1)
    result = pd.DataFrame(held.astype(int), index=votes.index, columns=labels)
    for k in np.flatnonzero((n_votes == 0).any(axis=0)):
        result[labels[k]] = result[labels[k]].astype("Int64").mask(n_votes[:, k] == 0)
    return result


def label_matrix(annotations: pd.DataFrame, image_ids: Sequence[str]) -> pd.DataFrame:
    """A 0/1 table of films (rows) and classes (columns), from rows of annotations.

    Args:
        annotations: Reader rows (class_id), merged rows (class_labels, lists or their text) or truth rows (class_id).
        image_ids: Films, in the order wanted. A film without a row counts as "No finding": leave films that nobody
            has read out of the list.

    Returns:
        DataFrame (n, 15), index image_ids, columns FINDINGS + "No finding", int. A finding is 1 where any row names it;
        "No finding" is 1 exactly where no finding is.

    Raises:
        ValueError: A class id outside 0 to 14.
    """
    image_ids = [str(i) for i in image_ids]
    if "class_labels" in annotations.columns:
        rows = annotations[["image_id", "class_labels"]].copy()
        rows["class_id"] = [ast.literal_eval(v) if isinstance(v, str) else list(v) for v in rows.class_labels]
        rows = rows.explode("class_id")
    else:
        rows = annotations[["image_id", "class_id"]]
    codes = rows.class_id.to_numpy(int)
    if len(codes) and not (codes.min() >= 0 and codes.max() <= NO_FINDING_ID):
        raise ValueError(f"class ids must be 0 to {NO_FINDING_ID}, found {codes.min()} to {codes.max()}")
    known = pd.Index(dict.fromkeys(image_ids))
    place = known.get_indexer(rows.image_id.astype(str))
    matrix = np.zeros((len(known), len(CLASSES)), int)
    matrix[place[place >= 0], codes[place >= 0]] = 1
    matrix[:, NO_FINDING_ID] = ~matrix[:, :NO_FINDING_ID].any(axis=1)
    return pd.DataFrame(matrix, index=known, columns=[*CLASSES]).loc[image_ids]


def reader_labels(
    readings: pd.DataFrame, image_ids: Sequence[str], rule: str = "any", n_readers: int | None = None
) -> pd.DataFrame:
    """Labels of whole films from the findings that each reader marked.

    Args:
        readings: Reader rows: image_id, rad_id, class_id (14 is "No finding"), one per reader and finding.
        image_ids: Films, in the order wanted.
        rule: A finding holds where "any" reader names it, where a "majority" does (more than half), or in "consensus"
            (all do). "No finding" holds exactly where no finding does, so it excludes the others.
        n_readers: Readers of each film, for tables in which a reader who saw nothing leaves no row. None: those with a
            row for the film; VinDr-CXR has three each. Where no film has rows of so many, as in a table of consensus
            labels, the most that a film has are counted instead: else no finding could reach a majority. A warning says
            so.

    Returns:
        Table (n, 15) of 0/1, index image_id, columns `FINDINGS` + "No finding".

    Raises:
        ValueError: Unknown rule, a film that nobody has read, or one with more readers than n_readers.
    """
    if rule not in LABEL_RULES:
        raise ValueError(f"unknown label rule {rule!r}; expected one of {', '.join(LABEL_RULES)}")
    image_ids = [str(i) for i in image_ids]
    rows = readings[["image_id", "rad_id", "class_id"]].astype({"image_id": str, "class_id": int}).drop_duplicates()
    rows = rows[rows.image_id.isin(set(image_ids))]
    seen = rows.groupby("image_id").rad_id.nunique().reindex(image_ids)
    if n_readers is None and seen.isna().any():
        raise ValueError(f"film {seen.index[seen.isna()][0]} has no reader; leave it out or give n_readers")
    if n_readers is not None and (seen > n_readers).any():
        film, count = next((film, int(count)) for film, count in seen.items() if count > n_readers)
        raise ValueError(f"film {film} has {count} readers, more than {n_readers}")
    if n_readers is not None and rule != "any" and seen.max() < n_readers:
        most = int(seen.max())
        warnings.warn(
            f"no film has rows of more than {most} reader{'s' * (most > 1)}, n_readers is {n_readers}: "
            f"counted as {most}",
            stacklevel=2,
        )
        n_readers = most
    readers = seen if n_readers is None else pd.Series(n_readers, seen.index)
    votes = pd.crosstab(rows.image_id, rows.class_id).reindex(
        index=image_ids, columns=range(len(FINDINGS)), fill_value=0
    )
    least = {"any": 1 + 0 * readers, "majority": readers // 2 + 1, "consensus": readers}[rule]
    labels = votes.ge(least.to_numpy(), axis=0).astype(int).set_axis(list(FINDINGS), axis=1)
    return labels.assign(**{NO_FINDING: 1 - labels.max(axis=1)}).rename_axis(index=None, columns=None)
