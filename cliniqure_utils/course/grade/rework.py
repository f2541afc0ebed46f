"""A sample of films worked out again from the weights that notebooks 02 to 04 saved, against what they say there.

Ten films are drawn with the instructor's seed, from each split in turn, and go through the saved models here, on the
CPU. A forged prediction file, whose hash in run.json was forged too, says something else than its own weights.

Another machine sums in another order, so the same weights give other last digits. On two instruction sets of one
processor 200 films of the demo agreed to 0.00001 (COURSE.md); the tolerances leave room for a GPU's shorter numbers.
Source: ours.
"""

import json
import multiprocessing
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cliniqure_utils.annotations import film_sizes, iou_matrix
from cliniqure_utils.course.grade.integrity import usable_parameters
from cliniqure_utils.course.grade.run_folder import FAIL, NOTE, PASS, Check, Run
from cliniqure_utils.project import CannotStart, MissingInput, require
from cliniqure_utils.runs import read_jsonl, read_table
from cliniqure_utils.vocabulary import BOX, CLASSES

NAME = "sample worked out again"
N_FILMS = 10
SECONDS = 900  # that the sample may take; ten seconds are usual
PROBABILITY = 0.02  # largest difference of a probability, and of a box's score (and a tenth of that)
LEAST_SCORE = 0.012  # of a box that is compared: notebook 02 writes from .01, and here its partner may lie below that
LIKELY = 0.1  # score from which boxes are counted on their own, too
LEAST_IOU = 0.9  # of the same box worked out twice
# Share of boxes without a partner: of two that overlap, a digit decides which is dropped; 1 to 2 % with 10-bit numbers.
ODD_BOXES = 0.05
LOSS = 0.02  # mean negative log probability of a word by which another text may be less likely than ours: a near tie


def work_again(run: Run, seed: int) -> list[Check]:
    """Work out `N_FILMS` films again and compare them.

    Args:
        run: Its notebooks 02 to 04 are looked at, as far as they have run.
        seed: Draws the films. Who knows it beforehand could forge the other films.

    Returns:
        A check per notebook; none for one that has not run.
    """
    names = [notebook.name for notebook in run.notebooks]
    steps = [name for name in WORK if name in names and run.entry(name).get("status") == "done"]
    if not steps:
        return []
    try:
        splits = read_table(require(run.folder, "01_preprocess/splits.csv"))
        chosen = draw(splits, usable_parameters(run, "03_classify").get("max_train_images"), seed)
        jobs = {name: (chosen, usable_parameters(run, name)) for name in steps}
    except Exception as error:  # files and values of a student may be anything
        return [Check(name, NAME, FAIL, f"no film can be drawn: {_words(error)}") for name in steps]
    found = _in_a_process(run.folder.resolve(), jobs)
    checks = []
    for name in steps:
        status, said = found.get(name, (FAIL, found["problem"]))
        checks.append(Check(name, NAME, status, f"{said} (seed {seed})"))
    return checks


def draw(splits: pd.DataFrame, max_train: int | None, seed: int, n_films: int = N_FILMS) -> dict[str, list[str]]:
    """{split: image ids}, drawn from test, val and train in turn; those of test count most, and come first.

    Args:
        splits: The table splits.csv.
        max_train: Training films that the run used, the first by name; None: all.
        seed: Any whole number.
        n_films: How many, as far as there are so many.
    """
    rng = np.random.default_rng(abs(seed))
    left = {}
    for split in ("test", "val", "train"):
        ids = sorted(splits.image_id[splits.split == split])
        left[split] = list(rng.permutation(ids[:max_train] if split == "train" else ids))
    drawn: dict[str, list[str]] = {split: [] for split in left}
    while sum(map(len, drawn.values())) < n_films and any(left.values()):
        for split, ids in left.items():
            if ids and sum(map(len, drawn.values())) < n_films:
                drawn[split].append(str(ids.pop()))
    return drawn


