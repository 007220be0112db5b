"""`quantize`: the tables that texts are looked up in -> 8 or 4 bits a word's number, 16 a position's, plain operators.

* Words, 8 bits: an INT8 row and a scale a word. ONNX Runtime's own way is one scale a table.
* Words, 4 bits: two numbers a byte, the row's first half in the low ones. `Gather`, `Mod` and `BitShift` on uint8,
  `Concat` and `Cast` unpack the rows of a text; the table stays packed in memory. Each row's scale is searched for the
  least squared error, and stored in 16 bits. A factorised table is turned before, and the matrix that its rows meet
  turned back: a few directions hold most of a row, and steps as wide as those need leave the others none. Source:
  Ashkboos et al., QuaRot, 2024; here a cosine transform, which any size has and which needs no seed.
* Positions, 16 bits, for each of their rows holds a channel thirty times as wide as the rest.

Edits an FP32 graph in place; knows nothing of matrices.
"""

from typing import Any, Literal

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from mtrec_edge_compress.onnx_graph import Array, add_weight, constants_of, replace_nodes, weights_of
from mtrec_edge_runtime.errors import StageError

WordBits = Literal[8, 4]

WORDS = "input_ids"  # what words are looked up by; any other table is one of positions
MIN_TABLE_BYTES = 4096  # a smaller lookup table costs more as nodes than it saves as bytes
CLIPS = np.linspace(0.5, 1.15, 14)  # shares of a row's greatest magnitude that are tried as the end of the 4-bit range
LEAST_SCALE = 2.0**-14  # the least float16 of full precision


def int8_rows(table: Array) -> tuple[Array, Array]:
    """Return INT8 rows and their float32 scales (rows, 1): row = int8 * scale, scale = max|row| / 127."""
    scales = np.abs(table).max(axis=1, keepdims=True) / np.float32(127)
    scales = np.where(scales == 0, np.float32(1), scales).astype(np.float32)
    return np.rint(table / scales).astype(np.int8), scales


def int4_rows(table: Array) -> tuple[Array, Array]:
    """Return packed rows, uint8 (rows, E / 2), and their float16 scales (rows, 1).

    row = (nibble - 8) * scale, nibbles 0 to 15; the row's first half in the low nibbles, its second in the high ones.
    A scale is negative where the row's widest number is positive: there is one step more on the negative side.
    """
    rows = np.arange(len(table))
    widest = table[rows, np.abs(table).argmax(axis=1)][:, None].astype(np.float64)
    best = np.full((len(table), 1), np.inf)
    integers, scales = np.zeros(table.shape, np.int8), np.ones((len(table), 1), np.float16)
    for clip in CLIPS:
        tried = np.clip(np.rint(table / _full(widest * clip / -8)), -8, 7)
        squares = np.maximum(np.square(tried).sum(axis=1, keepdims=True), 1)
        scale = _full((tried * table).sum(axis=1, keepdims=True) / squares).astype(np.float16)
        error = np.square(tried * scale.astype(np.float64) - table).sum(axis=1, keepdims=True)
        better = error < best
        best = np.where(better, error, best)
        integers, scales = np.where(better, tried, integers).astype(np.int8), np.where(better, scale, scales)
    low, high = np.split((integers + 8).astype(np.uint8), 2, axis=1)
    return low | high << 4, scales


def unpack_int4(packed: Array, scales: Array) -> Array:
    """Return the float32 rows that `int4_rows` stands for."""
    nibbles = np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float32)
    rows: Array = (nibbles - 8) * scales.astype(np.float32)
    return rows


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
            nodes += _look_up_int4(model, node, table)
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


def _look_up_int4(model: Any, node: Any, table: Array) -> list[Any]:
    name, ids = node.input[0], node.input[1]
    if table.shape[1] % 2:
        raise StageError(
            f"quantize: {name} has rows of {table.shape[1]} numbers, and 4 bits are stored in pairs; the next step: "
            "an even student.embedding_size, or --set quantize.word_bits=8"
        )
    packed, scales = int4_rows(_turned(model, node, table))
    constants = {"int4": packed, "scale": scales, "16": np.array(16, np.uint8), "4": np.array(4, np.uint8)}
    for part, value in (constants | {"8": np.array(8, np.float32)}).items():
        add_weight(model, f"{name}.{part}", value)
    parts = ("int4", "low", "high", "nibbles", "float", "even", "half", "scale")
    rows, low, high, both, floats, even, half, scale = (f"{node.name}/{part}" for part in parts)
    return [
        helper.make_node("Gather", [f"{name}.int4", ids], [rows], rows),
        helper.make_node("Mod", [rows, f"{name}.16"], [low], low),
        helper.make_node("BitShift", [rows, f"{name}.4"], [high], high, direction="RIGHT"),
        helper.make_node("Concat", [low, high], [both], both, axis=-1),
        helper.make_node("Cast", [both], [floats], floats, to=TensorProto.FLOAT),
        helper.make_node("Sub", [floats, f"{name}.8"], [even], even),
        helper.make_node("Gather", [f"{name}.scale", ids], [half], half),
        helper.make_node("Cast", [half], [scale], scale, to=TensorProto.FLOAT),
        helper.make_node("Mul", [even, scale], [node.output[0]], f"{node.name}/Mul"),
    ]


def cosine_transform(size: int) -> Array:
    """Return the orthonormal matrix (size, size) of the cosine transform (DCT-II): it spreads one number over all."""
    place = np.arange(size)
    matrix: Array = np.cos(np.pi / size * np.outer(place, place + 0.5)) * np.sqrt(2 / size)
    matrix[0] /= np.sqrt(2)
    return matrix


def _turned(model: Any, node: Any, table: Array) -> Array:
    """Return the table with its rows turned, and turn the matrix back; the table itself where no matrix follows."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    readers = [reader for reader in model.graph.node if node.output[0] in reader.input]
    if len(readers) != 1 or readers[0].op_type != "MatMul" or readers[0].input[1] not in stored:
        return table
    turn = cosine_transform(table.shape[1])
    tensor = stored[readers[0].input[1]]
    matrix = turn.T @ numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(matrix.astype(np.float32), tensor.name))
    turned: Array = (table @ turn).astype(np.float32)
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
    """Return scales that float16 holds in full precision, 1 for 0."""
    nearest = np.where(np.abs(scales) < LEAST_SCALE, np.copysign(LEAST_SCALE, scales), scales)
    full: Array = np.where(scales == 0, 1.0, nearest).astype(np.float16).astype(np.float64)
    return full
