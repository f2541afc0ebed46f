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
from cliniqure_utils.project import REPOSITORY, CannotStart

ABSENT = "absent"
SMALL_FILE = 64 * 2**20  # bytes; a larger file named by a parameter counts by size and time of change
TABLES = (".csv", ".json", ".jsonl", ".txt")


def digest(value) -> str:
    """sha256 of any JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def scan(folder: Path, known: Mapping[str, Mapping] | None = None) -> dict[str, dict]:
    """Every file below a step's folder -> {relative path: {sha256, bytes, mtime_ns}}.

    Training checkpoints and half-written files (names with a leading dot) are not outputs. A file whose size and time
    of change equal those in `known` keeps the hash that stands there.
    """
    known = known or {}
    found = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        relative = path.relative_to(folder)
        if not path.is_file() or any(part.startswith((".", "checkpoint")) for part in relative.parts):
            continue
        state = path.stat()
        old = known.get(relative.as_posix(), {})
        same = old.get("bytes") == state.st_size and old.get("mtime_ns") == state.st_mtime_ns
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
            except SyntaxError as error:
                lines = source.splitlines()
                raise CannotStart(f"this code is not Python ({error.msg}): {lines[0][:80] if lines else ''}") from None
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


def package_part(modules: Mapping[str, str], package_dir: Path) -> dict[str, str]:
    """Hashes of the imported modules and of the package's data files (prompts, tables), which any module may read."""
    files = {name: hashlib.sha256(source.encode()).hexdigest() for name, source in modules.items()}
    for path in sorted(Path(package_dir).rglob("*")):
        if path.is_file() and path.suffix not in (".py", ".pyc") and "__pycache__" not in path.parts:
            files[path.relative_to(package_dir).as_posix()] = sha256_file(path)
    return files


def earlier_steps(notebook: Notebook, modules: Mapping[str, str], names: list[str]) -> list[str]:
    """The earlier notebooks whose files this one may read: those named in its code or in modules it imports.

    runs.py names all of them and reads none; code that walks over `STEPS` may read any.
    """
    text = "\n".join([*notebook.code, *(source for name, source in modules.items() if name != "runs.py")])
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
        if path.is_file() and path.suffix in TABLES and re.search(rf"\b{re.escape(path.stem)}\b", text)
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
    """What stands in the data folder.

    The simulated cohort is known by cohort.json; real data by the hashes of its tables and the names and sizes of all
    files (a hash of 200 GB of images would take longer than reading them).
    """
    if not data_dir.is_dir() or not any(data_dir.glob("*.csv")):
        return {"kind": ABSENT}
    tables = {path.name: sha256_file(path) for path in sorted(data_dir.glob("*.csv"))}
    cohort = data_dir / "cohort.json"
    if cohort.is_file():
        return {"kind": "simulated", "cohort": sha256_file(cohort), "tables": tables}
    found = [path for path in data_dir.rglob("*") if path.is_file() and not path.name.startswith(".")]
    files = [(str(path.relative_to(data_dir)), path.stat().st_size) for path in found]
    return {"kind": "archive", "tables": tables, "n_files": len(files), "names_and_sizes": digest(sorted(files))}


def installed_versions() -> dict[str, str]:
    """Installed versions of Python and of what pyproject.toml asks for."""
    asked = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    versions = {"python": platform.python_version()}
    for line in [*asked["dependencies"], *asked["optional-dependencies"]["dev"]]:
        name = re.match(r"[A-Za-z0-9._-]+", line).group()
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # an optional one that is not there
            versions[name] = importlib.metadata.version(name)
    return versions
