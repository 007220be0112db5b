"""`quantize`: the tables that texts are looked up in -> 8, 4 or 2 bits a number of words, 16 of positions.

In plain operators:

* Words, 8 bits: an INT8 row and a scale a word. ONNX Runtime's own way is one scale a table.
* Words, 4 or 2 bits: two or four numbers a byte, the row's first half or quarter in the lowest bits. `BitShift` and
  `Mod` on uint8 unpack the rows of a text; the words stay packed in memory. Levels lie even around 0: with 2 bits -3,
  -1, 1, 3 times the row's scale, which is searched for the least squared error and stored in 16 bits. A factorised
  table is turned before, and the matrix that its rows meet turned back: a few directions hold most of a row, and steps
  as wide as those need leave the others none. Source: Ashkboos et al., QuaRot, 2024; here a cosine transform, which
  any size has and which needs no seed.
* Positions, 16 bits, for each of their rows holds a channel thirty times as wide as the rest.

Edits an FP32 graph in place; knows nothing of matrices.
"""

from typing import Any, Literal

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from mtrec_edge_compress.onnx_graph import Array, add_weight, constants_of, replace_nodes, weights_of
from mtrec_edge_runtime.errors import StageError

WordBits = Literal[8, 4, 2]
FewBits = Literal[4, 2]

WORDS = "input_ids"  # what words are looked up by; any other table is one of positions
MIN_TABLE_BYTES = 4096  # a smaller lookup table costs more as nodes than it saves as bytes
# Scales tried, in root mean squares of a row: so near that rows already stored are found again.
STEPS = {4: np.geomspace(0.09, 0.5, 32), 2: np.geomspace(0.33, 0.8, 8)}
LEAST_SCALE = 2.0**-14  # the least float16 of full precision


def int8_rows(table: Array) -> tuple[Array, Array]:
    """Return INT8 rows and their float32 scales (rows, 1): row = int8 * scale, scale = max|row| / 127."""
    scales = np.abs(table).max(axis=1, keepdims=True) / np.float32(127)
    scales = np.where(scales == 0, np.float32(1), scales).astype(np.float32)
    return np.rint(table / scales).astype(np.int8), scales


