"""Pages: what a file name, a header or a model wrote stays text."""

import json

from cliniqure_utils.predict import pages
from cliniqure_utils.vocabulary import DISCLAIMER


def test_text_cannot_become_part_of_a_page(predicted):
    for page in predicted[1].glob("*.html"):
        text = page.read_text()
        assert text.count(DISCLAIMER) == 2 and "<script" not in text and "<img src=x" not in text
        assert "default-src 'none'" in text and "simulated films" in text
    index = (predicted[1] / "index.html").read_text()
    assert "%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E_report.html" in index
    assert "&lt;img src=x onerror=alert(1)&gt;" in index and "a lateral view" in index


def test_a_hostile_model_text_is_escaped_on_the_page(predicted):
    report = json.loads((predicted[1] / "one_report.json").read_text())
    evil = "</blockquote><script>alert(1)</script>"
    report["crude_report"] = report["report"]["facts"] = evil
    report["report"]["checked"] = [{"sentence": evil, "status": "neutral"}]
    page = pages.film_page(report, b"", {})
    assert "<script" not in page and page.count("&lt;script&gt;") == 3
