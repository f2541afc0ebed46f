"""R2GenCMN: against the reference numbers where they are, and against a slow implementation of its own everywhere.

The slow one below is plain numpy in float64 with loops, no cache, no batch, and decodes by sorting Python lists.
"""

import json
import lzma
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cliniqure_utils import cmn
from cliniqure_utils.project import MissingWeights
from cliniqure_utils.vision import trunks

GOLDENS = Path(__file__).parents[3] / "shared" / "goldens" / "r2gencmn"
needs_goldens = pytest.mark.skipif(not GOLDENS.is_dir(), reason="the reference numbers of R2GenCMN are not here")

WORDS = ["<unk>", ".", "a", "aorta", "clear", "effusion", "heart", "is", "large", "no", "the"]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Pool(nn.Module):
    """A trunk for tests: grey means of 7 x 7 patches, and their square."""

    def forward(self, images):
        patches = nn.functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), (images.shape[-2] // 32,) * 2)
        return torch.cat([patches, patches**2, patches * 0 + 1], dim=1)


def small_model(seed=0, views=1, sharp=3.0, **sizes):
    """A random model whose words depend on the film: embeddings and outputs are scaled up so that choices differ."""
    torch.manual_seed(seed)
    settings = dict(
        dataset="iu_xray" if views == 2 else "mimic_cxr", visual_extractor="custom", d_vf=3, d_model=8, d_ff=12,
        num_heads=2, num_layers=2, topk=3, cmm_size=7, cmm_dim=8, max_length=9,
    )  # fmt: skip
    config = cmn.CMNConfig(**(settings | sizes))
    model = cmn.R2GenCMN(cmn.Tokenizer(WORDS, config.dataset), config, Pool())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or name.endswith("shift"):
                parameter.normal_(0, 0.2)
        model.memory.slots.normal_(0, 1)
        model.output.weight.mul_(sharp)
    return model.eval()


def features_for(model, n=3, patches=5, seed=1):
    return torch.randn(n, patches, model.config.d_vf, generator=torch.Generator().manual_seed(seed))


# --- The slow implementation ---------------------------------------------------------------------------------------


class Slow:
    """R2GenCMN for one image, from the weights of a model, in float64."""

    def __init__(self, model):
        self.config = model.config
        self.weights = {name: value.double().numpy() for name, value in model.state_dict().items()}

    def linear(self, name, x):
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def norm(self, name, x):
        rows = []
        for row in x:
            mean = sum(row) / len(row)
            deviation = math.sqrt(sum((value - mean) ** 2 for value in row) / (len(row) - 1))
            rows.append(
                self.weights[f"{name}.scale"] * (row - mean) / (deviation + 1e-6) + self.weights[f"{name}.shift"]
            )
        return np.array(rows)

    @staticmethod
    def softmax(scores):
        top = max(scores)
        parts = [math.exp(score - top) for score in scores]
        return [part / sum(parts) for part in parts]

    def memory(self, x, chosen=None):
        slots = self.weights["memory.slots"]
        queries, keys = self.linear("memory.query", x), self.linear("memory.key", slots)
        values, width = self.linear("memory.value", slots), x.shape[1] // self.config.num_heads
        answer = np.zeros_like(x)
        for row in range(len(x)):
            for head in range(self.config.num_heads):
                part = slice(head * width, (head + 1) * width)
                scores = [queries[row, part] @ keys[slot, part] / math.sqrt(width) for slot in range(len(slots))]
                best = sorted(range(len(slots)), key=lambda slot: -scores[slot])[: self.config.topk]  # noqa: B023
                for slot, weight in zip(best, self.softmax([scores[slot] for slot in best]), strict=True):
                    answer[row, part] += weight * values[slot, part]
                if chosen is not None:
                    chosen[row, head] = best
        return self.linear("memory.output", answer)

    def attention(self, name, x, others, may_see, looked=None):
        queries, keys = self.linear(f"{name}.query", x), self.linear(f"{name}.key", others)
        values, width = self.linear(f"{name}.value", others), x.shape[1] // self.config.num_heads
        answer = np.zeros_like(x)
        for row in range(len(x)):
            for head in range(self.config.num_heads):
                part = slice(head * width, (head + 1) * width)
                seen = [other for other in range(len(others)) if may_see(row, other)]
                weights = self.softmax([queries[row, part] @ keys[o, part] / math.sqrt(width) for o in seen])
                for other, weight in zip(seen, weights, strict=True):
                    answer[row, part] += weight * values[other, part]
                if looked is not None:
                    looked[row, head] = weights
        return self.linear(f"{name}.output", answer)

    def feed_forward(self, name, x):
        return self.linear(f"{name}.outer", np.maximum(self.linear(f"{name}.inner", x), 0))

    def position(self, x):
        width = x.shape[1]
        code = np.zeros_like(x)
        for row in range(len(x)):
            for column in range(width):
                angle = row / 10000 ** ((column - column % 2) / width)
                code[row, column] = math.sin(angle) if column % 2 == 0 else math.cos(angle)
        return x + code

    def encode(self, features):
        x = np.maximum(self.linear("patch_embedding", features), 0)
        x = self.position(x + self.memory(x))  # first the memory, then the positions
        for layer in range(self.config.num_layers):
            name = f"encoder.{layer}"
            normed = self.norm(f"{name}.norms.0", x)
            x = x + self.attention(f"{name}.attention", normed, normed, lambda row, other: True)
            x = x + self.feed_forward(f"{name}.feed_forward", self.norm(f"{name}.norms.1", x))
        return self.norm("encoder_norm", x)

    def logits(self, encoded, ids, masked=False):
        """Logits after each of `ids`; `masked`: zeros other than the first are padding, as in teacher forcing."""
        x = self.weights["word_embedding.weight"][ids] * math.sqrt(self.config.d_model)
        x = self.position(x)
        x = x + self.memory(x)  # first the positions, then the memory
        for layer in range(self.config.num_layers):
            name = f"decoder.{layer}"
            normed = self.norm(f"{name}.norms.0", x)
            x = x + self.attention(
                f"{name}.attention", normed, normed,
                lambda row, other: other <= row and (not masked or other == 0 or ids[other] > 0),
            )  # fmt: skip
            normed = self.norm(f"{name}.norms.1", x)
            x = x + self.attention(f"{name}.cross_attention", normed, encoded, lambda row, other: True)
            x = x + self.feed_forward(f"{name}.feed_forward", self.norm(f"{name}.norms.2", x))
        return self.linear("output", self.norm("decoder_norm", x))

    @staticmethod
    def log_softmax(row):
        top = max(row)
        return np.array(row) - top - math.log(sum(math.exp(value - top) for value in row))

    def greedy(self, features, length, block_trigrams=True, constraint=False, logsoftmax=True):
        encoded, said = self.encode(features), []
        for _ in range(length):
            row = self.logits(encoded, [0, *said])[-1]
            row = self.log_softmax(row) if logsoftmax else row.copy()
            if constraint and said:
                row[said[-1]] = -math.inf
            if block_trigrams:
                for word in range(len(row)):
                    new = (*said[-2:], word)
                    row[word] -= 2 * 0.693 * sum(tuple(said[i : i + 3]) == new for i in range(len(said) - 2))
            said.append(int(np.argmax(row)))
            if said[-1] == 0:
                break
        return said + [0] * (length - len(said))

    def beam(self, features, length, size, rescore=lambda n, score: score, temperature=1.0, constraint=False):
        """All stored reports, best first: (score, words)."""
        encoded, live, stored = self.encode(features), [(0.0, [])], []
        for t in range(length):
            grown = []
            for total, said in live:
                row = self.log_softmax(self.logits(encoded, [0, *said])[-1])
                if t > 0:
                    row = self.log_softmax(row / temperature)
                    if constraint:
                        row[said[-1]] = -math.inf
                grown += [(total + row[word], [*said, word]) for word in range(len(row))]
            live = sorted(grown, key=lambda beam: -beam[0])[:size]
            for place, (total, said) in enumerate(live):
                if said[-1] == 0 or t == length - 1:
                    stored.append((rescore(t + 1, total), said + [0] * (length - len(said))))
                    live[place] = (total - 1000, said)
        return sorted(stored, key=lambda report: -report[0])[:size]


# --- Tokenizer -----------------------------------------------------------------------------------------------------

CLEANED = [  # raw, MIMIC cleaner, IU cleaner where it differs; worked out by hand from the rules
    ("Heart normal. Lungs clear.", "heart normal . lungs clear .", None),
    ("A 2.5 cm nodule", "a 25 cm nodule .", None),
    ("11. Large heart", "1large heart .", None),
    ("Heart 2. Aorta 3. Clear 6. End", "heart . aorta . clear 6 . end .", None),
    ("1. Heart. 2. Aorta.", "heart . aorta .", None),
    ("left-sided; (a) <b> = [c] @ {d}?", "left-sided a b  c  d .", None),
    ("# $ ~ | stay", "# $ ~ | stay .", None),
    ("A/B \\ \"C\" 'd'", "ab  c d .", None),
    ("two\nlines", "two lines .", "two\nlines ."),
    ("wide   gap", "wide gap .", "wide   gap ."),
    ("Stop. . Again", "stop .  . again .", None),
    ("Ends... here", "ends . here .", None),
    ("", " .", None),
]


@pytest.mark.parametrize("raw, mimic, iu", CLEANED)
def test_cleaners_keep_their_oddities(raw, mimic, iu):
    assert cmn.clean(raw, "mimic_cxr") == mimic
    assert cmn.clean(raw, "iu_xray") == (mimic if iu is None else iu)


def test_a_run_of_dots_shrinks_by_a_limited_number_of_passes():
    # IU: three passes halve the run: 9 -> 5 -> 3 -> 2 dots; the two left are no ". ", so they are deleted in place.
    assert cmn.clean("a" + "." * 9 + " b", "iu_xray") == "a . b ."
    assert cmn.clean("a" + "." * 16 + " b", "iu_xray") == "a . b ."
    assert cmn.clean("_" * 200, "mimic_cxr") == " ."


def test_ids_count_words_in_code_point_order_and_zero_is_everything_else():
    tokenizer = cmn.Tokenizer.from_reports(["The heart. The aorta.", "Heart -b. Aorta"], "mimic_cxr", threshold=2)
    assert tokenizer.words == (".", "<unk>", "aorta", "heart", "the")
    assert tokenizer.n_outputs == 6 and len(tokenizer) == 5
    assert tokenizer.encode("The big heart.") == [0, 5, 2, 4, 1, 0]
    assert tokenizer.encode("The big heart.", max_length=3) == [0, 5, 2]
    assert tokenizer.decode([5, 4, 0, 3]) == "the heart"
    assert tokenizer.decode(torch.tensor([0, 5])) == ""


def test_thresholds_follow_the_data_set():
    reports = ["often."] * 9 + ["often. rare."] * 3
    assert "rare" in cmn.Tokenizer.from_reports(reports, "iu_xray").words
    assert cmn.Tokenizer.from_reports(reports, "mimic_cxr").words == (".", "<unk>", "often")


def test_vocabulary_files(tmp_path):
    annotation = tmp_path / "annotation.json"
    annotation.write_text(json.dumps({"train": [{"report": "Heart."}], "val": [{"report": "Lung."}], "test": []}))
    tokenizer = cmn.Tokenizer.from_file(annotation, "mimic_cxr", 1)
    assert tokenizer.words == (".", "<unk>", "heart"), "only training reports count"
    tokenizer.save(tmp_path / "vocabulary.json")
    again = cmn.Tokenizer.from_file(tmp_path / "vocabulary.json", "iu_xray", 5)
    assert again.words == tokenizer.words and again.dataset == "mimic_cxr"
    mapping = tmp_path / "mapping.json"
    mapping.write_text(json.dumps({"<unk>": 2, ".": 1}))
    assert cmn.Tokenizer.from_file(mapping).words == (".", "<unk>")
    mapping.write_text(json.dumps({"<unk>": 1, ".": 2}))
    with pytest.raises(ValueError, match="code-point order"):
        cmn.Tokenizer.from_file(mapping)
    mapping.write_text("[1]")
    with pytest.raises(ValueError, match="no vocabulary"):
        cmn.Tokenizer.from_file(mapping)
    mapping.write_text("{")
    with pytest.raises(ValueError, match="not a JSON file"):
        cmn.Tokenizer.from_file(mapping)
    with pytest.raises(FileNotFoundError, match="annotation.json"):
        cmn.Tokenizer.from_file(tmp_path / "absent.json")
    with pytest.raises(ValueError, match="unknown data set"):
        cmn.Tokenizer(WORDS, "chexpert")


def test_prose():
    assert cmn.to_prose("the heart is large . no effusion .") == "The heart is large. No effusion."
    assert cmn.to_prose("cut off in the") == "Cut off in the."
    assert cmn.to_prose(" . .") == ""


# --- Model ---------------------------------------------------------------------------------------------------------


def test_layer_norm_uses_the_unbiased_deviation_and_adds_eps_to_it():
    norm = cmn.LayerNorm(4)
    with torch.no_grad():
        norm.scale.fill_(2), norm.shift.fill_(1)
        # mean 2.5, unbiased deviation sqrt(5 / 3)
        expected = 1 + 2 * np.array([-1.5, -0.5, 0.5, 1.5]) / (math.sqrt(5 / 3) + 1e-6)
        np.testing.assert_allclose(norm(torch.tensor([[1.0, 2, 3, 4]])).numpy()[0], expected, atol=1e-6)
        # So small that eps halves it: deviation 1e-6 + eps 1e-6. Under the root eps would leave almost nothing.
        tiny = torch.tensor([[-1.5, -0.5, 0.5, 1.5]], dtype=torch.float64) * 1e-6 / math.sqrt(5 / 3)
        expected = 1 + 2 * np.array([-1.5, -0.5, 0.5, 1.5]) / math.sqrt(5 / 3) / 2
        np.testing.assert_allclose(norm.double()(tiny).numpy()[0], expected, atol=1e-6)


@pytest.mark.parametrize("topk", [1, 3, 7])
def test_memory_answers_from_the_best_slots_only(topk):
    model = small_model(topk=topk)
    x = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(3))
    chosen = {}
    expected = Slow(model).memory(x.view(8, 8).double().numpy(), chosen)
    trace = []
    with torch.no_grad():
        np.testing.assert_allclose(model.memory(x, trace).view(8, 8).numpy(), expected, atol=1e-5)
    slots, weights = (part.view(8, 2, topk) for part in trace[0])
    assert {(row, head): slots[row, head].tolist() for row in range(8) for head in range(2)} == chosen
    torch.testing.assert_close(weights.sum(-1), torch.ones(8, 2))


