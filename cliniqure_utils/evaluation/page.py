"""report.html: one run on one page that needs nothing else, no network and no script.

Pictures are embedded, text is escaped (report text comes from models, labels from files). The page reads at 390 and
1280 pixels and on paper; nothing is told by colour alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cliniqure_utils import reports
from cliniqure_utils.evaluation.ledger import STATUSES, is_transcribed
from cliniqure_utils.pages import data_url, figure_png, film_with_boxes, pixels_png, render
from cliniqure_utils.pages.templates import RUN
from cliniqure_utils.reports.reading import CERTAINTY_IN_WORDS, ORIGIN_WORDS, explained, impression, reading_order
from cliniqure_utils.vocabulary import NO_FINDING

# Headings of the page, in order; the test looks for each.
SECTIONS = (
    "In short",
    "Table 7",
    "What the text metrics notice",
    "Figures",
    "The paper's claims",
    "Test cases",
    "Notes",
    "About this run",
)


@dataclass(frozen=True)
class Case:
    """One test film in the gallery.

    Attributes:
        title: Heading.
        film: uint8 (height, width).
        size: (width, height) that the boxes are in pixels of.
        truth: (finding, box) of the truth, x_min, y_min, x_max, y_max.
        probabilities: (finding, probability, threshold, is it there) per finding worth showing.
        findings, recommendations: Of the report's `sections` (`reports.assemble_report`).
        texts: (heading, text) beside the film, such as the final report and the reference; folded: those to unfold,
            such as the crude report and the prompt. In place of a text, the sentences of `sections` ("checked" or
            "verified"): each is marked with the sign of its status, one of `reports.STATUSES`.
    """

    title: str
    film: np.ndarray
    size: tuple[float, float]
    truth: Sequence[tuple[str, Sequence[float]]]
    probabilities: Sequence[tuple[str, float, float, bool]]
    findings: Sequence[Mapping]
    recommendations: Sequence[Mapping]
    texts: Sequence[tuple[str, str | Sequence[Mapping]]]
    folded: Sequence[tuple[str, str | Sequence[Mapping]]] = ()


def render_report(
    *,
    title: str,
    headline: Sequence[str],
    table7: pd.DataFrame,
    figures: Sequence[tuple[str, str, object]],
    ledger: pd.DataFrame,
    cases: Sequence[Case],
    facts: Mapping[str, object],
    thresholds: Mapping[str, float],
    stress: pd.DataFrame | None = None,
    stress_figure: object = None,
) -> str:
    """The whole page as HTML text.

    Args:
        title: Name of the run, as plain text.
        headline: The few sentences that sum up the run, shown first.
        table7: Shown as it is, text and numbers (three decimals); its columns are the headings.
        figures: (title, caption, matplotlib Figure or PNG bytes).
        ledger: From `ledger.fill_ledger`.
        cases: The gallery.
        facts: What was run and on what: name -> value.
        thresholds: Least probability of each finding.
        stress: From `evaluation.stress.verdicts`: metric, verdict, notices, misses; None: the panel was not run.
        stress_figure: Its heat map, matplotlib Figure or PNG bytes.

    Returns:
        HTML, UTF-8, self-contained. All text is escaped.

    Raises:
        ValueError: A sentence of a case has an unknown status.

    Source: design of this project.
    """
    for case in cases:
        for _, text in [*case.texts, *case.folded]:
            unknown = (
                [] if isinstance(text, str) else [s["status"] for s in text if s["status"] not in reports.STATUSES]
            )
            if unknown:
                expected = ", ".join(reports.STATUSES)
                raise ValueError(f"{case.title}: unknown status {unknown[0]!r}; expected one of {expected}")
    shown = [_shown(case, thresholds) for case in cases]
    in_order = [row for case in shown for row in case["rows"]]
    texts, notes = explained(in_order)
    transcribed = is_transcribed(ledger.evidence_kind)
    counts = [(status, int((ledger.status[~transcribed] == status).sum())) for status in STATUSES]
    return render(
        RUN,
        title,
        sections=SECTIONS,
        headline=headline,
        columns=list(table7.columns),
        table7=table7.to_dict("records"),
        figures=[(name, caption, _embedded(figure)) for name, caption, figure in figures],
        counts=[(status, count) for status, count in counts if count],
        n_claims=len(ledger),
        n_transcribed=int(transcribed.sum()),
        contradicted=ledger[ledger.status == "contradicted"].to_dict("records"),
        ledger=ledger.to_dict("records"),
        cases=shown,
        texts=texts,
        notes=notes,
        marks=reports.MARKS,
        origins=ORIGIN_WORDS,
        legend=CERTAINTY_IN_WORDS,
        stress=None if stress is None else stress.to_dict("records"),
        stress_url=None if stress_figure is None else _embedded(stress_figure),
        facts=facts,
    )


def _shown(case: Case, thresholds: Mapping[str, float]) -> dict:
    """A case as the template wants it."""
    reading = reading_order(case.findings, thresholds, case.size[1])
    boxes = [box["box"] for entry in reading for box in entry["boxes"]]
    names = [entry["name"] for entry in reading]
    boxed = [entry["name"] for entry in reading if entry["boxes"]]
    rows = {row["finding"]: row for row in case.recommendations}
    bars = [
        {"name": name, "probability": probability, "threshold": threshold, "present": probability >= threshold,
         "detected": name in boxed, "said": name in names or (name == NO_FINDING and not names), "true": there}
        for name, probability, threshold, there in case.probabilities
    ]  # fmt: skip
    seen = {"Detector": [f"{n}, {name}" for n, name in enumerate(_per_box(reading), start=1)],
            "Truth": [name for name, _ in case.truth]}  # fmt: skip
    return {
        "title": case.title,
        "picture": film_with_boxes(pixels_png(case.film), case.size, boxes, case.truth),
        "alternative": "Chest film. "
        + " ".join(f"{who}: {'; '.join(found) or 'no box'}." for who, found in seen.items()),
        "reading": reading,
        "impression": impression(reading),
        "bars": bars,
        "rows": [rows[name] for name in names if name in rows],
        "texts": case.texts,
        "folded": case.folded,
    }


def _per_box(reading: Sequence[Mapping]) -> list[str]:
    return [entry["name"] for entry in reading for _ in entry["boxes"]]


def _embedded(figure) -> str:
    """A matplotlib Figure, or PNG bytes, as a data URL."""
    return data_url(figure if isinstance(figure, bytes) else figure_png(figure))
