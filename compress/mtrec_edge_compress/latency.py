"""Time one text through the encoders of several stages: interleaved in one window, one thread, batch 1."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mtrec_edge_compress.data.arrays import IntArray
from mtrec_edge_compress.graphs import Graphs, Variant
from mtrec_edge_compress.ledger import Stage
from mtrec_edge_runtime.timing import Samples, Sampling, sample_ms, summarize

TOKENS = 32  # of the text that is timed
ANY_TOKEN = 5  # its id: time does not depend on it

Latencies = dict[str, dict[str, dict[str, float]]]  # stage -> tokens -> p50, p95 in ms

PLACES: dict[Stage, tuple[str, str, Variant]] = {  # row of the ledger -> pipeline stage, folder under its own, variant
    "teacher": ("teacher", "onnx", "fp32"),
    "student": ("distill", "onnx", "fp32"),
    "pruned": ("prune", "onnx", "fp32"),
    "onnx_fp32": ("export", "", "fp32"),
    "int8_fast": ("quantize", "", "fast"),
    "int8_exact": ("quantize", "", "exact"),
}


def measure_latencies(
    folder_of: Callable[[str], Path], max_tokens: int, stages: Sequence[Stage] = tuple(PLACES)
) -> Latencies:
    """Time a text of 32 tokens (or `max_tokens`, when that is less) through the graphs of these stages.

    `folder_of` gives the folder of a pipeline stage.
    """
    length = min(TOKENS, max_tokens)
    ids = np.full((1, length), ANY_TOKEN, np.int64)
    calls: dict[str, Callable[[], object]] = {}
    for stage in stages:
        name, under, variant = PLACES[stage]
        calls[stage] = _call(Graphs(folder_of(name) / under, variant), ids)
    samples = sample_ms(calls, Sampling(samples=200, seconds=2.0, own_caches=True))
    return {stage: {str(length): _summary(times)} for stage, times in samples.items()}


def _call(graphs: Graphs, ids: IntArray) -> Callable[[], object]:
    return lambda: graphs.run_encoder(ids)


def _summary(times: Samples) -> dict[str, float]:
    summary = summarize(times)
    return {name: summary[name] for name in ("p50", "p95")}


def read_latencies(path: Path) -> Latencies:
    """Return what was measured and stored at `path`, nothing when it has not been measured yet."""
    if not path.is_file():
        return {}
    stored: Latencies = json.loads(path.read_text())
    return stored
