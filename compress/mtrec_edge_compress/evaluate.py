"""Evaluate anything that scores against a dataset: full ranking, labelled events, cold items, texts.

Reads a Scorer and Arrays, returns an Evaluation. The protocol and how to read it: docs/evaluation.md. Knows nothing
of what is behind the scorer: teacher, student, bundle and baseline are judged by the same lines.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mtrec_edge_compress.bootstrap import Difference, holm, paired_bootstrap
from mtrec_edge_compress.data.arrays import Arrays, IntArray
from mtrec_edge_compress.data.schema import Fold, TaskSpec
from mtrec_edge_compress.judgement import Interval, Judgement, Scorer, Scores, measured
from mtrec_edge_compress.pair_evaluation import domain_users, judge_pairs
from mtrec_edge_runtime import metrics
from mtrec_edge_runtime.errors import InputError
from mtrec_edge_runtime.tasks import Kind

__all__ = [
    "ERRORS",
    "Difference",
    "Evaluation",
    "Scorer",
    "by_history",
    "evaluate",
    "holm",
    "paired_bootstrap",
    "retention",
]

ERRORS = ("rmse", "mae", "log_loss", "ece")  # metrics of which less is better
HISTORY_SLICES = {"0": (0, 0), "1-3": (1, 3), "4-10": (4, 10), ">10": (11, np.inf)}


@dataclass(frozen=True)
class Evaluation:
    """What a scorer reached, task by task; a metric that could not be measured is absent."""

    tasks: dict[str, dict[str, float]]  # task -> metric -> value
    counts: dict[str, dict[str, int]]  # task -> what the values rest on: users, relevant, events, rows ...
    chance: dict[str, dict[str, float]]  # task -> metric -> value without knowledge (for `retention`)
    per_user: dict[str, dict[str, Scores]]  # task -> metric -> (users of the domain,), nan where undefined
    users: dict[str, IntArray]  # domain -> users judged: what row i of `per_user` stands for
    history_events: dict[str, IntArray]  # domain -> how long each of their histories is
    reliability: dict[str, tuple[Scores, ...]] = field(default_factory=dict)  # task -> see `metrics.reliability`
    intervals: dict[str, dict[str, Interval]] = field(default_factory=dict)  # task -> metric -> 95 % bounds over users
    draws: dict[str, dict[str, Scores]] = field(default_factory=dict)  # task -> metric -> value in each draw of users


def evaluate(
    scorer: Scorer,
    arrays: Arrays,
    *,
    fold: Fold = Fold.TEST,
    users_per_domain: int | None = None,
    seed: int = 0,
    tasks: Sequence[str] | None = None,
    calibrated: bool = True,
    drawn: bool = False,
) -> Evaluation:
    """Judge the scorer on one fold.

    `users_per_domain` bounds the users of each domain by a seeded sample (None: all of them); `tasks` names the tasks
    to judge (None: all); `calibrated=False` says that binary scores are no logits, so log loss and ECE are left out;
    `drawn` asks for draws and 95 % bounds of each metric, by drawing users (texts, for a task that has none) anew.
    Raise InputError for an unknown task, scores of a wrong shape, or nan scores.
    """
    chosen = _chosen_tasks(arrays, tasks)
    judged: dict[str, Judgement] = {}
    users: dict[str, IntArray] = {}
    for domain in dict.fromkeys(task.domain for task in chosen if task.source == "events"):
        own = [task for task in chosen if task.source == "events" and task.domain == domain]
        users[domain] = domain_users(arrays, domain, fold, users_per_domain=users_per_domain, seed=seed)
        judged |= judge_pairs(
            scorer,
            arrays,
            domain=domain,
            tasks=own,
            users=users[domain],
            fold=fold,
            calibrated=calibrated,
            drawn=drawn,
        )
    for task in chosen:
        if task.kind is Kind.MULTICLASS:
            judged[task.name] = _judge_classes(scorer, arrays, task, fold, drawn=drawn)
        elif task.kind is Kind.TOKEN:
            judged[task.name] = _judge_tags(scorer, arrays, task, fold, drawn=drawn)
    return Evaluation(
        tasks={task.name: judged[task.name].metrics for task in chosen},
        counts={task.name: judged[task.name].counts for task in chosen},
        chance={task.name: judged[task.name].chance for task in chosen},
        per_user={task.name: judged[task.name].per_user for task in chosen},
        users=users,
        history_events={domain: _history_events(arrays, who, fold) for domain, who in users.items()},
        reliability={task.name: judged[task.name].reliability for task in chosen if judged[task.name].reliability},
        intervals={task.name: judged[task.name].intervals for task in chosen},
        draws={task.name: judged[task.name].draws for task in chosen},
    )


def retention(task: TaskSpec, value: float, reference: float, chance: float) -> float:
    """Return the share of the reference's gain over chance that is kept: (value - chance) / (reference - chance).

    For an error, both differences change sign, so the same formula reads (chance - rmse) / (chance - reference rmse).
    With chance 0 it is the plain ratio. nan when the reference is no better than chance: there is nothing to keep.
    """
    gain = reference - chance
    better = -gain if task.kind is Kind.REGRESSION else gain
    return (value - chance) / gain if better > 0 else float("nan")


def by_history(evaluation: Evaluation, task: TaskSpec, metric: str) -> dict[str, float]:
    """Return a per-user metric's mean over users with 0, 1-3, 4-10 and more than 10 past events (in any domain)."""
    values = evaluation.per_user[task.name][metric]
    length = evaluation.history_events[task.domain]
    result = {}
    for name, (low, high) in HISTORY_SLICES.items():
        own = values[(length >= low) & (length <= high)]
        if (~np.isnan(own)).any():
            result[name] = float(np.nanmean(own))
    return result