def test_projected_slots_are_kept_until_a_weight_changes():
    model = small_model()
    x = torch.randn(1, 2, 8)
    with torch.no_grad():
        first = model.memory(x)
        assert model.memory.project()[0] is model.memory.project()[0], "slots are projected once"
        model.memory.slots.add_(1.0)
        second = model.memory(x)
    assert not torch.allclose(first, second)
    with torch.no_grad():
        np.testing.assert_allclose(second.numpy()[0], Slow(model).memory(x[0].double().numpy()), atol=1e-5)
        other = small_model(seed=5)
        model.load_state_dict(other.state_dict())
        torch.testing.assert_close(model.memory(x), other.memory(x))


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_the_choice_of_slots_does_not_follow_a_lower_precision(precision):
    model = small_model(d_model=64, cmm_dim=64, num_heads=2, cmm_size=64, topk=8)
    x = torch.randn(1, 40, 64, generator=torch.Generator().manual_seed(3))
    exact, rounded, chosen = [], [], {}
    Slow(model).memory(x[0].double().numpy(), chosen)
    with torch.no_grad():
        model.memory(x, exact)
        torch.set_float32_matmul_precision(precision)
        try:
            model.memory(x, rounded)
            with torch.autocast("cpu", torch.bfloat16):
                model.memory(x, rounded)
        finally:
            torch.set_float32_matmul_precision("highest")
    for slots, _ in exact + rounded:
        assert {(row, head): slots[0, row, head].tolist() for row in range(40) for head in range(2)} == chosen


