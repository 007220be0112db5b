"""How well scores separate labelled positives from negatives, and how honest the probabilities are."""

from typing import Any

import numpy as np
import numpy.typing as npt

from mtrec_edge_runtime.errors import InputError

Numbers = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


def sigmoid(logits: Numbers) -> Floats:
    """Return 1 / (1 + exp(-logits)), without overflow."""
    z = np.asarray(logits, np.float64)
    small = np.exp(-np.abs(z))
    probability: Floats = np.where(z >= 0, 1.0, small) / (1.0 + small)
    return probability


def auc(scores: Numbers, labels: Numbers) -> float:
    """Return the chance that a positive outscores a negative, ties counting half; nan with one class alone.

    Both arguments are (events,), labels 0 or 1. Hanley and McNeil 1982, "The meaning and use of the area under a
    receiver operating characteristic (ROC) curve".
    """
    if len(scores) == 0:
        return float("nan")
    return float(user_auc(scores, labels, np.zeros(len(scores), np.int64))[0][0])


def gauc(scores: Numbers, labels: Numbers, users: Numbers) -> float:
    """Return the mean of the users' AUCs weighted by their impressions (events), over users with both classes.

    sum_u n_u AUC_u / sum_u n_u. Zhu et al. 2017, "Optimized cost per click in Taobao display advertising".
    """
    per_user, impressions = user_auc(scores, labels, users)
    judged = ~np.isnan(per_user)
    return float(np.average(per_user[judged], weights=impressions[judged])) if judged.any() else float("nan")


def user_auc(scores: Numbers, labels: Numbers, users: Numbers) -> tuple[Floats, Floats]:
    """Return each user's AUC and number of events, in the order of `np.unique(users)`; nan for one class alone.

    Raise InputError when a score is nan.

    AUC = (R - P (P + 1) / 2) / (P N), R the sum of the average ranks of P positives among P + N events.
    """
    _refuse_nan("scores", scores)
    user_ids, user = np.unique(users, return_inverse=True)
    if len(user_ids) == 0:
        return np.zeros(0), np.zeros(0)
    order = np.lexsort((scores, user))
    user, score, positive = user[order], np.asarray(scores)[order], np.asarray(labels)[order] > 0.5
    count = np.bincount(user)
    rank = _tied_positions(user, score) - (np.cumsum(count) - count)[user]
    positives = np.bincount(user, positive, len(count))
    negatives = count - positives
    rank_sum = np.bincount(user, np.where(positive, rank, 0.0), len(count))
    pairs = positives * negatives
    wins = rank_sum - positives * (positives + 1) / 2
    result = np.full(len(count), np.nan)
    np.divide(wins, pairs, out=result, where=pairs > 0)
    return result, count.astype(np.float64)


def _tied_positions(user: Numbers, score: Numbers) -> Floats:
    """Return 1-based positions of sorted rows, rows of one user with one score sharing the mean of theirs."""
    new = np.ones(len(user), bool)
    new[1:] = (user[1:] != user[:-1]) | (score[1:] != score[:-1])
    group = np.cumsum(new) - 1
    size = np.bincount(group)
    last = np.cumsum(size)
    positions: Floats = (last - (size - 1) / 2.0)[group]
    return positions


def _refuse_nan(what: str, values: Numbers) -> None:
    if missing := int(np.isnan(values).sum()):
        raise InputError(f"{len(values)} {what}: {missing} are nan; look at the model's outputs")


def log_loss(logits: Numbers, labels: Numbers) -> float:
    """Return the mean negative log likelihood of 0/1 labels in nats, from logits: mean(log(1 + e^z) - y z)."""
    if len(logits) == 0:
        return float("nan")
    z = np.asarray(logits, np.float64)
    return float(np.mean(np.logaddexp(0.0, z) - np.asarray(labels, np.float64) * z))


def reliability(probabilities: Numbers, labels: Numbers, bins: int = 15) -> tuple[Floats, Floats, Floats]:
    """Return each bin's mean probability, share of positives (nan in an empty bin) and events, (bins,) each."""
    p = np.asarray(probabilities, np.float64)
    _refuse_nan("probabilities", p)
    inside = np.minimum((p * bins).astype(np.int64), bins - 1)
    events = np.bincount(inside, minlength=bins).astype(np.float64)
    sums = (np.bincount(inside, weights, bins) for weights in (p, np.asarray(labels, np.float64)))
    filled = np.where(events > 0, events, np.nan)
    predicted, happened = (total / filled for total in sums)
    return predicted, happened, events


def ece(probabilities: Numbers, labels: Numbers, bins: int = 15) -> float:
    """Return the expected calibration error over equal-width bins of the positive class's probability.

    sum_b n_b / n |mean label_b - mean probability_b|. Naeini, Cooper and Hauskrecht 2015, "Obtaining well calibrated
    probabilities using Bayesian binning"; 15 bins as in Guo et al. 2017.
    """
    if len(probabilities) == 0:
        return float("nan")
    predicted, happened, events = reliability(probabilities, labels, bins)
    return float(np.nansum(np.abs(happened - predicted) * events) / len(probabilities))
