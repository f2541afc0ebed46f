"""Reports and clinical context for simulated films: a small grammar of our own in a radiologist's style.

Sentence forms are general knowledge of how chest reports are worded; none is taken from a real report. Fewer than 400
different words, so that a small model can learn them. For teaching, not for clinical use.
"""

import numpy as np

from cliniqure_utils.vocabulary import FINDINGS

# Per finding: sentences for the findings section and phrases for the impression. {place}: "the left upper zone", "both
# upper zones", "the left upper and right lower zones". {where}: the same before a noun. {side}: left, right or
# bilateral. {size}: small, moderate or large.
Forms = tuple[tuple[str, ...], tuple[str, ...]]
FORMS: dict[str, Forms] = {
    "Aortic enlargement": (
        (
            "The aortic arch is enlarged.",
            "There is aortic enlargement.",
            "The thoracic aorta is dilated and tortuous.",
            "The aortic knob is prominent, in keeping with aortic enlargement.",
            "Enlarged and tortuous thoracic aorta.",
        ),
        ("aortic enlargement", "dilated thoracic aorta"),
    ),
    "Atelectasis": (
        (
            "There is atelectasis in {place}.",
            "Linear atelectasis is seen in {place}.",
            "Plate-like atelectasis crosses {place}.",
            "Band-like density in {place} consistent with atelectasis.",
            "{Where} atelectasis.",
        ),
        ("{where} atelectasis", "atelectasis in {place}"),
    ),
    "Cardiomegaly": (
        (
            "The heart is enlarged.",
            "There is cardiomegaly.",
            "The cardiac silhouette is enlarged.",
            "Cardiomegaly with an increased cardiothoracic ratio.",
            "Enlarged cardiac silhouette.",
        ),
        ("cardiomegaly", "enlarged heart"),
    ),
    "Consolidation": (
        (
            "There is consolidation in {place}.",
            "Dense {where} consolidation with air bronchograms.",
            "Airspace consolidation is seen in {place}.",
            "Homogeneous {where} consolidation.",
            "{Size} area of consolidation in {place}.",
        ),
        ("{where} consolidation", "consolidation in {place}"),
    ),
    "ILD": (
        (
            "There is a diffuse reticular interstitial pattern in both lungs.",
            "Fine reticular markings throughout both lungs suggest interstitial lung disease.",
            "Diffuse interstitial lung disease with a fine reticular pattern.",
            "Diffusely increased interstitial markings in both lungs.",
            "Reticular interstitial changes throughout both lungs.",
        ),
        ("interstitial lung disease", "diffuse interstitial lung disease"),
    ),
    "Infiltration": (
        (
            "There is patchy infiltration in {place}.",
            "Ill-defined infiltrates in {place}.",
            "Patchy infiltrates are seen in {place}.",
            "Patchy {where} infiltration.",
            "{Size} area of patchy infiltration in {place}.",
        ),
        ("{where} infiltration", "patchy infiltrates in {place}"),
    ),
    "Lung Opacity": (
        (
            "There is hazy opacity in {place}.",
            "Hazy opacity projects over {place}.",
            "Vague {where} opacity.",
            "Faint opacity is seen in {place}.",
            "{Size} hazy opacity in {place}.",
        ),
        ("{where} opacity", "hazy opacity in {place}"),
    ),
    "Calcification": (
        (
            "There are calcifications in {place}.",
            "Dense calcified spots in {place}.",
            "A group of calcifications projects over {place}.",
            "Coarse {where} calcifications.",
            "Grouped calcified granulomas in {place}.",
            "{Where} calcifications.",
        ),
        ("{where} calcifications", "calcifications in {place}"),
    ),
    "Lung cavity": (
        (
            "There is a cavity in {place}.",
            "A thick-walled cavity in {place}.",
            "A {where} cavity with a thick wall is seen.",
            "{Where} cavity with a rounded outline.",
            "Ring-shaped {where} cavity.",
        ),
        ("{where} cavity", "cavity in {place}"),
    ),
    "Lung cyst": (
        (
            "There is a lung cyst in {place}.",
            "A thin-walled lung cyst projects over {place}.",
            "{Where} bulla with a hairline wall.",
            "A dark {where} bulla is seen.",
            "Thin-walled cystic lesion in {place}.",
        ),
        ("{where} bulla", "lung cyst in {place}"),
    ),
    "apical thickening": (
        (
            "There is {side} apical pleural thickening.",
            "{Side} apical pleural thickening.",
            "Pleural thickening over the apex on the {side_only} side.",
            "A dense {side} apical cap.",
            "The apex is capped by {side} pleural thickening.",
        ),
        ("{side} apical pleural thickening", "{side} pleural thickening"),
    ),
    "lateral thickening": (
        (
            "There is pleural thickening along the {side} chest wall.",
            "Band of {side} pleural thickening along the ribs.",
            "{Side} lateral pleural thickening.",
            "Thickened pleura on the {side_only} side.",
            "Dense pleural thickening next to the {side} ribs.",
        ),
        ("{side} pleural thickening", "pleural thickening along the {side} chest wall"),
    ),
    "Pulmonary fibrosis": (
        (
            "There is pulmonary fibrosis in {place}.",
            "Coarse fibrotic strands in {place}.",
            "Fibrotic changes are seen in {place}.",
            "{Where} fibrosis with coarse strands.",
            "Coarse scarring and fibrosis in {place}.",
        ),
        ("{where} pulmonary fibrosis", "fibrotic changes in {place}"),
    ),
}
# Things that are counted need a form for one and a form for several.
ONE: dict[str, Forms] = {
    "Nodule/Mass": (
        (
            "There is a rounded {noun} in {place}.",
            "A well-defined {noun} projects over {place}.",
            "Solitary {where} {noun}.",
            "A {where} {noun} is seen.",
            "A round {noun} is present in {place}.",
        ),
        ("{where} {noun}", "{noun} in {place}"),
    ),
    "Pleural effusion": (
        (
            "A {size} {side} pleural effusion can be seen.",
            "A {size} {side} pleural effusion blunts the costophrenic angle.",
            "{Size} {side} pleural effusion with a meniscus.",
            "The {side} costophrenic angle is blunted by a {size} pleural effusion.",
            "{Size} {side} pleural effusion.",
        ),
        ("{size} {side} pleural effusion", "{side} pleural effusion"),
    ),
    "Pneumothorax": (
        (
            "There is a {size} {side} pneumothorax.",
            "A {side} pneumothorax is present with a visible pleural line.",
            "{Size} {side} pneumothorax.",
            "Air in the {side} pleural space consistent with a {size} pneumothorax.",
            "{Size} {side} apical pneumothorax.",
        ),
        ("{size} {side} pneumothorax", "{side} pneumothorax"),
    ),
}
SEVERAL: dict[str, Forms] = {
    "Nodule/Mass": (
        (
            "There are rounded {noun} in {place}.",
            "Several well-defined {noun} project over {place}.",
            "Multiple {where} {noun}.",
            "Multiple {noun} are seen in {place}.",
        ),
        ("{where} {noun}", "multiple {noun} in {place}"),
    ),
    "Pleural effusion": (
        (
            "{Size} bilateral pleural effusions can be seen.",
            "{Size} bilateral pleural effusions blunt both costophrenic angles.",
            "Bilateral pleural effusions, {size} in size.",
            "{Size} bilateral pleural effusions.",
        ),
        ("{size} bilateral pleural effusions", "bilateral pleural effusions"),
    ),
}