def packed_rows(table: Array, bits: FewBits) -> tuple[Array, Array]:
    """Return packed rows, uint8 (rows, E * bits / 8), and their float16 scales (rows, 1).

    row = level * scale, levels the odd numbers from -(2^bits - 1) to 2^bits - 1. A byte's lowest bits are of the row's
    first half or quarter, the next ones of its second. E must be a multiple of 8 / bits.
    """
    exact, last = table.astype(np.float32), 2**bits - 1
    spread = np.sqrt(np.square(exact).mean(axis=1, keepdims=True))
    best = np.full((len(table), 1), np.inf, np.float32)
    levels, scales = np.ones(table.shape, np.int8), np.full((len(table), 1), LEAST_SCALE, np.float16)
    for step in STEPS[bits]:
        tried = _odd(exact / _full(spread * step), last)
        scale = _full((tried * exact).sum(axis=1, keepdims=True) / np.square(tried).sum(axis=1, keepdims=True))
        error = np.square(tried * scale - exact).sum(axis=1, keepdims=True)
        better = error < best
        best = np.where(better, error, best)
        levels, scales = np.where(better, tried, levels), np.where(better, scale, scales)
    codes = ((levels.astype(np.int16) + last) // 2).astype(np.uint8)
    parts = [part << place for part, place in zip(np.split(codes, 8 // bits, axis=1), range(0, 8, bits), strict=True)]
    return np.bitwise_or.reduce(parts), scales.astype(np.float16)


def unpack_rows(packed: Array, scales: Array, bits: FewBits) -> Array:
    """Return the float32 rows that `packed_rows` stands for."""
    codes = np.concatenate([packed >> place & (2**bits - 1) for place in range(0, 8, bits)], axis=1)
    rows: Array = (2 * codes.astype(np.float32) - (2**bits - 1)) * scales.astype(np.float32)
    return rows


def _odd(numbers: Array, last: int) -> Array:
    """Return the nearest odd numbers within -last and last."""
    nearest: Array = np.clip(2 * np.floor(numbers / 2) + 1, -last, last)
    return nearest


def quantize_tables(model: Any, word_bits: WordBits = 8) -> None:
    """Look up few bits and a scale in place of a large float table's words, and 16 bits in place of its positions."""
    weights = weights_of(model)
    constants = weights | constants_of(model)
    nodes: list[Any] = []
    for node in model.graph.node:
        table = weights.get(node.input[0]) if _looks_up_rows(node, constants) else None
        if table is None or table.dtype != np.float32 or table.ndim != 2 or table.nbytes < MIN_TABLE_BYTES:
            nodes.append(node)
        elif node.op_type == "Slice" or node.input[1] != WORDS:
            nodes += _look_up_halves(model, node, table)
        elif word_bits == 8:
            nodes += _look_up_int8(model, node, table)
        else:
            nodes += _look_up_packed(model, node, table, word_bits)
    replace_nodes(model.graph, nodes)


def _looks_up_rows(node: Any, constants: dict[str, Array]) -> bool:
    """Whether a node picks whole rows: Gather on axis 0 (words), or Slice on axis 0 (positions)."""
    if node.op_type == "Gather":
        return all(a.name != "axis" or a.i == 0 for a in node.attribute)
    return (
        node.op_type == "Slice" and len(node.input) > 3 and constants.get(node.input[3], np.array([-1])).tolist() == [0]
    )


def _look_up_int8(model: Any, node: Any, table: Array) -> list[Any]:
    name, (rows, scales) = node.input[0], int8_rows(table)
    add_weight(model, f"{name}.int8", rows)
    add_weight(model, f"{name}.scale", scales)
    rows_out, float_out, scale_out = (f"{node.name}/{part}" for part in ("int8", "float", "scale"))
    return [
        helper.make_node("Gather", [f"{name}.int8", *node.input[1:]], [rows_out], rows_out),
        helper.make_node("Gather", [f"{name}.scale", *node.input[1:]], [scale_out], scale_out),
        helper.make_node("Cast", [rows_out], [float_out], float_out, to=TensorProto.FLOAT),
        helper.make_node("Mul", [float_out, scale_out], [node.output[0]], f"{node.name}/Mul"),
    ]


def _look_up_packed(model: Any, node: Any, table: Array, bits: FewBits) -> list[Any]:
    name, ids, size = node.input[0], node.input[1], table.shape[1]
    if size % (8 // bits):
        raise StageError(
            f"quantize: {name} has rows of {size} numbers, and {8 // bits} of {bits} bits are stored a byte; the next "
            f"step: a student.embedding_size that is a multiple of {8 // bits}, or --set quantize.word_bits=8"
        )
    packed, scales = packed_rows(_turned(model, node, table), bits)
    middle = np.array((2**bits - 1) / 2, np.float32)  # level * scale = (code - middle) * (2 * scale)
    constants = {"packed": packed, "step": 2 * scales, "middle": middle, "codes": np.array(2**bits, np.uint8)}
    constants |= {str(place): np.array(place, np.uint8) for place in range(bits, 8, bits)}
    for part, value in constants.items():
        add_weight(model, f"{name}.{part}", value)
    rows, both, floats, even, half, step = (
        f"{node.name}/{part}" for part in ("packed", "codes", "float", "even", "half", "step")
    )
    unpacking, codes = _unpack(rows, name, bits)
    return [
        helper.make_node("Gather", [f"{name}.packed", ids], [rows], rows),
        *unpacking,
        helper.make_node("Concat", codes, [both], both, axis=-1),
        helper.make_node("Cast", [both], [floats], floats, to=TensorProto.FLOAT),
        helper.make_node("Sub", [floats, f"{name}.middle"], [even], even),
        helper.make_node("Gather", [f"{name}.step", ids], [half], half),
        helper.make_node("Cast", [half], [step], step, to=TensorProto.FLOAT),
        helper.make_node("Mul", [even, step], [node.output[0]], f"{node.name}/Mul"),
    ]


def _unpack(rows: str, name: str, bits: FewBits) -> tuple[list[Any], list[str]]:
    """Return nodes that take bytes apart, and what their parts are called, lowest bits first."""
    nodes: list[Any] = []
    codes = []
    for place in range(0, 8, bits):
        code = rows
        if place > 0:
            code = f"{rows}/shift{place}"
            nodes.append(helper.make_node("BitShift", [rows, f"{name}.{place}"], [code], code, direction="RIGHT"))
        if place + bits < 8:  # beside the highest bits nothing is left
            shifted, code = code, f"{rows}/code{place}"
            nodes.append(helper.make_node("Mod", [shifted, f"{name}.codes"], [code], code))
        codes.append(code)
    return nodes, codes


def cosine_transform(size: int) -> Array:
    """Return the orthonormal float32 matrix (size, size) of the cosine transform (DCT-II): it spreads one over all."""
    place = np.arange(size)
    matrix = np.cos(np.pi / size * np.outer(place, place + 0.5)) * np.sqrt(2 / size)
    matrix[0] /= np.sqrt(2)
    single: Array = matrix.astype(np.float32)
    return single


def _turned(model: Any, node: Any, table: Array) -> Array:
    """Return the table with its rows turned, and turn the matrix back; the table itself where no matrix follows."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    readers = [reader for reader in model.graph.node if node.output[0] in reader.input]
    if len(readers) != 1 or readers[0].op_type != "MatMul" or readers[0].input[1] not in stored:
        return table
    turn = cosine_transform(table.shape[1])
    tensor = stored[readers[0].input[1]]
    matrix = turn.T @ numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(matrix, tensor.name))
    turned: Array = table @ turn
    return turned


def _look_up_halves(model: Any, node: Any, table: Array) -> list[Any]:
    """Cast the whole table, which a runtime does once, when it opens the graph."""
    half, full = f"{node.input[0]}.half", f"{node.name}/full"
    add_weight(model, half, table.astype(np.float16))
    return [
        helper.make_node("Cast", [half], [full], f"{node.name}/Cast", to=TensorProto.FLOAT),
        helper.make_node(node.op_type, [full, *node.input[1:]], list(node.output), node.name),
    ]


def _full(scales: Array) -> Array:
    """Return scales as float16 holds them in full precision, in float32; the least for 0."""
    full: Array = np.maximum(scales, LEAST_SCALE).astype(np.float16).astype(np.float32)
    return full