def test_both_modalities_train_the_one_memory():
    model = small_model()
    (model.memory(torch.randn(1, 2, 8)).sum()).backward()
    assert model.memory.slots.grad.abs().sum() > 0
    names = [name for name, _ in model.named_parameters() if name.endswith("slots")]
    assert names == ["memory.slots"]


@pytest.mark.parametrize("seed", range(3))
def test_teacher_forcing_equals_the_slow_model(seed):
    model, ids = small_model(seed), torch.tensor([[0, 3, 5, 5, 2, 0, 0], [0, 1, 0, 0, 0, 0, 0]])
    features = features_for(model, 2, seed=seed)
    with torch.no_grad():
        outputs = model(features=features, ids=ids)
    with_gradients = model(features=features, ids=ids)  # the memory answers by another route then
    torch.testing.assert_close(with_gradients["logprobs"].detach(), outputs["logprobs"], atol=1e-5, rtol=0)
    slow, losses = Slow(model), []
    for row in range(2):
        encoded = slow.encode(features[row].double().numpy())
        logits = slow.logits(encoded, ids[row, :-1].tolist(), masked=True)
        expected = np.array([slow.log_softmax(line) for line in logits])
        np.testing.assert_allclose(outputs["logprobs"][row].numpy(), expected, atol=2e-5)
        length = int((ids[row] > 0).sum()) + 1  # the words and the end
        losses += [-expected[j, ids[row, j + 1]] for j in range(length)]
    assert outputs["loss"].item() == pytest.approx(np.mean(losses), abs=1e-5)


