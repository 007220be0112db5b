"""Overflow without VNNI: a matrix that can is found, and the shipped ones cannot."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tiny_models import id_rows, student_model

from mtrec_edge_compress.export import export_onnx
from mtrec_edge_compress.quantize import quantize
from mtrec_edge_compress.recipe import Quantize
from mtrec_edge_compress.saturation import check_saturation


def graph_of(matrix: np.ndarray, folder: Path) -> Path:
    """Write a graph that multiplies integers by one matrix."""
    kind = TensorProto.INT8 if matrix.dtype == np.int8 else TensorProto.UINT8
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "w"], ["product"])],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, ["rows", len(matrix)])],
        [helper.make_tensor_value_info("product", TensorProto.INT32, ["rows", matrix.shape[1]])],
        [helper.make_tensor("w", kind, matrix.shape, matrix.tobytes(), raw=True)],
    )
    path = folder / "graph.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize(
    ("column", "headroom"),
    [
        ([127, 1, 0, 0], 32767 - 255 * 128),
        ([127, 2, 0, 0], 32767 - 255 * 129),
        ([0, 127, 127, 0], 32767 - 255 * 127),  # rows 1 and 2 are not added together
        ([0, 0, -100, -100], 32767 - 255 * 200),
        ([5, 5, 100], 32767 - 255 * 100),  # an odd last row stands alone
    ],
)
def test_headroom_by_hand(tmp_path: Path, column: list[int], headroom: int) -> None:
    found = check_saturation(graph_of(np.array(column, np.int8)[:, None], tmp_path))
    assert found.headroom == {"w": headroom} and found.safe is (headroom >= 0)
    assert found.facts().get("can_overflow") == (None if headroom >= 0 else "w")


def test_unsigned_weights_are_added_in_thirty_two_bits(tmp_path: Path) -> None:
    assert check_saturation(graph_of(np.full((4, 4), 255, np.uint8), tmp_path)).headroom == {}


def test_a_reduced_range_is_safe_and_a_full_one_is_not(tmp_path: Path) -> None:
    export_onnx(student_model(), tmp_path)
    for reduce_range in (True, False):
        facts = quantize(tmp_path, tmp_path / "int8", id_rows(), Quantize(reduce_range=reduce_range))
        found = check_saturation(tmp_path / "int8/encoder.onnx")
        assert len(found.headroom) == 9 and found.safe is facts["safe_without_vnni"] is reduce_range
