"""How the tasks' losses become one number: static weights, or weights learnt from uncertainty."""

from typing import Literal

import torch
from torch import Tensor, nn

from mtrec_edge_compress.losses import processes


class TaskWeighting(nn.Module):
    """Weighted sum of scale-normalised losses.

    `static`: sum of lambda_k L_k. `uncertainty`: sum of lambda_k (exp(-s_k) L_k + s_k) / 2 with s_k learnt per task
    (Kendall, Gal & Cipolla, Multi-task learning using uncertainty to weigh losses, 2018, with s = log sigma^2). A task
    without labels in a batch adds nothing, and its s_k does not move. Processes add up their totals, so each takes its
    share of s_k.
    """

    def __init__(self, weights: dict[str, float], kind: Literal["static", "uncertainty"]) -> None:
        super().__init__()
        self.weights = weights
        self.names = tuple(weights)
        self.log_variance = nn.Parameter(torch.zeros(len(weights))) if kind == "uncertainty" else None

    def forward(self, losses: dict[str, Tensor]) -> Tensor:
        """Return the total of the losses that exist."""
        return torch.stack([self._weighted(name, loss) for name, loss in losses.items()]).sum()

    def _weighted(self, name: str, loss: Tensor) -> Tensor:
        if self.log_variance is None:
            return self.weights[name] * loss
        s = self.log_variance[self.names.index(name)]
        return self.weights[name] * 0.5 * (torch.exp(-s) * loss + s / processes())