def test_what_stands_after_the_end_does_not_matter():
    model, features = small_model(), None
    features = features_for(model, 1)
    with torch.no_grad():
        short = model(features=features, ids=torch.tensor([[0, 3, 4, 0]]))
        padded = model(features=features, ids=torch.tensor([[0, 3, 4, 0, 0, 0, 0]]))
    assert short["loss"].item() == pytest.approx(padded["loss"].item(), abs=1e-6)


def test_label_smoothing_acts_in_training_only():
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


def test_bad_inputs_say_what_was_expected():
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


# --- Decoding ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"block_trigrams": False}, {"decoding_constraint": True}, {"log_softmax": False}],
    ids=["plain", "no blocking", "constraint", "raw logits"],
)
def test_greedy_equals_the_slow_model(options):
    names = {"decoding_constraint": "constraint", "log_softmax": "logsoftmax"}
    repeated = 0
    for seed in range(4):
        model = small_model(seed, max_length=14)
        features = features_for(model)
        found = model.generate(features=features, beam_size=1, **options)
        slow_options = {names.get(key, key): value for key, value in options.items()}
        slow = [Slow(model).greedy(f.double().numpy(), 14, **slow_options) for f in features]
        assert found.tolist() == slow
        repeated += sum(len(set(zip(r, r[1:], r[2:], strict=False))) < 12 for r in slow)
    assert repeated or options.get("block_trigrams", True), "the models must repeat themselves, or nothing is tested"


def test_a_repeated_trigram_costs_twice_0693_per_occurrence():
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
def test_beam_search_equals_the_slow_model(size, options, slow_options):
    early = 0
    for seed in range(3):
        model = small_model(seed, max_length=7)
        with torch.no_grad():
            model.output.bias[0] += 2 * seed  # the more, the earlier beams end, are stored, and go on at a loss
        features = features_for(model, 2)
        found = model.decode(features=features, beam_size=size, n_reports=size, **options)
        for row, image in enumerate(features):
            slow = Slow(model).beam(image.double().numpy(), 7, size, **slow_options)
            assert found.ids[row].tolist() == [words for _, words in slow]
            np.testing.assert_allclose(found.scores[row].numpy(), [score for score, _ in slow], atol=2e-4)
            early += sum(0 in words[:6] for _, words in slow)
    assert early > 0, "a beam must end before the last step, or nothing is tested"


def test_early_stop_changes_nothing_but_the_work():
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
def test_recorded_log_probabilities_add_up_to_the_score(beam_size):
    model = small_model(2)
    found = model.decode(features=features_for(model), beam_size=beam_size, return_logprobs=True)
    for words, score, rows in zip(found.ids[:, 0].tolist(), found.scores[:, 0].tolist(), found.logprobs, strict=True):
        length = words.index(0) + 1 if 0 in words else len(words)
        assert sum(rows[t, words[t]].item() for t in range(length)) == pytest.approx(score, abs=1e-4)
        assert not rows[length:].any()


