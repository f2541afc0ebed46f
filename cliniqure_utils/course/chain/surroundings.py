"""Around a run: the lock, the signals, the installed versions, and how lines and paths are shown."""

import contextlib
import importlib.metadata
import os
import platform
import re
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from cliniqure_utils.project import CannotStart


def package_versions() -> dict[str, str]:
    """Installed versions of Python and of what pyproject.toml asks for."""
    versions = {"python": platform.python_version()}
    try:
        wanted = importlib.metadata.requires("cliniqure") or []
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that was not installed
        wanted = []
    for line in wanted:
        name = re.match(r"[A-Za-z0-9._-]+", line).group()
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # an optional one that is not there
            versions[name] = importlib.metadata.version(name)
    return versions


@contextlib.contextmanager
def lock(run_dir: Path) -> Iterator[None]:
    """One chain per run folder; the lock goes with the process, however it ends."""
    from filelock import FileLock, Timeout

    run_dir.mkdir(parents=True, exist_ok=True)
    held = FileLock(run_dir / ".lock")
    try:
        held.acquire(timeout=0)
    except Timeout:
        raise CannotStart(
            f"another run is using {short_path(run_dir)}: wait for it or choose another --run-dir"
        ) from None
    try:
        yield
    finally:
        held.release()


@contextlib.contextmanager
def signals(stopping: threading.Event) -> Iterator[None]:
    """Ctrl-C and a polite kill both set `stopping` and raise KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signum, frame):
        stopping.set()
        raise KeyboardInterrupt

    wanted = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say(line: str) -> None:
    """Print a line at once, above a progress bar; a reader that has gone away (`| head`) does not stop the run."""
    try:
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the rest of the process


def short_path(path: Path) -> str:
    """Relative to the caller's folder when it is below it."""
    here = Path.cwd()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else path.as_posix()
