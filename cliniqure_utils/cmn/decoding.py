"""Choosing the words of a report: greedy and beam search, with the published model's rules.

Only the newest word goes through the decoder. Keys and values of earlier words stay where they were written: when beams
change places, a table of which beam descends from which is re-ordered, not the cache. Keys and values of the patches
are computed once per image and shared by its beams.

Source: behaviour of the public code of R2GenCMN; the cache is ours.
"""

import math
from dataclasses import dataclass

import torch

FINISHED = 1000.0  # taken off a finished beam's sum, so that live beams come first
TRIGRAM_PENALTY = 2.0 * 0.693  # per earlier occurrence


@dataclass(frozen=True)
class Decoded:
    """Reports, best first.

    Attributes:
        ids: int64 (n, n_reports, max_length), zeros after the end.
        scores: float64 (n, kept): beam search: sums of log probabilities (after the length penalty) of the best
            beam_size finished beams, NaN where fewer finished; greedy: the chosen words' sum.
        logprobs: float32 (n, max_length, V + 1) that the words of the best report were chosen from, zeros after the
            end; None unless asked for.
        steps: Decoder steps that were run.
    """

    ids: torch.Tensor
    scores: torch.Tensor
    logprobs: torch.Tensor | None
    steps: int


class Session:
    """One batch of reports being written, one word per step.

    Args:
        model: R2GenCMN in eval mode.
        encoded: Encoder output (n, S, width).
        n_beams: Rows per image.
        max_length: Most steps.
    """

    def __init__(self, model, encoded: torch.Tensor, n_beams: int, max_length: int):
        self.model, self.n_beams, self.length = model, n_beams, 0
        # Laid out once as the products need them, or every step would copy them.
        self.patches = [(keys.contiguous(), values.contiguous()) for keys, values in model.cross_keys(encoded)]
        n, heads, width = len(encoded), model.config.num_heads, encoded.shape[-1]
        # Words of one position lie side by side for all beams of an image, so that "all words so far" is one block.
        shape = (len(model.decoder), 2, n, heads, max_length, n_beams, width // heads)
        self._cache = encoded.new_empty(shape)
        # [image, beam, position, row]: does that beam descend from the word written there?
        self._ancestors = torch.zeros(n, n_beams, max_length, n_beams, dtype=torch.bool, device=encoded.device)

    def step(self, ids: torch.Tensor) -> torch.Tensor:
        """Newest words (n, rows) -> logits (n, rows, V + 1). The first step has one row, later ones `n_beams`."""
        position, rows = self.length, ids.shape[1]
        self.length += 1
        own = torch.eye(rows, self.n_beams, dtype=torch.bool, device=ids.device)
        self._ancestors[:, :rows, position] = own
        visible = self._ancestors[:, :rows, : self.length].flatten(2)[:, None]  # (n, 1, rows, length * n_beams)
        x = self.model.embed_words(ids.reshape(-1, 1), start=position).view(*ids.shape, -1)
        for number, layer in enumerate(self.model.decoder):
            x = layer(x, self.patches[number], visible, remember=lambda *new, i=number: self._remember(i, new))
        return self.model.word_logits(x)

    def _remember(self, layer: int, new: tuple[torch.Tensor, torch.Tensor]) -> list[torch.Tensor]:
        rows = new[0].shape[2]
        everything = []
        for kept, part in zip(self._cache[layer], new, strict=True):
            kept[:, :, self.length - 1, :rows] = part
            if rows < self.n_beams:
                kept[:, :, self.length - 1, rows:] = 0  # masked out, but must not be NaN
            everything.append(kept[:, :, : self.length].flatten(2, 3))
        return everything

    def reorder(self, parents: torch.Tensor) -> None:
        """Beam j of each image continues what beam `parents[:, j]` had: (n, n_beams)."""
        index = parents[:, :, None, None].expand(-1, -1, *self._ancestors.shape[2:])
        self._ancestors = self._ancestors.gather(1, index)

    def keep(self, images: torch.Tensor) -> None:
        """Go on with some of the images only: int64 indices into the current batch."""
        self._cache = self._cache.index_select(2, images)
        self._ancestors = self._ancestors[images]
        self.patches = [(keys[images], values[images]) for keys, values in self.patches]


def greedy(
    model,
    encoded: torch.Tensor,
    max_length: int,
    *,
    block_trigrams: bool = True,
    decoding_constraint: bool = False,
    log_softmax: bool = True,
    return_logprobs: bool = False,
) -> Decoded:
    """Greedy search: take the most likely word at every step.

    Args:
        model, encoded, max_length: As for `Session`.
        block_trigrams: From the fourth word on, each earlier occurrence of the trigram that a word would complete
            costs it 2 x 0.693; probabilities are not renormalised.
        decoding_constraint: Forbid the previous word.
        log_softmax: False: raw logits are compared.
        return_logprobs: Fill `Decoded.logprobs`.
    """
    n, device = len(encoded), encoded.device
    session = Session(model, encoded, 1, max_length)
    ids = torch.zeros(n, max_length, dtype=torch.int64, device=device)
    scores = torch.zeros(n, dtype=torch.float64, device=device)
    record = encoded.new_zeros(n, max_length, model.tokenizer.n_outputs) if return_logprobs else None
    active = torch.arange(n, device=device)
    newest = torch.zeros(n, dtype=torch.int64, device=device)
    texts: list[list[int]] = [[] for _ in range(n)]
    followers: list[dict[tuple[int, int], list[int]]] = [{} for _ in range(n)]

    for t in range(max_length):
        chances = session.step(newest[:, None])[:, 0]
        if log_softmax:
            chances = chances.log_softmax(dim=-1)
        if decoding_constraint and t > 0:
            chances.scatter_(1, newest[:, None], -math.inf)
        if block_trigrams and t >= 3:
            for row, image in enumerate(active.tolist()):
                first, second, third = texts[image][-3:]
                followers[image].setdefault((first, second), []).append(third)
                for word in followers[image].get((second, third), ()):
                    chances[row, word] -= TRIGRAM_PENALTY
        best, newest = chances.max(dim=-1)
        ids[active, t] = newest
        scores[active] += best
        if record is not None:
            record[active, t] = chances
        for image, word in zip(active.tolist(), newest.tolist(), strict=True):
            texts[image].append(word)
        going = (newest != 0).nonzero()[:, 0]
        if len(going) == 0:
            break
        if len(going) < len(active):
            active, newest = active[going], newest[going]
            session.keep(going)
    return Decoded(ids[:, None], scores[:, None], record, session.length)


def length_penalty(rule: str):
    """ "" -> none; "wu_0.9" -> score / ((5 + length) / 6) ** 0.9; "avg_0" -> score / length (the number is unused).

    Returns a function (length, score) -> score, or None for no penalty.
    """
    if not rule:
        return None
    name, _, number = rule.partition("_")
    try:
        alpha = float(number)
    except ValueError:
        name = ""
    if name == "wu":
        return lambda length, score: score / ((5 + length) ** alpha / (5 + 1) ** alpha)
    if name == "avg":
        return lambda length, score: score / length
    raise ValueError(f"unknown length penalty {rule!r}; expected '', 'wu_A' or 'avg_A' with a number A")


def beam_search(
    model,
    encoded: torch.Tensor,
    beam_size: int,
    max_length: int,
    *,
    n_reports: int = 1,
    penalty: str = "",
    temperature: float = 1.0,
    decoding_constraint: bool = False,
    log_softmax: bool = True,
    early_stop: bool = True,
    return_logprobs: bool = False,
) -> Decoded:
    """Beam search: keep the `beam_size` best beginnings at every step.

    A beam that says "end" is stored; its sum is then lowered by 1000 and it goes on, and may be stored again. At the
    last step all beams are stored. The stored ones are sorted by score, earlier ones first among equals. Trigrams are
    never blocked.

    Args:
        model, encoded, max_length: As for `Session`.
        beam_size: At least 2, at most the number of outputs.
        n_reports: Reports per image that are returned, at most `beam_size`.
        penalty: See `length_penalty`.
        temperature: Divides the log probabilities, which are then normalised again; not at the first word.
        decoding_constraint: Forbid the previous word.
        log_softmax: False: the first word is chosen from raw logits.
        early_stop: Stop an image once no live beam can overtake its best report. Exact, since sums only fall; used
            only for one report without penalty.
        return_logprobs: Fill `Decoded.logprobs`.
    """
    n, device, n_outputs = len(encoded), encoded.device, model.tokenizer.n_outputs
    if not 1 <= n_reports <= beam_size <= n_outputs:
        raise ValueError(
            f"expected n_reports <= beam_size <= {n_outputs} outputs, found n_reports {n_reports}, "
            f"beam_size {beam_size}"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, found {temperature}")
    rescore = length_penalty(penalty)
    early_stop = early_stop and n_reports == 1 and rescore is None
    session = Session(model, encoded, beam_size, max_length)
    stored: list[list[tuple[float, torch.Tensor, torch.Tensor]]] = [[] for _ in range(n)]
    best_stored = torch.full((n,), -math.inf, device=device)
    active = torch.arange(n, device=device)
    sums = encoded.new_zeros(n, 1)
    newest = torch.zeros(n, 1, dtype=torch.int64, device=device)
    words = torch.zeros(n, beam_size, max_length, dtype=torch.int64, device=device)
    origins = torch.zeros_like(words)  # the beam that each word was chosen from
    history: list[tuple[dict[int, int], torch.Tensor]] = []

    for t in range(max_length):
        chances = session.step(newest)
        if log_softmax or t > 0:
            chances = chances.log_softmax(dim=-1)
        if t > 0:
            chances = (chances / temperature).log_softmax(dim=-1)
            if decoding_constraint:
                chances.scatter_(2, newest[:, :, None], -math.inf)
        if return_logprobs:
            history.append(({image: row for row, image in enumerate(active.tolist())}, chances))
        sums, flat = (sums[:, :, None] + chances).flatten(1).topk(beam_size, dim=1)
        parents, newest = flat // n_outputs, flat % n_outputs
        if t > 0:
            lineage = parents[:, :, None].expand(-1, -1, max_length)
            words, origins = words.gather(1, lineage), origins.gather(1, lineage)
        words[:, :, t], origins[:, :, t] = newest, parents
        session.reorder(parents)

        last = t == max_length - 1
        ended = torch.ones_like(newest, dtype=torch.bool) if last else newest == 0
        if ended.any():
            images, totals = active.tolist(), sums.tolist()
            for row, beam in ended.nonzero().tolist():
                score = totals[row][beam] if rescore is None else rescore(t + 1, totals[row][beam])
                stored[images[row]].append((score, words[row, beam].clone(), origins[row, beam].clone()))
            best_stored[active] = torch.maximum(best_stored[active], sums.masked_fill(~ended, -math.inf).amax(dim=1))
            sums = sums - FINISHED * ended
        if last:
            break
        if early_stop:
            going = (best_stored[active] < sums.amax(dim=1)).nonzero()[:, 0]
            if len(going) == 0:
                break
            if len(going) < len(active):
                active, newest, sums = active[going], newest[going], sums[going]
                words, origins = words[going], origins[going]
                session.keep(going)

    ids = torch.zeros(n, n_reports, max_length, dtype=torch.int64, device=device)
    scores = torch.full((n, beam_size), math.nan, dtype=torch.float64)
    record = encoded.new_zeros(n, max_length, n_outputs) if return_logprobs else None
    for image, reports in enumerate(stored):
        reports.sort(key=lambda report: -report[0])  # stable
        for place, (score, _, _) in enumerate(reports[:beam_size]):
            scores[image, place] = score
        for place, (_, spoken, _) in enumerate(reports[:n_reports]):
            ids[image, place] = spoken
        if record is not None:
            _, spoken, path = reports[0]
            length = next((t + 1 for t, word in enumerate(spoken.tolist()) if word == 0), max_length)
            for t, beam in enumerate(path.tolist()[:length]):
                rows, chances = history[t]
                record[image, t] = chances[rows[image], beam]
    return Decoded(ids, scores.to(device), record, session.length)
