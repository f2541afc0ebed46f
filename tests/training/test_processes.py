"""Training on several processes ends as training on one does."""

import subprocess
from pathlib import Path

import pandas as pd
import pytest
import torch
from line import Points, fit_line
from safetensors.torch import save_file

from cliniqure_utils.training import processes


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


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="tells which files are mapped")
def test_weights_that_come_back_are_read_not_mapped(monkeypatch):
    """Windows refuses to remove the folder of a mapped file."""
    mapped, folders = [], []

    class Line(torch.nn.Linear):
        def load_state_dict(self, state):
            mapped.append(f"{folders[0]}/model.safetensors" in Path("/proc/self/maps").read_text())
            return super().load_state_dict(state)

    def launch(command, **options):
        folder = Path(command[-1])
        folders.append(folder)
        save_file({"weight": torch.ones(1, 1), "bias": torch.zeros(1)}, folder / "model.safetensors")
        pd.DataFrame({"loss": [0.5]}).to_pickle(folder / "history.pkl")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(processes.subprocess, "run", launch)
    model = Line(1, 1)
    history = processes.fit_on_processes(len, model, [], None, {"device": "cpu"}, 2)
    assert mapped == [False] and model.weight.item() == 1 and history.loss.tolist() == [0.5]
