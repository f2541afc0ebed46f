"""Pages: what matters first, sources numbered, and whatever a file name, a header or a model wrote stays text."""

import html
import json
import re

import pytest

from cliniqure_utils.predict import pages
from cliniqure_utils.predict.writing import NOTEBOOKS
from cliniqure_utils.reports import KNOWLEDGE, load_knowledge, recommendations
from cliniqure_utils.reports.reading import impression, reading_order
from cliniqure_utils.vocabulary import BOX, DISCLAIMER, FINDINGS

KNOWN = load_knowledge(NOTEBOOKS.parent / "data" / "knowledge.csv")


def test_text_cannot_become_part_of_a_page(predicted):
    for page in predicted[1].glob("*.html"):
        text = page.read_text()
        assert text.count(DISCLAIMER) == 2 and "<script" not in text and "<img src=x" not in text
        assert "default-src 'none'" in text and "simulated films" in text
    index = (predicted[1] / "index.html").read_text()
    assert "%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E_report.html" in index
    assert "&lt;img src=x onerror=alert(1)&gt;" in index and "a lateral view" in index


def test_a_hostile_text_is_escaped_on_the_page(report):
    evil = "</blockquote><script>alert(1)</script>"
    report["crude_report"] = report["impression"][0] = report["reading"][0]["sentence"] = evil
    report["report"]["checked"] = [{"sentence": evil, "status": "neutral"}]
    report["report"]["recommendations"] = [
        dict.fromkeys(KNOWLEDGE, evil) | {"finding": "Pneumothorax", "source": evil, "source_date": evil},
        dict.fromkeys(KNOWLEDGE, "x") | {"finding": "ILD", "source": "javascript:alert(1)", "source_date": ""},
    ]
    page = pages.film_page(report, b"", {})
    assert "<script" not in page and page.count("&lt;script&gt;") == 4 + 5 + 2
    assert 'href="javascript' not in page


@pytest.fixture
def report(predicted):
    """A report with a pneumothorax of the detector alone below a surer ILD, and a large effusion."""
    report = json.loads((predicted[1] / "one_report.json").read_text())
    thresholds = {entry["name"]: entry["threshold"] for entry in report["findings"]}  # 0.4, all of them
    zone = {"side": "left", "zone": "upper"}
    report["reading"] = reading_order(
        [
            {"name": "ILD", "probability": 0.99, "boxes": [zone | {"score": 0.5, "box": [1, 1, 9, 9]}]},
            {"name": "Calcification", "probability": 0.42, "boxes": []},
            {"name": "Pleural effusion", "probability": 0.8, "boxes": [zone | {"score": 0.9, "box": [5, 30, 9, 110]}]},
            {"name": "Pneumothorax", "probability": None, "boxes": [zone | {"score": 0.4, "box": [9, 9, 50, 50]}]},
        ],
        thresholds,
        120,
    )
    report["impression"] = impression(report["reading"])
    report["boxes"] = [
        {
            "class_name": entry["name"],
            "score": box["score"],
            "place": box["place"],
            **dict(zip(BOX, box["box"], strict=True)),
        }
        for entry in report["reading"]
        for box in entry["boxes"]
    ]
    report["report"]["recommendations"] = recommendations(FINDINGS, KNOWN)
    return report


