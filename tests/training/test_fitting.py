"""The training engine: what it keeps, when it stops, and that a killed or a spread training ends where another does."""

import itertools
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.optim.optimizer import register_optimizer_step_pre_hook

from cliniqure_utils import training
from cliniqure_utils.annotations import boxes_per_class, film_sizes
from cliniqure_utils.training import averaging, trainer
from cliniqure_utils.training.trainer import COMPLETE, OurTrainer, WeightedSampler, patience_is_over, usable_checkpoint
from cliniqure_utils.vision import detection, transforms
from cliniqure_utils.vision.films import FilmDataset, collate
from cliniqure_utils.vocabulary import BOX, FINDINGS, NO_FINDING

torch.set_num_threads(1)


class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.line = torch.nn.Linear(1, 1)

    def forward(self, x, y):
        return {"loss": ((self.line(x) - y) ** 2).mean()}


class Points(torch.utils.data.Dataset):
    """y = 3x - 1; when `log` is a folder, each process notes which items it took."""

    def __init__(self, log=None):
        self.x, self.log = torch.randn(32, 1, generator=torch.Generator().manual_seed(0)), log

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        if self.log is not None:
            with open(os.path.join(self.log, os.environ["RANK"]), "a") as file:
                file.write(f"{index}\n")
        return {"x": self.x[index], "y": 3 * self.x[index] - 1, "image_id": index}


def fit_line(folder, data=None, **changes):
    torch.manual_seed(0)
    model = Line()
    settings = dict(seed=1, device="cpu", epochs=4, batch_size=4, learning_rate=0.1)
    history = training.fit(model, data or Points(), output_dir=folder, **{**settings, **changes})
    return model, history


# ---- early stop


def scripted(values, seen):
    """An evaluation that returns these values in turn and notes the weight it saw."""

    def evaluate(model):
        seen.append(model.line.weight.item())
        return {"score": values[len(seen) - 1]}

    return evaluate


def test_training_stops_when_the_metric_has_not_grown_and_keeps_the_best_epoch(tmp_path):
    seen = []
    model, history = fit_line(tmp_path, epochs=9, evaluate=scripted([1, 5, 4, 5, 9], seen), metric="score", patience=2)
    assert history.score.tolist() == [1, 5, 4, 5], "equal is not better; two epochs without a gain end it"
    assert model.line.weight.item() == pytest.approx(seen[1], abs=1e-7)


def test_a_run_killed_after_its_early_stop_trains_no_further(tmp_path, monkeypatch):
    settings = dict(epochs=9, metric="score", patience=1)
    unbroken, expected = fit_line(tmp_path / "a", evaluate=scripted([2, 1, 9], []), **settings)

    def killed(trainer):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(OurTrainer, "_load_best_model", killed)
        fit_line(tmp_path / "b", evaluate=scripted([2, 1, 9], []), **settings)
    again = []
    resumed, history = fit_line(tmp_path / "b", evaluate=scripted([9], again), **settings)
    assert again == [] and history.score.tolist() == [2, 1]
    pd.testing.assert_frame_equal(history, expected)
    assert torch.equal(unbroken.line.weight, resumed.line.weight)


@pytest.mark.parametrize(
    "values, patience, over",
    [([1, 2, 3], 2, False), ([3, 2, 1], 2, True), ([3, 2], 2, False), ([1, 1, 1], 2, True), ([3, 2, 1], None, False)],
)
def test_patience_by_hand(values, patience, over):
    log = [{"loss": 1.0}] + [{"eval_score": value} for value in values]
    assert patience_is_over(log, "score", patience) is over


# ---- waiting for data


