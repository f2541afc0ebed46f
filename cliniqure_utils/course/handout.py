"""`cliniqure handout`: the student's notebooks, made from the committed ones.

The committed notebooks are the one source: they hold the outputs of the demo run, hints, and solutions folded away in
`<details><summary>Solution</summary>`. A student gets the same code and text without solutions and without outputs.
"""

import copy
import json
import re
import shutil
from pathlib import Path

from cliniqure_utils.notebooks import cell_source, find_notebooks
from cliniqure_utils.project import REPOSITORY, CannotStart
from cliniqure_utils.runs import atomic_path, write_text

SOLUTION = re.compile(
    r"<details[^>]*>\s*<summary>\s*(?:<[^>]+>\s*)?solutions?\b.*?</details>\n*", re.IGNORECASE | re.DOTALL
)
LEFT = re.compile(r"<summary>\s*(?:<[^>]+>\s*)?solution", re.IGNORECASE)
ANSWER = re.compile(r"^(my_\w+)\s*=.*$", re.MULTILINE)


def make_handout(student_dir: str | Path, notebooks_dir: str | Path | None = None) -> list[str]:
    """Write the student's notebooks and the profiles into an empty or new folder.

    Args:
        student_dir: Takes the place of a clone's `notebooks` folder: `cliniqure run` works with it there.
        notebooks_dir: The source. Default: the project's.

    Returns:
        One line per notebook.

    Raises:
        CannotStart: The folder holds files, or a solution could not be taken out.
    """
    student_dir, source = Path(student_dir), Path(notebooks_dir or REPOSITORY / "notebooks")
    if student_dir.exists() and (not student_dir.is_dir() or any(student_dir.iterdir())):
        raise CannotStart(f"{student_dir} is not empty: choose a new folder, so that no student's work is overwritten")
    made = []
    for notebook in find_notebooks(source):
        content = json.loads(notebook.path.read_text(encoding="utf-8"))
        result, taken = student_version(content, notebook.name)
        made.append((notebook.path.name, json.dumps(result, indent=1, ensure_ascii=False) + "\n", taken))
    for name, text, _ in made:
        write_text(student_dir / name, text)
    profiles = source / "profiles"
    if profiles.is_dir():
        for path in sorted(profiles.glob("[!.]*.yaml")):
            with atomic_path(student_dir / "profiles" / path.name) as temporary:
                shutil.copyfile(path, temporary)
    return [f"{name}: {taken} solution{'s' if taken != 1 else ''} taken out" for name, _, taken in made]


def student_version(notebook: dict, name: str) -> tuple[dict, int]:
    """A copy without outputs, counts, folded solutions and answers; and how many solutions there were.

    Raises:
        CannotStart: A solution is folded in a way that is not understood; better none than a leak.
    """
    result = copy.deepcopy(notebook)
    kept, taken = [], 0
    for number, cell in enumerate(result["cells"], start=1):
        source = cell_source(cell)
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
            source = ANSWER.sub(r"\1 = None", source)
        else:
            source, found = SOLUTION.subn("", source)
            taken += found
            if LEFT.search(source):
                raise CannotStart(f"{name}, cell {number}: a solution does not end with </details>")
            if found and not source.strip():
                continue
            source = source.strip("\n") if found else source
        cell["source"] = source.splitlines(keepends=True)
        kept.append(cell)
    result["cells"] = kept
    return result, taken
