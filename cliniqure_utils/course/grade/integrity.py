"""Was everything run, in order, and is what lies there what the run wrote?"""

from collections.abc import Iterator

from cliniqure_utils.course.chain import fingerprint
from cliniqure_utils.course.chain.parameters import coerce, resolve
from cliniqure_utils.course.grade.cells import injected
from cliniqure_utils.course.grade.run_folder import FAIL, NOTE, PASS, Check, Run, show_values
from cliniqure_utils.notebooks import Notebook, parse_parameters, read_profile
from cliniqure_utils.project import CannotStart
from cliniqure_utils.record import parameters_of
from cliniqure_utils.runs import sha256_file

# Files that the design promises from each notebook; run.json lists all, but a list can be shortened by hand.
PROMISED = {
    "01_preprocess": ("index.csv", "annotations.csv", "splits.csv", "clinical.csv", "rejected.csv", "metrics.json"),
    "02_detect": ("model.safetensors", "config.json", "predictions.csv", "history.csv", "metrics.json"),
    "03_classify": (
        "model.safetensors", "probabilities.csv", "thresholds.json", "temperature.json", "history.csv", "metrics.json",
    ),
    "04_crude_report": ("model.safetensors", "vocabulary.json", "crude_reports.jsonl", "metrics.json"),
    "05_finetune_llm": (
        "adapter/seq_cls/adapter_model.safetensors", "adapter/causal_lm/adapter_model.safetensors", "label_map.json",
        "history.csv", "metrics.json",
    ),
    "06_generate_report": ("prompts.jsonl", "reports.jsonl", "metrics.json"),
    "07_evaluate": ("table7.csv", "claims.csv", "report.html", "metrics.json"),
}  # fmt: skip
FREE = ("run_dir", "data_dir", "seed", "device", "n_jobs")  # parameters in which runs of one profile may differ


def check_finished(run: Run) -> Iterator[Check]:
    for notebook in run.notebooks:
        status = run.entry(notebook.name).get("status", "not run")
        good = status == "done"
        yield Check(notebook.name, "finished", PASS if good else FAIL, "done" if good else f"{status}; expected done")


def check_executed(run: Run) -> Iterator[Check]:
    """The executed copies: unchanged, the course's code, run from the first cell to the last without an error."""
    for notebook in run.notebooks:
        name, copy = notebook.name, run.copies[notebook.name]
        if copy is None:
            yield Check(name, "executed copy", FAIL, f"notebooks/{name}.ipynb is missing or no notebook")
            continue
        if sha256_file(run.copy_path(name)) != run.entry(name).get("copy_sha256"):
            yield Check(name, "executed copy", FAIL, "changed after the run: it is not the file that run.json names")
        else:
            yield Check(name, "executed copy", PASS, "as the run wrote it")
        problem = run_problem(copy)
        yield Check(name, "top to bottom", FAIL if problem else PASS, problem or f"{len(copy)} cells, no error")
        yield from check_code(run, notebook)


def run_problem(copy: list[dict]) -> str | None:
    """Why code cells were not run from top to bottom without an error; None where they were."""
    wanted = 0
    for number, cell in enumerate(copy, start=1):
        if not cell["source"].strip():
            continue
        wanted += 1
        count = cell["execution_count"]
        if count != wanted:
            return f"code cell {number} has count {count}; expected {wanted}"
        for output in cell["outputs"]:
            if output.get("output_type") == "error":
                return f"code cell {number} stopped: {output.get('ename')}"
        status = cell["metadata"]["papermill"].get("status", "completed")
        if status != "completed":
            return f"code cell {number} is {status}"
    return None if wanted else "it has no code"


def check_code(run: Run, notebook: Notebook) -> Iterator[Check]:
    """The course's code cells, all of them, in their order; answers to exercises may differ. Other cells are a note."""
    name, matched, copy = notebook.name, run.matched[notebook.name], run.copies[notebook.name]
    problems = [
        f"code cell {number + 1} is not the course's"
        if number in matched.changed
        else f"it lacks code cell {number + 1} of the course, {first_line(notebook.code[number])}"
        for number, cell in enumerate(matched.cells)
        if cell is None
    ]
    more = f" (and {len(problems) - 2} more)" if len(problems) > 2 else ""
    yield Check(name, "code", FAIL if problems else PASS, "; ".join(problems[:2]) + more or "the course's")
    if matched.extra:
        shown = [f"code cell {place + 1}, {first_line(copy[place]['source'])}" for place in matched.extra[:3]]
        more = f" (and {len(matched.extra) - 3} more)" if len(matched.extra) > 3 else ""
        yield Check(name, "own cells", NOTE, "not of the course: " + "; ".join(shown) + more)


def first_line(source: str) -> str:
    """The first line of a cell, short, for a message."""
    line = next((line.strip() for line in source.splitlines() if line.strip()), "")
    return f"`{line[:60]}{' ...' if len(line) > 60 else ''}`"