def test_the_share_of_a_step_that_waits_for_data_by_hand(tmp_path, monkeypatch):
    """A clock of our own: an item takes 1 s, a step of the model 8 s, an evaluation 1,000 s."""
    clock = [0.0]
    monkeypatch.setattr(trainer, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def takes(seconds, result):
        clock[0] += seconds
        return result

    class SlowPoints(Points):
        def __getitem__(self, index):
            return takes(1, super().__getitem__(index))

    monkeypatch.setattr(Line, "forward", lambda self, x, y: takes(8, {"loss": ((self.line(x) - y) ** 2).mean()}))
    _, history = fit_line(
        tmp_path, SlowPoints(), batch_size=2, epochs=2, evaluate=lambda model: takes(1000, {"score": 1.0})
    )
    assert clock[0] == 2 * (32 + 16 * 8 + 1000)
    assert history.attrs["waiting"] == pytest.approx(2 / (2 + 8))


# ---- averaged weights, weighted sampling, clipping, precision


def test_averaged_weights_by_hand():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 1.0)
    averaged = averaging.AveragedWeights(model, decay=0.25)
    expected = 1.0
    # decay: (1 + step) / (10 + step) until that passes .25, which is at step 2
    for step, weight, decay in ((1, 2.0, 2 / 11), (2, 4.0, 0.25), (3, 8.0, 0.25)):
        torch.nn.init.constant_(model.weight, weight)
        averaged.on_step_end(None, SimpleNamespace(global_step=step), None)
        expected = decay * expected + (1 - decay) * weight
        assert averaged.average["weight"].item() == pytest.approx(expected)
    averaged.swap()
    assert model.weight.item() == pytest.approx(expected)
    averaged.swap()
    assert model.weight.item() == 8.0
    with pytest.raises(ValueError, match="between 0 and 1, found 1"):
        averaging.AveragedWeights(model, decay=1)


def test_the_average_is_what_is_evaluated_and_kept(tmp_path):
    seen = []
    model, _ = fit_line(tmp_path / "a", evaluate=scripted([1, 3, 2, 0], seen), metric="score", ema_decay=0.9)
    assert model.line.weight.item() == pytest.approx(seen[1], abs=1e-7)
    raw = []
    fit_line(tmp_path / "b", evaluate=scripted([0] * 4, raw), metric="score")
    assert seen[0] < raw[0], "the average lags behind on the way from 0 to 3"


def test_items_are_drawn_by_their_weight_in_an_order_of_seed_and_epoch():
    weights = [0.0, 1.0, 3.0]
    sampler = WeightedSampler(weights * 500, seed=5)
    first = list(sampler)
    assert len(first) == 1500
    counts = np.bincount(np.array(first) % 3, minlength=3) / 1500
    assert counts == pytest.approx([0, 0.25, 0.75], abs=0.04)
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first


def test_weights_reach_the_training(tmp_path):
    taken = []

    class Noted(Points):
        def __getitem__(self, index):
            taken.append(index)
            return super().__getitem__(index)

    fit_line(tmp_path, Noted(), epochs=2, sample_weights=[1.0] * 8 + [0.0] * 24)
    assert len(taken) == 64 and set(taken) == set(range(8))


@pytest.mark.parametrize("most, check", [(1.0, lambda n: n <= 1.0001), (0.0, lambda n: n > 1.5)])
def test_gradients_are_clipped(tmp_path, most, check):
    norms = []

    def note(optimizer, *rest):
        parts = [p.grad.norm() for group in optimizer.param_groups for p in group["params"]]
        norms.append(torch.stack(parts).norm().item())

    hook = register_optimizer_step_pre_hook(note)
    try:
        fit_line(tmp_path, epochs=1, max_grad_norm=most)
    finally:
        hook.remove()
    assert len(norms) == 8 and check(max(norms))


