"""A killed training goes on as if nothing had happened, or starts anew where anything that decides it has changed."""

import dataclasses
import functools
import itertools
import json
import multiprocessing
import os
import signal
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from line import Points, fit_line, points
from PIL import Image

from cliniqure_utils import training
from cliniqure_utils.annotations import boxes_per_class, film_sizes
from cliniqure_utils.training import checkpoints
from cliniqure_utils.training.checkpoints import COMPLETE, content_hash, usable_checkpoint
from cliniqure_utils.training.fitting import make_optimizer
from cliniqure_utils.training.trainer import CheckedTrainer
from cliniqure_utils.vision import detection, transforms
from cliniqure_utils.vision.classification import MultilabelLoss
from cliniqure_utils.vision.films import FilmDataset, collate
from cliniqure_utils.vocabulary import BOX, FINDINGS, NO_FINDING


class Killed(Exception):
    pass


def evaluations(epochs_before_the_kill=99):
    """An evaluation that counts its calls, in its attribute, and kills the training in a later one."""

    def evaluate(model):
        evaluate.calls += 1
        if evaluate.calls > epochs_before_the_kill:
            raise Killed
        return {"score": evaluate.calls}

    evaluate.calls = 0
    return evaluate


def epochs_left(folder, before: dict, after: dict) -> int:
    """Epochs that are trained with settings `after` when a training of four epochs, `before`, died in its third."""
    with pytest.raises(Killed):
        fit_line(folder, evaluate=evaluations(2), **before)
    assert list(folder.glob("checkpoint-*")), "a checkpoint is left"
    evaluate = evaluations()
    fit_line(folder, evaluate=evaluate, **after)
    return evaluate.calls


# ---- the same training


def test_a_killed_run_resumes_and_ends_with_the_same_weights(tmp_path):
    unbroken, _ = fit_line(tmp_path / "unbroken")
    with pytest.raises(Killed):
        fit_line(tmp_path / "killed", evaluate=evaluations(2))
    evaluate = evaluations()
    resumed, history = fit_line(tmp_path / "killed", evaluate=evaluate)
    assert evaluate.calls == 2, "only the two missing epochs are trained"
    assert torch.equal(unbroken.line.weight, resumed.line.weight)
    assert len(history) == 4


def test_a_run_killed_after_its_early_stop_trains_no_further(tmp_path, monkeypatch):
    settings = dict(epochs=9, metric="score", patience=1)

    def scripted(values):
        return lambda model: {"score": values.pop(0)}

    unbroken, expected = fit_line(tmp_path / "a", evaluate=scripted([2, 1, 9]), **settings)

    def killed(trainer):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(CheckedTrainer, "_load_best_model", killed)  # the first thing that happens after the last step
        fit_line(tmp_path / "b", evaluate=scripted([2, 1, 9]), **settings)
    again = evaluations()
    resumed, history = fit_line(tmp_path / "b", evaluate=again, **settings)
    assert again.calls == 0 and history.score.tolist() == [2, 1]
    pd.testing.assert_frame_equal(history, expected)
    assert torch.equal(unbroken.line.weight, resumed.line.weight)


def train_detector(folder, kill_at=None):
    """Three epochs of three steps on twelve films, with every random thing a training has: order, transform, RoIs."""
    index = pd.DataFrame({"image_id": [f"film{i}" for i in range(12)], "rows": 80, "columns": 80})
    merged = pd.DataFrame({"image_id": index.image_id[::2], "class_labels": [[i] for i in range(6)]})
    merged[BOX] = [10.0, 10.0, 50.0, 60.0]
    dataset = FilmDataset(
        folder / "films", index.image_id, 64, film_sizes(index), boxes_per_class(merged),
        transforms.augmentation(shift=0.1, exposure=0.1), seed=3,
    )  # fmt: skip
    torch.manual_seed(0)
    detector = detection.build_detector(
        backbone="tiny", image_size=64, anchor_scales=[16, 32], neck="topdown", head_width=16, rois_per_image=16
    )
    steps = []

    def kill(*unused):
        steps.append(1)
        if len(steps) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    detector.register_forward_pre_hook(kill)
    plan = training.Plan(
        seed=3, epochs=3, batch_size=4, learning_rate=1e-3, sample_weights=range(12), metric="size", ema_decay=0.9
    )
    training.fit(
        detector, dataset, plan, output_dir=folder / "checkpoints", device="cpu", collate=collate, checkpoint_steps=2,
        evaluate=lambda model: {"size": sum(p.abs().sum().item() for p in model.parameters())},
    )  # fmt: skip
    return detector, len(steps)


