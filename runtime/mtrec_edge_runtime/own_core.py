"""Had the benchmark its core to itself? The same short arithmetic is timed before each round of calls and tells.

A core whose other half somebody uses, or that was slowed down for heat, runs everything slower, and the operating
system's share of CPU time says nothing of it. Samples taken at about the pace of the run's own fastest moments are
summarised apart, beside the figures of all samples. A core that was slow from start to end looks like one of its own:
the pace itself is kept, in milliseconds, so that runs can be told apart. Knows nothing of bundles or files.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtrec_edge_runtime.timing import Samples, median_ratio, summarize

PACE = "pace"  # among the samples of a cell: the milliseconds of `arithmetic` before each round
STEPS = 2000  # about 0.1 ms
SLOWER = 1.4  # times what it takes in the fastest moments, at most, is a core to itself; a shared one takes about 1.8
FASTEST = 5  # percentile of a process's pace: a single shortest reading may be the clock's
LEAST_SAMPLES = 100  # below, nothing is summarised


def arithmetic() -> int:
    """Compute something of known length that fits the smallest cache."""
    total = 0
    for number in range(STEPS):
        total += number * number
    return total


def own_core(repeats: Sequence[Mapping[str, Samples]], fastest: float) -> dict[str, Any]:
    """Summarise what the repeats of a cell took while their core was not slower than SLOWER times `fastest`.

    Args:
        repeats: the samples of each process, series of equal length, with PACE among them.
        fastest: of the whole run, in milliseconds, see `fastest_pace`.

    Returns: `share` of the samples; from LEAST_SAMPLES on `phases` like those of all samples, and `speedup` where two
    subjects are compared.
    """
    series = {name: np.concatenate([np.asarray(repeat[name]) for repeat in repeats]) for name in repeats[0]}
    own = series.pop(PACE) <= SLOWER * fastest
    found: dict[str, Any] = {"share": round(float(own.mean()), 3)}
    if own.sum() < LEAST_SAMPLES:
        return found
    kept = {name: times[own] for name, times in series.items()}
    found["phases"] = {name: summarize(times) for name, times in kept.items()}
    if "against" in kept:
        found["speedup"] = median_ratio(kept["against"], kept["bundle"])
    return found


def fastest_pace(repeats: Sequence[Mapping[str, Samples]]) -> float:
    """Return the pace, in milliseconds, of the fastest moments of the fastest process."""
    return min(float(np.percentile(repeat[PACE], FASTEST)) for repeat in repeats)
