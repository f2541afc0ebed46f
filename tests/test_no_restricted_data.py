"""No row of VinDr-CXR and no sentence of an Indiana report may be committed: every tracked file is searched.

Both are read where they are installed, at test time. Searched are sources and text outputs of notebooks, and whatever
is inside .gz files; pictures are not.
"""

import gzip
import importlib.util
import json
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from cliniqure_utils.annotations import read_annotations

ROOT = Path(__file__).parents[1]
# What the paper itself prints: the ids of table 2 (cut to 30 characters there) and the cut ids of table 1.
PRINTED = (
    "000434271f63a053c4128a0ba6352c7f",
    "00053190460d56c53cc3e57321387478",
    "0005e8e3701dfb1dd93d53e2ff537b6e",
    "0006e0a85696f6bb578e84fafa9a5607",
    "50a418190bc3fb1ef1633bf96789",
    "21a10246a5ec7af151081d0cd6d6",
    "9a5094b2563a1ef3ff50dc5c7ff7",
    "051132a778e61a86eb147c7c6f56",
    "063319de25ce7edb9b1c6b888129",
    "1c32170b4af4ce1a3030eb816775",
)
PICTURES = {".png", ".jpg", ".jpeg", ".gif", ".ico"}
SHORTEST = 12  # characters: a cut id of this length still names one film of 15,000
RUN = 8  # words in a row


def tracked_files():
    """Everything git would publish; without git, the whole tree but what the ignore file names."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    else:
        skipped = {".git", ".venv", "outputs", "__pycache__", ".pytest_cache", ".ruff_cache"}
        paths = [p for p in ROOT.rglob("*") if not skipped & set(p.relative_to(ROOT).parts)]
        generated = {ROOT / "data" / name for name in ("demo", "smoke", "models")}
        paths = [p for p in paths if not generated & {*p.parents}]
    return [p for p in paths if p.suffix.lower() not in PICTURES and p.is_file()]


def texts(path):
    """Text of a file; of a notebook its sources and text outputs. JSON sentences do not run together."""
    raw = path.read_bytes()
    if raw.startswith(b"\x1f\x8b"):
        raw = gzip.decompress(raw)
    text = raw.decode("utf-8", errors="replace")
    if path.suffix == ".json":
        return re.sub(r'"(?:[^"\\]|\\.)*"', lambda found: found[0] + " endoftext" * (found[0].count(" ") > 3), text)
    if path.suffix != ".ipynb":
        return text
    parts = []
    for cell in json.loads(text)["cells"]:
        parts.append("".join(cell["source"]))
        for output in cell.get("outputs", []):
            parts.append("".join(output.get("text", "")))
            parts += output.get("traceback", [])
            for kind, content in output.get("data", {}).items():
                if not kind.startswith("image/") or "svg" in kind:
                    parts.append("".join(content) if isinstance(content, list) else json.dumps(content))
    return "\n".join(parts)


def words(text):
    return re.findall(r"[a-z0-9]+", text.lower())


def runs(text):
    found = words(text)
    return {hash(tuple(found[i : i + RUN])) for i in range(len(found) - RUN + 1)}


def offending_ids(text, ids_by_start):
    """Ids of films in a text, whole or cut at the end, alone or inside a longer run of hexadecimal digits."""
    found = set()
    for token in re.findall(rf"[0-9a-f]{{{SHORTEST},}}", text.lower()):
        for start in range(len(token) - SHORTEST + 1):
            full = ids_by_start.get(token[start : start + SHORTEST])
            if full is None:
                continue
            shown = token[start : start + len(full)]
            if full.startswith(shown) and not any(p.startswith(shown) for p in PRINTED):
                found.add(full)
    return found


@pytest.fixture(scope="module")
def ids_by_start():
    ids = read_annotations("torchxrayvision")[0].image_id.unique()
    table = {i[:SHORTEST]: i for i in ids}
    assert len(table) == len(ids) == 15000
    return table


@pytest.fixture(scope="module")
def indiana_sections():
    spec = importlib.util.find_spec("torchxrayvision")
    path = Path(spec.submodule_search_locations[0]) / "data" / "NLMCXR_reports.tgz"
    if not path.is_file():
        pytest.skip("this torchxrayvision carries no Indiana reports")
    sections = []
    with tarfile.open(path) as archive:
        for member in archive:
            if member.name.endswith(".xml"):
                xml = archive.extractfile(member).read().decode("utf-8", errors="replace")
                sections += re.findall(r"<AbstractText Label=[^>]*>(.*?)</AbstractText>", xml, re.S)
    assert len(sections) > 10_000, "the reports were not read"
    return sections


@pytest.fixture(scope="module")
def indiana_runs(indiana_sections):
    return set().union(*map(runs, indiana_sections))


def test_the_search_for_ids_finds_planted_ones(ids_by_start):
    planted = next(i for i in ids_by_start.values() if i not in PRINTED and not i.startswith(PRINTED[4:]))
    for text in (
        planted,
        planted.upper(),
        f"train/{planted}.dicom",
        f"ab{planted}cd",
        planted[:14],
        f"'{planted[:-2]}'",
    ):
        assert offending_ids(text, ids_by_start) == {planted}
    for text in (*PRINTED, PRINTED[0][:30], "0" * 64, planted[:11]):
        assert not offending_ids(text, ids_by_start)
    full = next(i for i in ids_by_start.values() if i.startswith(PRINTED[4]))
    assert offending_ids(full, ids_by_start) == {full}, "the paper prints this id cut; more of it must not appear"


def test_the_search_for_sentences_finds_planted_ones(indiana_sections, indiana_runs, tmp_path):
    section = next(s for s in indiana_sections if len(words(s)) >= 20)
    planted = " ".join(words(section)[5:13])
    file = tmp_path / "x.ipynb"
    output = {"output_type": "stream", "name": "stdout", "text": [f"Report: {planted.upper()}.\n"]}
    file.write_text(json.dumps({"cells": [{"cell_type": "code", "source": ["1"], "outputs": [output]}]}))
    assert runs(texts(file)) & indiana_runs
    half = len(planted.split()) // 2
    listed = tmp_path / "x.json"
    for said, found in (
        ([f"before {planted} after"], True),
        (planted.split(), True),
        ([f"a b c d {' '.join(planted.split()[:half])}", " ".join(planted.split()[half:])], False),
    ):
        listed.write_text(json.dumps(said, indent=1))
        assert bool(runs(texts(listed)) & indiana_runs) == found
    assert runs("the quick brown fox jumps over the lazy dog").isdisjoint(indiana_runs)


def test_no_vindr_image_id_is_committed(ids_by_start):
    # The ids themselves are not in the message: a log is published too.
    found = {str(p.relative_to(ROOT)): len(offending_ids(texts(p), ids_by_start)) for p in tracked_files()}
    found = {name: n for name, n in found.items() if n}
    assert not found, f"image ids of VinDr-CXR, per file: {found}"


def test_no_eight_words_of_an_indiana_report_are_committed(indiana_runs):
    found = {}
    for path in tracked_files():
        listed = words(texts(path))
        places = [i for i in range(len(listed) - RUN + 1) if hash(tuple(listed[i : i + RUN])) in indiana_runs]
        if places:
            found[str(path.relative_to(ROOT))] = [" ".join(listed[i : i + 3]) + " ..." for i in places[:3]]
    assert not found, f"eight words in a row of an Indiana report begin at: {found}"
