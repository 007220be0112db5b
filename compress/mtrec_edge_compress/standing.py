"""Where the shipped student, INT8 `fast`, stands beside its teacher and BERT-base: what budget and tiers judge."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mtrec_edge_compress.budget import quality_reasons, speed_reasons
from mtrec_edge_compress.data.schema import TaskSpec
from mtrec_edge_compress.job import Job
from mtrec_edge_compress.judgement import Interval
from mtrec_edge_compress.latency import read_latencies
from mtrec_edge_compress.recipe import Budget
from mtrec_edge_compress.reference import FILE, Comparison, compare, make_bert, read_comparison
from mtrec_edge_compress.unseen import Kept, Shares, kept_of
from mtrec_edge_compress.verify import Verdict
from mtrec_edge_runtime import results

COMPARISON = "comparison.json"


@dataclass(frozen=True)
class Standing:
    """One student's figures."""

    latency_ms: dict[str, dict[str, float]]  # tokens -> p50, p95 of one text
    kept: Kept
    comparison: Comparison | None  # None where neither budget nor tiers asked for it

    def judged(self, verdict: Verdict, budget: Budget, tasks: Sequence[TaskSpec]) -> Verdict:
        """Return the verdict with the limits of time and quality that are missed; size is known in the bundle."""
        p50 = next(iter(self.latency_ms.values()))["p50"]
        speedup = None if self.comparison is None else self.comparison.ratio
        reasons = (
            *verdict.reasons,
            *speed_reasons(budget, latency_ms=p50, speedup=speedup),
            *quality_reasons(budget, self.kept, tasks),
        )
        return replace(verdict, certified=not reasons, reasons=reasons)

    def facts(self) -> dict[str, Any]:
        """Return what the ledger says of it."""
        facts: dict[str, Any] = {
            f"kept of the teacher, {place}": _said(shares)
            for place, shares in (("known items", self.kept.seen), ("unseen texts", self.kept.unseen))
            if shares.tasks
        }
        if self.comparison is not None:
            facts["times faster than BERT-base in FP32"] = f"{self.comparison.ratio:.1f}"
        return facts


def measure_standing(job: Job, folder: Path) -> Standing:
    """Return the figures of a run up to `verify`; where it is asked for, BERT-base is measured and kept in `folder`."""
    if job.compared or job.recipe.budget.min_speedup:
        reference = job.shared_work / FILE
        make_bert(reference)
        found = compare(reference, job.folder("quantize"), max_tokens=job.recipe.model.max_tokens)
        found.write(folder / COMPARISON)
    return read_standing(job, folder)


def read_standing(job: Job, folder: Path) -> Standing:
    """Return the figures that `measure_standing` left in `folder`."""
    rows = {row.stage: row for row in job.rows}
    return Standing(
        read_latencies(job.folder("verify") / "latency.json")["int8_fast"],
        kept_of(rows["teacher"], rows["int8_fast"], job.arrays.tasks),
        read_comparison(folder / COMPARISON),
    )


def shares_as_result(shares: Shares) -> results.Kept:
    """Return mean, worst and the share of each task, as result files have them; without tasks there is no mean."""
    if not shares.tasks:
        return {"tasks": {}}
    found = results.Kept(mean=shares.mean, worst=shares.worst, tasks=dict(shares.tasks))
    if shares.draws:
        found["intervals"] = {name: list(bounds) for name, bounds in shares.intervals.items()}
    if not math.isnan(shares.mean_interval[0]):
        found["mean_interval"] = list(shares.mean_interval)
    return found


def _said(shares: Shares) -> str:
    """Return mean and worst task in words, with their intervals where there are any."""
    of_worst = shares.intervals.get(shares.worst_task, (math.nan, math.nan))
    mean = f"mean {shares.mean:.2%}{_bounds(shares.mean_interval)}"
    return f"{mean}, worst {shares.worst:.2%}{_bounds(of_worst)}"


def _bounds(bounds: Interval) -> str:
    low, high = bounds
    return "" if math.isnan(low) else f" [{low:.1%}, {high:.1%}]"
