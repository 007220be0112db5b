"""`quantize`, before integers: query, key and value become one product, cut into heads once.

    before, three times over:  MatMul, Add, Reshape to heads, Transpose
    after:  MatMul, Add, Reshape to 3 x heads, Transpose, Split

One wide product in place of three narrow ones, its input quantized for it alone: what a runtime does between products
is much of a tiny encoder's time. Edits an FP32 graph in place, whose outputs stay; a layer of another form stays as it
is. Knows nothing of integers.
"""

from typing import Any, NamedTuple

import numpy as np
from onnx import helper, numpy_helper

from mtrec_edge_compress.onnx_graph import Array, readers_of, replace_nodes, weights_of

TO_HEADS = (0, 2, 1, 3)  # (batch, tokens, heads, size) -> (batch, heads, tokens, size)
TO_HEADS_TURNED = (0, 2, 3, 1)  # likewise, size before tokens: how a key is written
TURN = (0, 1, 3, 2)


class Branch(NamedTuple):
    """One of query, key and value: nodes from the product to the heads."""

    product: Any
    bias: Any
    heads: Any
    transpose: Any


def fuse_qkv(model: Any) -> int:
    """Fuse every layer's query, key and value; return how many layers were."""
    weights = weights_of(model)
    readers = readers_of(model)
    groups: dict[str, list[Branch]] = {}
    for node in model.graph.node:
        branch = _branch(node, weights, readers)
        if branch is not None:
            groups.setdefault(node.input[0], []).append(branch)
    alike = [group for group in groups.values() if len(group) == 3 and len({_shape(b, weights) for b in group}) == 1]
    placed = {id(branch.product): group for group in alike for branch in group}
    gone = {id(node) for group in alike for branch in group for node in branch}
    done: set[int] = set()
    nodes: list[Any] = []
    for node in model.graph.node:
        group = placed.get(id(node))
        if group is not None and id(group) not in done:
            done.add(id(group))
            nodes += _fused(model, group, weights)
        if id(node) not in gone:
            nodes.append(node)
    replace_nodes(model.graph, nodes)
    return len(alike)


def _branch(product: Any, weights: dict[str, Array], readers: dict[str, list[Any]]) -> Branch | None:
    """Return what follows a product by a constant matrix, if it is a bias and a cut into heads and nothing else."""
    if product.op_type != "MatMul" or product.input[1] not in weights:
        return None
    found = [product]
    for kind in ("Add", "Reshape", "Transpose"):
        following = readers.get(found[-1].output[0], [])
        if len(following) != 1 or following[0].op_type != kind:
            return None
        found.append(following[0])
    branch = Branch(*found)
    shape, order = weights.get(branch.heads.input[1]), tuple(branch.transpose.attribute[0].ints)
    fits = len(_biases(branch, weights)) == 1 and shape is not None and len(shape) == 4
    return branch if fits and order in (TO_HEADS, TO_HEADS_TURNED) else None


def _fused(model: Any, group: list[Branch], weights: dict[str, Array]) -> list[Any]:
    """Return the nodes that give what the group's three transposes gave, and store their weights."""
    first = group[0]
    scope = first.product.name.rsplit("/", 2)[0] + "/qkv"
    size = int(weights[first.heads.input[1]][-1])
    matrix = np.concatenate([weights[branch.product.input[1]] for branch in group], axis=1)
    bias = np.concatenate([_biases(branch, weights)[0] for branch in group])
    for name, value in (
        ("weight", matrix),
        ("bias", bias),
        ("shape", np.array([0, 0, len(bias) // size, size], np.int64)),
    ):
        model.graph.initializer.append(numpy_helper.from_array(value, f"{scope}.{name}"))
    turned = {b.transpose.output[0] for b in group if tuple(b.transpose.attribute[0].ints) == TO_HEADS_TURNED}
    outs = [branch.transpose.output[0] for branch in group]
    cut = [f"{name}/unturned" if name in turned else name for name in outs]
    made = [f"{scope}/{part}" for part in ("MatMul", "Add", "Reshape", "Transpose", "Split")]
    return [
        helper.make_node("MatMul", [first.product.input[0], f"{scope}.weight"], [made[0]], made[0]),
        helper.make_node("Add", [made[0], f"{scope}.bias"], [made[1]], made[1]),
        helper.make_node("Reshape", [made[1], f"{scope}.shape"], [made[2]], made[2]),
        helper.make_node("Transpose", [made[2]], [made[3]], made[3], perm=TO_HEADS),
        helper.make_node("Split", [made[3]], cut, made[4], axis=1),
        *(helper.make_node("Transpose", [f"{n}/unturned"], [n], f"{n}/Turn", perm=TURN) for n in outs if n in turned),
    ]


def _biases(branch: Branch, weights: dict[str, Array]) -> list[Array]:
    return [weights[name] for name in branch.bias.input if name in weights and weights[name].ndim == 1]


def _shape(branch: Branch, weights: dict[str, Array]) -> tuple[object, ...]:
    return (weights[branch.product.input[1]].shape, *weights[branch.heads.input[1]].tolist())
