"""Layer normalisation as the published model has it."""

import math

import numpy as np
import torch

from cliniqure_utils.cmn.layers import LayerNorm


def test_layer_norm_uses_the_unbiased_deviation_and_adds_eps_to_it():
    norm = LayerNorm(4)
    with torch.no_grad():
        norm.scale.fill_(2), norm.shift.fill_(1)
        # mean 2.5, unbiased deviation sqrt(5 / 3)
        expected = 1 + 2 * np.array([-1.5, -0.5, 0.5, 1.5]) / (math.sqrt(5 / 3) + 1e-6)
        np.testing.assert_allclose(norm(torch.tensor([[1.0, 2, 3, 4]])).numpy()[0], expected, atol=1e-6)
        # So small that eps halves it: deviation 1e-6 + eps 1e-6. Under the root eps would leave almost nothing.
        tiny = torch.tensor([[-1.5, -0.5, 0.5, 1.5]], dtype=torch.float64) * 1e-6 / math.sqrt(5 / 3)
        expected = 1 + 2 * np.array([-1.5, -0.5, 0.5, 1.5]) / math.sqrt(5 / 3) / 2
        np.testing.assert_allclose(norm.double()(tiny).numpy()[0], expected, atol=1e-6)
