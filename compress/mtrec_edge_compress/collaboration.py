"""`collaborate`: what users did together, as sparse item-to-item weights: EASE cut to its greatest, then fitted again.

The weights of a domain are found on the TRAIN positives of its ranked task. The ranker learns to trust them on weights
that were fitted without the user it looks at: else a pair the user made would tell its own label.
Reads Arrays, returns a Collaboration; knows nothing of texts or models.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from mtrec_edge_compress.baselines.baseline import Baseline, on_validation
from mtrec_edge_compress.baselines.item_to_item import (
    EASE_TUNING_ITEMS,
    ItemToItem,
    ease_items,
    ease_weights,
    gram_matrix,
)
from mtrec_edge_compress.baselines.signals import Signals, Sparse, ranked_signals
from mtrec_edge_compress.data.arrays import Arrays, IntArray
from mtrec_edge_compress.judgement import Scores
from mtrec_edge_compress.recipe import Collaborate
from mtrec_edge_runtime.neighbours import Neighbours, make_neighbours, no_neighbours

MOST_LINKS_IN = 256  # of one candidate: its refit solves a system of that size
LEAST_WEIGHT = 1e-6  # of a link


@dataclass(frozen=True)
class Collaboration:
    """The weights a device gets, and those training looks at."""

    whole: Neighbours  # fitted on every user: serving, evaluation
    parts: tuple[Neighbours, ...]  # parts[k]: fitted without the users of part k
    part: IntArray  # (users,) which part a user belongs to

    def of_training(self, user: int) -> Neighbours:
        """Return the weights that never saw this user."""
        return self.parts[int(self.part[user])]


def fit_collaboration(
    arrays: Arrays, settings: Collaborate, *, seed: int, progress: Callable[[str], None] = lambda line: None
) -> tuple[Collaboration, dict[str, str]]:
    """Return the weights of every domain with a ranked task, and what was chosen for each in words."""
    part: IntArray = np.random.default_rng(seed).integers(0, settings.parts, len(arrays.user_ids))
    links: list[list[Links]] = [[] for _ in range(settings.parts + 1)]
    chosen: dict[str, str] = {}
    for domain, signals in ranked_signals(arrays).items() if settings.links else ():
        penalty = _choose_penalty(signals, settings, seed)
        for number in range(settings.parts + 1):  # the last leaves nobody out
            others = sparse.csr_array(sparse.diags_array((part != number) * np.float32(1)) @ signals.positives)
            links[number].append(_domain_links(others, signals.rows.start, penalty, settings.links))
        chosen[domain] = f"lambda={penalty:g}, {len(links[-1][-1].weight):,} links"
        progress(f"collaboration of {domain}: {chosen[domain]}")
    matrices = [_join(found, len(arrays.item_ids)) for found in links]
    return Collaboration(matrices[-1], tuple(matrices[:-1]), part), chosen


@dataclass(frozen=True)
class Links:
    """Weights from the item of an event to a candidate, as catalogue rows."""

    event: IntArray
    candidate: IntArray
    weight: Scores


def sparse_ease(gram: Scores, *, penalty: float, links: int) -> Sparse:
    """Return sparse weights (items, items), liked item -> candidate, `links` an item on average.

    The greatest positive weights of EASE over the whole domain say which links there are (ties with the least of them
    included, at most 256 into one candidate). Each candidate's weights are then fitted again by ridge regression on its
    own links alone, (G_SS + penalty I) b = G_Si. Steck 2019, "Markov random fields for collaborative filtering" (a
    sparse pattern first, local regressions after).
    """
    items = len(gram)
    weights = ease_weights(gram, penalty)
    wanted = min(links * items, items * items - 1)
    least = max(float(np.partition(weights.ravel(), -wanted)[-wanted]), LEAST_WEIGHT)
    columns = []
    for candidate in range(items):
        chosen = np.flatnonzero(weights[:, candidate] >= least)
        if len(chosen) > MOST_LINKS_IN:
            chosen = chosen[np.argsort(-weights[chosen, candidate], kind="stable")[:MOST_LINKS_IN]]
        columns.append(chosen)
    values = [_refit(gram, chosen, candidate, penalty) for candidate, chosen in enumerate(columns)]
    rows = np.concatenate([*columns, np.zeros(0, np.int64)])
    place = (rows, np.repeat(np.arange(items), [len(chosen) for chosen in columns]))
    return sparse.csr_array((np.concatenate([*values, np.zeros(0, np.float32)]), place), shape=(items, items))


def _refit(gram: Scores, chosen: IntArray, candidate: int, penalty: float) -> Scores:
    damped = gram[np.ix_(chosen, chosen)]
    damped[np.diag_indices(len(chosen))] += penalty
    solved: Scores = np.linalg.solve(damped, gram[chosen, candidate])
    return solved


def _domain_links(positives: Sparse, first_row: int, penalty: float, links: int) -> Links:
    """Return the links of one domain; `positives` (users, items of the domain) is 0/1."""
    kept = ease_items(np.asarray(positives.sum(axis=0)).astype(np.int64))
    if not len(kept):
        return Links(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    found = sparse_ease(gram_matrix(positives[:, kept]), penalty=penalty, links=links).tocoo()
    event, candidate = (kept[index] + first_row for index in found.coords)
    return Links(event, candidate, found.data)


def _join(found: list[Links], items: int) -> Neighbours:
    """Return the links of every domain as one matrix over the catalogue."""
    if not found:
        return no_neighbours(items)
    event = np.concatenate([part.event for part in found])
    candidate = np.concatenate([part.candidate for part in found])
    order = np.lexsort((candidate, event))
    start = np.concatenate([[0], np.cumsum(np.bincount(event, minlength=items))])
    return make_neighbours(start, candidate[order], np.concatenate([part.weight for part in found])[order])


def _choose_penalty(signals: Signals, settings: Collaborate, seed: int) -> float:
    """Return the penalty whose sparse weights rank the VALIDATION fold best, tried on the most popular items."""
    kept = ease_items(signals.popularity, most=EASE_TUNING_ITEMS)
    if len(settings.penalties) == 1 or not len(kept):
        return settings.penalties[0]
    gram = gram_matrix(signals.positives[:, kept])
    reached = {}
    for penalty in settings.penalties:
        model = ItemToItem(signals, sparse_ease(gram, penalty=penalty, links=settings.links), kept)
        system = Baseline("collaboration", signals.task.domain, {signals.task.name: model})
        found = on_validation(system, signals.arrays, signals.task.name, users=settings.tuning_users, seed=seed)
        reached[penalty] = found.get("ndcg@10", 0.0)
    return max(reached, key=lambda penalty: reached[penalty])


def save_collaboration(collaboration: Collaboration, path: Path) -> None:
    """Write everything to one .npz, atomically, without pickle."""
    arrays: dict[str, Any] = {"part": collaboration.part}
    for number, matrix in enumerate((*collaboration.parts, collaboration.whole)):
        arrays |= {f"{number}:{name}": getattr(matrix, name) for name in ("start", "item", "code", "scale")}
    new = path.with_name("part-" + path.name)
    np.savez(new, **arrays)
    new.replace(path)


def load_collaboration(path: Path) -> Collaboration:
    """Read what `save_collaboration` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        count = sum(name.endswith(":start") for name in stored.files)
        matrices = [
            Neighbours(*(stored[f"{number}:{name}"] for name in ("start", "item", "code", "scale")))
            for number in range(count)
        ]
        return Collaboration(matrices[-1], tuple(matrices[:-1]), stored["part"])
