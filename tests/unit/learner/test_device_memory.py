from __future__ import annotations

import copy

import pytest
import torch

from insight_rl.learner import device_memory
from insight_rl.learner.device_memory import ParkedMemory, reachable_tensors

CPU = torch.device("cpu")


def trained(model, optimizer, steps, before=lambda: None):
    """What the parameters are after ``steps`` steps; ``before`` is called before each."""
    for step in range(steps):
        before()
        loss = model(torch.full((2, 4), float(step))).square().sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=step % 2 == 0)
    return [parameter.detach().clone() for parameter in model.parameters()]


def make(tied):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh(), torch.nn.Linear(4, 4))
    if tied:
        model[2].weight = model[0].weight
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


@pytest.mark.parametrize("tied", [False, True])
def test_training_goes_on_as_if_nothing_had_been_moved(tied, monkeypatch):
    monkeypatch.setattr(device_memory, "_PIECE_BYTES", 24)  # several pieces, the last one shorter
    expected = trained(*make(tied), 4)
    model, optimizer = make(tied)

    def away_and_back():
        parked = ParkedMemory([model, optimizer], CPU)
        assert all(tensor.untyped_storage().nbytes() == 0 for tensor in reachable_tensors([model, optimizer]))
        parked.restore()

    found = trained(model, optimizer, 4, away_and_back)
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


def test_every_byte_of_weights_gradients_and_optimizer_is_given_back():
    model, optimizer = make(tied=False)
    trained(model, optimizer, 2)  # the gradients of the second step are kept, as zeros
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    num_counters = len(list(model.parameters()))
    assert ParkedMemory([optimizer], CPU).num_bytes == 16 * num_parameters + 4 * num_counters


def test_views_of_one_buffer_stay_views_of_it_as_in_zero():
    flat = torch.arange(12.0)
    owners = {"flat": flat, "parts": [flat[:4].view(2, 2), flat[4:]], "copy": copy.deepcopy(flat)}
    parked = ParkedMemory(owners, CPU)
    assert parked.num_bytes == 2 * 48
    parked.restore()
    flat.mul_(2)
    assert torch.equal(owners["parts"][0], 2 * torch.arange(4.0).view(2, 2))
    assert torch.equal(owners["copy"], torch.arange(12.0))


def test_what_is_on_another_device_stays():
    tensor = torch.ones(3)
    assert ParkedMemory([tensor], torch.device("meta")).num_bytes == 0
    assert torch.equal(tensor, torch.ones(3))


def test_what_is_attached_to_a_parameter_belongs_to_it():
    """DeepSpeed keeps a rank's shard of a parameter there."""
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.ds_tensor, parameter.grad = torch.ones(5), torch.ones(2)
    assert sorted(tensor.numel() for tensor in reachable_tensors([parameter])) == [2, 2, 5]