# Normal statements; each is used only where it is true.
HEART_NORMAL = (
    "The heart is of normal size.",
    "The heart shadow has a normal width.",
    "Heart size lies within the norm.",
    "No enlargement of the heart.",
)
AORTA_NORMAL = (
    "The aorta follows its normal course.",
    "Normal aortic contour.",
    "The aortic arch is of normal width.",
)
HEART_AND_AORTA_NORMAL = (
    "Heart and mediastinum have a normal outline.",
    "The mediastinal outline including the heart is normal.",
)
LUNGS_CLEAR = (
    "Both lungs are clear throughout.",
    "The lungs are aerated and clear.",
    "The lung fields are clear.",
    "Clear lungs on both sides.",
)
LUNGS = (
    "Atelectasis", "Calcification", "Consolidation", "ILD", "Infiltration", "Lung Opacity", "Nodule/Mass",
    "Other lesion", "Pleural effusion", "Pleural thickening", "Pneumothorax", "Pulmonary fibrosis",
)  # fmt: skip
# Finding -> what a report calls it when it says that it is not there, and how often it says so.
DENIED = {
    "Pleural effusion": ("pleural effusion", 0.7),
    "Pneumothorax": ("pneumothorax", 0.7),
    "Consolidation": ("consolidation", 0.6),
    "Nodule/Mass": ("nodule", 0.5),
    "Calcification": ("calcification", 0.2),
    "Pleural thickening": ("pleural thickening", 0.2),
}
DENIALS = (
    "There is no sign of {}.",
    "No sign of {}.",
    "No {} can be made out.",
    "Signs of {} are absent.",
)
BONES = (
    "Ribs and spine are intact.",
    "The skeleton in view is intact.",
    "The visible bones are unremarkable.",
    "The bones shown have no visible injury.",
)
NORMAL_IMPRESSION = (
    "No acute finding in the chest.",
    "Normal chest radiograph.",
    "Heart and lungs without abnormality.",
    "No active disease of the chest.",
    "No acute disease.",
)
IMPRESSION_ENDS = ("", "", "", " Clinical correlation is advised.", " Follow-up is advised.")

