"""How long a student of a given shape takes on this machine: measured for a few shapes, predicted for all others.

ms = fixed + sum over layers of (layer + heads * head + units * unit). The four numbers are fitted to INT8 graphs of
random weights, their words in as many bits as the student's; their time is that of trained ones. Knows nothing of
importance.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import nnls

from mtrec_edge_compress.compact import CompactBert
from mtrec_edge_compress.data.arrays import IntArray
from mtrec_edge_compress.export import export_onnx
from mtrec_edge_compress.graphs import Graphs
from mtrec_edge_compress.latency import ANY_TOKEN, TOKENS
from mtrec_edge_compress.lookup_tables import WordBits
from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_compress.quantize import quantize
from mtrec_edge_compress.recipe import Quantize
from mtrec_edge_runtime.timing import Sampling, sample_ms

LEAST_UNITS = 16
SAMPLING = Sampling(samples=200, seconds=2.0, own_caches=True)
TEXTS = 64  # random ones, that show a timed graph what activations are like

Layers = Sequence[tuple[int, int]]  # (heads, feed-forward units) of each layer


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds of one text, INT8 profile `fast`, one thread."""

    fixed: float  # embeddings, pooling, heads
    layer: float  # what a layer takes whatever its shape
    head: float  # each attention head of each layer
    unit: float  # each feed-forward unit

    def predict(self, layers: Layers) -> float:
        """Return the time of an encoder with these layers, in ms.

        >>> LatencyTable(0.1, 0.05, 0.01, 0.001).predict([(2, 100), (1, 50)])
        0.38
        """
        heads, units = (sum(sizes) for sizes in zip(*layers, strict=True)) if layers else (0, 0)
        return round(self.fixed + self.layer * len(layers) + self.head * heads + self.unit * units, 6)


def measure_table(student: MultiTaskModel, word_bits: WordBits) -> LatencyTable:
    """Time six shapes of the student's width, vocabulary and tasks, interleaved, and fit the table to them."""
    backbone = student.text.backbone
    assert isinstance(backbone, CompactBert)
    shapes = shapes_to_time(backbone.shape.layers)
    length = min(TOKENS, backbone.shape.positions)
    ids = np.full((1, length), ANY_TOKEN, np.int64)
    texts = list(np.random.default_rng(0).integers(0, backbone.shape.vocabulary, (TEXTS, length)))
    settings = Quantize(word_bits=word_bits)
    with tempfile.TemporaryDirectory() as place:
        graphs = [
            _graphs(student, shape, Path(place) / str(number), texts, settings) for number, shape in enumerate(shapes)
        ]
        calls = {str(number): (lambda opened=opened: opened.run_encoder(ids)) for number, opened in enumerate(graphs)}
        samples = sample_ms(calls, SAMPLING)
    return fit_table(shapes, [float(np.median(samples[str(number)])) for number in range(len(shapes))])


def shapes_to_time(layers: Layers) -> list[Layers]:
    """Return six shapes that tell the four numbers apart: whole, bare, heads alone, units alone, and one layer."""
    most_heads, most_units = (max(sizes) for sizes in zip(*layers, strict=True))
    corners = [(most_heads, most_units), (1, LEAST_UNITS), (most_heads, LEAST_UNITS), (1, most_units)]
    deep: list[Layers] = [[corner] * len(layers) for corner in corners]
    return [*deep, [corners[0]], []]


def fit_table(shapes: Sequence[Layers], times: Sequence[float]) -> LatencyTable:
    """Return the table that fits measured times (ms) best, by least squares with no number below 0."""
    rows = [[1.0, len(shape), sum(h for h, _ in shape), sum(u for _, u in shape)] for shape in shapes]
    found, _ = nnls(np.array(rows), np.array(times))
    return LatencyTable(*map(float, found))


def _graphs(
    student: MultiTaskModel, layers: Layers, folder: Path, texts: Sequence[IntArray], settings: Quantize
) -> Graphs:
    backbone = student.text.backbone
    assert isinstance(backbone, CompactBert)
    shape = replace(backbone.shape, layers=tuple(layers))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MultiTaskModel(CompactBert(shape), student.hidden_size, student.shape, student.tasks).eval()
    export_onnx(model, folder)
    quantize(folder, folder / "int8", texts, settings)
    return Graphs(folder / "int8", "fast")
