"""Training the report model: its two learning rates, and the scores of reports that an epoch is chosen by.

plan = training.Plan(seed=seed, param_groups=cmn.LearningRates(trunk=1e-4, rest=5e-4), metric="bleu_4", ...)
training.fit(model, items, plan, collate=cmn.collate, evaluate=cmn.ReportScores(val_items), ...)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from cliniqure_utils.cmn.model import R2GenCMN
from cliniqure_utils.cmn.tokenizer import to_prose


@dataclass(frozen=True)
class LearningRates:
    """Parameter groups for `training.Plan`: a trunk that has learned before, and the rest, which starts from nothing.

    Called with a model, gives optimizer groups of its parameters that require gradients. The schedule multiplies both
    rates. A class and not a closure, so that it can be sent to other processes.

    Args:
        trunk: Learning rate of the convolutional trunk; 0 leaves its weights out.
        rest: Learning rate of everything else.

    Source: two rates as in the public code, whose MIMIC-CXR script has 1e-4 and 5e-4.
    """

    trunk: float
    rest: float

    def __post_init__(self):
        if self.trunk < 0 or self.rest <= 0:
            raise ValueError(
                f"learning rates must be positive (the trunk's may be 0), found {self.trunk} and {self.rest}"
            )

    def __call__(self, model: R2GenCMN) -> list[dict]:
        seeing, writing = [], []
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                (seeing if name.startswith("visual_extractor.") else writing).append(parameter)
        groups = [{"params": writing, "lr": self.rest}]
        if seeing and self.trunk > 0:
            groups.append({"params": seeing, "lr": self.trunk})
        return groups


def collate(items: Iterable[dict]) -> dict:
    """Items -> batch for `R2GenCMN.forward`: `images` or `features` stacked, `ids` padded with 0, `image_id` a list."""
    items = list(items)
    batch = {name: torch.stack([item[name] for item in items]) for name in ("images", "features") if name in items[0]}
    if "ids" in items[0]:
        batch["ids"] = nn.utils.rnn.pad_sequence([item["ids"] for item in items], batch_first=True)
    if "image_id" in items[0]:
        batch["image_id"] = [item["image_id"] for item in items]
    return batch


@torch.no_grad()
def take_over_scaling(model: R2GenCMN, mean: torch.Tensor, spread: torch.Tensor) -> None:
    """Make a model that learned from scaled features, (features - mean) / spread, read them as they are.

    Its first layer takes the scaling over. Back again: `take_over_scaling(model, -mean / spread, 1 / spread)`.

    Args:
        model: Changed in place.
        mean, spread: (d_vf,) each.
    """
    layer = model.patch_embedding
    layer.weight /= spread.to(layer.weight)
    layer.bias -= layer.weight @ mean.to(layer.weight)


def write_reports(
    model: R2GenCMN, items: Sequence[dict], beam_size: int = 3, batch_size: int = 32, max_length: int | None = None
) -> list[str]:
    """Reports of items (as `collate` takes them), in the model's words; `to_prose` makes sentences of them."""
    device, texts = next(model.parameters()).device, []
    for start in range(0, len(items), batch_size):
        batch = collate(items[number] for number in range(start, min(start + batch_size, len(items))))
        seen = {name: batch[name].to(device) for name in ("images", "features") if name in batch}
        rows = model.generate(**seen, beam_size=beam_size, max_length=max_length)
        texts += [model.tokenizer.decode(row) for row in rows.tolist()]
    return texts


@dataclass(frozen=True)
class ReportScores:
    """Scores of written reports against true ones, for `training.fit(evaluate=...)` and a plan with `metric="bleu_4"`.

    Called with a model, gives bleu_1 to bleu_4, rouge_l and finding_f1 (micro, of the findings that the rule labeller
    reads in both texts) in [0, 1]. References are the items' ids made words again, as in the public code: cleaned, cut
    to the longest length, rare words <unk>.

    BLEU rewards the wording of the many normal statements as much as that of the findings: chosen by it, an epoch that
    calls every film normal can win. finding_f1 does not reward that.

    Args:
        items: Of the validation split, as `collate` takes them, with ids.
        beam_size: 1 is greedy, and faster.
        batch_size: Items written at once.
        max_length: Most words; None is the model's own.
    """

    items: Sequence[dict]
    beam_size: int = 3
    batch_size: int = 32
    max_length: int | None = None

    def __post_init__(self):
        if not len(self.items):
            raise ValueError("no validation report to choose by")

    def __call__(self, model: R2GenCMN) -> dict[str, float]:
        from cliniqure_utils import labeller, metrics

        written = write_reports(model, self.items, self.beam_size, self.batch_size, self.max_length)
        true = [model.tokenizer.decode(self.items[i]["ids"].tolist()[1:]) for i in range(len(self.items))]
        scores = metrics.text_scores(references=true, predictions=written)
        said, known = (labeller.label_matrix(map(to_prose, texts)) for texts in (written, true))
        scores["finding_f1"] = metrics.finding_scores(references=known, predictions=said)["micro_f1"]
        return scores
