"""What `evaluate_bundle` found, as a result file: a system a row of the published tables.

A system `fused - NAME` is the bundle's advantage over a baseline on the same users, with its 95 % interval. Knows
nothing of how a system scores.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtrec_edge_compress.data.arrays import Arrays
from mtrec_edge_compress.systems_table import interval
from mtrec_edge_runtime.results import DatasetInfo, Measured, Result, new_result, write_result, write_samples


def write_systems(path: Path, table: dict[str, Any], arrays: Arrays, *, command: Sequence[str]) -> None:
    """Write the table of `evaluate_bundle` as the result file `path`, its per-user values compressed beside it."""
    result = systems_result(table, arrays, name=path.stem, command=command)
    result["samples"] = write_samples(path, table["per_user"])
    write_result(path, result)


def systems_result(table: dict[str, Any], arrays: Arrays, *, name: str, command: Sequence[str]) -> Result:
    """Return the table of `evaluate_bundle` under the schema of `mtrec_edge_runtime.results`."""
    counts = {"users": len(arrays.user_ids), "items": len(arrays.item_ids), "events": len(arrays.event_item)}
    dataset = DatasetInfo(name=arrays.dataset.name, split_hash=arrays.dataset.split_hash, counts=counts)
    result = new_result(name, command=command, seeds=[table["seed"]], dataset=dataset)
    systems: dict[str, dict[str, Measured]] = {
        system: {
            f"{task} {metric}": _measured(value, table["per_user"].get(system, {}).get(task, {}).get(metric))
            for task, found in tasks.items()
            for metric, value in found.items()
        }
        for system, tasks in table["systems"].items()
    }
    for task, differences in table["against"].items():
        for baseline, found in differences.items():
            measured = Measured(value=found["mean"], low=found["low"], high=found["high"])
            systems.setdefault(f"fused - {baseline}", {})[f"{task} {found['metric']}"] = measured
    result["systems"] = systems
    result["headlines"] = table["headlines"]
    users = table["users_per_domain"]
    result["notes"] = [
        f"profile {table['profile']}",
        "all users" if users is None else f"a seeded sample of {users:,} users a domain",
        *arrays.dataset.notes,
    ]
    return result


def _measured(value: float, per_user: Sequence[float | None] | None) -> Measured:
    bounds = interval(value, per_user)
    return Measured(value=value) if bounds is None else Measured(value=value, low=bounds[0], high=bounds[1])
