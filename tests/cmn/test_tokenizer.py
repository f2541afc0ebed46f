"""Cleaning, numbering and reading of vocabularies, by rules worked out by hand."""

import json

import pytest
import torch

from cliniqure_utils import cmn
from cliniqure_utils.cmn.tokenizer import clean

CLEANED = [  # raw, MIMIC cleaner, IU cleaner where it differs; worked out by hand from the rules
    ("Heart normal. Lungs clear.", "heart normal . lungs clear .", None),
    ("A 2.5 cm nodule", "a 25 cm nodule .", None),
    ("11. Large heart", "1large heart .", None),
    ("Heart 2. Aorta 3. Clear 6. End", "heart . aorta . clear 6 . end .", None),
    ("1. Heart. 2. Aorta.", "heart . aorta .", None),
    ("left-sided; (a) <b> = [c] @ {d}?", "left-sided a b  c  d .", None),
    ("# $ ~ | stay", "# $ ~ | stay .", None),
    ("A/B \\ \"C\" 'd'", "ab  c d .", None),
    ("two\nlines", "two lines .", "two\nlines ."),
    ("wide   gap", "wide gap .", "wide   gap ."),
    ("Stop. . Again", "stop .  . again .", None),
    ("Ends... here", "ends . here .", None),
    ("", " .", None),
]


@pytest.mark.parametrize("raw, mimic, iu", CLEANED)
def test_cleaners_keep_their_oddities(raw, mimic, iu):
    assert clean(raw, "mimic_cxr") == mimic
    assert clean(raw, "iu_xray") == (mimic if iu is None else iu)


def test_a_run_of_dots_shrinks_by_a_limited_number_of_passes():
    # IU: three passes halve the run: 9 -> 5 -> 3 -> 2 dots; the two left are no ". ", so they are deleted in place.
    assert clean("a" + "." * 9 + " b", "iu_xray") == "a . b ."
    assert clean("a" + "." * 16 + " b", "iu_xray") == "a . b ."
    assert clean("_" * 200, "mimic_cxr") == " ."


def test_ids_count_words_in_code_point_order_and_zero_is_everything_else():
    tokenizer = cmn.Tokenizer.from_reports(["The heart. The aorta.", "Heart -b. Aorta"], "mimic_cxr", threshold=2)
    assert tokenizer.words == (".", "<unk>", "aorta", "heart", "the")
    assert tokenizer.n_outputs == 6 and len(tokenizer) == 5
    assert tokenizer.encode("The big heart.") == [0, 5, 2, 4, 1, 0]
    assert tokenizer.encode("The big heart.", max_length=3) == [0, 5, 2]
    assert tokenizer.decode([5, 4, 0, 3]) == "the heart"
    assert tokenizer.decode(torch.tensor([0, 5])) == ""


def test_thresholds_follow_the_data_set():
    reports = ["often."] * 9 + ["often. rare."] * 3
    assert "rare" in cmn.Tokenizer.from_reports(reports, "iu_xray").words
    assert cmn.Tokenizer.from_reports(reports, "mimic_cxr").words == (".", "<unk>", "often")


def test_vocabulary_files(tmp_path, vocabulary):
    annotation = tmp_path / "annotation.json"
    annotation.write_text(json.dumps({"train": [{"report": "Heart."}], "val": [{"report": "Lung."}], "test": []}))
    tokenizer = cmn.Tokenizer.from_file(annotation, "mimic_cxr", 1)
    assert tokenizer.words == (".", "<unk>", "heart"), "only training reports count"
    tokenizer.save(tmp_path / "vocabulary.json")
    again = cmn.Tokenizer.from_file(tmp_path / "vocabulary.json", "iu_xray", 5)
    assert again.words == tokenizer.words and again.dataset == "mimic_cxr"
    mapping = tmp_path / "mapping.json"
    mapping.write_text(json.dumps({"<unk>": 2, ".": 1}))
    assert cmn.Tokenizer.from_file(mapping).words == (".", "<unk>")
    mapping.write_text(json.dumps({"<unk>": 1, ".": 2}))
    with pytest.raises(ValueError, match="code-point order"):
        cmn.Tokenizer.from_file(mapping)
    mapping.write_text("[1]")
    with pytest.raises(ValueError, match="no vocabulary"):
        cmn.Tokenizer.from_file(mapping)
    mapping.write_text("{")
    with pytest.raises(ValueError, match="not a JSON file"):
        cmn.Tokenizer.from_file(mapping)
    mapping.write_text('{"train": []}')
    with pytest.raises(ValueError, match='mapping.json: "train" is empty'):
        cmn.Tokenizer.from_file(mapping)
    with pytest.raises(FileNotFoundError, match="annotation.json"):
        cmn.Tokenizer.from_file(tmp_path / "absent.json")
    with pytest.raises(ValueError, match="unknown data set"):
        cmn.Tokenizer(vocabulary, "chexpert")


def test_prose():
    assert cmn.to_prose("the heart is large . no effusion .") == "The heart is large. No effusion."
    assert cmn.to_prose("cut off in the") == "Cut off in the."
    assert cmn.to_prose(" . .") == ""
