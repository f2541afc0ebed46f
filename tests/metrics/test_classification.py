"""Scores of decisions and probabilities: the same as scikit-learn, and intervals the same as scoring each resample."""

import numpy as np
import pytest
from sklearn import metrics as sk

from cliniqure_utils import metrics


def test_classification_scores_equal_scikit_learn(random_labels):
    references, predictions = random_labels
    scores = metrics.classification_scores(references=references, predictions=predictions)
    for average in ("micro", "macro", "weighted", "samples"):
        expected = sk.precision_recall_fscore_support(references, predictions, average=average, zero_division=0)
        found = [scores[f"{average}_{part}"] for part in ("precision", "recall", "f1")]
        np.testing.assert_allclose(found, expected[:3], atol=1e-12, err_msg=average)
    assert scores["hamming_loss"] == pytest.approx(sk.hamming_loss(references, predictions), abs=1e-12)
    assert len(scores) == 13


def test_swapped_references_and_predictions_swap_precision_and_recall():
    references, predictions = np.array([[1, 1, 0, 0]]), np.array([[1, 0, 0, 0]])
    scores = metrics.classification_scores(references=references, predictions=predictions)
    assert (scores["micro_precision"], scores["micro_recall"]) == (1.0, 0.5)
    swapped = metrics.classification_scores(references=predictions, predictions=references)
    assert (swapped["micro_precision"], swapped["micro_recall"]) == (0.5, 1.0)
    with pytest.raises(TypeError):
        metrics.classification_scores(references, predictions)


def test_classification_refuses_probabilities_and_wrong_shapes():
    with pytest.raises(ValueError, match="threshold"):
        metrics.classification_scores(references=np.array([[0, 1]]), predictions=np.array([[0.2, 0.9]]))
    with pytest.raises(ValueError, match=r"\(1, 2\) and \(1, 3\)"):
        metrics.classification_scores(references=np.zeros((1, 2)), predictions=np.zeros((1, 3)))


def test_bootstrap_equals_rescoring_the_resampled_images(random_labels):
    references, predictions = random_labels
    counts = metrics.resample_counts(len(references), 50, seed=3)
    f1 = [
        sk.f1_score(references[rows], predictions[rows], average="weighted", zero_division=0)
        for rows in (np.repeat(np.arange(len(references)), row) for row in counts)
    ]
    found = metrics.classification_intervals(references=references, predictions=predictions, n_resamples=50, seed=3)
    assert found["weighted_f1"] == pytest.approx(np.quantile(f1, [0.025, 0.975]), abs=1e-12)


def test_auroc_equals_scikit_learn_with_ties_and_missing_classes(random_labels):
    references, _ = random_labels
    probabilities = np.round(np.random.default_rng(4).random(references.shape) + 0.3 * references, 1)  # many ties
    found = metrics.auroc(references=references, probabilities=probabilities)
    expected = [sk.roc_auc_score(references[:, k], probabilities[:, k]) for k in range(5)]
    np.testing.assert_allclose(found[:5], expected, atol=1e-12)
    assert np.isnan(found[5]), "a class without a positive image has no AUROC"
    mean, low, high = metrics.macro_auroc_interval(references=references, probabilities=probabilities, seed=5)
    assert mean == pytest.approx(np.mean(expected), abs=1e-12)
    assert low < mean < high
    assert metrics.auroc(references=references, probabilities=-probabilities)[0] == pytest.approx(1 - expected[0])


def test_macro_auroc_bootstrap_equals_rescoring(random_labels):
    references = random_labels[0][:, :2]
    probabilities = np.random.default_rng(6).random(references.shape)
    counts = metrics.resample_counts(len(references), 40, seed=7)
    rows = [np.repeat(np.arange(len(references)), row) for row in counts]
    macro = [np.mean([sk.roc_auc_score(references[r, k], probabilities[r, k]) for k in (0, 1)]) for r in rows]
    _, low, high = metrics.macro_auroc_interval(
        references=references, probabilities=probabilities, n_resamples=40, seed=7
    )
    assert (low, high) == pytest.approx(tuple(np.quantile(macro, [0.025, 0.975])), abs=1e-12)


