"""The paper profile: every value of tables 3, 4 and 6 and section 4.2.2, and one optimisation step of both models; and
where the profile beyond it goes another way."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torchvision.transforms import v2

from cliniqure_utils import training
from cliniqure_utils.annotations import film_sizes
from cliniqure_utils.course.chain.parameters import resolve
from cliniqure_utils.notebooks import find_notebooks, read_profile
from cliniqure_utils.vision import classification, detection, transforms
from cliniqure_utils.vision.films import FilmDataset, collate
from cliniqure_utils.vocabulary import BOX, CLASSES

torch.set_num_threads(1)


def values_of(repository, name):
    notebooks = find_notebooks(repository / "notebooks")
    return resolve(notebooks, read_profile(repository / "notebooks" / "profiles", name), {})


@pytest.fixture(scope="module")
def profile(repository):
    return values_of(repository, "paper")


@pytest.fixture
def films(tmp_path):
    rng = np.random.default_rng(0)
    for image_id in ("a", "b"):
        Image.fromarray(rng.integers(0, 256, (300, 250), dtype=np.uint8)).save(tmp_path / f"{image_id}.png")
    index = pd.DataFrame({"image_id": ["a", "b"], "rows": 3000, "columns": 2500})
    boxes = pd.DataFrame({"image_id": ["a"], "class_id": [3], "class_name": ["Cardiomegaly"]})
    boxes[BOX] = [600.0, 1500.0, 1900.0, 2400.0]

    def dataset(values):
        augment = transforms.augmentation(
            values["rotate_probability"], values["rotate_degrees"], values["flip_probability"]
        )
        size = values["image_size"]
        return FilmDataset(tmp_path, ["a", "b"], size, film_sizes(index), boxes, augment)

    return dataset


@pytest.mark.parametrize("notebook", ["02_detect", "03_classify"])
def test_table_3(profile, notebook):
    wanted = dict(
        image_size=224, rotate_probability=0.5, flip_probability=0.5, optimizer="adam", learning_rate=1e-4,
        weight_decay=1e-5, n_epochs=100, scheduler="cosine", batch_size=4,
    )  # fmt: skip
    assert {name: profile[notebook][name] for name in wanted} == wanted


def test_table_4(profile):
    wanted = dict(
        backbone="resnet50", neck="none", weights="imagenet", anchor_scales=[32, 64, 128, 256, 512],
        aspect_ratios=[0.5, 1.0, 2.0], roi_pool_size=7, warmup_epochs=0, max_train_images=None, frozen_parts=0,
        pretrained_heads=False,
    )  # fmt: skip
    assert {name: profile["02_detect"][name] for name in wanted} == wanted


def test_section_4_2_2(profile):
    wanted = dict(
        model_name="seresnet50", weights="imagenet", max_train_images=None, loss="bce", heatmap_weight=0.0,
        frozen_parts=0, pretrained_heads=False,
    )  # fmt: skip
    assert {name: profile["03_classify"][name] for name in wanted} == wanted
    assert len(CLASSES) == 15


def test_table_6(profile):
    wanted = dict(
        base_model="facebook/opt-1.3b", disease_table="FreedomIntelligence/Disease_Database", lora_rank=8,
        lora_alpha=32, lora_dropout=0.1, learning_rate=2e-5, batch_size=8, mixed_precision=True,
    )  # fmt: skip
    assert {name: profile["05_finetune_llm"][name] for name in wanted} == wanted


def test_the_transform_is_table_3(profile):
    values = profile["02_detect"]
    steps = transforms.augmentation(
        values["rotate_probability"], values["rotate_degrees"], values["flip_probability"]
    ).transforms
    rotation = next(step for step in steps if isinstance(step, v2.RandomApply))
    flip = next(step for step in steps if isinstance(step, v2.RandomHorizontalFlip))
    assert rotation.p == 0.5 and flip.p == 0.5


def one_step(model, dataset, values, folder):
    """One step through `training.fit`; returns the optimizer."""
    seen = []
    hook = register_optimizer_step_pre_hook(lambda optimizer, *rest: seen.append(optimizer))
    names = ("learning_rate", "weight_decay", "optimizer", "scheduler", "ema_decay")
    plan = training.Plan(seed=0, max_steps=1, batch_size=2, **{name: values[name] for name in names})
    where = dict(output_dir=folder, device="cpu", collate=collate, resumable=False, log_steps=1)
    try:
        history = training.fit(model, dataset, plan, **where)
    finally:
        hook.remove()
    assert len(seen) == 1 and np.isfinite(history.loss[0])
    return getattr(seen[0], "optimizer", seen[0])


def assert_table_3(optimizer):
    group = optimizer.param_groups[0]
    assert type(optimizer) is torch.optim.Adam and group["initial_lr"] == 1e-4 and group["weight_decay"] == 1e-5


def test_one_step_of_the_paper_detector(profile, films, tmp_path):
    """Its sizes are those of the whole model, without memory for them; the step is made with a narrower head."""
    values = profile["02_detect"]
    names = ("backbone", "image_size", "anchor_scales", "aspect_ratios", "neck", "roi_pool_size", "head_width",
             "rois_per_image", "frozen_parts", "frozen_norm")  # fmt: skip
    settings = {name: values[name] for name in names}
    with torch.device("meta"):
        whole = detection.build_detector(**settings).network
        assert whole.backbone(torch.zeros(1, 3, 224, 224)).shape == (1, 2048, 7, 7)
    assert whole.roi_heads.box_predictor.cls_score.weight.shape == (15, 1024)
    assert whole.roi_heads.box_head.fc6.weight.shape == (1024, 2048 * 7 * 7)
    torch.manual_seed(0)
    detector = detection.build_detector(**settings | {"head_width": 16})
    head, trunk = (
        detector.network.roi_heads.box_predictor.cls_score.weight,
        detector.network.backbone.layer1[0].conv1.weight,
    )
    before = head.detach().clone(), trunk.detach().clone()
    assert_table_3(one_step(detector, films(values), values, tmp_path / "checkpoints"))
    assert not torch.equal(head, before[0]) and not torch.equal(trunk, before[1])


def test_one_step_of_the_paper_classifier(profile, films, tmp_path):
    values = profile["03_classify"]
    torch.manual_seed(0)
    model = classification.build_classifier(
        values["model_name"], weights=None, loss=values["loss"], heatmap_weight=values["heatmap_weight"]
    )
    assert model.loss.kind == "bce"
    assert all(name.startswith("network.") for name in model.state_dict()), "nothing beside SE-ResNet50 is trained"
    head = model.network.get_classifier().weight
    before = head.detach().clone()
    assert_table_3(one_step(model, films(values), values, tmp_path / "checkpoints"))
    assert head.shape == (15, 2048) and not torch.equal(head, before)


def test_one_step_of_a_classifier_that_boxes_teach(repository, films, tmp_path):
    """The profile beyond, with a smaller network of the family on smaller films."""
    values = values_of(repository, "beyond")["03_classify"] | {"image_size": 64}
    assert values["model_name"] == "seresnet50" and values["heatmap_weight"] > 0
    torch.manual_seed(0)
    model = classification.build_classifier("seresnet18", loss=values["loss"], heatmap_weight=values["heatmap_weight"])
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    one_step(model, films(values), values, tmp_path / "checkpoints")
    for name in ("heatmap.weight", "heatmap.bias", "network.fc.weight", "network.conv1.weight"):
        moved = dict(model.named_parameters())[name] - before[name]
        assert moved.abs().max() > values["learning_rate"] / 10, name  # more than weight decay alone would move it


@pytest.mark.parametrize("name", ["smoke", "demo", "paper", "beyond"])
def test_only_a_detector_trained_on_mirrored_films_may_look_at_them(repository, name):
    values = values_of(repository, name)["02_detect"]
    assert values["flip_probability"] > 0 or not values["test_flip"]


def test_beyond_fuses_both_views_of_a_film_and_lets_boxes_teach_its_classifier(repository):
    values = values_of(repository, "beyond")
    assert values["02_detect"]["test_flip"] is True and values["02_detect"]["balanced"] is True
    assert values["03_classify"]["model_name"] == "seresnet50" and values["03_classify"]["heatmap_weight"] > 0
