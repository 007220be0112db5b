"""The cross-encoder beside the tower on the VALIDATION fold, on the same few candidates: which reads a user better?

Each held-out positive stands among sampled items the user had nothing to do with; amounts are predicted for held-out
events. Only readable items take part (see cross_encoder.py). Figures among sampled candidates tell systems apart; they
are not those of a full ranking (Krichene & Rendle, On sampled metrics for item recommendation, 2020).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mtrec_edge_compress.cross_encoder import CrossModel, Reader
from mtrec_edge_compress.data.arrays import Arrays, FloatArray, History, IntArray
from mtrec_edge_compress.data.balance import sample_negatives
from mtrec_edge_compress.data.schema import Fold, TaskSpec
from mtrec_edge_compress.pair_evaluation import K, domain_users
from mtrec_edge_compress.scorer import VectorScorer
from mtrec_edge_runtime import metrics
from mtrec_edge_runtime.errors import InputError
from mtrec_edge_runtime.tasks import Kind, order_name

TOWER, CROSS, MEAN = "tower", "cross_encoder", "mean"
Scores = Mapping[str, FloatArray]  # output -> (items,)


@dataclass
class _Found:
    """What is gathered of one task, by system."""

    ndcg: dict[str, list[float]] = field(default_factory=dict)
    auc: dict[str, list[float]] = field(default_factory=dict)
    predicted: dict[str, list[float]] = field(default_factory=dict)
    labels: list[float] = field(default_factory=list)  # of the amounts, or a 1 for each positive


def compare(
    tower: VectorScorer,
    model: CrossModel,
    reader: Reader,
    arrays: Arrays,
    *,
    candidates: int,
    users_per_domain: int | None,
    seed: int,
) -> dict[str, Any]:
    """Return candidates, and task -> metric -> system -> value, beside how many positives or amounts it was."""
    model.eval()
    found: dict[str, _Found] = {}
    tasks = [task for task in arrays.tasks if task.source == "events" and (task.negatives or _amount(task))]
    for domain in dict.fromkeys(task.domain for task in tasks):
        own = [task for task in tasks if task.domain == domain]
        users = domain_users(arrays, domain, Fold.VALIDATION, users_per_domain=users_per_domain, seed=seed)
        rng = np.random.default_rng((seed, 9, list(arrays.domains).index(domain)))
        for user in users.tolist():
            events, others = _pool(arrays, reader, user, domain, candidates, rng)
            if not len(events):
                continue
            items = np.concatenate([arrays.event_item[events], others])
            scores = _all_scores(tower, model, reader, arrays.history(user, Fold.VALIDATION), items, domain)
            for task in own:
                labels = np.asarray(arrays.labels(task.name), np.float32)[events]
                _add(found.setdefault(task.name, _Found()), task, labels, scores)
    return {"candidates": candidates, "tasks": {name: _measured(part) for name, part in found.items() if part.labels}}


def _amount(task: TaskSpec) -> bool:
    return task.kind is Kind.REGRESSION


def _pool(
    arrays: Arrays, reader: Reader, user: int, domain: str, candidates: int, rng: np.random.Generator
) -> tuple[IntArray, IntArray]:
    """Return the user's readable VALIDATION events in the domain and sampled items without any event of theirs."""
    span = arrays.domains[domain]
    mine = np.arange(arrays.user_start[user], arrays.user_start[user + 1])
    items = arrays.event_item[mine]
    inside = (items >= span.start) & (items < span.stop) & (arrays.event_fold[mine] == Fold.VALIDATION)
    events = mine[inside & reader.readable[items]]
    taken = np.concatenate([np.flatnonzero(~reader.readable), items])
    try:
        return events, sample_negatives(rng, span, candidates, observed=taken)
    except InputError:  # a user who knows every item
        return events[:0], events[:0]


@torch.no_grad()
def _all_scores(
    tower: VectorScorer, model: CrossModel, reader: Reader, history: History, items: IntArray, domain: str
) -> dict[str, Scores]:
    """Return system -> the domain's outputs -> scores of these items for a user of that history."""
    ranked = {name: score[0] for name, score in tower.rank(tower.rank_inputs(history, items), domain).items()}
    read = model.score([reader.sequence(history.items, int(item)) for item in items]).cpu().numpy()
    crossed = {name: read[:, model.outputs.index(name)] for name in ranked}
    return {TOWER: ranked, CROSS: crossed, MEAN: {name: (ranked[name] + crossed[name]) / 2 for name in crossed}}


def _add(found: _Found, task: TaskSpec, labels: FloatArray, systems: Mapping[str, Scores]) -> None:
    """Take in one user: `labels` (events,) of the first items, nan where missing; the sampled ones stand behind."""
    known = np.flatnonzero(~np.isnan(labels)) if _amount(task) else np.flatnonzero(labels == 1)
    found.labels += [float(label) for label in labels[known]]
    for system, scores in systems.items():
        if _amount(task):
            values = np.clip(scores[task.name][known], task.low, task.high)
            found.predicted.setdefault(system, []).extend(values.tolist())
            continue
        order = scores[order_name(task.name, scores)]
        others = order[len(labels) :]
        for place in known:
            ranks = metrics.average_ranks(np.append(others, order[place]), np.array([len(others)]))
            found.ndcg.setdefault(system, []).append(metrics.ndcg(ranks, K))
            found.auc.setdefault(system, []).append(metrics.rank_auc(ranks, len(others) + 1))


def _measured(found: _Found) -> dict[str, Any]:
    """Return metric -> system -> mean over what was gathered."""
    if found.predicted:
        labels = np.array(found.labels)
        errors = {system: metrics.rmse(np.array(values), labels) for system, values in found.predicted.items()}
        return {"events": len(labels), "rmse": errors}
    return {
        "positives": len(found.labels),
        f"ndcg@{K}": {system: float(np.mean(values)) for system, values in found.ndcg.items()},
        "auc": {system: float(np.mean(values)) for system, values in found.auc.items()},
    }


def as_facts(comparison: Mapping[str, Any]) -> dict[str, str]:
    """Return the comparison as facts of the ledger, one a task and metric."""
    return {
        f"cross-encoder, {task} {metric}, VALIDATION": ", ".join(
            f"{system.replace('_', '-')} {value:.4f}" for system, value in systems.items()
        )
        + (f" among {comparison['candidates']} sampled" if metric != "rmse" else "")
        for task, found in comparison["tasks"].items()
        for metric, systems in found.items()
        if isinstance(systems, dict)
    }
