"""Part `report`: R2GenCMN learns to put into words what the eyes see, from simulated films and their reports.

The eyes are those of part `eyes` and stay as they are. So they look at each film a few times only, each time under
another appearance, and what they saw is kept in a file; the transformer learns from that. Reports have all wordings of
`cohort.report_text`, drawn anew each time a film comes by, but one order: findings first, in the order of the classes.
Among equals in any order, whoever looks for the likeliest next word loses findings; in one order each of them is a
question of its own. For the same reason films with several findings come by more often.
"""

import hashlib
import re
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from cliniqure_utils import cmn, labeller, training
from cliniqure_utils.cohort.report_text import write_report
from cliniqure_utils.pretraining import films
from cliniqure_utils.pretraining.eyes import GREY, SimulatedFilms
from cliniqure_utils.runs import atomic_path
from cliniqure_utils.vision.trunks import normalise
from cliniqure_utils.vocabulary import FINDINGS

SECTION = "findings"  # as the published models, and notebook 04
APPEARANCES = 3  # how often the eyes look at a film: once as it is, then changed
HELD_OUT = 10  # one film in so many is not learned from, but written about after each epoch
BATCH = 16  # small: the number of steps counts
LEARNING_RATE = 1.5e-3
SIZES = dict(
    visual_extractor="eyes", d_model=128, d_ff=256, num_heads=4, num_layers=2, topk=16, cmm_size=128, cmm_dim=128,
    max_length=80, dropout=0.0, feature_dropout=0.1, grey=GREY,
)  # fmt: skip


class SeenFilms(torch.utils.data.Dataset):
    """What the eyes saw of films, and reports of them; items as `cmn.collate` takes them.

    Args:
        features: One float16 array (films, patches, d_vf) per appearance.
        rows: Which of their rows are served.
        findings: What is true of each film, for `cohort.report_text.write_report`; one list per row.
        scaling: Mean and spread of the features, (d_vf,) each.
        tokenizer: Makes ids of words.
        seed: Of the wordings; None: always the same wording and the film as it is.
    """

    def __init__(self, features, rows, findings, scaling, tokenizer, seed):
        self.features, self.rows, self.findings, self.scaling = features, rows, findings, scaling
        self.tokenizer, self.seed, self.epoch = tokenizer, seed, 0

    def __len__(self) -> int:
        return len(self.rows)

    def set_epoch(self, epoch: int) -> None:
        """Decides about appearances and wordings."""
        self.epoch = epoch

    def fingerprint(self) -> str:
        """sha256 of what decides the items, but for the files of features, whose name is a sha256, too."""
        names = [str(getattr(array, "filename", "")) for array in self.features]
        found = hashlib.sha256(repr((names, self.seed, self.tokenizer.words, self.findings)).encode())
        found.update(np.asarray(self.rows).tobytes() + torch.cat(self.scaling).numpy().tobytes())
        return found.hexdigest()

    def __getitem__(self, index: int) -> dict:
        film = int(self.rows[index])
        look = 0 if self.seed is None else (self.epoch + film) % len(self.features)
        mean, spread = self.scaling
        seen = (torch.from_numpy(self.features[look][film].astype(np.float32)) - mean) / spread
        text = report_of(self.findings[film], [self.seed or 0, 0 if self.seed is None else self.epoch, film])
        ids = torch.tensor(self.tokenizer.encode(text, SIZES["max_length"] + 1))
        return {"image_id": str(film), "features": seen, "ids": ids}


def report_of(findings: list[dict], seed: list[int]) -> str:
    """A report of a film (rows of `cohort.patient.Film.findings`): findings first, in the order of the classes."""
    text = write_report(findings, np.random.default_rng(seed))[SECTION]
    return " ".join(sorted(re.split(r"(?<=\.) ", text), key=_place))


@cache
def _place(sentence: str) -> int:
    """Number of the first finding that a sentence states; after all of them where it states none."""
    stated = labeller.label_matrix([sentence])[0]
    return int(stated.argmax()) if stated.any() else len(FINDINGS)


