"""What the single-task control found: as a table, and as a result file. Knows nothing of how it was found."""

import math
from collections.abc import Sequence
from pathlib import Path

from mtrec_edge_compress.control import HARM, Comparison, Control
from mtrec_edge_compress.data.arrays import Arrays
from mtrec_edge_compress.recipe import Recipe
from mtrec_edge_compress.systems_result import measured_value
from mtrec_edge_compress.systems_table import columns
from mtrec_edge_runtime.results import DatasetInfo, Measured, Result, new_result, write_result, write_samples


def format_control(control: Control) -> str:
    """Return the outcome as text: a line a task, Delta_m, and what learning together harmed."""
    head = ["", "metric", "single", "multi", "change", "gain on the same users (95 %)", "p"]
    lines = [columns([head, *map(_line, control.comparisons)])]
    changes = [one for one in control.comparisons if one.change is not None]
    if changes:
        lines.append(
            f"Delta_m {control.delta_m:+.2%}, the mean change over {len(changes)} tasks; + is better throughout"
        )
    return "\n\n".join([*lines, *notes(control)])


def _line(one: Comparison) -> list[str]:
    change = "-" if one.change is None else f"{one.change:+.2%}"
    gain, p = "-", "-"
    if one.paired:
        low, high = one.paired.low, one.paired.high
        gain = f"{one.paired_metric} {one.paired.mean:+.4f} [{low:+.4f}, {high:+.4f}]"
        p = f"{one.paired.p:.4f}"
    return [one.task, one.metric, f"{one.single:.4f}", f"{one.multi:.4f}", change, gain, p]


def notes(control: Control) -> list[str]:
    """Return what a reader must know, a sentence each: which tasks were harmed and what to do, what has no figure."""
    found = [
        f"{one.task} is harmed by learning together ({one.change:+.2%}, below {HARM:+.0%}); the next step: "
        f"another share of the loss, --set weights.{one.task}=2, or vectors that others have made, "
        f"--set 'teacher.detached=[\"{one.task}\"]', then run this again"
        for one in control.harmed
    ]
    undefined = [one.task for one in control.comparisons if one.change is None]
    if undefined:
        found.append(f"{', '.join(undefined)}: the single-task value is 0, so no relative change; not in Delta_m")
    if control.not_measured:
        found.append(f"{', '.join(control.not_measured)}: not measured, the test fold has no such labels")
    return found


def control_result(control: Control, recipe: Recipe, arrays: Arrays, *, command: Sequence[str]) -> Result:
    """Return the outcome under the schema of `mtrec_edge_runtime.results`.

    Systems: `single` and `multi`; `multi - single`, the paired gain with its interval and Holm's p; `relative change`,
    with `delta_m` beside the tasks. Of the last two + is better, of an error too.
    """
    counts = {"users": len(arrays.user_ids), "items": len(arrays.item_ids), "events": len(arrays.event_item)}
    info = DatasetInfo(name=arrays.dataset.name, split_hash=arrays.dataset.split_hash, counts=counts)
    result = new_result(f"{recipe.name}-control", command=command, seeds=[recipe.seed], dataset=info)
    systems: dict[str, dict[str, Measured]] = {"single": {}, "multi": {}, "multi - single": {}, "relative change": {}}
    for one in control.comparisons:
        name = f"{one.task} {one.metric}"
        systems["single"][name] = measured_value(one.single, one.single_interval)
        systems["multi"][name] = measured_value(one.multi, one.multi_interval)
        if one.paired:
            gain = Measured(value=one.paired.mean, low=one.paired.low, high=one.paired.high, p=one.paired.p)
            systems["multi - single"][f"{one.task} {one.paired_metric}"] = gain
        if one.change is not None:
            systems["relative change"][name] = Measured(value=one.change)
    if not math.isnan(control.delta_m):
        systems["relative change"]["delta_m"] = Measured(value=control.delta_m)
    result["systems"] = systems
    result["headlines"] = {one.task: one.metric for one in control.comparisons}
    result["notes"] = [*notes(control), *arrays.dataset.notes]
    return result


def write_control(path: Path, control: Control, result: Result) -> None:
    """Write the result file `path`, the per-user values compressed beside it."""
    result["samples"] = write_samples(path, control.per_user)
    write_result(path, result)
