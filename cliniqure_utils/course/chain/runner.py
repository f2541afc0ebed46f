"""The run itself: what to run, in what order, and the record of it in run.json."""

import contextlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from cliniqure_utils.course.chain import fingerprint
from cliniqure_utils.course.chain.execute import NotebookFailed, execute, kernel_created, stop_kernel
from cliniqure_utils.course.chain.guards import run_folder_lock, stop_signals
from cliniqure_utils.course.chain.parameters import find_name, resolve
from cliniqure_utils.course.chain.screen import closing_lines, print_line, short_path
from cliniqure_utils.notebooks import Notebook, find_notebooks, read_profile
from cliniqure_utils.project import REPOSITORY, CannotStart, commit_of, program
from cliniqure_utils.record import profile_and_seed, read_record
from cliniqure_utils.runs import sha256_file, write_json

PACKAGE_DIR = REPOSITORY / "cliniqure_utils"
DEVICES = ("auto", "cpu", "cuda", "mps")  # another name would stop the first notebook that trains, minutes later
PARTS = {
    "notebook": "its code",
    "package": "the package",
    "parameters": "its parameters",
    "inputs": "its input files",
    "data": "the data folder",
    "versions": "package versions",
}


@dataclass(frozen=True)
class Decision:
    """Whether a notebook runs, why, and whether what stands in its folder may be built on."""

    run: bool
    why: str
    keep_folder: bool


def run_chain(
    profile: str = "demo",
    run_dir: str | Path | None = None,
    data_dir: str | Path | None = None,
    overrides: Mapping | None = None,
    start: str | None = None,
    until: str | None = None,
    force: bool = False,
    dry_run: bool = False,
    notebooks_dir: str | Path | None = None,
    package_dir: str | Path | None = None,
    echo: Callable[[str], None] = print_line,
) -> dict:
    """Run the notebooks that need it.

    Args:
        profile: A file of notebooks/profiles; "demo" means the notebooks' own defaults.
        run_dir: The run folder, relative to the caller's folder. Default: outputs/PROFILE of the project.
        data_dir: The data folder, which must exist. Default: the notebooks' own.
        overrides: {"02_detect.n_epochs": 3} or {"all.seed": "7"}; text is read by the type of the default.
        start: First notebook, by number or name; the earlier ones are left as they are.
        until: Last notebook.
        force: Run the chosen notebooks even when nothing has changed.
        dry_run: Only say what would run.
        notebooks_dir, package_dir: Elsewhere for tests.
        echo: Where lines for the user go.

    Returns:
        The content of run.json (as it would stand, for a dry run).

    Raises:
        CannotStart: An unknown name, a wrong type, or the run folder is in use; nothing has run.
        NotebookFailed: A notebook stopped; run.json says so.
        KeyboardInterrupt: Stopped by Ctrl-C or SIGTERM; the same call goes on from there.
    """
    notebooks_dir = Path(notebooks_dir or REPOSITORY / "notebooks").resolve()
    chain = _Chain(notebooks_dir, Path(package_dir or PACKAGE_DIR).resolve())
    run_dir = Path(run_dir) if run_dir else chain.project / "outputs" / profile
    chain.prepare(profile, run_dir.resolve(), data_dir, overrides or {}, start, until)
    if dry_run:
        return chain.dry_run(force, echo)
    with run_folder_lock(chain.run_dir), stop_signals(chain.stopping):
        return chain.run(force, echo)


def out_of_date(
    run_dir: str | Path, notebooks_dir: str | Path | None = None, package_dir: str | Path | None = None
) -> dict[str, str]:
    """What keeps a run folder from being one whole run, with default parameters, of the notebooks as they stand.

    Returns:
        {notebook: why}: it would run again, or its executed copy is not the one that the chain wrote. Empty: all is
        of one piece, so the copies and the numbers in them belong together.
    """
    chain = _Chain(
        Path(notebooks_dir or REPOSITORY / "notebooks").resolve(), Path(package_dir or PACKAGE_DIR).resolve()
    )
    chain.prepare("demo", Path(run_dir).resolve(), None, {}, None, None)
    found = {}
    for notebook in chain.notebooks:
        decision = chain.decide(notebook, False)
        if decision.run:
            found[notebook.name] = decision.why
        elif chain.record["notebooks"][notebook.name].get("copy_sha256") != sha256_file(chain.copy_of(notebook)):
            found[notebook.name] = "its executed copy was changed after the run"
    return found


