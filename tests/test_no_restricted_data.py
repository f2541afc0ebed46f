"""No row of VinDr-CXR and no sentence of an Indiana report may be committed: every tracked file is searched."""

import importlib.util
import json
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from cliniqure_utils import vindr

ROOT = Path(__file__).parents[1]
PRINTED = {  # ids of the paper's table 2, in full
    "000434271f63a053c4128a0ba6352c7f",
    "00053190460d56c53cc3e57321387478",
    "0005e8e3701dfb1dd93d53e2ff537b6e",
    "0006e0a85696f6bb578e84fafa9a5607",
}
BINARY = {".png", ".jpg", ".npz", ".safetensors"}
RUN = 8  # words in a row
SECTION = re.compile(r'<AbstractText Label="(?:FINDINGS|IMPRESSION)">(.*?)</AbstractText>', re.S)


def tracked_files():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode == 0:
        names = [n for n in listed.stdout.decode().split("\0") if n]
    else:
        names = [str(p.relative_to(ROOT)) for folder in ("notebooks", "cliniqure_utils", "tests", "data")
                 for p in (ROOT / folder).rglob("*") if p.is_file()]  # fmt: skip
    return [ROOT / n for n in names if Path(n).suffix not in BINARY and (ROOT / n).is_file()]


def texts(path):
    """Text of a file; of a notebook its sources and text outputs (pictures are skipped)."""
    raw = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix != ".ipynb":
        return raw
    parts = []
    for cell in json.loads(raw)["cells"]:
        parts.append("".join(cell["source"]))
        for output in cell.get("outputs", []):
            parts.append("".join(output.get("text", "")))
            for kind, content in output.get("data", {}).items():
                if not kind.startswith("image/"):
                    parts.append("".join(content) if isinstance(content, list) else str(content))
    return "\n".join(parts)


def words(text):
    return re.findall(r"[a-z0-9]+", text.lower())


def runs(text):
    found = words(text)
    return {hash(tuple(found[i : i + RUN])) for i in range(len(found) - RUN + 1)}


@pytest.fixture(scope="module")
def vindr_ids():
    return set(vindr.read_annotations("torchxrayvision")[0].image_id) - PRINTED


@pytest.fixture(scope="module")
def indiana_runs():
    spec = importlib.util.find_spec("torchxrayvision")
    path = Path(spec.submodule_search_locations[0]) / "data" / "NLMCXR_reports.tgz"
    if not path.is_file():
        pytest.skip("this torchxrayvision carries no Indiana reports")
    found = set()
    with tarfile.open(path) as archive:
        for member in archive:
            if member.name.endswith(".xml"):
                xml = archive.extractfile(member).read().decode("utf-8", errors="replace")
                for section in re.findall(
                    r'<AbstractText Label="(?:FINDINGS|IMPRESSION)">(.*?)</AbstractText>', xml, re.S
                ):
                    found |= runs(section)
    assert len(found) > 50_000, "the reports were not read"
    return found


def offending_ids(text, ids):
    return {candidate for candidate in re.findall(r"[0-9a-f]{32}", text) if candidate in ids}


def test_no_vindr_image_id_is_committed(vindr_ids):
    planted = next(iter(vindr_ids))
    assert offending_ids(f"x {planted} y", vindr_ids) == {planted}, "the search itself must work"
    for path in tracked_files():
        assert not offending_ids(texts(path), vindr_ids), f"{path.relative_to(ROOT)} holds an image id of VinDr-CXR"


def test_no_eight_words_of_an_indiana_report_are_committed(indiana_runs):
    assert runs("the quick brown fox jumps over the lazy dog").isdisjoint(indiana_runs)
    for path in tracked_files():
        if path.name == "LICENSE":
            continue
        text = texts(path)
        clash = runs(text) & indiana_runs
        if clash:
            found = words(text)
            shown = [
                " ".join(found[i : i + RUN]) for i in range(len(found)) if hash(tuple(found[i : i + RUN])) in clash
            ]
            raise AssertionError(f"{path.relative_to(ROOT)}: {shown[:3]}")
