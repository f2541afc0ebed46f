"""What guards a run: the lock on its folder, and an orderly end when the user stops it."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from cliniqure_utils.course.chain.screen import short_path
from cliniqure_utils.project import CannotStart
from cliniqure_utils.runs import lock


@contextlib.contextmanager
def run_folder_lock(run_dir: Path) -> Iterator[None]:
    """One chain per run folder; the lock goes with the process, however it ends."""
    from filelock import Timeout

    run_dir.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(lock(run_dir / ".lock", wait=False))
        except Timeout:
            raise CannotStart(
                f"another run is using {short_path(run_dir)}: wait for it or choose another --run-dir"
            ) from None
        yield


@contextlib.contextmanager
def stop_signals(stopping: threading.Event) -> Iterator[None]:
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
