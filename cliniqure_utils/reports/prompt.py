"""The structured prompt: four inputs and one instruction, shortened where the model's context is short."""

from cliniqure_utils.reports.evidence import Evidence, age_in_words, clean_field

SYMPTOMS_LIMIT = 160  # characters of them in a prompt
INSTRUCTION = (
    "Write a chest X-ray report: describe the findings and their underlying causes, associated symptoms, diagnostic "
    "methods and treatment options."
)


def build_prompt(evidence: Evidence, tokenizer=None, max_tokens: int | None = None) -> tuple[str, int]:
    """The structured prompt of one film.

    Args:
        evidence: What is known about the film.
        tokenizer, max_tokens: With both, the prompt is made to fit: the crude report is halved and then left out, then
            the least certain findings and boxes go, never the instruction.

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
        if crude:
            crude = clean_field(crude, len(crude) // 2) if len(crude) > 80 else ""
        elif findings or boxes:
            if boxes and (not findings or boxes[-1][1] <= findings[-1][1]):
                boxes = boxes[:-1]
            else:
                findings = findings[:-1]
            dropped += 1
        else:
            return prompt, dropped


def _prompt(evidence: Evidence, findings, boxes, crude: str) -> str:
    person = [age_in_words(evidence.age_years), {"F": "female", "M": "male"}.get(evidence.sex or "", "")]
    lines = [
        "Patient: " + (", ".join(p for p in person if p) or "unknown"),
        "Symptoms: " + (clean_field(evidence.symptoms, SYMPTOMS_LIMIT) or "none given"),
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