def _in_a_process(folder: Path, jobs: Mapping[str, tuple]) -> dict:
    """{step: (status, message)}, and "problem" for steps that are not there.

    In a process of its own: weights and settings of a student may take any memory and time.
    """
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sending, folder, jobs), daemon=True)
    process.start()
    sending.close()
    found = {"problem": f"the saved weights gave no answer within {SECONDS} s"}
    try:
        while receiving.poll(SECONDS):
            name, status, said = receiving.recv()
            found[name] = (status, said)
    except EOFError:  # it has ended, with or without all answers
        found["problem"] = "the process with the saved weights ended early, as happens when memory runs out"
        process.join(10)
    process.kill()
    process.join()
    return found


def _work(sending, folder: Path, jobs: Mapping[str, tuple]) -> None:
    """What runs in the process: each step's answer is sent as soon as it is there."""
    import warnings

    warnings.filterwarnings("ignore")
    for name, (chosen, parameters) in jobs.items():
        films = [image_id for split in WANTED[name] for image_id in chosen[split]]
        try:
            bad = next((image_id for image_id in films if not re.fullmatch(r"[^/\\\0]+", image_id)), None)
            if bad is not None:
                raise ValueError(f"image id {bad!r} is no file name")
            status, said = WORK[name](folder, films, parameters)
        except Exception as error:  # weights, tables and settings of a student may be anything
            status, said = FAIL, f"the saved weights cannot be asked: {_words(error)}"
        sending.send((name, status, said))
    sending.close()


def _words(error: Exception) -> str:
    text = str(error).splitlines()[0][:200] if str(error) else ""
    return text if isinstance(error, (CannotStart, MissingInput)) else f"{type(error).__name__}: {text}"


def _films(folder: Path, films: Sequence[str], size: int, model_folder: Path):
    from cliniqure_utils.vision.films import FilmDataset
    from cliniqure_utils.vision.saving import grey_of

    sizes = film_sizes(read_table(require(folder, "01_preprocess/index.csv")))
    images = require(folder, "01_preprocess/images")
    return FilmDataset(images, films, size, sizes, grey=grey_of(model_folder)), sizes


def _classified(folder: Path, films: Sequence[str], parameters: Mapping) -> tuple[str, str]:
    """Notebook 03: probabilities.csv."""
    from cliniqure_utils.vision.classification import load_classifier
    from cliniqure_utils.vision.inference import predict_probabilities, probability_table

    step = folder / "03_classify"
    model = load_classifier(step)
    size = json.loads((step / "config.json").read_text(encoding="utf-8"))["image_size"]
    dataset, _ = _films(folder, films, size, step)
    temperature = json.loads(require(folder, "03_classify/temperature.json").read_text(encoding="utf-8"))["temperature"]
    made = probability_table(films, predict_probabilities(model, dataset, progress=False), temperature)
    return compare_probabilities(read_table(require(folder, "03_classify/probabilities.csv")), made)


def _detected(folder: Path, films: Sequence[str], parameters: Mapping) -> tuple[str, str]:
    """Notebook 02: predictions.csv."""
    from cliniqure_utils.vision.detection import load_detector
    from cliniqure_utils.vision.inference import predict_boxes

    detector = load_detector(folder / "02_detect")
    dataset, sizes = _films(folder, films, detector.image_size, folder / "02_detect")
    made = predict_boxes(detector, dataset, sizes, progress=False, flip=parameters["test_flip"])
    written = read_table(require(folder, "02_detect/predictions.csv"))
    return compare_boxes(written[written.image_id.isin(films)], made, len(films))


