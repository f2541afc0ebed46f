"""A folder of films to a cache of small PNG files, in parallel, resumable, with a list of what was refused."""

import hashlib
import json
import re
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from cliniqure_utils.dicom.film import load_film
from cliniqure_utils.dicom.header import UnreadableImage, image_id_of
from cliniqure_utils.runs import atomic_path, write_json

CACHE_VERSION = 2  # part of the stamp of a cached film: raise it when the grey values change


def safe_name(image_id: str) -> bool:
    """True where an image id may become a file name: no separator, parent folder or control character."""
    return bool(image_id.strip()) and image_id not in (".", "..") and not re.search(r"[/\\\x00-\x1f\x7f]", image_id)


def convert_archive(
    paths: Iterable[str | Path], out_dir: str | Path, size: int, n_jobs: int = -1
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Convert films to 8-bit PNG.

    Films that are there already and whose source has not changed are kept, so an interrupted run goes on.

    Args:
        paths: DICOM files (or PNG, JPEG).
        out_dir: Gets `<image_id>.png`, image_id being the exact stem of the file name.
        size: Longest side in pixels; films are never enlarged.
        n_jobs: joblib workers, -1 for one per core. joblib's Dask backend spreads them over a cluster.

    Returns:
        (index, rejected). index: image_id, source (file name), rows, columns (DICOM pixels), height, width (PNG),
        age_years, sex, view, patient_key (hash; the image id where the header names no patient), transfer_syntax,
        duplicate_of (first film with the same unique identifier, else empty), same_pixels_as (first film that looks
        exactly the same, else empty), notes (what was odd in the header). rejected: source, image_id, reason.
    """
    from joblib import Parallel, delayed
    from tqdm.auto import tqdm

    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    index, rejected, source_of = [], [], {}
    for path in map(Path, paths):
        # Found before the work starts: two workers must not write one picture.
        if image_id_of(path) in source_of:
            reason = f"{path.name}: a second file with the image id of {source_of[image_id_of(path)].name}"
            rejected.append({"source": path.name, "image_id": image_id_of(path), "reason": reason})
        else:
            source_of[image_id_of(path)] = path
    todo = list(source_of.values())
    batches = [todo[k : k + 16] for k in range(0, len(todo), 16)]
    work = Parallel(n_jobs=n_jobs, return_as="generator")(delayed(_convert_batch)(b, out_dir, size) for b in batches)
    with tqdm(total=len(todo), desc="converting films", unit="film") as bar:
        for batch in work:
            for path, facts, reason in batch:
                if reason is None:
                    index.append({**facts, "source": path.name})
                else:
                    rejected.append({"source": path.name, "image_id": image_id_of(path), "reason": reason})
            bar.update(len(batch))
    columns = ["image_id", "source", "rows", "columns", "height", "width", "age_years", "sex", "view", "patient_key",
               "transfer_syntax", "duplicate_of", "same_pixels_as", "notes"]  # fmt: skip
    table = pd.DataFrame(index, columns=[*columns, "uid_key", "pixel_key"])
    for column, key, words in (
        ("duplicate_of", "uid_key", "share the unique identifier of another film"),
        ("same_pixels_as", "pixel_key", "look exactly like another film"),
    ):
        original = table.groupby(key).image_id.transform("first")
        table[column] = original.where(original.notna() & (original != table.image_id), "")
        n_shared = int((table[column] != "").sum())
        if n_shared:
            warnings.warn(f"{n_shared} films {words}; see {column}", stacklevel=2)
    table["patient_key"] = table.patient_key.where(table.patient_key.notna(), table.image_id)
    return table[columns], pd.DataFrame(rejected, columns=["source", "image_id", "reason"])


def _convert_batch(paths: list[Path], out_dir: Path, size: int) -> list[tuple[Path, dict | None, str | None]]:
    out = []
    for path in paths:
        try:
            out.append((path, _convert(path, out_dir, size), None))
        except UnreadableImage as error:
            out.append((path, None, str(error)))
    return out


def _convert(path: Path, out_dir: Path, size: int) -> dict:
    """Write one PNG beside a note of what it was made from; returns the facts for the index."""
    image_id = image_id_of(path)
    if not safe_name(image_id):
        raise UnreadableImage(f"{path.name}: the image id {image_id!r} cannot be a file name")
    try:
        state = path.stat()
    except OSError as error:
        raise UnreadableImage(f"{path.name}: cannot be opened ({error.strerror})") from error
    stamp = f"{CACHE_VERSION} {size} {state.st_size} {state.st_mtime_ns}"
    target, note = out_dir / f"{image_id}.png", out_dir / ".facts" / f"{image_id}.json"
    if target.is_file() and note.is_file():
        known = json.loads(note.read_text(encoding="utf-8"))
        if known.pop("stamp", None) == stamp:
            return known
    try:
        film, facts, notes = load_film(path, size, None)
    except UnreadableImage:
        target.unlink(missing_ok=True)  # the picture of an earlier version of this file
        raise
    pixels = np.uint8(np.rint(film * 255))
    facts |= {"height": film.shape[0], "width": film.shape[1], "notes": "; ".join(notes)}
    facts["pixel_key"] = hashlib.sha256(f"{facts['rows']} {facts['columns']} ".encode() + pixels.tobytes()).hexdigest()
    with atomic_path(target) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", compress_level=3)
    write_json(note, {**facts, "stamp": stamp})
    return facts
