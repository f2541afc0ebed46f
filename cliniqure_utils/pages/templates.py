"""The HTML of every page: one base with head, style, disclaimer and foot, and what each page adds to it.

Jinja templates. A page is a text that extends "base", whose blocks are: style (rules of this page alone), above (before
the heading), head (below the disclaimer) and content.
"""

BASE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="referrer" content="no-referrer">
<title>{{ title }}</title>
<style>
:root { --ink: #1a1a1a; --soft: #555; --line: #c9c9c9; --paper: #fff; --tint: #f4f6f8;
  --alarm: #9b1c1c; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 1rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.6rem; margin: .2rem 0; line-height: 1.2; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; border-bottom: 2px solid var(--ink); padding-bottom: .2rem; }
h1, h2, h3, h4, p, li, figcaption, blockquote, dd { overflow-wrap: anywhere; }
p, li { max-width: 46rem; }
.notice { border: 2px solid var(--ink); padding: .5rem .8rem; font-weight: 600; display: inline-block;
  margin: .6rem 0; }
.soft { color: var(--soft); font-size: .9rem; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .5rem; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; }
th { background: var(--tint); overflow-wrap: normal; }
img { max-width: 100%; height: auto; display: block; }
blockquote { margin: 0 0 .7rem; padding: .1rem 0 .1rem .8rem; border-left: 4px solid var(--line); }
dl { display: grid; grid-template-columns: minmax(7rem, 14rem) minmax(0, 1fr); gap: .2rem 1rem; font-size: .92rem; }
dt { color: var(--soft); }
dd { margin: 0; }
@media (max-width: 720px) { dl { grid-template-columns: minmax(0, 1fr); } dd { margin-bottom: .4rem; } }
@media print {
  body { font-size: 10.5pt; max-width: none; padding: 0; }
  h2 { break-after: avoid; }
  figure, tr, li, img { break-inside: avoid; }
  dl { grid-template-columns: 3.5cm minmax(0, 1fr); }
}
{% block style %}{% endblock %}
</style>
</head>
<body>
<header>
{% block above %}{% endblock %}
<h1>{{ title }}</h1>
<p class="notice">{{ disclaimer }}</p>
{% block head %}{% endblock %}
</header>
<main>
{% block content %}{% endblock %}
<p class="notice">{{ disclaimer }}</p>
</main>
</body>
</html>
"""

# report.html of notebook 07: what the paper claims and what a run measured.
RUN = """\
{% extends "base" %}
{% import "parts" as parts %}
{% block style %}
{% include "style" %}
h3 { font-size: 1.02rem; margin: 0 0 .4rem; }
nav a { display: inline-block; margin-right: 1rem; padding: .25rem 0; color: inherit; }
td.status { font-weight: 600; white-space: nowrap; }
td span.number { white-space: nowrap; }
.place { display: block; } .place span { white-space: nowrap; }
.counts { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .6rem; }
.counts li { border: 1px solid var(--ink); padding: .4rem .8rem; }
.counts b { font-size: 1.3rem; display: block; line-height: 1.1; }
figure { margin: .8rem 0 1.6rem; }
figcaption { font-size: .9rem; color: var(--soft); max-width: 46rem; }
.case { padding: 1.2rem 0; border-top: 2px solid var(--line); }
.case h4 { margin: 1rem 0 .3rem; font-size: .95rem; }
.case h4:first-child { margin-top: 0; }
.beside { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); column-gap: 1.8rem; align-items: start; }
@media (max-width: 720px) {
  .beside { grid-template-columns: minmax(0, 1fr); row-gap: 1rem; }
  table.wide thead { position: absolute; left: -9999px; }
  table.wide tr { display: block; border-bottom: 2px solid var(--ink); padding: .4rem 0; }
  table.wide td { display: grid; grid-template-columns: 7.5rem minmax(0, 1fr); gap: .5rem; border: 0; padding: .12rem 0;
    white-space: normal; }
  table.wide td::before { content: attr(data-label); color: var(--soft); font-weight: 400; }
}
@media print {
  nav { display: none; }
}
{% endblock %}
{% block head %}
<nav>{% for name in sections %}<a href="#s{{ loop.index }}">{{ name }}</a>{% endfor %}</nav>
{% endblock %}
{% block content %}
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
typed in: it is computed, read from the run's settings, or a citation. The {{ n_transcribed }} that are cells of a table
or settings, and only transcribed, are listed but not counted here.</p>
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
<p class="soft">Each as a reader would get it, beside what is true. Sentences are held against what the detector and the
classifier found, not against the truth: {{ marks.supported }} supported, {{ marks.contradicted }} contradicted
(underlined twice), {{ marks.unsupported }} left open, or given a side, without support (dotted)
{%- if marks.general is defined %}, {{ marks.general }} not about this film{% endif %}, {{ marks.neutral }} without a
finding. Probabilities are calibrated. {{ legend }}</p>
{% for case in cases %}
<section class="case" aria-label="{{ case.title }}">
<h3>{{ case.title }}</h3>
<div class="beside">
<div>
<h4>Impression</h4>
{{ parts.impression(case.impression) }}
<h4>Findings</h4>
{{ parts.findings(case.reading) }}
{% for heading, text in case.texts %}
<h4>{{ heading }}</h4>
{{ parts.text_or_sentences(text, marks, origins) }}
{% endfor %}
</div>
<div>
<figure class="picture">
{{ parts.film(case.picture, case.alternative) }}
<figcaption>Dashed: the detector, numbered as in the findings.
{% if case.picture.truth %}Solid: the truth of this data:
{% for letter, name, _ in case.picture.truth %}{{ letter }} {{ name }}{{ ", " if not loop.last else "." }}
{% endfor %}{% else %}In truth there is no box.{% endif %}</figcaption>
</figure>
{{ parts.bars(case.bars, truth=true) }}
</div>
</div>
<h4>About the findings, in general</h4>
{{ parts.explained(case.reading, texts, notes) }}
<h4>Other texts</h4>
{% for heading, text in case.folded %}
<details><summary>{{ heading }}</summary>{{ parts.text_or_sentences(text, marks, origins) }}</details>
{% endfor %}
</section>
{% endfor %}

