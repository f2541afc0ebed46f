"""Scores of report texts without an encoder: n-gram overlap, METEOR, agreement of stated findings.

`text_scores` gives one number per set of reports, `pair_scores` one row per report, which intervals and paired tests
need. BERTScore is in `bert.py`.
"""

import functools
import re
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pandas as pd

from cliniqure_utils import labeller
from cliniqure_utils.metrics.classification import classification_scores

PARTS = ("precision", "recall", "f1")
ALWAYS_NORMAL = "The lungs are clear. No finding."  # trivial baseline: this report on every film
NO_SYNONYMS = SimpleNamespace(synsets=lambda word: [])  # what nltk asks a WordNet for


def text_scores(*, references: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """BLEU-1 to BLEU-4, ROUGE-L and METEOR without synonyms, lower-cased, in [0, 1].

    BLEU is over the corpus (sacrebleu, tokenizer 13a; exponential smoothing when an n-gram order has no hit);
    BLEU-n uses orders 1 to n and punishes predictions that are shorter than the references, so it is not symmetric.
    ROUGE-L is the mean over pairs of the F1 of the longest common subsequence (rouge-score, no stemming).
    meteor_exact_stem is the mean over pairs of `meteor_exact_stem`.

    Raises:
        ValueError: The two lists differ in length or are empty, or an entry is not text.
    """
    from sacrebleu.metrics import BLEU

    references, predictions = text_pairs(references, predictions)
    if not references:
        raise ValueError("no text to score")
    scores = {}
    for order in range(1, 5):
        bleu = BLEU(max_ngram_order=order, lowercase=True, force=True)  # no warning of texts that end in " ."
        # The geometric mean of n times 1 comes out as 1.0000000000000004.
        scores[f"bleu_{order}"] = min(bleu.corpus_score(predictions, [references]).score / 100, 1.0)
    scores["rouge_l"] = float(np.mean(rouge_l(references=references, predictions=predictions)))
    scores["meteor_exact_stem"] = float(np.mean(meteor_exact_stem(references=references, predictions=predictions)))
    return scores


def pair_scores(*, references: Sequence[str], predictions: Sequence[str]) -> pd.DataFrame:
    """One row per pair of reports, every column in [0, 1].

    Returns:
        bleu_4 (of the sentence: sacrebleu with exponential smoothing, so its mean is not the corpus BLEU of
        `text_scores`), rouge_l, meteor_exact_stem, finding_f1, finding_side_f1 (see `finding_f1`).

    Raises:
        ValueError: The two lists differ in length, or an entry is not text.
    """
    from sacrebleu.metrics import BLEU

    references, predictions = text_pairs(references, predictions)
    bleu = BLEU(lowercase=True, effective_order=True, force=True)
    pairs = list(zip(references, predictions, strict=True))
    return pd.DataFrame(
        {
            "bleu_4": np.array([bleu.sentence_score(p, [r]).score / 100 for r, p in pairs], dtype=float).clip(0, 1),
            "rouge_l": rouge_l(references=references, predictions=predictions),
            "meteor_exact_stem": meteor_exact_stem(references=references, predictions=predictions),
            "finding_f1": finding_f1(references=references, predictions=predictions),
            "finding_side_f1": finding_f1(references=references, predictions=predictions, with_side=True),
        }
    )


def rouge_l(*, references: Sequence[str], predictions: Sequence[str]) -> np.ndarray:
    """F1 of the longest common subsequence of words of each pair, float (n,) in [0, 1]; rouge-score, no stemming."""
    from rouge_score.rouge_scorer import RougeScorer

    references, predictions = text_pairs(references, predictions)
    rouge = RougeScorer(["rougeL"])
    pairs = zip(references, predictions, strict=True)
    return np.array([rouge.score(target=r, prediction=p)["rougeL"].fmeasure for r, p in pairs], dtype=float)


def meteor_exact_stem(*, references: Sequence[str], predictions: Sequence[str]) -> np.ndarray:
    """METEOR without its synonym stage of each pair, float (n,) in [0, 1]; an empty text scores 0.

    Words are aligned when equal, then when their Porter stems are; recall weighs nine times precision, and a
    prediction that breaks the matched words into many pieces loses up to half. METEOR's third stage needs WordNet,
    which is a download: nltk is given an empty one, and the name says so. A text scores a little less than 1 against
    itself, because even one piece is penalised. Published METEOR values are higher and cannot be compared.

    Raises:
        ValueError: The two lists differ in length, or an entry is not text.

    Source: Lavie and Agarwal 2007, with the parameters of nltk (alpha .9, beta 3, gamma .5); words as in rouge-score.
    """
    from nltk.translate.meteor_score import single_meteor_score

    references, predictions = text_pairs(references, predictions)
    pairs = [(_words(r), _words(p)) for r, p in zip(references, predictions, strict=True)]
    return np.array(
        [single_meteor_score(r, p, stemmer=_CachedStemmer(), wordnet=NO_SYNONYMS) for r, p in pairs], dtype=float
    )


def finding_f1(*, references: Sequence[str], predictions: Sequence[str], with_side: bool = False) -> np.ndarray:
    """F1 of the findings that each pair of texts states or leaves open, as the rule labeller reads them.

    Args:
        references, predictions: Texts.
        with_side: A finding counts only with the patient's side: "left effusion" against "right effusion" scores 0.
            "both" counts as left and right; a finding without a side matches only one without a side, as heart and
            aorta always are.

    Returns:
        float (n,) in [0, 1]; 1 where neither text states a finding. Sizes, places other than the side, and whatever the
        labeller does not read have no effect on it.

    Raises:
        ValueError: The two lists differ in length, or an entry is not text.

    Source: ours, after Smit et al. 2020 (CheXbert F1), with `labeller` in place of their model.
    """
    references, predictions = text_pairs(references, predictions)
    stated = {text: _stated(text, with_side) for text in {*references, *predictions}}
    scores = []
    for r, p in zip(references, predictions, strict=True):
        there, said = stated[r], stated[p]
        scores.append(2 * len(there & said) / (len(there) + len(said)) if there or said else 1.0)
    return np.array(scores, dtype=float)


def finding_scores(*, references, predictions) -> dict[str, float]:
    """Micro and macro precision, recall and F1 of the findings that texts state.

    Args:
        references: (n texts, k findings) 0/1 or bool, such as the true findings or `labeller.label_matrix(texts)`.
        predictions: The same shape, from the predicted texts.

    Returns:
        micro_precision, micro_recall, micro_f1, macro_precision, macro_recall, macro_f1 in [0, 1]; macro over the
        findings that occur on either side, since a finding nobody speaks of would only add a 0.
    """
    references, predictions = np.asarray(references), np.asarray(predictions)
    scores = classification_scores(references=references, predictions=predictions)
    occurs = references.astype(bool).any(0) | predictions.astype(bool).any(0)
    if occurs.any():
        kept = classification_scores(references=references[:, occurs], predictions=predictions[:, occurs])
        scores |= {f"macro_{part}": kept[f"macro_{part}"] for part in PARTS}
    return {f"{average}_{part}": scores[f"{average}_{part}"] for average in ("micro", "macro") for part in PARTS}


def most_common_report(train_texts: Sequence[str]) -> str:
    """Trivial baseline: of the training reports with the commonest set of findings, the commonest wording.

    Hardly two reports are the same word for word, so the commonest text alone would be one picked by chance. Among
    equals the first in sorted order is taken, of sets as of texts.

    Raises:
        ValueError: No text.
    """
    if not len(train_texts):
        raise ValueError("no training text to choose from")
    texts = np.asarray(list(train_texts), dtype=object)
    _, belongs, counts = np.unique(labeller.label_matrix(texts), axis=0, return_inverse=True, return_counts=True)
    texts, counts = np.unique(texts[belongs.ravel() == counts.argmax()], return_counts=True)
    return texts[counts.argmax()]


def all_the_same(texts: Sequence[str]) -> bool:
    """Whether two films or more have one and the same text, case and blanks aside: then nobody looked at them.

    No score shows it: on mostly normal films one normal text scores well.
    """
    return len(texts) > 1 and len({" ".join(text.lower().split()) for text in texts}) == 1


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


@functools.cache
def _stem(word: str) -> str:
    return _porter().stem(word)


@functools.cache
def _porter():
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()


class _CachedStemmer:
    """Porter's stemmer with a cache: reports use few words, and stemming is most of the cost of METEOR."""

    stem = staticmethod(_stem)


def _stated(text: str, with_side: bool) -> frozenset:
    found = set()
    for mention in labeller.find_mentions(text):
        if mention.status != labeller.ABSENT:
            sides = ("left", "right") if mention.side == "both" else (mention.side,)
            found |= {(mention.finding, side) for side in sides} if with_side else {mention.finding}
    return frozenset(found)


def text_pairs(references, predictions) -> tuple[list[str], list[str]]:
    """Both as lists, checked: one prediction per reference, all text; else a ValueError."""
    references, predictions = list(references), list(predictions)
    if len(references) != len(predictions):
        raise ValueError(
            f"expected one prediction per reference, found {len(references)} references and "
            f"{len(predictions)} predictions"
        )
    for name, texts in (("references", references), ("predictions", predictions)):
        wrong = next((i for i, text in enumerate(texts) if not isinstance(text, str)), None)
        if wrong is not None:
            raise ValueError(f"{name}[{wrong}] is {type(texts[wrong]).__name__}, expected text")
    return references, predictions
