"""Converting a folder of films to a cache of small PNG files: parallel, resumable, with a table of rejected files."""

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from cliniqure_utils.dicom.header import UnreadableImage, image_id_of
from cliniqure_utils.dicom.loading import load_film
from cliniqure_utils.runs import atomic_path, write_json

BATCH = 16  # films per task
PNG_LEVEL = 1  # of compression: a sixth larger than Pillow's setting and several times as fast
MAX_NAME = 230  # bytes: file systems take 255, and a temporary name is longer than the id
CACHE_VERSION = 3  # part of the stamp of a cached film: raise it when the grey values change


def safe_name(image_id: str) -> bool:
    """True where an image id may become a file name: no separator, parent folder or control character, not too long."""
    if not image_id.strip() or image_id in (".", "..") or re.search(r"[/\\\x00-\x1f\x7f\ud800-\udfff]", image_id):
        return False
    return len(image_id.encode()) <= MAX_NAME


def small_film(path: str | Path, size: int) -> tuple[np.ndarray, dict, list[str]]:
    """One film as the cache holds it.

    Args:
        path: DICOM file, or grey PNG or JPEG.
        size: Longest side in pixels; the film is never enlarged.

    Returns:
        (pixels, facts, notes): uint8 (height, width), dense tissue bright; facts of the header as `read_header` gives
        them; what was odd in the header.

    Raises:
        UnreadableImage: With file and reason.
    """
    film, facts, notes = load_film(Path(path), size, None)
    return np.uint8(np.rint(film * 255)), facts, notes


def convert_archive(
    paths: Iterable[str | Path], out_dir: str | Path, size: int, n_jobs: int = -1
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Convert films to 8-bit PNG.

    Films that are there already and whose source has not changed are kept, so an interrupted run goes on.

    Args:
        paths: DICOM files (or PNG, JPEG). Hidden files, such as macOS's `._x.dicom`, are no films and passed over.
        out_dir: Gets `<image_id>.png`, image_id being the exact stem of the file name.
        size: Longest side in pixels; films are never enlarged.
        n_jobs: joblib workers, -1 for one per core. joblib's Dask backend spreads them over a cluster.

    Returns:
        (index, rejected). index: image_id, source (file name), rows, columns (DICOM pixels of the upright film),
        height, width (PNG), turned (the file holds it another way up), age_years, sex, view, patient_key (hash; the
        image id where the header names no patient), transfer_syntax, duplicate_of (first film with the same unique
        identifier, else empty), same_pixels_as (first film that looks exactly the same, else empty), notes (what was
        odd in the header). rejected: source, image_id, reason.
    """
    from tqdm.auto import tqdm

    if size < 1:
        raise ValueError(f"size must be at least 1 pixel, found {size}")
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    index, rejected, source_of = [], [], {}
    for path in (path for path in map(Path, paths) if not path.name.startswith(".")):
        # Found before the work starts: two workers must not write one picture.
        if image_id_of(path) in source_of:
            reason = f"{path.name}: a second file with the image id of {source_of[image_id_of(path)].name}"
            rejected.append(_refusal(path, reason))
        else:
            source_of[image_id_of(path)] = path
    todo = list(source_of.values())
    with tqdm(total=len(todo), desc="converting films", unit="film") as bar:
        for path, facts, reason in run_guarded(partial(_try, out_dir=out_dir, size=size), todo, n_jobs):
            if reason is None:
                index.append({**facts, "source": path.name})
            else:
                rejected.append(_refusal(path, reason))
            bar.update()
    columns = ["image_id", "source", "rows", "columns", "height", "width", "turned", "age_years", "sex", "view",
               "patient_key", "transfer_syntax", "duplicate_of", "same_pixels_as", "notes"]  # fmt: skip
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


def _refusal(path: Path, reason: str) -> dict:
    """A row of the rejected table; bytes of a file name that are no text are written as escapes."""
    row = {"source": path.name, "image_id": image_id_of(path), "reason": reason}
    return {name: text.encode("utf-8", "backslashreplace").decode() for name, text in row.items()}


def run_guarded(work: Callable, paths: list[Path], n_jobs: int) -> Iterator[tuple[Path, dict | None, str | None]]:
    """`work(path)` for every path in parallel, results in order, even when a film crashes its worker process.

    Decoders written in C can crash on a damaged stream. The first unfinished batch is then repeated film by film: the
    film that crashes comes back with a reason, and the rest goes on in parallel. (If the film was in a later batch, the
    next round finds it.) With one job there is no worker process, so the crash ends the caller itself.
    """
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import BrokenProcessPool

    done = 0
    while done < len(paths):
        batches = [paths[k : k + BATCH] for k in range(done, len(paths), BATCH)]
        try:
            for batch in Parallel(n_jobs=n_jobs, return_as="generator")(delayed(_each)(work, b) for b in batches):
                done += len(batch)
                yield from batch
        except BrokenProcessPool:
            for path in paths[done : done + BATCH]:
                done += 1
                try:
                    # With two jobs the film runs in a worker process, which may crash without ending this one.
                    yield from Parallel(n_jobs=2)([delayed(_each)(work, [path])])[0]
                except BrokenProcessPool:
                    yield path, None, f"{path.name}: the decoder ended the worker process; the file is damaged"


def _each(work: Callable, paths: list[Path]) -> list:
    return [work(path) for path in paths]


def _try(path: Path, out_dir: Path, size: int) -> tuple[Path, dict | None, str | None]:
    try:
        return path, _convert(path, out_dir, size), None
    except UnreadableImage as error:
        return path, None, str(error)


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
    known = _known(note)
    if known.pop("stamp", None) == stamp and target.is_file() and target.stat().st_size == known.pop("bytes", None):
        return known
    try:
        pixels, facts, notes = small_film(path, size)
    except UnreadableImage:
        target.unlink(missing_ok=True)  # it was made from an earlier version of this file
        raise
    facts |= {"height": pixels.shape[0], "width": pixels.shape[1], "notes": "; ".join(notes)}
    facts["pixel_key"] = hashlib.sha256(f"{facts['rows']} {facts['columns']} ".encode() + pixels.tobytes()).hexdigest()
    with atomic_path(target) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", compress_level=PNG_LEVEL)
    write_json(note, {**facts, "stamp": stamp, "bytes": target.stat().st_size})
    return facts


def _known(note: Path) -> dict:
    """The note about a cached film; empty where it is missing or damaged, so that the film is made again."""
    try:
        known = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
