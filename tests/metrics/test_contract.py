"""The list of metrics: each against a value worked out elsewhere, each seen to notice swapped sides where it must."""

import importlib.util
import inspect
import sys
import types

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from cliniqure_utils import metrics

BOX = ["x_min", "y_min", "x_max", "y_max"]
# Image 1: classes a and b are there, a is said; image 2: nothing is there, b and c are said; and so on.
THERE = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 1]])
SAID = np.array([[1, 0, 0], [0, 1, 1], [1, 0, 0], [1, 1, 1]])
TEXTS = ["the heart size is normal today"], ["the heart size is large"]


def boxes(*rows, score=False):
    table = pd.DataFrame(rows, columns=["image_id", "class_name", *BOX])
    return table.assign(score=np.linspace(0.9, 0.1, len(rows))) if score else table


BOXES_THERE = boxes(("a", "X", 0, 0, 10, 10), ("a", "Y", 20, 0, 30, 10), ("b", "X", 0, 0, 10, 10))
BOXES_SAID = boxes(("a", "X", 0, 0, 10, 5), ("a", "Z", 20, 0, 30, 10), score=True)
# By hand, image 1: shared 150 of 200 square pixels; image 2: 0 of 100. One hit of two boxes said and three there.
BOX_VALUES = {
    "map_40": 0.25, "box_precision": 1 / 2, "box_recall": 1 / 3, "box_f1": 2 / 5,
    "iou_matched": 1 / 2, "dice_matched": 2 / 3, "iou_best_per_reference": 1 / 6, "dice_best_per_reference": 2 / 9,
    "iou_pooled": 3 / 8, "dice_pooled": 3 / 7, "iou_pooled_total": 1 / 2, "dice_pooled_total": 2 / 3,
}  # fmt: skip
PENALTY, HITS = np.exp(-0.2), np.array([4 / 5, 3 / 4, 2 / 3, 1 / 2])  # five words against six; n-grams found
TEXT_VALUES = {f"bleu_{n}": PENALTY * HITS[:n].prod() ** (1 / n) for n in range(1, 5)} | {
    "rouge_l": 8 / 11,  # longest common subsequence of 4 words
    # 4 of 5 and 4 of 6 words in one piece: F 10 P R / (R + 9 P), less half of (1 / 4) cubed.
    "meteor_exact_stem": (1 - 0.5 / 64) * (4 / 5 * 4 / 6) / (0.9 * 4 / 5 + 0.1 * 4 / 6),
    "finding_f1": 0.0, "finding_side_f1": 0.0,  # an enlarged heart that is not there
}  # fmt: skip
NEEDS_ENCODER = {"bertscore_precision", "bertscore_recall", "bertscore_f1", "bertscore_rescaled_f1"}
EXTRAS = {"radgraph_f1", "chexbert_micro_f1"}


def label_values(references, predictions):
    found = {}
    for average in ("micro", "macro", "weighted", "samples"):
        three = sk.precision_recall_fscore_support(references, predictions, average=average, zero_division=0)
        found |= {f"{average}_{part}": v for part, v in zip(("precision", "recall", "f1"), three[:3], strict=True)}
    found |= {f"finding_{name}": value for name, value in found.items() if name.startswith("micro")}
    return found | {"hamming_loss": sk.hamming_loss(references, predictions)}


VALUES = (
    {name: (value, THERE, SAID, {}) for name, value in label_values(THERE, SAID).items()}
    | {name: (value, BOXES_THERE, BOXES_SAID, {}) for name, value in BOX_VALUES.items()}
    | {name: (value, *TEXTS, {}) for name, value in TEXT_VALUES.items()}
    | {"macro_auroc": (np.mean([1.0, 2 / 3, 1.0]), THERE, np.array([[9, 2, 1], [1, 1, 2], [8, 3, 1], [2, 1, 9]]), {})}
)


def extra(name):
    return {"image_ids": ["a", "b"]} if name.startswith(("iou_", "dice_")) else {}


def test_every_metric_has_a_value_here_or_a_test_of_its_own():
    assert set(VALUES) | NEEDS_ENCODER | EXTRAS == set(metrics.METRICS)


@pytest.mark.parametrize("name", list(metrics.METRICS))
def test_every_metric_has_a_name_one_sentence_and_keywords_only(name):
    metric = metrics.METRICS[name]
    assert metric.name == name and metric.takes in ("labels", "probabilities", "boxes", "texts")
    assert metric.definition.endswith(".") and metric.definition.count(". ") == 0 and metric.definition[0].isupper()
    kinds = {p.name: p.kind for p in inspect.signature(metric).parameters.values()}
    assert kinds["references"] == kinds["predictions"] == inspect.Parameter.KEYWORD_ONLY
    with pytest.raises(TypeError):
        metric(["a"], ["b"])


