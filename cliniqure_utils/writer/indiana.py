"""The Indiana University chest X-ray reports, read at run time from the installed torchxrayvision.

Their licence (CC BY-NC-ND 4.0) allows reading, not passing on in pieces: no text of them is committed, printed or
written to a run folder. Source: Demner-Fushman et al. 2016, J Am Med Inform Assoc 23:304.
"""

import functools
import importlib.util
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

SECTIONS = ("INDICATION", "FINDINGS", "IMPRESSION")
HOLE = "XXXX"  # what de-identification left of a name, a date or a number


class MissingReports(FileNotFoundError):
    """The reports are not on this machine."""


@dataclass(frozen=True)
class IndianaReport:
    """Sections of one report, single-spaced, XML entities as they are, "" where absent. report_id: file number."""

    report_id: int
    indication: str
    findings: str
    impression: str

    @property
    def whole(self) -> bool:
        """Whether nothing was taken out of findings and impression, and no character in them stands for another."""
        text = self.findings + self.impression
        return HOLE not in text and "&" not in text


@functools.cache
def read_reports() -> tuple[IndianaReport, ...]:
    """Every report, in the archive's order.

    Raises:
        MissingReports: The package or its file is missing.
    """
    spec = importlib.util.find_spec("torchxrayvision")
    path = Path(spec.submodule_search_locations[0]) / "data" / "NLMCXR_reports.tgz" if spec else None
    if path is None or not path.is_file():
        raise MissingReports("the packaged Indiana reports are missing: pip install torchxrayvision")
    reports = []
    with tarfile.open(path) as archive:
        for member in archive:
            if member.name.endswith(".xml"):
                xml = archive.extractfile(member).read().decode("utf-8", errors="replace")
                sections = [_section(xml, label) for label in SECTIONS]
                reports.append(IndianaReport(int(re.search(r"\d+", Path(member.name).stem)[0]), *sections))
    return tuple(reports)


def _section(xml: str, label: str) -> str:
    found = re.search(rf'<AbstractText Label="{label}">(.*?)</AbstractText>', xml, re.DOTALL)
    return " ".join(found[1].split()) if found else ""
