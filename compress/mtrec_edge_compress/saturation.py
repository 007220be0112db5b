"""Can an INT8 graph overflow on a CPU without VNNI? Found from its weights, whatever made them.

There ONNX Runtime multiplies by `vpmaddubsw`: the products of two neighbouring weights of a column, each by an
activation of up to 255, are added in 16 bits, and what is beyond 32,767 is cut off in silence. Rows 0 and 1, 2 and 3,
and so on are such neighbours: its packing keeps four rows of a column together.

Reads a graph file; writes nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mtrec_edge_compress.onnx_graph import Array, weights_of

LARGEST_SUM = 2**15 - 1
LARGEST_ACTIVATION = 255


@dataclass(frozen=True)
class Saturation:
    """The room each INT8 matrix leaves."""

    headroom: dict[str, int]  # matrix -> 32,767 less the greatest sum of two products; negative: it can overflow

    @property
    def safe(self) -> bool:
        """Whether no matrix can overflow."""
        return all(room >= 0 for room in self.headroom.values())

    def facts(self) -> dict[str, Any]:
        """Return what the stage's record says of it."""
        unsafe = [name for name, room in self.headroom.items() if room < 0]
        return {
            "safe_without_vnni": self.safe,
            "least_headroom": min(self.headroom.values(), default=LARGEST_SUM),
            **({"can_overflow": ", ".join(unsafe)} if unsafe else {}),
        }


def check_saturation(graph: Path) -> Saturation:
    """Return the headroom of every signed INT8 matrix that the graph at `graph` multiplies integers by."""
    model = onnx.load(graph)
    weights = weights_of(model)
    headroom = {}
    for node in model.graph.node:
        matrix = weights.get(node.input[1]) if node.op_type == "MatMulInteger" else None
        if matrix is not None and matrix.dtype == np.int8:  # unsigned weights are added in 32 bits
            headroom[node.input[1]] = LARGEST_SUM - LARGEST_ACTIVATION * greatest_pair(matrix)
    return Saturation(headroom)


def greatest_pair(matrix: Array) -> int:
    """Return the greatest |w| + |w'| of neighbouring rows of a column of an INT8 matrix (in, out).

    >>> greatest_pair(np.array([[100, 1], [-28, 1], [7, 127]], np.int8))
    128
    """
    widths = np.abs(matrix.astype(np.int64))
    even = np.concatenate([widths, np.zeros_like(widths[: len(widths) % 2])])
    return int((even[0::2] + even[1::2]).max())
