"""`cliniqure predict`: films in, reports out."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from cliniqure_utils import dicom
from cliniqure_utils.predict.files import write_film, write_index
from cliniqure_utils.predict.films import NEEDED, check_models, in_one_line, stream_films
from cliniqure_utils.predict.folders import find_films
from cliniqure_utils.predict.names import printable, report_names, shown_names
from cliniqure_utils.predict.provenance import digest_of, provenance
from cliniqure_utils.predict.symptoms import read_symptoms
from cliniqure_utils.predict.writing import RunSettings, Writer, build_report, evidence_of, read_settings
from cliniqure_utils.process import keep_freed_memory
from cliniqure_utils.project import CannotStart, MissingWeights
from cliniqure_utils.vocabulary import CLASSES

SCHEDULER_TIMEOUT = 10  # seconds that a Dask scheduler has to answer
CHUNK = 16  # films that are held at once, per worker process


def predict(
    inputs: Iterable[str | Path],
    run_dir: str | Path,
    out_dir: str | Path,
    symptoms: str = "",
    symptoms_csv: str | Path | None = None,
    use_llm: bool = True,
    device: str = "auto",
    n_jobs: int | None = None,
    dask: str | None = None,
    eyes: str | None = None,
) -> tuple[int, int]:
    """Write for each film a page, its data as JSON, the overlay as PNG and DICOM, and a DICOM structured report.

    Beside them index.html lists the films, and rejected.csv the files that were not read, each with the reason. Both
    are written even when the call ends early. What one film is at fault for ends no other's report.

    Args:
        inputs: Files and folders.
        run_dir: A finished run, such as outputs/demo.
        out_dir: Made when missing; files of an earlier call with the same names are replaced.
        symptoms: For every film; symptoms_csv: a table for those it names (`symptoms.read_symptoms`).
        use_llm: Let the run's language model write prose; else facts only.
        device: "auto", "cpu", "cuda" or "mps".
        n_jobs: Films at a time. Default: 1, or one per worker of the Dask cluster.
        dask: Address of a Dask scheduler whose workers read the films. They must see the same files under the same
            paths and have this package; the language model runs on this machine.
        eyes: Weights of torchxrayvision's DenseNet (`vision.xrv.load_xrv`), which learnt from films of people, to
            classify instead of the run's classifier. Boxes and crude report stay the run's.

    Returns:
        (number of films with a report, number rejected).

    Raises:
        CannotStart: No such input, no such run, no weights, or a folder that cannot take the reports.
        MissingInput: The run lacks a file; the message names the notebook that makes it.
    """
    keep_freed_memory()
    began = time.monotonic()
    run_dir, out_dir = Path(run_dir), Path(out_dir)
    if not run_dir.is_dir():
        raise CannotStart(f"there is no run folder {run_dir}: cliniqure run makes one")
    if out_dir.exists() and not out_dir.is_dir():
        raise CannotStart(f"--out {out_dir} is a file; expected a folder")
    inputs = [Path(entry).absolute() if dask else Path(entry) for entry in inputs]  # a worker has a folder of its own
    _check_device(device)
    paths, unread, passed = find_films(inputs, out_dir)
    check_models(run_dir)
    settings = read_settings(run_dir)
    if eyes:
        settings = _with_eyes(settings, eyes)
    if any(os.path.isdir(entry) and os.path.realpath(entry) == os.path.realpath(out_dir) for entry in inputs):
        raise CannotStart(f"--out {out_dir} is one of the folders with films; choose another")
    texts, unknown = read_symptoms(symptoms_csv, paths) if symptoms_csv else ({}, [])
    if not paths and not unread:
        raise CannotStart(f"no DICOM, PNG or JPEG file in {', '.join(map(str, inputs))}")
    if passed:
        print(f"{_count(passed, 'other file')} passed over")
    if unknown:
        print(f"note: {len(unknown)} rows with symptoms name no film here, the first {printable(unknown[0])}")
    writer = None
    if use_llm:
        try:
            writer = Writer(run_dir, settings, device)
        except MissingWeights as error:
            raise CannotStart(f"{error}; or give --no-llm for the facts alone") from None
    weights = [name for name in NEEDED if name.endswith(".safetensors")]
    weights += [writer.adapter] if writer and writer.adapter else []
    made = provenance(run_dir, weights)
    made["weights"] |= settings.provenance.get("weights", {})  # of other eyes
    settings = dataclasses.replace(settings, provenance=made)
    out_dir.mkdir(parents=True, exist_ok=True)

    names, shown = report_names(paths), shown_names([*paths, *(path for path, _ in unread)])
    rows, rejected, first_with = [], [], {}

    def refuse(path: Path, reason: str) -> None:
        said = f"{shown[path]}: {printable(reason.removeprefix(f'{path.name}: '))}"
        image_id = printable(dicom.image_id_of(path))
        rejected.append({"source": shown[path], "row": "", "image_id": image_id, "reason": said})
        print(f"not read: {said}")

    try:
        for path, reason in unread:
            refuse(path, reason)
        with _workers(dask, n_jobs) as n_jobs:
            step = CHUNK * n_jobs
            for first in range(0, len(paths), step):
                films = []
                for path, film, reason in stream_films(paths[first : first + step], run_dir, device, n_jobs, eyes):
                    if film is None:
                        refuse(path, reason)
                    else:
                        film["source"] = shown[path]
                        first = first_with.setdefault(film["uid_key"] or path, shown[path])
                        if first != shown[path]:
                            said = f"the same SOP Instance UID as {first}, which should be of one film alone"
                            film["notes"] = [*film["notes"], said]
                            print(f"note: {shown[path]}: {said}")
                        films.append((path, film))
                grounds = [evidence_of(film, settings, texts.get(path, symptoms)) for path, film in films]
                prose = writer.write(grounds) if writer and films else [None] * len(films)
                for (path, film), evidence, written in zip(films, grounds, prose, strict=True):
                    try:
                        given = texts.get(path, symptoms)
                        report = build_report(film, evidence, settings, written, given)
                        row = write_film(report, film, names[path], out_dir)
                    except OSError:  # the folder of the reports is at fault, not the film
                        raise
                    except Exception as error:
                        refuse(path, f"its report cannot be written ({in_one_line(error)})")
                        continue
                    rows.append(row)
                    doubt = " (unlike the films that the models know)" if row["warning"] else ""
                    print(f"{shown[path]}: {', '.join(row['findings']) or 'no finding'}{doubt}")
    finally:
        write_index(out_dir, rows, rejected, settings, writer is not None)
    seconds = time.monotonic() - began
    counted = f"{_count(len(rows), 'report')}, {_count(len(rejected), 'file')} not read"
    print(f"{counted}, {seconds:.0f} s: {printable(str(out_dir / 'index.html'))}")
    return len(rows), len(rejected)


def _with_eyes(settings: RunSettings, eyes: str) -> RunSettings:
    """The settings for other eyes. Raises CannotStart where there are none."""
    from cliniqure_utils.vision.xrv import load_xrv

    try:
        model = load_xrv(eyes)
    except MissingWeights as error:
        raise CannotStart(f"--eyes: {error}") from None
    name = Path(eyes).name.removeprefix("xrv:")  # of a file: where it lies is nobody's business
    thresholds = dict.fromkeys(CLASSES, 0.5)
    made = {"weights": {name: digest_of(model.state_dict().values())}}
    return dataclasses.replace(settings, eyes=name, left_out=model.left_out, thresholds=thresholds, provenance=made)


@contextlib.contextmanager
def _workers(dask: str | None, n_jobs: int | None) -> Iterator[int]:
    """Films at a time: worker processes of this machine, or within it joblib's Dask backend.

    Raises:
        CannotStart: No scheduler answers there, or it has no worker.
    """
    if dask is None:
        yield n_jobs or 1
        return
    from dask.distributed import Client
    from joblib import parallel_config

    try:
        client = Client(dask, timeout=SCHEDULER_TIMEOUT)
    except (OSError, ValueError) as error:
        raise CannotStart(f"no Dask scheduler answers at {dask}; expected an address like tcp://host:8786") from error
    with client:
        n_workers = len(client.scheduler_info(n_workers=-1)["workers"])
        if not n_workers:
            raise CannotStart(f"the Dask scheduler at {dask} has no worker; start some with `dask worker {dask}`")
        with parallel_config(backend="dask"):
            yield n_jobs or max(2, n_workers)  # with one job joblib would stay in this process


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _check_device(device: str) -> None:
    """Raises CannotStart where torch knows no such device, or this machine has none."""
    import torch

    kind = device.partition(":")[0]
    here = {"auto": True, "cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind not in here:
        raise CannotStart(f"unknown device {device}: expected auto, cpu, cuda or mps")
    if not here[kind]:
        raise CannotStart(f"there is no device {device} on this machine; --device auto takes the best there is")