@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_batch_gives_what_each_image_gives_alone(beam_size):
    model = small_model(1)
    features = features_for(model, 5)
    together = model.generate(features=features, beam_size=beam_size)
    alone = [model.generate(features=one[None], beam_size=beam_size)[0].tolist() for one in features]
    assert together.tolist() == alone
    assert len({tuple(words) for words in alone}) > 1, "the model must look at the film, or nothing is tested"


def test_options_do_not_outlive_the_call():
    model, features = small_model(1), None
    features = features_for(model, 3)
    before = model.generate(features=features)
    model.generate(features=features, temperature=3.0, penalty="avg_0", max_length=3, decoding_constraint=True)
    assert model.generate(features=features).tolist() == before.tolist()
    assert before.shape == (3, model.config.max_length) and before.dtype == torch.int64
    assert model.generate(features=features, max_length=3).shape == (3, 3)


def test_generate_leaves_the_mode_alone_and_ignores_dropout():
    model = small_model()
    features = features_for(model)
    expected = model.generate(features=features).tolist()
    model.train()
    assert model.generate(features=features).tolist() == expected
    assert model.training


def test_explanation_names_the_slots_and_patches():
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
    slow, word, chosen = Slow(model), int(ids[0, 0]), {}
    rows = slow.weights["word_embedding.weight"][[0, word]] * math.sqrt(8)
    slow.memory(slow.position(rows), chosen)
    assert [seen.word_slots[0, 0, head].tolist() for head in range(2)] == [chosen[1, head] for head in range(2)]


# --- Films and views -----------------------------------------------------------------------------------------------


def test_preprocess_ignores_the_aspect_and_normalises():
    image = np.full((50, 80), 51, np.uint8)  # 0.2
    out = cmn.preprocess(image)
    assert out.shape == (3, 224, 224) and out.dtype == torch.float32
    expected = [(0.2 - mean) / std for mean, std in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))]
    np.testing.assert_allclose(out[:, 100, 100].numpy(), expected, atol=1e-6)
    torch.testing.assert_close(cmn.preprocess(image / 255), out)
    ramp = cmn.preprocess(np.tile(np.linspace(0, 1, 448), (448, 1)))
    assert ramp[0, 5, 0] < ramp[0, 5, 100] < ramp[0, 5, 223]
    with pytest.raises(ValueError, match="one grey image"):
        cmn.preprocess(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"floats in \[0, 1\]"):
        cmn.preprocess(np.full((8, 8), 300.0))


def test_patches_are_read_row_by_row_and_views_follow_each_other():
    model = small_model(views=2)
    images = torch.randn(2, 2, 3, 224, 224)
    features = model.patch_features(images)
    assert features.shape == (2, 98, 3)
    first, second = images[1, 0].mean(0), images[1, 1].mean(0)
    assert features[1, 1, 0].item() == pytest.approx(first[:32, 32:64].mean().item(), abs=1e-5)
    assert features[1, 49 + 7, 0].item() == pytest.approx(second[32:64, :32].mean().item(), abs=1e-5)
    assert model.generate(images).tolist() == model.generate(features=features).tolist()


def test_other_image_sizes_are_an_error_or_pooled():
    with pytest.raises(ValueError, match="expected 224 x 224 pixels, found 256 x 256"):
        small_model().generate(torch.zeros(1, 3, 256, 256))
    assert small_model(adaptive_pooling=True).patch_features(torch.zeros(1, 3, 320, 320)).shape == (1, 49, 3)


def test_named_trunks(tmp_path):
    tiny = cmn.build_extractor("tiny").eval()
    with torch.no_grad():
        features = tiny(torch.ones(1, 3, 224, 224))
    assert features.shape == (1, tiny.channels, 7, 7)
    trunks.save_body(tiny.body, tmp_path / "trunk.safetensors")
    with torch.no_grad():
        again = cmn.build_extractor("tiny", tmp_path / "trunk.safetensors").eval()(torch.ones(1, 3, 224, 224))
    torch.testing.assert_close(again, features)
    with pytest.raises(MissingWeights, match="absent.safetensors does not exist"):
        cmn.build_extractor("tiny", tmp_path / "absent.safetensors")
    with pytest.raises(ValueError, match="unknown trunk 'vgg16'"):
        cmn.build_extractor("vgg16")


# --- Checkpoints ---------------------------------------------------------------------------------------------------

SIZES = dict(d_vf=3, d_model=8, d_ff=12, num_heads=2, num_layers=2, topk=3, cmm_size=7, cmm_dim=8, threshold=1)


