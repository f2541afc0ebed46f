"""Part `writer`: the language model learns which evidence to trust, and to put it into words.

It is shown what our own eyes say of simulated patients whom they never saw, and answers with what is true of them as
far as the evidence shows it: a finding that the eyes report wrongly is left out, one that they miss cannot be known.
The eyes of a run differ from ours (notebook 03 trains them further), and so do its thresholds; both are drawn anew for
every prompt, so that the numbers in it are what the writer goes by. Rows of the disease table that name a source join:
symptoms in, disease and what to do out. No report of a patient is among the texts.

What came of it so far: with the last ten layers adapted, 4,621 pairs, it has the phrases and the sides right but passes
over every second finding (finding F1 .57 as written, the template's .81). So no such part is in git yet.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from cliniqure_utils import cmn, training
from cliniqure_utils.cohort.plan import plan_patient
from cliniqure_utils.cohort.report_text import clinical_context, write_report
from cliniqure_utils.pretraining import films
from cliniqure_utils.pretraining.eyes import DETECTOR, GREY
from cliniqure_utils.project import REPOSITORY
from cliniqure_utils.reports import build_prompt, gather_evidence
from cliniqure_utils.runs import atomic_path
from cliniqure_utils.vision import classification, detection
from cliniqure_utils.vision.grey import even_grey
from cliniqure_utils.vision.inference import FilmsInMemory, predict_boxes, predict_probabilities
from cliniqure_utils.vision.trunks import normalise
from cliniqure_utils.vocabulary import BOX, CLASSES, FINDINGS
from cliniqure_utils.writer import batches, fine_tuning, lora
from cliniqure_utils.writer.base_model import load_base
from cliniqure_utils.writer.diseases import read_diseases, sourced_rows
from cliniqure_utils.writer.pairs import disease_pair, told_answer

SEED = films.SEED + 1  # of patients whom the eyes did not learn from
BASE_MODEL = "smollm2"
PROMPT_TOKENS, ANSWER_TOKENS, LENGTH = 176, 64, 288
LEAST_SCORE = 0.2  # of a box that is kept; the thresholds that are drawn lie above it
LORA = dict(
    rank=16, alpha=32, dropout=0.0, n_layers=10,
    modules=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
)  # fmt: skip
BATCH = 8
LEARNING_RATE = 1e-3


@torch.no_grad()
def look(shards: list[Path], path: Path, folder: Path, seed: int = SEED) -> list[dict]:
    """What the pretrained models say of films, from `path`, or worked out and written there.

    Args:
        shards: Files of `films.simulate_films`. folder: Where the pretrained parts lie.

    Returns:
        Per film probabilities (15,), boxes (rows class_name, score and the corners, pixels of the film), crude (text),
        findings (rows of a `Film`) and person (of `clinical_context`).
    """
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    eyes = {"weights": "pretrained", "pretrained_heads": True, "pretrained_dir": folder}
    classifier = classification.build_classifier("seresnet_tiny", **eyes).eval()
    detector = detection.build_detector(**DETECTOR).eval()
    detection.load_pretrained(detector, DETECTOR, folder)
    reporter = cmn.load_pretrained(folder)
    said = []
    for shard in tqdm(shards, desc="looking at films", unit="shard"):
        pixels, truth = films.read_shard(shard)
        names = [f"{shard.stem}-{number}" for number in range(len(pixels))]
        seen = FilmsInMemory(names, list(pixels), films.SIZE, GREY)
        probabilities = predict_probabilities(classifier, seen, progress=False)
        seen = FilmsInMemory(names, list(pixels), detector.image_size, GREY)
        boxes = predict_boxes(detector, seen, dict.fromkeys(names, pixels.shape[:0:-1]), progress=False)
        boxes = boxes[boxes.score >= LEAST_SCORE]
        images = torch.stack([even_grey(torch.from_numpy(film)[None], GREY).float() / 255 for film in pixels])
        rows = reporter.generate(normalise(images.expand(-1, 3, -1, -1)), beam_size=1)
        for number, (name, film) in enumerate(zip(names, truth, strict=True)):
            index = int(shard.stem) * films.SHARD + number
            _, age, sex = plan_patient(seed, index)
            person = clinical_context(film["findings"], age, sex, np.random.default_rng([seed, index, 15]))
            found = boxes[boxes.image_id == name].drop(columns="image_id")
            said.append(
                {
                    "probabilities": probabilities[number].astype(float).round(4).tolist(),
                    "boxes": found.to_dict("records"),
                    "crude": cmn.to_prose(reporter.tokenizer.decode(rows[number].tolist())),
                    "findings": film["findings"],
                    "person": person,
                }
            )
    with atomic_path(path) as temporary:
        Path(temporary).write_text(json.dumps(said), encoding="utf-8")
    return said


def film_pair(film: dict, rng: np.random.Generator, tokenizer) -> tuple[str, str] | None:
    """(prompt, answer) of one film of `look`; None where nothing that is there was seen.

    The eyes are made a little too sure or unsure, and thresholds are drawn.
    """
    logits = np.log(np.clip(film["probabilities"], 1e-4, 1 - 1e-4))
    logits -= np.log1p(-np.exp(logits))
    logits = logits * rng.uniform(0.8, 1.25) + rng.normal(0, 0.3)
    probabilities = pd.DataFrame([1 / (1 + np.exp(-logits))], index=["film"], columns=list(CLASSES))
    boxes = pd.DataFrame(film["boxes"], columns=["class_name", "score", *BOX]).assign(image_id="film")
    person = pd.DataFrame([film["person"]], index=["film"])
    evidence = gather_evidence(
        ["film"], probabilities, dict(zip(FINDINGS, rng.uniform(0.2, 0.6, len(FINDINGS)), strict=True)), boxes,
        rng.uniform(0.25, 0.5), {"film": film["crude"]}, person, {"film": (films.SIZE, films.SIZE)},
    )["film"]  # fmt: skip
    there = {row["class_name"] for row in film["findings"]}
    if there and not there & evidence.present:
        return None
    prompt, left_out = build_prompt(evidence, tokenizer, PROMPT_TOKENS)
    if left_out:
        return None
    report = write_report(film["findings"], rng)["findings"]
    return prompt, told_answer(report, evidence, tokenizer, ANSWER_TOKENS)


def make_pairs(seen: list[dict], rng: np.random.Generator, tokenizer, diseases: pd.DataFrame) -> list[tuple[str, str]]:
    """Pairs of films, and of the disease table's sourced rows, in random order."""
    pairs = [film_pair(film, rng, tokenizer) for film in tqdm(seen, desc="pairs", unit="film")]
    pairs = [pair for pair in pairs if pair is not None]
    pairs += [disease_pair(row) for row in diseases[sourced_rows(diseases)].to_dict("records")]
    return [pairs[i] for i in rng.permutation(len(pairs))]


