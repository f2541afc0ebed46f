"""What the pages of one film and of a run's test films share: impression, findings, bars, texts, notes.

Jinja macros, imported as "parts" by a template; STYLE goes into the style block of its page.
"""

STYLE = """\
.tag { border: 2px solid var(--alarm); color: var(--alarm); font-size: .78rem; font-weight: 700; letter-spacing: .04em;
  padding: 0 .35rem; text-transform: uppercase; white-space: nowrap; }
.impression, .findings, .checked { list-style: none; padding: 0; margin: 0; }
.impression li { padding: .15rem 0; }
.impression li.urgent { border-left: 6px solid var(--alarm); padding: .25rem 0 .25rem .6rem; font-weight: 600; }
.findings li { display: grid; grid-template-columns: 2.6rem minmax(0, 1fr); padding: .4rem 0;
  border-bottom: 1px solid var(--line); }
.findings p { margin: 0; }
.box { display: inline-block; min-width: 1.35rem; padding: 0 .25rem; margin: 0 .15rem .15rem 0; text-align: center;
  font-size: .82rem; line-height: 1.35rem; font-weight: 700; color: #fff; background: #000;
  border: 1px solid #56b4e9; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.picture { margin: 0; }
.picture svg { display: block; width: 100%; height: auto; background: #000; }
.picture .found { fill: none; stroke: #56b4e9; stroke-width: 2px; stroke-dasharray: 7 4; }
.picture .true { fill: none; stroke: #f0e442; stroke-width: 2px; }
.picture rect { vector-effect: non-scaling-stroke; }
.picture text { fill: #fff; font-weight: 700; text-anchor: middle; dominant-baseline: central; }
.picture .sign { fill: #000; stroke: #56b4e9; stroke-width: 1px; }
.picture .true-sign { fill: #000; stroke: #f0e442; stroke-width: 1px; }
.bars th, .bars td { padding: .2rem .4rem; vertical-align: middle; }
.bars tbody th { background: none; font-weight: 400; overflow-wrap: normal; width: 30%; }
.bars tr.said th, .bars tr.said td { font-weight: 600; }
.bars td.bar-cell { width: 40%; }
.bar { position: relative; height: .8rem; border: 1px solid var(--soft); background: #fff; }
.bar span { display: block; height: 100%; background: #8aa9bd; }
.bar.said span { background: #1f5f8b; }
.bar i { position: absolute; top: -.25rem; bottom: -.25rem; width: 0; border-left: 2px solid var(--ink); }
.bar span, .bar i { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.bars .number { white-space: nowrap; }
@media (max-width: 480px) {
  .bars { font-size: .8rem; table-layout: fixed; } .bars th, .bars td { padding: .2rem; }
  .bars tbody th { width: 29%; } .bars th:nth-child(3) { width: 26%; } .bars th:nth-child(n + 4) { width: 12%; }
  .bars td.bar-cell { width: auto; }
}
.explained dl { margin: .2rem 0 .8rem; }
summary { cursor: pointer; font-weight: 600; padding: .45rem 0; }
details { border-bottom: 1px solid var(--line); }
details .plain, blockquote.plain { white-space: pre-line; }
.checked li { padding: .2rem 0 .2rem 1.6rem; text-indent: -1.6rem; }
.checked b { display: inline-block; width: 1.6rem; text-indent: 0; }
.checked .contradicted { text-decoration: underline double; text-underline-offset: 3px; }
.checked .unsupported { text-decoration: underline dotted 2px; text-underline-offset: 3px; }
@media (min-width: 900px) { .notes { columns: 2; column-gap: 2.5rem; } }
.notes li { break-inside: avoid; font-size: .9rem; overflow-wrap: anywhere; }
@media print {
  details::details-content { content-visibility: visible; block-size: auto; }
  summary { list-style: none; }
}
"""

