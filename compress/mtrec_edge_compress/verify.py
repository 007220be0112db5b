"""`verify`: are torch, FP32 ONNX and INT8 ONNX the same model, within the recipe's limits? Certifies, or says why not.

Judges what parity.py, agreement.py, label_agreement.py and evaluate.py measured; writes nothing. Every task is judged
alone: a dead head must not hide in a mean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mtrec_edge_compress.agreement import Pool, ranking_agreement
from mtrec_edge_compress.data.schema import TaskSpec
from mtrec_edge_compress.evaluate import Evaluation, retention
from mtrec_edge_compress.graphs import Graphs
from mtrec_edge_compress.ledger import Stage
from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_compress.parity import torch_parity
from mtrec_edge_compress.recipe import Verify

Int8 = Literal["fast", "exact"]

INT8_STAGES: dict[Int8, Stage] = {"fast": "int8_fast", "exact": "int8_exact"}
INT8_STEP = (
    "the next step: training with INT8's rounding, --set quantize.heal.epochs=2, or --set quantize.reduce_range=false "
    "where every device has VNNI"
)
STUDENT_STEP = "the next step: longer distillation, a wider student, or less pruning"


@dataclass(frozen=True)
class Verdict:
    """The outcome: certified, or the reasons why not, and every figure that was measured."""

    certified: bool
    reasons: tuple[str, ...]
    measured: dict[str, Any]  # torch_fp32: figure; retention: task -> share; fast, exact: task -> figures


def verify(
    model: MultiTaskModel,
    *,
    fp32: Path,
    int8: Path,
    pools: Sequence[Pool],
    evaluations: Mapping[Stage, Evaluation],
    labels: Mapping[Int8, Mapping[str, Mapping[str, float]]],
    vocabulary: int,
    max_tokens: int,
    limits: Verify,
    student: Stage = "pruned",
) -> Verdict:
    """Compare torch, FP32 and INT8 and return the verdict.

    Args:
        model: the torch model that was exported, on the CPU in eval mode.
        fp32: folder that `export_onnx` wrote.
        int8: folder that `quantize` wrote.
        pools: from `make_pool`, one for each domain with a pairwise task.
        evaluations: what `evaluate` gave for each stage, with the item vectors that are shipped; a pair of stages is
            judged when both are there.
        labels: from `label_agreement`, FP32 against each profile.
        vocabulary: number of token ids.
        max_tokens: the longest text that is served.
        limits: what must hold.
        student: the stage of the model that was exported, judged against the teacher.
    """
    reference = Graphs(fp32, "fp32", model.outputs)
    difference = torch_parity(model, reference, vocabulary=vocabulary, max_tokens=max_tokens)
    kept = retentions(model.tasks, evaluations, "teacher", student)
    reasons = _parity_reasons(difference, limits) + _retention_reasons(model.tasks, kept, limits)
    without = [task.name for task in model.tasks if task.name not in kept]  # not measured, or nothing to keep
    measured: dict[str, Any] = {"torch_fp32": difference, "retention": kept, "without_retention": without}
    for profile, stage in INT8_STAGES.items():
        figures: dict[str, dict[str, float]] = {task.name: {} for task in model.tasks}
        quantized = Graphs(int8, profile, model.outputs)
        for pool in pools:
            for name, agreement in ranking_agreement(reference, quantized, pool).items():
                figures[name] |= agreement
        for name, share in retentions(model.tasks, evaluations, "onnx_fp32", stage).items():
            figures[name]["loss"] = 1 - share
        for name, found in labels.get(profile, {}).items():
            figures[name] |= found
        measured[profile] = figures
        reasons += [why for task in model.tasks for why in int8_reasons(task, profile, figures[task.name], limits)]
    return Verdict(not reasons, tuple(reasons), measured)


def retentions(
    tasks: Sequence[TaskSpec], evaluations: Mapping[Stage, Evaluation], before: Stage, after: Stage
) -> dict[str, float]:
    """Return how much of each task's headline metric, above chance, one stage keeps of another.

    A task is absent when a stage, or its metric, was not measured, and when `before` is no better than chance.
    """
    if before not in evaluations or after not in evaluations:
        return {}
    old, new = evaluations[before], evaluations[after]
    shares = {}
    for task in tasks:
        metric = task.headline
        if metric in old.tasks.get(task.name, {}) and metric in new.tasks.get(task.name, {}):
            chance = old.chance[task.name].get(metric, 0.0)
            share = retention(task, new.tasks[task.name][metric], old.tasks[task.name][metric], chance)
            if share == share:  # not nan
                shares[task.name] = share
    return shares


def _parity_reasons(difference: float, limits: Verify) -> list[str]:
    if difference <= limits.fp32_max_abs:
        return []
    return [
        f"torch and FP32 ONNX differ by {difference:.2g} (limit {limits.fp32_max_abs:.2g}); the next step: look for "
        "a Python branch or a size in the model's forward that tracing froze"
    ]


def _retention_reasons(tasks: Sequence[TaskSpec], kept: Mapping[str, float], limits: Verify) -> list[str]:
    return [
        f"{task.name}: the student keeps {kept[task.name]:.1%} of the teacher's {task.headline} (limit "
        f"{limits.retention:.1%}); {STUDENT_STEP}"
        for task in tasks
        if task.name in kept and kept[task.name] < limits.retention
    ]


def int8_reasons(task: TaskSpec, profile: Int8, figures: Mapping[str, float], limits: Verify) -> list[str]:
    """Return a sentence for each missed limit: task, figure, limit, next step; what has no figure is not judged.

    A text task's loss counts where it is beyond the limit for sure, not by the chance of its test texts.
    """
    reasons = []
    if "loss" in figures and min(figures["loss"], figures.get("loss_low", figures["loss"])) > limits.task_loss:
        reasons.append(
            f"{task.name}: INT8 {profile} loses {figures['loss']:.2%} of the FP32 graph's {task.headline} (limit "
            f"{limits.task_loss:.2%}); {INT8_STEP}"
        )
    least = {
        "top10_overlap": limits.top10_overlap,
        "kendall_tau": limits.kendall_tau,
        "label_agreement": limits.label_agreement,
    }
    reasons += [
        f"{task.name}: {name} of FP32 and INT8 {profile} is {figures[name]:.3f} (limit {limit:.3f}); {INT8_STEP}"
        for name, limit in least.items()
        if name in figures and figures[name] < limit
    ]
    return reasons
