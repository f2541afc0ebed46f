"""The medical tables of data/: complete, sourced where they say so, and no phrasing gives its disease away."""

import re

import pandas as pd
import pytest

from cliniqure_utils.reports import KNOWLEDGE, load_knowledge
from cliniqure_utils.vocabulary import FINDINGS

THORACIC = {"respiratory", "pleural", "cardiac", "aortic", "mediastinal", "pulmonary vascular"}
ADDRESS = r"https://[a-z0-9.-]+\.[a-z]+/\S+"
# Shops, commercial health pages, single clinics' leaflets, pages that anybody writes: once sources, or likely to be.
REFUSED = (
    "verywellhealth respiratorytherapyzone emedicinehealth healthcentral healthline webmd wikipedia topdoctors "
    "adam.com drneetujainpulmo gpnotebook globalgenes medstarhealth riversideonline stclair.org clevelandclinic "
    "mountsinai nm.org missouricancer wkcardiology archildrens columbiasurgery stanford.edu rbht.nhs "
    "guysandstthomas hullccg barnardos thinkaorta para-monte msdlatinamerica jacpjournal scienceopen"
).split()
PER_DISEASE = ["cause", "diagnostic_methods", "treatment", "icd10", "source", "source_date", "sourced_fields", "area",
               "thoracic", "also_called"]  # fmt: skip
# Words of a disease's name that do not give it away.
GENERAL = set(
    "acute chronic disease syndrome disorder infection the of in and type pulmonary cough body infective benign".split()
)


@pytest.fixture(scope="module")
def diseases(repository):
    return pd.read_csv(repository / "data" / "diseases.csv", dtype=str, keep_default_na=False)


@pytest.fixture(scope="module")
def knowledge(repository):
    return load_knowledge(repository / "data" / "knowledge.csv")


def words(text):
    return re.findall(r"[a-z0-9]+", text.lower())


def names_itself(row):
    """What in a phrasing gives its disease away: a main word of its name in any ending, or a synonym."""
    text = row.common_symptom.lower()
    stems = [w[:-1] if w.endswith("s") and len(w) > 4 else w for w in words(row.disease.replace("'s", ""))]
    stems = [stem for stem in stems if stem not in GENERAL and len(stem) > 2]
    found = [w for w in stems if re.search(rf"\b{re.escape(w)}" + (r"s?\b" if len(w) < 4 else ""), text)]
    others = [other for other in row.also_called.lower().split("; ") if other]
    return found + [other for other in others if re.search(rf"\b{re.escape(other)}\b", text)]


def test_there_are_enough_diseases_and_every_cell_is_filled(diseases):
    per_disease = diseases.drop_duplicates("disease")
    assert len(per_disease) >= 120 and (per_disease.thoracic == "yes").sum() >= 40
    assert ((diseases.thoracic == "yes") == diseases.area.isin(THORACIC)).all()
    filled = diseases.drop(columns=["source_date", "sourced_fields"])
    assert (filled != "").all(axis=None) and (filled == filled.apply(lambda column: column.str.strip())).all(axis=None)
    assert (diseases.groupby("disease")[PER_DISEASE].nunique() == 1).all(axis=None)
    assert per_disease.icd10.is_unique and per_disease.icd10.str.fullmatch(r"[A-Z][0-9]{2}(\.[0-9A-Z]{1,4})?").all()
    assert per_disease.disease.str.casefold().is_unique


def test_phrasings_differ_and_do_not_name_their_disease(diseases):
    assert (diseases.groupby("disease").size() >= 4).all()
    numbers = diseases.groupby("disease").phrasing.agg(list)
    assert all(found == [str(n + 1) for n in range(len(found))] for found in numbers)
    assert diseases.common_symptom.map(lambda text: " ".join(words(text))).is_unique, "also across diseases"
    given_away = {
        f"{row.disease} {row.phrasing}": found for row in diseases.itertuples() if (found := names_itself(row))
    }
    assert given_away == {}
    assert names_itself(pd.Series({"disease": "Gout", "common_symptom": "I have gouty toes", "also_called": "x"}))
    assert diseases.common_symptom.str.split().map(len).max() <= 32, "or notebook 05 would cut it"


def test_ten_diseases_of_the_chest_have_enough_phrasings_to_learn_from(diseases):
    """Notebook 05 learns to tell them apart: nine phrasings of each to learn from, three to be asked about."""
    many = diseases[diseases.groupby("disease").disease.transform("size") >= 12]
    assert many.disease.nunique() == 10 and (many.thoracic == "yes").all()
    assert many.sourced_fields.str.contains("symptoms").all()


@pytest.mark.parametrize("name", ["diseases", "knowledge"])
def test_a_source_is_an_address_with_a_date_and_says_what_it_covers(name, request):
    table = request.getfixturevalue(name)
    unsourced = table.source == "unsourced"
    for column in ("source_date", "sourced_fields"):
        assert ((table[column] == "") == unsourced).all(), f"{column} goes with a source, and only with one"
    assert table.source[~unsourced].str.fullmatch(rf"{ADDRESS}( ; {ADDRESS})*").all()
    assert table.source_date[~unsourced].str.fullmatch(r"20\d\d-[01]\d-[0-3]\d").all()
    hosts = {address.split("/")[2] for text in table.source[~unsourced] for address in text.split(" ; ")}
    assert [host for host in sorted(hosts) if any(refused in host for refused in REFUSED)] == []
    assert table.source.str.count(" ; ").max() <= 2, "one to three good pages, no list"
    known = set(KNOWLEDGE) if name == "knowledge" else {"symptoms", "cause", "diagnostic_methods", "treatment"}
    assert {field for text in table.sourced_fields[~unsourced] for field in text.split("; ")} <= known
    print(f"{name}: {(~unsourced).mean():.0%} of the rows have a source")


def test_every_finding_is_known(knowledge):
    assert list(knowledge.index) == list(FINDINGS)
    assert (knowledge[list(KNOWLEDGE)] != "").all(axis=None)
