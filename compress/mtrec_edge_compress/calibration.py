"""Make probabilities honest: one temperature for each binary task with explicit labels, fitted on the VALIDATION fold.

Probability = sigmoid(logit / temperature). Guo et al. 2017, "On calibration of modern neural networks". It changes no
order. A task whose events are all positive has no frequency to be held to, and keeps temperature 1.
"""

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize_scalar

from mtrec_edge_compress.cores import on_every_core
from mtrec_edge_compress.data.arrays import Arrays
from mtrec_edge_compress.data.schema import Fold, TaskSpec
from mtrec_edge_compress.judgement import Scorer, Scores
from mtrec_edge_compress.pair_evaluation import domain_users
from mtrec_edge_runtime import metrics

RANGE = (0.1, 10.0)  # of a temperature
LEAST_EVENTS = 100  # fewer say nothing reliable


def fit_temperatures(
    scorer: Scorer, arrays: Arrays, *, users_per_domain: int | None = None, seed: int = 0
) -> dict[str, float]:
    """Return task -> temperature, for the explicit binary tasks with at least 100 VALIDATION events of both labels."""
    temperatures = {}
    explicit = [task for task in arrays.tasks if task.source == "events" and task.positive_at is not None]
    for domain in dict.fromkeys(task.domain for task in explicit):
        own = [task for task in explicit if task.domain == domain]
        users = domain_users(arrays, domain, Fold.VALIDATION, users_per_domain=users_per_domain, seed=seed)
        for name, (logits, labels) in _labelled(scorer, arrays, own, users.tolist()).items():
            if len(labels) >= LEAST_EVENTS and len(np.unique(labels)) == 2:
                temperatures[name] = best_temperature(logits, labels)
    return temperatures


def best_temperature(logits: Scores, labels: Scores) -> float:
    """Return the temperature in [0.1, 10] with the least log loss; `logits` and `labels` (events,)."""

    return best_of(lambda temperature: metrics.log_loss(logits / temperature, labels))


def best_of(loss: Callable[[float], float]) -> float:
    """Return the temperature in [0.1, 10] with the least loss."""
    return float(np.exp(minimize_scalar(lambda log: loss(np.exp(log)), bounds=np.log(RANGE), method="bounded").x))


def _labelled(
    scorer: Scorer, arrays: Arrays, tasks: list[TaskSpec], users: list[int]
) -> dict[str, tuple[Scores, Scores]]:
    """Return task -> logits and labels of these users' VALIDATION events, (events,) each."""
    domain = tasks[0].domain
    first = arrays.domains[domain].start
    histories = [arrays.history(user, Fold.VALIDATION) for user in users]
    scored = on_every_core(lambda history: scorer.pair_scores(history, domain), histories)
    found: dict[str, list[tuple[Scores, Scores]]] = {task.name: [] for task in tasks}
    for user, scores in zip(users, scored, strict=True):
        events = np.arange(arrays.user_start[user], arrays.user_start[user + 1])
        events = events[arrays.event_fold[events] == Fold.VALIDATION]
        for task in tasks:
            labels = np.asarray(arrays.labels(task.name))[events]
            kept = ~np.isnan(labels)
            found[task.name].append((scores[task.name][arrays.event_item[events[kept]] - first], labels[kept]))
    return {
        name: (np.concatenate([logits for logits, _ in parts]), np.concatenate([labels for _, labels in parts]))
        for name, parts in found.items()
        if parts
    }
