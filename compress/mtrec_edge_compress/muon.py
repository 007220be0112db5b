"""Muon: a matrix moves along the orthogonal matrix nearest to its momentum, so that its weak directions learn, too.

Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024; an update as large as AdamW's, so that
its rate serves: Liu et al., Muon is scalable for LLM training, 2025. PyTorch has had one since 2.9, which works in bf16
whatever the device; on a CPU without bf16 that takes three and a half times as long as this. Processes that train
together divide the matrices among them.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, distributed

from mtrec_edge_compress.losses import processes

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
            moving = [matrix for matrix in group["params"] if matrix.grad is not None]
            updates = orthogonal_each([self._momentum(matrix, matrix.grad) for matrix in moving])
            for matrix, update in zip(moving, updates, strict=True):
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-group["lr"] * ADAM_SCALE * max(matrix.shape) ** 0.5)

    def _momentum(self, matrix: Tensor, gradient: Tensor) -> Tensor:
        """Add the gradient to the matrix's momentum; return Nesterov's, one gradient ahead."""
        state = self.state[matrix]
        if not state:
            state["momentum"] = torch.zeros_like(matrix)
        momentum: Tensor = state["momentum"].mul_(MOMENTUM).add_(gradient)
        return gradient + MOMENTUM * momentum


def orthogonal_each(matrices: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return `orthogonal` of each matrix; of several processes each makes those of its turn, and all get the sum."""
    if processes() == 1 or not matrices:
        return [orthogonal(matrix) for matrix in matrices]
    mine = distributed.get_rank()
    made = [
        orthogonal(matrix) if turn % processes() == mine else torch.zeros_like(matrix)
        for turn, matrix in enumerate(matrices)
    ]
    together = torch.cat([update.flatten() for update in made])
    distributed.all_reduce(together)
    parts = torch.split(together, [matrix.numel() for matrix in matrices])
    return [part.view_as(matrix) for part, matrix in zip(parts, matrices, strict=True)]


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
