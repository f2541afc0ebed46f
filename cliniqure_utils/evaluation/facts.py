"""What can be computed about the paper's claims without its data: one small function per fact, run when asked.

Each takes the run folder (most do not need it) and returns a number, a truth value, text or a list; None where the run
lacks what it needs.
"""

import functools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from cliniqure_utils import metrics
from cliniqure_utils.annotations import label_matrix, merge_reader_boxes, packaged_path, vindr_annotations
from cliniqure_utils.project import REPOSITORY
from cliniqure_utils.runs import read_jsonl, read_table
from cliniqure_utils.vocabulary import FINDINGS, NO_FINDING, NO_FINDING_ID

# Image ids as the paper's tables print them: cut short, Table 1 to 28 and Table 2 to 30 of 32 characters.
TABLE1_ID_LENGTH = 28
TABLE2_IDS = (
    "000434271f63a053c4128a0ba6352c",
    "00053190460d56c53cc3e573213874",
    "0005e8e3701dfb1dd93d53e2ff537b",
    "0006e0a85696f6bb578e84fafa9a56",
)


# OPT-1.3B. Source: Zhang et al. 2022, "OPT", table 1; the feed-forward layer is four times as wide.
OPT_SIZES = {"hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 32, "ffn_dim": 8192}


@functools.cache
def _any_reader_labels() -> np.ndarray:
    annotations = vindr_annotations()
    return label_matrix(annotations, sorted(annotations.image_id.unique())).to_numpy()


@functools.cache
def _always_no_finding() -> dict[str, float]:
    references = _any_reader_labels()
    return metrics.classification_scores(references=references, predictions=metrics.always_one_class(*references.shape))


def table1(run_dir: Path) -> list[str]:
    """The first six rows of the annotations, written as the paper's Table 1 prints them."""
    rows = []
    for row in vindr_annotations().head(6).itertuples():
        box = ["NA" if math.isnan(v) else f"{v:.0f}" for v in (row.x_min, row.y_min, row.x_max, row.y_max)]
        rows.append(", ".join([row.image_id[:TABLE1_ID_LENGTH], row.class_name, str(row.class_id), row.rad_id, *box]))
    return rows


def _table2_annotations() -> pd.DataFrame:
    annotations = vindr_annotations()
    return annotations[annotations.image_id.str[: len(TABLE2_IDS[0])].isin(TABLE2_IDS)]


def table2(run_dir: Path) -> list[dict]:
    """The rows of the paper's Table 2, merged again from the annotations: dicts by column.

    A whole-film box starts at 0, 0; its far corner is None, because the annotations do not say how large a film is.
    """
    chosen = _table2_annotations()
    merged = merge_reader_boxes(chosen, image_sizes=dict.fromkeys(chosen.image_id, (1, 1)))
    rows = []
    # The paper prints "Infiltration, Lung Opacity" before "Consolidation, Nodule/Mass" of the same film.
    for row in merged.sort_values(["image_id", "class_names"], ascending=[True, False]).to_dict("records"):
        if row["class_labels"] == [NO_FINDING_ID]:
            row = row | {"x_max": None, "y_max": None}
        rows.append(row)
    return rows


def merged_boxes_with_two_labels(run_dir: Path) -> int:
    """Most labels on one merged box of Table 2; a Faster R-CNN target has one."""
    return max(len(row["class_labels"]) for row in table2(run_dir))


def table2_rows_without_no_finding(run_dir: Path) -> int:
    """Rows of Table 2 if "No finding" rows were removed, as section 4.1 says; the paper prints five."""
    return len(merge_reader_boxes(_table2_annotations(), no_finding="drop"))


def n_images(run_dir: Path) -> int:
    """Films in the annotation file that Table 1 is printed from."""
    return vindr_annotations().image_id.nunique()


def n_findings(run_dir: Path) -> int:
    """Different findings in that file, "No finding" not counted."""
    names = vindr_annotations().class_name
    return names[names != NO_FINDING].nunique()


def names_pneumonia_or_tuberculosis(run_dir: Path) -> bool:
    """Is one of the two among the boxed findings of that file?"""
    return bool(vindr_annotations().class_name.str.contains("pneumonia|tuberculosis", case=False).any())


def has_patient_columns(run_dir: Path) -> bool:
    """Does that file carry a patient id, age, sex, indication or confidence?"""
    words = {word for column in pd.read_csv(packaged_path(), nrows=1) for word in column.lower().split("_")}
    return bool(words & {"patient", "age", "sex", "gender", "indication", "confidence", "score"})


def readers_per_image(run_dir: Path) -> float:
    """Mean number of radiologists per film."""
    return float(vindr_annotations().groupby("image_id").rad_id.nunique().mean())


def always_no_finding_micro_f1(run_dir: Path) -> float:
    """Micro F1 of answering "No finding" for every film, real labels (any reader, 15 classes)."""
    return _always_no_finding()["micro_f1"]


def always_no_finding_samples_f1(run_dir: Path) -> float:
    """Per-sample F1 of the same answer."""
    return _always_no_finding()["samples_f1"]


def always_no_finding_hamming(run_dir: Path) -> float:
    """Hamming loss of the same answer."""
    return _always_no_finding()["hamming_loss"]


def no_finding_share(run_dir: Path) -> float:
    """Share of real films without a finding: the IoU that whole-film "No finding" boxes alone would score."""
    return float(_any_reader_labels()[:, NO_FINDING_ID].mean())


def boxes_lost_by_literal_deduplication(run_dir: Path) -> float:
    """Share of finding boxes that go when raw rows are reduced to one per (film, class)."""
    found = vindr_annotations()
    found = found[found.class_name != NO_FINDING]
    return float(found.duplicated(["image_id", "class_name"]).mean())


def implied_dice(run_dir: Path) -> float:
    """The Dice that the printed IoU of .75 forces on any one pair of areas."""
    return metrics.check_iou_dice(0.75, 0.76)["implied_dice"]


def table7_pair_can_be_pooled(run_dir: Path) -> bool:
    """Can IoU .75 and Dice .76 come from pooled areas?"""
    return metrics.check_iou_dice(0.75, 0.76)["pooled"]


def least_loss_of_a_double_sigmoid(run_dir: Path) -> float:
    """The smallest loss that BCE-with-logits can reach on a positive label when a sigmoid has been applied before."""
    return -math.log(1 / (1 + math.exp(-1.0)))


def order_kept_by_uint8(run_dir: Path) -> float:
    """Rank correlation of the 4,096 grey levels of a 12-bit film before and after `astype(np.uint8)`; 1 is harmless."""
    levels = np.arange(4096)
    return float(pd.Series(levels).corr(pd.Series(levels.astype(np.uint8)).rank()))


def detector_outputs(run_dir: Path) -> int:
    """Outputs of the detection head: findings and background."""
    return len(FINDINGS) + 1


def classifier_outputs(run_dir: Path) -> int:
    """Outputs of the classifier: columns of notebook 03's table of labels."""
    return label_matrix(vindr_annotations().head(1), []).shape[1]


def one_label_map_for_both(run_dir: Path) -> bool:
    """Is class 0 the same thing for both models? (The detector's is background, the classifier's a finding.)"""
    detector = ("background", *FINDINGS)
    classifier = tuple(label_matrix(vindr_annotations().head(1), []).columns)
    return detector == classifier


@functools.cache
def _trunk_shape() -> tuple[int, ...]:
    """Channels, height and width of ResNet-50's last map at 224 x 224 (random weights: only shapes matter)."""
    import torch

    from cliniqure_utils.vision.trunks import build_trunk

    with torch.inference_mode():
        return tuple(build_trunk("resnet50").eval()(torch.zeros(1, 3, 224, 224)).shape[1:])


def trunk_channels(run_dir: Path) -> int:
    """Channels of ResNet-50's last feature map."""
    return _trunk_shape()[0]


def trunk_map_size(run_dir: Path) -> list[int]:
    """Height and width of that map for a 224 x 224 film."""
    return list(_trunk_shape()[1:])


def films_are_scaled(run_dir: Path) -> bool | None:
    """Do the films that the models see hold values in [0, 1]? Looks at one film of the run."""
    folder = run_dir / "01_preprocess" / "images"
    if not (folder.parent / "index.csv").is_file():
        return None
    from cliniqure_utils.annotations import film_sizes
    from cliniqure_utils.vision.films import FilmDataset

    index = read_table(run_dir / "01_preprocess" / "index.csv")
    kept = sorted(i for i in index.image_id if (folder / f"{i}.png").is_file())
    if not kept:
        return None
    image = FilmDataset(folder, kept[:1], 64, film_sizes(index))[0]["image"]
    return bool(image.is_floating_point() and image.min() >= 0 and image.max() <= 1)


@functools.cache
def _opt_parameters() -> int:
    import torch
    from transformers import OPTConfig, OPTForCausalLM

    with torch.device("meta"):  # counted without making them
        model = OPTForCausalLM(OPTConfig(**OPT_SIZES))
    return sum(p.numel() for p in model.parameters())


def opt_parameters_in_billions(run_dir: Path) -> float:
    """Parameters of OPT-1.3B, counted on an empty model of the published sizes."""
    return round(_opt_parameters() / 1e9, 1)


def lora_share(run_dir: Path) -> float:
    """Share of OPT-1.3B's parameters that LoRA of rank 8 on query and value trains: two factors per matrix."""
    width, rank = OPT_SIZES["hidden_size"], 8
    return OPT_SIZES["num_hidden_layers"] * 2 * rank * (width + width) / _opt_parameters()


def classification_head_can_write(run_dir: Path) -> bool:
    """Does a sequence-classification model carry a layer that turns states into words?"""
    from transformers import OPTConfig, OPTForSequenceClassification

    tiny = OPTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=16, vocab_size=64, num_labels=5,
        pad_token_id=1, bos_token_id=2, eos_token_id=2, word_embed_proj_dim=16,
    )  # fmt: skip
    model = OPTForSequenceClassification(tiny)
    return any(getattr(part, "out_features", None) == tiny.vocab_size for part in model.modules())


