"""The smallest training there is: a line through points."""

import dataclasses
import os

import torch

from cliniqure_utils import training

torch.set_num_threads(1)
FIELDS = {field.name for field in dataclasses.fields(training.Plan)}


class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.line = torch.nn.Linear(1, 1)

    def forward(self, x, y):
        return {"loss": ((self.line(x) - y) ** 2).mean()}


def points(n=32):
    """Items of y = 3x - 1."""
    x = torch.randn(n, 1, generator=torch.Generator().manual_seed(0))
    return [{"x": x[i], "y": 3 * x[i] - 1, "image_id": f"film{i}"} for i in range(n)]


class Points(torch.utils.data.Dataset):
    """`points` as a data set; each process notes in the folder `log` which items it took."""

    def __init__(self, log):
        self.items, self.log = points(), log

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        with open(os.path.join(self.log, os.environ.get("RANK", "0")), "a") as file:
            file.write(f"{index}\n")
        return self.items[index]


def fit_line(folder, data=None, **changes):
    """(trained line, history); `changes` are fields of the plan, or arguments of `fit`."""
    settings = {"seed": 1, "epochs": 4, "batch_size": 4, "learning_rate": 0.1} | changes
    plan = training.Plan(**{name: settings.pop(name) for name in FIELDS & settings.keys()})
    torch.manual_seed(0)
    model = Line()
    data = points() if data is None else data
    return model, training.fit(model, data, plan, output_dir=folder, device="cpu", **settings)