def words_of(page: str) -> str:
    """A page's text without tags, in one line."""
    body = re.sub(r"<style>.*?</style>|<title>.*?</title>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def test_a_reader_meets_impression_and_findings_first_and_the_urgent_ones_on_top(report):
    text = words_of(pages.film_page(report, b"", {}))
    order = [
        "Impression", "Urgent Possible pneumothorax in the left upper zone, seen by the detector alone.",
        "Urgent Probable pleural effusion", "Very probable: interstitial lung disease (left).",
        "Possible: calcification.", "Findings", "box 1 Possible pneumothorax", "box 2 Probable pleural effusion",
        "box 3 Very probable interstitial", "Possible calcification, without a box. Probability 0.42",
        "Probabilities, calibrated", "About these findings", "What the language model wrote", "Notes",
    ]  # fmt: skip
    at = [text.index(words) for words in order]
    assert at == sorted(at), [order[n] for n in range(1, len(at)) if at[n] < at[n - 1]]
    assert "(probability" not in text


def test_every_text_of_the_table_names_notes_that_are_there(report):
    page = pages.film_page(report, b"", {})
    parts = re.findall(r'<details class="explained">(.*?)</details>', page, flags=re.DOTALL)
    notes = re.findall(r'<li id="note(\d+)" value="\1">\s*(?:<a href="([^"]*)")?', page)
    assert [words_of(part).split()[0] for part in parts] == ["Pneumothorax", "Pleural", "ILD", "Calcification"]
    for part in parts:
        assert re.findall(r'href="#note(\d+)"', part), "a text without a source"
        assert set(re.findall(r'href="#note(\d+)"', part)) <= {number for number, _ in notes}
    assert [int(number) for number, _ in notes] == list(range(1, len(notes) + 1))
    for name in ("Pneumothorax", "ILD"):
        expected = {html.escape(source) for source in KNOWN.source[name].split(" ; ")}
        assert expected <= {source for _, source in notes}


def test_the_text_after_the_check_stands_before_the_text_as_written(report):
    told = report["report"]
    told["verified"] = [{"sentence": "Kept.", "status": "supported", "origin": "second try"}]
    told["set_aside"] = [{"sentence": "Wrong.", "why": "against the evidence"}]
    text = words_of(pages.film_page(report, b"", {}))
    at = [text.index(words) for words in ("Kept. (agrees with", "; second try)", "As written, before the check",
                                          "Wrong. (against the evidence)", "Prompt")]  # fmt: skip
    assert at == sorted(at) and told["prompt"].split("\n")[0] in text


def test_what_no_source_says_is_not_shown(report):
    row = next(row for row in report["report"]["recommendations"] if row["finding"] == "Pneumothorax")
    row["treatment_options"] = ""
    page = pages.film_page(report, b"", {})
    part = re.search(r'<details class="explained">(.*?)</details>', page, flags=re.DOTALL)[1]
    assert "<dt>Causes</dt>" in part and "<dt>Treatment</dt>" not in part
    report["report"]["recommendations"] = []
    page = words_of(pages.film_page(report, b"", {}))
    assert page.count("No page about this finding was read.") == 4 and "Notes" not in page


def test_bars_end_at_the_probability_and_are_marked_at_the_threshold(report):
    for entry in report["findings"]:
        entry.update(probability=0.25, threshold=0.625)
    report["findings"][0]["threshold"] = 1.1
    page = pages.film_page(report, b"", {})
    assert page.count('style="width: 25.0%"') == 15 and page.count('style="left: 62.5%"') == 14
    assert "0.25 (0.62)" in page and "0.25 (1.10)" in page


def test_boxes_are_numbered_on_the_film_as_in_the_findings(report):
    page = pages.film_page(report, b"", {})
    picture = re.search(r"<svg.*?</svg>", page, flags=re.DOTALL)[0]
    assert "Boxes: 1, Pneumothorax, in the left upper zone; 2, Pleural effusion" in picture
    assert re.findall(r">\s*(\d+)</text>", picture) == ["1", "2", "3"]
    corners = re.findall(r'class="found" x="(\d+)" y="(\d+)" width="(\d+)" height="(\d+)"', picture)
    assert corners[0] == ("9", "9", "41", "41") and 'viewBox="0 0 90 120"' in picture


def test_a_page_loads_nothing(report):
    page = pages.film_page(report, b"\x89PNG", {"The same as data": "a.json"})
    assert not re.search(r"<(script|link|iframe|object|embed|base|form)\b", page)
    for tag, address in re.findall(r'<(\w+)[^>]*? (?:src|href)="([^"]*)"', page):
        assert tag == "a" or address.startswith("data:image/png"), (tag, address[:60])
    assert "url(" not in page and "@import" not in page