@pytest.mark.parametrize("name", sorted(VALUES))
def test_every_metric_equals_an_independent_value(name):
    value, references, predictions, _ = VALUES[name]
    found = metrics.METRICS[name](references=references, predictions=predictions, **extra(name))
    assert found == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("name", sorted(set(VALUES) - {"macro_auroc"}))
def test_swapped_sides_fail_where_a_metric_is_asymmetric(name):
    """The test above, run with the two sides exchanged by mistake: it must fail for every asymmetric metric."""
    value, references, predictions, _ = VALUES[name]
    if metrics.METRICS[name].takes == "boxes":
        references, predictions = predictions.drop(columns="score"), references.assign(score=[0.9, 0.5, 0.1])
    else:
        references, predictions = predictions, references
    found = metrics.METRICS[name](references=references, predictions=predictions, **extra(name))
    # One matched pair is the same pair from either side; the two differ once a box could go to two partners.
    symmetric = metrics.METRICS[name].symmetric or name.endswith("_matched")
    same = found == pytest.approx(value, abs=1e-9)
    assert same == symmetric, f"{name}: {value} became {found}"


def test_bertscore_precision_and_recall_change_places():
    try:
        scorer = metrics.BertScorer()
    except metrics.MissingEncoder as missing:
        pytest.skip(str(missing))
    references = ["The heart is enlarged. No pleural effusion.", "Small left effusion."]
    predictions = ["The heart is enlarged.", "Small left effusion with basal atelectasis."]

    def score(part, references, predictions):
        name = f"bertscore_{part}"
        return metrics.METRICS[name](references=references, predictions=predictions, scorer=scorer, n_random_pairs=20)

    raw = {part: score(part, references, predictions) for part in ("precision", "recall", "f1")}
    table = scorer.score_pairs(references=references, predictions=predictions)
    assert raw == pytest.approx({part: table[part].mean() for part in raw}, abs=1e-5)
    assert abs(raw["precision"] - raw["recall"]) > 0.005
    assert score("precision", predictions, references) == pytest.approx(raw["recall"], abs=1e-5)
    assert score("rescaled_f1", references, references) == pytest.approx(1, abs=1e-4)
    assert score("rescaled_f1", references, predictions) < raw["f1"] < 1


def test_the_baselines_and_the_headings_of_table_7_are_in_the_list():
    for name in ("micro_precision", "micro_recall", "micro_f1", "iou_matched", "dice_matched", "bertscore_f1"):
        assert name in metrics.METRICS
    assert not metrics.METRICS["hamming_loss"].higher_is_better


# --- optional extras: nobody has them by default, so their calls are checked on stand-ins of the same signature


def test_a_missing_extra_says_in_one_line_what_it_needs(monkeypatch):
    for package, name in (("radgraph", "radgraph_f1"), ("f1chexbert", "chexbert_micro_f1")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(metrics.MissingExtra, match=f"pip install {package}; fetches") as caught:
            metrics.METRICS[name](references=["a"], predictions=["a"])
        assert "\n" not in str(caught.value)


def test_missing_extras_are_listed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "radgraph" else object())
    assert set(metrics.missing_extras()) == {"radgraph"}


def test_radgraph_gets_the_two_sides_in_their_places(monkeypatch):
    seen = {}

    class F1RadGraph:
        def __init__(self, **settings):
            seen["settings"] = settings

        def __call__(self, *, hyps, refs):
            seen["hyps"], seen["refs"] = hyps, refs
            return (0.9, 0.5, 0.1), ([0.9], [0.5], [0.1]), [], []

    monkeypatch.setitem(sys.modules, "radgraph", types.SimpleNamespace(F1RadGraph=F1RadGraph))
    found = metrics.radgraph_f1(references=["truth", ""], predictions=["said", "said"])
    assert found.tolist() == [0.5, 0.0], "the pair with an empty text is not sent"
    assert seen["refs"] == ["truth"] and seen["hyps"] == ["said"]
    assert seen["settings"] == {"reward_level": "all", "model_type": "radgraph-xl"}


def test_chexbert_gets_the_two_sides_in_their_places(monkeypatch):
    seen = {}

    class F1CheXbert:
        def __call__(self, *, hyps, refs):
            seen["hyps"], seen["refs"] = hyps, refs
            row = {"precision": 0.1, "recall": 0.2, "f1-score": 0.3, "support": 4}
            return 0.5, [1], {"micro avg": row, "macro avg": row}, {}

    monkeypatch.setitem(sys.modules, "f1chexbert", types.SimpleNamespace(F1CheXbert=F1CheXbert))
    found = metrics.chexbert_scores(references=["truth"], predictions=["said"])
    assert found["micro_precision"] == 0.1 and found["macro_f1"] == 0.3 and len(found) == 6
    assert seen == {"hyps": ["said"], "refs": ["truth"]}


