"""Section 4.2.2: multi-label classification of a film into the 14 findings and "No finding".

`seresnet50` is the paper's network (timm). `seresnet_tiny` is ours for a laptop: the tiny trunk with a stride-8 heat
map per finding, supervised by the readers' boxes, and the class scores pooled from it. The boxes can teach a timm
network too, through a heat-map head beside its own; the paper's has none.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from cliniqure_utils import pretrained
from cliniqure_utils.project import MissingWeights
from cliniqure_utils.vision import trunks
from cliniqure_utils.vision.saving import load_model, save_model
from cliniqure_utils.vocabulary import CLASSES, FINDINGS

LOSSES = ("bce", "weighted", "asymmetric")


class MultilabelLoss(nn.Module):
    """Mean loss of logits (n, 15) against targets (n, 15) of 0/1.

    Args:
        kind: "bce": binary cross-entropy (the paper's). "weighted": the same, positives counted `positive_weight`
            times. "asymmetric": positives plain; negatives with their probability lowered by 0.05 and weighted by it to
            the power 4, so that the many easy negatives count for little.
        positive_weight: (15,) for "weighted", see `balance.positive_weights`.

    Raises:
        ValueError: Unknown kind, or "weighted" without weights.

    Source: Ridnik et al. 2021 (asymmetric loss, arXiv 2009.14119), with their margin and focusing powers 0 and 4.
    """

    def __init__(self, kind: str = "bce", positive_weight: Sequence[float] | None = None):
        super().__init__()
        if kind not in LOSSES:
            raise ValueError(f"unknown loss {kind!r}; expected one of {', '.join(LOSSES)}")
        if (kind == "weighted") != (positive_weight is not None):
            raise ValueError("the weighted loss, and no other, needs a weight of positives for each class")
        self.kind = kind
        weight = None if positive_weight is None else torch.as_tensor(positive_weight, dtype=torch.float32)
        self.register_buffer("positive_weight", weight, persistent=False)  # prediction does not need it

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if self.kind != "asymmetric":
            return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=self.positive_weight)
        logits = logits.float()
        lowered = (logits.sigmoid() - 0.05).clamp(min=0)
        negative = lowered**4 * torch.log1p(-lowered)
        return -(targets * F.logsigmoid(logits) + (1 - targets) * negative).mean()


class TimmClassifier(nn.Module):
    """A timm network with 15 outputs and binary cross-entropy on the logits (paper, section 4.2.2).

    The paper names both a sigmoid in the head and BCE *with logits*; taken literally that is two sigmoids. Here the
    network returns logits, and the sigmoid is applied only at prediction.

    Args:
        heatmap_weight: Above 0, a 1 x 1 convolution on the last map makes a heat map per finding, which the readers'
            boxes supervise with this weight in the loss: the last map learns where findings lie. The logits do not read
            the heat maps. At 0 (the paper) there is no such head.

    Raises:
        ValueError: A heat map is wanted and the network has no last map (a transformer's tokens).
    """

    def __init__(
        self,
        model_name: str = "seresnet50",
        weights: str | None = None,
        loss: MultilabelLoss | None = None,
        heatmap_weight: float = 0.0,
    ):
        super().__init__()
        self.network = _timm_network(model_name, weights)
        self.loss = loss if loss is not None else MultilabelLoss()
        self.heatmap_weight = heatmap_weight
        if heatmap_weight > 0:
            self.heatmap = _heatmap_head(_last_map_channels(self.network, model_name))

    def forward(
        self,
        image: torch.Tensor,
        targets: torch.Tensor | None = None,
        boxes: Sequence[torch.Tensor] | None = None,
        box_labels: Sequence[torch.Tensor] | None = None,
    ) -> dict[str, torch.Tensor]:
        """image (n, 1, H, W) in [0, 1]; targets (n, 15) -> logits (n, 15) and, with targets, loss; with a heat-map head
        heatmap logits (n, 14, h, w), h and w those of the last map."""
        images = trunks.normalise(image.expand(-1, 3, -1, -1))
        if self.heatmap_weight > 0:
            last = self.network.forward_features(images)
            outputs = {"logits": self.network.forward_head(last), "heatmap": self.heatmap(last)}
        else:
            outputs = {"logits": self.network(images)}
        return _with_loss(self, outputs, targets, boxes, box_labels, image.shape[-1])


def _last_map_channels(network: nn.Module, model_name: str) -> int:
    """Channels of what `forward_features` returns, measured: timm's lists leave out layers that follow a stage."""
    was_training = network.training
    with torch.no_grad():
        last = network.eval().forward_features(torch.zeros(1, *network.default_cfg["input_size"]))
    network.train(was_training)
    if last.ndim != 4 or last.shape[1] != network.num_features:
        raise ValueError(f"{model_name} has no last map (channels, h, w) for a heat map, found {tuple(last.shape[1:])}")
    return last.shape[1]


def _timm_network(model_name: str, weights: str | None) -> nn.Module:
    import timm

    if weights is None:
        return timm.create_model(model_name, pretrained=False, num_classes=len(CLASSES))
    if weights == "imagenet":
        try:
            return timm.create_model(model_name, pretrained=True, num_classes=len(CLASSES))
        except Exception as error:  # the hub client raises many types; each means the same to the user
            raise MissingWeights(
                f"ImageNet weights of {model_name} are not cached and could not be downloaded "
                f"({type(error).__name__}); give a local file as the weights parameter, or set it to None"
            ) from error
    # timm cannot load a 1000-class file into 15 classes; a headless copy is loaded first, then the head is added.
    network = timm.create_model(model_name, pretrained=False, num_classes=0)
    _load_body_of_file(network, Path(weights), model_name)
    network.reset_classifier(len(CLASSES))
    return network


def _load_body_of_file(network: nn.Module, path: Path, model_name: str) -> None:
    """Give a headless timm network the weights of a file, all or none; a head in the file is left out."""
    from timm.models import load_state_dict

    if not path.is_file():
        raise MissingWeights(f"weights file {path} does not exist")
    try:
        state = load_state_dict(str(path))
    except Exception as error:  # a damaged file fails in many ways; each means the same to the user
        raise MissingWeights(f"weights file {path.name} cannot be read ({type(error).__name__})") from error
    wanted = {name: value.shape for name, value in network.state_dict().items()}
    # Trainers put a name of their own in front of all tensors, such as "model." in "model.conv1.weight".
    prefixes = {""} | {key[: n + 1] for key in state for n, sign in enumerate(key) if sign == "."}
    fitting = max(
        ({name: state[front + name] for name, shape in wanted.items()
          if getattr(state.get(front + name), "shape", None) == shape} for front in sorted(prefixes)),
        key=len,
    )  # fmt: skip
    missing = [name for name in wanted if name not in fitting and not name.endswith("num_batches_tracked")]
    if missing:
        raise ValueError(
            f"{path.name} does not fit {model_name}: it gives {len(fitting)} of {len(wanted)} tensors, "
            f"the first without one is {missing[0]}"
        )
    network.load_state_dict(fitting, strict=False)


class HeatmapClassifier(nn.Module):
    """Tiny SE-ResNet whose class scores are pooled from one heat map per finding.

    The readers' boxes supervise the heat maps, which teaches where to look: on a few hundred films that is worth more
    than a deeper network. Source: ours.

    Args:
        body: Trunk with neck; None builds a new one.
    """

    def __init__(
        self,
        body: trunks.TopDown | None = None,
        heatmap_weight: float = 2.0,
        dropout: float = 0.3,
        loss: MultilabelLoss | None = None,
    ):
        super().__init__()
        self.loss = loss if loss is not None else MultilabelLoss()
        self.body = body if body is not None else trunks.TopDown(trunks.build_trunk("tiny"))
        self.heatmap_weight = heatmap_weight
        n_findings = len(FINDINGS)
        self.heatmap = _heatmap_head(self.body.out_channels)
        self.dropout = nn.Dropout(dropout)
        self.pooled = nn.Linear(2 * n_findings + 2 * self.body.trunk.channels, len(CLASSES))

    def forward(
        self,
        image: torch.Tensor,
        targets: torch.Tensor | None = None,
        boxes: Sequence[torch.Tensor] | None = None,
        box_labels: Sequence[torch.Tensor] | None = None,
    ) -> dict[str, torch.Tensor]:
        """image (n, 1, H, W) in [0, 1] -> logits (n, 15), heatmap logits (n, 14, H / 8, W / 8); loss with targets."""
        fine, deep = self.body.forward_with_deepest(trunks.normalise(image.expand(-1, 3, -1, -1)))
        heatmap = self.heatmap(fine)
        peak = heatmap.amax((2, 3))
        broad = F.avg_pool2d(heatmap, 3, 1, 1).amax((2, 3))
        context = self.dropout(torch.cat([deep.mean((2, 3)), deep.amax((2, 3))], dim=1))
        logits = self.pooled(torch.cat([peak, broad, context], dim=1))
        logits = logits + F.pad(peak, (0, 1))  # "No finding" has no heat map
        outputs = {"logits": logits, "heatmap": heatmap}
        return _with_loss(self, outputs, targets, boxes, box_labels, image.shape[-1])


def _heatmap_head(channels: int) -> nn.Conv2d:
    head = nn.Conv2d(channels, len(FINDINGS), 1)
    nn.init.constant_(head.bias, -4.0)  # findings cover few cells: start from "nowhere"
    return head


def _with_loss(model: nn.Module, outputs: dict, targets, boxes, box_labels, size: int) -> dict[str, torch.Tensor]:
    """With targets, `loss` beside the outputs: of the labels and, where boxes are given, of the heat maps too."""
    if targets is not None:
        loss = model.loss(outputs["logits"], targets)
        if boxes is not None and model.heatmap_weight > 0:
            loss = loss + model.heatmap_weight * heatmap_loss(outputs["heatmap"], boxes, box_labels, size)
        outputs["loss"] = loss
    return outputs


def box_masks(
    boxes: Sequence[torch.Tensor], labels: Sequence[torch.Tensor], grid: tuple[int, int], size: int
) -> torch.Tensor:
    """Boxes in input pixels, labels 1-14 -> masks (n, 14, *grid), 1 in every cell that a box of the class touches."""
    masks = torch.zeros(len(boxes), len(FINDINGS), *grid)
    scale = torch.tensor([grid[1] / size, grid[0] / size] * 2)
    for mask, image_boxes, image_labels in zip(masks, boxes, labels, strict=True):
        cells = image_boxes.cpu() * scale
        for (x_min, y_min, x_max, y_max), label in zip(cells.tolist(), image_labels.tolist(), strict=True):
            mask[label - 1, int(y_min) : max(int(y_min) + 1, int(np.ceil(y_max))),
                 int(x_min) : max(int(x_min) + 1, int(np.ceil(x_max)))] = 1  # fmt: skip
    return masks


def heatmap_loss(
    heatmap: torch.Tensor, boxes: Sequence[torch.Tensor], labels: Sequence[torch.Tensor], size: int
) -> torch.Tensor:
    """Focal cross-entropy plus soft Dice between heat map logits (n, 14, h, w) and the boxes drawn on the same grid."""
    masks = box_masks(boxes, labels, tuple(heatmap.shape[-2:]), size).to(heatmap.device)
    heatmap = heatmap.float()  # sums over a large grid, also under mixed precision
    probability = heatmap.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(heatmap, masks, reduction="none")
    weight = (probability - masks).abs().square() * (0.25 + 0.75 * masks)
    focal = (cross_entropy * weight).sum() / (masks.sum() + 30)
    overlap = (probability * masks).sum((0, 2, 3))
    dice = 1 - (2 * overlap + 1) / ((probability + masks).sum((0, 2, 3)) + 1)
    return focal + 0.25 * dice.mean()


def build_classifier(
    model_name: str,
    weights: str | None = None,
    loss: str = "bce",
    positive_weight: Sequence[float] | None = None,
    heatmap_weight: float = 0.0,
    frozen_parts: int = 0,
    pretrained_heads: bool = False,
    pretrained_dir: Path = pretrained.FOLDER,
) -> nn.Module:
    """Build a classifier, `seresnet_tiny` or any timm network: a module whose forward takes a FilmDataset batch.

    Args:
        model_name: "seresnet_tiny" (ours) or a timm name; the paper's is "seresnet50".
        weights: None for random ones. For timm names "imagenet" or a local file; for `seresnet_tiny` "pretrained" (our
            own, the demo's stand-in for ImageNet) or a file of trunk and neck, such as notebook 02 writes.
        loss, positive_weight: Of `MultilabelLoss`; the paper's is "bce".
        heatmap_weight: Weight in the loss of the heat maps, which the boxes supervise. 0, the paper's choice, trains on
            labels alone and leaves a timm network without a heat-map head; `seresnet_tiny` always has one.
        frozen_parts: For `seresnet_tiny` with weights: first parts of its body (stem, layer1, ..., layer4, neck) that
            training leaves as they are (`TopDown.freeze`); 0 trains all, as the paper does.
        pretrained_heads: With "pretrained": start from its heads too (heat maps and the layer above them), not from
            random ones.
        pretrained_dir: Where the pretrained parts lie.

    Raises:
        project.MissingWeights: The weights cannot be found or downloaded, or are damaged.
        ValueError: A heat map is wanted of a network without a last map, parts are to be frozen of a timm network, or
            weights do not fit.
    """
    criterion = MultilabelLoss(loss, positive_weight)
    if model_name != "seresnet_tiny":
        if frozen_parts:
            raise ValueError(f"frozen_parts is for seresnet_tiny; {model_name} is trained whole, set it to 0")
        return TimmClassifier(model_name, weights, criterion, heatmap_weight)
    if weights == "imagenet":
        raise ValueError('seresnet_tiny has no ImageNet weights; use "pretrained", a file or None')
    if weights == "pretrained":
        body = trunks.pretrained_body(pretrained_dir)
    else:
        body = trunks.TopDown(trunks.build_trunk("tiny"))
        if weights is not None:
            trunks.load_body(body, weights)
    model = HeatmapClassifier(body, heatmap_weight, loss=criterion)
    if weights == "pretrained" and pretrained_heads:
        model.load_state_dict(pretrained.load_part("eyes", pretrained_dir))
    if weights is not None:
        body.freeze(frozen_parts)
    return model


def save_classifier(model: nn.Module, folder, settings: dict) -> None:
    """Write `model.safetensors` and `config.json` (model_name, image_size, heatmap_weight, grey) into a folder."""
    save_model(model, folder, settings)


def load_classifier(folder) -> nn.Module:
    """Rebuild what `save_classifier` wrote, in eval mode."""
    return load_model(
        folder,
        lambda settings: build_classifier(settings["model_name"], heatmap_weight=settings.get("heatmap_weight", 0.0)),
    )
