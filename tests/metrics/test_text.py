"""Scores of texts without an encoder: by hand, and as nltk counts them."""

import numpy as np
import pytest

from cliniqure_utils import metrics


def test_bleu_and_rouge_by_hand_and_asymmetry():
    reference, prediction = ["the heart size is normal today"], ["the heart size is large"]
    scores = metrics.text_scores(references=reference, predictions=prediction)
    # Five words against six: brevity penalty exp(1 - 6/5). Precisions 4/5, 3/4, 2/3, 1/2.
    penalty = np.exp(-0.2)
    precisions = np.array([4 / 5, 3 / 4, 2 / 3, 1 / 2])
    for order in range(1, 5):
        assert scores[f"bleu_{order}"] == pytest.approx(penalty * precisions[:order].prod() ** (1 / order), abs=1e-6)
    assert scores["rouge_l"] == pytest.approx(2 * 4 / (5 + 6))  # longest common subsequence of 4 words
    swapped = metrics.text_scores(references=prediction, predictions=reference)
    assert swapped["bleu_1"] == pytest.approx(4 / 6)  # no penalty, a lower precision
    with pytest.raises(ValueError, match="1 references and 2 predictions"):
        metrics.text_scores(references=reference, predictions=["a", "b"])


def test_no_score_of_texts_against_themselves_is_above_1():
    text = "The heart size is normal. No pleural effusion or pneumothorax is seen."
    for n in (1, 3, 20):
        scores = metrics.text_scores(references=[text] * n, predictions=[text] * n)
        assert [scores[f"bleu_{order}"] for order in range(1, 5)] == pytest.approx([1] * 4, abs=1e-12)
        assert max(scores.values()) <= 1


def test_reports_that_are_all_the_same_are_told():
    assert metrics.all_the_same(["No  finding."] * 19 + ["no finding.\n"]) and metrics.all_the_same(["", ""])
    assert not metrics.all_the_same(["No finding."] * 19 + ["No finding"])
    assert not metrics.all_the_same(["No finding."]) and not metrics.all_the_same([])


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
    references = ["the heart size is normal today", "No effusion."]
    predictions = ["the heart size is large", "No effusion."]
    table = metrics.pair_scores(references=references, predictions=predictions)
    # n-grams found: 4 of 5, 3 of 4, 2 of 3, 1 of 2; five words against six.
    assert table.bleu_4.tolist() == pytest.approx([np.exp(-0.2) * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25, 1])
    assert table.rouge_l.tolist() == pytest.approx([8 / 11, 1])
    assert table.finding_f1.tolist() == [0, 1]
    means = metrics.text_scores(references=references, predictions=predictions)
    assert means["meteor_exact_stem"] == pytest.approx(table.meteor_exact_stem.mean())
    assert len(metrics.pair_scores(references=[], predictions=[])) == 0


def test_finding_scores_by_hand_and_asymmetry():
    references = np.array([[1, 1, 0, 0], [0, 0, 0, 0]])
    predictions = np.array([[1, 0, 0, 0], [0, 0, 1, 0]])
    scores = metrics.finding_scores(references=references, predictions=predictions)
    assert scores["micro_precision"] == 0.5 and scores["micro_recall"] == 0.5
    assert scores["macro_f1"] == pytest.approx(1 / 3), "the finding nobody speaks of does not count"
    predictions = np.array([[1, 1, 1, 0], [0, 0, 1, 0]])
    scores = metrics.finding_scores(references=references, predictions=predictions)
    assert (scores["micro_precision"], scores["micro_recall"]) == (0.5, 1.0)
    swapped = metrics.finding_scores(references=predictions, predictions=references)
    assert (swapped["micro_precision"], swapped["micro_recall"]) == (1.0, 0.5)


def test_most_common_report_is_the_commonest_wording_of_the_commonest_set_of_findings():
    normal = ["Normal chest.", "The lungs are clear.", "No effusion."]
    assert metrics.most_common_report(["Cardiomegaly.", *normal, "Cardiomegaly."]) == "No effusion."
    assert metrics.most_common_report(["Cardiomegaly.", *normal, "Normal chest."]) == "Normal chest."
    assert metrics.most_common_report(["Enlarged heart.", "Cardiomegaly.", "A nodule."]) == "Cardiomegaly."
    with pytest.raises(ValueError, match="no training text"):
        metrics.most_common_report([])