def teach_reporter(shards: list[Path], eyes: dict, work_dir: Path, epochs: int, seed: int):
    """Train a report model from random weights.

    Args:
        shards: Files of `films.simulate_films`.
        eyes: State of part `eyes`.
        work_dir: Holds what the eyes saw, and checkpoints, until training is over: a stopped run goes on.
        epochs: Passes over the films.
        seed: Of weights, appearances, wordings, order.

    Returns:
        The model in eval mode, with the eyes as its visual extractor, and the history (`training.fit`; the scores are
        of the films held out).
    """
    work_dir = Path(work_dir)
    findings = [film["findings"] for path in shards for film in films.read_shard(path)[1]]
    reports = (report_of(rows, [seed, number]) for number, rows in enumerate(findings))
    tokenizer = cmn.Tokenizer.from_reports(tqdm(reports, total=len(findings), desc="words", unit="report"), threshold=3)
    torch.manual_seed(seed)
    extractor = cmn.build_extractor("eyes")
    extractor.eyes.load_state_dict(eyes)
    model = cmn.R2GenCMN(tokenizer, cmn.CMNConfig(d_vf=extractor.channels, image_size=films.SIZE, **SIZES), extractor)
    model.visual_extractor.requires_grad_(False)
    features = _look(model.visual_extractor, shards, work_dir / "seen", seed)

    held_out = np.arange(len(findings)) % HELD_OUT == 0
    learned = np.flatnonzero(~held_out)
    sample = torch.from_numpy(np.concatenate([array[learned[::10]] for array in features]).astype(np.float32))
    scaling = sample.mean((0, 1)), sample.std((0, 1)) + 1e-3
    data = SeenFilms(features, learned, findings, scaling, tokenizer, seed)
    asked = SeenFilms(features, np.flatnonzero(held_out)[:400], findings, scaling, tokenizer, None)
    often = [0.5 + len({row["class_name"] for row in findings[film]}) for film in learned]
    plan = training.Plan(
        seed=seed, epochs=epochs, batch_size=BATCH, learning_rate=LEARNING_RATE, weight_decay=0.01, optimizer="adamw",
        scheduler="cosine", warmup_steps=100, sample_weights=often,
        param_groups=cmn.LearningRates(trunk=0, rest=LEARNING_RATE),
    )  # fmt: skip
    history = training.fit(
        model, data, plan, output_dir=work_dir / "checkpoints_report", device="cpu", collate=cmn.collate,
        evaluate=cmn.ReportScores(asked, beam_size=1), description="report model",
    )  # fmt: skip
    cmn.take_over_scaling(model, *scaling)
    shutil.rmtree(work_dir / "seen")
    return model.eval(), history


def settings_of_reporter(model: cmn.R2GenCMN, history) -> dict:
    """What pretrained.json must hold of a report model: sizes and words, by which it is loaded, and how it learned."""
    rows = history.dropna(subset=["finding_f1"])[["epoch", "step", "loss", "bleu_4", "finding_f1"]]
    return {
        "config": model.config.to_dict(),
        "words": " ".join(model.tokenizer.words),
        "history": rows.round(4).to_dict("records"),
    }


@torch.no_grad()
def _look(extractor: cmn.PatchExtractor, shards: list[Path], folder: Path, seed: int) -> list[np.ndarray]:
    """Patch features of all films, float16 (films, patches, channels) on disk, one array per appearance."""
    extractor.eval()
    data = SimulatedFilms(shards, films.SIZE, None)
    weights = hashlib.sha256(b"".join(value.numpy().tobytes() for value in extractor.state_dict().values()))
    name = hashlib.sha256((data.fingerprint() + weights.hexdigest() + str(seed)).encode()).hexdigest()[:16]
    arrays = []
    for number in range(APPEARANCES):
        path = folder / f"{name}-{number}.npy"
        if not path.is_file():
            data.seed = seed if number else None
            data.set_epoch(number)
            with atomic_path(path) as temporary:
                _look_once(extractor, data, temporary, f"looking at films, {number + 1} of {APPEARANCES}")
        arrays.append(np.load(path, mmap_mode="r"))
    return arrays


def _look_once(extractor: cmn.PatchExtractor, data: SimulatedFilms, path: Path, description: str) -> None:
    array = None
    for start in tqdm(range(0, len(data), BATCH), desc=description, unit="batch"):
        stop = min(start + BATCH, len(data))
        images = torch.stack([data[index]["image"] for index in range(start, stop)])
        seen = extractor(normalise(images.expand(-1, 3, -1, -1))).half().numpy()
        if array is None:
            array = np.lib.format.open_memmap(path, "w+", np.float16, (len(data), *seen.shape[1:]))
        array[start:stop] = seen
    array.flush()
