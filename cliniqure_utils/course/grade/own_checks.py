"""An instructor's own checks: Python files outside the repository, so that students do not find them there."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from cliniqure_utils.course.grade.run_folder import FAIL, PASS, Check, Run
from cliniqure_utils.project import CannotStart


def run_own_checks(run: Run, folder: str | Path) -> Iterator[Check]:
    """Call every function `check_...(run)` of the files `check_*.py` in a folder, in order.

    A check gets the `Run` (folder, record, metrics, copies). It passes when it returns None or True, and fails when it
    returns False or text (the reason), or when an assert or anything else in it raises.

    Raises:
        CannotStart: No such folder, no checks in it, or a file that cannot be loaded.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CannotStart(f"there is no folder with checks {folder}")
    functions = []
    for path in sorted(folder.glob("check_*.py")):
        spec = importlib.util.spec_from_file_location(f"own_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # an instructor's file may fail in any way
            raise CannotStart(f"{path.name} cannot be loaded: {type(error).__name__}: {error}") from None
        functions += [(path.stem, f) for name, f in vars(module).items() if name.startswith("check_") and callable(f)]
    if not functions:
        raise CannotStart(f"no function check_...(run) in a file check_*.py of {folder}")
    for file, function in functions:
        doc = (function.__doc__ or "").strip().split("\n")[0]
        name = doc or function.__name__.removeprefix("check_").replace("_", " ")
        try:
            result = function(run)
        except AssertionError as error:
            yield Check(file, name, FAIL, str(error).split("\n")[0] or "an assert failed")
        except Exception as error:
            yield Check(file, name, FAIL, f"{type(error).__name__}: {error}".split("\n")[0])
        else:
            good = result is None or result is True
            yield Check(file, name, PASS if good else FAIL, "passed" if good else str(result or "failed"))
