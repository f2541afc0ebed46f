"""What the models say about a film -> a report of facts, prose and table text, as notebook 06 writes it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cliniqure_utils.notebooks import load_notebook
from cliniqure_utils.project import REPOSITORY, CannotStart, require
from cliniqure_utils.record import parameters_of
from cliniqure_utils.reports import (
    Evidence,
    assemble_report,
    build_prompt,
    gather_evidence,
    load_knowledge,
    place_in_words,
)
from cliniqure_utils.reports.assembly import DISCLAIMER
from cliniqure_utils.vocabulary import BOX, FINDINGS, NO_FINDING

STEP, EVALUATION = "06_generate_report", "07_evaluate"


@dataclass(frozen=True)
class RunSettings:
    """What a run says about how its reports are written.

    Attributes:
        name: Of the run folder.
        profile, seed: From run.json; None where the notebooks were run by hand.
        thresholds: Least probability of each class. box_threshold: least score of a box.
        system: Which adapter writes: base, seq_cls or causal_lm.
        base_model, models_dir, max_new_tokens, max_prompt_tokens, batch_size: As in notebook 06.
        knowledge: data/knowledge.csv or the run's own.
        simulated: The models were trained on simulated films.
    """

    name: str
    profile: str | None
    seed: int | None
    thresholds: dict[str, float]
    box_threshold: float
    system: str
    base_model: str
    models_dir: Path
    max_new_tokens: int
    max_prompt_tokens: int
    batch_size: int
    knowledge: pd.DataFrame
    simulated: bool


def read_settings(run_dir: str | Path, notebooks_dir: str | Path | None = None) -> RunSettings:
    """The settings of a run: its run.json where there is one, else the notebooks' defaults.

    Raises:
        MissingInput: A file of the run is not there; the message names the notebook that makes it.
        CannotStart: run.json cannot be read.
    """
    run_dir, notebooks_dir = Path(run_dir), Path(notebooks_dir or REPOSITORY / "notebooks")
    record = {}
    if (run_dir / "run.json").is_file():
        try:
            record = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
        except ValueError as error:
            raise CannotStart(f"run.json in {run_dir.name} cannot be read ({error})") from None
    parameters = {
        name: load_notebook(notebooks_dir / f"{name}.ipynb").defaults | parameters_of(record, name)
        for name in (STEP, EVALUATION)
    }
    writing = parameters[STEP]
    box_threshold = writing["box_threshold"]
    if box_threshold is None:
        box_threshold = json.loads(_input(run_dir, "02_detect/box_threshold.json"))["score"]
    return RunSettings(
        name=run_dir.resolve().name,
        profile=record.get("profile"),
        seed=record.get("seed"),
        thresholds=json.loads(_input(run_dir, "03_classify/thresholds.json")),
        box_threshold=box_threshold,
        system=parameters[EVALUATION]["report_system"],
        base_model=writing["base_model"],
        models_dir=notebooks_dir / writing["models_dir"],
        max_new_tokens=writing["max_new_tokens"],
        max_prompt_tokens=writing["max_prompt_tokens"],
        batch_size=writing["batch_size"],
        knowledge=load_knowledge(notebooks_dir / writing["knowledge_table"]),
        simulated=record.get("data", {}).get("kind") == "simulated",
    )


def _input(run_dir: Path, name: str) -> str:
    return require(run_dir, name).read_text(encoding="utf-8")


def read_symptoms(path: str | Path) -> dict[str, str]:
    """A CSV with the columns image_id and symptoms -> {image id: text}. An image id is a file name without extension.

    Raises:
        CannotStart: No such file, other columns, or an image id with two texts.
    """
    path = Path(path)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise CannotStart(f"the symptoms in {path} cannot be read: {error}") from None
    missing = {"image_id", "symptoms"} - set(table.columns)
    if missing:
        raise CannotStart(f"{path.name}: expected columns image_id and symptoms, found {', '.join(table.columns)}")
    table = table.drop_duplicates()
    twice = table.image_id[table.image_id.duplicated()]
    if len(twice):
        raise CannotStart(f"{path.name}: {twice.iloc[0]} is there twice, with two texts")
    return dict(zip(table.image_id, table.symptoms, strict=True))


class Writer:
    """The run's language model, loaded once.

    Raises:
        llm.MissingWeights: The base model or the adapter is not here.
    """

    def __init__(self, run_dir: str | Path, settings: RunSettings, device: str):
        from cliniqure_utils.process import resolve_device
        from cliniqure_utils.writer import lora
        from cliniqure_utils.writer.base_model import load_base

        model, self.tokenizer, _ = load_base(settings.base_model, settings.models_dir)
        if settings.system != "base":
            model = lora.load_adapter(model, Path(run_dir) / "05_finetune_llm" / "adapter" / settings.system)
        self.model = model.to(resolve_device(device))
        self.settings = settings

    def write(self, evidence: Sequence[Evidence]) -> list[tuple[str, int]]:
        """(prose, number of findings and boxes that did not fit into the prompt) of each film."""
        from cliniqure_utils.writer import generation

        built = [build_prompt(e, self.tokenizer, self.settings.max_prompt_tokens) for e in evidence]
        texts = generation.generate(
            self.model, self.tokenizer, [prompt for prompt, _ in built], self.settings.max_new_tokens,
            self.settings.batch_size, description="writing reports",
        )  # fmt: skip
        return [(text, dropped) for text, (_, dropped) in zip(texts, built, strict=True)]


def evidence_of(film: Mapping, settings: RunSettings, symptoms: str = "") -> Evidence:
    """What the run's models stand for on one film, by the run's thresholds."""
    image_id = film["image_id"]
    return gather_evidence(
        [image_id],
        pd.DataFrame([film["probabilities"]], index=[image_id]),
        settings.thresholds,
        film["boxes"].assign(image_id=image_id),
        settings.box_threshold,
        {image_id: film["crude_report"]},
        pd.DataFrame([{k: film[k] for k in ("age_years", "sex")} | {"symptoms": symptoms}], index=[image_id]),
        {image_id: (film["columns"], film["rows"])},
    )[image_id]


def kept_boxes(film: Mapping, settings: RunSettings) -> list[dict]:
    """The boxes that the report speaks of: of each finding, the surest box at each place. Pixels of the file."""
    kept = {}
    boxes = film["boxes"][film["boxes"].score >= settings.box_threshold]
    for box in boxes.sort_values("score", ascending=False).to_dict("records"):
        corners = [float(box[name]) for name in BOX]
        place = place_in_words(box["class_name"], corners, film["columns"], film["rows"])
        entry = {"class_name": box["class_name"], "score": float(box["score"]), "place": place}
        kept.setdefault((box["class_name"], place), entry | dict(zip(BOX, corners, strict=True)))
    return list(kept.values())


def build_report(
    film: Mapping, evidence: Evidence, settings: RunSettings, prose: str | None, left_out: int = 0
) -> dict:
    """Everything about one film as plain values, ready for JSON.

    Args:
        prose: What the language model wrote; None for a report of the facts alone.
        left_out: Findings and boxes that did not fit into the prompt.
    """
    system = "template" if prose is None else settings.system
    report = assemble_report(evidence, prose or "", settings.knowledge, system)
    age = film["age_years"]
    return {
        "disclaimer": DISCLAIMER,
        "image_id": film["image_id"],
        "source": film["source"],
        "film": {
            "rows": film["rows"],
            "columns": film["columns"],
            "view": film["view"],
            "age_years": None if age is None or age != age else age,
            "sex": film["sex"],
            "notes": list(film["notes"]),
        },
        "symptoms": evidence.symptoms,
        "findings": [
            {
                "name": name,
                "probability": film["probabilities"][name],
                "threshold": float(settings.thresholds[name]),
                "present": bool(film["probabilities"][name] >= settings.thresholds[name]),
            }
            for name in (*FINDINGS, NO_FINDING)
        ],
        "boxes": kept_boxes(film, settings),
        "crude_report": film["crude_report"],
        "report": {"system": system, "text": report["text"], "left_out_of_prompt": left_out, **report["sections"]},
        "made_by": {
            "run": settings.name,
            "profile": settings.profile,
            "seed": settings.seed,
            "simulated": settings.simulated,
            "language_model": None if prose is None else settings.base_model,
            "box_threshold": settings.box_threshold,
        },
    }
