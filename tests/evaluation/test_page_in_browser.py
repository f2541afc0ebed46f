"""report.html in a real browser: no console message, nothing wider than the window, everything on paper."""

import json
import re
import shutil
import subprocess
import time
import urllib.request

import numpy as np
import pandas as pd
import pytest

from cliniqure_utils.evaluation import stress
from cliniqure_utils.evaluation.page import Case, render_report
from cliniqure_utils.figures.evaluate import plot_ledger, plot_stress
from cliniqure_utils.reports import KNOWLEDGE

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LONG = "Pneumonoultramicroscopicsilicovolcanoconiosis" * 3  # a word wider than a telephone

pytestmark = pytest.mark.timeout(120)


class Browser:
    """Chromium without a window, spoken to over its debugging socket."""

    def __init__(self, profile):
        command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                   "--no-first-run", "--disable-background-networking", "--remote-debugging-port=0",
                   "--remote-allow-origins=*", f"--user-data-dir={profile}", "about:blank"]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port_file = profile / "DevToolsActivePort"
        for _ in range(300):
            if port_file.is_file() and port_file.read_text().strip():
                break
            time.sleep(0.1)
        else:
            raise RuntimeError("Chromium did not start within 30 seconds")
        import websocket

        port = port_file.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
            page = next(tab for tab in json.load(answer) if tab["type"] == "page")
        self.socket = websocket.create_connection(page["webSocketDebuggerUrl"], timeout=60)
        self.number, self.messages, self.requests = 0, [], []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.socket.recv())
            self._note(answer)
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    def _note(self, event):
        if event.get("method") in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            self.messages.append(event["params"])
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(event["params"]["request"]["url"])

    def open(self, path, width, height=900):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url=path.as_uri())
        for _ in range(200):
            if self.value("document.readyState + location.protocol") == "completefile:":
                return
            time.sleep(0.05)
        raise RuntimeError("the page did not load")

    def value(self, expression):
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def close(self):
        self.socket.close()
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    pytest.importorskip("websocket", reason="websocket-client, which comes with JupyterLab, is not installed")
    found = Browser(tmp_path_factory.mktemp("chromium"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    scores = pd.DataFrame(
        [
            {"report": 0, "source": "real", "kind": kind, "harmless": kind in stress.HARMLESS, "bleu_4": n / 10}
            for n, kind in enumerate(stress.KINDS)
        ]
    )
    order = stress.order_table(scores, n_resamples=10)
    ledger = pd.DataFrame(
        [
            {
                "source": "Table 7", "claim": f"Claim {n} {LONG if n == 1 else ''}", "paper_value": "0.75",
                "value": "0.71; " * 5, "status": status, "evidence_kind": "computed", "note": "word " * 20,
                "notebook": "07_evaluate", "cell": "07-23",
            }
            for n, status in enumerate(("not reproducible here", "contradicted", "reproduced on simulated data"))
        ]
    )  # fmt: skip
    row = dict.fromkeys(KNOWLEDGE, LONG) | {
        "finding": "Nodule/Mass",
        "source": "https://" + LONG,
        "source_date": "2026",
    }
    case = Case(
        title="test film 1",
        film=np.full((40, 40), 90, np.uint8),
        size=(40, 40),
        truth=[("Nodule/Mass", (5.0, 5.0, 30.0, 30.0))],
        probabilities=[("Nodule/Mass", 0.731, 0.4, True), ("Aortic enlargement", 0.1, 0.4, False)],
        findings=[{"name": "Nodule/Mass", "probability": 0.731,
                   "boxes": [{"score": 0.7, "side": "left", "zone": "mid", "box": [5.0, 5.0, 30.0, 30.0]}]},
                  {"name": "Aortic enlargement", "probability": None,
                   "boxes": [{"score": 0.7, "side": None, "zone": None, "box": [5.0, 5.0, 39.0, 39.0]}]}],
        recommendations=[row],
        texts=[
            ("Reference report", LONG),
            ("Final report", [{"sentence": "A nodule.", "status": "supported"},
                              {"sentence": LONG, "status": "contradicted"}]),
        ],
        folded=[("Prompt", LONG * 4)],
    )  # fmt: skip
    table7 = pd.DataFrame(
        {"Metric": ["IoU"], "Paper": [0.75], "This run": [0.7], "95% interval": ["0.650 to 0.750"],
         "Trivial baselines": ["mean box 0.772; whole image has no match"], "Reader against reader": ["0.68 to 0.70"],
         "How far comparable": ["words " * 20 + LONG]}
    )  # fmt: skip
    html = render_report(
        title="A run", headline=["One sentence.", LONG], table7=table7,
        figures=[("Ledger", "Claims.", plot_ledger(pd.Series({"reproduced": 3})))],
        ledger=ledger, cases=[case], facts={"Seed": 2024, "Folder": LONG},
        stress=stress.verdicts(order), stress_figure=plot_stress(order, stress.verdicts(order)),
        thresholds={"Nodule/Mass": 0.4, "Aortic enlargement": 0.4},
    )  # fmt: skip
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html, encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_its_window_and_says_nothing_on_the_console(browser, page, width):
    browser.messages.clear()
    browser.requests.clear()
    browser.open(page, width)
    browser.value("document.querySelectorAll('details').forEach(folded => folded.open = true)")
    assert browser.value("window.innerWidth") == width
    wide = browser.value(
        "JSON.stringify([...document.querySelectorAll('body *:not(.unseen)')].filter("
        "e => e.getBoundingClientRect().right > window.innerWidth + 1 "
        "&& e.getBoundingClientRect().width > 0).map(e => e.tagName + '.' + e.className))"
    )
    assert json.loads(wide) == [], "these reach beyond the window"
    assert browser.value("document.documentElement.scrollWidth") <= width
    loaded = "[...document.images].every(i => i.complete && i.naturalWidth > 0) && document.images.length"
    assert browser.value(loaded) == 2
    assert browser.messages == []
    outside = [url for url in browser.requests if not url.startswith(("file://", "data:"))]
    assert outside == [], "the page must need nothing from a network"


def test_small_print_is_readable_on_a_telephone(browser, page):
    browser.open(page, 390)
    sizes = browser.value(
        "JSON.stringify([...new Set([...document.querySelectorAll('p,li,td,dd,blockquote,figcaption')]"
        ".map(e => parseFloat(getComputedStyle(e).fontSize)))])"
    )
    assert min(json.loads(sizes)) >= 12


def test_what_is_folded_is_printed_although_they_are_folded_on_the_screen(browser, page):
    browser.open(page, 1280)
    visible = (
        "[...document.querySelectorAll('details tbody, details dl, details blockquote')].map(e => e.checkVisibility())"
    )
    assert browser.value(visible) == [False] * 3
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.value(visible) == [True] * 3
    assert browser.value("getComputedStyle(document.querySelector('nav')).display") == "none"
    browser.call("Emulation.setEmulatedMedia", media="")
    pdf = browser.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)["data"]
    assert len(pdf) > 20_000


def test_sentences_are_marked_without_colour(browser, page):
    browser.open(page, 1280)
    browser.call("Emulation.setEmulatedVisionDeficiency", type="achromatopsia")
    lines = browser.value("getComputedStyle(document.querySelector('span.contradicted')).textDecorationLine")
    assert "underline" in lines
    text = browser.value("document.querySelector('.case').innerText")
    assert re.search(r"✓\s*A nodule\.", text) and "✗" in text
    browser.call("Emulation.setEmulatedVisionDeficiency", type="none")
