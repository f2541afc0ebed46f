"""What the models say about a film -> a report of facts, prose and table text, as notebook 06 writes it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from cliniqure_utils import pretrained
from cliniqure_utils.notebooks import ran_with
from cliniqure_utils.project import REPOSITORY, MissingWeights, require
from cliniqure_utils.record import read_record
from cliniqure_utils.reports import (
    FIELD_LIMIT,
    SYMPTOMS_LIMIT,
    Evidence,
    Verified,
    assemble_report,
    build_prompt,
    clean_field,
    gather_evidence,
    load_knowledge,
    report_system,
    verify_texts,
)
from cliniqure_utils.reports.reading import impression, reading_order
from cliniqure_utils.vocabulary import BOX, CLASSES, DISCLAIMER, NO_FINDING

FEW_GREYS = (
    "This picture has only a few grey values, where a chest film has hundreds: what the models say about it is worth "
    "even less."
)
UNFAMILIAR = (
    "This film looks unlike the films that the run's models know (is it a frontal chest film, upright, with bright "
    "bones?): what they say about it is worth even less."
)
ADAPTERS = "05_finetune_llm/adapter"  # below the run folder
NOTEBOOKS = REPOSITORY / "notebooks"  # where a notebook's relative parameters start from


@dataclass(frozen=True)
class RunSettings:
    """What a run says about how its reports are written.

    Attributes:
        name: Of the run folder.
        profile, seed: From run.json (a list where notebooks ran with different ones); None where all were run by hand.
        thresholds: Least probability of each class, calibrated as probabilities.csv is.
        box_threshold: Least score of a box.
        system: Whose report people read, one of `reports.SYSTEMS`.
        base_model, models_dir, max_new_tokens, max_prompt_tokens, batch_size: As in notebook 06.
        knowledge: data/knowledge.csv or the run's own.
        simulated: The models were trained on simulated films.
        on_real_films: What the pretrained eyes that the run started from reached on films of patients: any_finding
            (AUROC, low, high), n_films, from pretrained.json; None where that is not known.
        started: When the run began, from run.json; None where all notebooks were run by hand.
        eyes: What classified instead of the run's classifier; None for that. left_out: Findings that they do not know.
        provenance: Of `provenance.provenance`.
    """

    name: str
    profile: str | list[str] | None
    seed: int | list[int] | None
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
    on_real_films: Mapping | None = None
    started: str | None = None
    eyes: str | None = None
    left_out: tuple[str, ...] = ()
    provenance: Mapping = field(default_factory=dict)

    @property
    def learnt_from(self) -> str:
        """What the models learnt from, as far as a reader must know it; of other eyes also what they do not know."""
        simulated = "trained on simulated films and never saw a real patient"
        if self.on_real_films:
            value, low, high = self.on_real_films["any_finding"]
            simulated += (
                f"; on {self.on_real_films['n_films']} real films (NIH ChestX-ray14) the eyes they started from reach "
                f"any finding AUROC {value:.2f} ({low:.2f} to {high:.2f}; guessing: 0.50)"
            )
        if self.eyes is None:
            return f"The models were {simulated}." if self.simulated else ""
        return (
            f"The probabilities are those of torchxrayvision's network {self.eyes}, which learnt from films of "
            f"patients. It was not asked about {', '.join(self.left_out)}, which it does not know. Boxes and crude "
            f"report are still of the run's own models{', ' + simulated if self.simulated else ''}."
        )

    def made_by(self, with_prose: bool) -> dict:
        """What made a report, as plain values."""
        return {
            **self.provenance,
            "run": self.name,
            "run_started": self.started,
            "profile": self.profile,
            "seed": self.seed,
            "simulated": self.simulated,
            "learnt_from": self.learnt_from,
            "eyes": self.eyes,
            "left_out": list(self.left_out),
            "language_model": self.base_model if with_prose else None,
            "box_threshold": self.box_threshold,
        }


def read_settings(run_dir: str | Path) -> RunSettings:
    """The settings of a run: its run.json where there is one, else the notebooks' own values.

    Raises:
        MissingInput: A file of the run is not there; the message names the notebook that makes it.
        CannotStart: run.json cannot be read.
    """
    run_dir = Path(run_dir)
    record = read_record(run_dir) if (run_dir / "run.json").is_file() else {}
    writing = ran_with(run_dir, "06_generate_report")
    box_threshold = writing["box_threshold"]
    if box_threshold is None:
        box_threshold = _read_json(run_dir, "02_detect/box_threshold.json")["score"]
    simulated = _is_simulated(run_dir, record)
    return RunSettings(
        name=run_dir.resolve().name,
        profile=record.get("profile"),
        seed=record.get("seed"),
        started=record.get("started"),
        thresholds=_read_json(run_dir, "03_classify/thresholds.json"),
        box_threshold=box_threshold,
        system=report_system(ran_with(run_dir, "07_evaluate")["report_system"], _adapters(run_dir)),
        base_model=writing["base_model"],
        models_dir=NOTEBOOKS / writing["models_dir"],
        max_new_tokens=writing["max_new_tokens"],
        max_prompt_tokens=writing["max_prompt_tokens"],
        batch_size=writing["batch_size"],
        knowledge=load_knowledge(NOTEBOOKS / writing["knowledge_table"]),
        simulated=simulated,
        on_real_films=_on_real_films(run_dir) if simulated else None,
    )


def _adapters(run_dir: Path) -> set[str]:
    """The systems for which the run has an adapter."""
    return {path.parent.name for path in (run_dir / ADAPTERS).glob("*/adapter_model.safetensors")}


def _is_simulated(run_dir: Path, record: Mapping) -> bool:
    """By run.json; where notebooks were run by hand, by the truth that only a simulated cohort has."""
    kind = record.get("data", {}).get("kind")
    return kind == "simulated" if kind else (run_dir / "01_preprocess" / "truth.csv").is_file()


def _on_real_films(run_dir: Path) -> Mapping | None:
    if ran_with(run_dir, "03_classify").get("weights") != "pretrained":
        return None
    try:
        return pretrained.settings_of("eyes").get("real")
    except MissingWeights:
        return None


def _read_json(run_dir: Path, name: str):
    return json.loads(require(run_dir, name).read_text(encoding="utf-8"))


class Writer:
    """The run's language model, loaded once.

    Attributes:
        adapter: File of its weights below the run folder; None for the base model.

    Raises:
        MissingWeights: The base model or the adapter is not here.
    """

    def __init__(self, run_dir: str | Path, settings: RunSettings, device: str):
        from cliniqure_utils.process import resolve_device
        from cliniqure_utils.writer import lora
        from cliniqure_utils.writer.base_model import load_base

        model, self.tokenizer, _ = load_base(settings.base_model, settings.models_dir)
        self.adapter = None
        if settings.system != "base":
            folder = f"{ADAPTERS}/{settings.system}"
            model = lora.load_adapter(model, Path(run_dir) / folder)
            self.adapter = f"{folder}/adapter_model.safetensors"
        self.model = model.to(resolve_device(device))
        self.settings = settings
        self.seed = ran_with(Path(run_dir), "06_generate_report")["seed"]

    def write(self, evidence: Sequence[Evidence]) -> list["Prose"]:
        """What the model writes about each film, and what the check leaves of it."""
        from cliniqure_utils.writer import generation

        built = [build_prompt(e, self.tokenizer, self.settings.max_prompt_tokens) for e in evidence]
        prompts, batch_size = [prompt for prompt, _ in built], self.settings.batch_size
        texts = generation.generate(
            self.model, self.tokenizer, prompts, self.settings.max_new_tokens, batch_size, description="writing reports"
        )
        ask = generation.ask_again(self.model, self.tokenizer, prompts, batch_size, self.seed)
        verified = verify_texts(evidence, texts, ask)
        return [Prose(*parts) for parts in zip(texts, verified, *zip(*built, strict=True), strict=True)]


@dataclass(frozen=True)
class Prose:
    """What the language model wrote about one film.

    Attributes:
        text: As written.
        verified: After the check.
        prompt: What it was asked.
        left_out: Number of findings and boxes that did not fit into the prompt.
    """

    text: str
    verified: Verified
    prompt: str
    left_out: int


def evidence_of(film: Mapping, settings: RunSettings, symptoms: str = "") -> Evidence:
    """What the run's models stand for on one film, by the run's thresholds."""
    image_id = film["image_id"]
    return gather_evidence(
        [image_id],
        pd.DataFrame([film["probabilities"]], index=[image_id], columns=list(CLASSES)),
        settings.thresholds,
        film["boxes"],
        settings.box_threshold,
        {image_id: film["crude_report"]},
        pd.DataFrame([{k: film[k] for k in ("age_years", "sex")} | {"symptoms": symptoms}], index=[image_id]),
        {image_id: (film["columns"], film["rows"])},
    )[image_id]


def build_report(
    film: Mapping, evidence: Evidence, settings: RunSettings, prose: Prose | None, symptoms: str = ""
) -> dict:
    """Everything about one film as plain values, ready for JSON.

    Of each finding: present (the classifier's probability reaches its threshold), detected (it has a box), said (the
    report says so: either of them; "No finding" where there is none). The boxes are numbered as the reading order is.

    Args:
        prose: Of the language model; None for a report of the facts alone.
        symptoms: As they were given; a note says how much of them is left out.
    """
    if prose is None:
        report, made = assemble_report(evidence, "", settings.knowledge, "template"), {"system": "template"}
    else:
        report = assemble_report(evidence, prose.text, settings.knowledge, settings.system, prose.verified)
        made = {"system": settings.system, "prompt": prose.prompt, "left_out_of_prompt": prose.left_out}
    age = film["age_years"]
    boxed = {name for name, _, _ in evidence.boxes}
    reading = reading_order(report["sections"]["findings"], settings.thresholds, film["rows"])
    doubts = [sentence for key, sentence in (("few_greys", FEW_GREYS), ("unfamiliar", UNFAMILIAR)) if film[key]]
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
            "notes": [*film["notes"], *_symptoms_notes(symptoms, with_prose=prose is not None)],
            "unfamiliar": film["unfamiliar"],
            "warning": " ".join(doubts),
        },
        "symptoms": evidence.symptoms,
        "impression": impression(reading),
        "reading": reading,
        "findings": [
            {
                "name": name,
                "probability": film["probabilities"][name],
                "threshold": float(settings.thresholds[name]),
                "present": bool(film["probabilities"][name] >= settings.thresholds[name]),
                "detected": name in boxed,
                "said": name in evidence.present or (name == NO_FINDING and not evidence.present),
            }
            for name in CLASSES
            if name not in settings.left_out
        ],
        "boxes": [
            {"class_name": entry["name"], "score": box["score"], "place": box["place"]}
            | dict(zip(BOX, box["box"], strict=True))
            for entry in reading
            for box in entry["boxes"]
        ],
        "crude_report": film["crude_report"],
        "report": {**made, "text": report["text"], **report["sections"]},
        "made_by": settings.made_by(with_prose=prose is not None),
    }


def _symptoms_notes(given: str, with_prose: bool) -> list[str]:
    """What of long symptoms a reader does not find in the report, or the language model was not told."""
    length, notes = len(clean_field(given, len(given) + 1)), []
    if length > FIELD_LIMIT:
        notes.append(f"the symptoms have {length} characters; only the first {FIELD_LIMIT} are kept")
    if with_prose and length > SYMPTOMS_LIMIT:
        notes.append(f"the language model was told only the first {SYMPTOMS_LIMIT} characters of the symptoms")
    return notes
