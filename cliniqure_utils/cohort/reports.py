"""Reports and clinical context for simulated films: a small grammar of our own in a radiologist's style.

Sentence forms are general knowledge of how chest reports are worded; none is taken from a real report. For teaching,
not for clinical use.
"""

import numpy as np

# Per finding: sentences for the findings section ({side}: left, right or bilateral; {zone}: upper, mid or lower;
# {size}: small, moderate or large), and phrases for the impression.
FORMS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Aortic enlargement": (
        (
            "The aortic arch is enlarged.",
            "There is aortic enlargement.",
            "The thoracic aorta is dilated and tortuous.",
            "The aortic knob is prominent, in keeping with aortic enlargement.",
        ),
        ("aortic enlargement", "dilated thoracic aorta"),
    ),
    "Atelectasis": (
        (
            "There is {side} {zone} zone atelectasis.",
            "A plate of atelectasis crosses the {side} {zone} zone.",
            "Band-like {side} {zone} zone density consistent with atelectasis.",
            "Volume loss in the {side} {zone} zone, consistent with atelectasis.",
        ),
        ("{side} {zone} zone atelectasis", "atelectasis in the {side} lung"),
    ),
    "Cardiomegaly": (
        (
            "The heart is enlarged.",
            "There is cardiomegaly.",
            "The cardiac silhouette is enlarged.",
            "Cardiomegaly with an increased cardiothoracic ratio.",
        ),
        ("cardiomegaly", "enlarged heart"),
    ),
    "Consolidation": (
        (
            "There is consolidation in the {side} {zone} zone.",
            "Dense {side} {zone} zone consolidation.",
            "Homogeneous airspace consolidation is seen in the {side} {zone} zone.",
            "The {side} {zone} zone shows {size} consolidation.",
        ),
        ("{side} {zone} zone consolidation", "consolidation of the {side} lung"),
    ),
    "ILD": (
        (
            "There is a diffuse reticular interstitial pattern in both lungs.",
            "Fine reticular markings throughout both lungs suggest interstitial lung disease.",
            "Bilateral interstitial lung disease with a fine net-like pattern.",
            "Diffusely increased interstitial markings bilaterally.",
        ),
        ("interstitial lung disease", "diffuse interstitial lung disease in both lungs"),
    ),
    "Infiltration": (
        (
            "There is patchy infiltration in the {side} {zone} zone.",
            "Ill-defined infiltrates in the {side} {zone} zone.",
            "Patchy infiltrates are seen in the {side} {zone} zone.",
            "The {side} {zone} zone shows {size} patchy infiltration.",
        ),
        ("{side} {zone} zone infiltration", "infiltrates in the {side} lung"),
    ),
    "Lung Opacity": (
        (
            "There is a hazy opacity in the {side} {zone} zone.",
            "A {size} opacity projects over the {side} {zone} zone.",
            "Vague {side} {zone} zone opacity.",
            "A faint lung opacity is seen in the {side} {zone} zone.",
        ),
        ("{side} {zone} zone opacity", "opacity in the {side} lung"),
    ),
    "Nodule/Mass": (
        (
            "There is a {size} nodule in the {side} {zone} zone.",
            "A rounded nodule projects over the {side} {zone} zone.",
            "A well-defined {side} {zone} zone nodule or mass.",
            "The {side} {zone} zone contains a {size} round mass.",
        ),
        ("{side} {zone} zone nodule or mass", "nodule or mass in the {side} lung"),
    ),
    "Pleural effusion": (
        (
            "There is a {size} {side} pleural effusion.",
            "A {size} {side} pleural effusion blunts the costophrenic angle.",
            "{Size} {side} pleural effusion with a meniscus.",
            "The {side} costophrenic angle is blunted by a {size} pleural effusion.",
        ),
        ("{size} {side} pleural effusion", "{side} pleural effusion"),
    ),
    "Pneumothorax": (
        (
            "There is a {size} {side} pneumothorax.",
            "A {side} pneumothorax is present with a visible pleural line.",
            "{Size} {side} pneumothorax.",
            "Air in the {side} pleural space, a {size} pneumothorax.",
        ),
        ("{size} {side} pneumothorax", "{side} pneumothorax"),
    ),
    "Pulmonary fibrosis": (
        (
            "There is pulmonary fibrosis in the {side} {zone} zone.",
            "Coarse fibrotic strands in the {side} {zone} zone.",
            "Fibrotic changes are seen in the {side} {zone} zone.",
            "The {side} {zone} zone shows pulmonary fibrosis.",
        ),
        ("{side} {zone} zone pulmonary fibrosis", "fibrotic changes in the {side} lung"),
    ),
}