class _Chain:
    """One call of run_chain: what was asked for, and run.json as it grows."""

    def __init__(self, notebooks_dir: Path, package_dir: Path):
        self.notebooks_dir = notebooks_dir
        self.package_dir = package_dir
        self.project = notebooks_dir.parent
        self.notebooks = find_notebooks(notebooks_dir)
        self.names = [notebook.name for notebook in self.notebooks]
        self.stopping = threading.Event()

    def prepare(self, profile, run_dir: Path, data_dir, overrides: Mapping, start, until) -> None:
        """Check everything that can be checked without running; raises CannotStart."""
        first = self.names.index(find_name(start, self.names)) if start else 0
        last = self.names.index(find_name(until, self.names)) if until else len(self.names) - 1
        if first > last:
            raise CannotStart(f"--from {self.names[first]} comes after --until {self.names[last]}")
        self.chosen = self.notebooks[first : last + 1]
        self.before = self.notebooks[:first]
        self.profile = profile
        self.run_dir = run_dir
        if run_dir.exists() and not run_dir.is_dir():
            raise CannotStart(f"the run folder {run_dir} is a file")
        self.values = resolve(self.notebooks, read_profile(self.notebooks_dir / "profiles", profile), overrides)
        for name, values in self.values.items():
            if str(values.get("device", "auto")).partition(":")[0] not in DEVICES:
                raise CannotStart(f"{name}.device: expected one of {', '.join(DEVICES)}, found {values['device']}")
        if data_dir is not None and not Path(data_dir).is_dir():
            raise CannotStart(
                f"the data folder {data_dir} is not there; make it, empty, if the simulated cohort should go into it"
            )
        for notebook in self.notebooks:
            if "run_dir" not in notebook.defaults:
                raise CannotStart(f"{notebook.path.name} has no parameter run_dir")
            self.values[notebook.name]["run_dir"] = self._seen_from_notebooks(run_dir)
            if data_dir is not None and "data_dir" in notebook.defaults:
                self.values[notebook.name]["data_dir"] = self._seen_from_notebooks(Path(data_dir).resolve())
        self.versions = fingerprint.installed_versions()
        self.modules = {n.name: fingerprint.imported_modules(n.code, self.package_dir) for n in self.notebooks}
        self._look()

    def _look(self) -> None:
        """Read run.json and what stands in the run folder; a file that no notebook has written counts for nothing."""
        self.record = self._read_record()
        self.files = {}
        for name in self.names:
            recorded = self.record["notebooks"].get(name, {}).get("outputs", {})
            present = fingerprint.scan(self.run_dir / name, recorded)
            self.files[name] = {file: entry for file, entry in present.items() if file in recorded}

    def _seen_from_notebooks(self, path: Path) -> str:
        """Relative to the notebooks folder inside the project, so that run.json and the copies hold no private path."""
        if path.is_relative_to(self.project):
            return Path(os.path.relpath(path, self.notebooks_dir)).as_posix()
        return path.as_posix()

    def _read_record(self) -> dict:
        if not (self.run_dir / "run.json").is_file():
            return {"notebooks": {}}
        try:
            return read_record(self.run_dir)
        except CannotStart as error:
            raise CannotStart(f"{error}; remove it to run everything again") from None

    # What each notebook depends on

    def parts(self, notebook: Notebook) -> dict[str, str]:
        """The hashes whose change makes a notebook run again."""
        modules = self.modules[notebook.name]
        values = self.values[notebook.name]
        inputs = {
            step: fingerprint.contents(self.files[step])
            for step in fingerprint.earlier_steps(notebook, modules, self.names)
        }
        return {
            "notebook": fingerprint.digest(notebook.code),
            "package": fingerprint.digest(fingerprint.package_part(modules)),
            "parameters": fingerprint.digest(fingerprint.parameter_part(values, self.notebooks_dir)),
            "inputs": fingerprint.digest(
                [inputs, fingerprint.table_part(notebook, modules, self.project / "data")],
            ),
            "data": self._data_part(notebook),
            "versions": fingerprint.digest(self.versions),
        }

    def _data_part(self, notebook: Notebook) -> str:
        data = self.data(notebook) if _reads_data(notebook) else {}
        return fingerprint.ABSENT if data.get("kind") == fingerprint.ABSENT else fingerprint.digest(data)

    def data(self, notebook: Notebook) -> dict:
        if "data_dir" not in notebook.defaults:
            return {}
        return fingerprint.data_fingerprint(self.notebooks_dir / self.values[notebook.name]["data_dir"])

    def decide(self, notebook: Notebook, force: bool) -> Decision:
        """Compare a notebook with its entry in run.json."""
        entry = self.record["notebooks"].get(notebook.name)
        if entry is None:
            return Decision(True, "not run before", True)
        now, then = self.parts(notebook), entry.get("parts", {})
        changed = [part for part in PARTS if then.get(part) != now[part]]
        if then.get("data") == fingerprint.ABSENT and "data" in changed:
            changed.remove("data")  # the first run makes the simulated cohort: an empty folder has not changed
        status = entry.get("status")
        if status != "done":
            # Training checkpoints are worth keeping, unless they were made with other settings or from other files.
            keep = not force and not set(changed) - {"notebook", "package"}
            what = f"; changed since: {_listed(changed)}" if changed else ""
            return Decision(True, f"{status} last time{what}", keep)
        if changed:
            return Decision(True, f"changed: {_listed(changed)}", False)
        if force:
            return Decision(True, "--force", False)
        recorded, present = entry.get("outputs", {}), self.files[notebook.name]
        for name in sorted(recorded):
            if name not in present:
                return Decision(True, f"its output {name} is gone", False)
            if recorded[name].get("sha256") != present[name]["sha256"]:
                return Decision(True, f"its output {name} was changed", False)
        if not self.copy_of(notebook).is_file():
            return Decision(True, "its executed copy is gone", False)
        return Decision(False, "nothing has changed", True)

    def copy_of(self, notebook: Notebook) -> Path:
        return self.run_dir / "notebooks" / notebook.path.name

    # Running

    def dry_run(self, force: bool, echo) -> dict:
        """Say what would run. Behind a notebook that would run, its readers might: their inputs are not known yet."""
        will_run: set[str] = set()
        for notebook in self.chosen:
            decision = self.decide(notebook, force)
            upstream = will_run & set(fingerprint.earlier_steps(notebook, self.modules[notebook.name], self.names))
            if decision.run:
                will_run.add(notebook.name)
                echo(f"{notebook.name}: would run, {decision.why}")
            elif upstream:
                will_run.add(notebook.name)
                echo(f"{notebook.name}: would run if the files of {', '.join(sorted(upstream))} change")
            else:
                echo(f"{notebook.name}: would be skipped, {decision.why}")
            for name, value in self.values[notebook.name].items():
                if value != notebook.defaults[name]:
                    echo(f"    {name} = {value!r} (default {notebook.defaults[name]!r})")
        return self.record

    def run(self, force: bool, echo) -> dict:
        self._look()  # again: a run that held the lock a moment ago may have written there
        self._mend()
        for notebook in self.before:
            entry = self.record["notebooks"].get(notebook.name, {})
            if entry.get("status") == "done" and self.decide(notebook, False).run:
                echo(f"note: {notebook.name} has changed since it ran; its old files are used")
        began = time.monotonic()
        ran = 0
        for notebook in self.chosen:
            decision = self.decide(notebook, force)
            if not decision.run:
                echo(f"{notebook.name}: skipped, {decision.why}")
                continue
            if not ran:
                self._ask_device()
            ran += 1
            self._run_one(notebook, decision, echo)
        seconds = round(time.monotonic() - began, 1)
        entries = self.record["notebooks"]
        status = "done" if all(entries.get(name, {}).get("status") == "done" for name in self.names) else "partial"
        if ran or self.record.get("status") != status:
            self._save(status=status, seconds=seconds)
        for line in closing_lines(
            self.run_dir, entries, f"{ran} of {len(self.chosen)} notebooks ran in {seconds:.0f} s."
        ):
            echo(line)
        return self.record

    def _run_one(self, notebook: Notebook, decision: Decision, echo) -> None:
        name = notebook.name
        folder = self.run_dir / name
        if folder.exists() and not decision.keep_folder:
            shutil.rmtree(folder)
        self.files[name] = {}
        values = self.values[name]
        entry = {
            "profile": self.profile,
            "parameters": values,
            "status": "running",
            "program": program(),
            "commit": commit_of(self.project),
            "start": _now(),
            "seconds": None,
            "peak_memory_mb": None,
            "parts": self.parts(notebook),
        }
        entry["input_hash"] = fingerprint.digest(entry["parts"])
        self.record["notebooks"][name] = entry
        self._describe(notebook)
        self._save(status="running")
        echo(f"{name}: running, {decision.why}")
        began = time.monotonic()
        changed = {key: value for key, value in values.items() if value != notebook.defaults[key]}

        def note_kernel(pid: int) -> None:
            write_json(self.run_dir / ".kernel.json", {"pid": pid, "created": kernel_created(pid)})

        try:
            entry["peak_memory_mb"] = execute(notebook, self.copy_of(notebook), changed, note_kernel, self.stopping)
            entry["status"] = "done"
        except NotebookFailed as failed:
            entry["status"] = "failed"
            entry["peak_memory_mb"] = failed.peak_mb
            entry["error"] = asdict(failed.failure)
            self._explain(failed, echo)
            raise
        except KeyboardInterrupt:
            entry["status"] = "interrupted"
            echo(f"{name}: interrupted; the same command goes on here")
            raise
        finally:
            (self.run_dir / ".kernel.json").unlink(missing_ok=True)
            entry["seconds"] = round(time.monotonic() - began, 1)
            self.files[name] = entry["outputs"] = fingerprint.scan(folder)
            if entry["status"] == "done":
                entry["copy_sha256"] = sha256_file(self.copy_of(notebook))
                made = self.data(notebook).get("kind") == "simulated"
                if made or entry["parts"]["data"] == fingerprint.ABSENT:
                    # It may have made the cohort, or made it anew where another version or size of it stood.
                    entry["parts"]["data"] = self._data_part(notebook)
                    entry["input_hash"] = fingerprint.digest(entry["parts"])
            self._take_device()
            self._describe(notebook)
            self._save(status="running" if entry["status"] == "done" else entry["status"])
        memory = entry["peak_memory_mb"]
        echo(f"{name}: done in {entry['seconds']} s, {len(entry['outputs'])} files, peak memory {memory:.0f} MB")

    def _mend(self) -> None:
        """Tidy up after a run that was killed: end its kernel, and call what it was running interrupted."""
        kernel = self.run_dir / ".kernel.json"
        if kernel.is_file():
            with contextlib.suppress(ValueError, KeyError):  # half a file says nothing; the kernel ends by itself
                left = json.loads(kernel.read_text(encoding="utf-8"))
                stop_kernel(left["pid"], left["created"])
            kernel.unlink()
        stale = [entry for entry in self.record["notebooks"].values() if entry.get("status") == "running"]
        for entry in stale:
            entry["status"] = "interrupted"
        if stale:
            self._save(status="interrupted")

    def _describe(self, notebook: Notebook) -> None:
        """The head of run.json, when `notebook` starts and when it has ended."""
        entries = {name: self.record["notebooks"][name] for name in self.names if name in self.record["notebooks"]}
        self.record = {
            **profile_and_seed({"notebooks": entries}),
            "status": "running",
            "started": self.record.get("started") if self.record.get("status") == "running" else _now(),
            "seconds": None,
            "data": self.data(notebook) if _reads_data(notebook) else self.record.get("data", {}),
            "versions": self.versions,
            "platform": platform.platform(),
            "device": self.record.get("device"),
            "processor": self.record.get("processor"),
            "notebooks": entries,
        }

    def _save(self, **changes) -> None:
        self.record.update(changes)
        write_json(self.run_dir / "run.json", self.record)

    def _ask_device(self) -> None:
        """What `auto` means here, and which instructions torch takes; asked in a process of its own, since importing
        torch would cost this one 300 MB."""
        devices = {values["device"] for values in self.values.values() if "device" in values}
        self.probe = None
        if devices == {"auto"}:
            code = (
                "import torch\nfrom cliniqure_utils.process import resolve_device\n"
                "print(resolve_device('auto'), torch.backends.cpu.get_cpu_capability())"
            )
            self.probe = subprocess.Popen(
                [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        else:
            self.record["device"] = ", ".join(sorted(map(str, devices))) or None

    def _take_device(self) -> None:
        if self.probe is not None:
            said = self.probe.communicate()[0].split()  # after a line about a device that does not work
            self.record["device"], self.record["processor"] = said[-2:] if len(said) > 1 else ("unknown", None)
            self.probe = None

    def _explain(self, failed: NotebookFailed, echo) -> None:
        lines = failed.failure.lines()
        echo("")
        echo(f"{failed.name} {lines[0]}")
        for line in lines[1:]:
            echo(line)
        echo(f"The notebook as far as it came: {short_path(self.run_dir / 'notebooks' / f'{failed.name}.ipynb')}")
        echo(f"Mend the cause and give the same command again: it goes on at {failed.name}.")


def _reads_data(notebook: Notebook) -> bool:
    return re.search(r"\bdata_dir\b", notebook.body) is not None


def _listed(parts: list[str]) -> str:
    return ", ".join(PARTS[part] for part in parts)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
