"""Reading reference reports, one JSON object a line."""

import json
from pathlib import Path

import pandas as pd


def read_reports(path: str | Path) -> tuple[dict[str, dict], pd.DataFrame]:
    """Read reports.jsonl.

    Args:
        path: Each line a JSON object with image_id (text or a whole number) and the texts findings, impression and text
            (the whole report). impression may be empty.

    Returns:
        (reports, rejected). reports: image_id -> the line, its image_id as text; of two lines for one film the first.
        rejected: row (number of the line, from 1; blank lines do not count), image_id, reason.
    """
    reports, rejected = {}, []
    lines = Path(path).read_text(encoding="utf-8-sig").split("\n")  # str.splitlines would split texts at U+2028
    for row, line in enumerate((line for line in lines if line.strip()), start=1):
        image_id, report, reason = _one(line)
        if reason is None and image_id in reports:
            reason = "a second report of this film"
        if reason is None:
            reports[image_id] = report
        else:
            rejected.append((row, image_id, reason))
    return reports, pd.DataFrame(rejected, columns=["row", "image_id", "reason"])


def _one(line: str) -> tuple[str, dict, str | None]:
    """One line: image id ("" where there is none), the report, and why it cannot be used, or None."""
    try:
        report = json.loads(line)
    except ValueError:
        return "", {}, "no JSON"
    image_id = report.get("image_id") if isinstance(report, dict) else None
    if isinstance(image_id, bool) or not isinstance(image_id, (str, int)) or not str(image_id).strip():
        return "", {}, "expected a JSON object with an image_id"
    report = {**report, "image_id": str(image_id)}
    for name in ("findings", "impression", "text"):
        text = report.get(name)
        if not isinstance(text, str):
            return report["image_id"], {}, f"{name} is not a text"
        if name != "impression" and not text.strip(" .\n\t"):
            return report["image_id"], {}, f"the report is empty: {name} holds no word"
    return report["image_id"], report, None
