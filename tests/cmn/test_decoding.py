"""Greedy and beam search against the slow model's, which keeps everything and sorts Python lists."""

import numpy as np
import pytest
import torch


@pytest.mark.parametrize(
    "options",
    [{}, {"block_trigrams": False}, {"decoding_constraint": True}, {"log_softmax": False}],
    ids=["plain", "no blocking", "constraint", "raw logits"],
)
def test_greedy_equals_the_slow_model(options, small_model, features_for, slow_model):
    names = {"decoding_constraint": "constraint", "log_softmax": "logsoftmax"}
    repeated = 0
    for seed in range(4):
        model = small_model(seed, max_length=14)
        features = features_for(model)
        found = model.generate(features=features, beam_size=1, **options)
        slow_options = {names.get(key, key): value for key, value in options.items()}
        slow = [slow_model(model).greedy(f.double().numpy(), 14, **slow_options) for f in features]
        assert found.tolist() == slow
        repeated += sum(len(set(zip(r, r[1:], r[2:], strict=False))) < 12 for r in slow)
    assert repeated or options.get("block_trigrams", True), "the models must repeat themselves, or nothing is tested"


def test_a_repeated_trigram_costs_twice_0693_per_occurrence(small_model, features_for):
    """The output bias alone decides: words 1, 2 and 3 have almost the same logit whatever was said."""
    model = small_model()
    with torch.no_grad():
        model.output.weight.zero_()
        model.output.bias.fill_(-50)
        model.output.bias[1], model.output.bias[2] = 0.0, -1.5
    said = model.generate(features=features_for(model, 1), beam_size=1)[0].tolist()
    # 1 1 1, then 111 would be its second: -1.386 > -1.5, so 1 again; then 111 twice: -2.772 < -1.5, so 2.
    assert said[:5] == [1, 1, 1, 1, 2]
    unblocked = model.generate(features=features_for(model, 1), beam_size=1, block_trigrams=False)[0].tolist()
    assert unblocked == [1] * 9


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize(
    "options, slow_options",
    [
        ({}, {}),
        ({"penalty": "wu_0.9"}, {"rescore": lambda n, score: score / (((5 + n) / 6) ** 0.9)}),
        ({"penalty": "avg_0"}, {"rescore": lambda n, score: score / n}),
        ({"temperature": 1.7}, {"temperature": 1.7}),
        ({"decoding_constraint": True}, {"constraint": True}),
    ],
    ids=["plain", "wu", "avg", "temperature", "constraint"],
)
def test_beam_search_equals_the_slow_model(size, options, slow_options, small_model, features_for, slow_model):
    early = 0
    for seed in range(3):
        model = small_model(seed, max_length=7)
        with torch.no_grad():
            model.output.bias[0] += 2 * seed  # the more, the earlier beams end, are stored, and go on at a loss
        features = features_for(model, 2)
        found = model.decode(features=features, beam_size=size, n_reports=size, **options)
        for row, image in enumerate(features):
            slow = slow_model(model).beam(image.double().numpy(), 7, size, **slow_options)
            assert found.ids[row].tolist() == [words for _, words in slow]
            np.testing.assert_allclose(found.scores[row].numpy(), [score for score, _ in slow], atol=2e-4)
            early += sum(0 in words[:6] for _, words in slow)
    assert early > 0, "a beam must end before the last step, or nothing is tested"


def test_early_stop_changes_nothing_but_the_work(small_model, features_for):
    saved = 0
    for seed in range(12):
        model = small_model(seed, max_length=12)
        with torch.no_grad():
            model.output.bias[0] += 1.5  # reports end early, some of them
        features = features_for(model, 4, seed=seed)
        early = model.decode(features=features, return_logprobs=True)
        full = model.decode(features=features, early_stop=False, return_logprobs=True)
        assert early.ids.tolist() == full.ids.tolist()
        torch.testing.assert_close(early.logprobs, full.logprobs, atol=1e-5, rtol=0)
        torch.testing.assert_close(early.scores[:, 0], full.scores[:, 0], atol=1e-5, rtol=0)
        saved += full.steps - early.steps
    assert saved > 0


@pytest.mark.parametrize("beam_size", [1, 3])
def test_recorded_log_probabilities_add_up_to_the_score(beam_size, small_model, features_for):
    model = small_model(2)
    found = model.decode(features=features_for(model), beam_size=beam_size, return_logprobs=True)
    for words, score, rows in zip(found.ids[:, 0].tolist(), found.scores[:, 0].tolist(), found.logprobs, strict=True):
        length = words.index(0) + 1 if 0 in words else len(words)
        assert sum(rows[t, words[t]].item() for t in range(length)) == pytest.approx(score, abs=1e-4)
        assert not rows[length:].any()


@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_batch_gives_what_each_image_gives_alone(beam_size, small_model, features_for):
    model = small_model(1)
    features = features_for(model, 5)
    together = model.generate(features=features, beam_size=beam_size)
    alone = [model.generate(features=one[None], beam_size=beam_size)[0].tolist() for one in features]
    assert together.tolist() == alone
    assert len({tuple(words) for words in alone}) > 1, "the model must look at the film, or nothing is tested"


def test_options_do_not_outlive_the_call(small_model, features_for):
    model, features = small_model(1), None
    features = features_for(model, 3)
    before = model.generate(features=features)
    model.generate(features=features, temperature=3.0, penalty="avg_0", max_length=3, decoding_constraint=True)
    assert model.generate(features=features).tolist() == before.tolist()
    assert before.shape == (3, model.config.max_length) and before.dtype == torch.int64
    assert model.generate(features=features, max_length=3).shape == (3, 3)


def test_generate_leaves_the_mode_alone_and_ignores_dropout(small_model, features_for):
    model = small_model()
    features = features_for(model)
    expected = model.generate(features=features).tolist()
    model.train()
    assert model.generate(features=features).tolist() == expected
    assert model.training
