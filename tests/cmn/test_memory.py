"""The shared memory: which slots answer, in every precision, and that slots are projected once."""

import numpy as np
import pytest
import torch


@pytest.mark.parametrize("topk", [1, 3, 7])
def test_memory_answers_from_the_best_slots_only(topk, small_model, slow_model):
    model = small_model(topk=topk)
    x = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(3))
    chosen = {}
    expected = slow_model(model).memory(x.view(8, 8).double().numpy(), chosen)
    trace = []
    with torch.no_grad():
        np.testing.assert_allclose(model.memory(x, trace).view(8, 8).numpy(), expected, atol=1e-5)
    slots, weights = (part.view(8, 2, topk) for part in trace[0])
    assert {(row, head): slots[row, head].tolist() for row in range(8) for head in range(2)} == chosen
    torch.testing.assert_close(weights.sum(-1), torch.ones(8, 2))


def test_projected_slots_are_kept_until_a_weight_changes(small_model, slow_model):
    model = small_model()
    x = torch.randn(1, 2, 8)
    with torch.no_grad():
        first = model.memory(x)
        assert model.memory.project()[0] is model.memory.project()[0], "slots are projected once"
        model.memory.slots.add_(1.0)
        second = model.memory(x)
    assert not torch.allclose(first, second)
    with torch.no_grad():
        np.testing.assert_allclose(second.numpy()[0], slow_model(model).memory(x[0].double().numpy()), atol=1e-5)
        other = small_model(seed=5)
        model.load_state_dict(other.state_dict())
        torch.testing.assert_close(model.memory(x), other.memory(x))


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_the_choice_of_slots_does_not_follow_a_lower_precision(precision, small_model, slow_model):
    model = small_model(d_model=64, cmm_dim=64, num_heads=2, cmm_size=64, topk=8)
    x = torch.randn(1, 40, 64, generator=torch.Generator().manual_seed(3))
    exact, rounded, chosen = [], [], {}
    slow_model(model).memory(x[0].double().numpy(), chosen)
    with torch.no_grad():
        model.memory(x, exact)
        torch.set_float32_matmul_precision(precision)
        try:
            model.memory(x, rounded)
            with torch.autocast("cpu", torch.bfloat16):
                model.memory(x, rounded)
        finally:
            torch.set_float32_matmul_precision("highest")
    for slots, _ in exact + rounded:
        assert {(row, head): slots[0, row, head].tolist() for row in range(40) for head in range(2)} == chosen


def test_both_modalities_train_the_one_memory(small_model):
    model = small_model()
    (model.memory(torch.randn(1, 2, 8)).sum()).backward()
    assert model.memory.slots.grad.abs().sum() > 0
    names = [name for name, _ in model.named_parameters() if name.endswith("slots")]
    assert names == ["memory.slots"]
