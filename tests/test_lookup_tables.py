"""Word tables of 8 and 4 bits: what a row becomes, byte by byte, and back."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mtrec_edge_compress.lookup_tables import cosine_transform, int4_rows, int8_rows, quantize_tables, unpack_int4
from mtrec_edge_runtime.errors import StageError
from mtrec_edge_runtime.session import Graph


def test_int8_rows_are_within_half_a_step_and_keep_empty_rows() -> None:
    table = np.array([[1.0, -0.5, 0.0], [0.0, 0.0, 0.0], [0.001, 0.002, -0.004]], np.float32)
    rows, scales = int8_rows(table)
    assert rows.dtype == np.int8 and scales.shape == (3, 1)
    assert np.abs(rows * scales - table).max(axis=1) == pytest.approx([0.0, 0.0, 0.0], abs=1 / 254)
    assert np.abs(rows[2] * scales[2] - table[2]).max() <= 0.004 / 254  # a small row keeps its own scale
    assert (rows[1] == 0).all()


def test_four_bits_by_hand() -> None:
    table = np.array([[-4.0, 3.5, 0.0, 1.0], [4.0, -3.5, 0.0, -1.0], [0.0, 0.0, 0.0, 0.0]], np.float32)
    packed, scales = int4_rows(table)
    # row 0 is 0.5 * (-8, 7, 0, 2), stored as 0, 15, 8, 10: two in the low nibbles, then two in the high ones
    assert scales[0] == 0.5 and packed[0].tolist() == [0 + 16 * 8, 15 + 16 * 10]
    assert scales[1] == -0.5 and (packed[1] == packed[0]).all()  # the widest is positive: the scale turns it round
    assert scales.dtype == np.float16 and packed.dtype == np.uint8
    assert (unpack_int4(packed, scales) == table).all()


def test_the_search_beats_the_plain_scale_and_rows_keep_their_own() -> None:
    table = np.random.default_rng(0).normal(size=(200, 64)).astype(np.float32)
    table[1] *= 1e-3
    found = unpack_int4(*int4_rows(table))
    widest = np.abs(table).max(axis=1, keepdims=True)
    plain = np.clip(np.rint(table / widest * 7), -8, 7) * widest / 7
    errors, plain_errors = (np.square(rows - table).mean(axis=1) for rows in (found, plain))
    assert (errors <= plain_errors * 1.001).all() and errors.mean() < 0.8 * plain_errors.mean()
    assert errors[1] < 2e-6 * errors[0]


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


def test_onnx_runtime_unpacks_what_was_packed(tmp_path: Path) -> None:
    table = np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)
    model = looked_up(table)
    quantize_tables(model, 4)
    onnx.save(model, tmp_path / "rows.onnx")
    ids = np.arange(300).reshape(2, 150)
    (rows,) = Graph(tmp_path / "rows.onnx").run({"input_ids": ids}, ["rows"])
    assert np.abs(rows - unpack_int4(*int4_rows(table))[ids]).max() < 1e-6


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
    errors = [np.square(found - table @ matrix).mean() for found in (rows[0], unpack_int4(*int4_rows(table)) @ matrix)]
    assert 0 < errors[0] < 0.8 * errors[1]


def test_the_cosine_transform_turns_without_stretching() -> None:
    turn = cosine_transform(6)
    assert np.abs(turn @ turn.T - np.eye(6)).max() < 1e-12
    assert turn[0] == pytest.approx([6**-0.5] * 6)


def test_an_odd_row_is_refused_with_the_next_step() -> None:
    with pytest.raises(StageError, match=r"rows of 15 numbers.*word_bits=8"):
        quantize_tables(looked_up(np.ones((300, 15), np.float32)), 4)
