"""An INT8 graph in which some products are floats again: what fallback and candidates are made of.

A product of the dynamic INT8 graph may be taken back in two ways: with its FP32 weights (four times the bytes, no
error), or with the same INT8 weights turned into floats when the graph is opened (no bytes, activations without error).
Returns graphs; knows nothing of which product should be taken back.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper

from mtrec_edge_compress.data.arrays import FloatArray, IntArray
from mtrec_edge_compress.encoder_graph import text_logits, unpadded
from mtrec_edge_compress.onnx_graph import copy_of, replace_nodes
from mtrec_edge_compress.stated_shapes import drop_unread
from mtrec_edge_runtime.session import Graph

Weights = Literal["fp32", "int8"]


def with_float_products(fast: Any, prepared: Any, names: Collection[str], *, weights: Weights) -> Any:
    """Return a copy of the INT8 graph `fast` whose named products, MatMuls of `prepared`, multiply floats."""
    model = copy_of(fast)
    chosen = {node.output[0]: node for node in prepared.graph.node if node.name in set(names)}
    stored = {tensor.name: tensor for tensor in prepared.graph.initializer}
    nodes: list[Any] = []
    for node in model.graph.node:
        product = chosen.get(node.output[0])
        if product is None:
            nodes.append(node)
        elif weights == "fp32":
            model.graph.initializer.append(stored[product.input[1]])
            nodes.append(product)
        else:
            nodes += _product_of_int8(product)
    replace_nodes(model.graph, nodes)
    drop_unread(model)
    return model


def _product_of_int8(product: Any) -> list[Any]:
    source, weight = product.input
    floats, matrix = f"{weight}_float", f"{weight}_matrix"
    return [
        helper.make_node("Cast", [f"{weight}_quantized"], [floats], f"{product.name}/Cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", [floats, f"{weight}_scale"], [matrix], f"{product.name}/Mul"),
        helper.make_node("MatMul", [source, matrix], [product.output[0]], product.name),
    ]


def open_graph(model: Any) -> Graph:
    """Open a graph that is not on disk."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        return Graph(path)


def outputs_of(graph: Graph, texts: Sequence[IntArray], heads: Graph | None = None) -> dict[str, list[FloatArray]]:
    """Return every output of each text, encoded alone, and what `heads` make of these."""
    found: dict[str, list[FloatArray]] = {}
    for text in texts:
        feeds = unpadded(graph, np.asarray(text, np.int64)[None])
        values = dict(zip(graph.outputs, graph.run(feeds, graph.outputs), strict=True))
        for name, value in (values | text_logits(heads, values)).items():
            found.setdefault(name, []).append(value[0])
    return found


def cosine_error(expected: Sequence[FloatArray], found: Sequence[FloatArray]) -> float:
    """Return the mean of 1 - cosine over unit vectors."""
    both = zip(expected, found, strict=True)
    return float(np.mean([1.0 - np.dot(a.astype(np.float64), b.astype(np.float64)) for a, b in both]))