# Normal statements, each with the findings that must be absent for it to be true.
HEART_NORMAL = ("The heart size is normal.", "The cardiac silhouette is normal in size.", "Normal heart size.")
AORTA_NORMAL = ("The aorta is unremarkable.", "The mediastinal contours are normal.", "Normal aortic contour.")
LUNGS_CLEAR = ("The lungs are clear.", "Both lungs are clear.", "The lungs are well expanded and clear.")
LUNGS = ("Atelectasis", "Consolidation", "ILD", "Infiltration", "Lung Opacity", "Nodule/Mass", "Pulmonary fibrosis")
NEGATIONS = {  # finding -> how it is called after "no"
    "Pleural effusion": "pleural effusion",
    "Pneumothorax": "pneumothorax",
    "Consolidation": "consolidation",
    "Nodule/Mass": "nodule",
}
BONES = (
    "The bones are intact.",
    "No acute bony abnormality.",
    "The visible skeleton is unremarkable.",
    "The osseous structures are unremarkable.",
)
NORMAL_IMPRESSION = (
    "No acute cardiopulmonary abnormality.",
    "Normal chest radiograph.",
    "No abnormality of heart or lungs.",
    "No active disease in the chest.",
)

SYMPTOMS = {
    "Aortic enlargement": ("high blood pressure", "chest discomfort", "back pain"),
    "Atelectasis": ("shortness of breath", "shallow breathing", "recent surgery"),
    "Cardiomegaly": ("swollen ankles", "shortness of breath on exertion", "fatigue"),
    "Consolidation": ("fever", "productive cough", "chills"),
    "ILD": ("dry cough", "shortness of breath on exertion", "fatigue"),
    "Infiltration": ("fever", "cough", "malaise"),
    "Lung Opacity": ("cough", "fever", "night sweats"),
    "Nodule/Mass": ("weight loss", "cough", "coughing up blood"),
    "Pleural effusion": ("shortness of breath", "pain on breathing in", "dull chest pain"),
    "Pneumothorax": ("sudden chest pain", "sudden shortness of breath"),
    "Pulmonary fibrosis": ("dry cough", "shortness of breath", "tuberculosis years ago"),
}
VAGUE = ("cough", "fatigue", "chest discomfort", "headache", "palpitations")
INDICATIONS = {
    "fever": "suspected pneumonia",
    "sudden chest pain": "sudden chest pain",
    "weight loss": "unexplained weight loss",
    "swollen ankles": "suspected heart failure",
    "high blood pressure": "hypertension work-up",
}


