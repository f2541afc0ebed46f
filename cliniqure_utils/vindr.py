"""VinDr-CXR: label vocabulary, reading and checking annotations, label tables, splits.

Boxes are in DICOM pixels, origin at the upper left corner, x to the right, y down; x_max and y_max are outer edges.
Source of the labels: Nguyen et al. 2022, Scientific Data 9:429, and Kaggle's "VinBigData Chest X-ray Abnormalities
Detection". The agreement forbids re-sharing rows of the data set: the packaged copy is read where it is installed.
"""

import ast
import csv
import gzip
import hashlib
import importlib.util
import io
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

FINDINGS = (
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Consolidation",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Nodule/Mass",
    "Other lesion",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
)
NO_FINDING = "No finding"
NO_FINDING_ID = len(FINDINGS)
BOX = ["x_min", "y_min", "x_max", "y_max"]
COLUMNS = ["image_id", "rad_id", "class_id", "class_name", *BOX]

# PhysioNet's release names 22 local findings, Kaggle's 14 of them. No published table says where the other eight went;
# putting them under "Other lesion" is our choice, so that a film with a broken rib does not count as normal.
# Source of the 22 names: Nguyen et al. 2022, table 1.
PHYSIONET_TO_KAGGLE = {
    **{name: name for name in FINDINGS},
    "Clavicle fracture": "Other lesion",
    "Edema": "Other lesion",
    "Emphysema": "Other lesion",
    "Enlarged PA": "Other lesion",
    "Lung cavity": "Other lesion",
    "Lung cyst": "Other lesion",
    "Mediastinal shift": "Other lesion",
    "Rib fracture": "Other lesion",
}
# Six further labels of PhysioNet's image_labels_*.csv are about the whole film and have no box.
GLOBAL_LABELS = ("COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other diseases", NO_FINDING)

_NAMES = (*FINDINGS, NO_FINDING)
_CANONICAL = {name.lower(): name for name in _NAMES}
_PHYSIONET = {name.lower(): target for name, target in PHYSIONET_TO_KAGGLE.items()}
_PACKAGED = "torchxrayvision"
_MISSING = {"", "na", "n/a", "nan", "null", "none", "<na>"}
# Spellings of a column name, without case, blanks and underscores: "Image ID" and "image_id" are the same.
_HEADER = {name.replace("_", ""): name for name in COLUMNS}


