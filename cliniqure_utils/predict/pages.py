"""One page per film, and the page that lists them."""

from collections.abc import Mapping, Sequence

from cliniqure_utils.pages import data_url, render
from cliniqure_utils.pages.templates import FILM, FILMS
from cliniqure_utils.predict.writing import RunSettings
from cliniqure_utils.reports import MARKS, age_in_words

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
    return render(
        FILM,
        f"Chest film {report['image_id']}",
        report=report,
        overlay=data_url(overlay),
        alternative="Chest film. " + ("Detected: " + "; ".join(boxes) + "." if boxes else "Nothing was detected."),
        files=files,
        marks=MARKS,
        status_words=STATUS_WORDS,
        age=age_in_words(report["film"]["age_years"]) or "age not given",
        origin=_origin(report["made_by"]),
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
        origin=_origin(settings.made_by(with_prose=with_llm)),
        with_llm=with_llm,
        learnt_from=settings.learnt_from,
    )


def _origin(made_by: Mapping) -> dict[str, str]:
    """What made a report, in words."""
    profile = made_by["profile"]
    profile = " and ".join(profile) if isinstance(profile, list) else profile
    started = f", begun {made_by['run_started']}" if made_by["run_started"] else ""
    model = made_by["language_model"]
    return {
        "Made": f"{made_by['made']} by {made_by['program']}, commit {made_by['commit'] or 'not known'}",
        "Models of": f"run {made_by['run']}{started}{f', profile {profile}' if profile else ''}"
        f"{f', language model {model}' if model else ''}",
        "Weights (SHA-256)": ", ".join(f"{name} {digest[:12]}" for name, digest in made_by["weights"].items()),
    }


def _place(box: Mapping) -> str:
    return box["place"] if box["place"] == "midline" else f"in the {box['place']}"