def check_outputs(run: Run) -> Iterator[Check]:
    """Every file that the run wrote is there, unchanged; nothing was added; nothing promised is missing."""
    for notebook in run.notebooks:
        name = notebook.name
        recorded = {file: entry.get("sha256") for file, entry in run.entry(name).get("outputs", {}).items()}
        present = fingerprint.contents(fingerprint.scan(run.folder / name))
        problems = [f"{file} is missing" for file in sorted(recorded.keys() - present.keys())]
        problems += [
            f"{f} was changed after the run" for f in sorted(recorded) if f in present and recorded[f] != present[f]
        ]
        problems += [f"{file} was not written by the run" for file in sorted(present.keys() - recorded.keys())]
        problems += [f"{f} is missing" for f in PROMISED.get(name, ()) if f not in present and f not in recorded]
        if problems:
            more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
            yield Check(name, "outputs", FAIL, "; ".join(problems[:3]) + more)
        else:
            yield Check(name, "outputs", PASS, f"{len(present)} files, as the run wrote them")


def check_parameters(run: Run) -> Iterator[Check]:
    """Each notebook ran with the parameters of its profile, and its executed copy with those that run.json names."""
    if isinstance(run.profile, list):
        message = f"its notebooks ran with different profiles: {show_values(run.profile)}"
        yield Check("run", "profile", NOTE, message)
    for notebook in run.notebooks:
        name = notebook.name
        used = parameters_of(run.record, name)
        if not used:
            yield Check(name, "parameters", FAIL, "run.json does not say with which parameters it was run")
            continue
        problems = strange_parameters(run, name)
        problems += _injection_problems(run, notebook, used)
        yield Check(
            name,
            "parameters",
            FAIL if problems else PASS,
            "; ".join(problems[:3]) or f"profile {run.entry(name).get('profile')}",
        )


def strange_parameters(run: Run, name: str) -> list[str]:
    """How the recorded parameters of a notebook differ from those of its profile, but for FREE."""
    used, profile = parameters_of(run.record, name), run.entry(name).get("profile")
    try:
        wanted = resolve(run.notebooks, read_profile(run.notebooks_dir / "profiles", str(profile)), {})[name]
    except CannotStart as error:
        return [str(error)]
    problems = []
    for key in sorted(set(wanted) | set(used)):
        if key in FREE and key in used:
            continue
        if key not in used or key not in wanted:
            problems.append(f"{key} is {'not in run.json' if key not in used else 'no parameter of the course'}")
        elif used[key] != wanted[key]:
            problems.append(f"{key} is {_short(used[key])}, in profile {profile} {wanted[key]!r}")
    return problems


def _injection_problems(run: Run, notebook: Notebook, used: dict) -> list[str]:
    cell = injected(run.copies[notebook.name] or [])
    values = dict(notebook.defaults)
    if cell is not None:
        try:
            values |= parse_parameters(cell["source"], notebook.name)
        except CannotStart as error:
            return [str(error)]
    elif run.copies[notebook.name] is None:
        return []
    return [
        f"{key} was {_short(values[key])} in the executed copy, {_short(used[key])} in run.json"
        for key in sorted(set(values) & set(used))
        if values[key] != used[key]
    ]


def _short(value) -> str:
    try:
        return repr(value)[:80]
    except ValueError:  # a whole number of thousands of digits
        return "a number too long to show"


def usable_parameters(run: Run, name: str) -> dict:
    """The recorded parameters of a notebook, by the course's names and types; defaults for the rest."""
    notebook = next(n for n in run.notebooks if n.name == name)
    used = parameters_of(run.record, name)
    values = {}
    for key, default in notebook.defaults.items():
        values[key] = coerce(used.get(key, default), default, f"{name}.{key}", nullable=key in notebook.nullable)
    return values


def check_chain(run: Run) -> Iterator[Check]:
    """Each notebook read the files that lie there now; said only where the package is the one that it was run with."""
    files = {}
    for notebook in run.notebooks:
        present = fingerprint.contents(fingerprint.scan(run.folder / notebook.name))
        recorded = run.entry(notebook.name).get("outputs", {})
        files[notebook.name] = {file: sha256 for file, sha256 in present.items() if file in recorded}
    names = list(files)
    unknown = []
    for notebook in run.notebooks:
        parts = run.entry(notebook.name).get("parts")
        if parts is None:  # it has not run
            continue
        modules = fingerprint.imported_modules(notebook.code, run.package_dir)
        if parts.get("package") != fingerprint.digest(fingerprint.package_part(modules)):
            unknown.append(notebook.name)
            continue
        inputs = {step: files[step] for step in fingerprint.earlier_steps(notebook, modules, names)}
        tables = fingerprint.table_part(notebook, modules, run.notebooks_dir.parent / "data")
        good = parts.get("inputs") == fingerprint.digest([inputs, tables])
        message = (
            "the files that lie there"
            if good
            else "it was run with other files than lie there now, or with other tables of the course"
        )
        yield Check(notebook.name, "inputs", PASS if good else FAIL, message)
    if unknown:
        message = f"not compared for {', '.join(unknown)}: the package has changed since the run"
        yield Check("run", "inputs", NOTE, message)
