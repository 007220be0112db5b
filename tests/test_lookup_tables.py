"""Word tables of 8, 4 and 2 bits: what a row becomes, byte by byte, and back."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mtrec_edge_compress.lookup_tables import (
    FewBits,
    cosine_transform,
    int8_rows,
    packed_rows,
    quantize_tables,
    unpack_rows,
)
from mtrec_edge_runtime.errors import StageError
from mtrec_edge_runtime.session import Graph


def test_int8_rows_are_within_half_a_step_and_keep_empty_rows() -> None:
    table = np.array([[1.0, -0.5, 0.0], [0.0, 0.0, 0.0], [0.001, 0.002, -0.004]], np.float32)
    rows, scales = int8_rows(table)
    assert rows.dtype == np.int8 and scales.shape == (3, 1)
    assert np.abs(rows * scales - table).max(axis=1) == pytest.approx([0.0, 0.0, 0.0], abs=1 / 254)
    assert np.abs(rows[2] * scales[2] - table[2]).max() <= 0.004 / 254  # a small row keeps its own scale
    assert (rows[1] == 0).all()


def test_two_and_four_bits_by_hand() -> None:
    table = np.array([[-1.5, 0.5, 1.5, -0.5], [0.0, 0.0, 0.0, 0.0]], np.float32)
    packed, scales = packed_rows(table, 2)
    # row 0 is 0.5 * (-3, 1, 3, -1), stored as 0, 2, 3, 1, the first in the lowest bits
    assert packed.dtype == np.uint8 and scales.dtype == np.float16
    assert scales[0] == 0.5 and packed[0].tolist() == [0 + 4 * 2 + 16 * 3 + 64 * 1]
    assert (unpack_rows(packed, scales, 2)[0] == table[0]).all() and np.abs(
        unpack_rows(packed, scales, 2)[1]
    ).max() < 1e-4
    four = np.array([[-7.5, 7.5, 0.5, -2.5]], np.float32)  # 0.5 * (-15, 15, 1, -5)
    packed, scales = packed_rows(four, 4)  # stored as 0, 15, 8, 5, the first two in the low bits
    assert scales[0] == 0.5 and packed[0].tolist() == [0 + 16 * 8, 15 + 16 * 5]
    assert (unpack_rows(packed, scales, 4) == four).all()


def test_a_byte_stands_for_two_or_four_levels() -> None:
    one = np.ones((1, 1), np.float16)
    assert unpack_rows(np.array([[0b11_10_01_00]], np.uint8), one, 2).tolist() == [[-3, -1, 1, 3]]
    assert unpack_rows(np.array([[0xF0]], np.uint8), one, 4).tolist() == [[-15, 15]]


@pytest.mark.parametrize(("bits", "error"), [(2, 0.1188), (4, 0.0115)])
def test_rows_are_as_near_as_a_uniform_quantizer_can_be(bits: FewBits, error: float) -> None:
    """`error` is the least mean squared error of evenly spaced levels for a normal variable (Max, 1960)."""
    table = np.random.default_rng(0).normal(size=(200, 256)).astype(np.float32)
    table[1] = table[0] * 1e-2  # rows keep their own scale
    found = unpack_rows(*packed_rows(table, bits), bits)
    errors = np.square(found - table).mean(axis=1) / np.square(table).mean(axis=1)
    assert errors.mean() < 1.02 * error and errors[1] == pytest.approx(errors[0], rel=0.01)


@pytest.mark.parametrize("bits", [2, 4])
def test_rows_once_stored_stay_as_they_are(bits: FewBits) -> None:
    table = np.random.default_rng(0).normal(size=(200, 64)).astype(np.float32)
    once = unpack_rows(*packed_rows(table, bits), bits)
    assert (unpack_rows(*packed_rows(once, bits), bits) == once).all()


def looked_up(table: np.ndarray) -> onnx.ModelProto:
    """Return a graph that looks rows of a table up."""
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["rows"], "/embeddings/Gather")],
        "rows",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["batch", "tokens", table.shape[1]])],
        [numpy_helper.from_array(table, "table")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("bits", [2, 4])
def test_onnx_runtime_unpacks_what_was_packed(bits: FewBits, tmp_path: Path) -> None:
    table = np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)
    model = looked_up(table)
    quantize_tables(model, bits)
    onnx.save(model, tmp_path / "rows.onnx")
    ids = np.arange(300).reshape(2, 150)
    (rows,) = Graph(tmp_path / "rows.onnx").run({"input_ids": ids}, ["rows"])
    assert np.abs(rows - unpack_rows(*packed_rows(table, bits), bits)[ids]).max() < 1e-6


def test_a_factorised_table_is_turned_and_its_matrix_turned_back(tmp_path: Path) -> None:
    """Rows of few strong directions, as a truncated SVD leaves them: turned, they come nearer in four bits."""
    rng = np.random.default_rng(0)
    table = (rng.normal(size=(300, 16)) * 0.7 ** np.arange(16)).astype(np.float32)
    matrix = np.linalg.qr(rng.normal(size=(16, 16)))[0].astype(np.float32)
    model = looked_up(table)
    model.graph.node[0].output[0] = "narrow"
    model.graph.node.append(helper.make_node("MatMul", ["narrow", "matrix"], ["rows"], "/embeddings/MatMul"))
    model.graph.initializer.append(numpy_helper.from_array(matrix, "matrix"))
    quantize_tables(model, 4)
    onnx.save(model, tmp_path / "rows.onnx")
    (rows,) = Graph(tmp_path / "rows.onnx").run({"input_ids": np.arange(300)[None]}, ["rows"])
    errors = [
        np.square(found - table @ matrix).mean() for found in (rows[0], unpack_rows(*packed_rows(table, 4), 4) @ matrix)
    ]
    assert 0 < errors[0] < 0.8 * errors[1]


def test_the_cosine_transform_turns_without_stretching() -> None:
    turn = cosine_transform(6)
    assert np.abs(turn @ turn.T - np.eye(6)).max() < 1e-6
    assert turn[0] == pytest.approx([6**-0.5] * 6)


@pytest.mark.parametrize(("bits", "several"), [(4, 2), (2, 4)])
def test_a_row_that_fills_no_bytes_is_refused_with_the_next_step(bits: FewBits, several: int) -> None:
    with pytest.raises(StageError, match=f"rows of 15 numbers.*multiple of {several}.*word_bits=8"):
        quantize_tables(looked_up(np.ones((300, 15), np.float32)), bits)
