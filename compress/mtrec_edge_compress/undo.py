"""Does pruning pay? If not, it is undone: the student is shipped as distillation left it, and the ledger says why.

Decides from rows of the ledger and latencies; what is exported follows it (job.py).
"""

from collections.abc import Mapping, Sequence

from mtrec_edge_compress.data.schema import TaskSpec
from mtrec_edge_compress.evaluate import retention
from mtrec_edge_compress.ledger import Row, Stage
from mtrec_edge_compress.recipe import Budget

NOISE = 0.1  # of latency: below this share a difference is none; equal graphs were seen 3 % apart on a busy machine


def why_undo(
    rows: Mapping[Stage, Row], tasks: Sequence[TaskSpec], budget: Budget, latency_ms: Mapping[str, float]
) -> str:
    """Return why pruning is undone; "" when it pays.

    It is when the pruned student is neither smaller nor faster than before, and when it misses the budget's `max_drop`
    or `retention_worst` by more than the unpruned one, which is within the budget's size and time. Quality is asked of
    the VALIDATION fold: the TEST fold judges what ships, and chooses nothing.

    Args:
        rows: of the stages teacher, student and pruned.
        tasks: the dataset's.
        budget: the limits.
        latency_ms: of the stages student and pruned, p50 of one text through their FP32 graphs.
    """
    student, pruned = rows["student"], rows["pruned"]
    if pruned.parameters == student.parameters:  # nothing was removed: what followed is training, and stays
        return ""
    before, after = latency_ms["student"], latency_ms["pruned"]
    if pruned.size_bytes >= student.size_bytes and after >= before * (1 - NOISE):
        return (
            f"neither smaller ({student.size_bytes:,} to {pruned.size_bytes:,} bytes) nor faster ({before:.3f} to "
            f"{after:.3f} ms)"
        )
    missed = {row.stage: shortfall(budget, validation_shares(rows["teacher"], row, tasks)) for row in (student, pruned)}
    if missed["pruned"] > missed["student"] and surely_fits(budget, student, latency_ms=before):
        return (
            f"it misses the budget's quality by {missed['pruned']:.2%} (before {missed['student']:.2%}), and the "
            "student is small and fast enough without it"
        )
    return ""


def validation_shares(teacher: Row, student: Row, tasks: Sequence[TaskSpec]) -> dict[str, float]:
    """Return task -> share of the teacher's headline metric kept on the VALIDATION fold, where it was judged."""
    shares = {}
    for task in tasks:
        reference, value = (row.validation.get(task.name, {}).get(task.headline) for row in (teacher, student))
        if reference is not None and value is not None:
            chance = teacher.validation_chance.get(task.name, {}).get(task.headline, 0.0)
            shares[task.name] = retention(task, value, reference, chance)
    return {name: share for name, share in shares.items() if share == share}  # not nan: a teacher above chance


def shortfall(budget: Budget, shares: Mapping[str, float]) -> float:
    """Return by how much the worst missed limit on a task is missed, as a share of the teacher's metric; 0: none is."""
    missed = [(1 - limit) - shares[name] for name, limit in budget.max_drop.items() if name in shares]
    if budget.retention_worst:
        missed += [budget.retention_worst - share for share in shares.values()]
    return max([0.0, *missed])


def surely_fits(budget: Budget, student: Row, *, latency_ms: float) -> bool:
    """Return whether a student not yet in INT8 will be within size and time for sure, as far as can be known so early.

    INT8 has about a byte a parameter, and is faster than FP32, whose time is `latency_ms`. How it stands beside
    BERT-base is not known yet.
    """
    small = not budget.max_mb or student.parameters <= budget.max_mb * 1e6
    fast = not budget.max_ms or latency_ms <= budget.max_ms
    return small and fast and not budget.min_speedup
