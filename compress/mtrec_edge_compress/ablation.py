"""Does a setting pay? The recipe's teacher beside one trained with a single value changed, judged on the same users.

Each training keeps its figures in a folder of its own and is not run again with the same settings. Knows nothing of how
the outcome is shown: see ablation_report.py.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mtrec_edge_compress.comparison import Comparison, Reached, compare
from mtrec_edge_compress.control import learn_together
from mtrec_edge_compress.data.arrays import Arrays
from mtrec_edge_compress.recipe import Recipe
from mtrec_edge_compress.run_options import RunOptions
from mtrec_edge_compress.teacher import check_detached, task_weights
from mtrec_edge_runtime.errors import InputError

AS_IS = "as is"  # the recipe without a change


def run_ablation(
    recipe: Recipe, changed: Mapping[str, Recipe], arrays: Arrays, *, out: Path, options: RunOptions
) -> dict[str, Comparison]:
    """Train what is not trained yet, a folder each under `out`, and compare each change with the recipe as it is.

    Args:
        recipe: whose teacher is looked at.
        changed: what a change is called, KEY=VALUE, and the recipe with it.
        arrays: the dataset.
        out: folder of the trainings.
        options: the encoder, the device, whether to show progress; its `teachers` and `work` are not read.

    Raises:
        InputError: no change; one that changes nothing; one that decides who is judged.
        MtrecError: whatever else stands in the way, with the next step.
    """
    _check(recipe, changed, arrays, options)
    first = _reached(recipe, arrays, out / _folder(AS_IS), options)
    tasks = [task for task in arrays.tasks if task_weights(recipe, arrays)[task.name]]
    of_each_task = {task.name: first for task in tasks}
    return {
        name: compare(tasks, of_each_task, _reached(other, arrays, out / _folder(name), options))
        for name, other in changed.items()
    }


def _check(recipe: Recipe, changed: Mapping[str, Recipe], arrays: Arrays, options: RunOptions) -> None:
    """Refuse, before anything is trained, what could not be compared."""
    if not changed:
        raise InputError("nothing to compare; the next step: --change KEY=VALUE, e.g. teacher.alignment=0")
    for name, other in changed.items():
        check_detached(other, arrays)
        task_weights(other, arrays)
        if options.encoder and other.teacher.encoder != recipe.teacher.encoder:
            raise InputError(f"--change {name}: --encoder stands above it; the next step: leave --encoder out")
        if (other.seed, other.evaluation) != (recipe.seed, recipe.evaluation):
            raise InputError(
                f"--change {name}: it decides which users are judged, so nothing could be compared; the next step: set "
                "it for all with --set"
            )
        if _of_teacher(other) == _of_teacher(recipe):
            raise InputError(
                f"--change {name}: it changes nothing of the teacher; the next step: another value than the recipe's, "
                "under model, weights, collaborate or teacher"
            )


def _of_teacher(recipe: Recipe) -> tuple[object, ...]:
    return recipe.model, recipe.weights, recipe.collaborate, recipe.teacher


def _reached(recipe: Recipe, arrays: Arrays, folder: Path, options: RunOptions) -> Reached:
    return learn_together(recipe, arrays, out=folder, options=replace(options, teachers=(), work=folder))[2]


def _folder(change: str) -> str:
    """Return the name of a change's folder."""
    return re.sub(r"[^\w.=-]+", "-", change)
