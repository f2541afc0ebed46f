"""Reference reports: what is read, and what is refused with its line."""

import json

from cliniqure_utils.annotations import read_reports


def report(image_id, findings="Clear lungs.", **other):
    texts = {"findings": findings, "impression": "", "text": findings}
    return json.dumps({"image_id": image_id, **texts, **other}, ensure_ascii=False)


def test_a_report_without_a_word_and_lines_that_are_no_report_are_refused_with_their_number(tmp_path):
    lines = [
        report("good", "Clear\u2028lungs."), report(7), report("empty", ""), "", report("blank", " .\n"),
        report("null", findings=None, text="Clear."), report("half", text=" "), "{", "[1]", report(""), report(True),
        report("good", "Cardiomegaly."),
    ]  # fmt: skip
    (tmp_path / "reports.jsonl").write_text("\n".join(lines), encoding="utf-8")
    reports, rejected = read_reports(tmp_path / "reports.jsonl")
    assert {name: found["findings"] for name, found in reports.items()} == {
        "good": "Clear\u2028lungs.",
        "7": "Clear lungs.",
    }
    assert reports["7"]["image_id"] == "7"
    no_object = "expected a JSON object with an image_id"
    assert list(rejected.itertuples(index=False, name=None)) == [
        (3, "empty", "the report is empty: findings holds no word"),
        (4, "blank", "the report is empty: findings holds no word"),
        (5, "null", "findings is not a text"),
        (6, "half", "the report is empty: text holds no word"),
        (7, "", "no JSON"),
        (8, "", no_object),
        (9, "", no_object),
        (10, "", no_object),
        (11, "good", "a second report of this film"),
    ]