def official_state(model):
    """The state dict as the public code names it, written out here name by name."""
    ours, state = model.state_dict(), {}

    def linears(there, here):
        for number, part in enumerate(("query", "key", "value", "output")):
            for kind in ("weight", "bias"):
                state[f"{there}.linears.{number}.{kind}"] = ours[f"{here}.{part}.{kind}"]

    def norm(there, here):
        state[f"{there}.a_2"], state[f"{there}.b_2"] = ours[f"{here}.scale"], ours[f"{here}.shift"]

    def pair(there, here):
        state[f"{there}.weight"], state[f"{there}.bias"] = ours[f"{here}.weight"], ours[f"{here}.bias"]

    root = "encoder_decoder.model"
    state["encoder_decoder.memory_matrix"] = ours["memory.slots"]
    pair("encoder_decoder.att_embed.0", "patch_embedding")
    pair("encoder_decoder.logit", "output")
    for there in ("encoder_decoder.cmn", f"{root}.cmn"):
        linears(there, "memory")
    for side, blocks in (("encoder", ("self_attn",)), ("decoder", ("self_attn", "src_attn"))):
        for layer in range(model.config.num_layers):
            for block in blocks:
                name = {"self_attn": "attention", "src_attn": "cross_attention"}[block]
                linears(f"{root}.{side}.layers.{layer}.{block}", f"{side}.{layer}.{name}")
            for number in range(len(blocks) + 1):
                norm(f"{root}.{side}.layers.{layer}.sublayer.{number}.norm", f"{side}.{layer}.norms.{number}")
            pair(f"{root}.{side}.layers.{layer}.feed_forward.w_1", f"{side}.{layer}.feed_forward.inner")
            pair(f"{root}.{side}.layers.{layer}.feed_forward.w_2", f"{side}.{layer}.feed_forward.outer")
        norm(f"{root}.{side}.norm", f"{side}_norm")
    state[f"{root}.tgt_embed.0.lut.weight"] = ours["word_embedding.weight"]
    for name in ("src_embed.0", "tgt_embed.1"):
        state[f"{root}.{name}.pe"] = model.positions[None].clone()
    state |= {key: value for key, value in ours.items() if key.startswith("visual_extractor.")}
    return state


@pytest.fixture
def published(tmp_path):
    """(model, annotation.json, state dict with the published names)."""
    model = small_model(4)
    annotation = tmp_path / "annotation.json"
    text = " ".join(word for word in WORDS if word not in ("<unk>", "."))
    annotation.write_text(json.dumps({"train": [{"report": text}]}))
    return model, annotation, official_state(model)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_checkpoints_of_the_public_code_load(published, tmp_path, zipped, prefix):
    model, annotation, state = published
    wrapper = {"epoch": 3, "state_dict": {prefix + key: value for key, value in state.items()}}
    wrapper["monitor_best"] = np.float64(0.1)  # ROUGE-L as the trainer's metric is a numpy number
    wrapper["optimizer"] = torch.optim.Adam(model.parameters()).state_dict()
    torch.save(wrapper, tmp_path / "best.pth", _use_new_zipfile_serialization=zipped)
    loaded = cmn.load_r2gencmn(tmp_path / "best.pth", annotation, visual_extractor=Pool(), max_length=9, **SIZES)
    assert not loaded.training and loaded.tokenizer.words == model.tokenizer.words
    features = features_for(model, 4)
    assert loaded.generate(features=features).tolist() == model.generate(features=features).tolist()
    torch.save(state, tmp_path / "bare.pth")
    bare = cmn.load_r2gencmn(tmp_path / "bare.pth", annotation, visual_extractor=Pool(), **SIZES)
    assert bare.config.max_length == 100
    torch.testing.assert_close(bare.state_dict(), loaded.state_dict())


class Runs:
    def __reduce__(self):
        return (print, ("code ran while a checkpoint was opened",))


def test_unusable_checkpoints_say_why(published, tmp_path, capsys):
    model, annotation, state = published
    path = tmp_path / "model.pth"

    def refused(message, sizes=SIZES, error=cmn.BadCheckpoint):
        with pytest.raises(error, match=message) as caught:
            cmn.load_r2gencmn(path, annotation, visual_extractor=Pool(), **sizes)
        assert "\n" not in str(caught.value) and str(tmp_path) not in str(caught.value)

    refused("does not exist", error=FileNotFoundError)
    for zipped in (True, False):
        torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=zipped)
        whole = path.read_bytes()
        for share in (0.1, 0.5, 0.95):
            path.write_bytes(whole[: int(len(whole) * share)])
            refused("damaged, cut short")
    path.write_bytes(b"")
    refused("damaged, cut short")
    path.write_bytes(b"this is text, not a checkpoint\n" * 9)
    refused("damaged, cut short")
    path.write_bytes(pickle.dumps({"state_dict": Runs()}, protocol=2))
    refused("could run code")
    torch.save({"state_dict": state, "extra": Runs()}, path)
    refused("could run code")
    assert capsys.readouterr().out == ""

    torch.save({"state_dict": state}, path)
    refused("trained with 11 words, but annotation.json gives 1 .*threshold 10.*iu_xray", SIZES | {"threshold": 10})
    refused("decoder.2.* given sizes|given sizes.*3 layers.*no tensor for", SIZES | {"num_layers": 3})
    refused("has no place", SIZES | {"num_layers": 1})
    refused(r"shape \(7, 8\), expected \(6, 8\)", SIZES | {"cmm_size": 6})

    twins = dict(state)
    twins["encoder_decoder.model.cmn.linears.0.bias"] = state["encoder_decoder.cmn.linears.0.bias"] + 1
    torch.save(twins, path)
    refused("differs from its twin")
    torch.save({"encoder_decoder.model.rm.attn.weight": torch.zeros(2)}, path)
    refused("R2Gen")
    torch.save([1, 2], path)
    refused("no state dict")


