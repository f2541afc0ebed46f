"""Was everything run, in order, and is what lies there what the run wrote?"""

import ast
import re
from collections.abc import Iterator

from cliniqure_utils.course.chain import fingerprint
from cliniqure_utils.course.chain.parameters import coerce, resolve
from cliniqure_utils.course.grade.run_folder import FAIL, NOTE, PASS, Check, Run, is_injected, show_values
from cliniqure_utils.notebooks import Notebook, cell_source, parse_parameters, read_profile
from cliniqure_utils.project import CannotStart
from cliniqure_utils.record import parameters_of

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
        if fingerprint.sha256_file(run.copy_path(name)) != run.entry(name).get("copy_sha256"):
            yield Check(name, "executed copy", FAIL, "changed after the run: it is not the file that run.json names")
        else:
            yield Check(name, "executed copy", PASS, "as the run wrote it")
        problem = run_problem(copy)
        yield Check(name, "top to bottom", FAIL if problem else PASS, problem or f"{len(copy)} cells, no error")
        problem = code_problem(notebook, copy)
        yield Check(name, "code", FAIL if problem else PASS, problem or "the course's")


def run_problem(copy: list[dict]) -> str | None:
    """Why code cells were not run from top to bottom without an error; None where they were."""
    wanted = 0
    for number, cell in enumerate(copy, start=1):
        if not cell_source(cell).strip():
            continue
        wanted += 1
        count = cell.get("execution_count")
        if count != wanted:
            return f"code cell {number} has count {count}; expected {wanted}"
        for output in cell.get("outputs", []):
            if output.get("output_type") == "error":
                return f"code cell {number} stopped: {output.get('ename')}"
        status = cell.get("metadata", {}).get("papermill", {}).get("status", "completed")
        if status != "completed":
            return f"code cell {number} is {status}"
    return None if wanted else "it has no code"


def code_problem(notebook: Notebook, copy: list[dict]) -> str | None:
    """How a copy's code differs from the course's; answers to exercises may."""
    sources = [cell_source(cell) for cell in copy if not is_injected(cell)]
    for number, (own, course) in enumerate(zip(sources, notebook.code, strict=False), start=1):
        if own.strip() != course.strip() and not is_answered(own, course):
            return f"code cell {number} is not the course's"
    if len(sources) != len(notebook.code):
        return f"it has {len(sources)} code cells; the course's has {len(notebook.code)}"
    return None


def is_answered(own: str, course: str) -> bool:
    """Whether `own` is the exercise cell `course` with an answer: all its statements in order, other `my_...` values.

    Lines added to work the answer out are fine.
    """
    statements = answer_free(course)
    theirs = answer_free(own)
    if statements is None or theirs is None or not answers(course):
        return False
    left = iter(theirs)
    return all(statement in left for statement in statements)


def answer_free(source: str) -> list[str] | None:
    """The statements of a cell without `my_... = value`; None where it is not Python."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return None
    return [ast.dump(statement) for statement in tree.body if not _answer_name(statement)]


def answers(source: str) -> dict[str, ast.expr]:
    """`my_... = value` at the top level of a cell: name -> value; the last one of a name counts.

    A function `def my_...` is an answer too; its value is the bare name, since a student's code is not run.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return {}
    found = {}
    for statement in tree.body:
        if _answer_name(statement):
            found[_answer_name(statement)] = statement.value
        elif isinstance(statement, ast.FunctionDef) and statement.name.startswith("my_"):
            found[statement.name] = ast.Name(statement.name)
    return found


def _answer_name(statement: ast.stmt) -> str | None:
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
        if isinstance(target, ast.Name) and re.match(r"my_\w", target.id):
            return target.id
    return None


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
        profile = run.entry(name).get("profile")
        try:
            wanted = resolve(run.notebooks, read_profile(run.notebooks_dir / "profiles", str(profile)), {})[name]
        except CannotStart as error:
            yield Check(name, "parameters", FAIL, str(error))
            continue
        problems = []
        for key in sorted(set(wanted) | set(used)):
            if key in FREE and key in used:
                continue
            if key not in used or key not in wanted:
                problems.append(f"{key} is {'not in run.json' if key not in used else 'no parameter of the course'}")
            elif used[key] != wanted[key]:
                problems.append(f"{key} is {used[key]!r}, in profile {profile} {wanted[key]!r}")
        problems += _injection_problems(run, notebook, used)
        yield Check(name, "parameters", FAIL if problems else PASS, "; ".join(problems[:3]) or f"profile {profile}")


def _injection_problems(run: Run, notebook: Notebook, used: dict) -> list[str]:
    injected = next((cell for cell in run.copies[notebook.name] or [] if is_injected(cell)), None)
    values = dict(notebook.defaults)
    if injected is not None:
        try:
            values |= parse_parameters(cell_source(injected), notebook.name)
        except CannotStart as error:
            return [str(error)]
    elif run.copies[notebook.name] is None:
        return []
    return [
        f"{key} was {values[key]!r} in the executed copy, {used[key]!r} in run.json"
        for key in sorted(set(values) & set(used))
        if values[key] != used[key]
    ]


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
        parts = run.entry(notebook.name).get("parts", {})
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
