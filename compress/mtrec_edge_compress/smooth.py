"""Stage 7, before integers: activations' widest channels move into the weights, so that one INT8 scale serves them all.

An activation has one scale a text. A trained BERT has channels thirty times as wide as the rest, which are then left
with a handful of steps. `x W = (x s) (W / s)`: s brings a channel down to a few times the median width; weights have a
scale for each output column and bear the rest. Source: Xiao et al., SmoothQuant, 2023; here a cap instead of a power of
both widths, for most channels are even as they are.

Edits an FP32 graph in place; knows nothing of integers.
"""

import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from mtrec_edge_compress.data.arrays import FloatArray, IntArray
from mtrec_edge_compress.onnx_graph import replace_nodes, weights_of
from mtrec_edge_runtime.session import Graph

WIDEST = 3.0  # times the median width of its activation that a channel may keep


def smooth(model: Any, matmuls: Collection[str], texts: Sequence[IntArray]) -> None:
    """Scale the inputs of the named MatMuls, and their weights (in, out) the other way; the outputs stay the same.

    Args:
        model: the graph; its inputs are `input_ids` and `attention_mask`.
        matmuls: names of MatMul nodes by a constant matrix; those of one input share its scales.
        texts: token ids of texts that training may read; they tell how wide each channel is.
    """
    chosen = [node for node in model.graph.node if node.name in set(matmuls)]
    widths = channel_widths(model, sorted({node.input[0] for node in chosen}), texts)
    scales = {name: channel_scales(width) for name, width in widths.items()}
    scales = {name: scale for name, scale in scales.items() if scale.min() < 1}
    weights = weights_of(model)
    divided = {node.input[1]: weights[node.input[1]] / scales[node.input[0]][:, None] for node in _of(chosen, scales)}
    for tensor in model.graph.initializer:
        if tensor.name in divided:
            tensor.CopyFrom(numpy_helper.from_array(divided[tensor.name], tensor.name))
    _multiply_inputs(model, {node.name for node in _of(chosen, scales)}, scales)


def channel_scales(width: FloatArray) -> FloatArray:
    """Return what each channel is multiplied by, (channels,): 1, or less where it is wider than the cap."""
    cap = WIDEST * np.median(width)
    return np.minimum(1, cap / np.maximum(width, cap)).astype(np.float32) if cap > 0 else np.ones_like(width)


def channel_widths(model: Any, tensors: Sequence[str], texts: Sequence[IntArray]) -> dict[str, FloatArray]:
    """Return the greatest magnitude of each channel of the named tensors (..., channels) over the texts."""
    watched = onnx.ModelProto.FromString(model.SerializeToString(deterministic=True))
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in tensors)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "watched.onnx"
        onnx.save(watched, path)
        graph = Graph(path)
    widths: dict[str, FloatArray] = {}
    for text in texts:
        ids = np.asarray(text, np.int64)[None]
        found = graph.run({"input_ids": ids, "attention_mask": np.ones_like(ids)}, tensors)
        for name, value in zip(tensors, found, strict=True):
            width = np.abs(value).reshape(-1, value.shape[-1]).max(axis=0)
            widths[name] = np.maximum(widths.get(name, width), width)
    return widths


def _of(nodes: list[Any], scales: dict[str, FloatArray]) -> list[Any]:
    return [node for node in nodes if node.input[0] in scales]


def _multiply_inputs(model: Any, matmuls: set[str], scales: dict[str, FloatArray]) -> None:
    """Let each of the MatMuls read its input times the input's scales; the product is made once, before the first."""
    nodes: list[Any] = []
    made = set()
    for node in model.graph.node:
        if node.name in matmuls:
            source = node.input[0]
            even = f"{source}/even"
            if source not in made:
                made.add(source)
                model.graph.initializer.append(numpy_helper.from_array(scales[source], f"{source}.even_scale"))
                nodes.append(helper.make_node("Mul", [source, f"{source}.even_scale"], [even], f"{node.name}/Even"))
            node.input[0] = even
        nodes.append(node)
    replace_nodes(model.graph, nodes)
