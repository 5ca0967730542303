"""Muon for weight matrices with AdamW for all other parameters, as one optimizer.

torch.optim.Muon orthogonalises each matrix alone and in bfloat16, which on a CPU took longer than forward and
backward of a small model; here matrices of one shape are done together, in their own precision.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

# Newton-Schulz coefficients, KellerJordan/Muon@f90a42b:muon.py
_A, _B, _C = 3.4445, -4.7750, 2.0315


class MuonAdamW(torch.optim.Optimizer):
    """Muon (kellerjordan.github.io/posts/muon, 2024) on `matrices`, AdamW on `others`; no weight decay.

    A Muon step moves a matrix of R rows and C columns by lr * sqrt(max(1, R / C)) times the orthogonalised
    Nesterov momentum.
    """

    def __init__(
        self,
        matrices: list[nn.Parameter],
        others: list[nn.Parameter],
        *,
        lr: float,
        adam_lr: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
    ) -> None:
        if any(p.ndim != 2 for p in matrices):
            raise ValueError("Muon moves matrices only; give vectors and other tensors to `others`")
        groups = [
            {"params": matrices, "lr": lr, "muon": True, "momentum": momentum},
            {"params": others, "lr": adam_lr, "muon": False, "betas": betas},
        ]
        super().__init__([group for group in groups if group["params"]], defaults={})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        assert closure is None, "losses are computed outside"
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not group["muon"]:
                for parameter in parameters:
                    self._adam_step(parameter, group["lr"], *group["betas"])
                continue
            for shape in sorted({tuple(p.shape) for p in parameters}):
                same = [p for p in parameters if tuple(p.shape) == shape]
                self._muon_step(same, group["lr"], group["momentum"])

    def _muon_step(self, parameters: list[nn.Parameter], lr: float, momentum: float) -> None:
        updates = []
        for parameter in parameters:
            state, gradient = self.state[parameter], _gradient(parameter)
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            state["momentum"].lerp_(gradient, 1 - momentum)
            updates.append(torch.lerp(gradient, state["momentum"], momentum))
        rows, columns = parameters[0].shape
        step = lr * max(1, rows / columns) ** 0.5
        for parameter, direction in zip(parameters, orthogonalise(torch.stack(updates)), strict=True):
            parameter.add_(direction, alpha=-step)

    def _adam_step(self, parameter: nn.Parameter, lr: float, beta1: float, beta2: float) -> None:
        state, gradient = self.state[parameter], _gradient(parameter)
        if not state:
            state.update(step=0, first=torch.zeros_like(parameter), second=torch.zeros_like(parameter))
        state["step"] += 1
        state["first"].lerp_(gradient, 1 - beta1)
        state["second"].lerp_(gradient.square(), 1 - beta2)
        first = state["first"] / (1 - beta1 ** state["step"])
        second = state["second"] / (1 - beta2 ** state["step"])
        parameter.addcdiv_(first, second.sqrt().add_(1e-8), value=-lr)


def muon_adamw(model: Any, *, lr: float, adam_lr: float) -> MuonAdamW:
    """For a transformers model: Muon for the matrices of its decoder layers, AdamW for the rest."""
    matrices = [p for p in model.base_model.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return MuonAdamW(matrices, others, lr=lr, adam_lr=adam_lr)


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None, "parameters without gradient are left out before"
    return parameter.grad


def orthogonalise(matrices_NRC: Tensor, iterations: int = 5) -> Tensor:
    """Push all singular values of N matrices towards 1 (to about 0.7..1.2) by Newton-Schulz iterations."""
    tall = matrices_NRC.size(-2) > matrices_NRC.size(-1)
    X = matrices_NRC.mT if tall else matrices_NRC
    X = X / (X.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = X @ X.mT
        X = _A * X + (_B * gram + _C * gram @ gram) @ X
    return X.mT if tall else X
