"""What decides the trainings of 02 and 03 stands in their parameters cells and in the profiles, nowhere else."""

import ast
import json

import pytest

from cliniqure_utils.course.chain.parameters import resolve
from cliniqure_utils.notebooks import find_notebooks, read_profile

NOTEBOOKS = ("02_detect", "03_classify")
DECIDES = {"augmentation", "build_detector", "build_classifier", "HeatmapClassifier", "TopDown", "build_trunk", "Plan",
           "fit", "film_weights", "positive_weights"}  # fmt: skip


def code_of(repository, name: str) -> tuple[set[str], ast.Module]:
    """Names of the parameters, and all other code cells."""
    cells = json.loads((repository / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    parameters, code = [], []
    for cell in cells:
        if cell["cell_type"] == "code":
            tags = cell["metadata"].get("tags", [])
            (parameters if "parameters" in tags else code).append("".join(cell["source"]))
    names = {target.id for node in ast.parse("\n".join(parameters)).body for target in node.targets}
    return names, ast.parse("\n".join(code))


def numbers_in(node: ast.AST) -> list:
    found = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
    return [value for value in found if isinstance(value, (int, float)) and not isinstance(value, bool)]


def hidden(parameters: set[str], tree: ast.Module) -> list[str]:
    """Numbers that a training gets from elsewhere: given to a call as they stand, or chosen by another parameter."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in DECIDES:
                given = [*node.args, *(keyword.value for keyword in node.keywords)]
                found += [ast.unparse(value) for value in given if any(numbers_in(value))]
        if isinstance(node, ast.IfExp) and numbers_in(node):
            asked = {part.id for part in ast.walk(node.test) if isinstance(part, ast.Name)}
            if asked & parameters:
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_number_of_a_training_is_hidden_in_a_cell(repository, name):
    assert hidden(*code_of(repository, name)) == []


def test_a_hidden_number_is_found():
    names = {"backbone", "epochs"}
    cell = 'augmentation(0.5, shift=0.04 if backbone == "tiny" else 0.0)\nsteps = 20 if backbone == "tiny" else 0'
    assert len(hidden(names, ast.parse(cell))) == 4  # the 0.5, the shift as argument and as choice, and the steps
    assert hidden(names, ast.parse("training.fit(model, films, Plan(epochs=epochs))\nprint(0.5)")) == []


# By profile what both notebooks trained with before these values had names: the small networks had them, no other.
SMALL = dict(shift=0.04, zoom=0.06, exposure=0.06, warmup_steps=20)
LARGE = dict(shift=0.0, zoom=0.0, exposure=0.0, warmup_steps=0)
BEFORE = {"smoke": SMALL, "demo": SMALL, "paper": LARGE, "beyond": LARGE}
# Weights that both start from, and what each leaves as they bring it: the detector's parts and norm, the classifier's.
START = {
    "smoke": (None, "pretrained"),
    "demo": ("pretrained",) * 2,
    "paper": ("imagenet",) * 2,
    "beyond": ("imagenet",) * 2,
}
FROZEN = {"smoke": (6, False, 6), "demo": (6, False, 6), "paper": (0, False, 0), "beyond": (2, True, 0)}


@pytest.mark.parametrize("profile", BEFORE)
def test_profiles_train_as_before_the_values_had_names(repository, profile):
    notebooks = find_notebooks(repository / "notebooks")
    values = resolve(notebooks, read_profile(repository / "notebooks" / "profiles", profile), {})
    for name in NOTEBOOKS:
        assert {key: values[name][key] for key in BEFORE[profile]} == BEFORE[profile]
    detector, classifier = values["02_detect"], values["03_classify"]
    assert (detector["weights"], classifier["weights"]) == START[profile]
    frozen = detector["frozen_parts"], detector["frozen_norm"], classifier["frozen_parts"]
    assert frozen == FROZEN[profile]
    assert (detector["backbone"], classifier["model_name"]) == (
        ("tiny", "seresnet_tiny") if BEFORE[profile] is SMALL else ("resnet50", "seresnet50")
    )
