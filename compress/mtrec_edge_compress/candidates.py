"""`quantize`: candidate graphs of profile `fast`, measured on this machine; the fastest that passes is kept.

* `int8`: every product multiplies integers. Always there, and always passes: verify.py judges it.
* `small_fp32`: small products multiply floats, for quantizing what comes in can cost more than it saves.
* `fp32`: every product does.

All store the same INT8 weights, so their files differ by nodes alone. The choice depends on the machine and on the
moment, which is why a recipe must ask for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtrec_edge_compress.data.arrays import FloatArray, IntArray
from mtrec_edge_compress.encoder_graph import unpadded
from mtrec_edge_compress.onnx_graph import weights_of
from mtrec_edge_compress.products import cosine_error, open_graph, outputs_of, with_float_products
from mtrec_edge_runtime.session import Graph
from mtrec_edge_runtime.timing import Sampling, median_ratio, sample_ms

SMALL = 128 * 128  # weights of a small matrix, at most
LENGTHS = (16, 32)  # tokens of the texts that are timed, where they may be as long
ANY_TOKEN = 5  # their ids: time does not depend on them
LEAST_AGREEMENT = 0.97  # of the labels with those of FP32
MOST_ERROR = 0.005  # mean 1 - cosine of the item vector
SAMPLING = Sampling(samples=300, seconds=1.0, own_caches=True)
JUDGED_TEXTS = 256


@dataclass(frozen=True)
class Candidate:
    """One graph and what was measured of it."""

    name: str
    time: float  # median, as a share of that of `int8`: the mean of the shares at each length
    error: float  # mean 1 - cosine of the item vector to FP32's
    agreement: float  # share of labels that are those of FP32; 1 without labels
    passes: bool


def fastest(
    fast: Any, prepared: Any, names: Sequence[str], heads: Graph | None, texts: Sequence[IntArray]
) -> tuple[Any, str, tuple[Candidate, ...]]:
    """Return the fastest graph that passes, its name, and every candidate as measured.

    `fast` is the dynamic INT8 graph of `prepared`, whose MatMuls `names` it quantizes; `heads` makes logits of what
    they give, where there are text tasks; `texts` are token ids.
    """
    weights = weights_of(prepared)
    chosen = [node for node in prepared.graph.node if node.name in set(names)]
    small = [node.name for node in chosen if weights[node.input[1]].size <= SMALL]
    models = {"int8": fast}
    for name, products in (("small_fp32", small), ("fp32", list(names))):
        if products:
            models[name] = with_float_products(fast, prepared, products, weights="int8")
    graphs = {name: open_graph(model) for name, model in models.items()}
    longest = max(map(len, texts))
    times = _times(graphs, sorted({min(length, longest) for length in LENGTHS}))
    judged_texts = texts[:JUDGED_TEXTS]
    expected = outputs_of(open_graph(prepared), judged_texts, heads)
    judged = tuple(
        _judge(name, times[name], expected, outputs_of(graph, judged_texts, heads)) for name, graph in graphs.items()
    )
    best = min((candidate for candidate in judged if candidate.passes), key=lambda candidate: candidate.time)
    return models[best.name], best.name, judged


def _judge(
    name: str, time: float, expected: dict[str, list[FloatArray]], found: dict[str, list[FloatArray]]
) -> Candidate:
    error = cosine_error(expected["vector"], found["vector"])
    agreement = label_share(expected, found)
    passes = name == "int8" or (error <= MOST_ERROR and agreement >= LEAST_AGREEMENT)
    return Candidate(name, time, error, agreement, passes)


def label_share(expected: dict[str, list[FloatArray]], found: dict[str, list[FloatArray]]) -> float:
    """Return the least share, over the outputs that hold logits, of texts' (or tokens') greatest logits that agree."""
    shares = [
        float(np.mean([np.mean(a.argmax(-1) == b.argmax(-1)) for a, b in zip(logits, found[name], strict=True)]))
        for name, logits in expected.items()
        if name not in ("vector", "states")
    ]
    return min(shares, default=1.0)


def _times(graphs: dict[str, Graph], lengths: Sequence[int]) -> dict[str, float]:
    shares: dict[str, list[float]] = {name: [] for name in graphs}
    for length in lengths:
        ids = np.full((1, length), ANY_TOKEN, np.int64)
        samples = sample_ms({name: _call(graph, ids) for name, graph in graphs.items()}, SAMPLING)
        for name, times in samples.items():
            shares[name].append(median_ratio(times, samples["int8"])["value"])
    return {name: float(np.mean(found)) for name, found in shares.items()}


def _call(graph: Graph, ids: IntArray) -> Callable[[], object]:
    feeds = unpadded(graph, ids)
    return lambda: graph.run(feeds, graph.outputs)