def test_our_own_folder_round_trips(tmp_path):
    torch.manual_seed(0)
    config = cmn.CMNConfig(
        visual_extractor="tiny", d_vf=cmn.TinyPatches().channels, d_model=8, d_ff=8, num_heads=2, num_layers=1, topk=2,
        cmm_size=4, cmm_dim=8, max_length=5,
    )  # fmt: skip
    model = cmn.R2GenCMN(cmn.Tokenizer(WORDS), config).eval()
    cmn.save(model, tmp_path / "made")
    assert sorted(p.name for p in (tmp_path / "made").iterdir()) == [
        "config.json",
        "model.safetensors",
        "vocabulary.json",
    ]
    again = cmn.load(tmp_path / "made")
    images = torch.randn(2, 3, 224, 224)
    assert again.config == config and again.tokenizer.words == model.tokenizer.words
    assert again.generate(images).tolist() == model.generate(images).tolist()

    weights = tmp_path / "made" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(cmn.BadCheckpoint, match="model.safetensors does not fit"):
        cmn.load(tmp_path / "made")
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="no model.safetensors.*04_crude_report"):
        cmn.load(tmp_path / "made")
    cmn.save(small_model(), tmp_path / "custom")
    with pytest.raises(cmn.BadCheckpoint, match="visual extractor of the caller"):
        cmn.load(tmp_path / "custom")
    assert cmn.load(tmp_path / "custom", Pool()).config.visual_extractor == "custom"


