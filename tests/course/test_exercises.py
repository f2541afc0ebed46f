"""Every exercise of every notebook: what it prints for no answer, right, wrong and odd ones, and that it is right."""

import contextlib
import io
import json
import math
import re
import warnings

import numpy as np
import pandas as pd
import pytest

from cliniqure_utils.course.grade.cells import answers, is_course_cell
from cliniqure_utils.course.grade.exercises import try_again, verdict
from cliniqure_utils.runs import STEPS
from cliniqure_utils.vocabulary import BOX

# (notebook, name) -> right answers, wrong answers. A function is right as it stands in the solution.
EXERCISES = {
    ("01_preprocess", "my_answer"): ([False, np.bool_(False)], [True, 0, "False"]),
    ("01_preprocess", "my_count"): ([2, 2.0, np.int64(2)], [1, 3]),
    ("01_preprocess", "my_grey"): (
        ["solution"],
        [
            lambda value, centre, width, monochrome1: 1 - value / 4095 if monochrome1 else value / 4095,  # no window
            lambda v, centre, width, one: (v - centre) / width + 0.5 if not one else 0.5 - (v - centre) / width,  # clip
            lambda v, centre, width, one: min(max(((4095 - v if one else v) - centre) / width + 0.5, 0), 1),  # order
        ],
    ),
    ("02_detect", "my_answer"): (
        [[500, 1250, 1000, 1875], (500.0, 1250, 1000, 1875), np.array([500, 1250, 1000, 1875])],
        [[500, 1000, 1000, 1500], [48, 96, 96, 144], [500, 1250, 1000]],
    ),
    ("02_detect", "my_anchors"): ([6912], [735, 576, 24 * 24 * 15]),
    ("02_detect", "my_ap"): ([5 / 6, 0.83], [1.0, 2 / 3, 0.5]),
    ("03_classify", "my_answer"): ([140 / 230, 0.61], [0.7, 70 / 130]),
    ("03_classify", "my_auroc"): (
        ["solution"],
        [
            lambda known, said: 0.5,
            lambda known, said: np.mean([(s > 0.4) == k for k, s in zip(known, said, strict=True)]),  # accuracy
        ],
    ),
    ("03_classify", "my_pair"): ([[0.8, 0.75], (0.80, 0.75)], [[0.4, 0.45], [0.8, 0.45], [0.8]]),
    ("04_crude_report", "my_answer"): ([2], [1, -1.6]),
    ("04_crude_report", "my_weight"): ([0.75], [0.69, 1.0]),
    ("04_crude_report", "my_bleu"): ([math.exp(-0.5), 0.61], [1.0, 2 / 3]),
    ("05_finetune_llm", "my_answer"): ([9216], [4608, 331776]),
    ("05_finetune_llm", "my_share"): ([32 / 131, 0.24], [0.25, 1.0]),
    ("05_finetune_llm", "my_counts"): ([[13, 8], (13, 8)], [[12, 8], [13, 13], 13]),
    ("06_generate_report", "my_answer"): (["contradicted", " Contradicted"], ["supported", "unsupported"]),
    ("06_generate_report", "my_first"): (["crude report", "Crude report"], ["findings", "instruction"]),
    ("06_generate_report", "my_shares"): ([[0.5, 1 / 3], [0.5, 0.33]], [[1 / 3, 0.5], [0.5, 0.5]]),
    ("07_evaluate", "my_answer"): ([0.75], [0.6, 0.43]),
    ("07_evaluate", "my_reading"): (["b", "B"], ["a", "c"]),
    ("07_evaluate", "my_rescaled"): ([0.19, (0.9838 - 0.98) / 0.02], [0.9838, 0.2]),
}
ODD = [
    "abc", "", [], [1, 2], [[1], [2, 3]], (), {}, {1: 2}, 1e9, -1, 10**400, math.nan, 2j, True, object(), type, b"x",
    np.zeros(3), np.zeros(0), np.array("x"), pd.NA, pd.Series([1, 2]), pd.DataFrame(), lambda *given: 1 / 0,
    lambda *given: "x", lambda *given: None,
]  # fmt: skip


def source(cell: dict) -> str:
    return "".join(cell["source"])


