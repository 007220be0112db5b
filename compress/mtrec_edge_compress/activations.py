"""What flows through an FP32 encoder graph: the values of inner tensors, text by text. Knows nothing of integers."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from mtrec_edge_compress.data.arrays import FloatArray, IntArray
from mtrec_edge_compress.encoder_graph import unpadded
from mtrec_edge_runtime.session import Graph


def activations(model: Any, tensors: Sequence[str], texts: Sequence[IntArray]) -> Iterator[dict[str, FloatArray]]:
    """Yield each text's values of the named tensors, (tokens, channels), in order.

    Args:
        model: an encoder graph; it stays as it is.
        tensors: names of inner tensors (1, tokens, channels) or (1, channels).
        texts: token ids.
    """
    if not tensors:  # ONNX Runtime takes "none" for "all"
        return
    watched = onnx.ModelProto.FromString(model.SerializeToString(deterministic=True))
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in tensors)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "watched.onnx"
        onnx.save(watched, path)
        graph = Graph(path)
    for text in texts:
        found = graph.run(unpadded(graph, np.asarray(text, np.int64)[None]), tensors)
        yield {name: value.reshape(-1, value.shape[-1]) for name, value in zip(tensors, found, strict=True)}
