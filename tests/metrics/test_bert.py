"""BERTScore: cosines by hand, identity, random pairs, empty and long texts."""

import json
from pathlib import Path

import numpy as np
import pytest

from cliniqure_utils import metrics

SHARED = Path(__file__).parents[3] / "shared"


REPORTS = [
    "The heart is enlarged. No pleural effusion.",
    "Small left pleural effusion with basal atelectasis.",
    "The lungs are clear. No acute finding.",
    "A round opacity lies in the right upper lobe.",
]


@pytest.fixture(scope="module")
def scorer():
    try:
        return metrics.BertScorer()
    except metrics.MissingEncoder as missing:
        pytest.skip(str(missing))


def test_bert_score_equals_cosines_of_the_encoder(scorer):
    """Independent value: word vectors of layer 6 taken from transformers, greedy matching by hand."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = metrics.encoder_folder()
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    vectors = []
    for text in REPORTS[:2]:
        ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=512)
        with torch.no_grad():
            states = model(**ids, output_hidden_states=True).hidden_states[6][0]
        vectors.append(torch.nn.functional.normalize(states, dim=-1))
    cosine = vectors[1] @ vectors[0].T  # (prediction words, reference words)
    # [CLS] and [SEP] are not averaged over, but a word may match them: bert-score does so.
    precision = cosine.max(1).values[1:-1].mean().item()
    recall = cosine.max(0).values[1:-1].mean().item()
    found = scorer.score_pairs(references=REPORTS[:1], predictions=REPORTS[1:2]).iloc[0]
    assert found.precision == pytest.approx(precision, abs=1e-4)
    assert found.recall == pytest.approx(recall, abs=1e-4)
    assert abs(found.precision - found.recall) > 0.001, "the pair must tell precision from recall"
    swapped = scorer.score_pairs(references=REPORTS[1:2], predictions=REPORTS[:1]).iloc[0]
    assert (swapped.precision, swapped.recall) == pytest.approx((found.recall, found.precision), abs=1e-5)


def scores(references, predictions, **settings):
    """BERTScore of one system."""
    return metrics.bert_scores_by_system(references=references, predictions={"it": predictions}, **settings)["it"]


def test_identity_is_one_random_is_zero_and_empty_is_counted(scorer):
    same = scores(REPORTS, REPORTS, scorer=scorer, n_random_pairs=200)
    assert same.raw["f1"] == pytest.approx(1, abs=1e-5)
    assert same.rescaled["f1"] == pytest.approx(1, abs=1e-4)
    assert 0.2 < same.baseline["f1"] < 0.9
    assert abs(same.shuffled_rescaled["f1"]) < 0.35, "reports of other images score about 0 when rescaled"
    holes = scores(REPORTS, ["", *REPORTS[1:]], scorer=scorer, n_random_pairs=50)
    assert holes.n_empty == 1
    assert holes.raw["f1"] == pytest.approx(0.75, abs=1e-5)
    assert holes.pairs.f1[0] == 0.0


def test_the_same_seed_gives_the_same_baseline(scorer):
    twice = [scores(REPORTS, REPORTS, scorer=scorer, n_random_pairs=20, seed=s).baseline for s in (1, 1, 2)]
    assert twice[0] == twice[1] != twice[2]


def test_several_systems_at_once_score_as_they_do_alone(scorer):
    systems = {"same": REPORTS, "turned": REPORTS[::-1]}
    together = metrics.bert_scores_by_system(
        references=REPORTS, predictions=systems, scorer=scorer, n_random_pairs=30, seed=4
    )
    for name, texts in systems.items():
        alone = scores(REPORTS, texts, scorer=scorer, baseline_texts=REPORTS, n_random_pairs=30, seed=4)
        assert together[name].rescaled == pytest.approx(alone.rescaled, abs=1e-4)
        assert together[name].shuffled == pytest.approx(alone.shuffled, abs=1e-4)
        np.testing.assert_allclose(together[name].shuffled_f1, alone.shuffled_f1, atol=1e-4)


def test_one_reference_cannot_be_rescaled_and_says_so(scorer):
    alone = scores(REPORTS[:1], REPORTS[:1], scorer=scorer)
    assert alone.rescaled is None and alone.shuffled is None
    assert "not rescaled" in alone.note
    assert "x_rescaled_f1" not in alone.flat("x") and alone.flat("x")["x_f1"] == pytest.approx(1, abs=1e-5)


def test_long_texts_are_cut_and_counted(scorer):
    """An 800-word pair that differs in its tail only looks identical, and the table says that it was cut."""
    path = SHARED / "cases" / "C54"
    if not path.is_dir():
        pytest.skip("the shared case C54 is not on this machine")
    pairs = json.loads((path / "long_pairs.json").read_text())
    result = scores([p["ref"] for p in pairs], [p["cand"] for p in pairs], scorer=scorer, n_random_pairs=2)
    assert np.flatnonzero(result.pairs.cut).tolist() == json.loads((path / "expected.json").read_text())["cut"]
    assert result.n_cut == 1 and "1 cut" in result.note
    assert result.pairs.f1[0] == pytest.approx(1, abs=1e-5)


def test_cutting_starts_beyond_512_tokens(scorer):
    texts = ["lung " * 510, "lung " * 511]  # plus the two special tokens: 512 and 513
    assert scorer.score_pairs(references=texts, predictions=texts).cut.tolist() == [False, True]


def test_missing_encoder_is_one_sentence(tmp_path):
    with pytest.raises(metrics.MissingEncoder, match="config.json"):
        metrics.encoder_folder(tmp_path)


def test_shuffles_and_random_pairs_never_meet_themselves():
    for n in (2, 3, 50):
        order = metrics.shuffled_order(n, seed=0)
        assert sorted(order) == list(range(n)) and (order != np.arange(n)).all()
    first, second = metrics.random_pairs(["a", "", "b", "c"], 500, seed=0)
    assert (first != second).all() and set(first) == set(second) == {0, 2, 3}
