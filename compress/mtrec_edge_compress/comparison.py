"""Two models side by side, task by task: relative change, gain on the same users, Delta_m.

Reads what a model reached on the TEST fold. Knows nothing of how the two were trained; comparison_report.py shows them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mtrec_edge_compress.bootstrap import Difference, holm, paired_bootstrap
from mtrec_edge_compress.data.schema import TaskSpec
from mtrec_edge_compress.evaluate import ERRORS, Evaluation
from mtrec_edge_compress.systems_table import PER_USER
from mtrec_edge_compress.unseen import unseen_metric

Reached = Mapping[str, Mapping[str, Mapping[str, Any]]]  # task -> metric -> value, interval, per_user; as JSON has it
HARM = -0.01  # a relative change below it is named


@dataclass(frozen=True)
class Change:
    """What one metric of one task is with two models, on the same users of the TEST fold."""

    task: str
    metric: str  # the task's headline, or that of strict cold items
    first: float
    second: float
    first_interval: Sequence[float] | None  # 95 % bounds over users or texts
    second_interval: Sequence[float] | None
    relative: float | None  # (second - first) / first, + is better; None where `first` is 0
    paired: Difference | None  # of per-user values, + is better, p adjusted by Holm over all changes
    paired_metric: str  # what the per-user values are
    first_values: Sequence[float | None] | None  # (users or texts,), None for whom there is nothing to judge
    second_values: Sequence[float | None] | None

    @property
    def is_headline(self) -> bool:
        """Whether the task is judged by this metric; otherwise it is about strict cold items."""
        return not self.metric.startswith("cold_")


@dataclass(frozen=True)
class Comparison:
    """Every change from a first model to a second."""

    changes: tuple[Change, ...]
    not_measured: tuple[str, ...]  # tasks the TEST fold says nothing of

    @property
    def delta_m(self) -> float:
        """Return the mean relative change of the headlines over tasks; nan when there is none.

        Source: Maninis, Radosavovic & Kokkinos, Attentive single-tasking of multiple tasks, 2019.
        """
        relative = [one.relative for one in self.changes if one.is_headline and one.relative is not None]
        return sum(relative) / len(relative) if relative else math.nan

    @property
    def harmed(self) -> list[Change]:
        """Return the headlines that the second model has worse by more than 1 %."""
        return [one for one in self.changes if one.is_headline and one.relative is not None and one.relative < HARM]


def reached(found: Evaluation, tasks: Sequence[TaskSpec]) -> Reached:
    """Return what a comparison reads of an evaluation, ready for JSON."""
    return {task.name: {metric: _figures(found, task, metric) for metric in _metrics(task)} for task in tasks}


def _metrics(task: TaskSpec) -> list[str]:
    return list(dict.fromkeys([task.headline, unseen_metric(task)]))


def _per_user_name(task: TaskSpec, metric: str) -> str:
    """Return what a user is judged by in the metric's place; of strict cold items NDCG and AUC are themselves means."""
    plain = metric.removeprefix("cold_")
    alike = plain if metric != plain and task.negatives else PER_USER.get(plain, plain)
    return metric.removesuffix(plain) + alike


def _figures(found: Evaluation, task: TaskSpec, metric: str) -> dict[str, Any]:
    values = found.per_user[task.name].get(_per_user_name(task, metric))
    return {
        "value": found.tasks[task.name].get(metric),
        "interval": found.intervals[task.name].get(metric),
        "per_user": None if values is None else [None if math.isnan(value) else float(value) for value in values],
    }


def compare(tasks: Sequence[TaskSpec], first: Mapping[str, Reached], second: Reached) -> Comparison:
    """Compare models task by task; `first` holds, for each task, what the model reached that it is compared with."""
    measured = [
        (task, metric)
        for task in tasks
        for metric in _metrics(task)
        if None not in (_value(first[task.name], task, metric), _value(second, task, metric))
    ]
    made = [_change(task, metric, first[task.name], second) for task, metric in measured]
    adjusted = iter(holm([one.paired.p for one in made if one.paired]))
    made = [replace(one, paired=replace(one.paired, p=next(adjusted))) if one.paired else one for one in made]
    headlines = {one.task for one in made if one.is_headline}
    return Comparison(tuple(made), tuple(task.name for task in tasks if task.name not in headlines))


def _value(model: Reached, task: TaskSpec, metric: str) -> float | None:
    value: float | None = model[task.name].get(metric, {}).get("value")
    return value


def _change(task: TaskSpec, metric: str, first: Reached, second: Reached) -> Change:
    one, other = first[task.name][metric], second[task.name][metric]
    sign = -1.0 if metric.removeprefix("cold_") in ERRORS else 1.0
    relative = sign * (other["value"] - one["value"]) / one["value"] if one["value"] else None
    return Change(
        task.name,
        metric,
        one["value"],
        other["value"],
        one["interval"],
        other["interval"],
        relative,
        _paired(one["per_user"], other["per_user"], sign),
        _per_user_name(task, metric),
        one["per_user"],
        other["per_user"],
    )


def _paired(
    first: Sequence[float | None] | None, second: Sequence[float | None] | None, sign: float
) -> Difference | None:
    if first is None or second is None:
        return None
    values = [sign * np.array(each, np.float64) for each in (second, first)]
    if np.isnan(values[0] - values[1]).all():
        return None
    return paired_bootstrap(*values)