class BadAnnotations(ValueError):
    """A file of annotations that cannot be used at all; the message names the file and what is wrong."""


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
            class_id, 22 names), or "torchxrayvision" for the packaged Kaggle file. Separated by commas, semicolons
            (then a comma is the decimal mark), tabs or bars; UTF-8 or UTF-16, with or without a byte-order mark; also
            inside .gz or .zip. Case, blanks and underscores in the header do not matter. Image ids are kept exactly.
        image_sizes: image_id -> (width, height). With it, boxes are cut at the border of the film or rejected.

    Returns:
        (annotations, rejected). annotations: image_id, rad_id, class_id, class_name and the four coordinates (NaN for
        "No finding"); attrs["layout"] is "kaggle" or "physionet", attrs["clipped"] the number of boxes that were cut.
        rejected: row (number of the data row, from 1; empty lines do not count), image_id, reason. Rows that repeat
        another one exactly are in `rejected` too.

    Raises:
        BadAnnotations: The file is missing, empty, not a table, or lacks a column.
    """
    path = packaged_path() if str(source) == _PACKAGED else Path(source)
    table, bad_rows, decimal_comma = _read_table(path)
    missing = [name for name in ("image_id", *BOX) if name not in table.columns]
    if "class_name" not in table.columns and "class_id" not in table.columns:
        missing.append("class_name")
    if missing:
        raise BadAnnotations(
            f"{path.name}: column {', '.join(missing)} is missing; found {', '.join(table.columns)[:200]}"
        )
    if table.empty:
        raise BadAnnotations(f"{path.name}: there are no annotation rows, only a header")
    reasons = np.full(len(table), "", dtype=object)

    def reject(where, reason: str | Callable[[int], str]) -> None:
        for n in np.flatnonzero(np.asarray(where)):
            reasons[n] = reasons[n] or (reason if isinstance(reason, str) else reason(n))

    for n, reason in bad_rows.items():
        reasons[n] = reason
    # Ids are compared as they stand: a leading blank belongs to the name of a file.
    reject(table.image_id.str.strip() == "", "image_id is empty")

    out = pd.DataFrame({"image_id": table.image_id})
    out["rad_id"] = table.rad_id.str.strip() if "rad_id" in table.columns else "R1"
    class_id, out["class_name"] = _classes(table, reject)
    out["class_id"] = class_id
    normal = (class_id == NO_FINDING_ID).to_numpy()
    for name in BOX:
        out[name], unreadable = _numbers(table[name], decimal_comma)
        written = table[name]
        reject(
            ~normal & unreadable,
            lambda n, name=name, written=written: f"{name} is not a number: {written.iloc[n]!r}",
        )
    out.loc[normal, BOX] = np.nan  # some files hold 0, 0, 1, 1 there
    corners = out[BOX].to_numpy()
    reject(~normal & np.isnan(corners).any(axis=1), "a finding without four coordinates")
    reject(~normal & np.isinf(corners).any(axis=1), "a coordinate is not finite")
    reject(~normal & (corners[:, 2:] < corners[:, :2]).any(axis=1), "the box is inside out")
    reject(~normal & (corners[:, 2:] == corners[:, :2]).any(axis=1), "the box has no area")
    clipped = 0 if image_sizes is None else _clip(out, normal, image_sizes, reject)
    kept = np.flatnonzero(reasons == "")
    again = out.iloc[kept][out.iloc[kept].duplicated(COLUMNS)].index
    if len(again):
        first = {}
        for n, key in zip(kept, out.iloc[kept][COLUMNS].astype(str).itertuples(index=False, name=None), strict=True):
            first.setdefault(key, n + 1)
        keys = out.loc[again, COLUMNS].astype(str).itertuples(index=False, name=None)
        for n, key in zip(again, keys, strict=True):
            reasons[n] = f"repeats row {first[key]} exactly"

    bad = reasons != ""
    rejected = pd.DataFrame({"row": np.flatnonzero(bad) + 1, "image_id": out.image_id[bad], "reason": reasons[bad]})
    annotations = out.loc[~bad, COLUMNS].reset_index(drop=True)
    annotations["class_id"] = annotations.class_id.astype(int)
    annotations.attrs.update(layout="kaggle" if "class_id" in table.columns else "physionet", clipped=clipped)
    return annotations, rejected.reset_index(drop=True)


def _classes(table: pd.DataFrame, reject) -> tuple[pd.Series, pd.Series]:
    """Class id and name per row, from either column or both; unknown or disagreeing ones are rejected."""
    by_name = by_id = pd.Series(np.nan, index=table.index)
    empty_name = empty_id = pd.Series(True, index=table.index)
    if "class_name" in table.columns:
        written = table.class_name.str.strip()
        empty_name = written == ""
        # PhysioNet's eight further names are told apart from Kaggle's by the missing class_id.
        vocabulary = _CANONICAL if "class_id" in table.columns else {**_PHYSIONET, **_CANONICAL}
        codes = {name: _NAMES.index(target) for name, target in vocabulary.items()}
        plain = {name: codes.get(re.sub(r"\s+", " ", name).lower()) for name in written.unique()}
        by_name = written.map(plain).astype(float)
        reject(by_name.isna() & ~empty_name, lambda n: f"unknown class {written.iloc[n]!r}")
    if "class_id" in table.columns:
        number, unreadable = _numbers(table.class_id, decimal_comma=False)
        empty_id = number.isna() & ~unreadable
        by_id = number.where(number.isin(range(len(_NAMES))))
        reject(by_id.isna() & ~empty_id, lambda n: f"unknown class_id {table.class_id.iloc[n]!r}")
        reject(
            (by_name != by_id) & by_name.notna() & by_id.notna(),
            lambda n: f"class name and id disagree: {table.class_name.iloc[n]!r} has class_id {by_id.iloc[n]:g}",
        )
    reject(empty_name & empty_id, "neither class_name nor class_id is given")
    class_id = by_name.fillna(by_id)
    return class_id, class_id.map(dict(enumerate(_NAMES)))


def _numbers(text: pd.Series, decimal_comma: bool) -> tuple[pd.Series, pd.Series]:
    """Text to float, and where a cell that is not empty is no number. A decimal comma only where commas are free."""
    text = text.str.strip()
    numbers = pd.to_numeric(text.str.replace(",", ".", regex=False) if decimal_comma else text, errors="coerce")
    numbers = numbers.astype(float)
    unreadable = numbers.isna() & ~text.str.lower().isin(_MISSING)
    return numbers, unreadable


def _clip(out: pd.DataFrame, normal: np.ndarray, image_sizes: Mapping, reject) -> int:
    """Cut boxes at the border of their film, in place; reject those outside. Returns how many were cut."""
    known = out.image_id.isin(list(image_sizes)).to_numpy()
    reject(~known, "no film with this image_id")
    width = out.image_id.map({k: v[0] for k, v in image_sizes.items()}).to_numpy(float)
    height = out.image_id.map({k: v[1] for k, v in image_sizes.items()}).to_numpy(float)
    corners = out[BOX].to_numpy()
    x_min, y_min, x_max, y_max = corners.T
    found = known & ~normal
    outside = found & ((x_max <= 0) | (y_max <= 0) | (x_min >= width) | (y_min >= height))
    reject(outside, "the box lies outside the film")
    inside = found & ~outside
    limits = np.column_stack([width, height, width, height])
    cut = np.where(inside[:, None], np.clip(corners, 0, limits), corners)
    out[BOX] = cut
    return int((cut != corners)[inside].any(axis=1).sum())


def _read_table(path: Path) -> tuple[pd.DataFrame, dict[int, str], bool]:
    """A CSV of any usual dialect as text.

    Python's csv module rather than pandas: pandas takes the first column as an index when the rows are longer than the
    header, reads an id such as "NA" as missing, and stops at the first row that has a cell too many.

    Returns:
        (table of str columns under their usual names, {row number from 0: reason} of rows with cells too many,
        whether a comma is the decimal mark).
    """
    if not path.is_file():
        raise BadAnnotations(f"{path.name}: there is no such file")
    text = _decode(_unpacked(path), path)
    header_line = next((line for line in text.split("\n") if line.strip()), "")
    if not header_line:
        raise BadAnnotations(f"{path.name}: the file is empty")
    separator = max(",;\t|", key=header_line.count)
    if header_line.count(separator) == 0:
        raise BadAnnotations(
            f"{path.name}: found one column, {header_line.strip()[:60]!r}; expected a comma-separated table"
        )
    quoting = csv.QUOTE_MINIMAL if '"' in text else csv.QUOTE_NONE
    try:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, quoting=quoting)
        rows = [row for row in lines if row and (len(row) > 1 or row[0].strip())]
    except csv.Error as error:
        raise BadAnnotations(f"{path.name}: not a readable table ({error})") from error
    header = [re.sub(r"[\s_]", "", name).lower() for name in rows[0]]
    names = [_HEADER.get(plain, name.strip()) for plain, name in zip(header, rows[0], strict=True)]
    twice = sorted({name for name in names if names.count(name) > 1 and name in COLUMNS})
    if twice:
        raise BadAnnotations(f"{path.name}: column {', '.join(twice)} is there more than once")
    del rows[0]
    bad = {}
    for n, row in enumerate(rows):
        if len(row) != len(names):
            if any(cell.strip() for cell in row[len(names) :]):
                bad[n] = f"{len(row)} cells, the header has {len(names)}"
            # Spreadsheets leave out or add empty cells at the end of a row.
            rows[n] = (row + [""] * len(names))[: len(names)]
        if quoting == csv.QUOTE_MINIMAL and any("\n" in cell for cell in row):
            raise BadAnnotations(f"{path.name}: a quotation mark opened in data row {n + 1} is not closed on its line")
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    table = pd.DataFrame(dict(zip(names, map(pd.Series, columns), strict=True)), dtype=str)
    return table, bad, separator != ","


def _unpacked(path: Path) -> bytes:
    """The bytes of a file, out of its .gz or .zip envelope."""
    raw = path.read_bytes()
    try:
        if raw.startswith(b"\x1f\x8b"):
            return gzip.decompress(raw)
        if raw.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(io.BytesIO(raw)) as archive:
                inside = [name for name in archive.namelist() if name.lower().endswith(".csv")]
                if len(inside) != 1:
                    raise BadAnnotations(f"{path.name}: expected one .csv in the archive, found {len(inside)}")
                return archive.read(inside[0])
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise BadAnnotations(f"{path.name}: the compressed file is damaged ({error})") from error
    return raw


def _decode(raw: bytes, path: Path) -> str:
    """Bytes to text: by the byte-order mark, else UTF-16 where every other byte is zero, else UTF-8."""
    encoding = "utf-8-sig"
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif raw[:200].count(0) > len(raw[:200]) // 4:
        encoding = "utf-16-le" if raw[1] == 0 else "utf-16-be"
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise BadAnnotations(
            f"{path.name}: the text is neither UTF-8 nor UTF-16 (byte {error.start}); save it as UTF-8"
        ) from None
    if "\0" in text:
        raise BadAnnotations(f"{path.name}: this is no text file; expected a CSV")
    return text


def read_global_labels(path: str | Path) -> pd.DataFrame:
    """PhysioNet's image-level labels (`image_labels_*.csv`): 22 local names and the six of `GLOBAL_LABELS`.

    Returns:
        DataFrame as in the file: image_id (text), rad_id where there is one, and one column (0/1) per label: int, or
        Int64 with <NA> where the file has empty cells.

    Raises:
        BadAnnotations: As `read_annotations`; also a value other than 0 and 1.
    """
    path = Path(path)
    table, bad_rows, decimal_comma = _read_table(path)
    if "image_id" not in table.columns:
        raise BadAnnotations(f"{path.name}: column image_id is missing; found {', '.join(table.columns)[:200]}")
    if table.empty:
        raise BadAnnotations(f"{path.name}: there are no rows, only a header")
    if bad_rows:
        row, reason = next(iter(bad_rows.items()))
        raise BadAnnotations(f"{path.name}: data row {row + 1} has {reason}")
    labels = table.columns.difference(["image_id", "rad_id"], sort=False)
    if not len(labels):
        raise BadAnnotations(f"{path.name}: there is no label column beside image_id")
    for name in labels:
        values, unreadable = _numbers(table[name], decimal_comma)
        if unreadable.any() or not values.dropna().isin([0, 1]).all():
            raise BadAnnotations(f"{path.name}: column {name} holds something other than 0 and 1")
        table[name] = values.astype("Int64" if values.isna().any() else int)
    # The training file says "Other diseases", the test file "Other disease".
    return table.rename(columns={"Other disease": "Other diseases"})


def read_merged(path: str | Path) -> pd.DataFrame:
    """annotations.csv of notebook 01, with class_labels as lists of int and image_id as text."""
    table = pd.read_csv(path, dtype={"image_id": str, "class_names": str}, keep_default_na=False, na_values=[""])
    table["class_labels"] = [[int(i) for i in ast.literal_eval(text)] for text in table.class_labels]
    return table


def label_matrix(annotations: pd.DataFrame, image_ids: Sequence[str]) -> pd.DataFrame:
    """Who has what: a 0/1 table of films and classes.

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
    matrix = np.zeros((len(known), len(_NAMES)), int)
    matrix[place[place >= 0], codes[place >= 0]] = 1
    matrix[:, NO_FINDING_ID] = ~matrix[:, :NO_FINDING_ID].any(axis=1)
    return pd.DataFrame(matrix, index=known, columns=[*_NAMES]).loc[image_ids]


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
    rarest finding left is dealt first, each patient to the split that misses it most.

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