@pytest.fixture(scope="module")
def cells(repository):
    """notebook -> its cells."""
    folder = repository / "notebooks"
    return {name: json.loads((folder / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"] for name in STEPS}


def find(cells: list[dict], name: str) -> int:
    (place,) = [n for n, cell in enumerate(cells) if source(cell).startswith(f"{name} = None\n")]
    return place


def printed(code: str, **names) -> str:
    """What an exercise cell prints; numpy comes from the notebook."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), warnings.catch_warnings():
        warnings.simplefilter("error", SyntaxWarning)
        exec(code, {"np": np, **names})
    return out.getvalue()


def answered(code: str, name: str, value) -> str:
    return printed(code.replace(f"{name} = None\n", "", 1), **{name: value})


def solution_code(cell: dict) -> str:
    """The indented lines of a solution."""
    lines = source(cell).split("<summary>Solution</summary>")[1].splitlines()
    return "\n".join(line[4:] for line in lines if line.startswith("    "))


@pytest.mark.parametrize("notebook", STEPS)
def test_a_notebook_closes_with_two_or_three_exercises(cells, notebook):
    own = cells[notebook]
    places = [n for n, c in enumerate(own) if c["cell_type"] == "code" and re.match(r"my_\w+ = None\n", source(c))]
    assert 2 <= len(places) <= 3
    names = [source(own[n]).split(" ")[0] for n in places]
    assert [(notebook, name) for name in names] == [key for key in EXERCISES if key[0] == notebook]
    for number, place in enumerate(places, start=1):
        question, code, solution = own[place - 1], own[place], own[place + 1]
        assert re.search(rf"^### {number} · \w", source(question), re.MULTILINE)
        assert source(question).startswith("## Exercises\n") == (number == 1)
        assert source(solution).startswith("<details><summary>Hint</summary>\n\n")
        assert source(solution).count("<summary>Solution</summary>") == 1 == source(solution).count("Hint</summary>")
        assert source(solution).count("</details>") == 2 and source(solution).endswith("\n</details>")
        assert list(answers(source(code))) == [names[number - 1]]
        assert all(len(line) <= 120 for cell in (question, code, solution) for line in source(cell).splitlines())
    assert source(own[places[-1] + 2]) == "## What was written"
    assert len({cell["id"] for cell in own}) == len(own)


@pytest.mark.parametrize("notebook", STEPS)
def test_it_says_how_long_it_takes_and_asks_before_it_shows(cells, notebook):
    first = source(cells[notebook][0])
    assert "You will learn\n- " in first and re.search(r"\b(minutes?|seconds)\b", first)
    prose = [source(cell) for cell in cells[notebook] if cell["cell_type"] == "markdown"]
    asked = [text for text in prose if re.search(r"\b(before you|before the next cell|expect|guess)\b", text, re.I)]
    assert any("?" in text for text in asked)


@pytest.mark.parametrize(("notebook", "name"), EXERCISES)
def test_an_exercise_knows_right_from_wrong_and_never_stops(cells, notebook, name):
    place = find(cells[notebook], name)
    cell = cells[notebook][place]
    code, outputs = source(cell), cell["outputs"]
    unanswered = printed(code)
    assert re.fullmatch(r"Not answered yet: .+\n", unanswered)
    assert [o["name"] for o in outputs] == ["stdout"] and "".join(outputs[0]["text"]) == unanswered

    right, wrong = EXERCISES[notebook, name]
    for value in right:
        if isinstance(value, str) and value == "solution":
            text = code.replace(f"{name} = None\n", solution_code(cells[notebook][place + 1]) + "\n", 1)
            assert printed(text) == "Correct\n"
            continue
        assert answered(code, name, value) == "Correct\n", value
    assert len(wrong) >= 2
    for value in wrong:
        assert re.fullmatch(r"Not yet: .+\n", answered(code, name, value)), value
    for value in ODD:
        assert re.fullmatch(r"Not yet: .+\n", answered(code, name, value)), value


@pytest.mark.parametrize(("notebook", "name"), EXERCISES)
def test_grading_comes_to_the_same_verdict(cells, notebook, name):
    place = find(cells[notebook], name)
    code = source(cells[notebook][place])
    assert try_again(code, answers(code)) == "unsolved" == verdict(printed(code))
    right, wrong = EXERCISES[notebook, name]
    if right == ["solution"]:
        # Instead of the line or below it: a student's function is theirs, its printed verdict counts.
        function = solution_code(cells[notebook][place + 1])
        for text in (
            code.replace(f"{name} = None\n", function + "\n", 1),
            code.replace(f"{name} = None\n", f"{name} = None\n\n\n{function}\n", 1),
        ):
            assert is_course_cell(text, code) and verdict(printed(text)) == "solved"
            assert list(answers(text)) == [name] and try_again(code, answers(text)) is None
        return
    for value, wanted in [(v, "solved") for v in right] + [(v, "wrong") for v in wrong]:
        if isinstance(value, (np.ndarray, np.generic)):
            continue
        text = code.replace(f"{name} = None", f"{name} = {value!r}", 1)
        assert is_course_cell(text, code) and try_again(code, answers(text)) == wanted, value


def test_the_course_page_says_what_is_there(cells, repository):
    text = (repository / "COURSE.md").read_text(encoding="utf-8")
    plan = dict(re.findall(r"^\| \d \| (\w+) \| [\d.]+ \| (\d) \|", text, re.MULTILINE))
    assert plan == {name: str(sum(key[0] == name for key in EXERCISES)) for name in STEPS}
    readme = (repository / "README.md").read_text(encoding="utf-8")
    minutes = dict(
        re.findall(r"^\| (?:\d \| )?\[?(0\d_\w+)(?:\].*?)? \|(?:[^|]*\|)? ([\d.]+)(?: min)? \|", readme, re.M)
    )
    assert dict(re.findall(r"^\| \d \| (\w+) \| ([\d.]+) \|", text, re.MULTILINE)) == minutes
    pictures = re.findall(r"^\| (0\d_\w+) \| ([\w., ]+\.png) \|", text, re.MULTILINE)
    assert [name for name, _ in pictures] == list(STEPS)
    for name, files in pictures:
        code = "\n".join(source(cell) for cell in cells[name])
        for file in files.split(", "):
            assert f'step.save_figure("{file.removesuffix(".png")}", ' in code, (name, file)
    committed = {path.name for path in (repository / "data" / "pictures").iterdir()}
    assert committed == set(re.findall(r"`(\w+\.png)`", text))
    assert "COURSE.md" in readme


# The right answers, worked out by the package


def test_answers_about_boxes():
    import torch

    from cliniqure_utils import metrics
    from cliniqure_utils.annotations import iou_matrix, merge_reader_boxes, rescale_boxes
    from cliniqure_utils.vision import detection

    drawn = pd.DataFrame([[n, n, n + 100, n + 100] for n in (0, 15, 30)], columns=BOX)
    drawn = drawn.assign(image_id="a", class_id=8, class_name="Nodule/Mass", rad_id=["R1", "R2", "R3"])
    assert iou_matrix(drawn[BOX], drawn[BOX])[0].round(2).tolist() == [1, 0.57, 0.32]
    assert iou_matrix([[0, 0, 115, 115]], drawn[BOX][2:])[0, 0] == pytest.approx(0.45, abs=0.005)
    for duplicates in ("keep", "overlapping"):
        assert len(merge_reader_boxes(drawn, {"a": (200, 200)}, duplicates=duplicates)) == 2
    pair = drawn[:2].assign(x_min=0.0, y_min=0.0, x_max=100.0, y_max=[100.0, 80.0])
    assert iou_matrix(pair[BOX][:1], pair[BOX][1:])[0, 0] == 0.8
    assert len(merge_reader_boxes(pair, {"a": (200, 200)}, duplicates="keep")) == 2

    moved = rescale_boxes([[48, 96, 96, 144]], (192, 192), (2000, 2500))
    assert moved.tolist() == [[500, 1250, 1000, 1875]]
    detector = detection.build_detector(
        backbone="tiny", neck="topdown", image_size=192, anchor_scales=[24, 48, 80, 120], aspect_ratios=[0.5, 1.0, 2.0]
    )
    assert detector.network.rpn.anchor_generator.num_anchors_per_location() == [12]
    with torch.no_grad():
        maps = detector.network.backbone(torch.zeros(1, 3, 192, 192))
    assert [list(m.shape[2:]) for m in (maps.values() if isinstance(maps, dict) else [maps])] == [[24, 24]]

    references = pd.DataFrame([[0, 0, 100, 100], [500, 0, 600, 100]], columns=BOX).assign(
        image_id="a", class_name="ILD"
    )
    found = pd.DataFrame([[0, 0, 100, 55], [0, 0, 100, 62], [500, 0, 600, 45]], columns=BOX)
    found = found.assign(image_id="a", class_name="ILD", score=[0.9, 0.8, 0.6])
    overlaps = iou_matrix(found[BOX], references[BOX])
    assert overlaps.round(2).tolist() == [[0.55, 0], [0.62, 0], [0, 0.45]]
    assert metrics.mean_average_precision(references=references, predictions=found)[0] == pytest.approx(5 / 6)


def test_answers_about_probabilities():
    from cliniqure_utils import metrics
    from cliniqure_utils.vision import calibration

    known = np.array([[0, 0, 1]] * 70 + [[1, 1, 0]] * 30)  # two findings and "No finding"
    always = metrics.always_one_class(100, 3)
    assert always.sum(0).tolist() == [0, 0, 100]
    assert metrics.classification_scores(references=known, predictions=always)["micro_f1"] == pytest.approx(140 / 230)

    rng = np.random.default_rng(0)
    said, labels = rng.random((50, 1)), rng.integers(0, 2, (50, 1))
    cooled = calibration.apply_temperature(said, np.array([2.0]))
    before, after = (metrics.auroc(references=labels, probabilities=values)[0] for values in (said, cooled))
    assert before == after
    assert calibration.apply_temperature(np.array([[0.9]]), np.array([2.0]))[0, 0] == pytest.approx(0.75)
    tied = metrics.auroc(
        references=np.array([[1], [0], [0], [0]]), probabilities=np.array([[0.2], [0.1], [0.2], [0.3]])
    )
    assert tied[0] == 0.5


def test_answers_about_text():
    from cliniqure_utils import metrics
    from cliniqure_utils.reports import INSTRUCTION, Evidence, build_prompt, check_sentences
    from cliniqure_utils.writer import batches

    words = [f"w{chr(97 + n // 5)}{chr(97 + n % 5)}" for n in range(30)]
    bleu = metrics.text_scores(references=[" ".join(words)], predictions=[" ".join(words[:20])])["bleu_4"]
    assert bleu == pytest.approx(math.exp(-0.5))
    kept = np.exp([math.log(3), 0])
    assert (kept / kept.sum())[0] == pytest.approx(0.75)

    rng = np.random.default_rng(0)
    shares = []
    for _ in range(400):
        rows = rng.permutation(np.repeat(np.arange(66), 2))
        shares.append((~np.isin(rows[:33], rows[33:])).mean())
    assert np.mean(shares) == pytest.approx(32 / 131, abs=0.015)

    class Tokens:  # a token per word, no chat template
        eos_token_id, chat_template, bos_token_id = 0, None, None

        def __call__(self, text, **_):
            return type("Encoded", (), {"input_ids": [1] * len(text.split())})()

    class Prompt40(Tokens):
        def __call__(self, text, **options):
            return super().__call__(text if "answer" in text else " ".join(["p"] * 40), **options)

    for limit, count in ((192, 13), (48, 8)):
        (item,), left_out = batches.encode_pairs(Prompt40(), [("prompt", " ".join(["answer"] * 12))], limit)
        assert sum(label != batches.IGNORED for label in item["labels"]) == count and left_out == 0
    assert batches.encode_pairs(Prompt40(), [("prompt", "answer")], 40) == ([], 1)

    evidence = Evidence(
        "a",
        [("Pleural effusion", 0.99)],
        [("Pleural effusion", 0.9, "left lower zone")],
        crude_report=" ".join(["word"] * 60),
    )
    (checked,) = check_sentences("There is a small right pleural effusion.", evidence)
    assert checked["status"] == "contradicted"
    whole, _ = build_prompt(evidence)
    shorter, dropped = build_prompt(evidence, Tokens(), len(whole.split()) - 20)
    assert dropped == 0 and INSTRUCTION in shorter and shorter.count("word") < whole.count("word")
    none, dropped = build_prompt(evidence, Tokens(), len(whole.split()) - 62)
    assert dropped == 0 and "Crude report" not in none and "Pleural effusion 0.99" in none
    least, dropped = build_prompt(evidence, Tokens(), len(whole.split()) - 66)
    assert dropped > 0 and INSTRUCTION in least


def test_answers_about_scores():
    true, stated = {"a", "b", "c", "d"}, {"a", "b", "e"}
    assert [len(true - stated) / len(true), len(stated - true) / len(stated)] == [1 / 2, 1 / 3]
    from cliniqure_utils import metrics

    assert metrics.check_iou_dice(0.6, 0.75)["pooled"] and not metrics.check_iou_dice(0.6, 0.6)["pooled"]
