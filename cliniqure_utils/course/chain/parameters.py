"""The parameters of a run, and the strict check that runs before anything else does.

papermill only warns about an unknown name, and takes any type. Here a name must exist and a value must have the type
of the notebook's default, or nothing runs.
"""

import ast
import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping

from cliniqure_utils.notebooks import Notebook, is_plain, nearest
from cliniqure_utils.project import CannotStart

EXPECTED = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    type(None): "text, a number, true, false or null",
}
# Set for the whole run with an option of their own, since every notebook must agree on them.
OPTION_OF = {"run_dir": "--run-dir", "data_dir": "--data-dir"}


def find_name(text: str, names: Iterable[str], what: str = "notebook") -> str:
    """`02`, `2` or `02_detect` -> `02_detect`."""
    names = list(names)
    if text in names:
        return text
    numbered = [name for name in names if text.isdigit() and int(name.split("_")[0]) == int(text)]
    if len(numbered) == 1:
        return numbered[0]
    raise CannotStart(f"unknown {what} {text}: {nearest(text, names)}")


def resolve(notebooks: list[Notebook], profile: Mapping[str, Mapping], overrides: Mapping) -> dict[str, dict]:
    """Defaults, then the profile's `all`, then its notebook's block, then the overrides: {notebook: {name: value}}.

    Args:
        notebooks: All notebooks of the chain.
        profile: From `read_profile`.
        overrides: {"02_detect.n_epochs": value}; text is read by the type of the default, as on a command line.

    Raises:
        CannotStart: Unknown notebook, unknown parameter, wrong type.
    """
    by_name = {notebook.name: notebook for notebook in notebooks}
    values = {name: dict(notebook.defaults) for name, notebook in by_name.items()}

    given: dict[tuple[str, str], str] = {}  # (notebook, parameter) -> the override that named just this one

    def assign(block: str, parameter: str, value, from_text: bool, source: str) -> None:
        targets = list(by_name) if block == "all" else [find_name(block, by_name)]
        having = [name for name in targets if parameter in by_name[name].defaults]
        if not having:
            raise CannotStart(
                f"unknown parameter {block}.{parameter}{source}: {_nearest_of(parameter, block, by_name)}"
            )
        if parameter == "run_dir" or (parameter == "data_dir" and (block != "all" or from_text)):
            raise CannotStart(f"{block}.{parameter}{source} is the same for all notebooks: use {OPTION_OF[parameter]}")
        for name in having:
            where = f"{name}.{parameter}{source}"
            notebook = by_name[name]
            nullable = parameter in notebook.nullable
            default = notebook.defaults[parameter]
            values[name][parameter] = coerce(value, default, where, from_text, nullable)
            check_range(parameter, values[name][parameter], default, where)

    for block in sorted(profile, key=lambda key: key != "all"):  # `all` first, so that a notebook's block wins
        if block != "all" and block not in by_name:
            raise CannotStart(f"unknown notebook {block} in the profile: {nearest(block, ['all', *by_name])}")
        for parameter, value in profile[block].items():
            assign(block, str(parameter), value, False, " in the profile")
    for key, value in overrides.items():
        block, dot, parameter = key.partition(".")
        if not dot or not parameter:
            raise CannotStart(f"expected NOTEBOOK.NAME=VALUE, found {key}: for example 02_detect.n_epochs=3")
        if block != "all":
            target = (find_name(block, by_name), parameter)
            if target in given:
                raise CannotStart(f"{'.'.join(target)} is set twice: as {given[target]} and as {key}")
            given[target] = key
        assign(block, parameter, value, isinstance(value, str), "")
    return values


def check_range(name: str, value, default, where: str) -> None:
    """Refuse a negative number where the default is not negative, and a share above 1: they would fail minutes later.

    Raises:
        CannotStart: Out of range.
    """
    if isinstance(value, list):
        for i, item in enumerate(value):
            sample = default[0] if isinstance(default, list) and default else None
            check_range(name, item, sample, f"{where}[{i}]")
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    if isinstance(default, (int, float)) and value < 0 <= default:
        raise CannotStart(f"{where}: expected 0 or more, found {value}")
    if re.search(r"(_|^)(share|dropout|probability|threshold|iou)$", name) and value > 1:
        raise CannotStart(f"{where}: expected a number from 0 to 1, found {value}")


def coerce(value, default, where: str, from_text: bool = False, nullable: bool = False):
    """`value` as the type of `default`, or None where `nullable`, else an error. `from_text`: from a command line."""
    nullable = nullable or default is None
    if from_text:
        value = None if nullable and value in ("None", "null") else _from_text(value, default)
    if nullable and value is None:
        return None
    kind = type(default)
    if default is None:
        if isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value)):
            return value
    elif kind is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    elif kind is list and isinstance(value, list):
        if not default:
            if is_plain(value):
                return value
        else:
            return [coerce(item, default[0], f"{where}[{i}]") for i, item in enumerate(value)]
    elif type(value) is kind:  # not isinstance: True is an int
        return value
    raise _wrong(value, default, where)


def _wrong(value, default, where: str) -> CannotStart:
    hint = ""
    if isinstance(default, str) and not isinstance(value, (str, list, dict)):
        hint = " (put it in quotes)"
    example = "" if default is None else f" like {json.dumps(default)}"
    shown = json.dumps(value, default=str)
    return CannotStart(f"{where}: expected {EXPECTED[type(default)]}{example}, found {shown}{hint}")


def _from_text(text: str, default):
    """A command line's text as the value it spells, judged by the default's type; text that fits nothing stays text."""
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        value = ast.literal_eval(text)  # leaves 0012 alone, which is not a Python number
    except (ValueError, SyntaxError):
        try:
            value = json.loads(text) if isinstance(default, list) else text
        except ValueError:
            value = text
    return value if is_plain(value) else text


def _nearest_of(parameter: str, block: str, by_name: Mapping[str, Notebook]) -> str:
    if block != "all":
        own = by_name[find_name(block, by_name)].defaults
        if not difflib.get_close_matches(parameter, own, n=1, cutoff=0.5):
            elsewhere = [name for name, notebook in by_name.items() if parameter in notebook.defaults]
            if elsewhere:
                return f"it is a parameter of {', '.join(elsewhere)}"
        return nearest(parameter, own)
    return nearest(parameter, {name for notebook in by_name.values() for name in notebook.defaults})
