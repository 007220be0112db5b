"""What `evaluate_bundles` found, as result files: a system a row of the published tables.

A system `fused - NAME` is the bundle's advantage over a baseline on the same users, with its 95 % interval. Knows
nothing of how a system scores.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mtrec_edge_compress.data.arrays import Arrays
from mtrec_edge_compress.judged_before import protocol_notes
from mtrec_edge_compress.ledger import dataset_info
from mtrec_edge_runtime.errors import InputError
from mtrec_edge_runtime.results import Measured, Result, new_result, write_result, write_samples


def write_systems(path: Path, table: dict[str, Any], arrays: Arrays, *, command: Sequence[str]) -> None:
    """Write the table of `evaluate_bundles` as the result file `path`, its per-user values compressed beside it."""
    result = systems_result(table, arrays, name=path.stem, command=command)
    result["samples"] = write_samples(path, table["per_user"])
    write_result(path, result)


def write_domain(path: Path, table: dict[str, Any], arrays: Arrays, domain: str, *, command: Sequence[str]) -> None:
    """Write one domain of the table as the result file `path`: system -> metric, without the task's name.

    A metric that two tasks of the domain have keeps its task's name. Raises InputError for an unknown domain.
    """
    tasks = [name for name in table["headlines"] if arrays.task(name).domain == domain]
    if not tasks:
        known = ", ".join(dict.fromkeys(arrays.task(name).domain for name in table["headlines"]))
        raise InputError(f"domain {domain!r} is in no task of the bundle; it has {known}")
    own = [cell for cell in _cells(table) if cell[1] in tasks]
    of_tasks = Counter(metric for _, metric in {(task, metric) for _, task, metric, _ in own})
    result = _result(table, arrays, name=path.stem, command=command)
    systems: dict[str, dict[str, Measured]] = {}
    for system, task, metric, measured in own:
        name = metric if of_tasks[metric] < 2 else f"{task} {metric}"
        systems.setdefault(system, {})[name] = measured
    result["systems"] = systems
    per_user = {system: {t: v for t, v in found.items() if t in tasks} for system, found in table["per_user"].items()}
    result["samples"] = write_samples(path, per_user)
    write_result(path, result)


def systems_result(table: dict[str, Any], arrays: Arrays, *, name: str, command: Sequence[str]) -> Result:
    """Return the table of `evaluate_bundles` under the schema of `mtrec_edge_runtime.results`."""
    result = _result(table, arrays, name=name, command=command)
    systems: dict[str, dict[str, Measured]] = {}
    for system, task, metric, measured in _cells(table):
        systems.setdefault(system, {})[f"{task} {metric}"] = measured
    result["systems"] = systems
    result["headlines"] = table["headlines"]
    return result


def _cells(table: dict[str, Any]) -> Iterator[tuple[str, str, str, Measured]]:
    """Yield system, task, metric and value: what was measured of each system, then the bundle's advantages."""
    for system, tasks in table["systems"].items():
        for task, found in tasks.items():
            bounds = table["intervals"][system].get(task, {})
            for metric, value in found.items():
                yield system, task, metric, measured_value(value, bounds.get(metric))
    for ours, tasks in table["against"].items():
        for task, differences in tasks.items():
            for other, found in differences.items():
                measured = Measured(value=found["mean"], low=found["low"], high=found["high"], p=found["p"])
                yield f"{ours} - {other}", task, found["metric"], measured


def _result(table: dict[str, Any], arrays: Arrays, *, name: str, command: Sequence[str]) -> Result:
    result = new_result(
        name,
        command=command,
        seeds=[table["seed"] if seed is None else seed for seed in table["seeds"]],
        dataset=dataset_info(arrays),
    )
    result["notes"] = [
        *protocol_notes(table["profile"], table["seed"], table["users_per_domain"]),
        *(f"seed {seed} was judged before: {source}" for seed, source in table["judged_before"].items()),
        *(f"{task}, each bundle: {_listed(values)}" for task, values in table["by_seed"].items() if len(values) > 1),
        *arrays.dataset.notes,
    ]
    return result


def _listed(values: Sequence[float | None]) -> str:
    return ", ".join("-" if value is None else f"{value:.4f}" for value in values)


def measured_value(value: float, bounds: Sequence[float] | None) -> Measured:
    """Return a value, with its bounds where there are any."""
    return Measured(value=value) if bounds is None else Measured(value=value, low=bounds[0], high=bounds[1])
