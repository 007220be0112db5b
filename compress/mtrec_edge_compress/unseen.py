"""What a student keeps of its teacher: on items the teacher encoded, and apart on texts the student never saw.

Known items: a task of users and items by its headline metric, with the teacher's item vectors in the catalogue.
Unseen texts: such a task by the headline's `cold_` sibling (strict cold items, no event of which was trained on), a
text task by its headline on its TEST texts; both with the student's own encoder for every text, histories included.
Of these a share has an interval: users (or texts) are drawn anew, the same for teacher and student.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np

from mtrec_edge_compress.bootstrap import interval
from mtrec_edge_compress.data.arrays import FloatArray
from mtrec_edge_compress.data.schema import TaskSpec
from mtrec_edge_compress.evaluate import Evaluation, retention
from mtrec_edge_compress.judgement import Interval
from mtrec_edge_compress.ledger import Draws, Row, TaskMetrics


@dataclass(frozen=True)
class Shares:
    """Task -> share of the teacher's metric above chance that is kept; what could not be judged is absent."""

    tasks: dict[str, float]
    draws: dict[str, FloatArray] = field(default_factory=dict)  # task -> its share for each draw of users or texts

    @property
    def intervals(self) -> dict[str, Interval]:
        """Return each drawn task's 95 % bounds."""
        return {name: interval(values) for name, values in self.draws.items()}

    @property
    def mean_interval(self) -> Interval:
        """Return the mean's 95 % bounds, nan unless every task was drawn; domains are drawn independently."""
        if not self.tasks or self.draws.keys() != self.tasks.keys():
            return float("nan"), float("nan")
        return interval(np.mean(list(self.draws.values()), axis=0))

    @property
    def worst_task(self) -> str:
        """Return the task of which least is kept; there must be one."""
        return min(self.tasks, key=self.tasks.__getitem__)

    @property
    def mean(self) -> float:
        """Return the mean over tasks; nan when none was judged."""
        return fmean(self.tasks.values()) if self.tasks else float("nan")

    @property
    def worst(self) -> float:
        """Return the least share; nan when none was judged."""
        return min(self.tasks.values()) if self.tasks else float("nan")


@dataclass(frozen=True)
class Kept:
    """The two judged apart."""

    seen: Shares
    unseen: Shares


def unseen_metric(task: TaskSpec) -> str:
    """Return the metric that stands for the task on texts never seen."""
    alike = {"gauc": "auc"}.get(task.headline, task.headline)  # a user's AUC is what cold_auc is the mean of
    return f"cold_{alike}" if task.source == "events" else task.headline


def kept_of(teacher: Row, student: Row, tasks: Sequence[TaskSpec]) -> Kept:
    """Return what one row of the ledger keeps of the teacher's."""
    pairs = [task for task in tasks if task.source == "events"]
    seen = {task.name: _share(task, task.headline, teacher, student.known_items) for task in pairs}
    unseen = {task.name: _share(task, unseen_metric(task), teacher, student.tasks) for task in tasks}
    both = teacher.draws.keys() & student.draws.keys()
    drawn = {task.name: _drawn_shares(task, teacher, student) for task in tasks if task.name in both}
    return Kept(_judged(seen, {}), _judged(unseen, drawn))


def unseen_draws(found: Evaluation, tasks: Sequence[TaskSpec]) -> Draws:
    """Return each task's draws of the metric that stands for it on unseen texts, where there are any."""
    drawn = {task.name: found.draws[task.name].get(unseen_metric(task)) for task in tasks}
    return {name: values.tolist() for name, values in drawn.items() if values is not None}


def _share(task: TaskSpec, metric: str, teacher: Row, measured: TaskMetrics) -> float:
    """Return the share kept; nan where a metric is missing or the teacher is no better than chance."""
    reference, value = teacher.tasks.get(task.name, {}).get(metric), measured.get(task.name, {}).get(metric)
    if reference is None or value is None:
        return float("nan")
    return retention(task, value, reference, teacher.chance.get(task.name, {}).get(metric, 0.0))


def _drawn_shares(task: TaskSpec, teacher: Row, student: Row) -> FloatArray:
    """Return the share kept in each draw of users or texts; nan where the teacher of that draw is below chance."""
    chance = teacher.chance.get(task.name, {}).get(unseen_metric(task), 0.0)
    both = zip(student.draws[task.name], teacher.draws[task.name], strict=True)
    return np.array([retention(task, value, reference, chance) for value, reference in both])


def _judged(shares: dict[str, float], drawn: dict[str, FloatArray]) -> Shares:
    known = {name: share for name, share in shares.items() if share == share}  # not nan
    return Shares(known, {name: values for name, values in drawn.items() if name in known})
