"""report.html: one run on one page that needs nothing else, no network and no script.

Pictures are embedded, text is escaped (report text comes from models, labels from files). The page reads at 390 and
1280 pixels and on paper; nothing is told by colour alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from cliniqure_utils import reports
from cliniqure_utils.evaluation.ledger import STATUSES
from cliniqure_utils.pages import data_url, figure_png, render
from cliniqure_utils.pages.templates import RUN

# Headings of the page, in order; the test looks for each.
SECTIONS = (
    "In short",
    "Table 7",
    "What the text metrics notice",
    "Figures",
    "The paper's claims",
    "Test cases",
    "About this run",
)


@dataclass(frozen=True)
class Case:
    """One test film in the gallery.

    Attributes:
        title: Heading.
        figure: matplotlib Figure or PNG bytes: the film with its boxes.
        alternative: What the picture shows, in words, for readers who do not see it.
        probabilities: (finding, probability, threshold, is it there) per finding worth showing.
        texts: (heading, text) such as reference, crude and final report. In place of a text, a list of (sentence,
            status) marks each sentence with the sign of its status, one of `reports.STATUSES`; a neutral one has none.
    """

    title: str
    figure: object
    alternative: str
    probabilities: Sequence[tuple[str, float, float, bool]]
    texts: Sequence[tuple[str, str | Sequence[tuple[str, str]]]]


def render_report(
    *,
    title: str,
    headline: Sequence[str],
    table7: pd.DataFrame,
    figures: Sequence[tuple[str, str, object]],
    ledger: pd.DataFrame,
    cases: Sequence[Case],
    facts: Mapping[str, object],
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
        stress: From `evaluation.stress.verdicts`: metric, verdict, notices, misses; None: the panel was not run.
        stress_figure: Its heat map, matplotlib Figure or PNG bytes.

    Returns:
        HTML, UTF-8, self-contained. All text is escaped.

    Raises:
        ValueError: A sentence of a case has an unknown status.

    Source: design of this project.
    """
    for case in cases:
        for _, text in case.texts:
            unknown = [] if isinstance(text, str) else [status for _, status in text if status not in reports.STATUSES]
            if unknown:
                expected = ", ".join(reports.STATUSES)
                raise ValueError(f"{case.title}: unknown status {unknown[0]!r}; expected one of {expected}")
    counts = [(status, int((ledger.status == status).sum())) for status in STATUSES]
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
        contradicted=ledger[ledger.status == "contradicted"].to_dict("records"),
        ledger=ledger.to_dict("records"),
        cases=[(case, _embedded(case.figure)) for case in cases],
        marks=reports.MARKS,
        stress=None if stress is None else stress.to_dict("records"),
        stress_url=None if stress_figure is None else _embedded(stress_figure),
        facts=facts,
    )


def _embedded(figure) -> str:
    """A matplotlib Figure, or PNG bytes, as a data URL."""
    return data_url(figure if isinstance(figure, bytes) else figure_png(figure))
