"""`cliniqure pretrain`: makes `data/pretrained` anew, part by part. A stopped part goes on where it was."""

import time
from pathlib import Path

from cliniqure_utils import pretrained
from cliniqure_utils.pretraining import card, eyes, films, report, writer
from cliniqure_utils.process import keep_freed_memory, prepare_process
from cliniqure_utils.project import REPOSITORY, CannotStart, MissingWeights, commit_of
from cliniqure_utils.writer import lora

PARTS = ("films", "eyes", "report", "writer")
CARD = "card"  # no weights: what a finished demo run reaches with them
HOURS = 1.4
FILMS_PER_HOUR = 6000  # with all parts made of them, on two cores
CLASSIFIER_EPOCHS, DETECTOR_EPOCHS, REPORT_EPOCHS = 26, 3, 5
WORK = REPOSITORY / "data" / "pretraining"


def pretrain(
    part: str | None = None,
    hours: float = HOURS,
    n_jobs: int = -1,
    work_dir: Path = WORK,
    folder: Path = pretrained.FOLDER,
) -> None:
    """Make one part, or all.

    Args:
        part: One of PARTS; None makes all of them in this order. CARD enters the scores of the finished run
            outputs/demo, and of `make bench ONLY=real`, in the card.
        hours: How long all parts together may take on two cores, about. The number of films follows from it, so that
            the result depends on this number and not on the speed of the machine.
        n_jobs: Worker processes of the simulation; -1 for one per core.
        work_dir: Keeps films and checkpoints.
        folder: Where the parts go.

    Raises:
        CannotStart: An unknown part, hours that are not above 0, or films or eyes that are missing.
    """
    if part is not None and part not in (*PARTS, CARD):
        raise CannotStart(f"unknown part {part!r}; expected one of {', '.join((*PARTS, CARD))}")
    if part == CARD:
        outputs = REPOSITORY / "outputs"
        card.enter_scores(outputs / "demo", outputs / "bench" / "real.json", folder)
        return
    if not hours > 0:
        raise CannotStart(f"hours must be above 0, found {hours:g}")
    n_films = max(films.SHARD, round(FILMS_PER_HOUR * hours / films.SHARD) * films.SHARD)
    shards = work_dir / "films"
    if part in (None, "films"):
        films.simulate_films(shards, work_dir / "anatomy", n_films, n_jobs=n_jobs)
    if part == "films":
        return
    paths = [films.shard_path(shards, number) for number in range(n_films // films.SHARD)]
    absent = sum(not path.is_file() for path in paths)
    if absent and part != "writer":  # the writer learns from others
        raise CannotStart(f"{absent} of {len(paths)} shards of films are missing: cliniqure pretrain --part films")
    seen = {"films": n_films, "hours": hours, "seed": films.SEED, "commit": commit_of(REPOSITORY)}
    if part in (None, "eyes"):
        prepare_process(films.SEED)
        _make_eyes(paths, work_dir, seen, folder)
    if part in (None, "report"):
        prepare_process(films.SEED)
        _make_report(paths, work_dir, seen, folder)
    if part in (None, "writer"):
        prepare_process(films.SEED)
        keep_freed_memory(False)
        _make_writer(n_films // 2, n_jobs, work_dir, seen, folder)
    card.write_card(folder)


def _make_eyes(paths: list[Path], work_dir: Path, seen: dict, folder: Path) -> None:
    """Parts `eyes` and `detector`."""
    data = eyes.SimulatedFilms(paths, films.SIZE, films.SEED)
    seen = seen | {"image_size": films.SIZE, "grey": eyes.GREY}
    start = time.monotonic()
    classifier, history = eyes.teach_classifier(data, work_dir, CLASSIFIER_EPOCHS, films.SEED)
    how = {"epochs": CLASSIFIER_EPOCHS, "loss": _last_loss(history), "minutes": _minutes_since(start)}
    pretrained.save_part("eyes", classifier.state_dict(), seen | how, folder)
    start = time.monotonic()
    detector, history = eyes.teach_detector(classifier.body, data, work_dir, DETECTOR_EPOCHS, films.SEED)
    how = {"epochs": DETECTOR_EPOCHS, "loss": _last_loss(history), "minutes": _minutes_since(start)}
    pretrained.save_part("detector", detector.state_dict(), seen | how | {"settings": eyes.DETECTOR}, folder)


def _make_report(paths: list[Path], work_dir: Path, seen: dict, folder: Path) -> None:
    """Part `report`."""
    try:
        state = pretrained.load_part("eyes", folder)
    except MissingWeights as error:
        raise CannotStart(f"{error}; make them first: cliniqure pretrain --part eyes") from error
    start = time.monotonic()
    model, history = report.teach_reporter(paths, state, work_dir, REPORT_EPOCHS, films.SEED)
    how = {"epochs": REPORT_EPOCHS, "minutes": _minutes_since(start)} | report.settings_of_reporter(model, history)
    pretrained.save_part("report", model.state_dict(), seen | how, folder)


def _make_writer(n_films: int, n_jobs: int, work_dir: Path, seen: dict, folder: Path) -> None:
    """Part `writer`, from films of its own."""
    shards = work_dir / "films_writer"
    films.simulate_films(shards, work_dir / "anatomy", n_films, writer.SEED, n_jobs)
    paths = [films.shard_path(shards, number) for number in range(-(-n_films // films.SHARD))]
    start = time.monotonic()
    try:
        model, history, n_pairs = writer.teach_writer(paths, folder, work_dir, films.SEED)
    except MissingWeights as error:
        raise CannotStart(str(error)) from error
    how = {"films": n_films, "seed": writer.SEED, "epochs": 1, "pairs": n_pairs, "loss": _last_loss(history)}
    settings = {"base_model": writer.BASE_MODEL, "lora": writer.LORA, "minutes": _minutes_since(start)}
    pretrained.save_part("writer", lora.adapter_state(model), seen | how | settings, folder)


def _last_loss(history) -> float | None:
    """Mean loss of the last fifty steps; None after fewer."""
    return float(history.loss.iloc[-1]) if len(history) else None


def _minutes_since(start: float) -> float:
    return round((time.monotonic() - start) / 60, 1)