PARTS = """\
{% macro film(picture, alternative) %}
{% macro sign(kind, text, x, y) %}
<rect class="{{ kind }}" x="{{ x }}" y="{{ y }}" width="{{ picture.sign }}" height="{{ picture.sign }}"/>
<text x="{{ x + 0.5 * picture.sign }}" y="{{ y + 0.53 * picture.sign }}" font-size="{{ 0.8 * picture.sign }}">
{{- text }}</text>
{% endmacro %}
<svg viewBox="0 0 {{ picture.width }} {{ picture.height }}" role="img" aria-label="{{ alternative }}">
<image href="{{ picture.url }}" width="{{ picture.width }}" height="{{ picture.height }}" preserveAspectRatio="none"/>
{% for letter, _, box in picture.truth %}
<rect class="true" x="{{ box[0] }}" y="{{ box[1] }}" width="{{ box[2] - box[0] }}" height="{{ box[3] - box[1] }}"/>
{{ sign("true-sign", letter, box[2] - picture.sign, box[3] - picture.sign) }}
{% endfor %}
{% for _, box, _ in picture.boxes %}
<rect class="found" x="{{ box[0] }}" y="{{ box[1] }}" width="{{ box[2] - box[0] }}" height="{{ box[3] - box[1] }}"/>
{% endfor %}
{% for number, _, place in picture.boxes %}{{ sign("sign", number, place[0], place[1]) }}{% endfor %}
</svg>
{% endmacro %}

{% macro impression(lines) %}
<ul class="impression">
{% for line in lines %}
{% if line.startswith("Urgent: ") %}
<li class="urgent"><span class="tag">Urgent</span> {{ line[8:9] | upper }}{{ line[9:] }}</li>
{% else %}
<li>{{ line }}</li>
{% endif %}
{% endfor %}
</ul>
{% endmacro %}

{% macro findings(reading) %}
<ul class="findings">
{% for entry in reading %}
<li>
<div>{% for box in entry.boxes %}<b class="box"><span class="unseen">box </span>{{ box.number }}</b>{% endfor %}</div>
<div><p>{{ entry.sentence }}{% if entry.urgent %} <span class="tag">Urgent</span>{% endif %}</p>
<p class="soft">{{ "Probability %.2f" | format(entry.probability) if entry.probability is not none
  else "Below the classifier's threshold" }}
{%- if entry.boxes %}; score of the {{ "boxes" if entry.boxes | length > 1 else "box" }}
{% for box in entry.boxes %}{{ "%.2f" | format(box.score) }}{{ ", " if not loop.last }}{% endfor %}{% endif %}</p></div>
</li>
{% else %}
<li><div></div><p>None.</p></li>
{% endfor %}
</ul>
{% endmacro %}

{% macro bars(rows, truth=false) %}
<table class="bars"><thead><tr><th scope="col">Finding</th><th scope="col">Probability</th>
<th scope="col">(said from)</th><th scope="col">Said</th>
{% if truth %}<th scope="col">True</th>{% endif %}</tr></thead><tbody>
{% for row in rows %}
<tr{{ ' class="said"' | safe if row.said }}><th scope="row">{{ row.name }}</th>
<td class="bar-cell"><div class="bar{{ " said" if row.said }}" aria-hidden="true">
<span style="width: {{ "%.1f" | format(100 * row.probability) }}%"></span>
{% if row.threshold <= 1 %}<i style="left: {{ "%.1f" | format(100 * row.threshold) }}%"></i>{% endif %}</div></td>
<td class="number">{{ "%.2f" | format(row.probability) }} ({{ "%.2f" | format(row.threshold) }})</td>
<td>{{ "yes" if row.said else "no" }}{{ " (box)" if row.detected and not row.present }}</td>
{% if truth %}<td>{{ "yes" if row.true else "no" }}</td>{% endif %}</tr>
{% endfor %}
</tbody></table>
{% endmacro %}

{% macro explained(reading, rows, notes) %}
{% for entry in reading %}
{% set row = rows.get(entry.name) %}
<details class="explained"><summary>{{ entry.name }}
{%- if entry.urgent %} <span class="tag">Urgent</span>{% endif %}</summary>
{% if row %}
<dl>
{% for words, text in row.fields.items() %}<dt>{{ words }}</dt><dd>{{ text }}</dd>{% endfor %}
<dt>Sources</dt><dd>{% for source in row.sources %}
<a href="#note{{ notes[source].number }}">[{{ notes[source].number }}]</a> {% endfor %}</dd>
</dl>
{% else %}
<p class="soft">No page about this finding was read.</p>
{% endif %}
</details>
{% endfor %}
{% endmacro %}

{% macro sources(notes) %}
<ol class="notes">
{% for source, note in notes.items() %}
<li id="note{{ note.number }}" value="{{ note.number }}">{% if source.startswith(("https://", "http://")) %}
<a href="{{ source }}" rel="noopener noreferrer">{{ source }}</a>{% else %}{{ source }}{% endif %}, read {{ note.read }}
</li>
{% endfor %}
</ol>
{% endmacro %}

{% macro sentences(entries, marks, origins, words=none) %}
<ul class="checked">
{% for entry in entries %}
{% set origin = origins[entry.origin] if entry.origin is defined else "" %}
{% set behind = [words[entry.status] if words else "", origin] | select | join("; ") %}
<li><b title="{{ entry.status }}" aria-label="{{ entry.status }}">{{ marks[entry.status] }}</b>
{#- no blank: it would move the first line against the others -#}
<span class="{{ entry.status }}">{{ entry.sentence }}</span>
{% if behind %}<span class="soft">({{ behind }})</span>{% endif %}</li>
{% else %}
<li class="soft">(nothing)</li>
{% endfor %}
</ul>
{% endmacro %}

{% macro text_or_sentences(text, marks, origins) %}
{% if text is string %}<blockquote class="plain">{{ text or "(empty)" }}</blockquote>
{% else %}{{ sentences(text, marks, origins) }}{% endif %}
{% endmacro %}

{% macro folded(heading, text) %}
<details><summary>{{ heading }}</summary><blockquote class="plain">{{ text or "(empty)" }}</blockquote></details>
{% endmacro %}
"""
