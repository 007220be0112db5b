"""`quantize`, before integers: what the widest channels of activations would cost all others is taken from them.

An activation has one INT8 scale a text. A trained BERT has channels thirty times as wide as the rest, which are then
left with a handful of steps. So, for `x W` with a constant matrix:

* an input whose widest channel is near the median stays as it is: a scaling is a node, and would gain nothing;
* channels a few times as wide as the median are scaled down, and their rows of W up: `x W = (x s) (W / s)`. Weights
  have a scale for each output column and bear it. Source: Xiao et al., SmoothQuant, 2023; here a cap instead of a power
  of both widths, for most channels are even as they are.
* channels far wider are multiplied apart, in FP32, and are 0 in `x s`. Source: Dettmers et al., LLM.int8(), 2022; here
  the channels are fixed beforehand, and normalised states bear more than an activation function's output. A bias stays
  directly behind its product, which a runtime makes one node, and the product apart is added to both.

Edits an FP32 graph in place, whose outputs stay the same; knows nothing of integers.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from mtrec_edge_compress.activations import activations
from mtrec_edge_compress.data.arrays import FloatArray, IntArray
from mtrec_edge_compress.onnx_graph import Array, add_weight, replace_nodes, weights_of

EVEN = 4.5  # times the median width: an input without a channel beyond stays as it is
WIDE = 2.0  # likewise: what a channel is scaled down to
APART = 5.0  # likewise: a channel beyond is multiplied apart, which takes three nodes
ROWS_APART = ".apart"  # behind a weight's name: those of its rows that are multiplied apart, in FP32
APART_STATES = 20.0  # likewise, of normalised states, whose wide channels cost INT8 less than an activation function's


def smooth(model: Any, matmuls: Collection[str], texts: Sequence[IntArray]) -> None:
    """Even out the inputs of the named MatMuls.

    Args:
        model: the graph.
        matmuls: names of MatMul nodes by a constant matrix (in, out); those of one input share what is done to it.
        texts: token ids of texts that training may read; they tell how wide each channel is.
    """
    chosen = [node for node in model.graph.node if node.name in set(matmuls)]
    widths = channel_widths(model, sorted({node.input[0] for node in chosen}), texts)
    states = {node.output[0] for node in model.graph.node if node.op_type == "LayerNormalization"}
    limits = {name: APART_STATES if name in states else APART for name in widths}
    scales = {name: channel_scales(width, limits[name]) for name, width in widths.items()}
    weights, made = weights_of(model), set[str]()
    nodes: list[Any] = []
    for node in model.graph.node:
        if node.name not in matmuls or scales[node.input[0]].min() == 1:
            nodes.append(node)
            continue
        source = node.input[0]
        if source not in made:
            made.add(source)
            nodes += _even_input(model, source, scales[source])
        nodes += _even_product(model, node, weights[node.input[1]], scales[source])
    replace_nodes(model.graph, _biases_first(nodes, weights))


def channel_scales(width: FloatArray, apart: float = APART) -> FloatArray:
    """Return what each channel is multiplied by, (channels,): 1, less where it is wide, 0 where it goes apart.

    `apart` is the width, in medians, beyond which a channel does.
    """
    median = np.median(width)
    cap = WIDE * median
    if width.max() <= EVEN * median or cap == 0:
        return np.ones_like(width)
    scales = np.minimum(1, cap / np.maximum(width, cap))
    return np.where(width > apart * median, 0, scales).astype(np.float32)


def channel_widths(model: Any, tensors: Sequence[str], texts: Sequence[IntArray]) -> dict[str, FloatArray]:
    """Return the greatest magnitude (channels,) of each channel of the named tensors over the texts."""
    widths: dict[str, FloatArray] = {}
    for found in activations(model, tensors, texts):
        for name, value in found.items():
            width = np.abs(value).max(axis=0)
            widths[name] = np.maximum(widths.get(name, width), width)
    return widths


def _even_input(model: Any, source: str, scales: FloatArray) -> list[Any]:
    """Return the nodes that make `source/even`, and `source/apart` where channels go apart."""
    add_weight(model, f"{source}.scales", scales)
    nodes = [helper.make_node("Mul", [source, f"{source}.scales"], [f"{source}/even"], f"{source}/Even")]
    apart = np.flatnonzero(scales == 0)
    if len(apart):
        add_weight(model, f"{source}.apart", apart)
        names = [source, f"{source}.apart"]
        nodes.append(helper.make_node("Gather", names, [f"{source}/apart"], f"{source}/Apart", axis=-1))
    return nodes


def _even_product(model: Any, node: Any, matrix: FloatArray, scales: FloatArray) -> list[Any]:
    """Return the nodes that give the MatMul's output from `source/even` and `source/apart`."""
    source, name, output = node.input[0], node.input[1], node.output[0]
    node.input[0] = f"{source}/even"
    apart = scales == 0
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.where(apart, 0, 1 / np.where(apart, 1, scales))[:, None] * matrix, name))
    if not apart.any():
        return [node]
    add_weight(model, f"{name}{ROWS_APART}", matrix[apart])
    node.output[0] = f"{output}/even"
    product = helper.make_node(
        "MatMul", [f"{source}/apart", f"{name}{ROWS_APART}"], [f"{output}/apart"], f"{node.name}/Apart"
    )
    return [node, product, helper.make_node("Add", [node.output[0], product.output[0]], [output], f"{node.name}/Sum")]


def _biases_first(nodes: list[Any], weights: dict[str, Array]) -> list[Any]:
    """Return the nodes with each bias directly behind its product, where a runtime makes both one, not behind a sum."""
    sums = {node.output[0]: node for node in nodes if node.name.endswith("/Sum")}
    for node in nodes:
        before = [name for name in node.input if name in sums]
        biases = [name for name in node.input if name in weights and weights[name].ndim == 1]
        if node.op_type == "Add" and before and biases:
            total = sums[before[0]]
            even, apart = total.input
            total.input[:] = [even, biases[0]]
            node.input[:] = [total.output[0], apart]
    return nodes