def share_of_test_images(run_dir: Path) -> float | None:
    """Share of this run's films in the held-out test split."""
    path = run_dir / "01_preprocess" / "splits.csv"
    return float((read_table(path).split == "test").mean()) if path.is_file() else None


def _prompts(run_dir: Path) -> list[dict]:
    path = run_dir / "06_generate_report" / "prompts.jsonl"
    return read_jsonl(path) if path.is_file() else []


def prompts_with_symptoms(run_dir: Path) -> float | None:
    """Share of this run's prompts that name the film's symptoms, among films whose symptoms are known."""
    path = run_dir / "01_preprocess" / "clinical.csv"
    if not path.is_file():
        return None
    clinical = pd.read_csv(path, dtype=str, keep_default_na=False).set_index("image_id").symptoms
    named = [
        all(symptom.strip().lower() in row["prompt"].lower() for symptom in clinical[row["image_id"]].split(","))
        for row in _prompts(run_dir)
        if clinical.get(row["image_id"])
    ]
    return float(np.mean(named)) if named else None


def prompts_ask_for_all_four(run_dir: Path) -> bool | None:
    """Does every prompt of this run ask for causes, symptoms, diagnostic methods and treatment options?"""
    prompts = [row["prompt"].lower() for row in _prompts(run_dir)]
    wanted = ("cause", "symptom", "diagnos", "treatment")
    return all(word in prompt for prompt in prompts for word in wanted) if prompts else None


