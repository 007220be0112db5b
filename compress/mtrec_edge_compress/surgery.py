"""Gradient surgery (PCGrad): of two tasks whose gradients oppose each other, each loses what goes against the other.

Yu et al., Gradient surgery for multi-task learning, 2020, by the library TorchJD, on the parameters that tasks share; a
task's own head learns from its own loss as ever. One backward pass a task. Knows nothing of the tasks' weights.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtrec_edge_runtime.errors import StageError


def check_surgery() -> None:
    """Raise StageError when TorchJD is not installed."""
    try:
        import torchjd.aggregation  # noqa: F401
    except ModuleNotFoundError as error:
        raise StageError(
            "weighting = 'pcgrad' was asked for and torchjd is not installed; the next step: pip install "
            "'mtrec-edge[mtl]'"
        ) from error


def surgical_backward(losses: Sequence[Tensor], shared: Sequence[nn.Parameter], own: Sequence[nn.Parameter]) -> None:
    """Add to the gradients: of `own` those of the sum of `losses`, of `shared` what PCGrad makes of them.

    A parameter that no loss reaches keeps what it has, as in a plain backward pass.
    """
    from torchjd.aggregation import PCGrad

    torch.autograd.backward(torch.stack(list(losses)).sum(), inputs=list(own), retain_graph=True)
    found = [torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True) for loss in losses]
    columns = list(zip(shared, *found, strict=True))
    reached = [column for column in columns if any(gradient is not None for gradient in column[1:])]
    if not reached:
        return
    rows = [  # (losses, numbers)
        torch.cat([_flat(column[0], column[row]) for column in reached]) for row in range(1, len(losses) + 1)
    ]
    joined = PCGrad()(torch.stack(rows)) if len(rows) > 1 else rows[0]
    sizes = [column[0].numel() for column in reached]
    for (parameter, *_), part in zip(reached, joined.split(sizes), strict=True):
        new = part.view_as(parameter)
        parameter.grad = new.clone() if parameter.grad is None else parameter.grad + new


def _flat(parameter: Tensor, gradient: Tensor | None) -> Tensor:
    return torch.zeros_like(parameter).flatten() if gradient is None else gradient.flatten()
