"""One page per film, and the page that lists them."""

from collections.abc import Mapping, Sequence

from cliniqure_utils.pages import film_with_boxes, render
from cliniqure_utils.pages.templates import FILM, FILMS
from cliniqure_utils.predict.writing import RunSettings
from cliniqure_utils.reports import MARKS, age_in_words
from cliniqure_utils.reports.reading import CERTAINTY_IN_WORDS, ORIGIN_WORDS, STATUS_WORDS, explained
from cliniqure_utils.vocabulary import BOX


def film_page(report: Mapping, film: bytes, files: Mapping[str, str]) -> str:
    """One film's page.

    Args:
        report: From `writing.build_report`.
        film: PNG, without boxes, of any size.
        files: What else was written: words -> file name beside the page.
    """
    boxes = [f"{n}, {box['class_name']}, {_place(box)}" for n, box in enumerate(report["boxes"], start=1)]
    corners = [[box[edge] for edge in BOX] for box in report["boxes"]]
    rows = {row["finding"]: row for row in report["report"]["recommendations"]}
    texts, notes = explained([rows[entry["name"]] for entry in report["reading"] if entry["name"] in rows])
    return render(
        FILM,
        f"Chest film {report['image_id']}",
        report=report,
        picture=film_with_boxes(film, (report["film"]["columns"], report["film"]["rows"]), corners),
        alternative="Chest film. " + ("Boxes: " + "; ".join(boxes) + "." if boxes else "Nothing was detected."),
        texts=texts,
        notes=notes,
        legend=CERTAINTY_IN_WORDS,
        files=files,
        marks=MARKS,
        status_words=STATUS_WORDS,
        origins=ORIGIN_WORDS,
        age=age_in_words(report["film"]["age_years"]) or "age not given",
        origin=_origin(report["made_by"]),
    )


def index_page(rows: Sequence[Mapping], rejected: Sequence[Mapping], settings: RunSettings, with_llm: bool) -> str:
    """The page that lists the films of one call.

    Args:
        rows: image_id, source, page, findings (names), urgent, warning (a sentence, or empty), thumbnail (data URL).
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