def _chosen_tasks(arrays: Arrays, names: Sequence[str] | None) -> list[TaskSpec]:
    if names is None:
        return list(arrays.tasks)
    known = {task.name: task for task in arrays.tasks}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"tasks to evaluate: {', '.join(unknown)} unknown; the dataset has {', '.join(known)}")
    return [known[name] for name in names]


def _history_events(arrays: Arrays, users: IntArray, fold: Fold) -> IntArray:
    """Return each user's number of events before the fold, (users,)."""
    earlier = np.bincount(arrays.event_user[arrays.event_fold < fold], minlength=len(arrays.user_ids))
    return earlier[users]


def _judge_classes(scorer: Scorer, arrays: Arrays, task: TaskSpec, fold: Fold, *, drawn: bool) -> Judgement:
    """Judge one label a text on the fold's items or texts that have one."""
    labels = np.asarray(arrays.labels(task.name), np.int64)
    folds = arrays.item_fold if task.source == "items" else arrays.text_fold
    rows = np.flatnonzero((folds == fold) & (labels >= 0))
    if len(rows) == 0:
        return Judgement()
    logits = scorer.class_logits(task.name, rows)
    expected = (len(rows), len(task.labels))
    if logits.shape != expected or np.isnan(logits).any():
        raise InputError(f"task {task.name}: expected logits of shape {expected} without nan, got {logits.shape}")
    predicted = logits.argmax(axis=1)
    true = labels[rows]
    measures = {
        "macro_f1": lambda rows: metrics.macro_f1(predicted[rows], true[rows]),
        "accuracy": lambda rows: metrics.accuracy(predicted[rows], true[rows]),
    }
    correct = (predicted == true).astype(np.float64)
    found = Judgement({}, {"rows": len(rows)}, {"macro_f1": 0.0, "accuracy": 0.0}, {"correct": correct})
    return measured(measures, np.arange(len(rows)), drawn=drawn).joined(found)


def _judge_tags(scorer: Scorer, arrays: Arrays, task: TaskSpec, fold: Fold, *, drawn: bool) -> Judgement:
    """Judge one label a word on the fold's texts that have them."""
    labels = list(arrays.labels(task.name))
    rows = np.array([i for i in np.flatnonzero(arrays.text_fold == fold) if len(labels[i])], np.int64)
    if len(rows) == 0:
        return Judgement()
    true = [[task.labels[label] for label in labels[row]] for row in rows]
    predicted = scorer.tags(task.name, rows)
    for row, found, expected in zip(rows, predicted, true, strict=True):
        if len(found) != len(expected):
            raise InputError(
                f"task {task.name}: text {row} has {len(expected)} words, the scorer gave {len(found)} labels"
            )
    hits, both = np.array([metrics.span_counts(p, t) for p, t in zip(predicted, true, strict=True)]).T

    def span_f1(rows: IntArray) -> float:
        return metrics.span_f1_of(hits[rows], both[rows])

    alone = np.where(both > 0, 2.0 * hits / np.maximum(both, 1), 1.0)  # no span there and none found: all is right
    counts = {"rows": len(rows), "spans": sum(len(metrics.spans(t)) for t in true)}
    judgement = measured({"span_f1": span_f1}, np.arange(len(rows)), drawn=drawn)
    if not judgement.metrics:  # no span in the truth, none predicted
        return Judgement(counts=counts)
    return judgement.joined(Judgement({}, counts, {"span_f1": 0.0}, {"text_f1": alone}))