def teach_writer(shards: list[Path], folder: Path, work_dir: Path, seed: int):
    """Train a LoRA adapter of the upper layers from random weights.

    Args:
        shards: Files of `films.simulate_films` with SEED. folder: Where the pretrained parts lie.
        work_dir: Keeps what the eyes said, and checkpoints, until training is over: a stopped run goes on.
        seed: Of pairs, weights and order.

    Returns:
        The adapted model, the history (`training.fit`) and the number of pairs.
    """
    model, tokenizer, _ = load_base(BASE_MODEL, REPOSITORY / "data" / "models")
    seen = look(shards, work_dir / "seen_writer.json", folder)
    diseases, _ = read_diseases(REPOSITORY / "data" / "diseases.csv")
    pairs = make_pairs(seen, np.random.default_rng(seed), tokenizer, diseases)
    torch.manual_seed(seed)
    # The frozen weights in half the width: twice as fast where a processor multiplies in it; LoRA's own stay float32.
    model = lora.add_lora(model.to(torch.bfloat16), "causal_lm", **LORA)
    items, _ = batches.encode_pairs(tokenizer, pairs, LENGTH)
    plan = training.Plan(
        seed=seed, epochs=1, batch_size=BATCH, learning_rate=LEARNING_RATE, optimizer="adamw", scheduler="cosine",
        warmup_steps=50,
    )  # fmt: skip
    history = fine_tuning.fine_tune(
        model, tokenizer, items, plan, device="cpu", output_dir=work_dir / "checkpoints_writer", log_steps=50,
        checkpoint_steps=200, description="writer",
    )  # fmt: skip
    (work_dir / "seen_writer.json").unlink()
    return model, history, len(items)
