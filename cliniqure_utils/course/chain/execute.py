"""Running one notebook with papermill: the kernel, its memory, the log on screen, and a failure in plain words."""

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from cliniqure_utils.course.chain.screen import ANSI, cell_output_on_screen
from cliniqure_utils.notebooks import Notebook, cell_source
from cliniqure_utils.process import thread_settings
from cliniqure_utils.runs import write_text

# Given to the kernel where the caller's environment does not set them.
KERNEL_ENVIRONMENT = {
    "TQDM_MININTERVAL": "1",  # seconds; a progress bar is kept in the executed copy
    "TOKENIZERS_PARALLELISM": "false",  # its warning after a fork would land in the output
    "PYTHONHASHSEED": "0",  # the order of a set is the same in every run
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # CUDA's condition for deterministic matrix products
    "PYTORCH_ENABLE_MPS_FALLBACK": "1",  # what Apple's GPU cannot do yet, the CPU does
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # no debugger warning in the output
}
QUIET = ("--HistoryManager.enabled=False",)  # IPython's history is a database in the home folder: on NFS it stalls
KERNEL_SECONDS = 300  # in which a kernel must answer: a busy machine, packages on a network drive
HOW_IT_ENDED = {
    -9: "was killed (signal 9), as happens when memory runs out: try a smaller batch size",
    -11: "crashed in compiled code (signal 11)",
}


@dataclass(frozen=True)
class Failure:
    """Where and why a notebook stopped. `cell` counts all cells of the notebook from 1; 0 when no cell was running."""

    cell: int
    n_cells: int
    execution_count: int | None
    error: str
    message: str
    excerpt: str
    raised_at: str

    def lines(self) -> list[str]:
        where = f"cell {self.cell} of {self.n_cells}" if self.cell else "no cell"
        counted = f" (In [{self.execution_count}])" if self.execution_count else ""
        lines = [f"stopped in {where}{counted}:"]
        lines += [f"    {line}" for line in self.excerpt.splitlines()]
        lines += [f"  {line}" for line in f"{self.error}: {self.message}".splitlines()]
        return lines + ([f"  raised at {self.raised_at}"] if self.raised_at else [])


class NotebookFailed(RuntimeError):
    """A notebook stopped with an error; the chain stops with it. The command exits with 1."""

    def __init__(self, name: str, failure: Failure, peak_mb: float):
        super().__init__(f"{name} {failure.lines()[0]} {failure.error}: {failure.message.splitlines()[0]}")
        self.name = name
        self.failure = failure
        self.peak_mb = peak_mb


def execute(
    notebook: Notebook,
    output_path: Path,
    parameters: Mapping,
    on_kernel: Callable[[int], None] = lambda pid: None,
    stopping: threading.Event | None = None,
    cell_seconds: int | None = None,
) -> float:
    """Run a notebook from its own folder and keep the executed copy.

    Args:
        notebook: Executed with this Python, whatever kernels are registered on the machine.
        output_path: The executed copy, written cell by cell.
        parameters: Only these are injected.
        on_kernel: Called with the kernel's process id.
        stopping: Set when the user has asked to stop: the kernel then ends at once, in silence.
        cell_seconds: How long a cell may take; None: any time.

    Returns:
        Peak memory of the kernel and its worker processes, in MB (resident, sampled; shared pages count twice).

    Raises:
        NotebookFailed: A cell raised or took too long, or the kernel died, or did not start twice.
    """
    given = notebook, output_path, parameters, on_kernel, stopping or threading.Event(), cell_seconds
    try:
        return _execute(*given)
    except _KernelDidNotStart:  # of kernels that start at once, two may choose one port: chance
        with contextlib.suppress(_KernelDidNotStart):
            return _execute(*given)
    message = (
        f"no Jupyter kernel of {sys.executable} answers; what it said stands above. `cliniqure doctor` looks at it"
    )
    raise NotebookFailed(notebook.name, _no_cell_ran("KernelDidNotStart", message), 0.0)


class _KernelDidNotStart(RuntimeError):
    """The kernel ended, or said nothing, before its first cell."""


