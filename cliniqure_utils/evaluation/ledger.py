"""The claim ledger: every number of the paper's tables and its main statements, each with this run's verdict on it.

`data/claims.csv` lists the claims, one row each:

- claim_id, source (table or section), claim (our words), paper_value (as printed), notebook and cell (where to look; a
  cell by its id, which stays when cells are added), note;
- evidence: where the value comes from. Several are joined by ";" and must then agree:
  - `02_detect:metrics:KEY`: metrics.json of that step of the run,
  - `profile:paper:02_detect.NAME`: that parameter in the paper profile (notebook default, then profiles/paper.yaml),
  - `table1:ROW`, `table2:ROW:COLUMN`: the row made again from the packaged VinDr-CXR annotations,
  - `fact:NAME`: computed in the run by a function of `evaluation.facts`,
  - `cited:SOURCE`: not computed; the value is the source's name,
  - `none`: nothing here can speak for or against it;
- rule: how the status follows from the value:
  - `equal`, `within:TOLERANCE`, `at_least`, `at_most`: the value against paper_value,
  - `setting`: as equal, for a parameter: the paper profile carries the paper's value,
  - `undefined`, `contradicted`, `not_reproducible`: the status does not depend on the value, which is shown
    nevertheless; `contradicted` needs a citation, or a value that needs no comparison.

A value is never typed in: it is read or computed when the ledger is filled. A rule that compares and holds gives
"reproduced", or "reproduced on simulated data" where the value is a metric of a run on the simulated cohort. One that
does not hold gives "contradicted", except for metrics and settings: those depend on data and budget, so they give "not
reproducible here". Metrics below `stress/` count as facts, since that panel judges metrics and not this run's models.
Without a value the status is "not computed in this run".
"""

import ast
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from cliniqure_utils.evaluation import facts
from cliniqure_utils.project import REPOSITORY
from cliniqure_utils.runs import STEPS

COLUMNS = ["claim_id", "source", "claim", "paper_value", "notebook", "cell", "evidence", "rule", "note"]
STATUSES = (
    "reproduced",
    "reproduced on simulated data",
    "not reproducible here",
    "contradicted",
    "undefined",
    "not computed in this run",
)
FIXED_RULES = {
    "undefined": "undefined",
    "contradicted": "contradicted",
    "not_reproducible": "not reproducible here",
}
COMPARING_RULES = ("equal", "setting", "at_least", "at_most")
_STEP = "|".join(STEPS)
_EVIDENCE = re.compile(
    rf"(?:(?P<step>{_STEP}):metrics:(?P<key>[\w/@.+-]+(?: [\w/-]+)*)"
    rf"|profile:(?P<profile>\w+):(?P<notebook>{_STEP})\.(?P<parameter>\w+)"
    r"|table1:(?P<row1>[1-6])"
    r"|table2:(?P<row2>[1-5]):(?P<column2>x_min|y_min|x_max|y_max|class_names|class_labels)"
    r"|fact:(?P<fact>\w+)"
    r"|cited:(?P<cited>.+)"
    r"|(?P<none>none))"
)


class BadClaims(ValueError):
    """The table of claims cannot be used; the sentence names the row."""


def read_claims(path: str | Path | None = None) -> pd.DataFrame:
    """Read and check the table of claims.

    Args:
        path: None reads data/claims.csv of the repository.

    Returns:
        DataFrame with `COLUMNS`, all text, empty where nothing is said; a table without cells gets an empty column.

    Raises:
        BadClaims: A column is missing, an id is there twice, or an evidence or rule is not in the grammar above.
    """
    path = Path(path) if path is not None else REPOSITORY / "data" / "claims.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if "cell" not in table.columns:
        table["cell"] = ""
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing:
        raise BadClaims(f"{path.name} lacks the column {missing[0]}; expected {', '.join(COLUMNS)}")
    twice = table.claim_id[table.claim_id.duplicated()]
    if len(twice):
        raise BadClaims(f"{path.name}: the claim_id {twice.iloc[0]} is there twice")
    for row in table.itertuples():
        for part in split_evidence(row.evidence):
            if not _EVIDENCE.fullmatch(part):
                raise BadClaims(f"{path.name}: {row.claim_id}: evidence {part!r} is of no known kind")
            if part.startswith("fact:") and part[5:] not in facts.FACTS:
                raise BadClaims(f"{path.name}: {row.claim_id}: there is no fact {part[5:]!r}")
        if row.rule not in (*FIXED_RULES, *COMPARING_RULES) and not re.fullmatch(r"within:\d*\.?\d+", row.rule):
            raise BadClaims(f"{path.name}: {row.claim_id}: rule {row.rule!r} is not known")
    return table[COLUMNS]


def split_evidence(text: str) -> list[str]:
    """The single pieces of an evidence cell; a citation may hold a ";" of its own."""
    return [text] if text.startswith("cited:") else text.split(";")


def fill_ledger(
    claims: pd.DataFrame,
    run_dir: str | Path,
    metrics: Mapping[str, Mapping] | None = None,
    notebooks_dir: str | Path | None = None,
) -> pd.DataFrame:
    """Look up every value and decide every status.

    Args:
        claims: From `read_claims`.
        run_dir: The run folder, for metrics.json of each step; a step that is not there leaves its claims open.
        metrics: step name -> metrics that are not written yet (notebook 07's own).
        notebooks_dir: Folder with the notebooks and profiles/; None is the repository's.

    Returns:
        `claims` with value (text, empty where there is none), status (one of `STATUSES`) and evidence_kind (see there).
    """
    source = _Source(Path(run_dir), dict(metrics or {}), Path(notebooks_dir or REPOSITORY / "notebooks"))
    rows = []
    for claim in claims.itertuples():
        values = [source.value(part) for part in split_evidence(claim.evidence)]
        known = [value for value in values if value is not None]
        kind = evidence_kind(claim.evidence)
        rows.append(
            {
                "value": "; ".join(dict.fromkeys(show(value) for value in known)),
                "status": _status(claim, values, kind, source.simulated),
                "evidence_kind": kind,
            }
        )
    return pd.concat([claims.reset_index(drop=True), pd.DataFrame(rows)], axis=1)


