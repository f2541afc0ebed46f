"""The floor plan of the package: what a newcomer may rely on who looks for a thing, read from its code."""

import ast
import importlib
import inspect
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "cliniqure_utils"
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / PACKAGE).rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def notebook_trees() -> dict[str, ast.Module]:
    found = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        found[path.name] = ast.parse("\n".join(code))
    return found


def imported(tree: ast.Module) -> set[str]:
    """Modules of the package that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in FILES else node.module)
    return found


def test_every_import_is_absolute_and_of_names():
    relative = [
        f"{name}:{node.lineno}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.ImportFrom) and node.level)
        or (isinstance(node, ast.Import) and any(a.name.split(".")[0] == PACKAGE for a in node.names))
    ]
    assert not relative, "write `from cliniqure_utils.folder import name`: " + ", ".join(relative)


def test_no_module_imports_one_that_imports_it():
    """Imports inside functions count: they hide a circle, they do not open it."""
    edges = {name: imported(TREES[name]) - {name} for name in FILES}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            pytest.fail("import cycle: " + " -> ".join([*path[path.index(name) :], name]))
        if name in done:
            return
        for other in sorted(edges[name]):
            visit(other, (*path, name))
        done.add(name)

    for name in sorted(FILES):
        visit(name, ())


def test_no_private_name_is_read_across_modules():
    read = []
    for where, tree in {**TREES, **notebook_trees()}.items():
        modules = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
                read += [f"{where}: {node.module}.{a.name}" for a in node.names if a.name.startswith("_")]
                modules |= {a.asname or a.name for a in node.names if f"{node.module}.{a.name}" in FILES}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                if node.attr.startswith("_") and not node.attr.startswith("__"):
                    read.append(f"{where}:{node.lineno}: {node.value.id}.{node.attr}")
    assert not read, "; ".join(read)


def uses(tree: ast.Module, skip: ast.AST | None = None) -> set[str]:
    """Names that code reads, as `name` or as `thing.name`; what stands inside `skip` does not count."""
    found, stack = set(), [tree]
    while stack:
        node = stack.pop()
        if node is skip:
            continue
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        stack.extend(ast.iter_child_nodes(node))
    return found


def is_a_hook(module: str, class_name: str, method: str) -> bool:
    """Whether a library calls the method: a base class from outside the package has it too, or a dunder."""
    if method.startswith("__"):
        return True
    kind = getattr(importlib.import_module(module), class_name)
    outside = [base for base in inspect.getmro(kind)[1:] if base.__module__.split(".")[0] != PACKAGE]
    return any(hasattr(base, method) for base in outside)


# Called by name from outside Python: what calls it.
CALLED_FROM_OUTSIDE = {
    "set_epoch": "accelerate's data loader",
    "fingerprint": "training.fit",
    "read_header": "whoever wants to know what a DICOM file says of its film",
}


def test_no_function_or_class_is_there_for_tests_alone():
    """The package, the notebooks and the commands use it, or it goes."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    elsewhere = {entry.split(":")[1] for entry in scripts.values()} | set(CALLED_FROM_OUTSIDE)
    for tree in notebook_trees().values():
        elsewhere |= uses(tree)
    used_in = {name: uses(tree) for name, tree in TREES.items()}
    unused = []
    for name, tree in TREES.items():
        others = elsewhere.union(*(used_in[other] for other in FILES if other != name))
        for node in tree.body:
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                continue
            if node.name not in others | uses(tree, skip=node):
                unused.append(f"{name}.{node.name}")
            if isinstance(node, ast.ClassDef):
                for method in node.body:
                    if isinstance(method, ast.FunctionDef) and method.name not in others | uses(tree, skip=method):
                        if not is_a_hook(name, node.name, method.name):
                            unused.append(f"{name}.{node.name}.{method.name}")
    assert not unused, "only tests call: " + ", ".join(unused)


def test_nothing_happens_on_import():
    calls = [
        f"{name}:{node.lineno}"
        for name, tree in TREES.items()
        for node in tree.body
        if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
    ]
    assert not calls, "a call at the top of a module: " + ", ".join(calls)
    code = "import cliniqure_utils, sys; print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_package_holds_modules_only():
    """What a notebook depends on is known by the modules that it imports; a data file among them would not count."""
    listed = subprocess.run(["git", "ls-files", PACKAGE], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    others = [name for name in listed if not name.endswith(".py")]
    assert not others, "put it into data/: " + ", ".join(others)


def test_a_folder_has_a_name_and_a_sentence():
    """Every folder and module says in its first line what it is for."""
    silent = [name for name, tree in TREES.items() if not ast.get_docstring(tree)]
    assert not silent, ", ".join(silent)


def test_tests_lie_where_their_modules_lie():
    lost = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        folder = path.parent.relative_to(ROOT / "tests")
        if folder != Path(".") and not (ROOT / PACKAGE / folder).is_dir():
            lost.append(str(path.relative_to(ROOT)))
    assert not lost, "no such folder in the package: " + ", ".join(lost)
