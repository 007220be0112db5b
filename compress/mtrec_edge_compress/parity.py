"""Is the exported graph the torch model? Both are run on the same random inputs and compared output by output.

Knows nothing of quantization or of data.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from mtrec_edge_compress.data.arrays import FloatArray, IntArray
from mtrec_edge_compress.graphs import Graphs
from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_runtime.catalogue import PRIORS

BATCHES = (1, 5)
TEXT_LENGTHS = (3, 0.25, 0.5, 1.0)  # tokens, or a share of the longest text
HISTORY_LENGTHS = (1, 3, 0.5, 1.0)  # events, or a share of the longest history


def torch_parity(model: MultiTaskModel, graphs: Graphs, *, vocabulary: int, max_tokens: int) -> float:
    """Return the greatest |torch - ONNX| / max(1, |torch|) over both graphs, four lengths and two batch sizes.

    `model` is on the CPU in eval mode; inputs come from a fixed seed; batches of several rows hold padding.
    """
    rng = np.random.default_rng(0)
    worst = 0.0
    with torch.no_grad():
        for batch in BATCHES:
            for tokens in _lengths(TEXT_LENGTHS, max_tokens):
                ids, mask = rng.integers(0, vocabulary, (batch, tokens)), _ragged_mask(rng, batch, tokens)
                expected = model.encode(torch.from_numpy(ids), torch.from_numpy(mask))
                worst = max(worst, _difference(expected, graphs.run_text(ids, mask)))
            for events in _lengths(HISTORY_LENGTHS, model.max_history):
                inputs = random_ranker_inputs(rng, model, batch=batch, events=events)
                expected = model.rank(**{name: torch.from_numpy(value) for name, value in inputs.items()})
                worst = max(worst, _difference(expected, graphs.rank(inputs)))
    return worst


def _lengths(wanted: tuple[float, ...], longest: int) -> list[int]:
    sizes = {round(size * longest) if isinstance(size, float) else int(size) for size in wanted}
    return sorted({min(max(size, 1), longest) for size in sizes})


def random_ranker_inputs(rng: np.random.Generator, model: MultiTaskModel, *, batch: int, events: int) -> dict[str, Any]:
    """Return what `MultiTaskModel.rank` and `ranker.onnx` take; histories of every length up to `events`, none too."""
    items = 3 * events + batch
    return {
        "history": _unit(rng.normal(size=(batch, events, model.vector_size))),
        "behaviour": rng.integers(0, model.shape.behaviours, (batch, events)),
        "value": rng.normal(size=(batch, events)).astype(np.float32),
        "age": np.tile(np.arange(events), (batch, 1)),
        "history_mask": _ragged_mask(rng, batch, events, least=0),
        "candidates": _unit(rng.normal(size=(batch, items, model.vector_size))),
        "priors": rng.random((batch, items, PRIORS)).astype(np.float32),
        "affinity": rng.normal(size=(batch, items, events)).astype(np.float32),
    }


def _unit(vectors: Any) -> FloatArray:
    unit: FloatArray = (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)
    return unit


def _ragged_mask(rng: np.random.Generator, rows: int, columns: int, least: int = 1) -> IntArray:
    """Return a mask (rows, columns) whose first row is full, whose last has `least`, and whose others end anywhere."""
    lengths = rng.integers(1, columns + 1, rows)
    lengths[-1] = least
    lengths[0] = columns
    return (np.arange(columns) < lengths[:, None]).astype(np.int64)


def _difference(expected: Mapping[str, torch.Tensor], found: Mapping[str, FloatArray]) -> float:
    pairs = ((value.numpy(), found[name]) for name, value in expected.items())
    greatest = [float((np.abs(a - b) / np.maximum(1, np.abs(a))).max()) for a, b in pairs]
    return max(math.inf if math.isnan(value) else value for value in greatest)
