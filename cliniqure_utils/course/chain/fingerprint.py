"""What a notebook's result depends on, as hashes: when none of them has changed, the notebook need not run again.

The parts are its code, the package modules it imports (directly or through others), its parameters, the files that the
earlier notebooks named in that code have written, the data folder where it is read, and the package versions.
"""

import ast
import contextlib
import hashlib
import importlib.metadata
import json
import platform
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from cliniqure_utils import pretrained
from cliniqure_utils.notebooks import Notebook
from cliniqure_utils.project import REPOSITORY
from cliniqure_utils.runs import sha256_file

ABSENT = "absent"
SMALL_FILE = 64 * 2**20  # bytes; a larger file named by a parameter counts by size and time of change
NAMING = ("runs.py", "notebooks.py")  # modules that name steps
TABLES = (".csv", ".json", ".jsonl", ".txt")
# Tables of a data folder that notebook 01 reads: Kaggle's layout, PhysioNet's, and what the simulated cohort adds.
DATA_TABLES = (
    "clinical.csv", "train.csv", "truth.csv", "annotations_train.csv", "image_labels_train.csv",
    "annotations/annotations_train.csv", "annotations/image_labels_train.csv",
)  # fmt: skip
STRAY = re.compile(
    r"\..*|thumbs\.db|ehthumbs\.db|desktop\.ini|icon\r?|__macosx|@eadir|.*~|~\$.*", re.IGNORECASE | re.DOTALL
)


def digest(value) -> str:
    """sha256 of any JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def is_stray(relative: Path) -> bool:
    """Whether a file below a folder is nobody's work: an operating system, an editor or a notebook server put it there.

    Hidden files and folders (.DS_Store, ._name of macOS, .ipynb_checkpoints, .nfs...), Thumbs.db and desktop.ini of
    Windows, Icon and __MACOSX of macOS, @eaDir of a file server, an editor's name~ and ~$name.
    """
    return any(STRAY.fullmatch(part) for part in relative.parts)


def scan(folder: Path, known: Mapping[str, Mapping] | None = None) -> dict[str, dict]:
    """Every file below a step's folder -> {relative path: {sha256, bytes, mtime_ns}}.

    Training checkpoints and stray files are not outputs, nor are half-written ones (names with a leading dot). A file
    whose size and time of change equal those in `known` keeps the hash that stands there.
    """
    known = known or {}
    found = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        relative = path.relative_to(folder)
        if is_stray(relative) or any(part.startswith("checkpoint") for part in relative.parts) or not path.is_file():
            continue
        state = path.stat()
        old = known.get(relative.as_posix(), {})
        same = "sha256" in old and old.get("bytes") == state.st_size and old.get("mtime_ns") == state.st_mtime_ns
        found[relative.as_posix()] = {
            "sha256": old["sha256"] if same else sha256_file(path),
            "bytes": state.st_size,
            "mtime_ns": state.st_mtime_ns,
        }
    return found


def contents(files: Mapping[str, Mapping]) -> dict[str, str]:
    """{relative path: sha256} of `scan`'s result."""
    return {name: entry["sha256"] for name, entry in files.items()}


