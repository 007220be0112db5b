"""The losses, one function each, all scaled so that a constant predictor's loss is 1.

`L = sum_k lambda_k (1 / N_k) sum_i l_k(x_i, y_i) / c_k`: the sums run over the N_k labels that exist in the batch,
over every process; c_k is the loss of the best constant predictor, so lambda means importance. Each function returns
the sum over this process's labels divided by the global count it is given.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def processes() -> int:
    """Return how many processes train together: times a process's own count, an estimate of the global one."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def regression_loss(prediction: Tensor, label: Tensor, deviation: float, count: float) -> Tensor:
    """Return the squared error over the variance of the labels (the constant predictor's squared error).

    `prediction` and `label` (..., ) in the task's units; label nan = missing.
    """
    exists = ~torch.isnan(label)
    error = torch.where(exists, prediction - torch.nan_to_num(label), torch.zeros_like(prediction))
    return (error / deviation).square().sum() / max(count, 1.0)


def binary_loss(logit: Tensor, label: Tensor, base_rate: float, count: float) -> Tensor:
    """Return binary cross entropy over the entropy of the base rate; label nan = missing, in [0, 1] else."""
    exists = ~torch.isnan(label)
    entropy = -(base_rate * math.log(base_rate) + (1 - base_rate) * math.log(1 - base_rate))
    loss = F.binary_cross_entropy_with_logits(logit, torch.nan_to_num(label), reduction="none")
    return torch.where(exists, loss, torch.zeros_like(loss)).sum() / entropy / max(count, 1.0)


def sampled_softmax_loss(
    positive: Tensor, is_positive: Tensor, negative: Tensor, allowed: Tensor, count: float
) -> Tensor:
    """Return the cross entropy of each positive among the sampled negatives, over log(1 + negatives).

    Args:
        positive: (users, targets) logits of the window's events.
        is_positive: (users, targets) 1 where the event is a positive.
        negative: (users, negatives) logits of unobserved items, sampled uniformly.
        allowed: (users, negatives) 1 where the sampled item is none the user has observed.
        count: positives in the whole batch.

    Source: Bengio & Senecal, Adaptive importance sampling to accelerate training of a neural probabilistic language
    model, 2008; with uniform sampling the correction term is a constant.
    """
    rest = torch.logsumexp(negative + (allowed - 1.0) * 1e4, dim=1, keepdim=True)
    loss = torch.logaddexp(positive, rest) - positive
    return (loss * is_positive).sum() / math.log(1 + negative.shape[1]) / max(count, 1.0)


def balanced_negative_loss(
    positive: Tensor, is_positive: Tensor, negative: Tensor, allowed: Tensor, count: float
) -> Tensor:
    """Return binary cross entropy of positives against as much weight of sampled negatives, over log 2.

    For a task none of whose logged events is a negative: its probability is that of a balanced pair.
    """
    attract = (F.softplus(-positive) * is_positive).sum()
    share = is_positive.sum(1, keepdim=True) * allowed / allowed.sum(1, keepdim=True).clamp_min(1.0)
    repel = (F.softplus(negative) * share).sum()
    return 0.5 * (attract + repel) / math.log(2) / max(count, 1.0)


def class_loss(logits: Tensor, label: Tensor, entropy: float, count: float, weights: Tensor | None = None) -> Tensor:
    """Return cross entropy over `entropy`, that of the labels as `weights` weigh them; logits (rows, labels).

    Label -1 is missing.
    """
    loss = F.cross_entropy(logits, label, weight=weights, ignore_index=-1, reduction="sum")
    return loss / entropy / max(count, 1.0)


def soft_class_loss(logits: Tensor, teacher: Tensor, temperature: float, entropy: float, count: float) -> Tensor:
    """Return T^2 KL(teacher || student) of softened distributions, over `entropy`, that of the labels without weights.

    Source: Hinton et al., Distilling the knowledge in a neural network, 2015.
    """
    student = F.log_softmax(logits / temperature, dim=-1)
    target = F.log_softmax(teacher / temperature, dim=-1)
    kl = F.kl_div(student, target, log_target=True, reduction="sum")
    return kl * temperature**2 / entropy / max(count, 1.0)


def cosine_loss(vectors: Tensor, teacher: Tensor, count: float) -> Tensor:
    """Return the mean of 1 - cosine of unit vectors (rows, D)."""
    return (1.0 - (vectors * teacher).sum(-1)).sum() / max(count, 1.0)


def alignment_loss(
    queries: Tensor, references: Tensor, target: Tensor, other: Tensor, share: Tensor, sharpness: float
) -> Tensor:
    """Return the cross entropy of `softmax(sharpness cos)` over references against `target`, over log(references).

    `queries` (queries, D) and `references` (references, D) are unit vectors, `target` (queries, references) sums to 1,
    `other` is 0 where a query meets itself, `share` (queries,) weighs the queries.
    """
    logits = queries @ references.T * sharpness + (other - 1.0) * 1e4
    entropy = -(target * F.log_softmax(logits, dim=-1)).sum(-1)
    return (entropy * share).sum() / math.log(max(references.shape[0] - 1, 2))


def margin_loss(own: Tensor, teacher: Tensor, is_pair: Tensor, square: float, count: float) -> Tensor:
    """Return the squared error of the margins between positives and negatives, over the teacher's mean square.

    Args:
        own: (users, targets, negatives) the student's score of a positive less that of a negative.
        teacher: likewise; nan where `is_pair` is false.
        is_pair: (users, targets, negatives) whether there is such a pair.
        square: mean squared margin of the teacher: equal scores for all items lose 1.
        count: pairs in the whole batch.

    Margin-MSE. Source: Hofstaetter et al., Improving efficient neural ranking models with cross-architecture knowledge
    distillation, 2020.
    """
    error = torch.where(is_pair, own - teacher.nan_to_num(), torch.zeros_like(own))
    return error.square().sum() / square / max(count, 1.0)