<h2 id="s7">{{ sections[6] }}</h2>
<p class="soft">Where the texts about causes, symptoms, tests and treatment come from.</p>
{{ parts.sources(notes) }}

<h2 id="s8">{{ sections[7] }}</h2>
<dl>{% for name, value in facts.items() %}<dt>{{ name }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
{% endblock %}
"""

# `cliniqure predict`: one film.
FILM = """\
{% extends "base" %}
{% import "parts" as parts %}
{% block style %}
{% include "style" %}
h2 { font-size: 1.15rem; margin: 1.6rem 0 .5rem; }
.film, .beside { display: grid; column-gap: 1.8rem; align-items: start; }
.film { grid-template-columns: minmax(0, 9fr) minmax(0, 11fr); }
.film h2:first-child { margin-top: .2rem; }
.beside { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); }
@media (max-width: 720px) { .film, .beside { grid-template-columns: minmax(0, 1fr); row-gap: 1rem; } }
@media print {
  .film, .beside { display: block; }
  .picture { max-width: 10cm; margin: .5cm 0; }
  .back { display: none; }
}
{% endblock %}
{% block above %}
<p class="back"><a href="index.html">All films</a></p>
{% endblock %}
{% block head %}
{% if report.film.warning %}<p class="notice">{{ report.film.warning }}</p>{% endif %}
{% endblock %}
{% block content %}
<div class="film">
<div>
<h2>Impression</h2>
{{ parts.impression(report.impression) }}
<h2>Findings</h2>
{{ parts.findings(report.reading) }}
{% if report.made_by.learnt_from %}<p class="soft">{{ report.made_by.learnt_from }}</p>{% endif %}
</div>
<div>
<figure class="picture">
{{ parts.film(picture, alternative) }}
<figcaption class="soft">Dashed: what the detector found, numbered as in the findings. The patient's left is on the
right.</figcaption>
</figure>
<h2>{{ "Probabilities of " ~ report.made_by.eyes if report.made_by.eyes else "Probabilities, calibrated" }}</h2>
{{ parts.bars(report.findings | sort(attribute="probability", reverse=true)) }}
<p class="soft">A finding is said whose probability reaches its mark, or that the detector alone has boxed ("box"); "No
finding" is said where there is none. {{ legend }}</p>
</div>
</div>

