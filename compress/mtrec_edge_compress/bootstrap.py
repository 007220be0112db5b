"""How sure a metric is, and whether one system beats another on the same users: the bootstrap, Holm's correction.

Reads per-user values as `Evaluation.per_user` keeps them, or a metric as a function of rows. Knows nothing of tasks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mtrec_edge_runtime.errors import InputError

Floats = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]
DRAWS = 1_000
_CHUNK = 2_000_000  # drawn indices held at a time


@dataclass(frozen=True)
class Difference:
    """The mean of `a - b` over users, with its 95 % interval and two-sided p."""

    mean: float
    low: float
    high: float
    p: float
    users: int


def paired_bootstrap(a: Floats, b: Floats, *, resamples: int = 10_000, seed: int = 0) -> Difference:
    """Compare two systems' values of the same users, (users,) each; users with a nan on either side are left out.

    Users are drawn with replacement `resamples` times; the interval is the 2.5 and 97.5 percentile of the mean
    difference, p = 2 min(#{<= 0} + 1, #{>= 0} + 1) / (resamples + 1), at most 1. Efron and Tibshirani 1993, ch. 13, 16.
    Raise InputError when the two do not describe the same users or none is left.
    """
    if a.shape != b.shape:
        raise InputError(
            f"paired bootstrap: {a.shape} values against {b.shape}; evaluate both on the same users (same seed)"
        )
    difference = np.asarray(a, np.float64) - b
    difference = difference[~np.isnan(difference)]
    users = len(difference)
    if users == 0:
        raise InputError("paired bootstrap: no user has a value in both systems; look at Evaluation.counts")
    means = _resampled_means(difference, resamples, seed)
    low, high = np.percentile(means, [2.5, 97.5])
    tail = min(np.sum(means <= 0), np.sum(means >= 0)) + 1
    p = min(1.0, 2.0 * float(tail) / (resamples + 1))
    return Difference(float(difference.mean()), float(low), float(high), p, users)


def interval(draws: Floats) -> tuple[float, float]:
    """Return the 2.5 and 97.5 percentile of what draws gave, nan left out; (nan, nan) when none is left."""
    known = draws[~np.isnan(draws)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def mean_draws(values: Floats | Sequence[float], *, resamples: int = DRAWS, seed: int = 0) -> Floats:
    """Return the mean over users, nan left out, of each draw of users, (resamples,); nan when none is left.

    Two systems' values of the same users are drawn alike for the same seed, so their draws may be compared one by one.
    """
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    return _resampled_means(known, resamples, seed) if len(known) else np.full(resamples, np.nan)


def metric_draws(measure: Callable[[Rows], float], group: Rows, *, resamples: int = DRAWS, seed: int = 0) -> Floats:
    """Return a metric of rows for each draw of whole groups (a user's events) with replacement, (resamples,).

    `group` (rows,) numbers each row's group; `measure` is given the rows of a draw, repeated as drawn, and gives nan
    where it cannot be measured. Draws are alike for the same groups and seed. Field and Welsh 2007, "Bootstrapping
    clustered data".
    """
    random, order = np.random.default_rng(seed), np.argsort(group, kind="stable")
    count = np.unique(group, return_counts=True)[1]
    start = np.cumsum(count) - count
    values = np.full(resamples, np.nan)
    for number in range(resamples if len(count) else 0):
        drawn = random.integers(0, len(count), len(count))
        size = count[drawn]
        first = np.repeat(start[drawn] - (np.cumsum(size) - size), size)
        values[number] = measure(order[first + np.arange(len(first))])
    return values


def _resampled_means(values: Floats, resamples: int, seed: int) -> Floats:
    random, users = np.random.default_rng(seed), len(values)
    step = max(1, _CHUNK // users)
    return np.concatenate(
        [
            values[random.integers(0, users, (min(step, resamples - start), users))].mean(axis=1)
            for start in range(0, resamples, step)
        ]
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for being one of several comparisons, in the given order.

    The i-th smallest of m is multiplied by m - i + 1, never below a smaller one's, at most 1. Holm 1979, "A simple
    sequentially rejective multiple test procedure".
    """
    order = np.argsort(p_values)
    adjusted = np.asarray(p_values, np.float64)[order] * np.arange(len(order), 0, -1)
    result = np.empty(len(order))
    result[order] = np.minimum(np.maximum.accumulate(adjusted), 1.0)
    return [float(p) for p in result]
