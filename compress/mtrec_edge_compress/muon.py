"""Muon: a matrix moves along the orthogonal matrix nearest to its momentum, so that its weak directions learn, too.

Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024; an update as large as AdamW's, so that
its rate serves: Liu et al., Muon is scalable for LLM training, 2025. PyTorch has had one since 2.9, which works in bf16
whatever the device; on a CPU without bf16 that takes three and a half times as long as this.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

ITERATIONS = 5  # of Newton and Schulz
COEFFICIENTS = (3.4445, -4.775, 2.0315)  # of the odd quintic that brings singular values near 1 fastest
MOMENTUM = 0.95
ADAM_SCALE = 0.2  # the usual root mean square of an update of AdamW, in rates


class Muon(torch.optim.Optimizer):
    """Moves matrices (out, in) by orthogonalised Nesterov momentum, with decoupled weight decay."""

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        """Take groups of `params`, `lr` and `weight_decay`."""
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["momentum"] = torch.zeros_like(matrix)
                momentum = state["momentum"].mul_(MOMENTUM).add_(matrix.grad)
                update = orthogonal(matrix.grad + MOMENTUM * momentum)
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-group["lr"] * ADAM_SCALE * max(matrix.shape) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """Return nearly the orthogonal matrix nearest to `matrix` (rows, columns): U S V', S about 0.7 to 1.2.

    A direction that is all but absent stays so: five iterations bring it no farther.
    """
    first, third, fifth = COEFFICIENTS
    wide = matrix.shape[0] <= matrix.shape[1]
    found: Tensor = matrix if wide else matrix.T
    found = found / found.norm().clamp_min(1e-7)
    for _ in range(ITERATIONS):
        square = found @ found.T
        found = first * found + (third * square + fifth * square @ square) @ found
    return found if wide else found.T