# --- model against model


@pytest.fixture(scope="module")
def two_models():
    rng = np.random.default_rng(3)
    there = rng.random((120, 4)) < [0.5, 0.3, 0.2, 0.1]
    return there, there ^ (rng.random(there.shape) < 0.10), there ^ (rng.random(there.shape) < 0.22)


@pytest.mark.parametrize("metric", ["micro_f1", "macro_f1", "micro_precision", "macro_recall"])
def test_paired_classification_difference_equals_rescoring(two_models, metric):
    there, a, b = two_models
    found = metrics.paired_classification_difference(
        references=there, predictions_a=a, predictions_b=b, metric=metric, n_resamples=60, seed=4
    )

    def score(said, rows=slice(None)):
        average, part = metric.split("_")
        function = {"f1": sk.f1_score, "precision": sk.precision_score, "recall": sk.recall_score}[part]
        return function(there[rows], said[rows], average=average, zero_division=0)

    assert (found["a"], found["b"]) == pytest.approx((score(a), score(b)), abs=1e-12)
    resamples = [np.repeat(np.arange(120), row) for row in metrics.resample_counts(120, 60, seed=4)]
    differences = [score(a, rows) - score(b, rows) for rows in resamples]
    assert (found["low"], found["high"]) == pytest.approx(tuple(np.quantile(differences, [0.025, 0.975])), abs=1e-12)
    if metric.startswith("micro"):
        assert found["low"] > 0 and found["p"] == pytest.approx(1 / 61), "a real difference is found"
    back = metrics.paired_classification_difference(
        references=there, predictions_a=b, predictions_b=a, metric=metric, n_resamples=60, seed=4
    )
    assert back["difference"] == pytest.approx(-found["difference"])
    with pytest.raises(TypeError):
        metrics.paired_classification_difference(there, a, b)


def test_a_model_against_itself_is_no_difference(two_models):
    there, a, _ = two_models
    same = metrics.paired_classification_difference(references=there, predictions_a=a, predictions_b=a, n_resamples=40)
    assert (same["difference"], same["low"], same["high"], same["p"]) == (0, 0, 0, 1)
    values = metrics.per_image_f1(references=there, predictions=a)
    assert metrics.paired_difference(values, values)["p"] == 1
    with pytest.raises(ValueError, match="unknown metric"):
        metrics.paired_classification_difference(references=there, predictions_a=a, predictions_b=a, metric="f1")


def test_the_sign_flip_test_equals_all_flips():
    """Ten images: all 1,024 flips can be written out."""
    a, b = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3.0]), np.array([2, 2, 3, 1, 1, 5, 3, 2, 1, 4.0])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 10)).reshape(10, -1).T
    exact = (np.abs(signs @ (a - b)) >= abs((a - b).sum()) - 1e-9).mean()
    found = metrics.paired_difference(a, b, n_resamples=20_000, seed=0)
    assert found["p"] == pytest.approx(exact, abs=0.01)
    assert found["difference"] == pytest.approx(np.mean(a - b)) and found["n"] == 10


def test_p_values_are_even_when_nothing_differs():
    """Two systems that differ by chance alone: about 5% of the tests call it at 5%."""
    rng = np.random.default_rng(5)
    p = [metrics.paired_difference(*rng.normal(size=(2, 30)), n_resamples=199, seed=s)["p"] for s in range(300)]
    assert 0.02 < np.mean(np.array(p) <= 0.05) < 0.09


def test_holm_by_hand():
    found = metrics.holm({"a": 0.04, "b": 0.01, "c": 0.03})
    # .01 * 3, then .03 * 2, then .04 * 1 but never below the one before.
    assert found == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06}) and list(found) == ["a", "b", "c"]
    assert metrics.holm({"x": 0.6, "y": 0.7}) == {"x": 1.0, "y": 1.0} and metrics.holm({}) == {}


# --- METEOR and finding F1


