"""What a page says of its run comes from run.json alone, about the notebook that writes it."""

import json

from cliniqure_utils.record import said_of_the_run


def test_a_page_says_what_made_it_and_when(tmp_path):
    entry = {
        "program": "cliniqure 0.1.0",
        "commit": "ab12-dirty",
        "profile": "demo",
        "start": "2026-12-01T01:42:10+00:00",
    }
    record = {"started": "2026-12-02T00:00:00+00:00", "notebooks": {"07_evaluate": entry, "06_generate_report": {}}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    said = "cliniqure 0.1.0, commit ab12-dirty, profile demo, started 2026-12-01T01:42:10+00:00"
    assert said_of_the_run(tmp_path, "07_evaluate") == said
    entry["commit"] = None  # outside a repository
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert said_of_the_run(tmp_path, "07_evaluate") == said.replace("commit ab12-dirty, ", "")


def test_a_notebook_run_by_hand_has_no_record(tmp_path):
    by_hand = "not known: the notebook was not run by `cliniqure run`"
    assert said_of_the_run(tmp_path, "07_evaluate") == by_hand
    for text in ('{"notebooks": {}}', "{", '{"notebooks": []}'):
        (tmp_path / "run.json").write_text(text)
        assert said_of_the_run(tmp_path, "07_evaluate") == by_hand
