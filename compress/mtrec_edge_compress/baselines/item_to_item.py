"""Rank by what a user liked: score of a candidate = sum of its weights from the liked items.

Item-kNN, EASE and TF-IDF neighbours differ only in where the weights come from. Popularity orders what they leave tied.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.linalg import lapack

from mtrec_edge_compress.baselines.signals import Signals, Sparse
from mtrec_edge_compress.data.arrays import History, IntArray
from mtrec_edge_compress.judgement import Scores
from mtrec_edge_runtime.errors import DataError

EASE_LEAST_USERS = 2  # items with fewer TRAIN positives say nothing of co-occurrence
EASE_MOST_ITEMS = 8_000  # the closed form inverts (items, items): 8,000 take 256 MB in float32
EASE_TUNING_ITEMS = 4_000  # most popular items a penalty is chosen on
_CHUNK = 512  # candidates whose similarities are dense at one time


@dataclass(frozen=True)
class Popularity:
    """Score every item by its number of TRAIN positives, whoever asks."""

    signals: Signals

    def scores(self, history: History) -> Scores:
        """Return log(1 + positives), (items,)."""
        logarithm: Scores = np.log1p(self.signals.popularity)
        return logarithm


@dataclass(frozen=True)
class RecentPopularity:
    """Score every item by its TRAIN positives, the late ones counting more, whoever asks."""

    item_scores: Scores  # (items,)

    def scores(self, history: History) -> Scores:
        """Return log(1 + weighted positives), (items,)."""
        return self.item_scores


def fit_recent_popularity(signals: Signals, *, half_life: float) -> RecentPopularity | None:
    """Return positives weighted by 0.5^(age / half_life); None without times.

    An event's age is a share of the time between the first and the latest TRAIN event.
    Ji et al. 2020, "A re-visit of the popularity baseline in recommender systems".
    """
    _, item, label = signals.labelled
    times = signals.times
    span = int(np.ptp(times)) if len(times) else 0
    if span == 0:
        return None
    age = (times.max() - times) / span
    weight = np.where(label > 0.5, 0.5 ** (age / half_life), 0.0)
    return RecentPopularity(np.log1p(np.bincount(item, weight, signals.items)))


@dataclass(frozen=True)
class ItemToItem:
    """Add up weights of the liked items."""

    signals: Signals
    weights: Any  # (kept, kept), liked item -> candidate; ndarray or csr_array
    kept: IntArray | None = None  # the items the weights are about; None: all
    recent: bool = False  # whether late likes count more

    def scores(self, history: History) -> Scores:
        """Return sum_j share_j weights[j, candidate] over liked j, plus the tie break, (items,).

        `share` is 1, or 0.3 + 0.5^(age / 10) with age 0 for the latest like.
        """
        liked = self.signals.liked(history)
        share = 0.3 + 0.5 ** (self.signals.age(history) / 10) if self.recent else np.ones(len(liked))
        total = self.signals.tie_break.copy()
        if self.kept is None:
            total += np.asarray(self.weights[liked].T @ share).ravel()
        else:
            known = np.isin(liked, self.kept, assume_unique=True)
            rows = np.searchsorted(self.kept, liked[known])
            total[self.kept] += np.asarray(self.weights[rows].T @ share[known]).ravel()
        return total


@dataclass(frozen=True)
class Profile:
    """Score by the inner product of a candidate's row with the sum of the liked items' rows."""

    signals: Signals
    features: Sparse  # (items, words), unit rows

    def scores(self, history: History) -> Scores:
        """Return features @ sum_j features[j] over liked j, plus the tie break, (items,)."""
        liked = self.signals.liked(history)
        profile = np.asarray(self.features[liked].sum(axis=0)).ravel()
        total: Scores = self.signals.tie_break + np.asarray(self.features @ profile).ravel()
        return total


@dataclass(frozen=True)
class Neighbours:
    """The nearest items of each candidate, nearest first."""

    signals: Signals
    items: IntArray  # (candidates, k)
    similarity: Scores  # (candidates, k), 0 where there is no neighbour

    def nearest(self, k: int) -> ItemToItem:
        """Return the model in which each candidate hears its k nearest items."""
        candidates, width = self.items.shape[0], min(k, self.items.shape[1])
        place = (self.items[:, :width].ravel(), np.repeat(np.arange(candidates), width))
        shape = (candidates, candidates)
        weights = sparse.csr_array((self.similarity[:, :width].ravel(), place), shape=shape)
        weights.eliminate_zeros()
        return ItemToItem(self.signals, weights)


def item_neighbours(signals: Signals, *, most: int, shrink: float) -> Neighbours:
    """Return item-kNN's neighbours: shrunk cosine of the items' users, c_ij / (sqrt(n_i n_j) + shrink).

    Sarwar et al. 2001; Deshpande and Karypis 2004, "Item-based top-N recommendation algorithms".
    """
    by_item = sparse.csr_array(signals.positives.T)
    norm = np.sqrt(signals.popularity).astype(np.float32)

    def similarity(rows: slice) -> Scores:
        shared: Scores = (by_item[rows] @ signals.positives).toarray()
        bottom = norm[rows, None] * norm[None, :] + np.float32(shrink)
        np.divide(shared, bottom, out=shared, where=bottom > 0)  # where it is 0 nothing is shared
        return shared

    return _neighbours(signals, similarity, most, np.ones(signals.items, bool))


def text_neighbours(signals: Signals, features: Sparse, *, most: int) -> Neighbours:
    """Return each item's nearest warm items by cosine of their texts; cold items have neighbours too."""
    transposed = sparse.csr_array(features.T)

    def similarity(rows: slice) -> Scores:
        dense: Scores = (features[rows] @ transposed).toarray()
        return dense

    return _neighbours(signals, similarity, most, ~signals.arrays.cold[signals.rows])


