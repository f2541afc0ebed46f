"""The sentence check on reports with one planted error: how many it finds, and how many true sentences it marks.

Reference reports of the demo's films with the films' truth as evidence; `tests/reports/planted.py` plants the errors.
"""

import json
import sys
from pathlib import Path

import pandas as pd
from common import Bench, cpu_seconds

from cliniqure_utils.reports import check_sentences
from cliniqure_utils.vocabulary import NO_FINDING

ROOT = Path(__file__).parents[2]
DATA = ROOT / "data" / "demo"
sys.path.insert(0, str(ROOT / "tests" / "reports"))
MOST, SEED = 150, 0  # drafts of a kind


def read_films() -> tuple[list[tuple[dict, list[dict]]], float]:
    """(report, true boxes) of the cohort's films, and the side of a film in pixels."""
    if not (DATA / "truth.csv").exists():
        sys.exit("data/demo is not there: run notebook 01 first (`make run`)")
    truth = pd.read_csv(DATA / "truth.csv", dtype={"image_id": str})
    boxes = {i: rows.to_dict("records") for i, rows in truth[truth.class_name != NO_FINDING].groupby("image_id")}
    reports = [json.loads(line) for line in (DATA / "reports.jsonl").read_text(encoding="utf-8").split("\n") if line]
    films = [(report, boxes.get(report["image_id"], [])) for report in reports]
    return films, float(json.loads((DATA / "cohort.json").read_text(encoding="utf-8"))["size"])


def main() -> None:
    from planted import OTHER_SEVERITY, drafts_of, score

    bench = Bench("checker")
    films, size = read_films()
    drafts = drafts_of(films, size, MOST, SEED)
    counts, misses = score(drafts)
    print(f"{'one error: kind':28}{'n':>6}{'caught':>8}{'named':>8}{'clean':>8}{'marked':>8}")
    named = counts.pop(OTHER_SEVERITY), sum(counts.values(), start=type(counts["added"])())
    for kind, count in {**counts, "all of these": named[1], OTHER_SEVERITY: named[0]}.items():
        n, clean = max(count["n"], 1), max(count["clean"], 1)
        print(
            f"{kind:28}{count['n']:6}{count['caught'] / n:8.3f}{count['named'] / n:8.3f}{count['clean']:8}"
            f"{count['marked'] / clean:8.4f}"
        )
        bench.rows.append(
            {"name": kind, **{key: int(count[key]) for key in ("n", "caught", "named", "clean", "marked")}}
        )
    for kind, draft, said, omitted in misses[:5]:
        print(f"  missed or marked: {kind}, {draft.finding}: {said} {omitted or ''}")
    texts = [(draft.text, evidence) for entries in drafts.values() for draft, evidence in entries]
    seconds = cpu_seconds(lambda: [check_sentences(*pair) for pair in texts])
    bench.state("check of a report", "CPU ms", 1000 * seconds / len(texts))
    bench.write()


if __name__ == "__main__":
    main()