SYMPTOMS = {
    "Aortic enlargement": ("high blood pressure", "chest discomfort", "back pain"),
    "Atelectasis": ("shortness of breath", "shallow breathing", "recent surgery"),
    "Calcification": ("tuberculosis years ago", "cough"),
    "Cardiomegaly": ("swollen ankles", "shortness of breath on exertion", "fatigue"),
    "Consolidation": ("fever", "productive cough", "chills"),
    "ILD": ("dry cough", "shortness of breath on exertion", "fatigue"),
    "Infiltration": ("fever", "cough", "malaise"),
    "Lung Opacity": ("cough", "fever", "night sweats"),
    "Nodule/Mass": ("weight loss", "cough", "coughing up blood"),
    "Other lesion": ("night sweats", "coughing up blood", "productive cough"),
    "Pleural thickening": ("dull chest pain", "work with asbestos", "tuberculosis years ago"),
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
    "coughing up blood": "coughing up blood",
    "recent surgery": "after surgery",
    "shortness of breath": "shortness of breath",
    "shortness of breath on exertion": "shortness of breath on exertion",
    "dry cough": "chronic cough",
    "night sweats": "suspected tuberculosis",
    "tuberculosis years ago": "tuberculosis years ago",
    "work with asbestos": "work with asbestos",
}
ROUTINE = ("routine examination", "pre-employment check", "before surgery")

# Findings with several appearances: kind in the truth -> key of FORMS; the first where the truth does not say.
_LOOKS = {
    "Other lesion": {"": "Lung cavity", "Lung cavity": "Lung cavity", "Lung cyst": "Lung cyst"},
    "Pleural thickening": {"": "apical thickening", "apical": "apical thickening", "lateral": "lateral thickening"},
}

MASS_MM = 30.0  # above this diameter a nodule is called a mass (Hansell et al. 2008, doi 10.1148/radiol.2462070712)


