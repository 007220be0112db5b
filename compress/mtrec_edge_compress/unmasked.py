"""`quantize`, profile `fast`: the graph takes texts of one length, so nothing in it asks which tokens are padding.

Dynamic quantization must not see padding anyway. With a mask of ones most of what is computed with it is known
beforehand: attention's bias is 0, a factor is 1, a mean over the tokens that count is a mean over all. What is not, in
a graph of another form, is computed from ones.

Edits a graph in place, whose outputs for unpadded texts stay; knows nothing of integers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from mtrec_edge_compress.onnx_graph import Array, constants_of, replace_nodes, weights_of
from mtrec_edge_compress.stated_shapes import drop_unread

IDS, MASK = "input_ids", "attention_mask"
ARITHMETIC = {"Add": float.__add__, "Sub": float.__sub__, "Mul": float.__mul__}
NEUTRAL = {"Add": 0.0, "Mul": 1.0}


def leave_out_mask(model: Any) -> None:
    """Drop the input `attention_mask`, read as all ones, and what an encoder computes with it for nothing."""
    constants = weights_of(model) | constants_of(model)
    single = {name: float(value.reshape(-1)[0]) for name, value in constants.items() if value.size == 1}
    equal = {MASK: 1.0}  # tensors of equal numbers made of the mask -> that number
    alias = dict[str, str]()  # output -> the tensor that it equals
    maker = {node.output[0]: node for node in model.graph.node}
    nodes = _ones()
    for node in model.graph.node:
        node.input[:] = [alias.get(name, name) for name in node.input]
        read = [name for name in node.input if name in equal]
        others = [name for name in node.input if name not in equal]
        if node.op_type in ("Unsqueeze", "Cast") and read:
            equal[node.output[0]] = equal[read[0]]
        elif node.op_type in ARITHMETIC and read and all(name in single for name in others):
            equal[node.output[0]] = ARITHMETIC[node.op_type](*((equal | single)[name] for name in node.input))
        elif node.op_type in NEUTRAL and len(read) == 1 and equal[read[0]] == NEUTRAL[node.op_type]:
            alias[node.output[0]] = others[0]
            continue
        elif node.op_type == "Div" and _counts(maker.get(node.input[1]), maker.get(node.input[0]), equal):
            node = _mean(maker[node.input[0]], node, constants)
        nodes.append(node)
    _keep_outputs(model, nodes, alias)
    replace_nodes(model.graph, nodes)
    inputs = [tensor for tensor in model.graph.input if tensor.name != MASK]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    drop_unread(model)


def _keep_outputs(model: Any, nodes: Sequence[Any], alias: Mapping[str, str]) -> None:
    """Give a tensor that an output of the graph equals the output's name."""
    name_of = {alias[tensor.name]: tensor.name for tensor in model.graph.output if tensor.name in alias}
    for node in nodes:
        for names in (node.input, node.output):
            names[:] = [name_of.get(name, name) for name in names]


def _ones() -> list[Any]:
    """Return the nodes that make a mask of ones, for whoever still reads one."""
    one = numpy_helper.from_array(np.ones(1, np.int64))
    return [
        helper.make_node("Shape", [IDS], [f"{MASK}/shape"], f"{MASK}/Shape"),
        helper.make_node("ConstantOfShape", [f"{MASK}/shape"], [MASK], f"{MASK}/Ones", value=one),
    ]


def _counts(count: Any | None, total: Any | None, equal: Mapping[str, float]) -> bool:
    """Whether `count` sums ones over the axes over which `total` sums."""
    return (
        count is not None
        and total is not None
        and count.op_type == total.op_type == "ReduceSum"
        and equal.get(count.input[0]) == 1.0
        and count.input[1:] == total.input[1:]
    )


def _mean(total: Any, divided: Any, constants: Mapping[str, Array]) -> Any:
    """Return the quotient as a mean; opset 17 takes a mean's axes as an attribute, a sum's as an input."""
    options = {a.name: helper.get_attribute_value(a) for a in total.attribute}
    axes = constants[total.input[1]].reshape(-1).tolist()
    return helper.make_node("ReduceMean", [total.input[0]], list(divided.output), divided.name, axes=axes, **options)
