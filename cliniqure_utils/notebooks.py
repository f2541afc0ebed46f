"""The notebooks as files: code cells, the parameters cell, the profiles that change it, and what a run ran with."""

import ast
import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cliniqure_utils.project import REPOSITORY, CannotStart
from cliniqure_utils.record import parameters_of, read_record
from cliniqure_utils.runs import STEPS

LONGEST_LIST = 40  # names that a message lists; the notebook with most parameters has fewer
# Plain scalars of YAML 1.2's core schema that are not text.
PLAIN_YAML = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(?:0|[1-9][0-9]*)",
    "float": r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)\.[0-9]*|(?:0|[1-9][0-9]*)(?=[eE]))(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
}


@dataclass(frozen=True)
class Notebook:
    """A notebook of the chain: its code, and the defaults of its parameters cell."""

    name: str
    path: Path
    defaults: dict = field(default_factory=dict)
    code: tuple[str, ...] = ()  # the code cells, parameters included, in order
    ids: tuple[str | None, ...] = ()  # their cell ids
    parameters_source: str = ""
    nullable: frozenset[str] = frozenset()  # parameters that may be None although their default is not

    @property
    def body(self) -> str:
        """All code but the parameters cell."""
        return "\n".join(source for source in self.code if source != self.parameters_source)


def cell_source(cell: Mapping) -> str:
    """The source of a notebook cell, which the file keeps as text or as a list of lines."""
    source = cell.get("source", "")
    return source if isinstance(source, str) else "".join(source)


def load_notebook(path: str | Path) -> Notebook:
    """Read a notebook's code and defaults.

    Raises:
        CannotStart: Not a notebook, not exactly one cell tagged `parameters`, or a line in it that is not
            `name = literal`.
    """
    path = Path(path)
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise CannotStart(f"{path.name} is not a notebook: {error}") from None
    code = [cell for cell in cells if cell.get("cell_type") == "code"]
    tagged = [cell_source(cell) for cell in code if "parameters" in (cell.get("metadata", {}).get("tags") or ())]
    if len(tagged) != 1:
        raise CannotStart(f"{path.name} has {len(tagged)} cells tagged parameters; expected 1")
    defaults = parse_parameters(tagged[0], path.name)
    sources = tuple(cell_source(cell) for cell in code)
    ids = tuple(cell.get("id") for cell in code)
    return Notebook(path.stem, path, defaults, sources, ids, tagged[0], nullable_parameters(tagged[0]))


def parse_parameters(source: str, where: str) -> dict:
    """`name = literal` lines -> {name: value}.

    A literal is text, a number, True, False, None or a list of literals: papermill cannot replace anything else
    without changing what the notebook means.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise CannotStart(f"{where}: the parameters cell is not Python, line {error.lineno}: {error.msg}") from None
    values: dict = {}
    for statement in tree.body:
        problem = CannotStart(
            f"{where}: line {statement.lineno} of the parameters cell is not `name = literal`: "
            f"{ast.unparse(statement)[:80]}"
        )
        if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
            raise problem
        target = statement.targets[0]
        if not isinstance(target, ast.Name) or target.id in values:
            raise problem
        try:
            value = ast.literal_eval(statement.value)
        except ValueError:
            raise problem from None
        if not is_plain(value):
            raise problem
        values[target.id] = value
    return values


def nullable_parameters(source: str) -> frozenset[str]:
    """Names whose comment says what None means, as in `n_films = 24  # films; None for all`."""
    lines = (re.match(r"(\w+) = .*#(?P<comment>.*)$", line) for line in source.splitlines())
    return frozenset(line[1] for line in lines if line and re.search(r"\bNone\b", line["comment"]))


def find_notebooks(folder: str | Path) -> list[Notebook]:
    """The numbered notebooks of a folder, in order.

    A copy (`03_classify-Copy1`, `03_classify (1)`) is no step, and where all notebooks of the course lie nothing else
    is one.

    Raises:
        CannotStart: There is none, or see `load_notebook`.
    """
    folder = Path(folder)
    paths = sorted(path for path in folder.glob("*.ipynb") if re.fullmatch(r"\d\d_\w+", path.stem))
    course = [path for path in paths if path.stem in STEPS]
    if len(course) == len(STEPS):
        paths = course
    if not paths:
        raise CannotStart(f"no notebook named NN_name.ipynb in {folder}")
    return [load_notebook(path) for path in paths]


def read_profile(folder: str | Path, profile: str) -> dict[str, dict]:
    """`profiles/NAME.yaml` -> {"all" or notebook name: {parameter: value}}; `demo` may be missing (the defaults)."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Plain values as a reader takes them (YAML 1.2), and no key twice, of which YAML would keep the last.

        PyYAML follows YAML 1.1: there 1e-4 and 9e-1 are text, 0012 is ten, 1:30 is ninety, and no, on and y are
        booleans. Here a number is a number with or without an exponent, and what else is not true, false or null is
        text.
        """

        yaml_implicit_resolvers = {}

    def mapping(loader, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is there twice", key.start_mark)
            seen.add(key.value)
        return yaml.SafeLoader.construct_mapping(loader, node, deep)

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    for kind, pattern in PLAIN_YAML.items():
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(rf"(?:{pattern})\Z"), None)
    path = Path(folder) / f"{profile}.yaml"
    known = {"demo", *(found.stem for found in Path(folder).glob("[!.]*.yaml"))}
    if profile not in known:
        raise CannotStart(f"unknown profile {profile}: {nearest(profile, known)}")
    if not path.exists():
        return {}
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise CannotStart(f"{path.name}{line}: {getattr(error, 'problem', None) or error}") from None
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise CannotStart(f"{path.name}: expected `notebook: {{parameter: value}}`, found {content!r}")
    for key, values in content.items():
        if values is not None and not isinstance(values, dict):
            raise CannotStart(f"{path.name}: {key}: expected `parameter: value` lines, found {values!r}")
    return {str(key): dict(values or {}) for key, values in content.items()}


def ran_with(run_dir: str | Path, name: str) -> dict:
    """The parameters with which a notebook of a run ran.

    Args:
        run_dir: The run folder.
        name: Of the notebook, such as "02_detect".

    Returns:
        Parameter -> value: as run.json says, and where it does not (a notebook was run by hand), as the notebook does.

    Raises:
        CannotStart: run.json cannot be read, or was written by a version that kept parameters elsewhere.
    """
    run_dir = Path(run_dir)
    own = load_notebook(REPOSITORY / "notebooks" / f"{name}.ipynb").defaults
    record = read_record(run_dir) if (run_dir / "run.json").is_file() else {"notebooks": {}}
    if name in record["notebooks"] and "parameters" not in record["notebooks"][name]:
        raise CannotStart(
            f"run.json of {run_dir.name} does not say with which parameters {name} ran: it is of an earlier version; "
            "run the chain again"
        )
    return own | parameters_of(record, name)


def is_plain(value) -> bool:
    """Text, a number, True, False, None, or a list of them: what papermill can put into a parameters cell."""
    if isinstance(value, list):
        return all(is_plain(item) for item in value)
    return value is None or isinstance(value, (str, bool, int, float))


def nearest(name: str, valid: Iterable[str]) -> str:
    """A half sentence with the nearest valid name, or with all of them when none is near."""
    valid = sorted(set(valid))
    found = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    if found:
        return f"did you mean {found[0]}?"
    if len(valid) > LONGEST_LIST:
        return f"none of the {len(valid)} names is near"
    return f"valid: {', '.join(valid)}" if valid else "there is none"
