"""report.html: one run on one page that needs nothing else, no network and no script.

Pictures are embedded, text is escaped (report text comes from models, labels from files), and the page forbids itself
every outside resource. It reads at 390 and 1280 pixels and on paper; nothing is told by colour alone.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from cliniqure_utils.evaluation.ledger import STATUSES

_STATUSES = ("supported", "contradicted", "unsupported", "neutral")
DISCLAIMER = "For teaching, not for clinical use."
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
# Status of a sentence (`reports.check_sentences`) -> the sign before it; a neutral one has none.
MARKS = {"supported": "\u2713", "contradicted": "\u2717", "unsupported": "?"}


@dataclass(frozen=True)
class Case:
    """One test film in the gallery.

    Attributes:
        title: Heading.
        figure: matplotlib Figure or PNG bytes: the film with its boxes.
        alternative: What the picture shows, in words, for readers who do not see it.
        probabilities: (finding, probability, threshold, is it there) per finding worth showing.
        texts: (heading, text) such as reference, crude and final report. In place of a text, a list of (sentence,
            status) marks each sentence: supported, contradicted, unsupported or neutral.
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
        headline: The few sentences a reader in a hurry should see.
        table7: Shown as it is, text and numbers (three decimals); its columns are the headings.
        figures: (title, caption, matplotlib Figure or PNG bytes).
        ledger: From `claims.fill_ledger`.
        cases: The gallery.
        facts: What was run and on what: name -> value.
        stress: From `evaluation.stress.verdicts`: metric, verdict, notices, misses; None: the panel was not run.
        stress_figure: Its heat map, matplotlib Figure or PNG bytes.

    Returns:
        HTML, UTF-8, self-contained. All text is escaped.

    Raises:
        ValueError: A sentence of a case has an unknown status.

    Source: design of this project; jinja2 with autoescape.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["cell"] = _cell
    for case in cases:
        for _, text in case.texts:
            unknown = [] if isinstance(text, str) else [status for _, status in text if status not in _STATUSES]
            if unknown:
                raise ValueError(f"{case.title}: unknown status {unknown[0]!r}; expected one of {', '.join(_STATUSES)}")
    counts = [(status, int((ledger.status == status).sum())) for status in STATUSES]
    return environment.from_string(_TEMPLATE).render(
        title=title,
        disclaimer=DISCLAIMER,
        sections=SECTIONS,
        headline=headline,
        columns=list(table7.columns),
        table7=table7.to_dict("records"),
        figures=[(name, caption, _data_url(figure)) for name, caption, figure in figures],
        counts=[(status, count) for status, count in counts if count],
        n_claims=len(ledger),
        contradicted=ledger[ledger.status == "contradicted"].to_dict("records"),
        ledger=ledger.to_dict("records"),
        cases=[(case, _data_url(case.figure)) for case in cases],
        marks=MARKS,
        stress=None if stress is None else stress.to_dict("records"),
        stress_url=None if stress_figure is None else _data_url(stress_figure),
        facts=facts,
    )


