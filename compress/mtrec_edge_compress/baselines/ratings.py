"""Predict amounts and explicit labels: the item's mean, user and item bias, and what factors or texts add to it.

All of them read the user from the history alone, as a device would, so a new user needs no refit.
"""

from dataclasses import dataclass

import numpy as np

from mtrec_edge_compress.baselines.signals import Signals, Sparse
from mtrec_edge_compress.data.arrays import History, IntArray
from mtrec_edge_compress.data.biases import alternating_biases, shrunk_means
from mtrec_edge_compress.judgement import Scores

_TEXT_EVENTS = 300  # latest events a user's text profile is solved from
_ITEM_SHRINK = 5.0
_FACTORS, _FACTOR_ROUNDS = 16, 6


@dataclass(frozen=True)
class ItemMean:
    """Predict the item's mean label, drawn towards the domain's, whoever asks."""

    item_scores: Scores  # (items,)

    def scores(self, history: History) -> Scores:
        """Return the item means, (items,)."""
        return self.item_scores


def fit_item_mean(signals: Signals) -> ItemMean:
    """Return mu + sum(label - mu) / (n + 5) of each item's TRAIN labels."""
    _, item, label = signals.labelled
    mean = float(label.mean()) if len(label) else 0.0
    return ItemMean(mean + shrunk_means(item, label - mean, signals.items, _ITEM_SHRINK))


@dataclass(frozen=True)
class Bias:
    """Predict mean + item bias + user bias, the last from the history."""

    signals: Signals
    mean: float
    item_bias: Scores  # (items,)
    user_shrink: float

    def scores(self, history: History) -> Scores:
        """Return mu + b_i + b_u, b_u = sum(label - mu - b_i) / (n + shrink) over the history, (items,)."""
        items, labels = self.signals.told(history)
        residual = labels - self.mean - self.item_bias[items]
        predicted: Scores = self.mean + self.item_bias + residual.sum() / (len(items) + self.user_shrink)
        return predicted


def fit_bias(signals: Signals, *, item_shrink: float, user_shrink: float) -> Bias:
    """Return user and item biases by alternating shrunk means. Koren 2010, "Factor in the neighbors", section 2.1."""
    user, item, label = signals.labelled
    mean = float(label.mean()) if len(label) else 0.0
    _, item_bias = alternating_biases(
        user,
        item,
        label - mean,
        users=len(signals.arrays.user_ids),
        items=signals.items,
        user_shrink=user_shrink,
        item_shrink=item_shrink,
    )
    return Bias(signals, mean, item_bias, user_shrink)


@dataclass(frozen=True)
class BiasedFactors:
    """Add to the bias the inner product of item factors and the user's, the latter solved from the history."""

    bias: Bias
    items: Scores  # (items, factors)
    penalty: float

    def scores(self, history: History) -> Scores:
        """Return mu + b_i + b_u + q_i . p_u, p_u = (Q'Q + penalty I)^-1 Q' r over the history's labelled items."""
        base = self.bias.scores(history)
        items, labels = self.bias.signals.told(history)
        predicted: Scores = base + self.items @ _solve(self.items[items], labels - base[items], self.penalty)
        return predicted


def fit_biased_factors(bias: Bias, *, penalty: float, seed: int) -> BiasedFactors:
    """Return biased matrix factorisation by alternating ridge regressions on the residuals of the bias.

    Koren, Bell & Volinsky 2009, "Matrix factorization techniques for recommender systems".
    """
    user, item, label = bias.signals.labelled
    users = len(bias.signals.arrays.user_ids)
    residual = label - bias.mean - bias.item_bias[item]
    residual -= shrunk_means(user, residual, users, bias.user_shrink)[user]
    of_user, of_item = _rows_of(user, users), _rows_of(item, bias.signals.items)
    items = np.random.default_rng(seed).normal(0.0, 0.1, (bias.signals.items, _FACTORS))
    for _ in range(_FACTOR_ROUNDS):
        people = np.stack([_solve(items[item[rows]], residual[rows], penalty) for rows in of_user])
        items = np.stack([_solve(people[user[rows]], residual[rows], penalty) for rows in of_item])
    return BiasedFactors(bias, items, penalty)


def _rows_of(group: IntArray, groups: int) -> list[IntArray]:
    """Return the rows of each group."""
    order = np.argsort(group, kind="stable")
    return np.split(order, np.cumsum(np.bincount(group, minlength=groups))[:-1])


def _solve(known: Scores, residual: Scores, penalty: float) -> Scores:
    """Return the ridge regression of residuals (rows,) on factors (rows, factors); zeros without rows."""
    if not len(known):
        return np.zeros(known.shape[1])
    solved: Scores = np.linalg.solve(known.T @ known + penalty * np.eye(known.shape[1]), known.T @ residual)
    return solved


@dataclass(frozen=True)
class TextRidge:
    """Add to the bias what the user's residuals say about words: a ridge regression a user, solved in its dual."""

    bias: Bias
    features: Sparse  # (items, words), unit rows
    penalty: float

    def scores(self, history: History) -> Scores:
        """Return bias + F F_h' (F_h F_h' + penalty I)^-1 r over the latest 300 labelled events, (items,)."""
        base = self.bias.scores(history)
        items, labels = self.bias.signals.told(history)
        items, labels = items[:_TEXT_EVENTS], labels[:_TEXT_EVENTS]
        if len(items) == 0:
            return base
        own = self.features[items]
        kernel = (own @ own.T).toarray() + self.penalty * np.eye(len(items))
        word_weights = np.asarray(own.T @ np.linalg.solve(kernel, labels - base[items])).ravel()
        predicted: Scores = base + np.asarray(self.features @ word_weights).ravel()
        return predicted
