"""Several systems' evaluations side by side: who is ahead by how much, and the table as text.

Reads Evaluations, or the dict that `systems.evaluate_bundles` returns. Knows nothing of bundles and baselines.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtrec_edge_compress.bootstrap import holm, paired_bootstrap
from mtrec_edge_compress.data.schema import TaskSpec
from mtrec_edge_compress.evaluate import Evaluation, by_history

OF_KIND = "recall@10 "  # begins the name of a per-user value that is about one kind of item
PER_USER = {  # what is paired in a metric's place
    "rmse": "mse",
    "mae": "mse",
    "auc": "user_auc",
    "gauc": "user_auc",
    "macro_f1": "correct",
    "accuracy": "correct",
    "span_f1": "text_f1",
}


def against(
    task: TaskSpec, evaluations: Mapping[str, Sequence[Evaluation]], *, ours: str
) -> dict[str, dict[str, float | str]]:
    """Return other system -> `ours` less it on the headline's per-user values of one task, with interval and Holm's p.

    A squared error (`mse`) is better when the mean is negative.
    """
    metric = PER_USER.get(task.headline, task.headline)
    values = {
        name: part.per_user[task.name][metric]
        for name, parts in evaluations.items()
        for part in parts
        if metric in part.per_user.get(task.name, {})
    }
    own = values.pop(ours, None)
    if own is None:
        return {}
    differences = {}
    for name, theirs in values.items():
        if not np.isnan(own - theirs).all():
            differences[name] = paired_bootstrap(own, theirs)
    adjusted = holm([difference.p for difference in differences.values()])
    return {
        name: {"metric": metric, "mean": d.mean, "low": d.low, "high": d.high, "p": p, "users": d.users}
        for (name, d), p in zip(differences.items(), adjusted, strict=True)
    }


def slices(
    tasks: Sequence[TaskSpec], evaluations: Mapping[str, Sequence[Evaluation]]
) -> dict[str, dict[str, dict[str, float]]]:
    """Return task -> system -> length of the history -> mean of the headline's per-user values."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for task in tasks:
        metric = PER_USER.get(task.headline, task.headline)
        for name, parts in evaluations.items():
            for part in parts:
                if task.source == "events" and metric in part.per_user.get(task.name, {}):
                    found.setdefault(task.name, {})[name] = by_history(part, task, metric)
    return found


def item_slices(
    tasks: Sequence[TaskSpec], evaluations: Mapping[str, Sequence[Evaluation]]
) -> dict[str, dict[str, dict[str, float]]]:
    """Return task -> system -> kind of item -> mean share of the relevant items of that kind in the first ten."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for task in tasks:
        for name, parts in evaluations.items():
            for metric, values in ((m, v) for part in parts for m, v in part.per_user.get(task.name, {}).items()):
                if metric.startswith(OF_KIND) and not np.isnan(values).all():
                    kinds = found.setdefault(task.name, {}).setdefault(name, {})
                    kinds[metric.removeprefix(OF_KIND)] = float(np.nanmean(values))
    return found


def format_table(table: dict[str, Any], *, digits: int = 4) -> str:
    """Return the systems table as text: for each task its systems, the headline metric first."""
    blocks = []
    for task, headline in table["headlines"].items():
        rows = {name: values[task] for name, values in table["systems"].items() if values.get(task)}
        found = dict.fromkeys(metric for values in rows.values() for metric in values)
        metrics = [headline, *(metric for metric in found if metric != headline)]
        counts = ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in table["counts"][task].items())
        header = ["", *metrics]
        body = [[name, *(_cell(values.get(m), digits) for m in metrics)] for name, values in rows.items()]
        blocks.append(f"{task}  ({counts})\n{columns([header, *body])}")
    return "\n\n".join(blocks)


def _cell(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as lines, the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  "
        + "  ".join(cell.rjust(w) if n else cell.ljust(w) for n, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    )
