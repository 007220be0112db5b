"""`quantize`: which products deserve FP32 again, when INT8 costs an encoder too much and some bytes may be spent on it.

Each quantized product is taken back alone; what that takes off the item vector's error, for the bytes it costs, is its
rank. Products are taken back in this order while bytes and error are left. The same texts give the same choice.

Reads graphs; knows nothing of files, tasks or time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mtrec_edge_compress.data.arrays import IntArray
from mtrec_edge_compress.onnx_graph import weights_of
from mtrec_edge_compress.products import cosine_error, open_graph, outputs_of, with_float_products

SENSITIVITY_TEXTS = 128  # of those that show what activations are like


@dataclass(frozen=True)
class Fallback:
    """What was taken back."""

    names: tuple[str, ...]  # of the products, in the order in which they were taken
    errors: tuple[float, ...]  # mean 1 - cosine of the item vector: before any, after each
    removed: dict[str, float]  # product -> what it takes off the error alone
    added_bytes: int


def choose_fallback(
    fast: Any, prepared: Any, names: Sequence[str], texts: Sequence[IntArray], *, budget_bytes: int, max_error: float
) -> Fallback:
    """Return the products of `prepared` among `names` that `fast` should multiply in FP32.

    Args:
        fast: the dynamic INT8 graph.
        prepared: the FP32 graph it was made of.
        names: of the quantized MatMuls, as `prepared` has them.
        texts: token ids; the first 128 are read.
        budget_bytes: how many bytes the FP32 weights may add.
        max_error: nothing more is taken back once the mean of 1 - cosine is not above this.
    """
    texts = texts[:SENSITIVITY_TEXTS]
    expected = outputs_of(open_graph(prepared), texts)["vector"]

    def error(chosen: Sequence[str]) -> float:
        model = with_float_products(fast, prepared, chosen, weights="fp32")
        return cosine_error(expected, outputs_of(open_graph(model), texts)["vector"])

    errors = [error(())]
    if budget_bytes <= 0 or errors[0] <= max_error:
        return Fallback((), tuple(errors), {}, 0)
    costs = added_bytes(prepared, names)
    removed = {name: errors[0] - error([name]) for name in names}
    taken: list[str] = []
    left = budget_bytes
    for name in sorted(names, key=lambda name: (-removed[name] / costs[name], name)):
        if removed[name] <= 0 or costs[name] > left or errors[-1] <= max_error:
            continue
        together = error([*taken, name])
        if together < errors[-1]:
            taken.append(name)
            left -= costs[name]
            errors.append(together)
    return Fallback(tuple(taken), tuple(errors), removed, budget_bytes - left)


def added_bytes(prepared: Any, names: Sequence[str]) -> dict[str, int]:
    """Return what FP32 weights add to each product's INT8 ones and their scales."""
    weights = weights_of(prepared)
    matrices = {node.name: weights[node.input[1]] for node in prepared.graph.node if node.name in set(names)}
    return {name: 3 * matrix.size - 4 * matrix.shape[1] for name, matrix in matrices.items()}
