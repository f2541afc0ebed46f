"""Figures of notebook 01: which films they show, with which boxes, on a handful of made-up films."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cliniqure_utils.figures.preprocess import plot_findings, plot_lab, plot_normals
from cliniqure_utils.vocabulary import BOX

TRUTH = [
    # ILD alone on three films, the middle one by size is "middle"; on "busy" it stands beside another finding.
    ("small", "ILD", 0, 0, 4, 4, "left"), ("middle", "ILD", 0, 0, 8, 8, "right"), ("large", "ILD", 0, 0, 20, 20, None),
    ("busy", "ILD", 0, 0, 30, 30, None), ("busy", "Cardiomegaly", 5, 5, 25, 25, None),
    ("well", "No finding", *[np.nan] * 4, None), ("also well", "No finding", *[np.nan] * 4, None),
]  # fmt: skip


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    table = pd.DataFrame(TRUTH, columns=["image_id", "class_name", *BOX, "side"])
    table.to_csv(folder / "truth.csv", index=False)
    (folder / "train").mkdir()
    for number, image_id in enumerate(table.image_id.unique()):
        film = np.full((32, 32), 10 * number, np.uint8)  # each film has a grey of its own
        film[0, 0] = 255
        Image.fromarray(film).save(folder / "train" / f"{image_id}.dicom", format="PNG")
    return folder


def films(figure):
    """Title and grey of each film shown, and the number of boxes on it."""
    shown = [axis for axis in figure.axes if axis.images]
    return [(a.get_title(), round(255 * float(a.images[0].get_array()[9, 9])), len(a.patches)) for a in shown]


def test_one_film_of_each_finding_that_is_there(data_dir):
    assert films(plot_findings(data_dir)) == [("Cardiomegaly", 30, 1), ("ILD", 10, 1)]


def test_films_without_a_finding_have_no_box(data_dir, tmp_path):
    assert films(plot_normals(data_dir, n_films=1, n_columns=1)) == [("", 40, 0)]
    assert films(plot_normals(data_dir)) == [("", 40, 0), ("", 50, 0)]
    pd.DataFrame(TRUTH[:1], columns=["image_id", "class_name", *BOX, "side"]).to_csv(tmp_path / "truth.csv")
    with pytest.raises(ValueError, match="no film without a finding"):
        plot_normals(tmp_path)


def test_the_lab_shows_the_numbers_of_both_tables():
    numbers = {
        "boxes_per_image": [5.54, 4.27, 1.4], "precision": [0.31, 0.4, 0.77], "recall": [0.63, 0.62, 0.39],
        "f1": [0.42, 0.49, 0.52], "macro_f1": [0.36, 0.42, 0.39],
        "f1_low": [0.4, 0.47, 0.5], "f1_high": [0.44, 0.5, 0.53],
    }  # fmt: skip
    lab = pd.DataFrame(numbers, index=["keep all", "union", "drawn by both"])
    ceiling = pd.DataFrame({"f1": [0.54, 0.49, 0.5], "macro_f1": [0.41, 0.43, 0.4]})
    left, right = plot_lab(lab, ceiling).axes
    names = [text.get_text() for text in left.get_yticklabels()]
    assert names == ["drawn by both", "union", "keep all"], "the best F1 on top"
    drawn = {line.get_label(): line.get_xdata() for axis in (left, right) for line in axis.get_lines()}
    for label, column in (("precision", "precision"), ("recall", "recall"), ("mean over findings", "macro_f1")):
        np.testing.assert_array_equal(drawn[label], lab[column][names])
    bands = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in right.patches]
    assert bands == [pytest.approx((0.49, 0.54)), pytest.approx((0.4, 0.43))]
    assert [text.get_text() for text in right.texts][:3] == ["1.4", "4.3", "5.5"]


def test_what_a_contributor_shall_look_at_is_drawn_by_notebook_01(repository):
    told = [line for line in (repository / "CONTRIBUTING.md").read_text().splitlines() if "in notebook 01" in line]
    named = {name for line in told for name in re.findall(r"`(plot_\w+)`", line)}
    cells = json.loads((repository / "notebooks" / "01_preprocess.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert named and all(f"{name}(" in code for name in named)
