"""How well one user's relevant items are placed in a full ranking, and what a system recommends overall.

Ranks are 1-based and tied scores share the mean of their ranks, so that a constant scorer gains nothing from the order
in which items happen to be stored.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mtrec_edge_runtime.errors import InputError

Numbers = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def average_ranks(scores: Numbers, relevant: Numbers) -> Floats:
    """Return the rank of each relevant item among all scores, best = 1, ties sharing their mean rank.

    `scores` is (items,), `relevant` (r,) indexes it; the result is (r,). Raise InputError when a score is nan.
    rank_i = #{j: s_j > s_i} + (#{j: s_j = s_i} + 1) / 2.
    """
    ascending = np.sort(scores)
    if ascending.size and np.isnan(ascending[-1]):  # numpy sorts nan last
        raise InputError(
            f"ranking {len(scores)} items: {np.isnan(scores).sum()} scores are nan; look at the model's outputs"
        )
    chosen = scores[relevant]
    below = np.searchsorted(ascending, chosen, "left")
    below_or_equal = np.searchsorted(ascending, chosen, "right")
    ranks: Floats = (len(scores) - below_or_equal) + (below_or_equal - below + 1) / 2.0
    return ranks


def ndcg(ranks: Numbers, k: int = 10) -> float:
    """Return NDCG@k of binary relevance from the ranks of one user's relevant items, (r,).

    sum_{rank <= k} 1 / log2(1 + rank), over the same sum with ranks 1 .. min(r, k). Jarvelin and Kekalainen 2002,
    "Cumulated gain-based evaluation of IR techniques".
    """
    if len(ranks) == 0:
        return float("nan")
    gain = np.sum(1.0 / np.log2(1.0 + ranks[ranks <= k]))
    ideal = np.sum(1.0 / np.log2(1.0 + np.arange(1, min(len(ranks), k) + 1)))
    return float(gain / ideal)


def recall(ranks: Numbers, k: int = 10) -> float:
    """Return Recall@k: how many of the k places one user's relevant items take, of those they could.

    #{rank <= k} / min(r, k). Liang et al. 2018, "Variational autoencoders for collaborative filtering".
    """
    return float(np.sum(ranks <= k) / min(len(ranks), k)) if len(ranks) else float("nan")


def mrr(ranks: Numbers) -> float:
    """Return the reciprocal rank of one user's best placed relevant item; its mean over users is MRR.

    1 / min(rank). Voorhees 1999, "The TREC-8 question answering track report".
    """
    return float(1.0 / np.min(ranks)) if len(ranks) else float("nan")


def rank_auc(ranks: Numbers, items: int) -> float:
    """Return the AUC of one user's relevant items, (r,) ranks, against the other `items - r` of the ranking.

    1 - (mean(rank) - (r + 1) / 2) / (items - r): the Mann-Whitney statistic with the best rank being 1.
    """
    others = items - len(ranks)
    if len(ranks) == 0 or others <= 0:
        return float("nan")
    return float(1.0 - (np.mean(ranks) - (len(ranks) + 1) / 2.0) / others)


def top_items(scores: Numbers, k: int = 10) -> Ints:
    """Return the indices of the k greatest scores, (min(k, items),), in no particular order."""
    if len(scores) <= k:
        return np.arange(len(scores))
    return np.argpartition(scores, len(scores) - k)[len(scores) - k :]


def coverage(recommended: Sequence[Numbers], items: int) -> float:
    """Return the share of `items` candidates that are recommended to anyone, from each user's list of items.

    |union of lists| / items. Ge, Delgado-Battenfeld and Jannach 2010, "Beyond accuracy".
    """
    if not recommended or items == 0:
        return float("nan")
    return len(np.unique(np.concatenate(recommended))) / items


def popularity_bias(recommended: Sequence[Numbers], popularity: Numbers) -> float:
    """Return how many times more popular recommended items are than the catalogue: 1 is no bias.

    mean over users of the mean popularity of their list, over the mean of `popularity` (items,), which counts training
    events. The numerator is the average recommendation popularity of Yin et al. 2012, "Challenging the long tail
    recommendation".
    """
    if not recommended or popularity.sum() == 0:
        return float("nan")
    return float(np.mean([np.mean(popularity[items]) for items in recommended]) / np.mean(popularity))
