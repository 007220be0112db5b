"""What a student keeps of its teacher: on items the teacher encoded, and apart on texts the student never saw.

Known items: a task of users and items by its headline metric, with the teacher's item vectors in the catalogue.
Unseen texts: such a task by the headline's `cold_` sibling (strict cold items, no event of which was trained on), a
text task by its headline on its TEST texts; both with the student's own encoder for every text, histories included.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from mtrec_edge_compress.data.schema import TaskSpec
from mtrec_edge_compress.evaluate import retention
from mtrec_edge_compress.ledger import Row, TaskMetrics


@dataclass(frozen=True)
class Shares:
    """Task -> share of the teacher's metric above chance that is kept; what could not be judged is absent."""

    tasks: dict[str, float]

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
    return Kept(_judged(seen), _judged(unseen))


def _share(task: TaskSpec, metric: str, teacher: Row, measured: TaskMetrics) -> float:
    """Return the share kept; nan where a metric is missing or the teacher is no better than chance."""
    reference, value = teacher.tasks.get(task.name, {}).get(metric), measured.get(task.name, {}).get(metric)
    if reference is None or value is None:
        return float("nan")
    return retention(task, value, reference, teacher.chance.get(task.name, {}).get(metric, 0.0))


def _judged(shares: dict[str, float]) -> Shares:
    return Shares({name: share for name, share in shares.items() if share == share})  # not nan