def _execute(
    notebook: Notebook,
    output_path: Path,
    parameters: Mapping,
    on_kernel: Callable[[int], None],
    stopping: threading.Event,
    cell_seconds: int | None,
) -> float:
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    kernels: list[subprocess.Popen] = []

    def kernel_started(process: subprocess.Popen) -> None:
        kernels.append(process)
        watch.follow(process.pid)
        on_kernel(process.pid)

    output_path.parent.mkdir(parents=True, exist_ok=True)
    watch = _MemoryWatch()
    braces = str.maketrans({"{": "{{", "}": "}}"})  # papermill formats its paths
    try:
        with cell_output_on_screen(stopping):
            papermill.execute_notebook(
                str(notebook.path.resolve()).translate(braces),
                str(output_path.resolve()).translate(braces),
                parameters=dict(parameters),
                kernel_name="python3",
                language="python",
                cwd=notebook.path.resolve().parent,
                progress_bar={"desc": notebook.name, "disable": None},  # None: no bar where there is no terminal
                log_output=True,
                start_timeout=KERNEL_SECONDS,
                execution_timeout=cell_seconds,
                kernel_manager_class=_kernel_manager(kernel_started, stopping),
            )
    except PapermillExecutionError as error:
        raise NotebookFailed(notebook.name, _failure(notebook, error), watch.peak_mb) from None
    except DeadKernelError:
        said = HOW_IT_ENDED.get(code := kernels[0].wait(), f"ended with code {code}")
        message = f"the kernel {said}; it had used up to {watch.peak_mb:.0f} MB"
        failure = _while_running(output_path, "DeadKernelError", message)
        raise NotebookFailed(notebook.name, failure, watch.peak_mb) from None
    except CellTimeoutError:
        failure = _while_running(output_path, "CellTimeoutError", f"the cell took more than {cell_seconds} s")
        raise NotebookFailed(notebook.name, failure, watch.peak_mb) from None
    except RuntimeError as error:
        if str(error).startswith(("Kernel died before replying", "Kernel didn't respond")):  # jupyter_client's words
            raise _KernelDidNotStart from None
        raise
    finally:
        watch.stop()
        _tidy_metadata(output_path, notebook)
    return watch.peak_mb


def stop_kernel(pid: int, created: float) -> bool:
    """End the kernel that a killed chain left behind (a kernel notices within seconds; a new run must not wait)."""
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - created) > 1:  # another process has the number now
            return False
        family = [*process.children(recursive=True), process]
        for member in family:
            member.kill()
        psutil.wait_procs(family, timeout=10)
        return True
    except psutil.Error:
        return False


def _kernel_manager(on_start: Callable[[subprocess.Popen], None], stopping: threading.Event) -> type:
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from traitlets import default

    class ThisPython(AsyncKernelManager):
        """Starts the kernel with the running interpreter: a `python3` kernel registered elsewhere may be another."""

        @default("transport_encryption")
        def _encrypt(self):
            return "auto"  # ipykernel prints a warning about plain TCP

        @property
        def kernel_spec(self):
            return KernelSpec(
                argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", *QUIET],
                display_name="Python 3",
                language="python",
                metadata={"supported_encryption": ["curve"]},
            )

        async def start_kernel(self, **kw):
            environment = kw.get("env", os.environ)
            kw["env"] = {**KERNEL_ENVIRONMENT, **thread_settings(environment), **environment}
            await super().start_kernel(**kw)
            on_start(self.provisioner.process)

        async def shutdown_kernel(self, now=False, restart=False):
            # As the base class, but without the interrupt it sends first, which a kernel answers with lines of its own.
            self.shutting_down = True
            self.stop_restarter()
            if now or stopping.is_set():
                await self.provisioner.kill()
                await self.provisioner.wait()
            else:
                await self.request_shutdown(restart=restart)
                await self.finish_shutdown(restart=restart)
            await self.cleanup_resources(restart=restart)

    return ThisPython


