"""Does learning together help? The recipe's multi-task teacher beside the same model trained on each task alone.

Equal budget: the same start, links, epochs, windows of the task's domain, texts a step and passes over labelled texts.
Every training leaves its figures in a folder of its own and is not run again with the same settings. Knows nothing of
how the outcome is shown: see control_report.py.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from torch import Tensor

from mtrec_edge_compress.bootstrap import Difference, holm
from mtrec_edge_compress.checkpoint import load_model
from mtrec_edge_compress.cores import every_core
from mtrec_edge_compress.data.arrays import Arrays
from mtrec_edge_compress.data.schema import TaskSpec
from mtrec_edge_compress.device import Device
from mtrec_edge_compress.encoding import encode_all
from mtrec_edge_compress.evaluate import Evaluation
from mtrec_edge_compress.job import Job
from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_compress.pipeline import open_job, run_stage
from mtrec_edge_compress.recipe import Recipe
from mtrec_edge_compress.run_options import RunOptions
from mtrec_edge_compress.scorer import torch_ranker
from mtrec_edge_compress.stages import Made, collaborate
from mtrec_edge_compress.systems_table import ERRORS, PER_USER, against
from mtrec_edge_compress.teacher import check_detached, task_weights, teacher_batches, train_teacher
from mtrec_edge_runtime.errors import InputError, StageError

Settings = dict[str, Any]  # what a training depends on
HARM = -0.01  # a relative change below it is named


@dataclass(frozen=True)
class Comparison:
    """One task learnt alone and together, judged by its headline metric on the same users of the TEST fold."""

    task: str
    metric: str
    single: float
    multi: float
    single_interval: Sequence[float] | None  # 95 % bounds over users or texts
    multi_interval: Sequence[float] | None
    change: float | None  # relative to `single`, + is better; None where `single` is 0
    paired: Difference | None  # of per-user values, + is better, p adjusted by Holm over the tasks
    paired_metric: str  # what the per-user values are


@dataclass(frozen=True)
class Control:
    """The outcome."""

    comparisons: tuple[Comparison, ...]
    per_user: dict[str, dict[str, list[float | None]]]  # "single" or "multi" -> task -> values of `paired_metric`
    not_measured: tuple[str, ...]  # tasks the TEST fold says nothing of

    @property
    def delta_m(self) -> float:
        """Return the mean relative change over tasks; nan when there is none.

        Source: Maninis, Radosavovic & Kokkinos, Attentive single-tasking of multiple tasks, 2019.
        """
        changes = [one.change for one in self.comparisons if one.change is not None]
        return sum(changes) / len(changes) if changes else math.nan

    @property
    def harmed(self) -> list[Comparison]:
        """Return what learning together made worse by more than 1 %."""
        return [one for one in self.comparisons if one.change is not None and one.change < HARM]


def run_control(
    recipe: Recipe,
    arrays: Arrays,
    *,
    out: Path,
    encoder: str | None = None,
    teacher: Path | None = None,
    tasks: Sequence[str] = (),
    device: Device = "auto",
    progress: bool = True,
) -> Control:
    """Train what is not trained yet, under `out/work`, and compare.

    Args:
        recipe: whose teacher is looked at.
        arrays: the dataset.
        out: folder of the trainings.
        encoder: hub id or folder of the teacher's encoder, over the recipe's.
        teacher: a trained multi-task teacher's checkpoint folder; none is trained then.
        tasks: those to compare; all by default.
        device: where to train.
        progress: show progress bars on stderr.

    Raises:
        MtrecError: whatever stands in the way, with the next step.
    """
    check_detached(recipe, arrays)
    chosen = _chosen(recipe, arrays, tasks)
    options = RunOptions(encoder, (teacher,) if teacher else (), device, out / "work", progress)
    job, settings = open_job(recipe, arrays, out=out, options=options)
    given = settings.pop("teachers")  # what is trained alone does not depend on it
    settings |= _settings(recipe, "seed", "collaborate")
    run_stage(job, "collaborate", collaborate, settings, everywhere=False)
    if teacher is None:
        own = _settings(recipe, "model", "weights", "teacher", "evaluation")
    else:  # in another folder: the teacher may be what lies in `multi`
        own = {"teachers": given, **_settings(recipe, "model", "evaluation")}
    name = "multi" if teacher is None else "given"
    multi = run_stage(job, name, learn_together, {**settings, **own}, everywhere=True).facts
    found = {task.name: _alone(job, task, settings) for task in chosen}
    return compare(chosen, found, multi)


def _settings(recipe: Recipe, *keys: str) -> Settings:
    stored = asdict(recipe)
    return {f"{key}_settings": stored[key] for key in keys}


def _chosen(recipe: Recipe, arrays: Arrays, names: Sequence[str]) -> list[TaskSpec]:
    """Return the tasks asked for, else all that the recipe trains."""
    weights = task_weights(recipe, arrays)
    for name in names:
        if name not in weights:
            raise InputError(f"--tasks {name}: the dataset has no such task; it has {', '.join(weights)}")
        if not weights[name]:
            raise InputError(f"--tasks {name}: its weight is 0, so the recipe trains it nowhere; set weights.{name}")
    return [task for task in arrays.tasks if weights[task.name] and (not names or task.name in names)]


def learn_together(job: Job, folder: Path) -> Made:
    """Train the multi-task teacher, or take the given one, and judge it."""
    if not job.teachers:
        return _learn(job, job, folder, label="multi")
    model = load_model(job.teachers[0])
    learnt = [task.device_task() for task in model.tasks]
    missing = [task.name for task in job.arrays.tasks if task.device_task() not in learnt]
    if missing:
        raise StageError(
            f"the teacher {job.teachers[0]} has not learnt {', '.join(missing)} as the dataset states it; the next "
            "step: give a teacher of this dataset, or leave --teacher out"
        )
    return _judge(job, job, model, "multi")


def _alone(job: Job, task: TaskSpec, settings: Settings) -> Mapping[str, Any]:
    """Return what a model reaches that learns this task and no other."""
    recipe = replace(
        job.recipe,
        weights={name: weight for name, weight in job.recipe.weights.items() if name == task.name},
        teacher=replace(job.recipe.teacher, detached=()),  # alone, a task has the encoder to itself
    )
    arrays = replace(job.arrays, dataset=replace(job.arrays.dataset, tasks=(task,)))
    passes = 1.0
    if task.source != "events":  # no windows decide how long an epoch is
        passes = teacher_batches(job.recipe, job.arrays, job.teacher_tokens, job.collaboration).passes(0)
    own = {"task": task.name, "passes": passes, **_settings(recipe, "model", "weights", "teacher", "evaluation")}
    label = f"single/{task.name}"
    stage = partial(_learn, replace(job, recipe=recipe, arrays=arrays), label=label, passes=passes)
    return run_stage(job, label, stage, {**settings, **own}, everywhere=True).facts


def _learn(own: Job, job: Job, folder: Path, *, label: str, passes: float = 1.0) -> Made:
    """Train a teacher on the tasks of `own` and judge it; `job`, of all tasks, has the tokens."""
    tokens, settings = job.teacher_tokens, own.recipe.teacher.training
    source = teacher_batches(own.recipe, own.arrays, tokens, job.collaboration)
    trained = train_teacher(
        own.recipe,
        replace(source, text_passes=passes),
        job.encoder,
        folder=folder / "training",
        validate=own.validator(tokens, settings.precision),
        device=job.device,
        label=label,
        progress=job.progress,
    )
    return _judge(own, job, trained.model, label, trained.pooled)


@every_core()
def _judge(own: Job, job: Job, model: MultiTaskModel, label: str, pooled: Tensor | None = None) -> Made:
    """Judge a model on the TEST fold; only what the comparison reads is kept."""
    if not PartialState().is_main_process:
        return [], {}
    tokens, place = job.teacher_tokens, job.place
    encoded = encode_all(
        model.to(place), tokens, device=place, pooled=pooled, label=f"judging {label}", progress=job.progress
    )
    found = own.judge(encoded, torch_ranker(model.cpu()), intervals=True)
    return [], {task.name: _figures(task, found) for task in own.arrays.tasks}


def _figures(task: TaskSpec, found: Evaluation) -> dict[str, Any]:
    metric = PER_USER.get(task.headline, task.headline)
    values = found.per_user[task.name].get(metric)
    return {
        "value": found.tasks[task.name].get(task.headline),
        "interval": found.intervals[task.name].get(task.headline),
        "counts": found.counts[task.name],
        "per_user": None if values is None else [None if math.isnan(value) else float(value) for value in values],
    }


def compare(tasks: Sequence[TaskSpec], singles: Mapping[str, Mapping[str, Any]], multi: Mapping[str, Any]) -> Control:
    """Compare figures of single-task models (task -> its facts) with those of the multi-task model."""
    made: list[Comparison] = []
    per_user: dict[str, dict[str, list[float | None]]] = {"single": {}, "multi": {}}
    measured = [
        task for task in tasks if None not in (singles[task.name][task.name]["value"], multi[task.name]["value"])
    ]
    for task in measured:
        alone, together = singles[task.name][task.name], multi[task.name]
        made.append(_comparison(task, alone, together))
        for name, figures in (("single", alone), ("multi", together)):
            if figures["per_user"] is not None:
                per_user[name][task.name] = figures["per_user"]
    adjusted = iter(holm([one.paired.p for one in made if one.paired]))
    made = [replace(one, paired=replace(one.paired, p=next(adjusted))) if one.paired else one for one in made]
    left_out = tuple(task.name for task in tasks if task not in measured)
    return Control(tuple(made), per_user, left_out)


def _comparison(task: TaskSpec, alone: Mapping[str, Any], together: Mapping[str, Any]) -> Comparison:
    single, multi = alone["value"], together["value"]
    sign = -1.0 if task.headline in ERRORS else 1.0
    paired_metric = PER_USER.get(task.headline, task.headline)
    evaluations = {
        name: [Evaluation({}, {}, {}, _per_user(task, paired_metric, figures), {}, {})]
        for name, figures in (("multi", together), ("single", alone))
    }
    found = against(task, evaluations, ours="multi").get("single")
    paired = None
    if found:
        low, high = sorted((sign * float(found["low"]), sign * float(found["high"])))
        paired = Difference(sign * float(found["mean"]), low, high, float(found["p"]), int(found["users"]))
    change = sign * (multi - single) / single if single else None
    return Comparison(
        task.name,
        task.headline,
        single,
        multi,
        alone["interval"],
        together["interval"],
        change,
        paired,
        paired_metric,
    )


def _per_user(task: TaskSpec, metric: str, figures: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    values = figures["per_user"]
    return {} if values is None else {task.name: {metric: np.array(values, np.float64)}}