def test_mixed_precision_only_where_the_device_has_it(monkeypatch):
    assert training.precision("cpu", True) == (False, False)
    assert training.precision("cuda", False) == (False, False)
    for has_bf16, expected in ((True, (False, True)), (False, (True, False))):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda answer=has_bf16: answer)
        assert training.precision("cuda:1", True) == expected


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(patience=2), "patience needs a metric"),
        (dict(metric="score"), "needs a function `evaluate`"),
        (dict(metric="score", evaluate=dict, resumable=False), "needs checkpoints"),
        (dict(sample_weights=[1.0]), "found 1 for 32 items"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        fit_line(tmp_path, **changes)


# ---- resume


def test_half_a_checkpoint_is_not_resumed(tmp_path):
    settings = {"seed": 1}
    assert usable_checkpoint(tmp_path, settings) is None
    for name in ("checkpoint-4", "checkpoint-8"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-4" / COMPLETE).touch()
    assert usable_checkpoint(tmp_path, settings) == str(tmp_path / "checkpoint-4")
    assert not (tmp_path / "checkpoint-8").exists(), "it was being written when the run was killed"
    assert usable_checkpoint(tmp_path, {"seed": 2}) is None
    assert not (tmp_path / "checkpoint-4").exists()


def test_a_checkpoint_of_another_loss_label_rule_or_transform_is_not_resumed():
    """None of the three changes a weight's shape or the list of films."""
    from cliniqure_utils.training.fitting import _fingerprint
    from cliniqure_utils.vision.classification import MultilabelLoss

    ids = ["a", "b"]
    index = pd.DataFrame({"image_id": ids, "rows": 80, "columns": 80})
    label_columns = [*FINDINGS, NO_FINDING]
    labels = pd.DataFrame(0, index=ids, columns=label_columns).assign(Cardiomegaly=1)
    other_labels = labels.assign(Cardiomegaly=[1, 0])
    arguments = type("Arguments", (), {"world_size": 1})
    settings = dict.fromkeys(
        ("epochs", "max_steps", "batch_size", "learning_rate", "weight_decay", "optimizer", "scheduler", "warmup_steps",
         "max_grad_norm", "seed", "metric", "ema_decay", "patience", "sample_weights")
    )  # fmt: skip

    def of(loss=("bce", None), rows=labels, shift=0.1, dropout=0.5):
        model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2), torch.nn.Dropout(dropout))
        model.loss = MultilabelLoss(*loss)
        films = FilmDataset(
            "films", ids, 64, film_sizes(index), augment=transforms.augmentation(shift=shift), labels=rows
        )
        return _fingerprint(model, films, settings, arguments)

    plain = of()
    assert of() == plain and "0x" not in repr(transforms.augmentation(0.5, 10.0, 0.5, 0.1, 0.1, 0.1))
    changed = [of(loss=("weighted", [2.0] * 15)), of(loss=("weighted", [3.0] * 15)), of(loss=("asymmetric", None)),
               of(rows=other_labels), of(shift=0.2), of(dropout=0.1)]  # fmt: skip
    assert all(one != other for one, other in itertools.combinations([plain, *changed], 2))


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
    training.fit(
        detector, dataset, output_dir=folder / "checkpoints", seed=3, device="cpu", epochs=3, batch_size=4,
        learning_rate=1e-3, collate=collate, checkpoint_steps=2, ema_decay=0.9,
        evaluate=lambda model: {"size": sum(p.abs().sum().item() for p in model.parameters())}, metric="size",
    )  # fmt: skip
    return detector, len(steps)


def test_kill_minus_9_in_mid_epoch_then_resume_ends_with_the_same_weights(tmp_path):
    (tmp_path / "films").mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(rng.integers(0, 255, (40, 40), dtype=np.uint8)).save(tmp_path / "films" / f"film{i}.png")
    code = f"import pathlib, test_training as t; t.train_detector(pathlib.Path({str(tmp_path)!r}), kill_at=6)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()[-2000:]
    resumed, n_steps = train_detector(tmp_path)
    assert n_steps == 5, "steps 5 to 9 are left: the last whole checkpoint is that of step 4, inside the second epoch"
    unbroken, n_steps = train_detector(tmp_path)
    assert n_steps == 9
    for name, value in unbroken.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


# ---- several processes


def test_two_processes_of_accelerate_launch_take_all_the_data_and_end_as_one_process_does(tmp_path):
    alone, history = fit_line(tmp_path / "one", batch_size=8, epochs=3)
    log = tmp_path / "log"
    log.mkdir()
    together, spread_history = fit_line(
        tmp_path / "two", Points(str(log)), batch_size=4, epochs=3, n_processes=2,
        evaluate=lambda model: {"score": model.line.weight.item()}, metric="score",
    )  # fmt: skip
    taken = [[int(i) for i in (log / rank).read_text().split()] for rank in ("0", "1")]
    for epoch in range(3):
        parts = [process[16 * epoch : 16 * (epoch + 1)] for process in taken]
        assert sorted(parts[0] + parts[1]) == list(range(32)), "every item once per epoch, by one process or the other"
    # The mean gradient of 2 x 4 items is that of 8: the same weights, up to the order of adding.
    assert together.line.weight.item() == pytest.approx(alone.line.weight.item(), abs=1e-5)
    assert spread_history.loss.tolist() == pytest.approx(history.loss.tolist(), rel=1e-4)
    assert not (tmp_path / "two").exists()
