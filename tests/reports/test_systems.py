"""Which writer counts, and that no report is lost on the way to its score."""

import pytest

from cliniqure_utils.reports import report_system, texts_by_system

FILMS = ["f2", "f1"]


def rows(**written):
    return [
        {"system": system, "image_id": film, "text": f"{system} {film}", "verified": f"checked {system} {film}"}
        for system, films in written.items()
        for film in films
    ]


def test_the_pretrained_writer_counts_where_the_run_has_it():
    assert report_system(None, ["base", "causal_lm"]) == "causal_lm"
    assert report_system(None, ["base", "causal_lm", "causal_lm_pretrained"]) == "causal_lm_pretrained"
    assert report_system("base", ["base", "causal_lm", "causal_lm_pretrained"]) == "base"


def test_as_many_texts_as_films_in_their_order():
    given = rows(template=["f1", "f2"], seq_cls=["f1"], base=["f1", "f2"])
    texts = texts_by_system(given, FILMS)
    assert list(texts) == ["base", "seq_cls", "template"]
    assert list(texts["base"].items()) == [("f2", "base f2"), ("f1", "base f1")]
    assert texts["seq_cls"] == {"f1": "seq_cls f1"}
    assert texts_by_system(given, FILMS, "verified")["seq_cls"] == {"f1": "checked seq_cls f1"}


def test_a_lost_doubled_or_strange_report_is_named():
    with pytest.raises(ValueError, match="causal_lm wrote 1 reports for 2 prompts, none for f2"):
        texts_by_system(rows(base=FILMS, causal_lm=["f1"]), FILMS)
    with pytest.raises(ValueError, match="base has two reports on film f1; expected one"):
        texts_by_system(rows(base=["f1", "f2", "f1"]), FILMS)
    with pytest.raises(ValueError, match="seq_cls wrote on film f3, for which there is no prompt"):
        texts_by_system(rows(seq_cls=["f3"]), FILMS)
    with pytest.raises(ValueError, match="unknown system 'gpt'"):
        texts_by_system(rows(gpt=FILMS), FILMS)
    old = [{"system": "base", "image_id": "f1", "text": "as of an earlier version"}]
    with pytest.raises(ValueError, match="the report of base on film f1 has no text under 'verified'"):
        texts_by_system(old, ["f1"], "verified")
