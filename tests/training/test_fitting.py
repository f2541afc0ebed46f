"""`training.fit`: it finds a line, keeps the best epoch, stops when it should, and names bad films."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from line import Line, Points, fit_line, points
from torch.optim.optimizer import register_optimizer_step_pre_hook

from cliniqure_utils import training
from cliniqure_utils.training import callbacks
from cliniqure_utils.training.fitting import precision
from cliniqure_utils.training.trainer import WeightedDraws


def scripted(values, seen):
    """An evaluation that returns these values in turn and notes the weight it saw."""

    def evaluate(model):
        seen.append(model.line.weight.item())
        return {"score": values[len(seen) - 1]}

    return evaluate


def test_training_finds_a_line_repeats_itself_and_cleans_up(tmp_path):
    model, history = fit_line(tmp_path / "a", epochs=20)
    assert model.line.weight.item() == pytest.approx(3, abs=0.05)
    assert model.line.bias.item() == pytest.approx(-1, abs=0.05)
    assert len(history) == 20 and history.loss.iloc[-1] < history.loss.iloc[0] / 10
    again, _ = fit_line(tmp_path / "b", epochs=20)
    assert torch.equal(model.line.weight, again.line.weight)
    assert not (tmp_path / "a").exists(), "checkpoints are removed at the end"


def test_cosine_schedule_ends_at_zero_and_the_best_epoch_is_kept(tmp_path):
    seen = []
    model, history = fit_line(tmp_path, evaluate=scripted([-1, 0, -1, -2], seen), metric="score")
    assert history.learning_rate.iloc[-1] < 0.002
    assert model.line.weight.item() == pytest.approx(seen[1])
    assert history.score.tolist() == [-1, 0, -1, -2]


def test_training_stops_when_the_metric_has_not_grown_and_keeps_the_best_epoch(tmp_path):
    seen = []
    model, history = fit_line(tmp_path, epochs=9, evaluate=scripted([1, 5, 4, 5, 9], seen), metric="score", patience=2)
    assert history.score.tolist() == [1, 5, 4, 5], "equal is not better; two epochs without a gain end it"
    assert model.line.weight.item() == pytest.approx(seen[1], abs=1e-7)


def test_max_steps_take_the_place_of_epochs(tmp_path):
    _, history = fit_line(tmp_path, epochs=9, max_steps=5, log_steps=1, resumable=False)
    assert history.step.tolist() == [1, 2, 3, 4, 5]


def test_a_non_finite_loss_names_the_films(tmp_path):
    data = points()
    data[5]["y"] = torch.tensor([float("inf")])
    with pytest.raises(training.NonFiniteLoss, match="film5"):
        fit_line(tmp_path, data)


def test_the_share_of_a_step_that_waits_for_data_by_hand(tmp_path, monkeypatch):
    """A clock of our own: an item takes 1 s, a step of the model 8 s, an evaluation 1,000 s."""
    clock = [0.0]
    monkeypatch.setattr(callbacks, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def takes(seconds, result):
        clock[0] += seconds
        return result

    class SlowPoints(list):
        def __getitem__(self, index):
            return takes(1, super().__getitem__(index))

    monkeypatch.setattr(Line, "forward", lambda self, x, y: takes(8, {"loss": ((self.line(x) - y) ** 2).mean()}))
    _, history = fit_line(
        tmp_path, SlowPoints(points()), batch_size=2, epochs=2, log_steps=3, checkpoint_steps=5,
        evaluate=lambda model: takes(1000, {"score": 1.0}),
    )  # fmt: skip
    assert clock[0] == 2 * (32 + 16 * 8 + 1000)
    assert history.attrs["waiting"] == pytest.approx(2 / (2 + 8))


def test_the_average_is_what_is_evaluated_and_kept(tmp_path):
    seen = []
    model, _ = fit_line(tmp_path / "a", evaluate=scripted([1, 3, 2, 0], seen), metric="score", ema_decay=0.9)
    assert model.line.weight.item() == pytest.approx(seen[1], abs=1e-7)
    raw = []
    fit_line(tmp_path / "b", evaluate=scripted([0] * 4, raw), metric="score")
    assert seen[0] < raw[0], "the average lags behind on the way from 0 to 3"


def test_items_are_drawn_by_their_weight_in_an_order_of_seed_and_epoch():
    weights = [0.0, 1.0, 3.0]
    drawn = WeightedDraws(range(1500), weights * 500, seed=5)
    first = [drawn[i] for i in range(len(drawn))]
    assert len(first) == 1500
    counts = np.bincount(np.array(first) % 3, minlength=3) / 1500
    assert counts == pytest.approx([0, 0.25, 0.75], abs=0.04)
    drawn.set_epoch(1)
    assert [drawn[i] for i in range(len(drawn))] != first
    drawn.set_epoch(0)
    assert [drawn[i] for i in range(len(drawn))] == first


def test_weights_reach_the_training(tmp_path):
    fit_line(tmp_path / "training", Points(tmp_path), epochs=2, sample_weights=[1.0] * 8 + [0.0] * 24, resumable=False)
    taken = [int(line) for line in (tmp_path / "0").read_text().split()]
    assert len(taken) == 64 and set(taken) == set(range(8))
    assert taken[:32] != taken[32:], "each epoch draws anew"


@pytest.mark.parametrize("most, check", [(1.0, lambda n: n <= 1.0001), (0.0, lambda n: n > 1.5)])
def test_gradients_are_clipped(tmp_path, most, check):
    norms = []

    def note(optimizer, *rest):
        parts = [p.grad.norm() for group in optimizer.param_groups for p in group["params"]]
        norms.append(torch.stack(parts).norm().item())

    hook = register_optimizer_step_pre_hook(note)
    try:
        fit_line(tmp_path, epochs=1, max_grad_norm=most, resumable=False)
    finally:
        hook.remove()
    assert len(norms) == 8 and check(max(norms))


def test_mixed_precision_only_where_the_device_has_it(monkeypatch):
    assert precision("cpu", True) == (False, False)
    assert precision("cuda", False) == (False, False)
    for has_bf16, expected in ((True, (False, True)), (False, (True, False))):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda answer=has_bf16: answer)
        assert precision("cuda:1", True) == expected


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(optimizer="sgd"), "unknown optimizer 'sgd'"),
        (dict(scheduler="step"), "unknown scheduler 'step'"),
        (dict(max_steps=0), "max_steps must be at least 1"),
        (dict(ema_decay=1), "between 0 and 1, found 1"),
        (dict(patience=2), "patience needs a metric"),
        (dict(data=[]), "empty"),
        (dict(metric="score"), "needs a function `evaluate`"),
        (dict(metric="score", evaluate=dict, resumable=False), "needs checkpoints"),
        (dict(metric="auroc", evaluate=lambda model: {"score": 1.0}), "metric 'auroc' is not among"),
        (dict(sample_weights=[1.0]), "found 1 for 32 items"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        fit_line(tmp_path, **changes)