def write_report(findings: list[dict], size: int, rng: np.random.Generator) -> dict[str, str]:
    """Findings and impression of one film.

    Args:
        findings: True boxes: class_name, x_min ... y_max, side, zone. Empty for a normal film.
        size: Side of the film in pixels; box areas are judged against it.
        rng: Generator of this film's report.

    Returns:
        findings, impression, text (both joined by a blank). Never denies a finding that is there.
    """
    present = _describe(findings, size)
    sentences = [_fill(rng.choice(FORMS[name][0]), place) for name, place in present]
    rng.shuffle(sentences)
    names = {name for name, _ in present}

    normal = []
    if "Cardiomegaly" not in names:
        normal.append(rng.choice(HEART_NORMAL))
    if "Aortic enlargement" not in names and rng.random() < 0.6:
        normal.append(rng.choice(AORTA_NORMAL))
    if not names & set(LUNGS):
        normal.append(rng.choice(LUNGS_CLEAR))
    absent = [text for name, text in NEGATIONS.items() if name not in names]
    kept = [text for text in absent if rng.random() < 0.75] or absent[:1]
    if kept:
        listed = kept[0] if len(kept) == 1 else ", ".join(kept[:-1]) + " or " + kept[-1]
        normal.append(rng.choice(["There is no {}.", "No {}.", "No evidence of {}."]).format(listed))
    if rng.random() < 0.5:
        normal.append(rng.choice(BONES))
    # Most readers begin with what is wrong; some follow the anatomy from the heart outwards.
    ordered = sentences + normal if rng.random() < 0.7 else normal[:1] + sentences + normal[1:]

    if not present:
        impression = str(rng.choice(NORMAL_IMPRESSION))
    else:
        phrases = [_fill(rng.choice(FORMS[name][1]), place) for name, place in present]
        impression = ", ".join(phrases) + "."
        impression = impression[0].upper() + impression[1:]
    text = " ".join(str(sentence) for sentence in ordered)
    return {"findings": text, "impression": impression, "text": f"{text} {impression}"}


def clinical_context(findings: list[dict], age: int, sex: str, rng: np.random.Generator) -> dict:
    """age_years, sex, indication, symptoms (comma-separated, empty for some) that fit the findings."""
    pool = [symptom for name in sorted({f["class_name"] for f in findings}) for symptom in SYMPTOMS[name]]
    draws = rng.random(4)
    if not findings:
        pool = list(VAGUE) if draws[0] < 0.6 else []
    elif draws[0] < 0.1:
        pool = list(VAGUE)
    count = 1 + int(draws[1] < 0.7) + int(draws[1] < 0.3)
    order = rng.permutation(len(pool))[:count] if pool else []
    symptoms = list(dict.fromkeys(pool[i] for i in sorted(order)))
    indication = next((INDICATIONS[s] for s in symptoms if s in INDICATIONS), "")
    if not indication:
        indication = f"investigation of {symptoms[0]}" if symptoms else "routine examination"
    return {"age_years": age, "sex": sex, "indication": indication, "symptoms": ", ".join(symptoms)}


def _describe(findings: list[dict], size: int) -> list[tuple[str, dict]]:
    """One entry per finding and zone; two sides of one finding become "bilateral"."""
    groups: dict[str, list[dict]] = {}
    for finding in findings:
        groups.setdefault(finding["class_name"], []).append(finding)
    described = []
    for name in sorted(groups):
        boxes = groups[name]
        sides = {box["side"] for box in boxes}
        side = "bilateral" if {"left", "right"} <= sides else next(iter(sides))
        area = max((b["x_max"] - b["x_min"]) * (b["y_max"] - b["y_min"]) for b in boxes) / size**2
        extent = "small" if area < 0.03 else "moderate" if area < 0.10 else "large"
        described.append((name, {"side": side, "zone": boxes[0]["zone"], "size": extent}))
    return described


def _fill(form: str, place: dict) -> str:
    text = str(form)
    if place["side"] == "bilateral":
        # "the bilateral lower zone" is no English; both sides are named by the plural.
        for singular, plural in (
            ("the {side} {zone} zone shows", "both {zone} zones show"),
            ("The {side} {zone} zone shows", "Both {zone} zones show"),
            ("The {side} {zone} zone contains a", "Both {zone} zones contain a"),
            ("The {side} costophrenic angle is", "Both costophrenic angles are"),
            ("the {side} {zone} zone", "both {zone} zones"),
            ("the {side} lung", "both lungs"),
            ("the {side} pleural space", "both pleural spaces"),
            ("There is a {size} {side}", "There is {size} {side}"),
            ("A {size} {side}", "{Size} {side}"),
            ("A {side}", "Bilateral"),
            ("a {size} pleural effusion", "{size} pleural effusions"),
        ):
            text = text.replace(singular, plural)
    return text.format(**place, Size=place["size"].capitalize())
