"""Overlay, one page per film, and the page that lists them. Pages need no network and no script; text is escaped."""

import base64
import io
from collections.abc import Mapping, Sequence
from urllib.parse import quote

import numpy as np
from PIL import Image

from cliniqure_utils.vocabulary import BOX

NOTICE = "For teaching, not for clinical use."
SIMULATED = "The models were trained on simulated films: what they say about a real patient means nothing."
STATUS_WORDS = {
    "supported": ("✓", "agrees with the classifier or the detector"),
    "contradicted": ("✗", "contradicts the classifier and the detector"),
    "unsupported": ("?", "leaves open what neither shows, or tells a side that neither shows"),
    "neutral": ("·", "says nothing about this film's findings"),
}
OVERLAY_INCHES = 5.12  # longest side: text keeps its share of the film whatever its size in pixels
THUMBNAIL = 120  # pixels


def draw_overlay(film: np.ndarray, report: Mapping) -> np.ndarray:
    """The film with its boxes and the notice on it.

    Args:
        film: uint8 (height, width), a smaller copy of the file's picture.
        report: From `reports.build_report`; its boxes are in pixels of the file.

    Returns:
        uint8 (height, width, 3): pixel for pixel the film, boxes dashed and labelled.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from cliniqure_utils.figures.style import draw_boxes, show_film

    height, width = film.shape
    dpi = max(width, height) / OVERLAY_INCHES
    figure = Figure(figsize=((width + 0.01) / dpi, (height + 0.01) / dpi), dpi=dpi)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    show_film(axes, film)
    axes.axis("off")
    boxes = scaled_boxes(report, film.shape)
    draw_boxes(axes, boxes, [f"{box['class_name']} {box['score']:.2f}" for box in report["boxes"]], "predicted")
    axes.text(
        0.01, 0.01, NOTICE, transform=axes.transAxes, color="white", fontsize=9, va="bottom",
        bbox={"facecolor": "black", "alpha": 0.7, "pad": 1.5, "edgecolor": "none"},
    )  # fmt: skip
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    return np.ascontiguousarray(pixels[:height, :width])


def scaled_boxes(report: Mapping, shape: Sequence[int]) -> np.ndarray:
    """The report's boxes (n, 4) in the pixels of a copy of the film with this (height, width)."""
    corners = np.array([[box[name] for name in BOX] for box in report["boxes"]], dtype=float).reshape(-1, 4)
    return corners * (np.array([shape[1], shape[0]] * 2) / ([report["film"]["columns"], report["film"]["rows"]] * 2))


def png_bytes(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def film_page(report: Mapping, overlay: bytes, files: Mapping[str, str]) -> str:
    """One film's page.

    Args:
        report: From `reports.build_report`.
        overlay: PNG.
        files: What else was written: words -> file name beside the page.
    """
    boxes = [f"{box['class_name']}, {_place(box)}" for box in report["boxes"]]
    return _render(
        _FILM,
        report=report,
        overlay="data:image/png;base64," + base64.b64encode(overlay).decode("ascii"),
        alternative="Chest film. " + ("Detected: " + "; ".join(boxes) + "." if boxes else "Nothing was detected."),
        files={words: quote(name) for words, name in files.items()},
        status_words=STATUS_WORDS,
        place=_place,
    )


def index_page(
    rows: Sequence[Mapping], rejected: Sequence[Mapping], run: str, with_llm: bool, from_simulation: bool
) -> str:
    """The page that lists the films of one call.

    Args:
        rows: image_id, source, page, findings (names), thumbnail (`thumbnail`'s result).
        rejected: source and reason.
        run: Name of the run whose models were used.
        with_llm: Whether a language model wrote.
        from_simulation: Whether the models were trained on simulated films.
    """
    rows = [{**row, "page": quote(row["page"])} for row in rows]
    return _render(_INDEX, rows=rows, rejected=rejected, run=run, with_llm=with_llm, from_simulation=from_simulation)


def thumbnail(overlay: np.ndarray) -> str:
    """A small picture as a data URL, so that the list of many films stays light."""
    image = Image.fromarray(overlay)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=70)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _place(box: Mapping) -> str:
    return box["place"] if box["place"] == "midline" else f"in the {box['place']}"


def _render(template: str, **values) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_HEAD + template + _FOOT).render(notice=NOTICE, simulated=SIMULATED, **values)


_HEAD = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="referrer" content="no-referrer">
<title>{{ "Chest film " ~ report.image_id if report is defined else "Chest films" }}</title>
<style>
:root { --ink: #1a1a1a; --soft: #555; --line: #c9c9c9; --tint: #f4f6f8; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 1rem; color: var(--ink); background: #fff;
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.5rem; margin: .2rem 0; line-height: 1.2; overflow-wrap: anywhere; }
p { overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 1.4rem 0 .4rem; border-bottom: 2px solid var(--ink); padding-bottom: .15rem; }
.notice { border: 2px solid var(--ink); padding: .4rem .8rem; font-weight: 600; display: inline-block;
  margin: .5rem 0; }
.soft { color: var(--soft); font-size: .9rem; }
.film { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 1.6rem; align-items: start; }
img { max-width: 100%; height: auto; display: block; }
blockquote { margin: 0 0 .6rem; padding: .1rem 0 .1rem .8rem; border-left: 4px solid var(--line);
  overflow-wrap: anywhere; white-space: pre-line; }
ul.checked { list-style: none; padding: 0; margin: 0; }
ul.checked li { padding: .25rem 0 .25rem 1.6rem; text-indent: -1.6rem; overflow-wrap: anywhere; }
ul.checked b { display: inline-block; width: 1.6rem; text-indent: 0; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .5rem; border-bottom: 1px solid var(--line);
  overflow-wrap: break-word; }
