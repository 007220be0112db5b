"""How the tasks' losses become one number: static weights, or weights that follow uncertainty, losses or gradients.

Knows nothing of models. What PCGrad does instead of adding up is in surgery.py; its total is the static one.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mtrec_edge_compress.losses import processes
from mtrec_edge_compress.training_settings import Weighting

DWA_TEMPERATURE = 2.0  # Liu et al.'s
GRADNORM_ALPHA = 1.5  # how strongly a task that lags is favoured; Chen et al.'s
GRADNORM_RATE = 0.025  # of a share's step
LEAST_SHARE = 0.01


class TaskWeighting(nn.Module):
    """Weighted sum of scale-normalised losses; lambda is an importance over what a kind finds.

    `static` (and `pcgrad`): sum of lambda_k L_k. `uncertainty`: sum of lambda_k (exp(-s_k) L_k + s_k) / 2 with s_k
    learnt per task (Kendall, Gal & Cipolla, Multi-task learning using uncertainty to weigh losses, 2018, with
    s = log sigma^2). `dwa` and `gradnorm`: sum of lambda_k w_k L_k, see LossAverages and GradientNorms. A task without
    labels in a batch adds nothing, and its s_k and w_k do not move. Processes add up their totals, so each takes its
    share of s_k.
    """

    def __init__(self, weights: Mapping[str, float], kind: Weighting) -> None:
        super().__init__()
        self.weights = dict(weights)
        self.names = tuple(weights)
        self.kind = kind
        self.stopped: tuple[str, ...] = ()  # tasks that are to learn no more
        self.log_variance = nn.Parameter(torch.zeros(len(weights))) if kind == "uncertainty" else None
        self.averages = LossAverages(len(weights)) if kind == "dwa" else None
        self.norms = GradientNorms(len(weights)) if kind == "gradnorm" else None

    def forward(self, losses: dict[str, Tensor], states: Sequence[Tensor] = ()) -> Tensor:
        """Return the total of the losses that exist; `states` is where `gradnorm` measures their gradients."""
        if self.training and self.averages is not None:
            self.averages.note({self.names.index(n): loss.detach() for n, loss in losses.items() if self.weight(n)})
        if self.training and self.norms is not None:
            self.norms.balance({self.names.index(n): loss for n, loss in losses.items() if self.weight(n)}, states)
        return torch.stack([self._weighted(name, loss) for name, loss in losses.items()]).sum()

    def weight(self, name: str) -> float:
        """Return a task's lambda, 0 once it has stopped."""
        return 0.0 if name in self.stopped else self.weights[name]

    def end_epoch(self) -> None:
        """Let the epoch's losses count in the next."""
        if self.averages is not None:
            self.averages.end_epoch()

    def _weighted(self, name: str, loss: Tensor) -> Tensor:
        number = self.names.index(name)
        if self.log_variance is not None:
            s = self.log_variance[number]
            return self.weight(name) * 0.5 * (torch.exp(-s) * loss + s / processes())
        for found in (self.averages, self.norms):
            if found is not None:
                loss = found.share[number] * loss
        return self.weight(name) * loss


class LossAverages(nn.Module):
    """Dynamic weight average: a task whose loss falls more slowly than the others' gets a greater share.

    w_k(t) = K softmax_k(r_k / T), r_k = L_k(t-1) / L_k(t-2), L_k(t) the mean loss of epoch t; 1 in the first two.
    Buffers, so that a resumed run goes on with them; every process has the sums over all.
    Source: Liu, Johns & Davison, End-to-end multi-task learning with attention, 2019.
    """

    share: Tensor  # (tasks,)
    sums: Tensor  # (2, tasks) of this epoch: losses, steps that had one
    means: Tensor  # (2, tasks) of the last epoch and the one before; nan where a task had no loss

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.register_buffer("share", torch.ones(tasks))
        self.register_buffer("sums", torch.zeros(2, tasks))
        self.register_buffer("means", torch.full((2, tasks), torch.nan))

    def note(self, losses: Mapping[int, Tensor]) -> None:
        """Add a step's losses, by task number."""
        step = torch.zeros_like(self.sums)
        for number, loss in losses.items():
            step[0, number], step[1, number] = loss.float(), 1.0
        if processes() > 1:
            torch.distributed.all_reduce(step)
        step[1] = (step[1] > 0).float()
        self.sums.add_(step)

    def end_epoch(self) -> None:
        """Make the shares of the next epoch."""
        self.means.copy_(torch.stack([self.sums[0] / self.sums[1], self.means[0]]))
        self.sums.zero_()
        ratio = self.means[0] / self.means[1]
        known = torch.isfinite(ratio)
        self.share.fill_(1.0)
        self.share[known] = known.sum() * torch.softmax(ratio[known] / DWA_TEMPERATURE, dim=0)


class GradientNorms(nn.Module):
    """GradNorm: shares move until tasks that learn alike pull alike at the texts' hidden states.

    One step on sum_k |w_k g_k - G r_k^alpha|, in closed form: g_k is the norm of task k's gradient, G the mean of
    w_k g_k, r_k = L_k over the mean loss, for losses are scaled so that L_k(0) = 1. The step is divided by G, so that
    the rate has no unit; the sum of the shares stays. Only tasks of the batch that reach the states move.
    Source: Chen et al., GradNorm: gradient normalization for adaptive loss balancing, 2018.
    """

    share: Tensor  # (tasks,)

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.register_buffer("share", torch.ones(tasks))

    def balance(self, losses: Mapping[int, Tensor], states: Sequence[Tensor]) -> None:
        """Take one step; `losses` by task number, `states` are tensors they may depend on."""
        norms = {number: _norm(loss, states) for number, loss in losses.items() if loss.requires_grad}
        tasks = [number for number, norm in norms.items() if norm > 0]
        if len(tasks) < 2:
            return
        with torch.no_grad():
            norm = torch.stack([norms[number] for number in tasks])
            loss = torch.stack([losses[number].float() for number in tasks])
            share = self.share[tasks]
            mean = (share * norm).mean()
            target = mean * (loss / loss.mean()) ** GRADNORM_ALPHA
            slope = torch.sign(share * norm - target) * norm / mean
            moved = (share - GRADNORM_RATE * slope).clamp_min(LEAST_SHARE)
            self.share[tasks] = moved / moved.sum() * share.sum()


def _norm(loss: Tensor, states: Sequence[Tensor]) -> Tensor:
    """Return the length of the loss's gradient with respect to all `states` together."""
    gradients = torch.autograd.grad(loss, states, retain_graph=True, allow_unused=True) if states else ()
    squares = [gradient.float().square().sum() for gradient in gradients if gradient is not None]
    return torch.stack(squares).sum().sqrt() if squares else loss.new_zeros(())
