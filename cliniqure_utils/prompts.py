"""Section 6.1: the structured prompt, and the report made of facts, prose and cited table text.

Facts come from the classifier and the detector and are written by a template; prose comes from the language model and
every sentence of it is checked against the facts; recommendations come from `data/knowledge.csv`, marked as such.
For teaching, not for clinical use.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from cliniqure_utils import labeller
from cliniqure_utils.vindr import FINDINGS

DISCLAIMER = "For teaching only, not for clinical use."
MIDLINE = ("Cardiomegaly", "Aortic enlargement")
STATUSES = ("supported", "contradicted", "unsupported", "neutral")
INSTRUCTION = (
    "Write a chest X-ray report: describe the findings and their underlying causes, associated symptoms, diagnostic "
    "methods and treatment options."
)


@dataclass
class Evidence:
    """What the earlier stages say about one film.

    Attributes:
        image_id: Film.
        findings: (name, probability in [0, 1]) of the findings above their threshold, any order.
        boxes: (name, score, place in words) of the detector's boxes above their threshold.
        crude_report: Text of the report model.
        age_years, sex, symptoms, indication: None or "" where unknown.
    """

    image_id: str
    findings: list[tuple[str, float]] = field(default_factory=list)
    boxes: list[tuple[str, float, str]] = field(default_factory=list)
    crude_report: str = ""
    age_years: float | None = None
    sex: str | None = None
    symptoms: str = ""
    indication: str = ""

    @property
    def present(self) -> set[str]:
        """Names that the classifier or the detector stands for."""
        return {name for name, _ in self.findings} | {name for name, _, _ in self.boxes}


def place_in_words(name: str, box: Sequence[float], width: float, height: float) -> str:
    """Box in pixels -> "left lower zone" and the like, by its centre.

    The patient's left is the right half of the film. Zones are thirds of the film's height. Heart and aorta have no
    side: "midline". Source: ours.
    """
    if name in MIDLINE:
        return "midline"
    x, y = (box[0] + box[2]) / 2 / width, (box[1] + box[3]) / 2 / height
    zone = "upper" if y < 0.38 else "mid" if y < 0.58 else "lower"
    return f"{'left' if x > 0.5 else 'right'} {zone} zone"


def clean_field(value, limit: int = 400) -> str:
    """Text from a DICOM header, a CSV or a model as one harmless line: it cannot break out of its field.

    Control characters and line breaks become blanks, chat marks such as <|im_end|> and headings are taken apart, and
    the text is cut at `limit` characters.
    """
    if value is None or (isinstance(value, float) and value != value):
        return ""
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", str(value))
    text = re.sub(r"<[|/]?[^<>]{0,40}[|]?>", " ", text).replace("<|", " ").replace("|>", " ")
    text = re.sub(r"#{2,}|`{3,}", " ", text)
    text = re.sub(r"\s+", " ", text).strip()
    return text if len(text) <= limit else text[: limit - 1].rsplit(" ", 1)[0] + "…"


def build_prompt(evidence: Evidence, tokenizer=None, max_tokens: int | None = None) -> tuple[str, int]:
    """The structured prompt of one film.

    Args:
        evidence: What is known about the film.
        tokenizer, max_tokens: With both, the prompt is made to fit: the crude report is shortened first, then the least
            certain findings go, never the instruction.

    Returns:
        (prompt, number of findings and boxes left out).
    """
    findings = sorted(evidence.findings, key=lambda f: (-f[1], f[0]))
    boxes = sorted(evidence.boxes, key=lambda b: (-b[1], b[0]))
    crude = clean_field(evidence.crude_report, 320)
    dropped = 0
    while True:
        prompt = _prompt(evidence, findings, boxes, crude)
        if tokenizer is None or max_tokens is None:
            return prompt, dropped
        if len(tokenizer(prompt).input_ids) <= max_tokens:
            return prompt, dropped
        if len(crude) > 80:
            crude = clean_field(crude, len(crude) // 2)
        elif findings or boxes:
            if boxes and (not findings or boxes[-1][1] <= findings[-1][1]):
                boxes = boxes[:-1]
            else:
                findings = findings[:-1]
            dropped += 1
        elif crude:
            crude = ""
        else:
            return prompt, dropped


def _prompt(evidence: Evidence, findings, boxes, crude: str) -> str:
    known_age = evidence.age_years is not None and evidence.age_years == evidence.age_years
    age = f"{evidence.age_years:.0f} years" if known_age else ""
    person = [age, {"F": "female", "M": "male"}.get(evidence.sex or "", "")]
    lines = [
        "Patient: " + (", ".join(p for p in person if p) or "unknown"),
        "Symptoms: " + (clean_field(evidence.symptoms, 160) or "none given"),
        "Classified: " + (", ".join(f"{n} {p:.2f}" for n, p in findings) or "No finding"),
        "Detected: " + (_detected(boxes) or "nothing"),
    ]
    if crude:
        lines.append("Crude report: " + crude)
    return "\n".join([*lines, INSTRUCTION])


def _detected(boxes) -> str:
    """Boxes in words, one entry per finding: "Pleural effusion in the left lower zone and right lower zone"."""
    places: dict[str, list[str]] = {}
    for name, _, place in boxes:
        places.setdefault(name, [])
        if place != "midline" and place not in places[name]:
            places[name].append(place)
    return ", ".join(f"{name} in the {' and '.join(found)}" if found else name for name, found in places.items())


# ---- knowledge


KNOWLEDGE = ("cause", "symptoms", "diagnostic_methods", "treatment_options", "red_flags")


def load_knowledge(path: str | Path) -> pd.DataFrame:
    """data/knowledge.csv, indexed by finding.

    Columns: those of KNOWLEDGE, source ("unsourced" where no page was read), source_date, sourced_fields (which of
    KNOWLEDGE the page says, joined by "; "; the others are ours).

    Raises:
        ValueError: A finding is missing or named twice.
    """
    table = pd.read_csv(path, dtype=str, keep_default_na=False).set_index("finding")
    if sorted(table.index) != sorted(FINDINGS):
        raise ValueError(f"{Path(path).name}: expected one row per finding, found {', '.join(table.index)}")
    return table


def recommendations(names: Sequence[str], knowledge: pd.DataFrame) -> list[dict]:
    """Table text for findings whose row has a source: finding, KNOWLEDGE, source, source_date.

    A field that the source does not say is empty.
    """
    rows = knowledge.loc[[name for name in FINDINGS if name in set(names)]]
    entries = rows[rows.source != "unsourced"].reset_index().to_dict("records")
    for entry in entries:
        said = entry.pop("sourced_fields").split("; ")
        entry.update({field: "" for field in KNOWLEDGE if field not in said})
    return entries


# ---- checking


def check_sentences(text: str, evidence: Evidence) -> list[dict]:
    """Hold every sentence of a text against the evidence.

    Returns:
        One dict per sentence: sentence, status. "contradicted": it states a finding that neither model stands for, on a
        side where none was found, or denies one that is there (or all of them: "normal chest"). "supported": what it
        says about findings agrees with the evidence. "neutral": it names no finding. "unsupported": it leaves open a
        finding that is not in the evidence.
    """
    sides: dict[str, set[str]] = {}
    for name, _, place in evidence.boxes:
        sides.setdefault(name, set()).add(place.split()[0])
    mentions = labeller.find_mentions(text)
    checked = []
    for number, sentence in enumerate(labeller.split_sentences(text)):
        # "Normal chest radiograph" denies everything at once; "no acute abnormality" leaves old findings open.
        whole = labeller.overall_statement(sentence)
        status = "neutral" if whole is None or (whole == "no acute" and evidence.present) else "supported"
        if whole == "normal" and evidence.present:
            status = "contradicted"
        for mention in mentions:
            if mention.sentence != number:
                continue
            there = mention.finding in evidence.present
            found = sides.get(mention.finding, set()) - {"midline"}
            side = {"both": {"left", "right"}}.get(mention.side, {mention.side} if mention.side else set())
            if (mention.status == "absent") == there:
                verdict = "unsupported" if mention.status == "uncertain" else "contradicted"
            elif there and side and found and not side & found:
                verdict = "contradicted"
            else:
                verdict = "supported"
            status = max(status, verdict, key=("neutral", "supported", "unsupported", "contradicted").index)
        checked.append({"sentence": sentence, "status": status})
    return checked


# ---- reports


def template_report(evidence: Evidence) -> str:
    """The plain report from the facts alone: the baseline every written report must beat."""
    if not evidence.present:
        return "No finding is reported by the models."
    probability = dict(evidence.findings)
    sentences = []
    for name in FINDINGS:
        if name not in evidence.present:
            continue
        places = list(dict.fromkeys(w for n, _, w in evidence.boxes if n == name and w != "midline"))
        where = f" in the {' and the '.join(places)}" if places else ""
        certainty = f" (probability {probability[name]:.2f})" if name in probability else ""
        sentences.append(f"There is {_in_prose(name)}{where}{certainty}.")
    return " ".join(sentences)


def _in_prose(name: str) -> str:
    return {"ILD": "interstitial lung disease", "Nodule/Mass": "a nodule or mass", "Lung Opacity": "a lung opacity",
            "Pleural effusion": "a pleural effusion", "Pneumothorax": "a pneumothorax",
            "Other lesion": "another lesion"}.get(name, name.lower())  # fmt: skip


def assemble_report(evidence: Evidence, prose: str, knowledge: pd.DataFrame, system: str) -> dict:
    """Join facts, prose and table text into one report.

    Returns:
        dict with `text` (what is scored: the prose as written, or the template's text) and `sections`: facts, checked
        (sentences with their status), recommendations (table rows with source), disclaimer.
    """
    facts = template_report(evidence)
    text = facts if system == "template" else prose
    return {
        "text": text,
        "sections": {
            "facts": facts,
            "checked": check_sentences(text, evidence),
            "recommendations": recommendations(sorted(evidence.present), knowledge),
            "disclaimer": DISCLAIMER,
        },
    }


def gather_evidence(
    image_ids: Sequence[str],
    probabilities: pd.DataFrame,
    thresholds: Mapping[str, float],
    predictions: pd.DataFrame,
    box_threshold: float,
    crude_reports: Mapping[str, str],
    clinical: pd.DataFrame,
    sizes: Mapping[str, tuple[float, float]],
) -> dict[str, Evidence]:
    """Evidence of several films from the files of notebooks 01-04.

    Args:
        probabilities: Indexed by image_id, the 15 class columns. thresholds: per class.
        predictions: predictions.csv. box_threshold: least score of a box.
        crude_reports: image_id -> text. clinical: indexed by image_id.
        sizes: image_id -> (width, height) in DICOM pixels.
    """
    chosen = predictions[predictions.score >= box_threshold]
    groups = dict(list(chosen.groupby("image_id")))
    out = {}
    for image_id in image_ids:
        row = probabilities.loc[image_id]
        findings = [(n, float(row[n])) for n in FINDINGS if row[n] >= thresholds[n]]
        boxes, seen = [], set()
        if image_id in groups:
            for box in groups[image_id].sort_values("score", ascending=False).itertuples():
                place = place_in_words(box.class_name, (box.x_min, box.y_min, box.x_max, box.y_max), *sizes[image_id])
                if (box.class_name, place) not in seen:
                    seen.add((box.class_name, place))
                    boxes.append((box.class_name, float(box.score), place))
        person = clinical.loc[image_id] if image_id in clinical.index else {}
        out[image_id] = Evidence(
            image_id, findings, boxes, crude_reports.get(image_id, ""), person.get("age_years"), person.get("sex"),
            clean_field(person.get("symptoms")), clean_field(person.get("indication")),
        )  # fmt: skip
    return out


# ---- training pairs


def rehearse_evidence(
    image_ids: Sequence[str],
    labels: pd.DataFrame,
    boxes: pd.DataFrame,
    reports: Mapping[str, dict],
    clinical: pd.DataFrame,
    sizes: Mapping[str, tuple[float, float]],
    seed: int,
) -> dict[str, Evidence]:
    """Evidence of training films in the form that the earlier stages give for unseen ones, but true.

    A writer must learn to say what the prompt lists, so every listed finding is in the film's report. What differs
    between films of the other splits is imitated: probabilities anywhere from 0.15 to 1, in the order in which the
    impression names the findings; four boxes in ten missed; for one film in four a crude report that belongs to another
    film, since crude reports are not to be trusted. Source: ours.

    Args:
        labels: Indexed by image_id, class columns 0/1 (`vindr.label_matrix`). boxes: annotations, one class per row.
        reports: image_id -> dict with impression and text.
        clinical, sizes: As in `gather_evidence`.
    """
    rng = np.random.default_rng(seed)
    probabilities = pd.DataFrame(0.0, index=list(image_ids), columns=labels.columns)
    for image_id in image_ids:
        named = [mention.finding for mention in labeller.find_mentions(reports[image_id]["impression"])]
        present = [name for name in FINDINGS if labels.loc[image_id, name]]
        present.sort(key=lambda name, named=named: named.index(name) if name in named else len(named))
        probabilities.loc[image_id, present] = sorted(rng.uniform(0.15, 1.0, len(present)), reverse=True)
    found = boxes[rng.random(len(boxes)) < 0.6].assign(score=1.0)
    others = rng.permutation(np.array(image_ids, dtype=object))
    crude = {i: reports[o]["text"] for i, o in zip(image_ids, others, strict=True) if rng.random() < 0.25}
    return gather_evidence(
        image_ids, probabilities, dict.fromkeys(FINDINGS, 0.1), found, 0.5, crude, clinical, sizes
    )  # fmt: skip


def training_answer(report: Mapping[str, str], tokenizer, max_tokens: int) -> str:
    """What the writer should answer: the impression, then as many whole sentences of the findings as fit.

    The impression comes first: it names the findings in a few words, so that even a short text holds them.
    """
    text = report["impression"].strip()
    for sentence in labeller.split_sentences(report["findings"]):
        longer = f"{text} {sentence}".strip()
        if text and len(tokenizer(longer).input_ids) > max_tokens:
            break
        text = longer
    return text
