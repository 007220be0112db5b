"""Several students of one teacher in one run: what makes and asks the teacher once, every other stage for each tier.

A tier is the recipe with the settings of its table `[tiers.NAME]` over it. Its stages are under `work/tiers/NAME`, its
bundle in `out/NAME`; `work/tiers.json` compares the tiers with each other, with their teacher and with BERT-base.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate import PartialState

from mtrec_edge_compress.bundle import device_bytes
from mtrec_edge_compress.data.arrays import Arrays, read_arrays
from mtrec_edge_compress.job import OF_THE_TEACHER, Job
from mtrec_edge_compress.ledger import dataset_info
from mtrec_edge_compress.pipeline import STAGES, Result, check_run, finish, open_job, run_through
from mtrec_edge_compress.recipe import Recipe
from mtrec_edge_compress.recipe_file import read_recipe, read_tiers
from mtrec_edge_compress.run_options import RunOptions
from mtrec_edge_compress.standing import read_standing, shares_as_result
from mtrec_edge_compress.tiers_report import write_tiers_report
from mtrec_edge_compress.unseen import kept_of
from mtrec_edge_runtime.errors import StageError
from mtrec_edge_runtime.results import Result as ResultFile
from mtrec_edge_runtime.results import TierResult, new_result, write_result

SHARED = tuple(stage for stage in STAGES if stage[0] in OF_THE_TEACHER)
OWN = STAGES[len(SHARED) :]


@dataclass(frozen=True)
class Tiers:
    """What a run of several tiers leaves."""

    result: ResultFile
    path: Path  # tiers.json
    reasons: tuple[str, ...]  # why tiers are not certified, each with the tier's name
    report: Path  # tiers.html

    @property
    def certified(self) -> bool:
        """Return whether all are."""
        return not self.reasons

    def table(self) -> tuple[list[str], list[list[object]]]:
        """Return a header and a row a tier."""
        head = [
            "tier",
            "MB",
            "size x",
            "ms/text",
            "speed x",
            "unseen mean",
            "worst",
            "known mean",
            "worst",
            "certified",
        ]
        return head, [_row(name, tier) for name, tier in self.result["tiers"].items()]


def _row(name: str, tier: TierResult) -> list[object]:
    p50 = next(iter(tier["latency_ms"].values()))["p50"]
    figures = [tier["size_bytes"] / 1e6, tier["size_ratio"], p50, tier["latency_ratio"]]
    shares = [
        share
        for kept in (tier["unseen"], tier["seen"])
        for share in ([f"{kept['mean']:.2%}", f"{kept['worst']:.2%}"] if kept["tasks"] else ["-", "-"])
    ]
    return [name, *(f"{figure:.2f}" for figure in figures), *shares, "yes" if tier["certified"] else "no"]


def run_tiers(
    recipe_path: Path,
    names: Sequence[str],
    *,
    data: Path,
    out: Path,
    options: RunOptions,
    overrides: Sequence[str] = (),
) -> Tiers:
    """Run every stage of each named tier that is not already done, and write `work/tiers.json`.

    The arguments are those of `pipeline.run`; overrides hold for every tier.

    Raises:
        MtrecError: whatever stands in the way, with the next step.
    """
    recipe, tiers = read_recipe(recipe_path, overrides), read_tiers(recipe_path, names, overrides)
    arrays = read_arrays(data)
    _check(tiers, arrays, out, options)
    job, settings = open_job(recipe, arrays, out=out, options=options)
    run_through(job, settings, SHARED)
    found: dict[str, TierResult] = {}
    reasons: list[str] = []
    for name, own in tiers.items():
        tier = tier_job(job, name, own)
        run_through(tier, dict(settings), OWN)
        done = finish(tier)
        found[name] = tier_result(tier, done)
        reasons += [f"{name}: {reason}" for reason in done.reasons]
    result = new_result(
        recipe.name, command=["mtrec-edge", *sys.argv[1:]], seeds=[recipe.seed], dataset=dataset_info(arrays)
    )
    result["tiers"] = found
    result["headlines"] = {task.name: task.headline for task in arrays.tasks}
    result["notes"] = list(arrays.dataset.notes)
    if PartialState().is_main_process:
        write_result(job.work / "tiers.json", result)
        write_tiers_report(job.work, result)
    return Tiers(result, job.work / "tiers.json", tuple(reasons), job.work / "tiers.html")


def tier_job(job: Job, name: str, recipe: Recipe) -> Job:
    """Return a tier's own run, over the teacher that `job` has made."""
    return replace(
        job,
        recipe=recipe,
        work=job.work / "tiers" / name,
        out=job.out / name,
        records=dict(job.records),
        shared=job.work,
        compared=True,
    )


def tier_result(job: Job, done: Result) -> TierResult:
    """Return the figures of a tier whose stages are all done; what it keeps of the teacher is that on unseen texts."""
    standing, size_bytes = read_standing(job, job.folder("bundle")), device_bytes(job.out)
    assert standing.comparison is not None  # tiers are always compared
    seen, unseen = shares_as_result(standing.kept.seen), shares_as_result(standing.kept.unseen)
    found = TierResult(
        size_bytes=size_bytes,
        size_ratio=round(standing.comparison.reference_bytes / size_bytes, 2),
        latency_ratio=standing.comparison.ratio,
        latency_ratio_low=standing.comparison.low,
        latency_ratio_high=standing.comparison.high,
        seen=seen,
        unseen=unseen,
        certified=done.certified,
        reasons=list(done.reasons),
        bytes=job.records["quantize"].facts["bytes"],
        latency_ms=standing.latency_ms,
    )
    if (alone := next((row for row in job.rows if row.stage == "untaught"), None)) is not None:
        teacher = next(row for row in job.rows if row.stage == "teacher")
        found["untaught"] = shares_as_result(kept_of(teacher, alone, job.arrays.tasks).unseen)
    if unseen["tasks"]:
        found["retention_mean"], found["retention_worst"] = unseen["mean"], unseen["worst"]
    return found


def _check(tiers: Mapping[str, Recipe], arrays: Arrays, out: Path, options: RunOptions) -> None:
    """Refuse, before anything is trained, what could not be finished."""
    if (out / "manifest.json").exists():
        raise StageError(f"{out} is a bundle, and tiers want a folder for theirs; the next step: choose another --out")
    for name, recipe in tiers.items():
        check_run(recipe, arrays, out / name, options)
