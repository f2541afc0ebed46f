"""R2GenCMN at the full MIMIC-CXR size: writing 100 words, beside the plain way to write them, in CPU seconds.

Weights are random and the end mark is never said, so that every report has all its words and nothing depends on luck.
The plain way does what the model's equations say and keeps nothing: each word runs all words so far through the
decoder again, the slots of the memory are projected anew for each report and step, each beam looks at its own copy of
the patches, and a beam step sorts all continuations. A step of it costs the more the longer the report: three lengths
are measured and the sum over all steps taken from the straight lines between them. For one film and three beams it is
also measured in full.
"""

import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import Bench, Cost, cost
from torch import nn
from torch.nn import functional

from cliniqure_utils import cmn

WORDS, N_TOKENS, SLOTS = 4335, 100, 2048
SIZES = [(n, beams) for n in (1, 4, 16) for beams in (1, 3)]
REFERENCE = {(1, 1): 2.8, (1, 3): 11.1, (4, 1): 15, (4, 3): 52, (16, 3): 213}  # public code, measured once, elsewhere
GOALS = {(1, 3): 0.5, (16, 3): 3.3}


def once(function: Callable) -> float:
    """CPU seconds of one call: the plain way takes too long to repeat."""
    started = time.process_time()
    function()
    return time.process_time() - started


def build(visual_extractor: nn.Module | None = None) -> cmn.R2GenCMN:
    """The published sizes; ResNet-101 unless a module is given."""
    torch.manual_seed(0)
    tokenizer = cmn.Tokenizer(["<unk>", *(f"word{number:05d}" for number in range(WORDS - 1))])
    name = "resnet101" if visual_extractor is None else "custom"
    model = cmn.R2GenCMN(tokenizer, cmn.CMNConfig(visual_extractor=name), visual_extractor).eval()
    with torch.no_grad():
        model.memory.slots.normal_()
        model.output.weight.mul_(4)  # words that depend on the film
        model.output.bias[0] = -1e4
    return model


