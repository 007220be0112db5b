"""A scorer that is shown less than a whole history: a new user's first events, or one liked item.

So a bundle is judged on new users and on similar items by the protocol of everybody else: what the user does next.
Knows nothing of metrics.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from mtrec_edge_compress.baselines.signals import Signals, ranked_signals
from mtrec_edge_compress.data.arrays import Arrays, History, IntArray
from mtrec_edge_compress.judgement import Scores
from mtrec_edge_runtime.errors import InputError
from mtrec_edge_runtime.recommender import Recommender


class PairScorer(Protocol):
    """Scores a user's whole domain."""

    def pair_scores(self, history: History, domain: str) -> Mapping[str, Scores]:
        """Return task -> (items of the domain,)."""
        ...


@dataclass(frozen=True)
class PairsOnly:
    """Judges no texts."""

    def class_logits(self, task: str, rows: IntArray) -> Scores:
        """Refuse."""
        raise InputError(f"task {task}: this view judges pairs of user and item alone")

    def tags(self, task: str, rows: IntArray) -> list[list[str]]:
        """Refuse."""
        raise InputError(f"task {task}: this view judges pairs of user and item alone")


@dataclass(frozen=True)
class NewUser(PairsOnly):
    """Shows a scorer the latest events alone, as if the user had just come."""

    scorer: PairScorer
    events: int

    def pair_scores(self, history: History, domain: str) -> Mapping[str, Scores]:
        """Return what the scorer says of these events."""
        return self.scorer.pair_scores(_part(history, np.arange(len(history.items))[: self.events]), domain)


@dataclass(frozen=True)
class AfterOneLike(PairsOnly):
    """Shows a scorer the latest liked item alone."""

    scorer: PairScorer
    arrays: Arrays

    @cached_property
    def _signals(self) -> dict[str, Signals]:
        return ranked_signals(self.arrays)

    def pair_scores(self, history: History, domain: str) -> Mapping[str, Scores]:
        """Return what the scorer says of that item, or of an empty history."""
        return self.scorer.pair_scores(_part(history, self._signals[domain].likes(history)[:1]), domain)


@dataclass(frozen=True)
class SimilarItems(PairsOnly):
    """Scores by how far up `Recommender.similar` lists an item for the one item of the history."""

    recommender: Recommender
    arrays: Arrays

    @cached_property
    def _place(self) -> dict[str, dict[str, int]]:
        rows = self.arrays.domains.items()
        return {domain: {item: at for at, item in enumerate(self.arrays.item_ids[own])} for domain, own in rows}

    def pair_scores(self, history: History, domain: str) -> Mapping[str, Scores]:
        """Return the similarity of every item, all 0 for an empty history."""
        place = self._place[domain]
        scores = np.zeros(len(place))
        for item in history.items[:1]:
            for near in self.recommender.similar(self.arrays.item_ids[item], domain=domain, k=len(place)):
                scores[place[near.item]] = near.score
        return {task.name: scores for task in self.arrays.tasks if task.negatives and task.domain == domain}


def _part(history: History, rows: IntArray) -> History:
    return replace(history, items=history.items[rows], behaviours=history.behaviours[rows], values=history.values[rows])
