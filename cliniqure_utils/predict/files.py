"""What `cliniqure predict` writes: five files per film, and two for all of them."""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cliniqure_utils.annotations import rescale_boxes
from cliniqure_utils.pages import data_url, pixels_png, thumbnail
from cliniqure_utils.predict.dicom_objects import secondary_capture, structured_report
from cliniqure_utils.predict.overlay import draw_overlay
from cliniqure_utils.predict.own import ENDINGS, png_mark
from cliniqure_utils.predict.pages import film_page, index_page
from cliniqure_utils.predict.writing import RunSettings
from cliniqure_utils.runs import atomic_path, write_json, write_table, write_text
from cliniqure_utils.vocabulary import BOX

REJECTED = ["source", "row", "image_id", "reason"]


def write_film(report: dict, film: Mapping, name: str, out_dir: Path) -> dict:
    """Write all files of one film.

    Args:
        report: From `writing.build_report`; gets `files`, the names of what is written.
        film: From `films.stream_films`.
        name: Of the files, without their endings.

    Returns:
        The film's row of `pages.index_page`.
    """
    files = {what: f"{name}{ending}" for what, ending in ENDINGS.items()}
    report["files"] = files
    corners = np.array([[box[edge] for edge in BOX] for box in report["boxes"]]).reshape(-1, 4)
    shown = film["shown"]
    boxes = rescale_boxes(corners, (film["columns"], film["rows"]), shown.shape[::-1])
    overlay = draw_overlay(shown, boxes)
    png = pixels_png(overlay, png_mark())
    program = report["made_by"]["program"]
    capture = secondary_capture(overlay, film["key"], program, report["boxes"])
    structured = structured_report(report, boxes, capture, _content_key(report, film["key"]))
    contents = {"overlay": png}
    for what, data in (("capture", capture), ("structured", structured)):
        written = io.BytesIO()  # pydicom puts its whole traceback into the message where a disk is full
        data.save_as(written, enforce_file_format=True)
        contents[what] = written.getvalue()
    for what, content in contents.items():
        with atomic_path(out_dir / files[what]) as temporary:
            temporary.write_bytes(content)
    write_json(out_dir / files["report"], report)
    beside = {
        "The same as data": files["report"],
        "Overlay": files["overlay"],
        "Overlay as DICOM": files["capture"],
        "DICOM structured report": files["structured"],
    }
    write_text(out_dir / files["page"], film_page(report, pixels_png(shown, png_mark()), beside))
    return {
        "image_id": report["image_id"],
        "source": report["source"],
        "page": files["page"],
        "warning": report["film"]["warning"],
        "urgent": any(entry["urgent"] for entry in report["reading"]),
        "findings": [*(entry["name"] for entry in report["reading"]), *film["beside"]],
        "thumbnail": data_url(thumbnail(overlay)),
    }


def _content_key(report: Mapping, film_key: str) -> str:
    """A key of everything that a report says, but not of how its files are called or when it was made."""
    said = {name: value for name, value in report.items() if name not in ("image_id", "source", "files")}
    said["made_by"] = {name: value for name, value in report["made_by"].items() if name != "made"}
    return hashlib.sha256((film_key + json.dumps(said, sort_keys=True)).encode()).hexdigest()


def write_index(
    out_dir: Path, rows: Sequence[Mapping], rejected: Sequence[Mapping], settings: RunSettings, with_llm: bool
) -> None:
    """Write index.html, which lists the films, and rejected.csv, with the reason for each file that was not read."""
    write_table(out_dir / "rejected.csv", pd.DataFrame(rejected, columns=REJECTED))
    write_text(out_dir / "index.html", index_page(rows, rejected, settings, with_llm))
