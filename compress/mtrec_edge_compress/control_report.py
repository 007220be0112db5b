"""What the single-task control found: as a table, and as a result file. Knows nothing of how it was found."""

from collections.abc import Sequence
from pathlib import Path

from mtrec_edge_compress.comparison import HARM, Comparison
from mtrec_edge_compress.comparison_report import (
    comparison_notes,
    comparison_samples,
    comparison_systems,
    format_comparison,
    headlines_of,
)
from mtrec_edge_compress.data.arrays import Arrays
from mtrec_edge_compress.ledger import dataset_info
from mtrec_edge_compress.recipe import Recipe
from mtrec_edge_runtime.results import Result, new_result, write_result, write_samples


def format_control(control: Comparison) -> str:
    """Return the outcome as text: a line a metric, Delta_m, and what learning together harmed."""
    return "\n\n".join([format_comparison(control, first="single", second="multi"), *notes(control)])


def notes(control: Comparison) -> list[str]:
    """Return what a reader must know, a sentence each: which tasks were harmed and what to do, what has no figure."""
    harmed = [
        f"{one.task} is harmed by learning together ({one.relative:+.2%}, below {HARM:+.0%}); the next step: "
        f"another share of the loss, --set weights.{one.task}=2, or vectors that others have made, "
        f"--set 'teacher.detached=[\"{one.task}\"]', then run this again"
        for one in control.harmed
    ]
    return [*harmed, *comparison_notes(control)]


def control_result(control: Comparison, recipe: Recipe, arrays: Arrays, *, command: Sequence[str]) -> Result:
    """Return the outcome under the schema of `mtrec_edge_runtime.results`.

    Systems: `single` and `multi`; `multi - single`, the paired gain with its interval and Holm's p; `relative change`,
    with `delta_m` beside the tasks. Of the last two + is better, of an error too.
    """
    result = new_result(f"{recipe.name}-control", command=command, seeds=[recipe.seed], dataset=dataset_info(arrays))
    result["systems"] = comparison_systems(control, first="single", second="multi", relative="relative change")
    result["headlines"] = headlines_of(control)
    result["notes"] = [*notes(control), *arrays.dataset.notes]
    return result


def write_control(path: Path, control: Comparison, result: Result) -> None:
    """Write the result file `path`, the per-user values compressed beside it."""
    result["samples"] = write_samples(path, comparison_samples(control, first="single", second="multi"))
    write_result(path, result)
