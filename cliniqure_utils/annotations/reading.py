"""Reading readers' boxes: Kaggle's layout, PhysioNet's layout, and the copy inside torchxrayvision."""

import ast
import importlib.util
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.extensions import ExtensionArray

from cliniqure_utils.annotations.tables import MISSING, BadAnnotations, Table, read_table, to_numbers
from cliniqure_utils.vocabulary import (
    BOX,
    CLASSES,
    GLOBAL_LABELS,
    LABEL_SPELLINGS,
    NO_FINDING,
    NO_FINDING_ID,
    PHYSIONET_TO_KAGGLE,
    plain,
)

_KAGGLE = {plain(name): n for n, name in enumerate(CLASSES)}
_PHYSIONET = {plain(name): CLASSES.index(target) for name, target in PHYSIONET_TO_KAGGLE.items()} | _KAGGLE
_PACKAGED = "torchxrayvision"
_EMPTY, _UNKNOWN = -1, -2  # in place of a class id

Reject = Callable[[np.ndarray, str | Callable[[np.ndarray], list[str]]], None]


def packaged_path() -> Path:
    """Kaggle's train.csv inside the installed torchxrayvision, which is found but not imported.

    Raises:
        BadAnnotations: The package or its file is missing.
    """
    spec = importlib.util.find_spec("torchxrayvision")
    if spec is not None:
        path = Path(spec.submodule_search_locations[0]) / "data" / "vinbigdata-train.csv.gz"
        if path.is_file():
            return path
    raise BadAnnotations("the packaged VinDr-CXR annotations are missing: pip install torchxrayvision")


