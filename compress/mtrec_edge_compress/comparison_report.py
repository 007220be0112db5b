"""Two models side by side as a table, and as systems of a result file. Knows nothing of how they were trained."""

import math
from collections.abc import Sequence
from operator import attrgetter

from mtrec_edge_compress.comparison import Change, Comparison
from mtrec_edge_compress.systems_result import measured_value
from mtrec_edge_compress.systems_table import columns
from mtrec_edge_runtime.results import Measured


def format_comparison(found: Comparison, *, first: str, second: str) -> str:
    """Return a line a metric and Delta_m; `first` and `second` name the models."""
    head = ["", "metric", first, second, "change", "gain on the same users (95 %)", "p"]
    lines = [columns([head, *map(_line, found.changes)])]
    if not math.isnan(found.delta_m):
        tasks = sum(one.is_headline and one.relative is not None for one in found.changes)
        lines.append(f"Delta_m {found.delta_m:+.2%}, the mean change over {tasks} tasks; + is better throughout")
    return "\n\n".join(lines)


def _line(one: Change) -> list[str]:
    change = "-" if one.relative is None else f"{one.relative:+.2%}"
    gain, p = "-", "-"
    if one.paired:
        low, high = one.paired.low, one.paired.high
        gain = f"{one.paired_metric} {one.paired.mean:+.4f} [{low:+.4f}, {high:+.4f}]"
        p = f"{one.paired.p:.4f}"
    return [one.task, one.metric, f"{one.first:.4f}", f"{one.second:.4f}", change, gain, p]


def comparison_notes(found: Comparison) -> list[str]:
    """Return what has no figure, a sentence each."""
    notes = []
    undefined = [one.task for one in found.changes if one.is_headline and one.relative is None]
    if undefined:
        notes.append(f"{', '.join(undefined)}: the value compared with is 0, so no relative change; not in Delta_m")
    if found.not_measured:
        notes.append(f"{', '.join(found.not_measured)}: not measured, the test fold has no such labels")
    return notes


def comparison_systems(found: Comparison, *, first: str, second: str, relative: str) -> dict[str, dict[str, Measured]]:
    """Return the systems `first` and `second`, `second - first` with interval and p, and `relative` with `delta_m`.

    Of the last two + is better, of an error too.
    """
    gained = f"{second} - {first}"
    systems: dict[str, dict[str, Measured]] = {first: {}, second: {}, gained: {}, relative: {}}
    for one in found.changes:
        name = f"{one.task} {one.metric}"
        systems[first][name] = measured_value(one.first, one.first_interval)
        systems[second][name] = measured_value(one.second, one.second_interval)
        if one.paired:
            gain = Measured(value=one.paired.mean, low=one.paired.low, high=one.paired.high, p=one.paired.p)
            systems[gained][f"{one.task} {one.paired_metric}"] = gain
        if one.relative is not None:
            systems[relative][name] = Measured(value=one.relative)
    if not math.isnan(found.delta_m):
        systems[relative]["delta_m"] = Measured(value=found.delta_m)
    return systems


def headlines_of(found: Comparison) -> dict[str, str]:
    """Return task -> its headline metric."""
    return {one.task: one.metric for one in found.changes if one.is_headline}


def comparison_samples(found: Comparison, *, first: str, second: str) -> dict[str, dict[str, Sequence[float | None]]]:
    """Return model -> "task metric" -> each judged user's or text's value, without ids."""
    return {
        model: {f"{one.task} {one.paired_metric}": values for one in found.changes if (values := of(one)) is not None}
        for model, of in ((first, attrgetter("first_values")), (second, attrgetter("second_values")))
    }
