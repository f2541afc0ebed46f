"""Reading the disease table: files, folders, the hub's name without a network, and tables that are not one."""

import json

import pandas as pd
import pytest

from cliniqure_utils.writer.diseases import MissingTable, read_diseases, sourced_rows

ROWS = [
    {"disease": "Gout", "common_symptom": "a hot, swollen toe", "treatment": "rest"},
    {"disease": "Common cold", "common_symptom": "None", "treatment": None},
    {"disease": "Tetanus", "common_symptom": "", "treatment": "antitoxin"},
    {"disease": "Scurvy", "common_symptom": "bleeding  gums\n", "treatment": "vitamin C"},
]
EXPECTED = pd.DataFrame(
    {
        "disease": ["Gout", "Common cold", "Scurvy"],
        "common_symptom": ["a hot, swollen toe", "None", "bleeding gums"],
        "treatment": ["rest", "", "vitamin C"],
    }
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write(folder, name):
    path, table = folder / name, pd.DataFrame(ROWS)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".csv", ".tsv"):
        table.to_csv(path, index=False, sep="," if path.suffix == ".csv" else "\t")
    elif path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in ROWS), encoding="utf-8")
    else:
        path.write_text(json.dumps(ROWS), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["table.csv", "table.tsv", "table.json", "table.jsonl", "table.parquet"])
def test_every_file_format_gives_the_same_table_and_counts_rows_without_symptoms(tmp_path, name):
    table, dropped = read_diseases(write(tmp_path, name))
    pd.testing.assert_frame_equal(table, EXPECTED, check_dtype=False)
    assert dropped == 1
    assert not sourced_rows(table).any(), "the paper's table names no source"


def test_a_copy_of_the_published_repository_is_read_in_the_papers_language(tmp_path):
    write(tmp_path, "copy/disease_database_en.json")
    (tmp_path / "copy" / "disease_database_zh.json").write_text('[{"disease": "x", "common_symptom": "y"}]')
    (tmp_path / "copy" / "README.md").write_text("a card")
    pd.testing.assert_frame_equal(read_diseases(tmp_path / "copy")[0], EXPECTED, check_dtype=False)
    (tmp_path / "copy" / "old_en.json").write_text("[]")
    with pytest.raises(MissingTable, match="found disease_database_en.json, old_en.json; give the file itself"):
        read_diseases(tmp_path / "copy")


def test_lists_and_numbers_become_text(tmp_path):
    rows = [{"disease": "Gout", "common_symptom": ["hot toe", "fever"], "age": 40, "share": 0.5}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (row,) = read_diseases(tmp_path / "rows.json")[0].to_dict("records")
    assert row == {"disease": "Gout", "common_symptom": "hot toe, fever", "age": "40", "share": "0.5"}


def test_a_saved_data_set_is_read(tmp_path):
    from datasets import Dataset, DatasetDict

    saved = Dataset.from_list(ROWS)
    saved.save_to_disk(tmp_path / "one")
    DatasetDict(train=saved).save_to_disk(tmp_path / "splits")
    for folder in ("one", "splits"):
        pd.testing.assert_frame_equal(read_diseases(tmp_path / folder)[0], EXPECTED, check_dtype=False)


def test_without_a_network_the_published_name_ends_in_one_plain_sentence(monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(MissingTable, match="hub cannot be reached, or has no such table; .*data/diseases.csv"):
        read_diseases("FreedomIntelligence/Disease_Database")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("no.csv", None, "no.csv: there is no such file or folder"),
        ("other.csv", "name,symptom\na,b\n", "expected the columns disease and common_symptom, found name, symptom"),
        ("empty.csv", "disease,common_symptom\nGout,\n", "no row has both a disease and its symptoms"),
        ("broken.json", "{not json", "broken.json: cannot be read as a table"),
        ("table.xlsx", "x", "table.xlsx: expected a file that ends in .csv"),
    ],
)
def test_what_is_no_disease_table_is_said_in_words(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(MissingTable, match=words):
        read_diseases(tmp_path / name)


def test_our_own_table_says_which_rows_have_a_source(repository):
    table, dropped = read_diseases(repository / "data" / "diseases.csv")
    assert dropped == 0 and table.equals(
        pd.read_csv(repository / "data" / "diseases.csv", dtype=str, keep_default_na=False)
    )
    with_source = sourced_rows(table)
    assert with_source.equals(table.source.str.startswith("http")) and 0.5 < with_source.mean() < 1
