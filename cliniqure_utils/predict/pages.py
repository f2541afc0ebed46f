"""One page per film, and the page that lists them."""

from collections.abc import Mapping, Sequence

from cliniqure_utils.pages import data_url, render
from cliniqure_utils.pages.templates import FILM, FILMS
from cliniqure_utils.predict.writing import RunSettings
from cliniqure_utils.reports import MARKS

STATUS_WORDS = {
    "supported": "agrees with the classifier or the detector",
    "contradicted": "contradicts the classifier and the detector",
    "unsupported": "leaves open what neither shows, or tells a side that neither shows",
    "neutral": "says nothing about this film's findings",
}


def film_page(report: Mapping, overlay: bytes, files: Mapping[str, str]) -> str:
    """One film's page.

    Args:
        report: From `writing.build_report`.
        overlay: PNG.
        files: What else was written: words -> file name beside the page.
    """
    boxes = [f"{box['class_name']}, {_place(box)}" for box in report["boxes"]]
    profile = report["made_by"]["profile"]
    return render(
        FILM,
        f"Chest film {report['image_id']}",
        report=report,
        overlay=data_url(overlay),
        alternative="Chest film. " + ("Detected: " + "; ".join(boxes) + "." if boxes else "Nothing was detected."),
        files=files,
        marks=MARKS,
        status_words=STATUS_WORDS,
        profile=" and ".join(profile) if isinstance(profile, list) else profile,
    )


def index_page(rows: Sequence[Mapping], rejected: Sequence[Mapping], settings: RunSettings, with_llm: bool) -> str:
    """The page that lists the films of one call.

    Args:
        rows: image_id, source, page, findings (names), warning (a sentence, or empty), thumbnail (data URL).
        rejected: source and reason.
        settings: Of the run whose models were used.
        with_llm: Whether a language model wrote.
    """
    title = "1 chest film" if len(rows) == 1 else f"{len(rows)} chest films"
    return render(
        FILMS,
        title,
        rows=rows,
        rejected=rejected,
        run=settings.name,
        with_llm=with_llm,
        learnt_from=settings.learnt_from,
    )


def _place(box: Mapping) -> str:
    return box["place"] if box["place"] == "midline" else f"in the {box['place']}"
