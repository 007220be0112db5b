"""Time calls and reduce the samples: percentiles with bootstrap intervals, and ratios of interleaved subjects.

Knows nothing of bundles; all times are wall-clock milliseconds of `perf_counter_ns`.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]
PERCENTILES = (50, 90, 95, 99)
KEPT = (
    1024  # samples kept of a series: bootstrap and raw file take every k-th, which also loosens neighbours' correlation
)
RESAMPLES = 1000


@dataclass(frozen=True)
class Sampling:
    """How long one cell is measured: until both `samples` and `seconds` are reached, after a warm-up likewise."""

    samples: int = 1024
    seconds: float = 10.0
    warmup_runs: int = 10
    warmup_seconds: float = 0.5
    own_caches: bool = False  # an untimed call before each timed one: caches hold the subject's weights, not another's


def sample_ms(calls: Mapping[str, Callable[[], object]], sampling: Sampling) -> dict[str, Samples]:
    """Time several calls interleaved in one window and return each one's samples, in milliseconds.

    Sample i of every call was taken in the same round, so two calls may be compared pair by pair.
    """
    _rounds(calls, sampling.warmup_runs, sampling.warmup_seconds, own_caches=sampling.own_caches)
    rounds = _rounds(calls, sampling.samples, sampling.seconds, own_caches=sampling.own_caches)
    table = np.asarray(rounds, dtype=np.float64) / 1e6  # (rounds, calls)
    return {name: table[:, column] for column, name in enumerate(calls)}


def summarize(samples: Samples) -> dict[str, float]:
    """Return p50, p90, p95, p99, mean, deviation and count, with the 95 % bootstrap interval of p50 and p95."""
    summary = {f"p{q}": float(np.percentile(samples, q)) for q in PERCENTILES}
    summary |= {"mean": float(samples.mean()), "std": float(samples.std()), "n": float(samples.size)}
    kept = thin(samples)
    resampled = kept[_resamples(kept.size)]  # (RESAMPLES, kept)
    for q in (50, 95):
        low, high = np.percentile(np.percentile(resampled, q, axis=1), (2.5, 97.5))
        summary |= {f"p{q}_low": float(low), f"p{q}_high": float(high)}
    return {name: round(value, 5) for name, value in summary.items()}


def median_ratio(numerator: Samples, denominator: Samples) -> dict[str, float]:
    """Return median(numerator) / median(denominator) of paired samples, with its 95 % interval over resampled pairs."""
    above, below = thin(numerator), thin(denominator)
    picks = _resamples(above.size)
    ratios = np.median(above[picks], axis=1) / np.median(below[picks], axis=1)
    low, high = np.percentile(ratios, (2.5, 97.5))
    value = np.median(above) / np.median(below)
    return {"value": round(float(value), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def thin(samples: Samples) -> Samples:
    """Return at most KEPT samples, evenly spaced in time.

    >>> thin(np.arange(3.0)).tolist()
    [0.0, 1.0, 2.0]
    """
    if samples.size <= KEPT:
        return samples
    return samples[np.linspace(0, samples.size - 1, KEPT).astype(np.int64)]


def _resamples(size: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(0, size, (RESAMPLES, size))


def _rounds(
    calls: Mapping[str, Callable[[], object]], least: int, seconds: float, *, own_caches: bool
) -> list[list[int]]:
    clock = time.perf_counter_ns
    rounds: list[list[int]] = []
    end = clock() + int(seconds * 1e9)
    while len(rounds) < least or clock() < end:
        spent = []
        for call in calls.values():
            if own_caches:
                call()
            start = clock()
            call()
            spent.append(clock() - start)
        rounds.append(spent)
    return rounds
