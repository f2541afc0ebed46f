"""A small random R2GenCMN, and a slow one to hold it against: numpy in float64 with loops, no cache, no batch,
and decoding by sorting Python lists."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from cliniqure_utils import cmn

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


def build_small_model(seed=0, views=1, sharp=3.0, **sizes):
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


def random_features(model, n=3, patches=5, seed=1):
    return torch.randn(n, patches, model.config.d_vf, generator=torch.Generator().manual_seed(seed))


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


def published_names(model):
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


@pytest.fixture(scope="session")
def vocabulary():
    return WORDS


@pytest.fixture(scope="session")
def pool():
    return Pool()


@pytest.fixture(scope="session")
def small_model():
    return build_small_model


@pytest.fixture(scope="session")
def features_for():
    return random_features


@pytest.fixture(scope="session")
def slow_model():
    return Slow


@pytest.fixture(scope="session")
def official_state():
    return published_names