def write_report(findings: list[dict], rng: np.random.Generator) -> dict[str, str]:
    """Findings and impression of one film.

    Args:
        findings: True boxes as `patient.Film.findings` holds them (class_name, side, zone, extent, kind). Empty: a
            normal film.
        rng: Generator of this film's report.

    Returns:
        findings, impression, text (both joined by a blank). Names every finding that is there, denies none of them.
    """
    groups = {name: [f for f in findings if f["class_name"] == name] for name in FINDINGS}
    present = {name: _describe(name, group) for name, group in groups.items() if group}
    sentences, phrases = [], []
    for name, words in present.items():
        form = _LOOKS.get(name, {}).get(words["kind"], name)
        forms = FORMS.get(form) or (SEVERAL if words["several"] and name in SEVERAL else ONE)[name]
        sentences.append(_choose(rng, forms[0]).format(**words))
        phrases.append(_choose(rng, forms[1]).format(**words))
    rng.shuffle(sentences)

    normal = []
    if "Cardiomegaly" not in present and "Aortic enlargement" not in present and rng.random() < 0.3:
        normal.append(_choose(rng, HEART_AND_AORTA_NORMAL))
    else:
        if "Cardiomegaly" not in present:
            normal.append(_choose(rng, HEART_NORMAL))
        if "Aortic enlargement" not in present and rng.random() < 0.6:
            normal.append(_choose(rng, AORTA_NORMAL))
    if not set(present) & set(LUNGS):
        normal.append(_choose(rng, LUNGS_CLEAR))
    absent = [said for name, said in DENIED.items() if name not in present]
    denied = [words for words, chance in absent if rng.random() < chance] or [words for words, _ in absent[:1]]
    if denied:
        listed = denied[0] if len(denied) == 1 else ", ".join(denied[:-1]) + " or " + denied[-1]
        normal.append(_choose(rng, DENIALS).format(listed))
    if rng.random() < 0.5:
        normal.append(_choose(rng, BONES))
    # Most readers begin with what is wrong; some follow the anatomy from the heart outwards.
    ordered = sentences + normal if rng.random() < 0.7 else normal[:1] + sentences + normal[1:]

    if present:
        impression = ", ".join(phrases[:-1]) + (" and " if len(phrases) > 1 else "") + phrases[-1] + "."
        impression = impression[0].upper() + impression[1:] + _choose(rng, IMPRESSION_ENDS)
    else:
        impression = _choose(rng, NORMAL_IMPRESSION)
    text = " ".join(ordered)
    return {"findings": text, "impression": impression, "text": f"{text} {impression}"}


def clinical_context(
    findings: list[dict], age: int, sex: str, rng: np.random.Generator, is_follow_up: bool = False
) -> dict:
    """age_years, sex, indication, symptoms (comma-separated, empty for some) that fit the findings.

    Normal films get vague symptoms or none; so do a tenth of the abnormal ones, whose finding is a chance find. A
    second film of a patient is indicated as a follow-up.
    """
    pool = [symptom for name in sorted({f["class_name"] for f in findings}) for symptom in SYMPTOMS[name]]
    draws = rng.random(3)
    if not findings:
        pool = list(VAGUE) if draws[0] < 0.6 else []
    elif draws[0] < 0.1:
        pool = list(VAGUE) if draws[0] < 0.06 else []
    count = 1 + int(draws[1] < 0.7) + int(draws[1] < 0.3)
    order = rng.permutation(len(pool))[:count]
    symptoms = list(dict.fromkeys(pool[i] for i in sorted(order)))
    indication = next((INDICATIONS[s] for s in symptoms if s in INDICATIONS), "")
    if not indication:
        indication = f"investigation of {symptoms[0]}" if symptoms else ROUTINE[int(draws[2] * len(ROUTINE))]
    if is_follow_up:
        indication = "follow-up"
    return {"age_years": age, "sex": sex, "indication": indication, "symptoms": ", ".join(symptoms)}


def _describe(name: str, group: list[dict]) -> dict:
    """The words that fill a form: where, how large, how many."""
    places = sorted({(box["side"], box["zone"]) for box in group})
    sides, zones = {side for side, _ in places}, {zone for _, zone in places}
    if len(places) == 2 and len(zones) == 1:
        zone = places[0][1]
        place, where = f"both {zone} zones", f"bilateral {zone} zone"
    else:
        joined = " and ".join(f"{side} {zone}" for side, zone in places)
        place, where = f"the {joined} zone" + "s" * (len(places) > 1), f"{joined} zone"
    extent = max(box["extent"] for box in group)
    size = "small" if extent < 0.34 else "moderate" if extent < 0.67 else "large"
    noun = "mass" if extent >= MASS_MM else "nodule"
    several = len(group) > 1
    if several:
        noun = {"mass": "masses", "nodule": "nodules"}[noun]
    side = next(iter(sides)) if len(sides) == 1 else "bilateral"
    kind = next((box["kind"] for box in group if box.get("kind")), "")
    return {
        "place": place,
        "where": where,
        "Where": where.capitalize(),
        "side": side,
        "Side": side.capitalize(),
        "side_only": "left and right" if side == "bilateral" else side,
        "kind": kind,
        "size": size,
        "Size": size.capitalize(),
        "noun": noun,
        "several": several,
    }


def _choose(rng: np.random.Generator, forms: tuple[str, ...]) -> str:
    return forms[int(rng.integers(len(forms)))]
