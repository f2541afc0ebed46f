"""The whole model against the slow one: teacher forcing, the loss, training, explanations, bad inputs."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from cliniqure_utils import cmn


@pytest.mark.parametrize("seed", range(3))
def test_teacher_forcing_equals_the_slow_model(seed, small_model, features_for, slow_model):
    model, ids = small_model(seed), torch.tensor([[0, 3, 5, 5, 2, 0, 0], [0, 1, 0, 0, 0, 0, 0]])
    features = features_for(model, 2, seed=seed)
    with torch.no_grad():
        outputs = model(features=features, ids=ids)
    with_gradients = model(features=features, ids=ids)  # the memory answers by another route then
    torch.testing.assert_close(with_gradients["logprobs"].detach(), outputs["logprobs"], atol=1e-5, rtol=0)
    slow, losses = slow_model(model), []
    for row in range(2):
        encoded = slow.encode(features[row].double().numpy())
        logits = slow.logits(encoded, ids[row, :-1].tolist(), masked=True)
        expected = np.array([slow.log_softmax(line) for line in logits])
        np.testing.assert_allclose(outputs["logprobs"][row].numpy(), expected, atol=2e-5)
        length = int((ids[row] > 0).sum()) + 1  # the words and the end
        losses += [-expected[j, ids[row, j + 1]] for j in range(length)]
    assert outputs["loss"].item() == pytest.approx(np.mean(losses), abs=1e-5)


def test_what_stands_after_the_end_does_not_matter(small_model, features_for):
    model, features = small_model(), None
    features = features_for(model, 1)
    with torch.no_grad():
        short = model(features=features, ids=torch.tensor([[0, 3, 4, 0]]))
        padded = model(features=features, ids=torch.tensor([[0, 3, 4, 0, 0, 0, 0]]))
    assert short["loss"].item() == pytest.approx(padded["loss"].item(), abs=1e-6)


def test_label_smoothing_acts_in_training_only(small_model, features_for):
    plain, smooth = small_model(), small_model(label_smoothing=0.5)
    ids, features = torch.tensor([[0, 3, 4, 0]]), features_for(plain, 1)
    with torch.no_grad():
        assert plain(features=features, ids=ids)["loss"] == smooth(features=features, ids=ids)["loss"]
    for model in (plain, smooth):
        model.train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    assert plain(features=features, ids=ids)["loss"] != smooth(features=features, ids=ids)["loss"]


def test_bad_inputs_say_what_was_expected(small_model):
    model = small_model()
    with pytest.raises(ValueError, match="either images or features"):
        model.generate()
    with pytest.raises(ValueError, match=r"features \(n, patches, 3\), found \(1, 5, 4\)"):
        model.generate(features=torch.zeros(1, 5, 4))
    with pytest.raises(ValueError, match="expected ids"):
        model(features=torch.zeros(1, 5, 3), ids=torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="beam_size must be at least 1"):
        model.generate(features=torch.zeros(1, 5, 3), beam_size=0)
    with pytest.raises(ValueError, match="length penalty"):
        model.generate(features=torch.zeros(1, 5, 3), penalty="wu_x")
    with pytest.raises(ValueError, match="topk"):
        cmn.CMNConfig(topk=9, cmm_size=8)
    with pytest.raises(ValueError, match="cmm_dim"):
        cmn.CMNConfig(cmm_dim=256)


def test_explanation_names_the_slots_and_patches(small_model, features_for, slow_model):
    model = small_model()
    features = features_for(model, 2)
    ids = model.generate(features=features)
    seen = model.explain(ids, features=features)
    n, length, layers, heads, patches = 2, model.config.max_length, 2, 2, 5
    assert seen.word_patches.shape == (n, length, layers, heads, patches)
    torch.testing.assert_close(seen.word_patches.sum(-1), torch.ones(n, length, layers, heads))
    torch.testing.assert_close(seen.word_slot_weights.sum(-1), torch.ones(n, length, heads))
    assert seen.patch_slots.shape == (n, patches, heads, 3)
    # Slots of the first word, by the slow memory: its embedding at position 1.
    slow, word, chosen = slow_model(model), int(ids[0, 0]), {}
    rows = slow.weights["word_embedding.weight"][[0, word]] * math.sqrt(8)
    slow.memory(slow.position(rows), chosen)
    assert [seen.word_slots[0, 0, head].tolist() for head in range(2)] == [chosen[1, head] for head in range(2)]


def test_training_teaches_the_report_of_each_film(small_model, features_for):
    torch.manual_seed(0)
    model = small_model(0, d_model=16, cmm_dim=16, d_ff=16, sharp=1.0, dropout=0.0, feature_dropout=0.0)
    texts = ["the heart is large .", "no effusion .", "clear . the aorta is large ."]
    ids = torch.zeros(3, 10, dtype=torch.int64)
    for row, text in enumerate(texts):
        encoded = model.tokenizer.encode(text.removesuffix("."))
        ids[row, : len(encoded)] = torch.tensor(encoded)
    features = features_for(model, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    model.train()
    for _ in range(50):
        optimizer.zero_grad()
        model(features=features, ids=ids)["loss"].backward()
        optimizer.step()
    for beam_size in (1, 3):
        written = model.generate(features=features, beam_size=beam_size)
        assert [model.tokenizer.decode(row) for row in written] == texts