def test_kill_minus_9_in_mid_epoch_then_resume_ends_with_the_same_weights(tmp_path):
    (tmp_path / "films").mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(rng.integers(0, 255, (40, 40), dtype=np.uint8)).save(tmp_path / "films" / f"film{i}.png")
    fork = sys.platform == "linux" and not torch.cuda.is_available()  # no second import of everything
    process = multiprocessing.get_context("fork" if fork else "spawn").Process(
        target=train_detector, args=(tmp_path,), kwargs={"kill_at": 6}
    )
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    resumed, n_steps = train_detector(tmp_path)
    assert n_steps == 5, "steps 5 to 9 are left: the last whole checkpoint is that of step 4, inside the second epoch"
    unbroken, n_steps = train_detector(tmp_path)
    assert n_steps == 9
    for name, value in unbroken.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_half_a_checkpoint_is_not_resumed(tmp_path):
    assert usable_checkpoint(tmp_path, {"seed": 1}) is None
    for name in ("checkpoint-4", "checkpoint-8"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-4" / COMPLETE).touch()
    assert usable_checkpoint(tmp_path, {"seed": 1}) == str(tmp_path / "checkpoint-4")
    assert not (tmp_path / "checkpoint-8").exists(), "it was being written when the run was killed"
    assert usable_checkpoint(tmp_path, {"seed": 2}) is None
    assert not (tmp_path / "checkpoint-4").exists()


# ---- another training


def groups(rate):
    return lambda model: [{"params": [model.line.weight], "lr": rate}, {"params": [model.line.bias], "lr": 0.1}]


def with_noise(noise):
    def collate(items):
        batch = torch.utils.data.default_collate(items)
        return batch | {"x": batch["x"] + noise * torch.randn_like(batch["x"])}

    return collate


def other_points():
    items = points()
    items[7]["y"] = items[7]["y"] + 1e-6
    return items


@pytest.mark.parametrize(
    "before, after",
    [
        (dict(param_groups=groups(0.1)), dict(param_groups=groups(0.2))),
        (dict(), dict(param_groups=groups(0.1))),
        (dict(), dict(data=other_points())),
        (dict(collate=with_noise(0.1)), dict(collate=with_noise(0.2))),
        (dict(), dict(learning_rate=0.2)),
    ],
    ids=["rates of groups", "groups", "data", "collate", "learning rate"],
)
def test_a_checkpoint_of_another_training_is_not_resumed(tmp_path, before, after):
    assert epochs_left(tmp_path, before, after) == 4


@pytest.mark.parametrize(
    "settings",
    [dict(param_groups=groups(0.1)), dict(collate=with_noise(0.1)), dict(sample_weights=[1, 2] * 16)],
    ids=["groups", "collate", "sample weights"],
)
def test_equal_settings_made_anew_are_the_same(tmp_path, settings):
    assert epochs_left(tmp_path, settings, settings | {"data": points()}) == 2


def test_data_that_cannot_be_told_from_other_data_start_anew_and_say_so(tmp_path, capsys):
    data = Points(tmp_path)
    assert epochs_left(tmp_path / "training", {"data": data}, {"data": data}) == 4
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and said[0] == said[1]
    assert "this training starts anew" in said[0] and "Points has no method fingerprint()" in said[0]


def test_every_field_of_the_plan_counts():
    other = dict(
        seed=2, epochs=9, max_steps=9, batch_size=9, learning_rate=9.0, weight_decay=9.0, optimizer="adamw",
        scheduler="linear", warmup_steps=9, max_grad_norm=9.0, sample_weights=[1.0, 2.0], metric="score",
        ema_decay=0.9, mixed_precision=False, param_groups=lambda model: [{"params": [model.weight]}],
    )  # fmt: skip

    def of(plan):
        model = torch.nn.Linear(1, 1)
        found = checkpoints.fingerprint(plan, model, "data", make_optimizer(model, plan), None, 1)
        return json.dumps(found)

    plain = training.Plan(seed=1)
    changed = [plain] + [dataclasses.replace(plain, **{name: value}) for name, value in other.items()]
    changed.append(training.Plan(seed=1, metric="score", patience=2))
    assert {field.name for field in dataclasses.fields(plain)} == other.keys() | {"patience"}
    assert len({of(plan) for plan in changed}) == len(changed)
    assert of(plain) == of(training.Plan(seed=1))


def test_functions_are_told_by_code_defaults_and_numbers_from_outside():
    noise = 0.5
    functions = [
        torch.utils.data.default_collate,
        lambda items: torch.rand(3),
        lambda items: torch.randn(3),
        lambda items: [item * 2 for item in items],
        lambda items: [item * 3 for item in items],
        lambda items: [item * noise for item in items],
        lambda items, noise=0.5: [item * noise for item in items],
        lambda items, noise=0.6: [item * noise for item in items],
        functools.partial(with_noise, noise=0.5),
        functools.partial(with_noise, noise=0.6),
    ]

    def of(collate):
        model, plan = torch.nn.Linear(1, 1), training.Plan(seed=1)
        return checkpoints.fingerprint(plan, model, "data", make_optimizer(model, plan), collate, 1)["collate"]

    for scale in (2.0, 3.0):  # a notebook's parameter, named only inside a generator within the function
        functions.append(eval("lambda items: list(item * scale for item in items)", {"scale": scale}))  # noqa: S307

    found = [of(function) for function in functions]
    assert None not in found and len(set(found)) == len(functions)
    assert found == [of(function) for function in functions]


def test_a_checkpoint_of_another_loss_label_rule_or_transform_is_not_resumed():
    """None of the three changes a weight's shape or the list of films."""
    ids = ["a", "b"]
    index = pd.DataFrame({"image_id": ids, "rows": 80, "columns": 80})
    labels = pd.DataFrame(0, index=ids, columns=[*FINDINGS, NO_FINDING]).assign(Cardiomegaly=1)
    other_labels = labels.assign(Cardiomegaly=[1, 0])
    plan = training.Plan(seed=1)

    def of(loss=("bce", None), rows=labels, shift=0.1, dropout=0.5):
        model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2), torch.nn.Dropout(dropout))
        model.loss = MultilabelLoss(*loss)
        films = FilmDataset(
            "films", ids, 64, film_sizes(index), augment=transforms.augmentation(shift=shift), labels=rows
        )
        of_data = checkpoints.data_fingerprint(films)
        return checkpoints.fingerprint(plan, model, of_data, make_optimizer(model, plan), None, 1)

    plain = of()
    assert of() == plain and "0x" not in repr(transforms.augmentation(0.5, 10.0, 0.5, 0.1, 0.1, 0.1))
    changed = [of(loss=("weighted", [2.0] * 15)), of(loss=("weighted", [3.0] * 15)), of(loss=("asymmetric", None)),
               of(rows=other_labels), of(shift=0.2), of(dropout=0.1)]  # fmt: skip
    assert all(one != other for one, other in itertools.combinations([plain, *changed], 2))


def test_the_hash_of_a_content_tells_values_from_each_other():
    values = [
        [1, 2], [[1], 2], [1, [2]], ["1", 2], [12], [], {}, {"a": 1}, {"a": "1"}, {"b": 1}, None, 0, 0.0, False, "",
        [{"ids": [1, 2]}, {"ids": [3]}], [{"ids": [1]}, {"ids": [2, 3]}], torch.zeros(2), torch.zeros(2, 1),
        torch.zeros(2, dtype=torch.int32), torch.tensor(0.0), torch.zeros(0), np.zeros(2), np.float32(0),
        [torch.zeros(2)],
    ]  # fmt: skip
    hashes = [content_hash(value) for value in values]
    assert None not in hashes and len(set(hashes)) == len(values)
    again = {"a": torch.arange(3.0), "b": [np.arange(2), "x"]}
    assert content_hash(again) == content_hash({"a": torch.arange(3.0), "b": (np.arange(2), "x")})
    assert content_hash([object()]) is None and content_hash(np.array([object()])) is None