class _MemoryWatch(threading.Thread):
    """Samples the resident memory of a process and its descendants."""

    def __init__(self, seconds: float = 0.25):
        super().__init__(daemon=True)
        self.peak_mb = 0.0
        self._seconds = seconds
        self._process: psutil.Process | None = None
        self._over = threading.Event()

    def follow(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.start()

    def run(self) -> None:
        while not self._over.wait(self._seconds):
            total = 0
            with contextlib.suppress(psutil.Error):  # a process ended meanwhile; what was added up so far counts
                for process in (self._process, *self._process.children(recursive=True)):
                    total += process.memory_info().rss
            self.peak_mb = max(self.peak_mb, round(total / 2**20, 1))

    def stop(self) -> None:
        self._over.set()
        if self.is_alive():
            self.join()


def _failure(notebook: Notebook, error) -> Failure:
    """papermill's error -> the cell's number in the notebook as the user knows it, with the lines around the fault."""
    cells = json.loads(notebook.path.read_text(encoding="utf-8"))["cells"]
    sources = [cell_source(cell) for cell in cells]
    number = sources.index(error.source) + 1 if error.source in sources else error.cell_index + 1
    trace = ANSI.sub("", "\n".join(error.traceback))
    own = re.findall(r"Cell In\[\d+\], line (\d+)", trace)
    return Failure(
        cell=number,
        n_cells=len(cells),
        execution_count=error.exec_count,
        error=error.ename,
        message=ANSI.sub("", error.evalue)[:2000] or "(no message)",
        excerpt=_excerpt(error.source, int(own[0]) if own else None),
        raised_at=_raised_at(trace),
    )


def _raised_at(trace: str) -> str:
    """File and line of the innermost frame outside the notebook, without the folders above the package."""
    files = [found for found in re.findall(r"File (\S+?\.py):(\d+)", trace) if "ipykernel" not in found[0]]
    if not files:
        return ""
    parts = Path(files[-1][0]).parts
    first = parts.index("site-packages") + 1 if "site-packages" in parts else 0
    first = parts.index("cliniqure_utils") if "cliniqure_utils" in parts else first
    return f"{'/'.join(parts[first:])}, line {files[-1][1]}"


def _while_running(output_path: Path, error: str, message: str) -> Failure:
    """What ended a kernel from outside its code: the cell that had started last is the one."""
    cells = json.loads(output_path.read_text(encoding="utf-8"))["cells"] if output_path.is_file() else []
    started = [i for i, cell in enumerate(cells) if cell.get("metadata", {}).get("papermill", {}).get("start_time")]
    shown = [cell for cell in cells if "injected-parameters" not in cell.get("metadata", {}).get("tags", [])]
    running = cells[started[-1]] if started else None
    return Failure(
        cell=shown.index(running) + 1 if running in shown else 0,
        n_cells=len(shown),
        execution_count=None,
        error=error,
        message=message,
        excerpt=_excerpt(cell_source(running), None) if running else "",
        raised_at="",
    )


def _no_cell_ran(error: str, message: str) -> Failure:
    return Failure(0, 0, None, error, message, "", "")


def _excerpt(source: str, line: int | None, around: int = 3) -> str:
    """Numbered lines around `line`, or the first ones."""
    lines = source.splitlines()
    first = max(0, (line or 1) - 1 - around)
    last = (line or 1) + around
    return "\n".join(
        f"{'->' if number == line else '  '} {number:3d} | {text}"
        for number, text in enumerate(lines[first:last], start=first + 1)
    )


def _tidy_metadata(output_path: Path, notebook: Notebook) -> None:
    """papermill notes two absolute paths in the executed copy; a copy that is handed in should not tell them."""
    if not output_path.is_file():
        return
    try:
        content = json.loads(output_path.read_text(encoding="utf-8"))
    except ValueError:  # cut off while papermill was writing it; the notebook will run again
        return
    note = content.get("metadata", {}).get("papermill", {})
    note.update(input_path=f"notebooks/{notebook.path.name}", output_path=notebook.path.name)
    write_text(output_path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def kernel_created(pid: int) -> float:
    """When a process was started (seconds since 1970), to tell it from a later one with its number."""
    return psutil.Process(pid).create_time()
