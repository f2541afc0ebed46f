"""Section 4.2.1: Faster R-CNN as tables 3 and 4 describe it, and a small one for a laptop.

Label map: 1-14 are `FINDINGS` in order, 0 is background; "No finding" is not a class of the detector: such films
are trained with zero boxes. Boxes are in input pixels inside the network and in DICOM pixels in every table.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign, box_iou

from cliniqure_utils import pretrained
from cliniqure_utils.project import MissingWeights
from cliniqure_utils.vision import fast, trunks
from cliniqure_utils.vision.saving import load_model, save_model
from cliniqure_utils.vocabulary import BOX, FINDINGS, NO_FINDING

N_CLASSES = len(FINDINGS) + 1  # 14 findings + background (paper, section 4.2.1: "15 categories")
NECKS = ("none", "topdown", "fpn")


def build_detector(
    backbone: str = "resnet50",
    image_size: int = 224,
    anchor_scales: Sequence[float] | Sequence[Sequence[float]] = (32, 64, 128, 256, 512),
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    neck: str = "none",
    weights: str | None = None,
    body: trunks.TopDown | None = None,
    roi_pool_size: int = 7,
    head_width: int = 1024,
    rois_per_image: int = 64,
    max_detections: int = 50,
    nms_iou: float = 0.3,
    frozen_parts: int = 0,
    frozen_norm: bool = False,
    plain: bool = False,
) -> "Detector":
    """Assemble the detector. The defaults are the paper's (tables 3 and 4).

    Args:
        backbone: A name of `vision.trunks.TRUNKS`.
        image_size: Side of the square input in pixels; torchvision's own resize is set to it (its default would
            silently enlarge 224 to 800).
        anchor_scales: Anchor sides in input pixels. With neck "fpn" one entry per pyramid level (5), each a side or a
            list of sides: [[11, 16], [23, 32], ...] leaves no small box without an anchor.
        aspect_ratios: Height over width.
        neck: "none": the trunk's last map, 2048 x 7 x 7 at 224 for resnet50 (table 4). "topdown": one stride-8 map.
            "fpn": torchvision's feature pyramid.
        weights: For the trunk: None, "imagenet" or a file.
        body: With neck "topdown": a trained trunk with its neck (`trunks.pretrained_body`), used instead of a new one
            (`weights` is not read).
        roi_pool_size: Side of the RoIAlign output (table 4: 7).
        head_width: Width of the two fully connected layers of the head.
        rois_per_image: Regions (RoIs) sampled per image in training. torchvision asks for 512, but of the 735 anchors
            of a 7 x 7 map only about 390 proposals survive suppression; nearly all are background, and they cost
            most of the step. The paper gives no number, 64 is ours (16 of them for boxes; a film has 5).
        max_detections: Boxes kept per film at prediction.
        nms_iou: Of boxes of one class that overlap more, the best is kept. The paper gives no number and torchvision's
            is 0.5; 0.3 is ours, better on the demo's val films than 0.4, 0.5 and 0.6 in every training tried.
        frozen_parts, frozen_norm: What training leaves as the weights bring it (`Trunk.freeze`; with neck "topdown"
            `TopDown.freeze`, whose sixth part is the neck); 0 and False train all, as the paper does. Without weights
            or body there is nothing to keep and all is trained.
        plain: Take the plain code in place of its faster twins (`vision.fast`); the numbers are the same.

    Raises:
        project.MissingWeights: The weights cannot be found or downloaded.
        ValueError: Unknown name, a number of anchor scales that does not fit the feature maps, or parts to freeze that
            the trunk does not have.
    """
    if neck not in NECKS:
        raise ValueError(f"unknown neck {neck!r}; expected one of {', '.join(NECKS)}")
    levels = tuple(tuple(map(float, s)) if isinstance(s, (list, tuple)) else (float(s),) for s in anchor_scales)
    ratios = tuple(float(r) for r in aspect_ratios)
    if not levels or not ratios or min(s for level in levels for s in level) <= 0 or min(ratios) <= 0:
        raise ValueError(f"anchors need positive sides and ratios, found {anchor_scales} and {aspect_ratios}")
    scales = tuple(s for level in levels for s in level)
    if neck == "fpn" and (len(levels) != 5 or len({len(level) for level in levels}) != 1):
        raise ValueError(
            f"a feature pyramid has 5 maps and needs one anchor scale for each, found {len(levels)}: "
            f"{tuple(anchor_scales)} (or lists of one length)"
        )
    if neck == "topdown" and body is not None:
        feature_extractor, trunk = body, body.trunk
    else:
        trunk = trunks.build_trunk(backbone, weights)
        if neck == "topdown":
            feature_extractor = trunks.TopDown(trunk, plain=plain)
        else:
            feature_extractor = trunk if neck == "none" else trunks.Pyramid(trunk)
    if weights is not None or feature_extractor is body:
        (feature_extractor if neck == "topdown" else trunk).freeze(frozen_parts, frozen_norm)
    # Regions are cut out of one map, or of the pyramid's map that fits their size.
    names = ["0", "1", "2", "3"] if neck == "fpn" else ["0"]
    # One sample in each bin is enough on the fine map; the coarse ones get four.
    roi_align = CompiledRoIAlign(names, roi_pool_size, sampling_ratio=1 if neck == "topdown" else 2)
    if neck == "topdown" and not plain:
        roi_align = fast.RoIAlignOnOneMap(roi_pool_size)
    sizes = levels if neck == "fpn" else (scales,)
    head_input = feature_extractor.out_channels * roi_pool_size**2
    network = FasterRCNN(
        feature_extractor,
        num_classes=None,
        min_size=image_size,
        max_size=image_size,
        image_mean=list(trunks.IMAGENET_MEAN),
        image_std=list(trunks.IMAGENET_STD),
        rpn_anchor_generator=AnchorGenerator(sizes, (ratios,) * len(sizes)),
        rpn_pre_nms_top_n_train=1000,
        rpn_post_nms_top_n_train=300,
        rpn_pre_nms_top_n_test=500,
        rpn_post_nms_top_n_test=100,
        box_roi_pool=roi_align,
        box_head=TwoMLPHead(head_input, head_width),
        box_predictor=FastRCNNPredictor(head_width, N_CLASSES),
        box_score_thresh=0.01,
        box_nms_thresh=nms_iou,
        box_detections_per_img=max_detections,
        box_batch_size_per_image=rois_per_image,
    )
    return Detector(network, image_size)


class CompiledRoIAlign(MultiScaleRoIAlign):
    """torchvision's, always by its compiled operator.

    On a GPU torchvision takes a version in Python where deterministic algorithms are asked for: through torch.compile,
    which needs a C compiler, and with some 30 GB for a film of 400 pixels (pytorch/vision 8168). The last digits of a
    gradient on a GPU then depend on chance.
    """

    def forward(self, x, boxes, image_shapes):
        asked, warns = (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        )
        torch.use_deterministic_algorithms(False)
        try:
            return super().forward(x, boxes, image_shapes)
        finally:
            torch.use_deterministic_algorithms(asked, warn_only=warns)


class Detector(nn.Module):
    """torchvision's Faster R-CNN, made to take the batches of `vision.films.collate`.

    Attributes:
        network: The torchvision FasterRCNN.
        image_size: Side of the input it was built for, pixels.
    """

    def __init__(self, network: FasterRCNN, image_size: int):
        super().__init__()
        self.network, self.image_size = network, image_size

    def forward(
        self,
        image: torch.Tensor,
        boxes: Sequence[torch.Tensor],
        box_labels: Sequence[torch.Tensor],
        targets: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Training pass: image (n, 1, size, size) in [0, 1], boxes in input pixels, labels 1-14 -> the four losses and
        `loss`, their sum."""
        images = check_images(image)
        pairs = zip(boxes, box_labels, strict=True)
        wanted = [{"boxes": check_boxes(found, labels), "labels": labels} for found, labels in pairs]
        losses = self.network(images, wanted)
        return {**losses, "loss": sum(losses.values())}

    @torch.no_grad()
    def detect(self, image: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        """image (n, 1, size, size) in [0, 1] -> per film a dict: boxes (k, 4) input pixels, labels 1-14, scores."""
        self.eval()
        return self.network(check_images(image))


def load_pretrained(detector: Detector, settings: Mapping, folder: Path = pretrained.FOLDER) -> None:
    """Give a detector the weights of our own pretrained one, body and heads.

    Args:
        detector: What `build_detector(**settings)` built.
        settings: Its arguments. They must be those of the pretrained one, but for `rois_per_image`, which only training
            reads: weights for other anchors would load without complaint and find nothing.
        folder: Where the part "detector" lies (`pretrained.load_part`).

    Raises:
        project.MissingWeights: The part is missing or damaged, or has other settings; the detector is left as it was.
    """
    state, recorded = pretrained.load_part("detector", folder), pretrained.settings_of("detector", folder)["settings"]
    for name in recorded.keys() - {"rois_per_image"}:
        if settings.get(name) != recorded[name]:
            raise MissingWeights(
                f"the pretrained detector has {name} {recorded[name]}, this one {settings.get(name)}: "
                "it starts from the pretrained trunk alone"
            )
    detector.load_state_dict(state)


def check_images(image: torch.Tensor) -> list[torch.Tensor]:
    """Check a batch of images (n, 1, H, W), and return the list of 3-channel images (3, H, W) that torchvision takes.

    Raises:
        ValueError: Not float, NaN, or values outside [0, 1] (0-255 films train without complaint and learn nothing).
    """
    if not image.is_floating_point():
        raise ValueError(f"films must be float in [0, 1], found {image.dtype}")
    low, high = image.min().item(), image.max().item()
    if not (low >= -1e-6 and high <= 1 + 1e-6):
        raise ValueError(f"films must be float in [0, 1], found values from {low:g} to {high:g}")
    return list(image.expand(-1, 3, -1, -1))


def check_boxes(boxes: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Refuse boxes that are not finite or have no area, and labels outside 1-14.

    Raises:
        ValueError: Says which value was found.
    """
    if not torch.isfinite(boxes).all():
        raise ValueError(f"a box is not finite: {boxes.tolist()}")
    if (boxes[:, 2:] <= boxes[:, :2]).any():
        raise ValueError(f"a box has no area: {boxes.tolist()}")
    if len(labels) and not (1 <= int(labels.min()) and int(labels.max()) < N_CLASSES):
        raise ValueError(
            f"box labels must be 1-{N_CLASSES - 1} (0 is background), found {sorted(set(labels.tolist()))}"
        )
    return boxes


def gate_predictions(
    predictions: pd.DataFrame,
    abnormal: Mapping[str, float],
    image_sizes: Mapping[str, tuple[float, float]],
    low: float = 0.08,
    high: float = 0.95,
) -> pd.DataFrame:
    """Let the classifier decide how far the detector is believed, as in VinBigData's contest.

    A film whose probability of any finding is under `low` loses its boxes and gets one whole-film box "No finding"
    with score 1; from `low` to `high` it keeps its boxes and gets that box with the probability of "No finding" as its
    score; from `high` on only the detector decides. Score the result with `metrics.with_no_finding_boxes` on the
    references, which makes "No finding" the contest's fifteenth class.

    Args:
        predictions: As `predict_boxes` returns them.
        abnormal: image_id -> 1 - probability of "No finding", for every film to predict.
        image_sizes: image_id -> (width, height), DICOM pixels.
        low, high: The two limits, 0 <= low <= high; above 1 for `high` adds the box to every film.

    Returns:
        Table as `predictions`, films in the order of `abnormal`.

    Raises:
        ValueError: Limits out of order, or a predicted film without a probability.

    Source: the two-class filter that teams of VinBigData's contest published, with its usual limits. Public results on
    Kaggle's set rose from .248 to .278 mAP@0.4 with it; that set's labels are not public, so it is not measured here.
    """
    if not 0 <= low <= high:
        raise ValueError(f"expected 0 <= low <= high, found {low} and {high}")
    missing = sorted(set(predictions.image_id) - set(abnormal))
    if missing:
        raise ValueError(f"film {missing[0]} has boxes but no probability of a finding")
    groups, tables = dict(list(predictions.groupby("image_id"))), []
    for image_id, probability in abnormal.items():
        if probability >= low and image_id in groups:
            tables.append(groups[image_id])
        if probability < high:
            score = 1.0 if probability < low else 1.0 - probability
            box = (image_id, NO_FINDING, score, 0.0, 0.0, *map(float, image_sizes[image_id]))
            tables.append(pd.DataFrame([box], columns=["image_id", "class_name", "score", *BOX]))
    return pd.concat(tables, ignore_index=True) if tables else predictions.iloc[:0]


def rescore_predictions(predictions: pd.DataFrame, probabilities: pd.DataFrame, power: float = 0.5) -> pd.DataFrame:
    """Multiply scores by the classifier's probability of the same finding, raised to `power`; rows keep their order.

    The detector sees a region, the classifier the whole film: a box of a finding that the classifier does not believe
    in moves down. Choose `power` on val; 0 changes nothing.

    Args:
        predictions: As `predict_boxes` returns them.
        probabilities: Index image_id, one column per class name, in [0, 1].

    Raises:
        ValueError: A predicted film or class has no probability.

    Source: ours; gating each class by its own probability in place of "No finding" alone.
    """
    if predictions.empty:
        return predictions.copy()
    rows = probabilities.index.get_indexer(predictions.image_id)
    columns = probabilities.columns.get_indexer(predictions.class_name)
    if (rows < 0).any() or (columns < 0).any():
        row = predictions.iloc[int(np.flatnonzero((rows < 0) | (columns < 0))[0])]
        raise ValueError(f"film {row.image_id} has a box of {row.class_name} but no probability of it")
    factor = probabilities.to_numpy(float)[rows, columns] ** power
    return predictions.assign(score=predictions.score * factor)


def anchor_coverage(detector: Detector, boxes: np.ndarray, threshold: float = 0.5) -> float:
    """Share of boxes (n, 4), input pixels, that some anchor of the detector meets with IoU >= threshold."""
    from torchvision.models.detection.image_list import ImageList

    size = detector.image_size
    device = next(detector.parameters()).device
    blank = torch.zeros(1, 3, size, size, device=device)
    was_training = detector.training
    detector.eval()
    with torch.no_grad():
        maps = detector.network.backbone(blank)
    detector.train(was_training)
    maps = list(maps.values()) if isinstance(maps, dict) else [maps]
    anchors = detector.network.rpn.anchor_generator(ImageList(blank, [(size, size)]), maps)[0].cpu()
    best = box_iou(torch.as_tensor(boxes, dtype=torch.float32), anchors).max(1).values
    return float((best >= threshold).float().mean())


def save_detector(detector: Detector, folder, settings: dict) -> None:
    """Write `model.safetensors` and `config.json` (the arguments of `build_detector`, and grey) into a folder."""
    save_model(detector, folder, settings)


def load_detector(folder) -> Detector:
    """Rebuild what `save_detector` wrote, in eval mode."""
    return load_model(folder, _rebuild)


def _rebuild(settings: dict) -> Detector:
    settings = {name: value for name, value in settings.items() if name != "grey"}  # of the films, not of the network
    return build_detector(**{**settings, "weights": None})