def evidence_kind(evidence: str) -> str:
    """computed, table cell (a row of Table 1 or 2 made again), setting, cited or none."""
    head = evidence.split(":")[0]
    kinds = {"profile": "setting", "table1": "table cell", "table2": "table cell", "cited": "cited", "none": "none"}
    return kinds.get(head, "computed")


def is_transcribed(kinds: pd.Series) -> pd.Series:
    """Which claims are cells of a table or settings: that they are reproduced says nothing of results. bool."""
    return kinds.isin(("table cell", "setting"))


def parse_value(text: str):
    """A printed value as number, truth value or list where it reads as one, else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def same(value, printed) -> bool:
    """Equal as numbers (to nine digits), as lists, or as texts by letters and digits only ("SE-ResNet50")."""
    if isinstance(value, list | tuple) and isinstance(printed, list | tuple):
        return len(value) == len(printed) and all(same(a, b) for a, b in zip(value, printed, strict=True))
    if _is_number(value) and _is_number(printed):
        return math.isclose(value, printed, rel_tol=1e-9, abs_tol=1e-12)
    if isinstance(value, bool) or isinstance(printed, bool):
        return value is printed
    return _letters(value) == _letters(printed)


def show(value) -> str:
    """A value as text: four significant digits for a fraction."""
    if isinstance(value, float):
        return str(value) if value == int(value) else f"{value:.4g}"
    return str(value)


def _status(claim, values: list, kind: str, simulated: bool) -> str:
    if claim.rule in FIXED_RULES:
        return FIXED_RULES[claim.rule]
    if not values or any(value is None for value in values):
        return "not computed in this run"
    printed = parse_value(claim.paper_value)
    if claim.rule in ("equal", "setting"):
        holds = all(same(value, printed) for value in values)
    else:
        if not all(_is_number(value) for value in [*values, printed]):
            raise BadClaims(f"{claim.claim_id}: rule {claim.rule} needs numbers, found {values} and {printed!r}")
        tolerance = float(claim.rule.split(":")[1]) if claim.rule.startswith("within:") else 0.0
        compare = {"at_least": lambda v: v >= printed, "at_most": lambda v: v <= printed}
        holds = all(map(compare.get(claim.rule, lambda v: abs(v - printed) <= tolerance + 1e-12), values))
    # The stress panel judges metrics, not the models of this run: its result depends on neither data nor budget.
    from_run = ":metrics:" in claim.evidence and ":metrics:stress/" not in claim.evidence
    if holds:
        return "reproduced on simulated data" if from_run and simulated else "reproduced"
    return "not reproducible here" if from_run or kind == "setting" else "contradicted"


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _letters(value) -> str:
    return re.sub(r"[^a-z0-9.]", "", str(value).casefold())


class _Source:
    """Where values come from, read once each."""

    def __init__(self, run_dir: Path, metrics: dict, notebooks_dir: Path):
        self._run_dir, self._metrics, self._notebooks_dir = run_dir, metrics, notebooks_dir
        self._profiles: dict[str, dict] = {}
        self._facts: dict[str, object] = {}
        # Notebook 01 writes the simulated truth only where there is one.
        self.simulated = (run_dir / "01_preprocess" / "truth.csv").is_file()

    def value(self, evidence: str):
        """The value of one piece of evidence, None where this run has none."""
        found = _EVIDENCE.fullmatch(evidence)
        if found is None:
            raise BadClaims(f"evidence {evidence!r} is of no known kind")
        if found["step"]:
            return self._of_step(found["step"]).get(found["key"])
        if found["profile"]:
            return self._of_profile(found["profile"]).get(found["notebook"], {}).get(found["parameter"])
        if found["cited"]:
            return found["cited"]
        if found["none"]:
            return None
        name = found["fact"] or ("table1" if found["row1"] else "table2")
        if name not in self._facts:
            compute = {"table1": facts.table1, "table2": facts.table2}.get(name) or facts.FACTS[name]
            self._facts[name] = compute(self._run_dir)
        value = self._facts[name]
        if found["row1"]:
            return value[int(found["row1"]) - 1]
        if found["row2"]:
            return value[int(found["row2"]) - 1][found["column2"]]
        return value

    def _of_step(self, step: str) -> dict:
        if step not in self._metrics:
            path = self._run_dir / step / "metrics.json"
            self._metrics[step] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return self._metrics[step]

    def _of_profile(self, profile: str) -> dict:
        """notebook -> its parameters under a profile; a notebook that is not there has none."""
        from cliniqure_utils.notebooks import load_notebook, read_profile

        if profile not in self._profiles:
            folder = self._notebooks_dir / "profiles"
            if not (folder / f"{profile}.yaml").is_file():
                return {}
            overrides = read_profile(folder, profile)
            paths = [self._notebooks_dir / f"{step}.ipynb" for step in STEPS]
            self._profiles[profile] = {
                path.stem: load_notebook(path).defaults | overrides.get("all", {}) | overrides.get(path.stem, {})
                for path in paths
                if path.is_file()
            }
        return self._profiles[profile]