def test_meteor_equals_nltk_without_wordnet():
    """nltk's own call on the same words, with a WordNet that knows nothing and a stemmer that remembers nothing."""
    from nltk.stem.porter import PorterStemmer
    from nltk.translate.meteor_score import single_meteor_score

    class Empty:
        def synsets(self, word):
            return []

    references = ["The lungs are clear today", "No effusions are seen here", "a b c d", "one", ""]
    predictions = ["today the lungs are clearing", "effusion is not seen", "c d a b", "two", "words"]
    found = metrics.meteor_exact_stem(references=references, predictions=predictions)
    for value, reference, prediction in zip(found, references, predictions, strict=True):
        words = reference.lower().split(), prediction.lower().split()
        assert value == pytest.approx(single_meteor_score(*words, stemmer=PorterStemmer(), wordnet=Empty()))
    assert found[0] > 0.5, "'clear' and 'clearing' share a stem"
    assert found[2] == pytest.approx(1 - 0.5 * (2 / 4) ** 3), "two pieces of two words each"
    assert found[3] == found[4] == 0


def test_meteor_knows_no_synonym_and_needs_no_download():
    same_meaning = metrics.meteor_exact_stem(references=["small"], predictions=["little"])
    assert same_meaning[0] == 0


def test_finding_f1_by_hand_with_and_without_side():
    reference = "There is a left pleural effusion. The heart is enlarged. No pneumothorax."
    cases = {
        "There is a right pleural effusion. Cardiomegaly.": (1.0, 0.5),
        "There is a left pleural effusion.": (2 / 3, 2 / 3),
        "Bilateral pleural effusions. The heart is enlarged.": (1.0, 0.8),
        "No pleural effusion. Cardiomegaly as before.": (2 / 3, 2 / 3),
        "Normal chest.": (0.0, 0.0),
    }
    references = [reference] * len(cases)
    for with_side, place in ((False, 0), (True, 1)):
        found = metrics.finding_f1(references=references, predictions=list(cases), with_side=with_side)
        assert found.tolist() == pytest.approx([values[place] for values in cases.values()])
    assert metrics.finding_f1(references=["The lungs are clear."], predictions=[""]).tolist() == [1.0]


def test_pair_scores_are_those_of_the_single_functions():
    references, predictions = [TEXTS[0][0], "No effusion."], [TEXTS[1][0], "No effusion."]
    table = metrics.pair_scores(references=references, predictions=predictions)
    assert table.bleu_4[0] == pytest.approx(TEXT_VALUES["bleu_4"]) and table.bleu_4[1] == pytest.approx(1)
    assert table.rouge_l.tolist() == pytest.approx([8 / 11, 1])
    assert table.finding_f1.tolist() == [0, 1]
    means = metrics.text_scores(references=references, predictions=predictions)
    assert means["meteor_exact_stem"] == pytest.approx(table.meteor_exact_stem.mean())
    assert len(metrics.pair_scores(references=[], predictions=[])) == 0


# --- the issue's examples, to the letter


@pytest.mark.parametrize(
    ("dice", "pooled", "averaged", "share"),
    [(0.76, False, True, 0.0933), (0.857, True, True, 0.9987), (0.90, False, False, 1.0)],
)
def test_check_iou_dice_says_what_the_issue_asks(dice, pooled, averaged, share):
    verdict = metrics.check_iou_dice(0.75, dice)
    assert (verdict["pooled"], verdict["averaged"]) == (pooled, averaged)
    assert verdict["max_share_between"] == pytest.approx(share, abs=1e-3)
    if dice == 0.76:
        assert verdict["degenerate"] and "at most 9% of them" in verdict["reason"]
        assert "nearly every item sits at 0 or 1" in verdict["reason"]


def test_a_whole_image_box_on_every_real_film_scores_at_least_its_share_of_normal_films():
    """70.7% of the 15,000 films have no finding, and there a whole-image "No finding" box is exactly right.

    Scored on every fifteenth film, which is enough to see the bound hold.
    Film sizes are not in the annotations; each film is taken as no larger than its boxes reach, which leaves the bound.
    """
    from cliniqure_utils.annotations import read_annotations

    annotations, _ = read_annotations("torchxrayvision")
    normal = annotations.groupby("image_id").class_name.agg(lambda names: (names == "No finding").all())
    assert normal.mean() == pytest.approx(10606 / 15000)
    normal = normal.sort_index()[::15]
    image_ids = list(normal.index)
    far = annotations.groupby("image_id")[["x_max", "y_max"]].max().fillna(1000.0)
    nothing = boxes(score=True).astype({"image_id": str})
    found = metrics.box_overlap(
        references=annotations, predictions=nothing, image_ids=image_ids, definition="pooled", with_no_finding=True,
        image_sizes=dict(zip(far.index, far.itertuples(index=False), strict=True)),
    )  # fmt: skip
    assert found["n"] == 1000 and normal.mean() <= found["iou"] < 0.85
    without = metrics.box_overlap(references=annotations, predictions=nothing, image_ids=image_ids, definition="pooled")
    assert without["iou"] == 0 and without["n"] == 1000 - normal.sum()
