"""What evaluation asks of a model, a baseline or a bundle, and what it hands back. Knows nothing of metrics."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mtrec_edge_compress.bootstrap import interval, metric_draws
from mtrec_edge_compress.data.arrays import History, IntArray

Interval = tuple[float, float]
Measures = Mapping[str, Callable[[IntArray], float]]  # metric -> its value on these rows, nan where undefined
Scores = npt.NDArray[np.floating[Any]]


class Scorer(Protocol):
    """Anything that can be evaluated."""

    def pair_scores(self, history: History, domain: str) -> Mapping[str, Scores]:
        """Return task -> scores of every item of the domain, (rows of the domain,), for one user.

        Regression in the task's units; binary as a logit, or as any score that grows with the probability. A ranked
        task's catalogue is ordered by `task.order` where that is there, else by the task's own scores.
        """
        ...

    def class_logits(self, task: str, rows: IntArray) -> Scores:
        """Return (rows, labels) logits of a multiclass task; `rows` are catalogue rows or texts, by its source."""
        ...

    def tags(self, task: str, rows: IntArray) -> list[list[str]]:
        """Return one label a word of `Arrays.text_tokens` for these texts."""
        ...


@dataclass(frozen=True)
class Judgement:
    """What was measured of one task."""

    metrics: dict[str, float] = field(default_factory=dict)  # those that could be measured
    counts: dict[str, int] = field(default_factory=dict)  # on how much
    chance: dict[str, float] = field(default_factory=dict)  # metric -> what no knowledge gives, for retention
    per_user: dict[str, Scores] = field(default_factory=dict)  # metric -> (users or rows,), nan where undefined
    reliability: tuple[Scores, ...] = ()  # of a probability: mean, share of positives and events of each bin
    draws: dict[str, Scores] = field(
        default_factory=dict
    )  # metric -> its value when users are drawn anew, if asked for

    @property
    def intervals(self) -> dict[str, Interval]:
        """Return each drawn metric's 95 % bounds."""
        bounds = {name: interval(values) for name, values in self.draws.items()}
        return {name: both for name, both in bounds.items() if not np.isnan(both[0])}

    def joined(self, other: "Judgement") -> "Judgement":
        """Return both judgements as one."""
        return Judgement(
            self.metrics | other.metrics,
            self.counts | other.counts,
            self.chance | other.chance,
            self.per_user | other.per_user,
            self.reliability or other.reliability,
            self.draws | other.draws,
        )


def measured(measures: Measures, group: IntArray, *, drawn: bool) -> Judgement:
    """Return the metrics that can be measured on all rows, `drawn` also for groups drawn anew.

    `group` (rows,) numbers the user or text of each row.
    """
    rows = np.arange(len(group))
    values = {name: measure(rows) for name, measure in measures.items()}
    known = {name: value for name, value in values.items() if not np.isnan(value)}
    return Judgement(known, draws={name: metric_draws(measures[name], group) for name in known} if drawn else {})