def read_annotations(
    source: str | Path, image_sizes: Mapping[str, tuple[int, int]] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read readers' boxes.

    Args:
        source: A CSV in Kaggle's layout (image_id, class_name, class_id, rad_id, four coordinates) or PhysioNet's (no
            class_id, 22 names; annotations_test.csv has no rad_id, as it holds the consensus of the readers), or
            "torchxrayvision" for the packaged Kaggle file. Commas or tabs between cells, UTF-8 or Excel's UTF-16, also
            inside .gz or .zip. Case, blanks, hyphens and underscores in the header do not matter. Image ids are kept
            exactly.
        image_sizes: image_id -> (width, height). With it, boxes are cut at the border of the film or rejected, and so
            are rows without a film.

    Returns:
        (annotations, rejected). annotations: image_id, rad_id, class_id, class_name and the four coordinates (NaN for
        "No finding"), in PhysioNet's layout also local_label, the name among the 22; attrs["layout"] is "kaggle" or
        "physionet", attrs["clipped"] the number of boxes that were cut. A film that has only rejected findings keeps no
        row: "No finding" of another reader does not make it normal. rad_id is "R1" where the file names no reader
        at all, "unknown" in a row that names none while others do. rejected: row (number of the data row, from 1; empty
        lines do not count), image_id, reason. Rows that repeat another one are in `rejected` too.

    Raises:
        BadAnnotations: The file is missing, empty, not a table, lacks a column, or gives boxes as shares of the film.
    """
    path = packaged_path() if str(source) == _PACKAGED else Path(source)
    table = read_table(path)
    _check_columns(table, path)
    cells, reasons = table.cells, table.reasons
    accepted = reasons == ""

    def reject(where: np.ndarray, reason: str | Callable[[np.ndarray], list[str]]) -> None:
        rows = np.flatnonzero(where & accepted)
        if len(rows):
            reasons[rows] = reason if isinstance(reason, str) else reason(rows)
            accepted[rows] = False

    physionet = "class_id" not in cells.columns
    film, films = pd.factorize(cells.image_id)
    films = films.tolist()
    # Ids are compared as they stand: a leading blank belongs to the name of a file.
    reject(np.array([not name.strip() for name in films])[film], "image_id is empty")
    class_id, local_label = _classes(cells, reject)
    normal = class_id == NO_FINDING_ID
    corners = _corners(cells, normal, reject)
    _check_unit(corners[accepted & ~normal], path)
    written = corners
    if image_sizes is not None:
        corners = _cut(corners, image_sizes, film, films, normal, reject)
    was_cut = (corners != written).any(axis=1) & ~normal & accepted
    _reject_doubtful(film, normal, accepted, reject)

    names = pd.array(CLASSES, dtype="str")
    out = pd.DataFrame({"image_id": cells.image_id, "rad_id": _readers(cells), "class_id": class_id})
    out["class_name"] = names.take(np.where(class_id < 0, NO_FINDING_ID, class_id))
    out[BOX] = corners
    if physionet:
        out["local_label"] = local_label
    annotations = out[accepted]
    # Two findings that both count as "Other lesion" may share a box: they are not the same row.
    key = ["image_id", "rad_id", "local_label" if physionet else "class_id", *BOX]
    repeated = annotations[annotations.duplicated(key, keep=False)]
    if len(repeated):
        group = repeated.groupby(key, dropna=False, sort=False).ngroup().to_numpy()
        rows = repeated.index.to_numpy()
        _, places = np.unique(group, return_index=True)  # groups are numbered in order of appearance
        first = rows[places][group]
        rows, first = rows[rows != first], first[rows != first]
        exactly = ((written[rows] == written[first]) | normal[rows, None]).all(axis=1)
        reasons[rows] = [
            f"repeats row {original + 1} {'exactly' if same else 'once cut at the border of the film'}"
            for original, same in zip(first, exactly, strict=True)
        ]
        accepted[rows] = False
        annotations = out[accepted]

    rejected = pd.DataFrame(
        {"row": np.flatnonzero(~accepted) + 1, "image_id": out.image_id[~accepted], "reason": reasons[~accepted]}
    )
    rejected["reason"] = rejected.reason.astype("str")
    annotations = annotations.reset_index(drop=True)
    annotations.attrs.update(layout="physionet" if physionet else "kaggle", clipped=int((was_cut & accepted).sum()))
    return annotations, rejected.reset_index(drop=True)


@lru_cache(maxsize=1)
def vindr_annotations() -> pd.DataFrame:
    """The packaged rows of VinDr-CXR's 15,000 training films, read once per process; leave them as they are."""
    return read_annotations(_PACKAGED)[0]


def _check_columns(table: Table, path: Path) -> None:
    """Refuse a table that cannot hold readers' boxes."""
    columns = table.cells.columns
    missing = [name for name in ("image_id", *BOX) if name not in columns]
    if "class_name" not in columns and "class_id" not in columns:
        missing.append("class_name")
    if missing:
        hint = "; labels of whole films are read by read_global_labels" if set(GLOBAL_LABELS) & set(columns) else ""
        raise BadAnnotations(
            f"{path.name}: column {', '.join(missing)} is missing; found {', '.join(columns)[:200]}{hint}"
        )
    if table.cells.empty:
        raise BadAnnotations(f"{path.name}: there are no annotation rows, only a header")


def _classes(cells: pd.DataFrame, reject: Reject) -> tuple[np.ndarray, ExtensionArray]:
    """Class id per row, from name, id or both, and PhysioNet's name; unknown or disagreeing ones are rejected."""
    by_name = by_id = np.full(len(cells), _EMPTY)
    local_label = pd.array([NO_FINDING], dtype="str").take(np.zeros(len(cells), int))
    if "class_name" in cells.columns:
        place, written = pd.factorize(cells.class_name)
        spelled = [plain(name) for name in written]
        # PhysioNet's eight further names are told apart from Kaggle's by the missing class_id.
        known = _KAGGLE if "class_id" in cells.columns else _PHYSIONET
        codes = [_EMPTY if name in MISSING else known.get(name, _UNKNOWN) for name in spelled]
        by_name = np.array(codes)[place]
        local_label = pd.array([LABEL_SPELLINGS.get(name, name) for name in spelled], dtype="str").take(place)
        whole_film = {plain(name) for name in GLOBAL_LABELS} | {"other disease"}
        unknown = [
            f"unknown class {name.strip()!r}" + (" (of whole films: see read_global_labels)" if s in whole_film else "")
            for name, s in zip(written, spelled, strict=True)
        ]
        reject(by_name == _UNKNOWN, lambda rows: [unknown[n] for n in place[rows]])
    if "class_id" in cells.columns:
        place, written = pd.factorize(cells.class_id)
        numbers, unreadable = to_numbers(pd.Series(written, dtype="str"))
        empty = np.isnan(numbers) & ~unreadable
        codes = np.where(np.isin(numbers, range(len(CLASSES))), numbers, np.where(empty, _EMPTY, _UNKNOWN))
        by_id = codes.astype(int)[place]
        reject(by_id == _UNKNOWN, lambda rows: [f"unknown class_id {v.strip()!r}" for v in cells.class_id.iloc[rows]])
        reject(
            (by_name >= 0) & (by_id >= 0) & (by_name != by_id),
            lambda rows: [
                f"class name and id disagree: {name.strip()!r} has class_id {number}"
                for name, number in zip(cells.class_name.iloc[rows], by_id[rows], strict=True)
            ],
        )
    reject((by_name == _EMPTY) & (by_id == _EMPTY), "neither class_name nor class_id is given")
    return np.where(by_name >= 0, by_name, by_id), local_label


def _readers(cells: pd.DataFrame) -> ExtensionArray:
    """Reader per row."""
    if "rad_id" not in cells.columns:
        return pd.array(["R1"], dtype="str").take(np.zeros(len(cells), int))
    place, written = pd.factorize(cells.rad_id)
    names = [name.strip() for name in written]
    missing = [name.lower() in MISSING for name in names]
    nobody = "R1" if all(missing) else "unknown"
    return pd.array([nobody if m else name for name, m in zip(names, missing, strict=True)], dtype="str").take(place)


def _corners(cells: pd.DataFrame, normal: np.ndarray, reject: Reject) -> np.ndarray:
    """Coordinates (n, 4), NaN for "No finding"; rows of findings without a valid box are rejected."""
    corners = np.full((len(normal), 4), np.nan)  # some files hold 0, 0, 1, 1 for "No finding"
    found = np.flatnonzero(~normal)
    for k, name in enumerate(BOX):
        where = np.zeros(len(normal), bool)
        corners[found, k], where[found] = to_numbers(cells[name].iloc[found])
        reject(
            where,
            lambda rows, name=name: [f"{name} is not a number: {v.strip()!r}" for v in cells[name].iloc[rows]],
        )
    corners += 0.0  # turns -0.0 into 0.0, which is equal to it but written differently
    reject(~normal & np.isnan(corners).any(axis=1), "a finding without four coordinates")
    reject(~normal & np.isinf(corners).any(axis=1), "a coordinate is not finite")
    reject(~normal & (corners[:, 2:] < corners[:, :2]).any(axis=1), "the box is inside out")
    single = corners.astype(np.float32)  # networks compute in single precision
    reject(~normal & (single[:, 2:] <= single[:, :2]).any(axis=1), "the box has no area")
    return corners


def _check_unit(corners: np.ndarray, path: Path) -> None:
    """Refuse a file whose boxes (n, 4) all lie within the first pixel: they are shares of the film."""
    if len(corners) and corners.min() >= 0 and corners.max() <= 1:
        raise BadAnnotations(
            f"{path.name}: all coordinates lie between 0 and 1, as shares of the film; expected pixels"
        )


def _reject_doubtful(film: np.ndarray, normal: np.ndarray, accepted: np.ndarray, reject: Reject) -> None:
    """Reject "No finding" on films of which another row was rejected and no finding is left: they may not be normal."""
    lost = np.flatnonzero(~accepted)
    first = dict(zip(film[lost][::-1].tolist(), lost[::-1].tolist(), strict=True))
    doubtful = normal & np.isin(film, film[lost]) & ~np.isin(film, film[accepted & ~normal])
    reject(
        doubtful,
        lambda rows: [f"row {first[n] + 1} of this film was rejected: not known to be normal" for n in film[rows]],
    )


def _cut(
    corners: np.ndarray, image_sizes: Mapping, film: np.ndarray, films: list[str], normal: np.ndarray, reject: Reject
) -> np.ndarray:
    """Boxes cut at the border of their film; those outside, and rows without a film, are rejected."""
    nowhere = (np.nan, np.nan)
    sizes = np.array([tuple(image_sizes.get(name, nowhere))[:2] for name in films], float)[film]
    reject(np.array([name not in image_sizes for name in films])[film], "no film with this image_id")
    outside = (corners[:, 2:] <= 0).any(axis=1) | (corners[:, :2] >= sizes).any(axis=1)
    reject(~normal & outside, "the box lies outside the film")
    return np.clip(corners, 0, np.hstack([sizes, sizes]))


def read_merged(path: str | Path) -> pd.DataFrame:
    """annotations.csv of notebook 01, with class_labels as lists of int and image_id as text."""
    table = pd.read_csv(
        path, dtype={"image_id": str, "class_names": str}, keep_default_na=False, na_values=[""],
        float_precision="round_trip",
    )  # fmt: skip
    table["class_labels"] = [[int(i) for i in ast.literal_eval(text)] for text in table.class_labels]
    return table
