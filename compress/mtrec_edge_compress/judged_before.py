"""Seeds that were judged before: read from the result file of `evaluate` and the per-user values beside it.

Three teachers are a day's work on some machines; a seed's bundle need not be kept, nor judged again, to count.
"""

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtrec_edge_compress.data.arrays import Arrays
from mtrec_edge_compress.evaluate import Evaluation
from mtrec_edge_runtime.errors import InputError
from mtrec_edge_runtime.results import Measured, Result, read_result


@dataclass(frozen=True)
class JudgedBefore:
    """One seed's bundle, by the views that were judged of it."""

    seed: int
    source: str  # file, commit and processor, for the notes
    systems: dict[str, Evaluation]  # without counts, chance, users and reliability, which the file does not hold


def protocol_notes(profile: str, seed: int, users: int | None) -> list[str]:
    """Return the notes of a result file that say how its systems were judged."""
    return [
        f"profile {profile}",
        f"users drawn, baselines tuned with seed {seed}",
        "all users" if users is None else f"a seeded sample of {users:,} users a domain",
    ]


def read_judged(path: Path, arrays: Arrays, *, notes: Sequence[str]) -> JudgedBefore:
    """Return the seed that `evaluate --out` wrote to `path`, judged as `notes` say.

    Raises:
        InputError: no such file, or one of several seeds, another split or another protocol; or its per-user values
            are missing.
    """
    result = read_result(path)
    if len(result["seeds"]) != 1:
        raise InputError(f"{path} is of {len(result['seeds'])} seeds: name a result file of one bundle")
    if (found := result["dataset"]["split_hash"]) != arrays.dataset.split_hash:
        raise InputError(f"{path} was judged on split {found}, the dataset is split {arrays.dataset.split_hash}")
    if missing := [note for note in notes if note not in result["notes"]]:
        raise InputError(f"{path} was not judged alike ({missing[0]!r} is not in its notes): evaluate as it was")
    if "headlines" not in result or "systems" not in result:
        raise InputError(f"{path} is no table of systems: name a file that `evaluate --out` wrote")
    per_user = _per_user(path, result)
    return JudgedBefore(
        result["seeds"][0],
        f"{path.name}, commit {result['commit']}, {result['machine']['cpu']}",
        {name: _evaluation(found, per_user[name]) for name, found in result["systems"].items() if name in per_user},
    )


def check_same_users(before: JudgedBefore, now: Mapping[str, Evaluation]) -> None:
    """Raise InputError unless every view judged before has the tasks, the metrics and the users of its sibling."""
    for view, ours in now.items():
        theirs = before.systems.get(view)
        if theirs is None or theirs.tasks.keys() != ours.tasks.keys():
            raise InputError(f"{before.source}: {view!r} is not of the bundle's tasks: name a seed of one recipe")
        for task, columns in ours.per_user.items():
            if lacking := ours.tasks[task].keys() - theirs.tasks[task].keys():
                raise InputError(f"{before.source}: {task} has no {min(lacking)}: evaluate that bundle again")
            for metric, column in columns.items():
                other = theirs.per_user[task].get(metric)
                if other is None or not np.array_equal(np.isnan(other), np.isnan(column)):
                    raise InputError(f"{before.source}: {task} {metric} is of other users: evaluate that bundle again")


def _per_user(path: Path, result: Result) -> dict[str, Any]:
    beside = path.with_name(path.stem + ".samples.json.gz")
    if result.get("samples") != beside.name or not beside.is_file():
        raise InputError(f"{path} lacks its per-user values, {beside.name}: put the file beside it, or evaluate again")
    try:
        with gzip.open(beside) as packed:
            return dict(json.load(packed))
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{beside} cannot be read ({error}): restore it, or evaluate again") from error


def _evaluation(measured: Mapping[str, Measured], per_user: Mapping[str, Any]) -> Evaluation:
    tasks: dict[str, dict[str, float]] = {}
    intervals: dict[str, dict[str, tuple[float, float]]] = {}
    for name, found in measured.items():
        task, _, metric = name.partition(" ")
        tasks.setdefault(task, {})[metric] = found["value"]
        if "low" in found:
            intervals.setdefault(task, {})[metric] = (found["low"], found["high"])
    columns = {
        task: {metric: np.array(column, dtype=float) for metric, column in own.items()}
        for task, own in per_user.items()
    }
    return Evaluation(tasks, {}, {}, columns, {}, {}, intervals=intervals)
