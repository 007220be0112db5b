"""Smoothing: one wide channel must not cost the others their INT8 steps, and FP32 must not notice."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tiny_models import id_rows, student_model

from mtrec_edge_compress import smooth as smoothing
from mtrec_edge_compress.export import export_onnx
from mtrec_edge_compress.graphs import Graphs
from mtrec_edge_compress.quantize import quantize, split_gemms
from mtrec_edge_compress.smooth import channel_scales, channel_widths, smooth

WIDE = 40.0  # of one channel of every layer's attention output, as in a trained BERT


def export_wide(folder: Path) -> None:
    """Export a student whose feed-forward layers read one wide channel."""
    model = student_model()
    with torch.no_grad():
        for layer in model.text.backbone.layers:  # type: ignore[union-attr]
            layer.attention_norm.weight[3] = WIDE
            layer.up.weight[:, 3] /= WIDE  # as training would have it
    export_onnx(model, folder)


def matmuls(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Return the graph's MatMuls by a constant matrix, by name."""
    constant = {tensor.name for tensor in model.graph.initializer}
    return {node.name: node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in constant}


def test_wide_channels_are_scaled_and_wider_ones_go_apart() -> None:
    width = np.array([1.0, 2.0, 4.0, 30.0, 0.0, 1.0, 1.0], np.float32)
    assert channel_scales(width) == pytest.approx([1, 1, 0.5, 0, 1, 1, 1])
    assert (channel_scales(np.zeros(4, np.float32)) == 1).all()
    assert (channel_scales(np.array([1.0, 1.0, 1.0, 4.4], np.float32)) == 1).all()  # near enough: no node is worth it


def test_fp32_outputs_stay_and_widths_fall(tmp_path: Path) -> None:
    export_wide(tmp_path)
    model = onnx.load(tmp_path / "encoder.fp32.onnx")
    split_gemms(model)
    before = Graphs(tmp_path, "fp32").encode(id_rows()).vectors
    ups = {name: node.input[0] for name, node in matmuls(model).items() if "/up/" in name}
    smooth(model, matmuls(model), id_rows(seed=1))
    onnx.save(model, tmp_path / "encoder.fp32.onnx")
    assert np.abs(Graphs(tmp_path, "fp32").encode(id_rows()).vectors - before).max() < 1e-5
    assert len(ups) == 2
    for name, source in ups.items():
        even = matmuls(model)[name].input[0]
        old, new = channel_widths(model, [source, even], id_rows(seed=1)).values()
        assert old.max() > 10 * np.median(old)
        assert new.max() <= smoothing.WIDE * np.median(new) * 1.0001


def test_a_bias_stays_behind_its_product_when_a_channel_goes_apart(tmp_path: Path) -> None:
    export_wide(tmp_path)
    model = onnx.load(tmp_path / "encoder.fp32.onnx")
    split_gemms(model)
    before = Graphs(tmp_path, "fp32").encode(id_rows()).vectors
    smooth(model, matmuls(model), id_rows(seed=1))
    onnx.save(model, tmp_path / "encoder.fp32.onnx")
    assert np.abs(Graphs(tmp_path, "fp32").encode(id_rows()).vectors - before).max() < 1e-5
    apart = {node.name.removesuffix("/Apart") for node in model.graph.node if node.name.endswith("MatMul/Apart")}
    assert sum("/up/" in name for name in apart) == 2  # one a layer: far beyond what normalised states may hold
    biases = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 1}
    for name in apart:
        (add,) = (node for node in model.graph.node if matmuls(model)[name].output[0] in node.input)
        assert add.op_type == "Add" and biases & set(add.input)


def test_queries_keys_and_values_share_one_product(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoothing, "EVEN", 1.0)
    monkeypatch.setattr(smoothing, "WIDE", 1.0)  # every activation has a channel above its median
    export_wide(tmp_path)
    model = onnx.load(tmp_path / "encoder.fp32.onnx")
    split_gemms(model)
    smooth(model, matmuls(model), id_rows(seed=1))
    products = [node for node in model.graph.node if node.name.endswith("/Even")]
    read = [node.input[0] for node in matmuls(model).values() if node.input[0].endswith("/even")]
    assert len(products) == len(set(read)) < len(read)
    assert sum(read.count(node.output[0]) == 3 for node in products) == 2  # one a layer


def test_int8_is_nearer_to_fp32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_wide(tmp_path)
    expected = Graphs(tmp_path, "fp32").encode(id_rows()).vectors
    errors = []
    for wide, apart in ((smoothing.WIDE, smoothing.APART), (smoothing.WIDE, 1e9), (1e9, 1e9)):
        monkeypatch.setattr(smoothing, "WIDE", wide)
        monkeypatch.setattr(smoothing, "APART_STATES", apart)
        quantize(tmp_path, tmp_path / str(len(errors)), id_rows(seed=1))
        found = Graphs(tmp_path / str(len(errors)), "fast").encode(id_rows()).vectors
        errors.append(float(np.abs(found - expected).mean()))
    assert 0 < max(errors[:2]) < 0.8 * errors[2]