def _neighbours(
    signals: Signals, similarity: Callable[[slice], Scores], most: int, allowed: npt.NDArray[np.bool_]
) -> Neighbours:
    """Return the `most` nearest allowed items of each candidate, never itself."""
    count = signals.items
    k = min(most, count)
    items, values = np.empty((count, k), np.int32), np.empty((count, k), np.float32)
    for start in range(0, count, _CHUNK):
        rows = slice(start, min(start + _CHUNK, count))
        dense = similarity(rows)
        dense[:, ~allowed] = 0.0
        dense[np.arange(dense.shape[0]), np.arange(rows.start, rows.stop)] = 0.0
        best = np.argpartition(dense, count - k, axis=1)[:, count - k :]
        order = np.argsort(-np.take_along_axis(dense, best, axis=1), axis=1)
        items[rows] = np.take_along_axis(best, order, axis=1)
        values[rows] = np.take_along_axis(dense, items[rows].astype(np.int64), axis=1)
    return Neighbours(signals, items.astype(np.int64), values)


def ease_items(count: IntArray, *, most: int = EASE_MOST_ITEMS) -> IntArray:
    """Return the items EASE is fitted on, ascending: the `most` popular of those with >= EASE_LEAST_USERS positives.

    `count` (items,) is each item's number of users with a positive.
    """
    order = np.argsort(-count, kind="stable")[:most]
    return np.sort(order[count[order] >= EASE_LEAST_USERS])


def fit_ease(signals: Signals, *, penalty: float, most: int = EASE_MOST_ITEMS) -> ItemToItem:
    """Return EASE over `ease_items`; the others score by popularity alone, below every item with a positive weight."""
    kept = ease_items(signals.popularity, most=most)
    return ItemToItem(signals, ease_weights(gram_matrix(signals.positives[:, kept]), penalty), kept)


def gram_matrix(positives: Sparse) -> Scores:
    """Return X'X of a 0/1 matrix (users, items), dense float32 (items, items)."""
    return np.asarray((positives.T @ positives).toarray(), np.float32, order="F")


def ease_weights(gram: Scores, penalty: float) -> Scores:
    """Return EASE's weights (items, items), liked item -> candidate; `gram` is X'X.

    B = I - P diag(P)^-1, P = (X'X + penalty I)^-1. Steck 2019, "Embarrassingly shallow autoencoders for sparse data".
    Raise DataError when the matrix is singular.
    """
    damped = gram.copy(order="F")
    damped[np.diag_indices(len(damped))] += penalty
    factor, failed = lapack.spotrf(damped, lower=1, overwrite_a=1)
    inverse, singular = lapack.spotri(factor, lower=1, overwrite_c=1)
    if failed or singular:
        raise DataError(f"EASE: X'X + {penalty} I is singular over {len(gram)} items; raise the penalty")
    weights: Scores = np.tril(inverse) + np.tril(inverse, -1).T
    weights /= -np.diag(weights)
    np.fill_diagonal(weights, 0.0)
    return weights
