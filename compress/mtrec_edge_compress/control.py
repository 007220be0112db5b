"""Does learning together help? The recipe's multi-task teacher beside the same model trained on each task alone.

Equal budget: the same start, links, epochs, windows of the task's domain, texts a step and passes over labelled texts.
Where a domain has few events its epochs are short, so a model alone may be given more of them.
Every training leaves its figures in a folder of its own and is not run again with the same settings. Knows nothing of
how the outcome is shown: see control_report.py.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import Tensor

from mtrec_edge_compress.checkpoint import load_model
from mtrec_edge_compress.comparison import Comparison, Reached, compare, reached
from mtrec_edge_compress.cores import every_core
from mtrec_edge_compress.data.arrays import Arrays
from mtrec_edge_compress.data.schema import TaskSpec
from mtrec_edge_compress.device import Device
from mtrec_edge_compress.encoding import encode_all
from mtrec_edge_compress.job import Job
from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_compress.pipeline import open_job, run_stage
from mtrec_edge_compress.recipe import Recipe, settings_of
from mtrec_edge_compress.run_options import RunOptions
from mtrec_edge_compress.scorer import torch_ranker
from mtrec_edge_compress.stages import Made, collaborate
from mtrec_edge_compress.teacher import check_detached, check_given, task_weights, teacher_batches, train_teacher
from mtrec_edge_compress.tokens import Tokens, open_tokenizer, words_known
from mtrec_edge_runtime.errors import InputError

Settings = dict[str, Any]  # what a training depends on


def run_control(
    recipe: Recipe,
    arrays: Arrays,
    *,
    out: Path,
    encoder: str | None = None,
    teacher: Path | None = None,
    tasks: Sequence[str] = (),
    single_epochs: int = 0,
    device: Device = "auto",
    progress: bool = True,
) -> Comparison:
    """Train what is not trained yet, under `out/work`, and compare.

    Args:
        recipe: whose teacher is looked at.
        arrays: the dataset.
        out: folder of the trainings.
        encoder: hub id or folder of the teacher's encoder, over the recipe's.
        teacher: a trained multi-task teacher's checkpoint folder; none is trained then.
        tasks: those to compare; all by default.
        single_epochs: most epochs of a model that learns one task; 0: as many as the multi-task model's.
        device: where to train.
        progress: show progress bars on stderr.

    Raises:
        MtrecError: whatever stands in the way, with the next step.
    """
    chosen = _chosen(recipe, arrays, tasks)
    options = RunOptions(encoder, (teacher,) if teacher else (), device, out / "work", progress)
    job, settings, multi = learn_together(recipe, arrays, out=out, options=options)
    found = {task.name: _alone(job, task, settings, single_epochs) for task in chosen}
    return compare(chosen, found, multi)


def learn_together(recipe: Recipe, arrays: Arrays, *, out: Path, options: RunOptions) -> tuple[Job, Settings, Reached]:
    """Train the recipe's multi-task teacher, or take the given one, and judge it.

    Returns the job and what its stages depend on, for further trainings, and what the teacher reached.
    """
    check_detached(recipe, arrays)
    job, settings = open_job(recipe, arrays, out=out, options=options)
    given = settings.pop("teachers")  # what else is trained does not depend on it
    settings |= _settings(recipe, "seed", "collaborate")
    run_stage(job, "collaborate", collaborate, settings, everywhere=False)
    if not options.teachers:
        own = _settings(recipe, "model", "weights", "teacher", "evaluation")
    else:  # in another folder: the teacher may be what lies in `multi`
        own = {"teachers": given, **_settings(recipe, "model", "evaluation")}
    name = "given" if options.teachers else "multi"
    return job, settings, run_stage(job, name, _multi, {**settings, **own}, everywhere=True).facts


def _settings(recipe: Recipe, *keys: str) -> Settings:
    return {f"{key}_settings": settings_of(recipe, key) for key in keys}


def _chosen(recipe: Recipe, arrays: Arrays, names: Sequence[str]) -> list[TaskSpec]:
    """Return the tasks asked for, else all that the recipe trains."""
    weights = task_weights(recipe, arrays)
    for name in names:
        if name not in weights:
            raise InputError(f"--tasks {name}: the dataset has no such task; it has {', '.join(weights)}")
        if not weights[name]:
            raise InputError(f"--tasks {name}: its weight is 0, so the recipe trains it nowhere; set weights.{name}")
    return [task for task in arrays.tasks if weights[task.name] and (not names or task.name in names)]


def _multi(job: Job, folder: Path) -> Made:
    """Train the multi-task teacher, or take the given one, and judge it."""
    if not job.teachers:
        return _learn(job, job, folder, label="multi")
    model = load_model(job.teachers[0])
    check_given(model, job.teachers[0], job.recipe, job.arrays, words=words_known(open_tokenizer(job.encoder)))
    return _judge(job, job, model, "multi")


def _alone(job: Job, task: TaskSpec, settings: Settings, epochs: int) -> Reached:
    """Return what a model reaches that learns this task and no other, in `epochs`, or where 0 as many as others."""
    training = job.recipe.teacher.training
    training = replace(training, epochs=epochs or training.epochs)
    recipe = replace(
        job.recipe,
        weights={name: weight for name, weight in job.recipe.weights.items() if name == task.name},
        teacher=replace(job.recipe.teacher, detached=(), training=training),  # alone, a task has the encoder to itself
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
    tokens, settings = _tokens(own, job), own.recipe.teacher.training
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


def _tokens(own: Job, job: Job) -> Tokens:
    """Return what the tasks of `own` read of the texts of `job`: a model of one domain encodes no other."""
    return job.teacher_tokens.only(own.arrays.rows_read)


@every_core()
def _judge(own: Job, job: Job, model: MultiTaskModel, label: str, pooled: Tensor | None = None) -> Made:
    """Judge a model on the TEST fold; only what the comparison reads is kept."""
    if not PartialState().is_main_process:
        return [], {}
    tokens, place = _tokens(own, job), job.place
    encoded = encode_all(
        model.to(place), tokens, device=place, pooled=pooled, label=f"judging {label}", progress=job.progress
    )
    found = own.judge(encoded, torch_ranker(model.cpu()), drawn=True)
    return [], dict(reached(found, own.arrays.tasks))
