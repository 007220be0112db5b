"""Items that the same users liked: what draws item vectors together, so that an unseen item's text finds its users.

Reads Arrays (TRAIN positives of each domain's ranked task), returns what one training step compares. Knows nothing of
models. After Wei et al., "Contrastive learning for cold-start recommendation", 2021 (content is aligned with
collaboration); the target is a whole distribution over sampled items, not one partner.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mtrec_edge_compress.baselines.signals import Signals, Sparse, ranked_signals
from mtrec_edge_compress.data.arrays import Arrays, FloatArray, IntArray

REFERENCES = 256  # items of each domain that a step compares with, drawn anew each step
LEAST_POSITIVES = 2  # of an item whose company says something
SHRINKAGE = 5.0  # pseudo-users behind a similarity
TEMPERATURE = 0.02  # of the similarities in a target


@dataclass(frozen=True)
class Company:
    """Items of one domain, and the distribution over references that each query's company makes."""

    references: IntArray  # (references,) catalogue rows
    fresh: IntArray  # (fresh,) catalogue rows of the queries that a step encodes
    cached: IntArray  # (cached,) places among the references, queries too
    target: FloatArray  # (fresh + cached, references) sums to 1 in each row
    other: FloatArray  # (fresh + cached, references) 0 where a query meets itself, else 1
    share: FloatArray  # (fresh + cached,) weights; over all domains and processes both kinds sum to 1/2


@dataclass(frozen=True)
class CoConsumption:
    """Who liked what in the TRAIN fold; `unread` items are nobody's company."""

    arrays: Arrays
    unread: IntArray  # catalogue rows

    @cached_property
    def domains(self) -> tuple[Signals, ...]:
        """Return the events of each domain's first ranked task."""
        return tuple(ranked_signals(self.arrays).values())

    @cached_property
    def rows(self) -> IntArray:
        """Return the catalogue rows of items that have company, ascending."""
        return np.sort(np.concatenate([np.zeros(0, np.int64), *(rows for rows, _ in self._items)]))

    @cached_property
    def _items(self) -> tuple[tuple[IntArray, Sparse], ...]:
        """Each domain's rows with company, and their likes (users, rows)."""
        found = []
        for signals in self.domains:
            own = np.flatnonzero(signals.popularity >= LEAST_POSITIVES)
            own = own[~np.isin(own + signals.rows.start, self.unread)]
            found.append((own + signals.rows.start, signals.positives.tocsc()[:, own]))
        return tuple(found)

    def sample(self, rng: np.random.Generator, texts: IntArray, mine: slice) -> list[Company]:
        """Return what one process compares in a step: `texts` are the rows that all processes together encode.

        Queries are those of `texts` that have company, and the references themselves. A query weighs sqrt(log(1 + its
        positives)): the more there are, the surer its company is.
        """
        first = np.unique(texts, return_index=True)[1]  # a text that came twice is one query
        own = texts[np.intersect1d(first, np.arange(len(texts))[mine])]
        parts = []
        for rows, likes in self._items:
            if len(rows) > 1:
                references = rng.choice(len(rows), min(REFERENCES, len(rows)), replace=False)
                parts.append((rows, likes, references))
        fresh_total = sum(_weight(likes, np.flatnonzero(np.isin(rows, texts))).sum() for rows, likes, _ in parts)
        cached_total = sum(_weight(likes, references).sum() for _, likes, references in parts)
        found = []
        for rows, likes, references in parts:
            fresh = np.flatnonzero(np.isin(rows, own))
            queries = np.concatenate([fresh, references[mine]])
            other = queries[:, None] != references[None, :]
            total = np.repeat([fresh_total, cached_total], [len(fresh), len(references[mine])])
            found.append(
                Company(
                    rows[references],
                    rows[fresh],
                    np.arange(len(references))[mine],
                    _target(likes, queries, references, other),
                    other.astype(np.float32),
                    (_weight(likes, queries) / (2 * total)).astype(np.float32),
                )
            )
        return found


def _weight(likes: Sparse, items: IntArray) -> FloatArray:
    weight: FloatArray = np.sqrt(np.log1p(_count(likes, items)))
    return weight


def _count(likes: Sparse, items: IntArray) -> FloatArray:
    count: FloatArray = np.diff(likes.indptr)[items].astype(np.float32)
    return count


def _target(likes: Sparse, queries: IntArray, references: IntArray, other: npt.NDArray[np.bool_]) -> FloatArray:
    """Return softmax over `other` references of users in common / (sqrt(users of both) + shrinkage)."""
    common = (likes[:, queries].T @ likes[:, references]).toarray()
    both = np.sqrt(np.outer(_count(likes, queries), _count(likes, references)))
    logits = common / (both + SHRINKAGE) / TEMPERATURE
    logits[~other] = -np.inf
    weight = np.exp(logits - logits.max(axis=1, keepdims=True, initial=0.0))
    target: FloatArray = (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)
    return target
