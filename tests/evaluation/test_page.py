"""report.html: self-contained, escaped, complete."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from cliniqure_utils.evaluation.page import SECTIONS, Case, render_report
from cliniqure_utils.figures.evaluate import plot_ledger
from cliniqure_utils.reports import KNOWLEDGE
from cliniqure_utils.vocabulary import DISCLAIMER

THRESHOLDS = {"Nodule/Mass": 0.4, "Cardiomegaly": 0.5, "No finding": 0.5}
SAID = {"A nodule.": "supported", "<b>A lie.</b>": "contradicted", "Maybe.": "unsupported", "So.": "neutral"}
MARKED = [{"sentence": sentence, "status": status, "problems": []} for sentence, status in SAID.items()]
ATTACK = '<script>alert("x")</script><img src="http://evil.example/a.png" onerror="alert(1)">'


class Page(HTMLParser):
    """Tags with attributes, headings, text, and whether every opened tag is closed."""

    VOID = {"meta", "img", "br", "hr", "link", "input"}

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.headings, self.text = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        self.text.append(data)
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


@pytest.fixture(scope="module")
def html():
    row = dict.fromkeys(KNOWLEDGE, "general talk") | {
        "finding": "Nodule/Mass",
        "source": "https://a.example/n ; " + ATTACK,
    }
    case = Case(
        title="test film 1",
        film=np.full((40, 40), 90, np.uint8),
        size=(80, 80),
        truth=[('Other "lesion"', (40.0, 40.0, 60.0, 70.0))],
        probabilities=[("Nodule/Mass", 0.731, 0.4, True), ("Cardiomegaly", 0.1, 0.5, False)],
        findings=[
            {"name": "Cardiomegaly", "probability": None,
             "boxes": [{"score": 0.9, "side": None, "zone": None, "box": [10.0, 20.0, 50.0, 60.0]}]},
            {"name": "Nodule/Mass", "probability": 0.731,
             "boxes": [{"score": 0.7, "side": "right", "zone": "upper", "box": [5.0, 5.0, 30.0, 30.0]}]},
        ],
        recommendations=[row | {"source_date": "2026-01-01"}],
        texts=[("Reference report", "The heart is < 50% of the chest."), ("Final report", ATTACK), ("Marked", MARKED)],
        folded=[("Prompt", ATTACK), ("Verified", [MARKED[0] | {"origin": "facts"}])],
    )  # fmt: skip
    ledger = pd.DataFrame(
        {
            "source": ["Table 7", "4.1", "Table 6"],
            "claim": ["Detection IoU", ATTACK, "LoRA rank"],
            "paper_value": ["0.75", "", "8"],
            "value": ["0.71", "a source", "8"],
            "status": ["not reproducible here", "contradicted", "reproduced"],
            "evidence_kind": ["computed", "cited", "setting"],
            "note": ["", ATTACK, ""],
            "notebook": ["07_evaluate", "04_crude_report", "05_finetune_llm"],
            "cell": ["07-23", "", "05-01"],
        }
    )
    return render_report(
        title="A run & its numbers",
        headline=["One sentence.", ATTACK],
        table7=pd.DataFrame({"Metric": ["IoU", "Dice"], "Paper": [0.75, 0.76], "This run": [0.71239, np.nan]}),
        figures=[("Ledger", "Claims by status.", plot_ledger(pd.Series({"reproduced": 3, "undefined": 1})))],
        ledger=ledger,
        cases=[case],
        facts={"Seed": 2024, "Data": ATTACK},
        thresholds=THRESHOLDS,
        stress=pd.DataFrame({"metric": ["BLEU-4", ATTACK], "verdict": "fluency only", "notices": "", "misses": "side"}),
        stress_figure=plot_ledger(pd.Series({"reproduced": 1})),
    )


def test_every_section_and_the_disclaimer_are_there(html):
    page = Page(html)
    assert page.headings == list(SECTIONS)
    assert page.open == [], "a tag is left open"
    assert "".join(page.text).count(DISCLAIMER) == 2
    targets = {a["id"] for _, a in page.tags if "id" in a}
    links = [a["href"] for tag, a in page.tags if tag == "a"]
    inside = {link.lstrip("#") for link in links if link.startswith("#")}
    assert len(inside) == len(SECTIONS) + 2 and inside <= targets, "two notes"
    assert [link for link in links if not link.startswith("#")] == ["https://a.example/n"]


def test_the_page_needs_nothing_from_outside(html):
    page = Page(html)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base"), tag
        for name in ("src", "srcset", "action", "data", "poster", *(("href",) if tag != "a" else ())):
            assert re.match(r"data:image/png;base64,|#", attributes.get(name, "#")), (tag, attributes.get(name)[:60])
        assert not [name for name in attributes if name.startswith("on")], "a script hides in an attribute"
    style = "".join(re.findall(r"<style>(.*?)</style>", html, flags=re.DOTALL))
    assert "url(" not in style and "@import" not in style
    policy = next(
        a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy


def test_planted_markup_is_text(html):
    page = Page(html)
    images = [a for tag, a in page.tags if tag == "img"]
    assert len(images) == 2, "the planted image became one"
    assert "<script" not in html
    assert "".join(page.text).count(ATTACK) == 10, "headline, claim, note (twice each), fact, texts, metric, source"
    assert 'Truth: Other &#34;lesion&#34;."' in html
    assert "A run &amp; its numbers" in html and "The heart is &lt; 50%" in html


def test_a_transcribed_claim_is_listed_and_not_counted(html):
    counted = re.findall(r"<li><b>(\d+)</b> ([^<]+)</li>", html)
    assert counted == [("1", "not reproducible here"), ("1", "contradicted")]
    text = " ".join("".join(Page(html).text).split())
    assert "3 numbers and statements of the paper" in text and "The 1 that are cells" in text and "LoRA rank" in text


def test_pictures_are_png_and_described(html):
    for tag, attributes in Page(html).tags:
        if tag == "img":
            png = base64.b64decode(attributes["src"].split(",")[1], validate=True)
            assert png.startswith(b"\x89PNG") and attributes["alt"]


def test_numbers_statuses_and_gaps_are_shown(html):
    text = " ".join("".join(Page(html).text).split())
    assert "0.712" in text and "0.71239" not in text
    assert not re.search(r"\bnan\b", text.lower()), "a missing number is a dash"
    assert "1 not reproducible here" in text and "1 contradicted" in text and "reproduced on simulated" not in text
    assert "a source (cited)" in text
    assert "0.73 (0.40)" in text


def test_sentences_are_marked_by_a_sign_and_a_line(html):
    page = Page(html)
    text = " ".join("".join(page.text).split())
    assert "✓A nodule. ✗<b>A lie.</b> ?Maybe. ·So." in text and "✓A nodule. (put here from the facts)" in text
    classes = [a.get("class") for tag, a in page.tags if tag == "span"]
    assert [c for c in classes if c in ("supported", "contradicted", "unsupported", "neutral")] == [
        "supported", "contradicted", "unsupported", "neutral", "supported",
    ]  # fmt: skip
    style = re.search(r"<style>(.*?)</style>", html, flags=re.DOTALL)[1]
    assert ".contradicted { text-decoration: underline double" in style
    wrong = [{"sentence": "a sentence", "status": "wrong"}]
    case = Case("film", np.zeros((9, 9), np.uint8), (9, 9), [], [], [], [], [], folded=[("x", wrong)])
    with pytest.raises(ValueError, match="film: unknown status 'wrong'"):
        render(cases=[case])


def test_a_case_is_read_as_the_report_of_one_film_is(html):
    """Urgent first, by the reader's order; boxes numbered alike on the film and in the text; sources as notes."""
    text = " ".join("".join(Page(html).text).split())
    order = [
        "test film 1", "Impression", "Urgent Probable nodule or mass in the right upper zone.",
        "Possible: cardiomegaly.", "box 1 Probable nodule or mass",
        "box 2 Possible cardiomegaly, seen by the detector alone.", "Reference report",
        "A Other", "0.10 (0.50) yes (box) no", "general talk", "Prompt", "Notes", "read 2026-01-01",
    ]  # fmt: skip
    start = text.index("Test cases Each as a reader")
    at = [text.index(words, start) for words in order]
    assert at == sorted(at)
    assert re.findall(r'class="found" x="([\d.]+)"', html) == ["5.0", "10.0"]
    assert 'aria-label="Chest film. Detector: 1, Nodule/Mass; 2, Cardiomegaly. Truth' in html


def test_claims_say_where_their_evidence_is(html):
    text = " ".join("".join(Page(html).text).split())
    assert "Table 7 notebook 07, cell 07-23" in text
    assert text.count("notebook 04") == 2 and "notebook 04," not in text, "a claim without a cell names its notebook"


def test_the_stress_panel_is_shown_or_said_to_be_missing(html):
    text = " ".join("".join(Page(html).text).split())
    assert "BLEU-4 fluency only – side" in text
    without = " ".join("".join(Page(render()).text).split())
    assert "What the text metrics notice Not run." in without and "fluency only" not in without


def render(cases=()):
    """A page with nothing on it but what is asked for."""
    return render_report(
        title="", headline=[], table7=pd.DataFrame({"Metric": ["IoU"]}), figures=[], cases=cases, facts={},
        thresholds={},
        ledger=pd.DataFrame(columns=["source", "claim", "paper_value", "value", "status", "evidence_kind", "note"]),
    )  # fmt: skip


def test_narrow_tables_carry_their_labels(html):
    labels = {a.get("data-label") for tag, a in Page(html).tags if tag == "td"}
    assert {"Metric", "Paper", "This run", "Claim", "Status"} <= labels