td.name { min-width: 9rem; max-width: 24rem; }
td.film-picture { width: 8.5rem; }
th { background: var(--tint); }
td.said { font-weight: 600; }
dl { display: grid; grid-template-columns: minmax(7rem, 12rem) 1fr; gap: .2rem 1rem; font-size: .92rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 720px) { .film { grid-template-columns: minmax(0, 1fr); } dl { grid-template-columns: 1fr; } }
@media print { body { font-size: 10.5pt; max-width: none; } tr, li, img { break-inside: avoid; } }
</style>
</head>
<body>
"""

_FILM = """\
<p><a href="index.html">All films</a></p>
<h1>{{ report.image_id }}</h1>
<p class="notice">{{ notice }}</p>
{% if report.made_by.simulated %}<p>{{ simulated }}</p>{% endif %}
<div class="film">
<div>
<img src="{{ overlay }}" alt="{{ alternative }}">
<p class="soft">Dashed: what the detector found, with its score. The patient's left is on the right.</p>
<h2>Probabilities</h2>
<table><thead><tr><th scope="col">Finding</th><th scope="col">Probability</th><th scope="col">Said from</th>
<th scope="col">Said</th></tr></thead><tbody>
{% for finding in report.findings | sort(attribute="probability", reverse=true) %}
<tr><td>{{ finding.name }}</td><td>{{ "%.2f" | format(finding.probability) }}</td>
<td>{{ "%.2f" | format(finding.threshold) }}</td><td class="said">{{ "yes" if finding.present else "no" }}</td></tr>
{% endfor %}
</tbody></table>
</div>
<div>
<h2>Facts: what the models found</h2>
<blockquote>{{ report.report.facts }}</blockquote>
{% if report.report.system != "template" %}
<h2>Prose: what the language model wrote, sentence by sentence</h2>
<ul class="checked">
{% for entry in report.report.checked %}
<li><b aria-hidden="true">{{ status_words[entry.status][0] }}</b>{{ entry.sentence }}
<span class="soft">({{ status_words[entry.status][1] }})</span></li>
{% else %}
<li class="soft">(nothing)</li>
{% endfor %}
</ul>
<p class="soft">A sentence that agrees with the models can still be wrong about the patient.</p>
{% endif %}
<h2>From the table of causes, tests and treatments</h2>
{% for entry in report.report.recommendations %}
<p><b>{{ entry.finding }}.</b> {{ entry.diagnostic_methods }} {{ entry.treatment_options }}
<b>Watch for:</b> {{ entry.red_flags }} <span class="soft">({{ entry.source }}, read {{ entry.source_date }})</span></p>
{% else %}
<p class="soft">No row with a source for these findings.</p>
{% endfor %}
<h2>Crude report of the image-to-text model</h2>
<blockquote>{{ report.crude_report or "(empty)" }}</blockquote>
<h2>About this film</h2>
<dl>
<dt>File</dt><dd>{{ report.source }}, {{ report.film.columns }} x {{ report.film.rows }} pixels</dd>
<dt>View</dt><dd>{{ report.film.view or "not said in the file; taken as a frontal chest film" }}</dd>
<dt>Age and sex</dt><dd>{{ "%.0f years" | format(report.film.age_years) if report.film.age_years is not none
  else "age not given" }}, {{ {"F": "female", "M": "male"}.get(report.film.sex, "sex not given") }}</dd>
<dt>Symptoms</dt><dd>{{ report.symptoms or "none given" }}</dd>
{% for note in report.film.notes %}<dt>Note</dt><dd>{{ note }}</dd>{% endfor %}
<dt>Models of</dt><dd>run {{ report.made_by.run }}{{ ", profile " ~ report.made_by.profile if report.made_by.profile }}
{{ ", language model " ~ report.made_by.language_model if report.made_by.language_model }}</dd>
{% for words, name in files.items() %}<dt>{{ words }}</dt><dd><a href="{{ name }}">{{ name }}</a></dd>{% endfor %}
</dl>
</div>
</div>
"""

_INDEX = """\
<h1>{{ rows | length }} chest film{{ "s" if rows | length != 1 }}</h1>
<p class="notice">{{ notice }}</p>
<p class="soft">Models of run {{ run }}. {{ "A language model wrote prose; each sentence is checked on the film's page."
  if with_llm else "Facts only, no language model." }}</p>
{% if from_simulation %}<p>{{ simulated }}</p>{% endif %}
{% if rows %}
<table><thead><tr><th scope="col">Film</th><th scope="col">Name</th><th scope="col">Said by the models</th></tr></thead>
<tbody>
{% for row in rows %}
<tr><td class="film-picture"><a href="{{ row.page }}">
<img src="{{ row.thumbnail }}" alt="Film {{ row.image_id }} with its boxes"></a></td>
<td class="name"><a href="{{ row.page }}">{{ row.image_id }}</a><br><span class="soft">{{ row.source }}</span></td>
<td>{{ row.findings | join(", ") or "no finding" }}</td></tr>
{% endfor %}
</tbody></table>
{% endif %}
{% if rejected %}
<h2>{{ rejected | length }} not read</h2>
<table><thead><tr><th scope="col">File</th><th scope="col">Why</th></tr></thead><tbody>
{% for row in rejected %}<tr><td>{{ row.source }}</td><td>{{ row.reason }}</td></tr>{% endfor %}
</tbody></table>
{% endif %}
"""

_FOOT = """\
<p class="notice">{{ notice }}</p>
</body>
</html>
"""
