"""Training the report model: two learning rates, and the choice of the epoch by what val reports say."""

import copy

import pytest
import torch
from torch import nn

from cliniqure_utils import cmn, training

WORDS = ["<unk>", ".", "clear", "effusion", "heart", "large", "no", "the"]
TEXTS = ["the heart large .", "no effusion .", "clear . effusion ."]


def small_model(trunk=None, **changes):
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 6, 32, stride=32), nn.BatchNorm2d(6), nn.ReLU()) if trunk is None else trunk
    settings = dict(visual_extractor="custom", d_vf=6, d_model=16, d_ff=16, num_heads=2, num_layers=1, topk=3,
                    cmm_size=6, cmm_dim=16, max_length=6, dropout=0.0, feature_dropout=0.0)  # fmt: skip
    return cmn.R2GenCMN(cmn.Tokenizer(WORDS), cmn.CMNConfig(**(settings | changes)), trunk)


def films(n=3):
    """Films that differ in one corner each, and their reports."""
    items = []
    for number in range(n):
        image = torch.zeros(3, 224, 224)
        image[:, :, 70 * number : 70 * number + 70] = 2.0
        ids = torch.tensor(cmn.Tokenizer(WORDS).encode(TEXTS[number].removesuffix(".")))
        items.append({"image_id": f"film{number}", "images": image, "ids": ids})
    return items


def test_two_learning_rates_reach_the_optimizer():
    model = small_model()
    rest, trunk = cmn.LearningRates(trunk=1e-4, rest=5e-4)(model)
    assert (trunk["lr"], rest["lr"]) == (1e-4, 5e-4)
    together = {id(p) for group in (rest, trunk) for p in group["params"]}
    assert together == {id(p) for p in model.parameters()} and len(rest["params"] + trunk["params"]) == len(together)
    assert {id(p) for p in trunk["params"]} == {id(p) for p in model.visual_extractor.parameters()}
    for parameter in model.visual_extractor.parameters():
        parameter.requires_grad = False
    assert len(cmn.LearningRates(trunk=1e-4, rest=5e-4)(model)) == 1
    assert len(cmn.LearningRates(trunk=0, rest=5e-4)(small_model())) == 1
    with pytest.raises(ValueError, match="learning rates must be positive"):
        cmn.LearningRates(trunk=-1, rest=1)


def test_the_engine_trains_both_parts_and_keeps_the_epoch_with_the_best_bleu(tmp_path):
    model, items = small_model(), films()
    start = copy.deepcopy(model.state_dict())
    scores, seen = cmn.ReportScores(items, beam_size=1), []

    def evaluate(model):
        found = scores(model)
        if len(seen) >= 8:  # as if the model got worse from here on
            found["bleu_4"] = 0.0
        seen.append((found["bleu_4"], copy.deepcopy(model.state_dict())))
        return found

    plan = training.Plan(
        seed=0, epochs=10, batch_size=3, scheduler="constant", learning_rate=1e-2, metric="bleu_4",
        param_groups=cmn.LearningRates(5e-3, 1e-2),
    )  # fmt: skip
    history = training.fit(
        model, items * 3, plan, output_dir=tmp_path, device="cpu", collate=cmn.collate, evaluate=evaluate
    )
    best = max(score for score, _ in seen)
    kept = next(weights for score, weights in seen if score == best)
    torch.testing.assert_close(model.state_dict(), kept, rtol=0, atol=0)
    assert best == pytest.approx(1.0) and history.bleu_4.max() == pytest.approx(best), "three films, learned by heart"
    assert cmn.write_reports(model, items, beam_size=1) == TEXTS
    trunk = "visual_extractor.model.0.weight"
    assert not torch.equal(model.state_dict()[trunk], start[trunk])


def test_bleu_is_of_words_up_to_the_end_mark():
    model, items = small_model(), films()

    class Repeats:
        tokenizer = model.tokenizer

        def parameters(self):
            return iter([torch.zeros(1)])

        def generate(self, images, beam_size, max_length):
            return nn.utils.rnn.pad_sequence([item["ids"][1:] for item in items], batch_first=True)

    perfect = cmn.ReportScores(items)(Repeats())
    assert perfect["bleu_4"] == pytest.approx(1) and perfect["rouge_l"] == pytest.approx(1)
    assert 0 <= perfect["finding_f1"] <= 1
    with pytest.raises(ValueError, match="no validation report"):
        cmn.ReportScores([])


def test_batches_of_features_and_of_images():
    items = films()
    batch = cmn.collate(items)
    assert batch["images"].shape == (3, 3, 224, 224) and batch["image_id"] == ["film0", "film1", "film2"]
    assert batch["ids"].shape == (3, 6) and batch["ids"][1].tolist() == [0, 7, 4, 1, 0, 0]
    batch = cmn.collate([{"features": torch.zeros(49, 6)}])
    assert list(batch) == ["features"]


def test_finding_f1_is_of_findings_not_of_words():
    """Two of three films get their report, the third an empty one: 2 of 3 findings named, none wrong, F1 0.8."""
    texts = ["pneumothorax on the left", "pleural effusion on the right", "cardiomegaly"]
    tokenizer = cmn.Tokenizer(sorted({word for text in texts for word in text.split()} | {"<unk>"}))
    items = [
        {"image_id": str(n), "features": torch.zeros(49, 6), "ids": torch.tensor(tokenizer.encode(text, 9))}
        for n, text in enumerate(texts)
    ]

    class Writes:
        def __init__(self, n_written):
            self.tokenizer, self.n_written = tokenizer, n_written

        def parameters(self):
            return iter([torch.zeros(1)])

        def generate(self, features, beam_size, max_length):
            written = [item["ids"][1:] for item in items[: self.n_written]] + [torch.zeros(1, dtype=torch.long)] * 3
            return nn.utils.rnn.pad_sequence(written[:3], batch_first=True)

    assert cmn.ReportScores(items)(Writes(3))["finding_f1"] == pytest.approx(1)
    assert cmn.ReportScores(items)(Writes(2))["finding_f1"] == pytest.approx(0.8)
    assert cmn.ReportScores(items)(Writes(0))["finding_f1"] == 0


def test_scaling_becomes_part_of_the_model_and_can_be_taken_out_again():
    model, raw = small_model().eval(), torch.randn(2, 49, 6) * 3 + 1
    mean, spread = torch.arange(6.0), torch.linspace(0.5, 4, 6)
    with torch.no_grad():
        before, expected = (model.encode(features) for features in (raw, (raw - mean) / spread))
        cmn.take_over_scaling(model, mean, spread)
        torch.testing.assert_close(model.encode(raw), expected, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(expected, before)
        cmn.take_over_scaling(model, -mean / spread, 1 / spread)
        torch.testing.assert_close(model.encode(raw), before, atol=1e-5, rtol=1e-5)
