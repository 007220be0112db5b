"""Rank by factors of users and items: iALS and BPR (by the library implicit), and iALS factors predicted from texts.

implicit is an extra, `mtrec-edge[baselines]`: `available` says whether it is there.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
from scipy import sparse
from sklearn.linear_model import Ridge
from threadpoolctl import threadpool_limits

from mtrec_edge_compress.baselines.signals import Signals, Sparse
from mtrec_edge_compress.data.arrays import History
from mtrec_edge_compress.judgement import Scores

FACTORS = 64
ALS_ROUNDS, BPR_ROUNDS = 15, 200


def available() -> bool:
    """Return whether the library implicit is installed."""
    return find_spec("implicit") is not None


class UserFactors(Protocol):
    """Turns a history into a user's factors."""

    def user(self, history: History) -> Scores:
        """Return (factors,)."""
        ...


@dataclass(frozen=True)
class FactorModel:
    """Score by the inner product of the user's factors with each item's."""

    signals: Signals
    users: UserFactors
    items: Scores  # (items, factors)

    def scores(self, history: History) -> Scores:
        """Return items @ user plus the tie break, (items,)."""
        scores: Scores = self.signals.tie_break + self.items @ self.users.user(history)
        return scores


@dataclass(frozen=True)
class FoldedIn:
    """The factors that explain a history best, the items' being fixed."""

    signals: Signals
    model: Any  # implicit's AlternatingLeastSquares

    def user(self, history: History) -> Scores:
        """Return (factors,), zeros for an empty history."""
        liked = self.signals.liked(history)
        row = sparse.csr_matrix(
            (np.ones(len(liked), np.float32), (np.zeros(len(liked), np.int64), liked)), shape=(1, self.signals.items)
        )
        factors: Scores = np.ravel(self.model.recalculate_user(0, row))
        return factors


@dataclass(frozen=True)
class Trained:
    """The factors learned for the user who has this history."""

    table: Scores  # (users, factors)

    def user(self, history: History) -> Scores:
        """Return (factors,), zeros for a user it never saw."""
        factors: Scores = self.table[history.user] if history.user >= 0 else np.zeros(self.table.shape[1])
        return factors


def fit_ials(signals: Signals, *, regularization: float, alpha: float, seed: int) -> FactorModel:
    """Return implicit-feedback ALS; a user's factors are folded in from the history at hand.

    Hu, Koren & Volinsky 2008, "Collaborative filtering for implicit feedback datasets".
    """
    from implicit.cpu.als import AlternatingLeastSquares

    with threadpool_limits(1, "blas"):  # else implicit warns: its own threads and BLAS's get in each other's way
        model = AlternatingLeastSquares(
            FACTORS, regularization=regularization, alpha=alpha, iterations=ALS_ROUNDS, num_threads=1, random_state=seed
        )
        model.fit(sparse.csr_matrix(signals.positives), show_progress=False)
    return FactorModel(signals, FoldedIn(signals, model), np.asarray(model.item_factors))


def fit_bpr(signals: Signals, *, regularization: float, rate: float, seed: int) -> FactorModel:
    """Return BPR with the factors it learned for each user from the TRAIN positives.

    Rendle et al. 2009, "BPR: Bayesian personalized ranking from implicit feedback".
    """
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    with threadpool_limits(1, "blas"):
        model = BayesianPersonalizedRanking(
            FACTORS,
            learning_rate=rate,
            regularization=regularization,
            iterations=BPR_ROUNDS,
            num_threads=1,
            random_state=seed,
        )
        model.fit(sparse.csr_matrix(signals.positives), show_progress=False)
    return FactorModel(signals, Trained(np.asarray(model.user_factors)), np.asarray(model.item_factors))


def fit_text_factors(ials: FactorModel, features: Sparse, *, penalty: float) -> FactorModel:
    """Return iALS whose items without a TRAIN positive have the factors a ridge regression reads from their words.

    Gantner et al. 2010, "Learning attribute-to-feature mappings for cold-start recommendations".
    """
    warm = ials.signals.popularity > 0
    ridge = Ridge(alpha=penalty, solver="sparse_cg", fit_intercept=False)
    ridge.fit(features[np.flatnonzero(warm)], ials.items[warm])
    items = np.where(warm[:, None], ials.items, ridge.predict(features))
    return FactorModel(ials.signals, ials.users, items)
