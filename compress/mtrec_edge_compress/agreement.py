"""How far do two encoders rank alike? One pool of users and candidates a domain, ranked by the same ranker.

Reads token ids, histories and priors; knows nothing of limits. Cosine between vectors would mislead: it can be 0.9999
while half of the top ten changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import kendalltau

from mtrec_edge_compress.cores import on_every_core
from mtrec_edge_compress.data.arrays import Arrays, FloatArray, History, IntArray
from mtrec_edge_compress.data.schema import Fold
from mtrec_edge_compress.graphs import Graphs
from mtrec_edge_runtime.neighbours import Neighbours
from mtrec_edge_runtime.tasks import ORDER, order_name

TOP = 10

Scores = npt.NDArray[np.floating]


@dataclass(frozen=True)
class PoolUser:
    """One user's latest events, latest first, as the ranker reads them."""

    items: IntArray  # (events,) positions in the pool's ids
    behaviours: IntArray  # (events,)
    values: FloatArray  # (events,) as the ranker reads them
    affinity: FloatArray  # (candidates, events)


@dataclass(frozen=True)
class Pool:
    """Users and candidates of one domain."""

    domain: str
    ids: tuple[IntArray, ...]  # token ids: of the candidates, then of items that stand in histories alone
    priors: FloatArray  # (candidates, 3)
    users: tuple[PoolUser, ...]


def make_pool(
    arrays: Arrays,
    ids: Sequence[IntArray],
    domain: str,
    *,
    neighbours: Neighbours,
    max_history: int,
    candidates: int = 500,
    users: int = 50,
    seed: int = 0,
) -> Pool:
    """Draw candidates of a domain and users with an event in it, all of them when there are fewer.

    `ids` holds the token ids of every catalogue row. Histories are those the TEST fold is predicted from.
    """
    rng = np.random.default_rng(seed)
    rows = np.arange(len(arrays.item_ids))[arrays.domains[domain]]
    chosen = np.sort(rng.permutation(rows)[:candidates])
    histories: list[History] = []
    for user in rng.permutation(len(arrays.user_ids)):
        latest = arrays.history(int(user), Fold.TEST).latest(max_history)
        if np.isin(latest.items, rows).any():
            histories.append(latest)
        if len(histories) == users:
            break
    extra = {int(row) for history in histories for row in history.items} - set(chosen.tolist())
    place = {row: number for number, row in enumerate([*chosen.tolist(), *sorted(extra)])}
    pool_users = tuple(
        _pool_user(arrays, history, place, neighbours.affinity(history.items, chosen)) for history in histories
    )
    return Pool(domain, tuple(ids[row] for row in place), arrays.priors[chosen], pool_users)


def ranking_agreement(reference: Graphs, other: Graphs, pool: Pool) -> dict[str, dict[str, float]]:
    """Return each pairwise task's `top10_overlap` and `kendall_tau`, means over the pool's users; {} without users."""
    if not pool.users:
        return {}
    first, second = (_pool_scores(graphs, pool) for graphs in (reference, other))
    return {
        task: {
            "top10_overlap": float(
                np.mean([top_overlap(a, b) for a, b in zip(first[task], second[task], strict=True)])
            ),
            "kendall_tau": float(
                np.mean([rank_correlation(a, b) for a, b in zip(first[task], second[task], strict=True)])
            ),
            "users": len(pool.users),
            "candidates": len(pool.priors),
        }
        for task in first
    }


def top_overlap(reference: Scores, other: Scores) -> float:
    """Return the share of the reference's ten highest scores that are among the other's ten highest."""
    kept, found = (set(np.argsort(-scores, kind="stable")[:TOP].tolist()) for scores in (reference, other))
    return len(kept & found) / len(kept)


def rank_correlation(reference: Scores, other: Scores) -> float:
    """Return Kendall's tau-b. It is undefined where a side is constant: then 1 when both are, else 0."""
    constant = [bool(np.ptp(scores) == 0) for scores in (reference, other)]
    if any(constant):
        return float(all(constant))
    return float(kendalltau(reference, other).statistic)


def _pool_user(arrays: Arrays, history: History, place: dict[int, int], affinity: FloatArray) -> PoolUser:
    items = np.array([place[row] for row in history.items.tolist()], np.int64)
    return PoolUser(items, history.behaviours, arrays.surprise(history), affinity)


def _inputs(user: PoolUser, pool: Pool, vectors: FloatArray) -> dict[str, Any]:
    """Return the ranker's inputs for one user and the pool's candidates, whose vectors come first in `vectors`."""
    events = len(user.items)
    return {
        "history": vectors[user.items][None],
        "behaviour": user.behaviours[None],
        "value": user.values[None],
        "age": np.arange(events)[None],
        "history_mask": np.ones((1, events), np.int64),
        "candidates": vectors[: len(pool.priors)][None],
        "priors": pool.priors[None],
        "affinity": user.affinity[None],
    }


def _pool_scores(graphs: Graphs, pool: Pool) -> dict[str, list[FloatArray]]:
    """Return task -> scores (candidates,) of each user; history and candidates come from the same encoder."""
    vectors = graphs.encode(pool.ids).vectors
    own = [name for name in graphs.outputs if name.split(".")[0] == pool.domain and not name.endswith(ORDER)]
    scores: dict[str, list[FloatArray]] = {task: [] for task in own}
    for outputs in on_every_core(lambda user: graphs.rank(_inputs(user, pool, vectors), pool.domain), pool.users):
        for task, found in scores.items():
            found.append(outputs[order_name(task, outputs)][0])
    return scores
