"""`export`: what a traced graph computes anew for each text although it is known beforehand is stated instead.

* Nodes that read constants alone are computed once (the ONNX reference evaluator, not a runtime's optimizer).
* A Reshape is given its shape as a constant: a dimension that stays where it was is 0, which ONNX reads as "as before".
  The tracer writes Shape, Slice, Concat in its place: for a tiny encoder that is most of its nodes, and a runtime that
  cannot tell a tensor's shape beforehand leaves its neighbours unfused.
* One dimension of a tensor is one Shape, not a Shape, a Gather and an Unsqueeze.
* An Expand to the shape of what it meets next is left to broadcasting.
* Division by one's own length, which is ReduceL2, Clip and Div, is one LpNormalization; a vector of zeros stays one.

Edits a graph in place, whose outputs stay bit for bit; knows nothing of what the graph is for.
"""

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from mtrec_edge_compress.onnx_graph import Array, constants_of, readers_of, replace_nodes, weights_of

MOST_FOLDED = 64  # elements of a constant that is computed beforehand: shapes and indices, never weights
ELEMENTWISE = ("Add", "Sub", "Mul", "Div")

Dims = tuple[int | str, ...]  # a number, or the name of an axis


def state_shapes(model: Any) -> None:
    """Fold constants, state the shape of each Reshape that is known, leave out each Expand that is not needed."""
    fold_constants(model)
    dims = _inferred(model)
    known = weights_of(model)
    made: dict[str, Array] = {}
    for node in model.graph.node:
        if node.op_type == "Reshape" and node.input[1] not in known:
            shape = stated(dims.get(node.input[0]), dims.get(node.output[0]))
            if shape is not None:
                name = "shape." + ".".join(map(str, shape))
                made[name] = np.array(shape, np.int64)
                node.input[1] = name
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in made.items())
    _join_dimensions(model)
    _drop_expands(model)
    _join_normalizations(model)
    drop_unread(model)


def stated(before: Dims | None, after: Dims | None) -> tuple[int, ...] | None:
    """Return the constant that reshapes `before` into `after`: 0 keeps a dimension, -1 is the one that is left.

    >>> stated(("batch", "tokens", 64), ("batch", "tokens", 2, 32))
    (0, 0, 2, 32)
    """
    if before is None or after is None:
        return None
    shape = [
        0 if place < len(before) and before[place] == dim and isinstance(dim, str) else dim
        for place, dim in enumerate(after)
    ]
    named = [place for place, dim in enumerate(shape) if isinstance(dim, str)]
    if len(named) > 1:
        return None
    return tuple(dim if isinstance(dim, int) else -1 for dim in shape)


def fold_constants(model: Any) -> None:
    """Make every small value that depends on constants alone an initializer, one for equal ones."""
    weights = {name: value for name, value in weights_of(model).items() if value.size <= MOST_FOLDED}
    known = weights | constants_of(model)
    fresh = {name: known[name] for name in known if name not in weights}
    outputs = {tensor.name for tensor in model.graph.output}
    nodes = []
    for node in model.graph.node:
        if node.op_type == "Constant" and node.output[0] in known:
            continue
        if all(name in known for name in node.input if name) and node.output[0] not in outputs:
            found = ReferenceEvaluator(node).run(None, {name: known[name] for name in node.input if name})
            if all(np.size(value) <= MOST_FOLDED for value in found):
                values = dict(zip(node.output, map(np.asarray, found), strict=True))
                known |= values
                fresh |= values
                continue
        nodes.append(node)
    names: dict[tuple[str, tuple[int, ...], bytes], str] = {}
    alias = {}
    for name, value in fresh.items():
        alias[name] = names.setdefault((value.dtype.str, value.shape, value.tobytes()), name)
    model.graph.initializer.extend(numpy_helper.from_array(fresh[name], name) for name in names.values())
    for node in nodes:
        node.input[:] = [alias.get(name, name) for name in node.input]
    replace_nodes(model.graph, nodes)
    drop_unread(model)


def drop_unread(model: Any) -> None:
    """Drop nodes and weights that no output depends on."""
    read = {tensor.name for tensor in model.graph.output}
    kept: list[Any] = []
    for node in reversed(model.graph.node):
        if any(name in read for name in node.output):
            kept.append(node)
            read.update(node.input)
    replace_nodes(model.graph, kept[::-1])
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)


def _inferred(model: Any) -> dict[str, Dims]:
    """Return the dimensions of each tensor all of whose axes are known by number or by name."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    found: dict[str, Dims] = {}
    for tensor in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        dims = tensor.type.tensor_type.shape.dim
        if all(dim.HasField("dim_value") or dim.dim_param for dim in dims):
            found[tensor.name] = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in dims)
    return found


def _join_dimensions(model: Any) -> None:
    """Write Unsqueeze(Gather(Shape(x), number), 0), one dimension as a list, as one Shape."""
    known = weights_of(model)
    maker = {node.output[0]: node for node in model.graph.node}
    nodes: list[Any] = []
    for node in model.graph.node:
        picked = maker.get(node.input[0]) if node.op_type == "Unsqueeze" else None
        shape = maker.get(picked.input[0]) if picked is not None and picked.op_type == "Gather" else None
        number = known.get(picked.input[1]) if picked is not None and shape is not None else None
        if shape is None or shape.op_type != "Shape" or shape.attribute or number is None or number.shape:
            nodes.append(node)
            continue
        place = int(number)
        ends = {"end": place + 1} if place != -1 else {}
        nodes.append(helper.make_node("Shape", [shape.input[0]], list(node.output), node.name, start=place, **ends))
    replace_nodes(model.graph, nodes)


def _join_normalizations(model: Any) -> None:
    """Write x / max(|x|, a tiny number), lengths over the last axis, as LpNormalization."""
    maker = {node.output[0]: node for node in model.graph.node}
    nodes: list[Any] = []
    for node in model.graph.node:
        least = maker.get(node.input[1]) if node.op_type == "Div" else None
        length = maker.get(least.input[0]) if least is not None and least.op_type == "Clip" else None
        if length is not None and length.op_type == "ReduceL2" and length.input[0] == node.input[0]:
            options = {a.name: helper.get_attribute_value(a) for a in length.attribute}
            if options.get("axes") == [-1]:
                node = helper.make_node("LpNormalization", [node.input[0]], list(node.output), node.name, axis=-1, p=2)
        nodes.append(node)
    replace_nodes(model.graph, nodes)


def _drop_expands(model: Any) -> None:
    """Leave out an Expand to the shape of the tensor that it is then added to, multiplied or divided with."""
    maker = {node.output[0]: node for node in model.graph.node}
    readers = readers_of(model)
    for node in model.graph.node:
        shape = maker.get(node.input[1]) if node.op_type == "Expand" else None
        if shape is None or shape.op_type != "Shape" or shape.attribute:
            continue
        uses = readers.get(node.output[0], [])
        if uses and all(use.op_type in ELEMENTWISE and shape.input[0] in use.input for use in uses):
            for use in uses:
                use.input[:] = [node.input[0] if name == node.output[0] else name for name in use.input]