def imported_modules(sources: Iterable[str], package_dir: Path) -> dict[str, str]:
    """Modules of the package that the sources import, and those that these import: {relative path: source}."""
    package_dir = Path(package_dir)
    package = package_dir.name
    found: dict[str, str] = {}

    def add(module: str) -> None:
        """Take a dotted name of the package, with the packages above it; a name that is no module is passed over."""
        parts = module.split(".")
        if parts[0] != package:
            return
        for n in range(1, len(parts) + 1):
            base = package_dir.joinpath(*parts[1:n])
            path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
            if not path.is_file():
                return
            key = path.relative_to(package_dir).as_posix()
            if key not in found:
                found[key] = path.read_text(encoding="utf-8")
                is_package = path.name == "__init__.py"
                walk(found[key], ".".join(parts[: n if is_package else n - 1]))

    def walk(source: str, parent: str | None) -> None:
        try:
            tree = ast.parse(source)
        except SyntaxError:  # a cell with a shell line or a magic: parse it without those lines
            try:
                tree = ast.parse(re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", source))
            except SyntaxError:  # a cell of another language, or a student's half line: it imports nothing known
                return
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    add(alias.name)
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level and parent:
                    above = parent.split(".")[: len(parent.split(".")) - node.level + 1]
                    base = ".".join([*above, base]).strip(".")
                add(base)
                for alias in node.names:
                    add(f"{base}.{alias.name}")

    for source in sources:
        walk(source, None)
    return found


def package_part(modules: Mapping[str, str]) -> dict[str, str]:
    """Hashes of the imported modules. The package holds nothing but modules, so that no other file in it counts."""
    return {name: hashlib.sha256(source.encode()).hexdigest() for name, source in modules.items()}


def earlier_steps(notebook: Notebook, modules: Mapping[str, str], names: list[str]) -> list[str]:
    """The earlier notebooks whose files this one may read: those named in its code or in modules it imports.

    Modules in NAMING name steps and read the files of none; code that walks over `STEPS` may read any.
    """
    text = "\n".join([*notebook.code, *(source for name, source in modules.items() if name not in NAMING)])
    before = names[: names.index(notebook.name)]
    if re.search(r"\bSTEPS\b", text):
        return before
    return [name for name in before if name in text]


def table_part(notebook: Notebook, modules: Mapping[str, str], tables_dir: Path) -> dict[str, str]:
    """Hashes of the project's own small tables (data/*.csv ...) whose name occurs in the notebook or its modules."""
    if not tables_dir.is_dir():
        return {}
    text = "\n".join([*notebook.code, *modules.values()])
    return {
        path.name: sha256_file(path)
        for path in sorted(tables_dir.iterdir())
        if path.suffix in TABLES and re.search(rf"(?<![\w.]){re.escape(path.name)}\b", text) and path.is_file()
    }


def parameter_part(values: Mapping, notebooks_dir: Path) -> dict:
    """The parameters, without the two folders (their content counts, not their place), plus the files they name;
    "pretrained" names those of data/pretrained."""
    kept = {name: value for name, value in values.items() if name not in ("run_dir", "data_dir")}
    files = {}
    for name, value in kept.items():
        if not isinstance(value, str) or not value or "\n" in value or len(value) > 1000:
            continue
        path = notebooks_dir / value
        if value == "pretrained":
            files[name] = pretrained.identities()
        elif path.is_file():
            state = path.stat()
            files[name] = sha256_file(path) if state.st_size <= SMALL_FILE else [state.st_size, state.st_mtime_ns]
    return {"values": kept, "files": files}


def data_fingerprint(data_dir: Path) -> dict:
    """What notebook 01 reads of the data folder; other files in it count for nothing.

    The simulated cohort is known by cohort.json; real data by the hashes of its tables and the names and sizes of its
    films (a hash of 200 GB of films would take longer than reading them).
    """
    tables = {name: sha256_file(data_dir / name) for name in DATA_TABLES if (data_dir / name).is_file()}
    if not tables:
        return {"kind": ABSENT}
    cohort = data_dir / "cohort.json"
    if cohort.is_file():
        return {"kind": "simulated", "cohort": sha256_file(cohort), "tables": tables}
    from cliniqure_utils.dicom import EXTENSIONS

    found = [path for path in (data_dir / "train").glob("*") if path.suffix.lower() in EXTENSIONS]
    films = [(path.name, path.stat().st_size) for path in found if not is_stray(Path(path.name)) and path.is_file()]
    return {"kind": "archive", "tables": tables, "n_files": len(films), "names_and_sizes": digest(sorted(films))}


def installed_versions() -> dict[str, str]:
    """Installed versions of Python and of what pyproject.toml asks for."""
    asked = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    versions = {"python": platform.python_version()}
    for line in [*asked["dependencies"], *asked["optional-dependencies"]["dev"]]:
        name = re.match(r"[A-Za-z0-9._-]+", line).group()
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # an optional one that is not there
            versions[name] = importlib.metadata.version(name)
    return versions
