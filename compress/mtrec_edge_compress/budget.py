"""Is the shipped student within its budget? A sentence for each limit it misses: task, figure, limit, next step.

Known items and unseen texts are judged apart (unseen.py). A limit for which nothing could be measured is missed, too:
who sets one wants it proved.
"""

from collections.abc import Iterator, Sequence

from mtrec_edge_compress.data.schema import TaskSpec
from mtrec_edge_compress.recipe import Budget
from mtrec_edge_compress.unseen import Kept, Shares, unseen_metric
from mtrec_edge_runtime.errors import RecipeError

SIZE_STEP = "the next step: a smaller student.vocabulary or embedding_size, fewer layers, or more pruning"
SPEED_STEP = "the next step: fewer student.layers, or more pruning"
QUALITY_STEP = "the next step: longer distillation, a larger student.vocabulary, or less pruning"
PLACES = {"seen": "on known items", "unseen": "on texts it never saw"}


def check_budget(budget: Budget, tasks: Sequence[TaskSpec]) -> None:
    """Raise RecipeError when the budget names a task that the dataset does not have."""
    known = [task.name for task in tasks]
    for name in budget.max_drop:
        if name not in known:
            raise RecipeError(f"budget.max_drop.{name}: the dataset has no such task; it has {', '.join(known)}")


def size_reasons(max_mb: float, size_bytes: int) -> tuple[str, ...]:
    """Return why the device's files are too large, in no sentence or one."""
    if not max_mb or size_bytes <= max_mb * 1e6:
        return ()
    return (f"the bundle without its catalogue has {size_bytes / 1e6:.3f} MB (limit {max_mb:g} MB); {SIZE_STEP}",)


def speed_reasons(budget: Budget, *, latency_ms: float, speedup: float | None) -> tuple[str, ...]:
    """Return which limits of time are missed; `speedup` is None where BERT-base was not measured beside it."""
    reasons = []
    if budget.max_ms and latency_ms > budget.max_ms:
        reasons.append(f"INT8 fast takes {latency_ms:.3f} ms a text (limit {budget.max_ms:g} ms); {SPEED_STEP}")
    if budget.min_speedup and (speedup is None or speedup < budget.min_speedup):
        found = "was not measured beside BERT-base" if speedup is None else f"is {speedup:.1f}x as fast as BERT-base"
        reasons.append(f"INT8 fast {found} in FP32 (limit {budget.min_speedup:g}x); {SPEED_STEP}")
    return tuple(reasons)


def quality_reasons(budget: Budget, kept: Kept, tasks: Sequence[TaskSpec]) -> tuple[str, ...]:
    """Return which limits of quality are missed, on known items and on unseen texts."""
    reasons = [*_drop_reasons(budget, kept, tasks)]
    asked = budget.retention_mean or budget.retention_worst
    for place, shares in (("seen", kept.seen), ("unseen", kept.unseen)):
        if shares.tasks:
            reasons += _retention_reasons(budget, shares, PLACES[place])
        elif asked:
            reasons.append(
                f"nothing of the teacher's could be judged {PLACES[place]}, so no retention is proved there; the next "
                "step: a better teacher, or a test fold with strict cold items"
            )
    return tuple(reasons)


def _drop_reasons(budget: Budget, kept: Kept, tasks: Sequence[TaskSpec]) -> Iterator[str]:
    by_name = {task.name: task for task in tasks}
    for name, limit in budget.max_drop.items():
        metrics = {"seen": by_name[name].headline, "unseen": unseen_metric(by_name[name])}
        found = {"seen": kept.seen.tasks.get(name), "unseen": kept.unseen.tasks.get(name)}
        if found["seen"] is None and found["unseen"] is None:
            yield (
                f"{name}: what is lost of the teacher's {metrics['seen']} could not be judged (limit {limit:.2%}): it "
                "was not measured, or is no better than chance; the next step: a better teacher, or no limit"
            )
        for place, share in found.items():
            if share is not None and share < 1 - limit:
                yield (
                    f"{name}: {PLACES[place]} INT8 fast loses {1 - share:.2%} of the teacher's {metrics[place]} (limit "
                    f"{limit:.2%}); {QUALITY_STEP}"
                )


def _retention_reasons(budget: Budget, shares: Shares, where: str) -> Iterator[str]:
    if budget.retention_mean and shares.mean < budget.retention_mean:
        yield (
            f"{where} INT8 fast keeps {shares.mean:.2%} of the teacher, the mean of {len(shares.tasks)} tasks (limit "
            f"{budget.retention_mean:.2%}); {QUALITY_STEP}"
        )
    if budget.retention_worst and shares.worst < budget.retention_worst:
        yield (
            f"{shares.worst_task}: {where} INT8 fast keeps {shares.worst:.2%} of the teacher, the least of all tasks "
            f"(limit {budget.retention_worst:.2%}); {QUALITY_STEP}"
        )