def test_average_precision_of_classes_equals_scikit_learn_also_resampled(random_labels):
    references, _ = random_labels
    probabilities = np.random.default_rng(3).random(references.shape).round(1)  # many ties
    found = metrics.average_precision(references=references, probabilities=probabilities)
    for k in range(5):
        assert found[k] == pytest.approx(sk.average_precision_score(references[:, k], probabilities[:, k]), abs=1e-12)
    assert np.isnan(found[5]), "no positive image"
    names = [f"class {k}" for k in range(6)]
    table = metrics.per_class_intervals(
        references=references, probabilities=probabilities, class_names=names, n_resamples=40, seed=5
    )
    assert table.positives.tolist() == references.sum(0).tolist()
    counts = metrics.resample_counts(len(references), 40, 5)
    for name, score in (("auroc", sk.roc_auc_score), ("ap", sk.average_precision_score)):
        values = [score(references[:, 1], probabilities[:, 1], sample_weight=row) for row in counts]
        low, high = np.quantile(values, [0.025, 0.975])
        assert table.loc["class 1", [f"{name}_low", f"{name}_high"]].tolist() == pytest.approx([low, high], abs=1e-9)
        point = score(references[:, 1], probabilities[:, 1])
        assert table.loc["class 1", name] == pytest.approx(point, abs=1e-12)
    assert table.loc["class 5"].isna().sum() == 6


def test_films_of_a_patient_are_drawn_together():
    """Each film twice under one patient: as unsure as the films alone, not surer."""
    rng = np.random.default_rng(0)
    references, probabilities = rng.random((30, 1)) < 0.4, rng.random((30, 1))
    alone = metrics.per_class_intervals(references=references, probabilities=probabilities, class_names=["a"])
    twice = metrics.per_class_intervals(
        references=np.repeat(references, 2, 0), probabilities=np.repeat(probabilities, 2, 0), class_names=["a"],
        groups=np.repeat([f"patient {n:02d}" for n in range(30)], 2),
    )  # fmt: skip
    columns = ["auroc", "auroc_low", "auroc_high"]
    np.testing.assert_allclose(twice[columns], alone[columns])


def test_per_image_f1_and_no_finding():
    references = metrics.with_no_finding([[1, 1], [0, 0], [1, 0]])
    np.testing.assert_array_equal(references[:, 2], [False, True, False])
    predictions = metrics.with_no_finding([[1, 0], [0, 0], [0, 1]])
    np.testing.assert_allclose(metrics.per_image_f1(references=references, predictions=predictions), [2 / 3, 1, 0])


def test_trivial_label_baselines():
    train = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 1], [0, 0, 1]])
    np.testing.assert_array_equal(metrics.most_common_labels(train, 2), [[True, False, False]] * 2)
    np.testing.assert_allclose(metrics.class_prior(train, 2), [[0.5, 0.25, 0.5]] * 2)
    np.testing.assert_array_equal(metrics.always_one_class(2, 3), [[False, False, True]] * 2)


def test_always_no_finding_on_the_real_labels(vindr):
    """Measured on Kaggle's 15,000 training images: any-reader labels, 15 classes (notes, rows 12 and 14)."""
    from cliniqure_utils.annotations import label_matrix

    image_ids = sorted(vindr.image_id.unique())
    references = label_matrix(vindr, image_ids).to_numpy()
    scores = metrics.classification_scores(
        references=references, predictions=metrics.always_one_class(len(image_ids), 15)
    )
    expected = {
        "micro_precision": 0.707, "micro_recall": 0.408, "micro_f1": 0.518, "weighted_f1": 0.338,
        "samples_f1": 0.707, "macro_f1": 0.055, "hamming_loss": 0.088,
    }  # fmt: skip
    assert {name: round(scores[name], 3) for name in expected} == expected
    # "No finding" boxes over the whole image, answered on every image, are right on 70.7% of the images.
    assert references[:, 14].mean() == pytest.approx(10606 / 15000, abs=1e-9)
