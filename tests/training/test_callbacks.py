"""Early stop and averaged weights, by hand."""

from types import SimpleNamespace

import pytest
import torch

from cliniqure_utils.training.callbacks import AveragedWeights, patience_is_over


@pytest.mark.parametrize(
    "values, patience, over",
    [([1, 2, 3], 2, False), ([3, 2, 1], 2, True), ([3, 2], 2, False), ([1, 1, 1], 2, True), ([3, 2, 1], None, False)],
)
def test_patience(values, patience, over):
    log = [{"loss": 1.0}] + [{"eval_score": value} for value in values]
    assert patience_is_over(log, "score", patience) is over


def test_averaged_weights():
    model = torch.nn.BatchNorm1d(1)
    torch.nn.init.constant_(model.weight, 1.0)
    averaged = AveragedWeights(model, decay=0.25)
    expected = 1.0
    # decay: (1 + step) / (10 + step) until that passes .25, which is at step 2
    for step, weight, decay in ((1, 2.0, 2 / 11), (2, 4.0, 0.25), (3, 8.0, 0.25)):
        torch.nn.init.constant_(model.weight, weight)
        model.num_batches_tracked += 1
        averaged.on_step_end(None, SimpleNamespace(global_step=step), None)
        expected = decay * expected + (1 - decay) * weight
        assert averaged.module.weight.item() == pytest.approx(expected)
    assert averaged.module.num_batches_tracked == 3 and model.weight.item() == 8.0, "counts are copied"