class Plain:
    """Greedy and beam search for a full report, nothing kept from step to step."""

    def __init__(self, model: cmn.R2GenCMN):
        self.model, self.heads, self.topk = model, model.config.num_heads, model.config.topk

    def split(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def memory(self, x):
        memory = self.model.memory
        slots = memory.slots.expand(len(x), -1, -1)
        queries, keys = self.split(memory.query(x)), self.split(memory.key(slots))
        values = self.split(memory.value(slots))
        scores = queries @ keys.transpose(-2, -1) / math.sqrt(queries.shape[-1])
        best, order = scores.topk(self.topk, dim=-1)
        index = order.flatten(2)[..., None].expand(-1, -1, -1, values.shape[-1])
        chosen = values.gather(2, index).unflatten(2, order.shape[2:])
        return memory.output((best.softmax(-1)[..., None] * chosen).sum(-2).transpose(1, 2).flatten(2))

    def attend(self, attention, x, others, mask=None):
        queries, keys = self.split(attention.query(x)), self.split(attention.key(others))
        scores = queries @ keys.transpose(-2, -1) / math.sqrt(queries.shape[-1])
        scores = scores if mask is None else scores.masked_fill(~mask, -math.inf)
        return attention.output((scores.softmax(-1) @ self.split(attention.value(others))).transpose(1, 2).flatten(2))

    def encode(self, features):
        model = self.model
        x = model.patch_embedding(features).relu()
        x = x + self.memory(x) + model.positions[: x.shape[1]]
        for layer in model.encoder:
            normed = layer.norms[0](x)
            x = x + self.attend(layer.attention, normed, normed)
            x = x + layer.feed_forward(layer.norms[1](x))
        return model.encoder_norm(x)

    def next_chances(self, encoded, words):
        """Log probabilities (rows, V + 1) after words (rows, t), encoded (rows, S, width)."""
        model, length = self.model, words.shape[1]
        mask = torch.ones(length, length, dtype=torch.bool).tril()
        x = model.word_embedding(words) * math.sqrt(model.config.d_model) + model.positions[:length]
        x = x + self.memory(x)
        for layer in model.decoder:
            normed = layer.norms[0](x)
            x = x + self.attend(layer.attention, normed, normed, mask)
            x = x + self.attend(layer.cross_attention, layer.norms[1](x), encoded)
            x = x + layer.feed_forward(layer.norms[2](x))
        return functional.log_softmax(model.output(model.decoder_norm(x))[:, -1], dim=-1)

    @torch.inference_mode()
    def greedy(self, features, length):
        encoded = self.encode(features)
        words = torch.zeros(len(features), 1, dtype=torch.int64)
        for _ in range(length):
            chances = self.next_chances(encoded, words)
            for row, said in enumerate(words[:, 1:].tolist()):
                triples = list(zip(said, said[1:], said[2:], strict=False))
                for first, second, third in triples:
                    if [first, second] == said[-2:]:
                        chances[row, third] -= 2 * 0.693
            words = torch.cat([words, chances.argmax(-1, keepdim=True)], 1)
        return words[:, 1:]

    @torch.inference_mode()
    def beam(self, features, length, size=3):
        encoded, n = self.encode(features), len(features)
        words, sums = torch.zeros(n, 1, dtype=torch.int64), torch.zeros(n, 1)
        for _ in range(length):
            rows = len(words) // n
            chances = self.next_chances(encoded.repeat_interleave(rows, 0), words).view(n, rows, -1)
            totals, order = (sums[:, :, None] + chances).flatten(1).sort(dim=1, descending=True)
            sums, order = totals[:, :size], order[:, :size]
            parents = (order // chances.shape[-1] + rows * torch.arange(n)[:, None]).flatten()
            words = torch.cat([words[parents], (order % chances.shape[-1]).flatten()[:, None]], 1)
        return words.view(n, size, -1)[:, 0, 1:]

    def write(self, features, beams, length):
        return self.greedy(features, length) if beams == 1 else self.beam(features, length, beams)

    @torch.inference_mode()
    def estimate(self, features, beams, length) -> float:
        """CPU seconds of `write`: encoder, and steps at three lengths with straight lines between."""
        rows = len(features) * beams
        encoded = self.encode(features).repeat_interleave(beams, 0)
        places = [1, length // 2, length]
        words = torch.ones(rows, length, dtype=torch.int64)
        steps = [once(lambda t=t: self.next_chances(encoded, words[:, :t])) for t in places]
        total = 0.0
        for t in range(1, length + 1):
            side = 0 if t <= places[1] else 1
            share = (t - places[side]) / (places[side + 1] - places[side])
            total += steps[side] + share * (steps[side + 1] - steps[side])
        return total + once(lambda: self.encode(features))


def peak(what: str, n: int, beams: int) -> float:
    """Peak memory of a fresh process that does one thing, MiB. Linux only."""
    command = [sys.executable, __file__, what, str(n), str(beams)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(answer.stdout.splitlines()[-1])


def _only(what: str, n: int, beams: int) -> float:
    torch.set_num_threads(1)
    model = build()
    if what != "load":
        features = torch.randn(n, 49, 2048)
        images = torch.randn(n, 3, 224, 224)
        if what == "plain":
            with torch.inference_mode():
                encoded = Plain(model).encode(features).repeat_interleave(beams, 0)
                Plain(model).next_chances(encoded, torch.ones(n * beams, N_TOKENS, dtype=torch.int64))
        elif what == "trunk":
            model.visual_extractor.fuse = False
            with torch.inference_mode():
                model.patch_features(images)
        else:
            model.generate(images, beams)
    # Not getrusage: its maximum is handed on from the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def trunk_costs(bench: Bench) -> dict[int, float]:
    """CPU ms per film of ResNet-101: fused and channels last, beside itself as it is trained."""
    extractor, plain = (cmn.PatchExtractor(cmn.build_extractor("resnet101")).eval() for _ in range(2))
    plain.model.load_state_dict(extractor.model.state_dict())
    plain.fuse = False
    found = {}
    with torch.inference_mode():
        for n in (1, 4, 16):
            images = torch.randn(n, 3, 224, 224)
            ours, theirs = cost(lambda: extractor(images), lambda: plain(images), repeats=5 if n < 16 else 3)  # noqa: B023
            per_film = [Cost(part.cpu / n, part.wall / n) for part in (ours, theirs)]
            bench.compare_cost(f"trunk, {n} film(s), per film", *per_film, "the trunk as it is trained")
            found[n] = per_film[0].cpu
        difference = (extractor(images) - plain(images)).abs().max() / plain(images).abs().max()
    bench.state("trunk: largest difference / largest value", "1e-6", float(difference) * 1e6)
    return found


def main() -> None:
    bench = Bench("cmn")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # CPU seconds of several threads hold their waiting for each other
    model = build(nn.Identity())
    plain, trunk = Plain(model), trunk_costs(bench)
    spent, features = {}, {n: torch.randn(n, 49, 2048) for n in (1, 4, 16)}
    for beams in (1, 3):
        ours = model.generate(features=features[4], beam_size=beams, max_length=12)
        theirs = plain.write(features[4], beams, 12)
        assert ours.equal(theirs), f"the two ways write different words with {beams} beam(s)"
    print(f"the same words both ways; {N_TOKENS} words, encoder included, trunk not; seconds are for the whole batch")
    for n, beams in SIZES:
        kind = "greedy" if beams == 1 else f"beam {beams}"
        write = lambda n=n, beams=beams: model.generate(features=features[n], beam_size=beams, max_length=N_TOKENS)  # noqa: E731
        spent[n, beams] = cost(write, repeats={1: 5, 4: 3, 16: 2}[n])[0]
        ours = spent[n, beams].cpu / 1000
        more = {"films_per_batch": n, "words_per_cpu_second": n * N_TOKENS / ours}
        if (n, beams) in REFERENCE:
            more["public_code_elsewhere"] = REFERENCE[n, beams]
        if (n, beams) in GOALS:
            more["goal"] = GOALS[n, beams]
        theirs = plain.estimate(features[n], beams, N_TOKENS)
        bench.compare(f"{kind}, {n} film(s)", "CPU s", ours, theirs, "nothing kept, from 3 lengths", **more)
        if (n, beams) == (1, 3):
            whole = once(lambda beams=beams: plain.write(features[1], beams, N_TOKENS))
            bench.compare(f"{kind}, 1 film, plain way in full", "CPU s", ours, whole, "nothing kept, measured")
    with torch.inference_mode():
        for n in (1, 4, 16):
            encoder = cost(lambda n=n: model.encode(features[n]), repeats=3)[0].cpu / n
            for beams in (1, 3):
                whole = spent[n, beams].cpu / n
                total = trunk[n] + whole
                kind = f"{'greedy' if beams == 1 else 'beam 3'}, {n} film(s), with trunk, per film"
                bench.state(kind, "CPU ms", total)
                for part, share in (("trunk", trunk[n]), ("encoder", encoder), ("decoder", whole - encoder)):
                    bench.state(f"  of that {part}", "%", 100 * share / total)
    for n in (1, 16):
        lengths = (25, 50, 100)
        write = [lambda n=n, t=t: model.generate(features=features[n], max_length=t) for t in lengths]
        for t, found in zip(lengths, cost(*write, repeats=2), strict=True):
            bench.state(f"beam 3, {n} film(s), {t} words: per word", "CPU ms", found.cpu / t)
    loaded = peak("load", 0, 0)
    bench.state("peak memory: libraries and the model", "MiB", loaded)
    for n, beams in ((1, 3), (16, 3)):
        more = peak("ours", n, beams) - loaded
        bench.state(f"peak on top, from pixels, beam 3, {n} film(s)", "MiB", more)
    bench.state("of that the trunk as it is trained, 16 film(s)", "MiB", peak("trunk", 16, 1) - loaded)
    bench.state("the plain way's decoder alone, 16 film(s)", "MiB", peak("plain", 16, 3) - loaded)
    torch.set_num_threads(threads)
    bench.write()


if __name__ == "__main__":
    print(json.dumps(_only(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))) if len(sys.argv) > 1 else main())
