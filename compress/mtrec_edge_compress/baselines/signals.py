"""What events say about one pair task: the TRAIN matrix, and what a history tells. Knows nothing of models."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from mtrec_edge_compress.data.arrays import Arrays, History, IntArray
from mtrec_edge_compress.data.schema import Fold, TaskSpec
from mtrec_edge_compress.judgement import Scores
from mtrec_edge_runtime.tasks import Kind

Sparse = Any  # scipy.sparse.csr_array
TIE_BREAK = 1e-6  # what popularity may add to a score: it orders ties and users without history, nothing else


@dataclass(frozen=True)
class Signals:
    """One pair task over one domain; items are counted from the domain's first row."""

    arrays: Arrays
    task: TaskSpec

    @property
    def rows(self) -> slice:
        """Return the domain's catalogue rows."""
        return self.arrays.domains[self.task.domain]

    @property
    def items(self) -> int:
        """Return the number of items of the domain."""
        return int(self.rows.stop - self.rows.start)

    @cached_property
    def labelled(self) -> tuple[IntArray, IntArray, Scores]:
        """Return user, item and label of the TRAIN events that carry the label, (events,) each."""
        chosen, label = self._chosen, np.asarray(self.arrays.labels(self.task.name))
        return self.arrays.event_user[chosen], self.arrays.event_item[chosen] - self.rows.start, label[chosen]

    @cached_property
    def times(self) -> IntArray:
        """Return when those events happened, in seconds, (events,)."""
        times: IntArray = self.arrays.event_time[self._chosen]
        return times

    @cached_property
    def _chosen(self) -> Any:
        label = np.asarray(self.arrays.labels(self.task.name))
        return (self.arrays.event_fold == Fold.TRAIN) & ~np.isnan(label)

    @cached_property
    def positives(self) -> Sparse:
        """Return the 0/1 matrix of TRAIN positives, (users, items), float32."""
        user, item, label = self.labelled
        user, item = user[label > 0.5], item[label > 0.5]
        shape = (len(self.arrays.user_ids), self.items)
        matrix = sparse.csr_array((np.ones(len(user), np.float32), (user, item)), shape=shape)
        matrix.data[:] = 1.0  # the constructor adds up repeated events
        return matrix

    @cached_property
    def popularity(self) -> IntArray:
        """Return each item's number of users with a TRAIN positive, (items,)."""
        return np.asarray(self.positives.sum(axis=0)).astype(np.int64).ravel()

    @cached_property
    def tie_break(self) -> Scores:
        """Return popularity scaled to at most TIE_BREAK, (items,)."""
        return TIE_BREAK * self.popularity / max(int(self.popularity.max(initial=0)), 1)

    @cached_property
    def _carries(self) -> Scores:
        """Return whether each of Arrays.behaviours carries the label."""
        task = self.task
        return np.array([b.domain == task.domain and b.name in task.behaviours for b in self.arrays.behaviours])

    def told(self, history: History) -> tuple[IntArray, Scores]:
        """Return items and labels of the history's events that carry the label, latest first."""
        label = self._labels(history)
        kept = ~np.isnan(label)
        return history.items[kept] - self.rows.start, label[kept]

    def likes(self, history: History) -> IntArray:
        """Return which of the history's events are positive, their places, latest first."""
        return np.flatnonzero(self._labels(history) > 0.5)

    def _labels(self, history: History) -> Scores:
        """Return the label of each event of the history, nan where it carries none."""
        values = history.values
        if self.task.kind is Kind.REGRESSION:
            label = values
        elif self.task.positive_at is None:
            label = np.ones_like(values)
        else:
            label = np.where(np.isnan(values), np.nan, values >= self.task.positive_at)
        return np.where(self._carries[history.behaviours], label, np.nan).astype(np.float64)

    def liked(self, history: History) -> IntArray:
        """Return the items the history marks as positive, ascending."""
        items, label = self.told(history)
        return np.unique(items[label > 0.5])

    def age(self, history: History) -> IntArray:
        """Return, for each of the `liked` items, how many of the history's likes are later than its latest one."""
        items, label = self.told(history)
        return np.unique(items[label > 0.5], return_index=True)[1]  # where each stands first, the latest being first


def ranked_signals(arrays: Arrays) -> dict[str, Signals]:
    """Return domain -> the events of its first ranked task, for every domain that has one."""
    found: dict[str, Signals] = {}
    for task in arrays.tasks:
        if task.negatives:
            found.setdefault(task.domain, Signals(arrays, task))
    return found