def table7_rows_about_treatment(run_dir: Path) -> int:
    """Rows of Table 7, as listed in data/claims.csv, that evaluate a treatment or a recommendation."""
    claims = pd.read_csv(REPOSITORY / "data" / "claims.csv", dtype=str, keep_default_na=False)
    of_table7 = claims.claim[claims.source == "Table 7"]
    return int(of_table7.str.contains("treatment|recommend", case=False).sum())


FACTS: dict[str, Callable] = {
    function.__name__: function
    for function in (
        merged_boxes_with_two_labels,
        table2_rows_without_no_finding,
        n_images,
        n_findings,
        names_pneumonia_or_tuberculosis,
        has_patient_columns,
        readers_per_image,
        always_no_finding_micro_f1,
        always_no_finding_samples_f1,
        always_no_finding_hamming,
        no_finding_share,
        boxes_lost_by_literal_deduplication,
        implied_dice,
        table7_pair_can_be_pooled,
        least_loss_of_a_double_sigmoid,
        order_kept_by_uint8,
        detector_outputs,
        classifier_outputs,
        one_label_map_for_both,
        trunk_channels,
        trunk_map_size,
        films_are_scaled,
        opt_parameters_in_billions,
        lora_share,
        prompts_with_symptoms,
        prompts_ask_for_all_four,
        table7_rows_about_treatment,
        classification_head_can_write,
        share_of_test_images,
    )
}
