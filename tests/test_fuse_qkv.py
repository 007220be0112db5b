"""Queries, keys and values in one product, and shapes that are stated: fewer nodes, the same outputs."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tiny_models import bert_model, id_rows, student_model
from torch import Tensor, nn

from mtrec_edge_compress.export import export_onnx
from mtrec_edge_compress.fuse_qkv import fuse_qkv
from mtrec_edge_compress.graphs import Graphs
from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_compress.onnx_graph import weights_of
from mtrec_edge_compress.products import open_graph
from mtrec_edge_compress.stated_shapes import state_shapes, stated


def kinds(model: onnx.ModelProto) -> Counter[str]:
    """Count the nodes of each operator."""
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("make", [student_model, bert_model])
def test_one_product_gives_what_three_gave(tmp_path: Path, make: Callable[[], MultiTaskModel]) -> None:
    export_onnx(make(), tmp_path)
    expected = Graphs(tmp_path, "fp32").encode(id_rows())
    model = onnx.load(tmp_path / "encoder.fp32.onnx")
    before = kinds(model)
    assert fuse_qkv(model) == 2
    after = kinds(model)
    assert before["MatMul"] - after["MatMul"] == before["Add"] - after["Add"] == 4
    assert after["Split"] == 2 and before["Reshape"] - after["Reshape"] == 4
    onnx.checker.check_model(model)
    onnx.save(model, tmp_path / "encoder.fp32.onnx")
    found = Graphs(tmp_path, "fp32").encode(id_rows())
    assert np.abs(found.vectors - expected.vectors).max() < 1e-6


def test_one_dimension_is_one_node(tmp_path: Path) -> None:
    export_onnx(student_model(), tmp_path)
    model = onnx.load(tmp_path / "encoder.fp32.onnx")
    shapes = [node for node in model.graph.node if node.op_type == "Shape"]
    assert [{a.name: a.i for a in node.attribute} for node in shapes] == [{"start": 1, "end": 2}]  # how many tokens
    assert "Unsqueeze" not in {node.op_type for node in model.graph.node if node.input[0] in shapes[0].output}


def test_layers_pruned_to_other_widths_keep_their_own_heads(tmp_path: Path) -> None:
    export_onnx(student_model(), tmp_path)
    model = onnx.load(tmp_path / "encoder.fp32.onnx")
    fuse_qkv(model)
    shapes = [value.tolist() for name, value in weights_of(model).items() if name.endswith("qkv.shape")]
    assert shapes == [[0, 0, 6, 16], [0, 0, 3, 16]]


def test_three_products_of_other_use_stay(tmp_path: Path) -> None:
    export_onnx(student_model(), tmp_path)
    model = onnx.load(tmp_path / "ranker.onnx")
    before = model.SerializeToString(deterministic=True)
    assert fuse_qkv(model) == 0
    assert model.SerializeToString(deterministic=True) == before


class Cut(nn.Module):
    """Cut into heads and put back together, with a scale by a broadcast norm."""

    def forward(self, states: Tensor) -> Tensor:
        """Return (batch, tokens, 12)."""
        heads = states.unflatten(-1, (3, 4)).transpose(1, 2).transpose(1, 2).flatten(2)
        return nn.functional.normalize(heads, dim=-1)


def test_shapes_are_stated_and_nothing_else_changes(tmp_path: Path) -> None:
    states = torch.randn(2, 5, 12)
    axes = {"states": {0: "batch", 1: "tokens"}, "out": {0: "batch", 1: "tokens"}}
    torch.onnx.export(
        Cut(), (states,), tmp_path / "cut.onnx", input_names=["states"], output_names=["out"], opset_version=17,
        dynamic_axes=axes, dynamo=False,
    )  # fmt: skip
    model = onnx.load(tmp_path / "cut.onnx")
    assert kinds(model)["Shape"] >= 3
    state_shapes(model)
    assert not {"Shape", "Slice", "Concat", "Expand", "Constant", "ReduceL2", "Clip"} & set(kinds(model))
    assert kinds(model)["LpNormalization"] == 1
    assert sorted(v.tolist() for v in weights_of(model).values() if v.dtype == np.int64 and v.size > 1) == [
        [0, 0, -1],
        [0, 0, 3, 4],
    ]


def test_one_operator_gives_rows_their_unit_length_and_leaves_zeros(tmp_path: Path) -> None:
    rows = torch.tensor([[3.0, 4.0] + [0.0] * 10, [0.0] * 12]).unsqueeze(1)
    torch.onnx.export(
        Cut(), (rows,), tmp_path / "cut.onnx", input_names=["states"], output_names=["out"], opset_version=17,
        dynamic_axes={"states": {0: "batch", 1: "tokens"}}, dynamo=False,
    )  # fmt: skip
    model = onnx.load(tmp_path / "cut.onnx")
    state_shapes(model)
    (found,) = open_graph(model).run({"states": rows.numpy()}, ["out"])
    np.testing.assert_allclose(found, Cut()(rows).numpy(), rtol=0, atol=1e-7)
    assert not found[1].any()


def test_stated_by_hand() -> None:
    assert stated(("batch", "tokens", 64), ("batch", "tokens", 2, 32)) == (0, 0, 2, 32)
    assert stated(("batch", 2, "tokens", 32), ("batch", "tokens", 64)) == (0, -1, 64)
    assert stated(("batch", "tokens", 4), ("tokens", "batch", 4)) is None
    assert stated(None, ("batch",)) is None


def test_a_traced_encoder_has_no_shape_left_to_compute(tmp_path: Path) -> None:
    export_onnx(student_model(), tmp_path)
    found = kinds(onnx.load(tmp_path / "encoder.fp32.onnx"))
    assert found["Shape"] == 1 and found["Slice"] == 1  # how many positions a text has
    assert found["Concat"] == found["Constant"] == found["Expand"] == 0
