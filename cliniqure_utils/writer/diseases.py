"""The disease table that section 5.2 fine-tunes on, read from a file, a folder or the Hugging Face hub."""

from pathlib import Path

import numpy as np
import pandas as pd

LANGUAGE = "en"  # the paper's choice: a configuration of its table on the hub
REQUIRED = ("disease", "common_symptom")
UNSOURCED = "unsourced"
BUILDERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


class MissingTable(RuntimeError):
    """The disease table cannot be found, or the file is not one; the message says what to do."""


def read_diseases(source: str | Path, language: str = LANGUAGE) -> tuple[pd.DataFrame, int]:
    """Read a disease table (paper, sections 5.2 and 5.3).

    Args:
        source: A file (CSV, TSV, JSON, JSON lines, Parquet); a folder (a data set that `Dataset.save_to_disk` wrote, or
            one with such files, as a copy of the hub's repository is); or a name on the Hugging Face hub.
        language: Configuration on the hub; in a folder with several files, the one with "_en" in its name.

    Returns:
        (table, dropped): Text columns, "" for an empty cell; at least `disease` and `common_symptom`, both filled.
        dropped counts the rows without one of the two: nothing can be learned from them.

    Raises:
        MissingTable: Not found, no network, not readable, a column missing, or no row left.
    """
    path = Path(source)
    if path.is_dir():
        table = _read_folder(path, language)
    elif path.is_file():
        table = _read_file(path)
    elif path.suffix in BUILDERS or path.is_absolute() or path.parts[:1] == ("..",) or len(path.parts) > 2:
        raise MissingTable(f"disease table {path.name}: there is no such file or folder; see data/README.md")
    else:
        table = _load(str(source), str(source), language)
    missing = [column for column in REQUIRED if column not in table.columns]
    if missing:
        found = ", ".join(map(str, table.columns))
        raise MissingTable(f"disease table {path.name}: expected the columns {' and '.join(REQUIRED)}, found {found}")
    table = table.apply(lambda column: column.map(_as_text))
    filled = (table[list(REQUIRED)] != "").all(axis=1)
    if not filled.any():
        raise MissingTable(f"disease table {path.name}: no row has both a disease and its symptoms")
    return table[filled].reset_index(drop=True), int((~filled).sum())


def sourced_rows(table: pd.DataFrame) -> pd.Series:
    """bool (n,): which rows name a source; none where the table has no column for it (the paper's has none)."""
    if "source" not in table.columns:
        return pd.Series(False, index=table.index)
    return ~table.source.isin(["", UNSOURCED])


def _as_text(value) -> str:
    """A cell as one line of text; the published table holds lists in places."""
    if isinstance(value, list | tuple | np.ndarray):
        return ", ".join(_as_text(part) for part in value)
    return "" if value is None or value != value else " ".join(str(value).split())


def _read_file(path: Path) -> pd.DataFrame:
    if path.suffix not in BUILDERS:
        raise MissingTable(f"disease table {path.name}: expected a file that ends in {', '.join(BUILDERS)}")
    if BUILDERS[path.suffix] == "csv":  # by pandas, all cells as text: "None" and "NA" are words here
        separator = "\t" if path.suffix == ".tsv" else ","
        try:
            return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
        except (ValueError, OSError) as error:  # pandas' and Unicode's errors are ValueErrors
            raise _unreadable(path.name, error) from error
    return _load(path.name, BUILDERS[path.suffix], data_files=str(path))


def _read_folder(path: Path, language: str) -> pd.DataFrame:
    from datasets import DatasetDict, load_from_disk

    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        saved = load_from_disk(str(path))
        saved = saved["train" if "train" in saved else next(iter(saved))] if isinstance(saved, DatasetDict) else saved
        return saved.to_pandas()
    files = sorted(p for p in path.rglob("*") if p.suffix in BUILDERS and not p.name.startswith(("dataset_info", ".")))
    in_language = [p for p in files if f"_{language}" in p.stem.lower() or p.stem.lower() == language]
    files = in_language or files
    if len(files) != 1:
        found = ", ".join(p.name for p in files) or "none"
        raise MissingTable(
            f"disease table {path.name}: expected one file that ends in {', '.join(BUILDERS)}, or one of several with "
            f'"_{language}" in its name, found {found}; give the file itself'
        )
    return _read_file(files[0])


def _load(name: str, *where, **settings) -> pd.DataFrame:
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
    from datasets.utils import disable_progress_bars

    disable_progress_bars()
    try:
        return load_dataset(*where, split="train", **settings).to_pandas()
    except (ConnectionError, DatasetNotFoundError) as error:
        raise MissingTable(
            f"disease table {name}: the Hugging Face hub cannot be reached, or has no such table; download it where "
            "there is a network and give the folder, or use our own data/diseases.csv"
        ) from error
    except (DatasetGenerationError, ValueError, OSError) as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> MissingTable:
    return MissingTable(f"disease table {name}: cannot be read as a table ({' '.join(str(error).split())[:200]})")
