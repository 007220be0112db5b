"""An encoder graph without a mask gives what it gave with a mask of ones, from fewer nodes."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tiny_models import bert_model, id_rows, student_model

from mtrec_edge_compress.export import export_onnx
from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_compress.onnx_graph import weights_of
from mtrec_edge_compress.products import open_graph, outputs_of
from mtrec_edge_compress.unmasked import leave_out_mask


@pytest.mark.parametrize("make", [student_model, bert_model])
def test_outputs_stay_and_the_mask_is_gone(tmp_path: Path, make: type[MultiTaskModel]) -> None:
    export_onnx(make(), tmp_path)
    model = onnx.load(tmp_path / "encoder.fp32.onnx")
    before, expected = len(model.graph.node), outputs_of(open_graph(model), id_rows())
    leave_out_mask(model)
    assert [tensor.name for tensor in model.graph.input] == ["input_ids"]
    assert len(model.graph.node) <= before
    found = outputs_of(open_graph(model), id_rows())
    for name, values in expected.items():
        for one, other in zip(values, found[name], strict=True):
            np.testing.assert_allclose(other, one, rtol=0, atol=1e-6, err_msg=name)


def test_a_student_computes_nothing_with_a_mask(tmp_path: Path) -> None:
    export_onnx(student_model(), tmp_path)
    model = onnx.load(tmp_path / "encoder.fp32.onnx")
    leave_out_mask(model)
    assert not any(node.name.startswith("attention_mask/") for node in model.graph.node)
    assert "ReduceMean" in {node.op_type for node in model.graph.node}
    scores = {node.input[0] for node in model.graph.node if node.op_type == "Softmax"}
    makers = [node.op_type for node in model.graph.node if node.output[0] in scores]
    assert makers == ["MatMul"] * len(scores)  # no bias is added between product and softmax


def test_another_use_of_the_mask_reads_ones() -> None:
    nodes = [
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["input_ids"], ["ids"], to=TensorProto.FLOAT),
        helper.make_node("Sqrt", ["mask"], ["root"]),
        helper.make_node("Div", ["ids", "root"], ["vector"]),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
        for name in ("input_ids", "attention_mask")
    ]
    outputs = [helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["batch", "tokens"])]
    model = helper.make_model(helper.make_graph(nodes, "other", inputs, outputs))
    model.ir_version, model.opset_import[0].version = 8, 17
    leave_out_mask(model)
    assert not weights_of(model)
    assert open_graph(model).run({"input_ids": np.array([[4, 9]])}, ["vector"])[0].tolist() == [[4.0, 9.0]]