def test_training_teaches_the_report_of_each_film():
    torch.manual_seed(0)
    model = small_model(0, d_model=16, cmm_dim=16, d_ff=16, sharp=1.0, dropout=0.0, feature_dropout=0.0)
    texts = ["the heart is large .", "no effusion .", "clear . the aorta is large ."]
    ids = torch.zeros(3, 10, dtype=torch.int64)
    for row, text in enumerate(texts):
        encoded = model.tokenizer.encode(text.removesuffix("."))
        ids[row, : len(encoded)] = torch.tensor(encoded)
    features = features_for(model, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(120):
        optimizer.zero_grad()
        model(features=features, ids=ids)["loss"].backward()
        optimizer.step()
    for beam_size in (1, 3):
        written = model.generate(features=features, beam_size=beam_size)
        assert [model.tokenizer.decode(row) for row in written] == texts


# --- Reference numbers ---------------------------------------------------------------------------------------------

TINY = dict(
    visual_extractor="resnet18", d_vf=512, d_model=64, d_ff=64, num_heads=4, num_layers=2, topk=8, cmm_size=64,
    cmm_dim=64, threshold=1, max_length=30,
)  # fmt: skip
DATASETS = {"mimic": "mimic_cxr", "iu": "iu_xray"}
GREEDY = {
    "greedy": {}, "greedy_noblock": {"block_trigrams": False}, "greedy_constraint": {"decoding_constraint": True},
    "greedy_rawlogits": {"log_softmax": False},
}  # fmt: skip
BEAM = {
    "beam3": {}, "beam2": {"beam_size": 2}, "beam5": {"beam_size": 5}, "beam3_all": {"n_reports": 3},
    "beam3_temp1p5": {"temperature": 1.5}, "beam3_constraint": {"decoding_constraint": True},
    "beam3_wu0p9": {"penalty": "wu_0.9"}, "beam3_avg": {"penalty": "avg_0"},
}  # fmt: skip


@pytest.fixture(scope="module")
def golden_models(tmp_path_factory):
    """Both models through the public door, and their inputs: the mimic file legacy, the iu file completed from it."""
    folder = tmp_path_factory.mktemp("goldens")
    legacy, zipped = folder / "mimic.pth", folder / "iu.pth"
    legacy.write_bytes(lzma.decompress((GOLDENS / "mimic_state_dict.pth.xz").read_bytes()))
    zipped.write_bytes(lzma.decompress((GOLDENS / "iu_state_dict.pth.xz").read_bytes()))
    mimic, iu = (torch.load(path, weights_only=True) for path in (legacy, zipped))
    for key, value in mimic["state_dict"].items():
        if key.startswith("visual_extractor.") or key.endswith(".pe"):
            iu["state_dict"][key] = value
    torch.save(iu, zipped)
    images = torch.stack([cmn.preprocess(image) for image in np.load(GOLDENS / "images.npy")])
    pairs = torch.from_numpy(np.load(GOLDENS / "iu_pairs.npy"))
    models = {}
    for name, path, batch in (("mimic", legacy, images), ("iu", zipped, images[pairs])):
        model = cmn.load_r2gencmn(path, GOLDENS / "annotation.json", DATASETS[name], **TINY)
        with torch.no_grad():
            models[name] = model, batch, model.patch_features(batch)
    return models


@needs_goldens
@pytest.mark.parametrize("name", DATASETS)
def test_golden_tokenizer(name):
    tokenizer = cmn.Tokenizer.from_file(GOLDENS / "annotation.json", DATASETS[name], 1)
    assert dict(zip(tokenizer.words, range(1, 999), strict=False)) == json.loads(
        (GOLDENS / f"{name}_vocab.json").read_text()
    )
    golden = json.loads((GOLDENS / "tokenizer.json").read_text())
    assert len(golden["items"]) == 55
    for item in golden["items"]:
        expected, ids = item[name], tokenizer.encode(item["raw"])
        assert tokenizer.clean(item["raw"]) == expected["cleaned"]
        assert ids == expected["ids"]
        assert tokenizer.decode(ids[1:]) == expected["decoded_after_bos"]
    for item in golden["decode"][name]:
        assert tokenizer.decode(item["ids"]) == item["text"]
    for threshold, vocabulary in golden["vocab_by_threshold"][name].items():
        rarer = cmn.Tokenizer.from_file(GOLDENS / "annotation.json", DATASETS[name], int(threshold))
        assert {word: number for number, word in enumerate(rarer.words, start=1)} == vocabulary


@needs_goldens
@pytest.mark.parametrize("size", ["tiny", "full"])
def test_golden_names_and_shapes(size):
    """Every key of the published state dicts, built without memory (on the meta device) and renamed to theirs."""
    blocks = (GOLDENS / "keys.txt").read_text().split("## ")[1:]
    lines = next(block for block in blocks if block.startswith(size)).splitlines()[1:]
    expected = {tuple(line.split("\t")[:2]) for line in lines if line.strip()}
    settings = {k: v for k, v in TINY.items() if k != "threshold"} if size == "tiny" else {}
    words = [f"w{i:04d}" for i in range(125 if size == "tiny" else 4334)]
    with torch.device("meta"):
        model = cmn.R2GenCMN(cmn.Tokenizer([*words, "<unk>"]), cmn.CMNConfig(**settings))
        state = official_state(model)
    assert {(key, str(tuple(value.shape))) for key, value in state.items()} == expected


@needs_goldens
def test_golden_layer_norm_and_preprocessing():
    golden = np.load(GOLDENS / "layernorm.npz")
    norm = cmn.LayerNorm(16)
    with torch.no_grad():
        norm.scale.copy_(torch.from_numpy(golden["a_2"])), norm.shift.copy_(torch.from_numpy(golden["b_2"]))
        np.testing.assert_allclose(norm(torch.from_numpy(golden["x"])).numpy(), golden["y"], atol=1e-5)
    golden = np.load(GOLDENS / "preprocess.npz")
    out = cmn.preprocess(golden["raw"])
    np.testing.assert_allclose(out[:, :8, :8].numpy(), golden["out_corner"], atol=1e-6)
    np.testing.assert_allclose(out.double().sum((1, 2)).numpy(), golden["out_sum64"], atol=1e-2)
    pixels = torch.round((out[0] * 0.229 + 0.485) * 255).to(torch.uint8)
    np.testing.assert_array_equal(pixels.numpy(), golden["resized_u8"])


@needs_goldens
@pytest.mark.parametrize("name", DATASETS)
def test_golden_encoder_and_teacher(golden_models, name):
    model, images, features = golden_models[name]
    golden = np.load(GOLDENS / f"{name}_intermediate.npz")
    np.testing.assert_allclose(features[0].numpy(), golden["att_feats_0"], rtol=1e-3, atol=1e-3)
    views = features.unflatten(1, (-1, 49)).mean(2).flatten(1)
    np.testing.assert_allclose(views.numpy(), golden["fc_feats"], rtol=1e-3, atol=1e-3)
    teacher = np.load(GOLDENS / f"{name}_teacher.npz")
    with torch.no_grad():
        np.testing.assert_allclose(model.embed_patches(features).numpy(), golden["embedded_plus_cmn"], atol=1e-4)
        np.testing.assert_allclose(model.encode(features).numpy(), golden["encoder_memory"], atol=1e-4)
        logprobs = model(images, torch.from_numpy(teacher["ids"]))["logprobs"]
    np.testing.assert_allclose(logprobs.numpy(), teacher["logprobs"], atol=1e-4)


@needs_goldens
@pytest.mark.parametrize("config", [*GREEDY, *BEAM])
@pytest.mark.parametrize("name", DATASETS)
def test_golden_decoding(golden_models, name, config):
    model, images, features = golden_models[name]
    golden = np.load(GOLDENS / f"{name}_decode.npz")
    options = {"beam_size": 1} | GREEDY[config] if config in GREEDY else dict(BEAM[config])
    found = model.decode(features=features, return_logprobs=True, **options)
    ids = found.ids.flatten(0, 1)
    np.testing.assert_array_equal(ids.numpy(), golden[f"{config}_ids"])
    texts = json.loads((GOLDENS / f"{name}_texts.json").read_text())[config]
    flat = [text for sample in texts for text in (sample if isinstance(sample, list) else [sample])]
    assert [model.tokenizer.decode(row) for row in ids] == flat
    if f"{config}_logprobs" in golden:
        np.testing.assert_allclose(found.logprobs.numpy(), golden[f"{config}_logprobs"], atol=1e-4)
    if config in BEAM:
        full = model.decode(features=features, early_stop=False, **options)
        assert full.ids.tolist() == found.ids.tolist()
        np.testing.assert_allclose(full.scores.numpy(), golden[f"{config}_p"], atol=1e-4)
    if config in ("greedy", "beam3"):  # from pixels, one image at a time, and with defaults
        beam_size = 1 if config == "greedy" else 3
        np.testing.assert_array_equal(model.generate(images[:1], beam_size).numpy(), golden[f"{config}_ids"][:1])
        np.testing.assert_array_equal(model.generate(images).numpy(), golden["beam3_ids"])
