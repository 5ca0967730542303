"""Muon with AdamW against closed forms and torch's own AdamW."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from training.muon import MuonAdamW, orthogonalise


def parameter(*shape: int, seed: int) -> nn.Parameter:
    return nn.Parameter(
        torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    )


def set_gradients(parameters: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 16, 5), (2, 5, 16)])
def test_singular_values_go_towards_one_and_directions_stay(shape):
    matrices = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = orthogonalise(matrices, iterations=8)
    assert result.shape == matrices.shape
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.5
    assert values.max() < 1.3
    U, _, Vh = torch.linalg.svd(matrices, full_matrices=False)
    rotated = U.mT @ result @ Vh.mT
    assert torch.allclose(rotated, torch.diag_embed(rotated.diagonal(dim1=-2, dim2=-1)), atol=1e-8)


def test_a_first_muon_step_has_the_stated_size():
    p = parameter(12, 3, seed=0)
    before = p.detach().clone()
    set_gradients([p], seed=1)
    assert p.grad is not None
    MuonAdamW([p], [], lr=0.1, adam_lr=0.0).step()
    # the momentum starts at (1 - 0.95) g, and a scale does not change the direction
    direction = orthogonalise(p.grad[None])[0]
    assert torch.allclose(p.detach(), before - 0.1 * 2.0 * direction, atol=1e-6)


def test_matrices_do_not_influence_each_other():
    together, alone = [parameter(6, 4, seed=s) for s in (0, 1)], [parameter(6, 4, seed=s) for s in (0, 1)]
    optimizers = [MuonAdamW(together, [], lr=0.1, adam_lr=0.1)]
    optimizers += [MuonAdamW([p], [], lr=0.1, adam_lr=0.1) for p in alone]
    for step in range(3):
        set_gradients(together, seed=step)
        for p, q in zip(together, alone, strict=True):
            assert p.grad is not None
            q.grad = p.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for p, q in zip(together, alone, strict=True):
        assert torch.allclose(p, q, atol=1e-12)


def test_other_parameters_move_as_in_torch_adamw():
    ours, theirs = parameter(7, seed=0), parameter(7, seed=0)
    optimizer = MuonAdamW([], [ours], lr=0.1, adam_lr=0.01)
    reference = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(5):
        set_gradients([ours], seed=step)
        set_gradients([theirs], seed=step)
        optimizer.step()
        reference.step()
    assert torch.allclose(ours, theirs, atol=1e-12)


def test_a_restored_state_goes_on_identically():
    def make() -> tuple[list[nn.Parameter], MuonAdamW]:
        parameters = [parameter(4, 4, seed=0), parameter(4, seed=1)]
        return parameters, MuonAdamW(parameters[:1], parameters[1:], lr=0.1, adam_lr=0.01)

    first, optimizer = make()
    for step in range(3):
        set_gradients(first, seed=step)
        optimizer.step()
    second, restored = make()
    for p, q in zip(first, second, strict=True):
        q.data.copy_(p.data)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for parameters, o in ((first, optimizer), (second, restored)):
        set_gradients(parameters, seed=9)
        o.step()
    for p, q in zip(first, second, strict=True):
        assert torch.equal(p, q)


def test_vectors_are_refused_as_matrices():
    with pytest.raises(ValueError, match="matrices only"):
        MuonAdamW([parameter(4, seed=0)], [], lr=0.1, adam_lr=0.1)