def _written(folder: Path, films: Sequence[str], parameters: Mapping) -> tuple[str, str]:
    """Notebook 04: crude_reports.jsonl."""
    import torch

    from cliniqure_utils import cmn

    model = cmn.load(folder / "04_crude_report")
    if model.config.n_views > 1:
        return NOTE, "not worked out: the report model reads two films of a study"
    look = {"grey": model.config.grey, "side": model.config.image_size}
    dataset = cmn.ReportDataset(require(folder, "01_preprocess/images"), films, model.tokenizer, **look)
    items = [dataset[number] for number in range(len(dataset))]
    options = {"beam_size": parameters["beam_size"], "max_length": parameters["max_length"]}
    made = [cmn.to_prose(text) for text in cmn.write_reports(model, items, **options)]
    texts = {row["image_id"]: row["text"] for row in read_jsonl(require(folder, "04_crude_report/crude_reports.jsonl"))}

    @torch.no_grad()
    def loss(item: dict, text: str) -> float:
        ids = torch.tensor([model.tokenizer.encode(text, parameters["max_length"] + 1)])
        return float(model(images=item["images"][None], ids=ids)["loss"])

    ties = 0
    for item, text in zip(items, made, strict=True):
        own = texts.get(item["image_id"])
        if own == text:
            continue
        if not isinstance(own, str) or abs(loss(item, own) - loss(item, text)) > LOSS:
            return FAIL, f"film {item['image_id']} has the report {own!r}, by the saved weights {text!r}"
        ties += 1
    more = f", {ties} of them by another wording that is as likely" if ties else ""
    return PASS, f"{len(films)} reports as the saved weights write them{more}"


def compare_probabilities(written: pd.DataFrame, made: pd.DataFrame) -> tuple[str, str]:
    """(status, message) for the rows of probabilities.csv of some films and the same rows worked out again."""
    rows = written.drop_duplicates("image_id").set_index("image_id").reindex(made.image_id)
    own = rows.reindex(columns=list(CLASSES)).apply(pd.to_numeric, errors="coerce").to_numpy()
    again = made[list(CLASSES)].to_numpy()
    apart = np.nan_to_num(np.abs(own - again), nan=np.inf)
    film, column = np.unravel_index(apart.argmax(), apart.shape)
    if apart.max() <= PROBABILITY:
        return PASS, f"{len(made)} films as the saved weights say, to {apart.max():.1g}"
    return FAIL, (
        f"film {made.image_id.iloc[film]}: {CLASSES[column]} is {own[film, column]:.4f} in probabilities.csv, "
        f"{again[film, column]:.4f} by the saved weights"
    )


def compare_boxes(written: pd.DataFrame, made: pd.DataFrame, n_films: int) -> tuple[str, str]:
    """(status, message) for the rows of predictions.csv of some films and those worked out again.

    Every box needs a partner in the other table: the same finding on the same film, at least LEAST_IOU alike, its score
    at most PROBABILITY and a tenth away. Too many without one fail, among the likely boxes and among all: hundreds of
    unlikely ones would hide a few that were forged.
    """
    tables = [table.astype({name: float for name in ("score", *BOX)}) for table in (written, made)]
    odd = []
    for first, second, words in ((*tables, "in predictions.csv only"), (*tables[::-1], "by the saved weights only")):
        groups = dict(list(second.groupby(["image_id", "class_name"])))
        for key, boxes in first[first.score >= LEAST_SCORE].groupby(["image_id", "class_name"]):
            others = groups.get(key, second.iloc[:0])
            near = iou_matrix(boxes[BOX].to_numpy(), others[BOX].to_numpy()) >= LEAST_IOU
            scores = boxes.score.to_numpy()[:, None], others.score.to_numpy()[None]
            near &= np.abs(scores[0] - scores[1]) <= np.minimum(PROBABILITY, np.maximum(*scores) / 10)
            alone = boxes.score[~near.any(1)]
            odd += [(score, f"film {key[0]}: {key[1]} with score {score:.3f} is {words}") for score in alone]
    odd.sort(key=lambda box: -box[0])
    for least in (LIKELY, LEAST_SCORE):
        n_odd, total = sum(score >= least for score, _ in odd), sum(int((t.score >= least).sum()) for t in tables)
        if n_odd > ODD_BOXES * total:
            return FAIL, f"{odd[0][1]} (and {n_odd - 1} more of {total} boxes compared)"
    if not total:
        return NOTE, f"no box compared: neither predictions.csv nor the saved weights have one on {n_films} films"
    return PASS, f"{total} boxes of {n_films} films compared, {total - n_odd} as the saved weights say"


# Which splits a notebook writes about, and how its films are worked out again.
WANTED = {"02_detect": ("test", "val"), "03_classify": ("test", "val", "train"), "04_crude_report": ("test", "val")}
WORK = {"02_detect": _detected, "03_classify": _classified, "04_crude_report": _written}