<h2>About {{ "this finding" if report.reading | length == 1 else "these findings" }}</h2>
<p class="soft">In general, not about this patient: from a table whose text was written from the pages in the notes.</p>
{{ parts.explained(report.reading, texts, notes) }}

{% if report.report.system != "template" %}
<h2>What the language model wrote</h2>
<div class="beside">
<div>
{{ parts.sentences(report.report.verified, marks, origins, status_words) }}
<p class="soft">Held against the facts: a sentence that they contradict got another try, or gave way to a sentence of
facts. One that agrees with the models can still be wrong about the patient.</p>
</div>
<div>
<details><summary>As written, before the check</summary>
{{ parts.sentences(report.report.checked, marks, origins, status_words) }}</details>
{% if report.report.set_aside %}
<details><summary>Not kept, and why</summary>
<ul>{% for entry in report.report.set_aside %}<li>{{ entry.sentence }} <span class="soft">({{ entry.why }})</span></li>
{% endfor %}</ul></details>
{% endif %}
{{ parts.folded("Crude report of the image-to-text model", report.crude_report) }}
{{ parts.folded("Prompt", report.report.prompt) }}
</div>
</div>
{% else %}
{{ parts.folded("Crude report of the image-to-text model", report.crude_report) }}
{% endif %}

{% if notes %}
<h2>Notes</h2>
{{ parts.sources(notes) }}
{% endif %}

<h2>About this film</h2>
<dl>
<dt>File</dt><dd>{{ report.source }}, {{ report.film.columns }} x {{ report.film.rows }} pixels</dd>
<dt>View</dt><dd>{{ report.film.view or "not said in the file; taken as a frontal chest film" }}</dd>
<dt>Age and sex</dt><dd>{{ age }}, {{ {"F": "female", "M": "male"}.get(report.film.sex, "sex not given") }}</dd>
<dt>Symptoms</dt><dd>{{ report.symptoms or "none given" }}</dd>
{% for note in report.film.notes %}<dt>Note</dt><dd>{{ note }}</dd>{% endfor %}
{% for words, value in origin.items() %}<dt>{{ words }}</dt><dd>{{ value }}</dd>{% endfor %}
{% for words, name in files.items() %}<dt>{{ words }}</dt>
<dd><a href="{{ name | urlencode }}">{{ name }}</a></dd>{% endfor %}
</dl>
{% endblock %}
"""

# `cliniqure predict`: all films of one call.
FILMS = """\
{% extends "base" %}
{% block style %}
th, td { overflow-wrap: break-word; }
td.name { min-width: 9rem; max-width: 24rem; }
td.film-picture { width: 8.5rem; }
@media (max-width: 720px) {
  th, td { overflow-wrap: anywhere; }
  td.name { min-width: 0; } td.film-picture { width: 5.5rem; }
}
{% endblock %}
{% block head %}
{% if learnt_from %}<p>{{ learnt_from }}</p>{% endif %}
{% endblock %}
{% block content %}
<p class="soft">{{ "A language model wrote prose; each sentence is checked on the film's page."
  if with_llm else "Facts only, no language model." }}</p>
{% if rows %}
<table><thead><tr><th scope="col">Film</th><th scope="col">Name</th><th scope="col">Said by the models</th></tr></thead>
<tbody>
{% for row in rows %}
<tr><td class="film-picture"><a href="{{ row.page | urlencode }}">
<img src="{{ row.thumbnail }}" alt="Film {{ row.image_id }} with its boxes"></a></td>
<td class="name"><a href="{{ row.page | urlencode }}">{{ row.image_id }}</a><br>
<span class="soft">{{ row.source }}</span></td>
<td>{% if row.urgent %}<b>Urgent.</b> {% endif %}{{ row.findings | join(", ") or "no finding" }}
{%- if row.warning %}<br><b>{{ row.warning }}</b>{% endif %}</td></tr>
{% endfor %}
</tbody></table>
{% endif %}
{% if rejected %}
<h2>{{ rejected | length }} not read</h2>
<table><thead><tr><th scope="col">File</th><th scope="col">Why</th></tr></thead><tbody>
{% for row in rejected %}<tr><td>{{ row.source }}</td><td>{{ row.reason }}</td></tr>{% endfor %}
</tbody></table>
{% endif %}
<h2>What made these reports</h2>
<dl>{% for words, value in origin.items() %}<dt>{{ words }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
{% endblock %}
"""
