"""The evidence for a report: what the earlier stages found on a film, and where, in words."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from cliniqure_utils.vocabulary import BOX, FINDINGS, MIDLINE

FIELD_LIMIT = 400  # characters of a free text that are kept
ZONES = {"upper": (0.0, 0.38), "mid": (0.38, 0.58), "lower": (0.58, 1.0)}  # shares of the film's height


@dataclass
class Evidence:
    """What the earlier stages say about one film.

    Attributes:
        image_id: Film.
        findings: (name, probability in [0, 1]) of the findings above their threshold, any order.
        boxes: (name, score, place in words) of the detector's boxes above their threshold.
        corners: (x_min, y_min, x_max, y_max) of each of `boxes` in DICOM pixels; empty where unknown.
        crude_report: Text of the report model.
        age_years, sex, symptoms, indication: None or "" where unknown.
        height: Of the film, in the pixels of `corners`; None where unknown.
    """

    image_id: str
    findings: list[tuple[str, float]] = field(default_factory=list)
    boxes: list[tuple[str, float, str]] = field(default_factory=list)
    corners: list[tuple[float, float, float, float]] = field(default_factory=list)
    crude_report: str = ""
    age_years: float | None = None
    sex: str | None = None
    symptoms: str = ""
    indication: str = ""
    height: float | None = None

    @property
    def present(self) -> set[str]:
        """Names of the findings that the classifier or the detector reports."""
        return {name for name, _ in self.findings} | {name for name, _, _ in self.boxes}


def clean_field(value, limit: int = FIELD_LIMIT) -> str:
    """Text from a DICOM header, a CSV or a model as one harmless line: it cannot break out of its field.

    Control characters and line breaks become blanks, chat marks such as <|im_end|> and headings are taken apart, and
    the text is cut at `limit` characters.
    """
    if value is None or (isinstance(value, float) and value != value):
        return ""
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", str(value))
    text = re.sub(r"<[|/]?[^<>\s]{0,40}[|]?>", " ", text).replace("<|", " ").replace("|>", " ")
    text = re.sub(r"#{2,}|`{3,}", " ", text)
    text = re.sub(r"\s+", " ", text).strip()
    return text if len(text) <= limit else text[: limit - 1].rsplit(" ", 1)[0] + "…"


def noun_of(name: str) -> str:
    """A finding in the middle of a sentence, without an article: "interstitial lung disease", "pleural effusion"."""
    return {"ILD": "interstitial lung disease", "Nodule/Mass": "nodule or mass"}.get(name, name.lower())


def age_in_words(years: float | None) -> str:
    """ "54 years", of a small child "7 months"; "" where the age is not known."""
    if years is None or years != years:
        return ""
    if years >= 2:
        return f"{years:.0f} years"
    months = int(years * 12 + 0.05)  # a header's months come as years, rounded to two digits
    return "under 1 month" if months < 1 else f"{months} month{'s' if months > 1 else ''}"


def place_in_words(name: str, box: Sequence[float], width: float, height: float) -> str:
    """Box in pixels -> "left lower zone" and the like, by its centre.

    The patient's left is the right half of the film. Zones (`ZONES`) are about thirds of its height. Heart and aorta
    have no side: "midline". Source: ours.
    """
    if name in MIDLINE:
        return "midline"
    x, y = (box[0] + box[2]) / 2 / width, (box[1] + box[3]) / 2 / height
    zone = next((name for name, (_, end) in ZONES.items() if y < end), "lower")
    return f"{'left' if x > 0.5 else 'right'} {zone} zone"


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
        boxes, corners, seen = [], [], set()
        if image_id in groups:
            for box in groups[image_id].sort_values("score", ascending=False).itertuples():
                edges = tuple(float(getattr(box, name)) for name in BOX)
                place = place_in_words(box.class_name, edges, *sizes[image_id])
                if (box.class_name, place) not in seen:
                    seen.add((box.class_name, place))
                    boxes.append((box.class_name, float(box.score), place))
                    corners.append(edges)
        person = clinical.loc[image_id] if image_id in clinical.index else {}
        out[image_id] = Evidence(
            image_id,
            findings,
            boxes,
            corners,
            crude_reports.get(image_id, ""),
            person.get("age_years"),
            person.get("sex"),
            clean_field(person.get("symptoms")),
            clean_field(person.get("indication")),
            sizes[image_id][1],
        )
    return out
