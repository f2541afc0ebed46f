"""The writers whose reports notebook 06 stores, and which of them writes the report that people read."""

from collections.abc import Container, Iterable, Mapping, Sequence

# base: the untouched language model; seq_cls: with the paper's symptom-to-disease adapter; causal_lm: with the adapter
# that notebook 05 trains to write; causal_lm_pretrained: with the committed one, trained for longer; template: facts
# alone, no language model.
SYSTEMS = ("base", "seq_cls", "causal_lm", "causal_lm_pretrained", "template")
FEWER_FILMS = frozenset({"seq_cls"})  # asked for some of the films only; the others are asked for all


def report_system(wanted: str | None, available: Container[str]) -> str:
    """Whose report people read: `wanted`, or where that is None the pretrained writer, else the run's own.

    A run on another base model has no pretrained writer.
    """
    return wanted or ("causal_lm_pretrained" if "causal_lm_pretrained" in available else "causal_lm")


def texts_by_system(rows: Iterable[Mapping], films: Sequence[str], kind: str = "text") -> dict[str, dict[str, str]]:
    """The reports of each system, counted: none is lost, none is there twice.

    Args:
        rows: Of reports.jsonl.
        films: The films that prompts.jsonl asks about.
        kind: "text", as the system wrote it, or "verified", after the check.

    Returns:
        System -> {film: text}, systems in the order of `SYSTEMS`, films in the order of `films`. A system of
        `FEWER_FILMS` may lack films, the others have all of them; a system without any report is left out.

    Raises:
        ValueError: A row lacks that kind of text, a film has two reports of one system, or none of a system that was
            asked for all, or a report is of a film or a system that nobody asked.
    """
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        system, film = row["system"], row["image_id"]
        texts = found.setdefault(system, {})
        if not isinstance(row.get(kind), str):
            raise ValueError(f"reports.jsonl: the report of {system} on film {film} has no text under {kind!r}")
        if film in texts:
            raise ValueError(f"reports.jsonl: {system} has two reports on film {film}; expected one")
        texts[film] = row[kind]
    for system, texts in found.items():
        if system not in SYSTEMS:
            raise ValueError(f"reports.jsonl: unknown system {system!r}; expected {', '.join(SYSTEMS)}")
        strangers = texts.keys() - set(films)
        if strangers:
            raise ValueError(f"reports.jsonl: {system} wrote on film {min(strangers)}, for which there is no prompt")
        missing = [film for film in films if film not in texts]
        if missing and system not in FEWER_FILMS:
            raise ValueError(
                f"reports.jsonl: {system} wrote {len(texts)} reports for {len(films)} prompts, none for {missing[0]}"
            )
    return {s: {film: found[s][film] for film in films if film in found[s]} for s in SYSTEMS if s in found}
