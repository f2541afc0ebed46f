"""VinDr-CXR: label vocabulary, reading and checking annotations, label tables, splits.

Boxes are in DICOM pixels, origin at the upper left corner, x to the right, y down; x_max and y_max are outer edges.
Source of the labels: Nguyen et al. 2022, Scientific Data 9:429, and Kaggle's "VinBigData Chest X-ray Abnormalities
Detection". The agreement forbids re-sharing rows of the data set: the packaged copy is read where it is installed.
"""

import ast
import csv
import hashlib
import importlib.util
import io
from collections.abc import Mapping, Sequence
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

# PhysioNet's release names 22 local findings; Kaggle's joins them to 14. Those without a counterpart of their own are
# "Other lesion" in Kaggle's list. Source: Nguyen et al. 2022, table 1, and the Kaggle data page.
PHYSIONET_TO_KAGGLE = {
    **{name: name for name in FINDINGS},
    "Nodule/Mass": "Nodule/Mass",
    "Clavicle fracture": "Other lesion",
    "Edema": "Other lesion",
    "Emphysema": "Other lesion",
    "Enlarged PA": "Other lesion",
    "Lung cavity": "Other lesion",
    "Lung cyst": "Other lesion",
    "Mediastinal shift": "Other lesion",
    "Rib fracture": "Other lesion",
}

