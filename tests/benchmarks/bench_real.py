"""`make bench ONLY=real NIH=<folder>`: what a run is worth on films of patients, NIH ChestX-ray14.

NIH is a folder with any of its PNG files, at any size; RUN a finished run (default: outputs/demo). Labels, view,
patient, age and sex are read from the copy of NIH's table inside torchxrayvision. The labels were mined from reports
and are wrong for about one film in ten (Wang et al. 2017, CVPR, arXiv 1705.02315). Films are measured only: nothing is
trained on them, and no threshold plays a part.
"""

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from common import Bench

from cliniqure_utils import metrics
from cliniqure_utils.vision.inference import read_images
from cliniqure_utils.vocabulary import NO_FINDING

PROJECT = Path(__file__).parents[2]
ANY = "any finding"
NORMAL = "No Finding"  # NIH's spelling
SAME = {  # our finding: the NIH labels that count as positive
    "Pleural effusion": ["Effusion"],
    "Cardiomegaly": ["Cardiomegaly"],
    "Infiltration": ["Infiltration"],
    "Consolidation": ["Consolidation"],
    "Atelectasis": ["Atelectasis"],
    "Pneumothorax": ["Pneumothorax"],
    "Nodule/Mass": ["Nodule", "Mass"],
    "Pleural thickening": ["Pleural_Thickening"],
    "Lung Opacity": ["Pneumonia", "Infiltration", "Consolidation"],
}
VIEWS = ("PA", "AP")


def nih_table() -> pd.DataFrame:
    """NIH's table of 112,120 films: image_id, labels, view, patient, age, sex."""
    path = Path(find_spec("torchxrayvision").submodule_search_locations[0]) / "data" / "Data_Entry_2017_v2020.csv.gz"
    table = pd.read_csv(path).rename(columns={"Patient Sex": "Patient Gender"})
    return pd.DataFrame(
        {
            "image_id": table["Image Index"].str.removesuffix(".png"),
            "labels": table["Finding Labels"],
            "view": table["View Position"],
            "patient": table["Patient ID"],
            "age": table["Patient Age"].clip(upper=100),  # some are several hundred
            "sex": table["Patient Gender"],
        }
    )


def truth_of(table: pd.DataFrame) -> pd.DataFrame:
    """0/1 for "any finding" and each finding that NIH's label set has too, index image_id."""
    named = table.labels.str.split("|")
    truth = {ANY: table.labels != NORMAL}
    truth |= {
        name: named.map(lambda found, of=words: any(word in found for word in of)) for name, words in SAME.items()
    }
    return pd.DataFrame(truth).astype(int).set_axis(table.image_id)


def trivial_scores(films: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """What age, sex and view alone say of the films: logistic regression on the table's other patients, no pixel."""
    from sklearn.linear_model import LogisticRegression

    def facts(of: pd.DataFrame) -> np.ndarray:
        return np.stack([of.age / 20, of.sex == "M", of["view"] == "AP"], axis=1).astype(float)

    others = table[~table.patient.isin(films.patient)]
    truth = truth_of(others)
    known = [name for name in truth if truth[name].nunique() == 2]
    said = {
        name: LogisticRegression().fit(facts(others), truth[name]).predict_proba(facts(films))[:, 1] for name in known
    }
    return pd.DataFrame(said, index=films.image_id)


def score(probabilities: pd.DataFrame, table: pd.DataFrame, n_resamples: int = 1000) -> pd.DataFrame:
    """AUROC of each finding, of all films and of each view, with 95 % intervals that draw patients.

    Args:
        probabilities: image_id and the 15 names.
        table: As `nih_table`; films that it does not list are left out.

    Returns:
        finding, view ("all", "PA", "AP"), films, positives, auroc, low, high, and trivial, the AUROC that age, sex and
        view alone reach. NaN where there are no positive films, or only such.
    """
    films = probabilities[["image_id"]].merge(table, on="image_id")
    said = probabilities.set_index("image_id").loc[films.image_id]
    said = said.assign(**{ANY: 1 - said[NO_FINDING]})
    truth, trivial = truth_of(films), trivial_scores(films, table)
    names = list(truth)
    blind = trivial.reindex(columns=names, fill_value=0.5)
    rows = []
    for view in ("all", *VIEWS):
        kept = np.flatnonzero((films["view"] == view) | (view == "all"))
        if not len(kept):
            continue
        known = truth.iloc[kept].to_numpy()
        scored = metrics.per_class_intervals(
            references=known, probabilities=said[names].iloc[kept].to_numpy(), class_names=names,
            n_resamples=n_resamples, groups=films.patient.iloc[kept].to_numpy(),
        ).reset_index()  # fmt: skip
        scored["trivial"] = metrics.auroc(references=known, probabilities=blind.iloc[kept].to_numpy())
        rows.append(scored.assign(view=view, films=len(kept)))
    named = {"class_name": "finding", "auroc_low": "low", "auroc_high": "high"}
    columns = ["finding", "view", "films", "positives", "auroc", "low", "high", "trivial"]
    return pd.concat(rows, ignore_index=True).rename(columns=named)[columns]


def markdown(scores: pd.DataFrame) -> str:
    """The table for people."""
    films = scores.drop_duplicates("view").set_index("view").films
    views = [view for view in VIEWS if view in films.index]
    head = ["finding", f"positive of {films['all']}", "AUROC", *(f"{view} ({films[view]})" for view in views)]
    lines = [[*head, "age, sex, view alone"], ["---"] * (len(head) + 1)]
    for name, rows in scores.groupby("finding", sort=False):
        of = rows.set_index("view")
        cells = [_cell(of.loc[view]) for view in ("all", *views)]
        lines.append([name, str(of.positives["all"]), *cells, _number(of.trivial["all"])])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f}"


def _cell(row: pd.Series) -> str:
    return "-" if np.isnan(row.auroc) else f"{row.auroc:.2f} ({row.low:.2f} to {row.high:.2f})"


def main() -> None:
    folder, run_dir = os.environ.get("NIH"), PROJECT / (os.environ.get("RUN") or "outputs/demo")
    if not folder:
        print("== real: needs films; give their folder: make bench ONLY=real NIH=<folder>")
        return
    if not (run_dir / "03_classify" / "model.safetensors").is_file():
        print(f"== real: needs a finished run in {run_dir}; make run first, or give RUN=<folder>")
        return
    table = nih_table()
    paths = sorted(Path(folder).rglob("*.png"))
    known = set(table.image_id)
    films = [path for path in paths if path.stem in known]
    if not films:
        print(f"== real: none of the {len(paths)} PNG files in {folder} is named as in NIH's table")
        return
    bench = Bench("real")
    scores = score(read_images(films, run_dir)[0], table)
    patients = table[table.image_id.isin({path.stem for path in films})].patient.nunique()
    print(f"{len(films)} films of {patients} patients; {len(paths) - len(films)} other files passed over")
    print(markdown(scores))
    bench.rows = scores.replace({np.nan: None}).to_dict("records")
    bench.write()
