"""`training.fit`: it finds a line, keeps the best epoch, names bad films, and resumes where it was killed."""

import pytest
import torch

from cliniqure_utils import training

torch.set_num_threads(1)


class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.line = torch.nn.Linear(1, 1)

    def forward(self, x, y):
        return {"loss": ((self.line(x) - y) ** 2).mean()}


def points(n=32):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 1, generator=generator)
    return [{"x": x[i], "y": 3 * x[i] - 1, "image_id": f"film{i}"} for i in range(n)]


def fit_line(folder, **changes):
    torch.manual_seed(0)
    model = Line()
    settings = dict(seed=1, device="cpu", epochs=4, batch_size=4, learning_rate=0.1)
    history = training.fit(model, points(), output_dir=folder, **{**settings, **changes})
    return model, history


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

    def evaluate(model):
        seen.append(model.line.weight.item())
        return {"score": -abs(len(seen) - 2)}  # best after the second epoch

    model, history = fit_line(tmp_path, evaluate=evaluate, metric="score")
    assert history.learning_rate.iloc[-1] < 0.002
    assert model.line.weight.item() == pytest.approx(seen[1])
    assert history.score.tolist() == [-1, 0, -1, -2]


def test_a_non_finite_loss_names_the_films(tmp_path):
    data = points()
    data[5]["y"] = torch.tensor([float("inf")])
    with pytest.raises(training.NonFiniteLoss, match="film5"):
        training.fit(Line(), data, output_dir=tmp_path, seed=1, device="cpu", epochs=1, batch_size=4)


def test_a_killed_run_resumes_and_ends_with_the_same_weights(tmp_path):
    unbroken, _ = fit_line(tmp_path / "unbroken")

    class Killed(Exception):
        pass

    def kill_after_two(model, calls=[]):  # noqa: B006 - the list counts the calls on purpose
        calls.append(1)
        if len(calls) == 3:
            raise Killed
        return {"score": len(calls)}

    with pytest.raises(Killed):
        fit_line(tmp_path / "killed", evaluate=kill_after_two)
    assert list((tmp_path / "killed").glob("checkpoint-*")), "a checkpoint is left"
    steps = []
    resumed, history = fit_line(tmp_path / "killed", evaluate=lambda model: steps.append(1) or {"score": 0})
    assert len(steps) == 2, "only the two missing epochs are trained"
    assert torch.equal(unbroken.line.weight, resumed.line.weight)
    assert len(history) == 4


def test_checkpoints_of_other_settings_are_not_resumed(tmp_path):
    with pytest.raises(ZeroDivisionError):
        fit_line(tmp_path, evaluate=lambda model: {"score": 1 / (model.line.weight.item() > 99)})
    fresh, history = fit_line(tmp_path, epochs=2)
    assert len(history) == 2


def test_bad_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown optimizer 'sgd'"):
        fit_line(tmp_path, optimizer="sgd")
    with pytest.raises(ValueError, match="empty"):
        training.fit(Line(), [], output_dir=tmp_path, seed=0, device="cpu")
    with pytest.raises(ValueError, match="metric 'auroc' is not among"):
        fit_line(tmp_path, evaluate=lambda model: {"score": 1.0}, metric="auroc")