_CANONICAL = {name.lower(): name for name in (*FINDINGS, NO_FINDING)}
_PHYSIONET = {name.lower(): target for name, target in PHYSIONET_TO_KAGGLE.items()}
_PACKAGED = "torchxrayvision"


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
            class_id, 22 names), or "torchxrayvision" for the packaged Kaggle file. Commas or semicolons, UTF-8 or
            UTF-16, a byte-order mark and upper-case headers are all read.
        image_sizes: image_id -> (width, height). With it, boxes are cut at the border of the film or rejected.

    Returns:
        (annotations, rejected). annotations: image_id, rad_id, class_id, class_name and the four coordinates (NaN for
        "No finding"). rejected: row (number of the data row, from 1), image_id, reason. Rows that repeat another row
        exactly are in `rejected` too.

    Raises:
        BadAnnotations: The file is missing, empty, not a table, or lacks a column.
    """
    path = packaged_path() if str(source) == _PACKAGED else Path(source)
    table = _read_table(path)
    table.columns = [str(name).strip().lower() for name in table.columns]
    missing = [name for name in ("image_id", *BOX) if name not in table.columns]
    if "class_name" not in table.columns and "class_id" not in table.columns:
        missing.append("class_name")
    if missing:
        raise BadAnnotations(
            f"{path.name}: column {', '.join(missing)} is missing; found {', '.join(map(str, table.columns))}"
        )
    if table.empty:
        raise BadAnnotations(f"{path.name}: there are no annotation rows, only a header")
    table = table.reset_index(drop=True)
    reasons = pd.Series("", index=table.index, dtype=object)

    def reject(where: pd.Series, reason) -> None:
        chosen = where & (reasons == "")
        reasons[chosen] = reason[chosen] if isinstance(reason, pd.Series) else reason

    # Quotes keep a leading blank in an id: ids are compared as they stand.
    image_id = table.image_id.astype(object).where(table.image_id.notna(), "").astype(str)
    reject(image_id.str.strip() == "", "image_id is empty")
    class_id, class_name = _classes(table, reject)

    out = pd.DataFrame({"image_id": image_id})
    out["rad_id"] = table.rad_id.fillna("").astype(str).str.strip() if "rad_id" in table.columns else "R1"
    out["class_id"], out["class_name"] = class_id, class_name
    for name in BOX:
        out[name] = _numbers(table[name])

    normal = out.class_name == NO_FINDING
    out.loc[normal, BOX] = np.nan  # some files hold 0, 0, 1, 1 there
    reject(~normal & out[BOX].isna().any(axis=1), "a finding without four coordinates")
    reject(~normal & ~np.isfinite(out[BOX]).all(axis=1), "a coordinate is not finite")
    reject(~normal & ((out.x_max < out.x_min) | (out.y_max < out.y_min)), "the box is inside out")
    reject(~normal & ((out.x_max == out.x_min) | (out.y_max == out.y_min)), "the box has no area")
    if image_sizes is not None:
        _clip(out, normal, image_sizes, reject)
    reject(out.duplicated(COLUMNS) & (reasons == ""), "repeats another row exactly")

    bad = reasons != ""
    rejected = pd.DataFrame(
        {"row": table.index[bad] + 1, "image_id": image_id[bad], "reason": reasons[bad]}
    ).reset_index(drop=True)
    kept = out[~bad].reset_index(drop=True)
    kept["class_id"] = kept.class_id.astype(int)
    return kept[COLUMNS], rejected


def _classes(table: pd.DataFrame, reject) -> tuple[pd.Series, pd.Series]:
    """Class id and name per row, from either column or both; unknown or disagreeing ones are rejected."""
    codes = {name: i for i, name in enumerate((*FINDINGS, NO_FINDING))}
    names_known = "class_name" in table.columns
    given_id = _numbers(table.class_id) if "class_id" in table.columns else None
    if names_known:
        written = table.class_name.astype(object).where(table.class_name.notna(), "").astype(str).str.strip()
        lower = written.str.lower()
        # PhysioNet's eight further names are told apart from Kaggle's by the missing class_id.
        vocabulary = _CANONICAL if given_id is not None else {**_PHYSIONET, **_CANONICAL}
        name = lower.map(vocabulary)
        reject(name.isna(), "unknown class " + written.map(repr))
        class_id = name.map(codes)
        if given_id is not None:
            known = name.notna() & given_id.notna()
            text = written.map(repr) + " has class_id " + given_id.map("{:g}".format)
            reject(known & (given_id != class_id), "class name and id disagree: " + text)
    else:
        name = given_id.map(dict(enumerate((*FINDINGS, NO_FINDING))))
        reject(name.isna(), "unknown class_id " + given_id.map("{:g}".format))
        class_id = given_id
    return class_id, name


def _numbers(column: pd.Series) -> pd.Series:
    """Text to float; a decimal comma counts as a point, anything unreadable becomes NaN."""
    if column.dtype.kind in "if":
        return column.astype(float)
    text = column.astype(object).where(column.notna(), "").astype(str).str.strip().str.replace(",", ".", regex=False)
    return pd.to_numeric(text, errors="coerce").astype(float)


def _clip(out: pd.DataFrame, normal: pd.Series, image_sizes: Mapping, reject) -> None:
    known = out.image_id.isin(set(image_sizes))
    reject(~known, "no film with this image_id")
    width = out.image_id.map({k: v[0] for k, v in image_sizes.items()}).astype(float)
    height = out.image_id.map({k: v[1] for k, v in image_sizes.items()}).astype(float)
    outside = (out.x_max <= 0) | (out.y_max <= 0) | (out.x_min >= width) | (out.y_min >= height)
    reject(known & ~normal & outside, "the box lies outside the film")
    for low, high, limit in (("x_min", "x_max", width), ("y_min", "y_max", height)):
        inside = known & ~normal & ~outside
        out.loc[inside, low] = out.loc[inside, low].clip(lower=0)
        out.loc[inside, high] = np.minimum(out.loc[inside, high], limit[inside])


def _read_table(path: Path) -> pd.DataFrame:
    """A CSV of any usual dialect as text columns."""
    if not path.is_file():
        raise BadAnnotations(f"{path.name}: there is no such file")
    if path.suffix == ".gz":
        return pd.read_csv(path, dtype={"image_id": str, "rad_id": str, "class_name": str})
    raw = path.read_bytes()
    if not raw.strip():
        raise BadAnnotations(f"{path.name}: the file is empty")
    text = _decode(raw, path)
    header = next((line for line in text.splitlines() if line.strip()), "")
    separator = max(",;\t", key=header.count)
    if header.count(separator) == 0:
        raise BadAnnotations(
            f"{path.name}: found one column, {header.strip()[:60]!r}; expected a comma-separated table"
        )
    types = {name: str for name in next(csv.reader([header], delimiter=separator))}
    numeric = {name for name in types if name.strip().lower() in BOX and separator == ","}
    try:
        return pd.read_csv(
            io.StringIO(text), sep=separator, dtype={k: v for k, v in types.items() if k not in numeric},
            skip_blank_lines=True, keep_default_na=False, na_values=["", "NA", "nan", "NaN", "None", "null"],
        )  # fmt: skip
    except (pd.errors.ParserError, ValueError) as error:
        raise BadAnnotations(f"{path.name}: not a readable table ({error})") from error


def _decode(raw: bytes, path: Path) -> str:
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if raw.startswith(mark):
            return raw.decode(encoding)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        if raw[:200].count(0) > 20:
            return raw.decode("utf-16-le" if raw[1] == 0 else "utf-16-be")
        raise BadAnnotations(f"{path.name}: the text is neither UTF-8 nor UTF-16; save it as UTF-8") from None


def read_global_labels(path: str | Path) -> pd.DataFrame:
    """PhysioNet's image-level labels (`image_labels_*.csv`).

    Returns:
        DataFrame as in the file: image_id (text), rad_id where there is one, and one integer column (0/1) per label.

    Raises:
        BadAnnotations: As `read_annotations`; also a value other than 0 and 1.
    """
    path = Path(path)
    table = _read_table(path)
    lower = {str(name).strip().lower(): name for name in table.columns}
    if "image_id" not in lower:
        raise BadAnnotations(f"{path.name}: column image_id is missing; found {', '.join(map(str, table.columns))}")
    table = table.rename(columns={lower[name]: name for name in ("image_id", "rad_id") if name in lower})
    for name in table.columns.difference(["image_id", "rad_id"], sort=False):
        values = _numbers(table[name])
        if not values.isin([0, 1]).all():
            raise BadAnnotations(f"{path.name}: column {name} holds something other than 0 and 1")
        table[name] = values.astype(int)
    return table


def read_merged(path: str | Path) -> pd.DataFrame:
    """annotations.csv of notebook 01, with class_labels as lists of int and image_id as text."""
    table = pd.read_csv(path, dtype={"image_id": str, "class_names": str}, keep_default_na=False, na_values=[""])
    table["class_labels"] = [[int(i) for i in ast.literal_eval(text)] for text in table.class_labels]
    return table


def label_matrix(annotations: pd.DataFrame, image_ids: Sequence[str]) -> pd.DataFrame:
    """Who has what: a 0/1 table of films and classes.

    Args:
        annotations: Reader rows (class_id), merged rows (class_labels, lists or their text) or truth rows (class_id).
        image_ids: Films, in the order wanted; a film without a row counts as "No finding".

    Returns:
        DataFrame (n, 15), index image_ids, columns FINDINGS + "No finding", int. A finding is 1 where any row names it;
        "No finding" is 1 exactly where no finding is.
    """
    image_ids = [str(i) for i in image_ids]
    if "class_labels" in annotations.columns:
        rows = annotations[["image_id", "class_labels"]].copy()
        rows["class_id"] = [ast.literal_eval(v) if isinstance(v, str) else list(v) for v in rows.class_labels]
        rows = rows.explode("class_id")
    else:
        rows = annotations[["image_id", "class_id"]]
    place = {image_id: n for n, image_id in enumerate(image_ids)}
    rows = rows[rows.image_id.isin(place)]
    matrix = np.zeros((len(image_ids), len(FINDINGS) + 1), int)
    matrix[rows.image_id.map(place).to_numpy(int), rows.class_id.to_numpy(int)] = 1
    matrix[:, NO_FINDING_ID] = ~matrix[:, :NO_FINDING_ID].any(1)
    return pd.DataFrame(matrix, index=image_ids, columns=[*FINDINGS, NO_FINDING])


def make_splits(
    image_ids: Sequence[str],
    labels: pd.DataFrame,
    patient_keys: Mapping[str, str],
    seed: int,
    fractions: Sequence[float] = (0.7, 0.1, 0.2),
) -> pd.DataFrame:
    """Divide films into train, val and test.

    Whole patients are dealt, so that no patient is in two splits. Iterative stratification (Sechidis et al. 2011): the
    rarest finding left is dealt first, each patient to the split that misses it most.

    Args:
        image_ids: Films; their order does not matter.
        labels: `label_matrix` of them.
        patient_keys: image_id -> patient; a film that is not in it is a patient of its own.
        seed: Breaks ties.
        fractions: Shares of train, val and test; a share of 0 leaves that split empty (the paper's 80:20 is
            (0.8, 0.2, 0)).

    Returns:
        DataFrame image_id, patient_key, split, sorted by image_id.
    """
    fractions = np.array(fractions, float)
    if len(fractions) != 3 or (fractions < 0).any() or abs(fractions.sum() - 1) > 1e-6:
        raise ValueError(f"fractions must be three shares that add to 1, found {fractions.tolist()}")
    table = pd.DataFrame({"image_id": sorted(map(str, image_ids))})
    table["patient_key"] = [patient_keys.get(i) or i for i in table.image_id]
    per_patient = labels.loc[table.image_id].groupby(table.patient_key.to_numpy()).sum()
    films = table.groupby("patient_key").size()
    # A hash of seed and patient orders the patients: independent of the order of rows.
    order = sorted(per_patient.index, key=lambda key: hashlib.sha256(f"{seed} {key}".encode()).digest())
    per_patient = per_patient.loc[order].to_numpy()
    weight = films.loc[order].to_numpy()

    wanted_films = fractions * weight.sum()
    wanted = fractions[:, None] * per_patient.sum(0)
    given = np.full(len(order), -1)
    while (given < 0).any():
        left = given < 0
        remaining = per_patient[left].sum(0)
        rarest = np.where(remaining > 0, remaining, np.inf).argmin() if remaining.any() else None
        chosen = np.flatnonzero(left & (per_patient[:, rarest] > 0)) if rarest is not None else np.flatnonzero(left)
        for n in chosen:
            need = wanted[:, rarest] if rarest is not None else wanted_films
            split = max(range(3), key=lambda k: (fractions[k] > 0, round(need[k], 9), round(wanted_films[k], 9)))
            given[n] = split
            wanted[split] -= per_patient[n]
            wanted_films[split] -= weight[n]
    names = dict(zip(order, np.array(["train", "val", "test"])[given], strict=True))
    table["split"] = table.patient_key.map(names)
    return table