def png_bytes(figure, dpi: int = 110) -> bytes:
    """A matplotlib Figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def _data_url(figure) -> str:
    png = figure if isinstance(figure, bytes) else png_bytes(figure)
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _cell(value) -> str:
    """A table cell: three decimals for a fraction, a dash for nothing."""
    if value is None or value == "" or (isinstance(value, float) and value != value):
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


_TEMPLATE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>
:root { --ink: #1a1a1a; --soft: #555; --line: #c9c9c9; --paper: #fff; --tint: #f4f6f8; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 1rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.6rem; margin: .2rem 0; line-height: 1.2; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; border-bottom: 2px solid var(--ink); padding-bottom: .2rem; }
h3 { font-size: 1.02rem; margin: 0 0 .4rem; }
h1, h2, h3, h4, p, li, figcaption { overflow-wrap: anywhere; }
p, li { max-width: 46rem; }
nav a { display: inline-block; margin-right: 1rem; padding: .25rem 0; color: inherit; }
.notice { border: 2px solid var(--ink); padding: .5rem .8rem; font-weight: 600; display: inline-block;
  margin: .6rem 0; }
.soft { color: var(--soft); font-size: .9rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .5rem; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; }
th { background: var(--tint); overflow-wrap: normal; }
td.status { font-weight: 600; white-space: nowrap; }
.place { display: block; } .place span { white-space: nowrap; }
.counts { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .6rem; }
.counts li { border: 1px solid var(--ink); padding: .4rem .8rem; }
.counts b { font-size: 1.3rem; display: block; line-height: 1.1; }
figure { margin: .8rem 0 1.6rem; }
img { max-width: 100%; height: auto; display: block; }
figcaption { font-size: .9rem; color: var(--soft); max-width: 46rem; }
.case { display: grid; grid-template-columns: minmax(0, 340px) minmax(0, 1fr); gap: 1.2rem; padding: 1rem 0;
  border-top: 1px solid var(--line); }
.case blockquote { margin: 0 0 .7rem; padding: .1rem 0 .1rem .8rem; border-left: 4px solid var(--line);
  overflow-wrap: anywhere; }
.case .plain { white-space: pre-line; }
.contradicted { text-decoration: underline double; text-underline-offset: 3px; }
.unsupported { text-decoration: underline dotted 2px; text-underline-offset: 3px; }
.case h4 { margin: .3rem 0 .1rem; font-size: .9rem; }
td span.number { white-space: nowrap; }
.case table { font-size: .82rem; margin-top: .5rem; }
summary { cursor: pointer; font-weight: 600; padding: .5rem 0; }
dl { display: grid; grid-template-columns: minmax(7rem, 14rem) minmax(0, 1fr); gap: .2rem 1rem; font-size: .92rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 720px) {
  .case { grid-template-columns: minmax(0, 1fr); }
  table.wide thead { position: absolute; left: -9999px; }
  table.wide tr { display: block; border-bottom: 2px solid var(--ink); padding: .4rem 0; }
  table.wide td { display: grid; grid-template-columns: 7.5rem minmax(0, 1fr); gap: .5rem; border: 0; padding: .12rem 0;
    white-space: normal; }
  table.wide td::before { content: attr(data-label); color: var(--soft); font-weight: 400; }
  dl { grid-template-columns: minmax(0, 1fr); } dd { margin-bottom: .4rem; }
}
@media print {
  body { font-size: 10.5pt; max-width: none; padding: 0; }
  nav { display: none; }
  h2 { break-after: avoid; } figure, .case, tr { break-inside: avoid; }
  details::details-content { content-visibility: visible; block-size: auto; }
}
</style>
</head>
<body>
<header>
<h1>{{ title }}</h1>
<p class="notice">{{ disclaimer }}</p>
<nav>{% for name in sections %}<a href="#s{{ loop.index }}">{{ name }}</a>{% endfor %}</nav>
</header>
<main>
<h2 id="s1">{{ sections[0] }}</h2>
<ul>{% for sentence in headline %}<li>{{ sentence }}</li>{% endfor %}</ul>

<h2 id="s2">{{ sections[1] }}</h2>
<table class="wide">
<thead><tr>{% for column in columns %}<th scope="col">{{ column }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in table7 %}
<tr>{% for column in columns %}<td data-label="{{ column }}">
<span{{ ' class="number"' | safe if (row[column] | cell | length) < 18 }}>{{ row[column] | cell }}</span></td>
{% endfor %}</tr>
{% endfor %}
</tbody>
</table>

<h2 id="s3">{{ sections[2] }}</h2>
{% if stress is none %}
<p>Not run.</p>
{% else %}
<p>Reports were changed by rule: harmlessly (other words, other order) and harmfully (a statement denied, left for
right, a finding dropped or invented). A metric notices a change when it puts the harmless versions of a report above
the harmful one in at least four of five comparisons. One that does not notice a denied statement measures how a report
sounds: fluency only.</p>
<table class="wide">
<thead><tr><th scope="col">Metric</th><th scope="col">Verdict</th><th scope="col">Notices</th>
<th scope="col">Misses</th></tr></thead>
<tbody>
{% for row in stress %}
<tr><td data-label="Metric"><span>{{ row.metric }}</span></td>
<td data-label="Verdict" class="status"><span>{{ row.verdict }}</span></td>
<td data-label="Notices"><span>{{ row.notices | cell }}</span></td>
<td data-label="Misses"><span>{{ row.misses | cell }}</span></td></tr>
{% endfor %}
</tbody>
</table>
{% if stress_url %}
<figure><img src="{{ stress_url }}" alt="Heat map of the table above: a number for each metric and kind of change">
<figcaption>Share of comparisons in the right order: 1 is always right, 0.5 is blind, 0 is the wrong way round. Framed
cells are noticed.</figcaption></figure>
{% endif %}
{% endif %}

<h2 id="s4">{{ sections[3] }}</h2>
{% for name, caption, url in figures %}
<figure><h3>{{ name }}</h3><img src="{{ url }}" alt="{{ caption }}"><figcaption>{{ caption }}</figcaption></figure>
{% endfor %}

<h2 id="s5">{{ sections[4] }}</h2>
<p>{{ n_claims }} numbers and statements of the paper, each looked up in this run. Nothing in the column "this run" is
typed in: it is computed, read from the run's settings, or a citation.</p>
<ul class="counts">{% for status, count in counts %}<li><b>{{ count }}</b> {{ status }}</li>{% endfor %}</ul>
{% macro claims(rows) %}
<table class="wide">
<thead><tr><th scope="col">Where</th><th scope="col">Claim</th><th scope="col">Paper</th><th scope="col">This run</th>
<th scope="col">Status</th><th scope="col">Note</th></tr></thead>
<tbody>
{% for row in rows %}
<tr><td data-label="Where"><span>{{ row.source }}
{% if row.get("notebook") %}<small class="soft place"><span>notebook {{ row.notebook[:2] }}{{ "," if row.get("cell") }}
</span> <span>{{ "cell " ~ row.cell if row.get("cell") }}</span></small>{% endif %}</span></td>
<td data-label="Claim"><span>{{ row.claim }}</span></td>
<td data-label="Paper"><span>{{ row.paper_value | cell }}</span></td>
<td data-label="This run"><span>{{ row.value | cell }}{{ " (cited)" if row.evidence_kind == "cited" }}</span></td>
<td data-label="Status" class="status"><span>{{ row.status }}</span></td>
<td data-label="Note"><span>{{ row.note | cell }}</span></td></tr>
{% endfor %}
</tbody>
</table>
{% endmacro %}
<h3>Contradicted</h3>
{{ claims(contradicted) }}
<details><summary>All {{ n_claims }} claims</summary>{{ claims(ledger) }}</details>

<h2 id="s6">{{ sections[5] }}</h2>
<p class="soft">Solid boxes: the truth of this data. Dashed boxes: the detector. Sentences are held against what the
detector and the classifier found, not against the truth: {{ marks.supported }} supported, {{ marks.contradicted }}
contradicted (underlined twice), {{ marks.unsupported }} left open, or given a side, without support (dotted); a
sentence without a sign says nothing about the findings of the film.</p>
{% for case, url in cases %}
<section class="case">
<div><h3>{{ case.title }}</h3><img src="{{ url }}" alt="{{ case.alternative }}">
<table><thead><tr><th scope="col">Finding</th><th scope="col">Probability</th><th scope="col">Said</th>
<th scope="col">True</th></tr></thead><tbody>
{% for name, probability, threshold, there in case.probabilities %}
<tr><td>{{ name }}</td><td>{{ "%.2f" | format(probability) }} (from {{ "%.2f" | format(threshold) }})</td>
<td>{{ "yes" if probability >= threshold else "no" }}</td><td>{{ "yes" if there else "no" }}</td></tr>
{% endfor %}
</tbody></table></div>
<div>
{% for heading, text in case.texts %}
<h4>{{ heading }}</h4>
{% if text is string %}
<blockquote class="plain">{{ text }}</blockquote>
{% else %}
<blockquote>
{%- for sentence, status in text %}
{% if status in marks %}<b title="{{ status }}" aria-label="{{ status }}">{{ marks[status] }}</b> {% endif %}
<span class="{{ status }}">{{ sentence }}</span>{{ " " }}
{%- endfor %}
</blockquote>
{% endif %}
{% endfor %}
</div>
</section>
{% endfor %}

<h2 id="s7">{{ sections[6] }}</h2>
<dl>{% for name, value in facts.items() %}<dt>{{ name }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
<p class="notice">{{ disclaimer }}</p>
</main>
</body>
</html>
"""
