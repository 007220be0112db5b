"""Fake quantization: torch rounds as ONNX Runtime's INT8 graph does, gradients pass, and nothing is left behind."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from tiny_models import id_rows, student_model
from torch.nn import functional as F

from mtrec_edge_compress.data.arrays import FloatArray
from mtrec_edge_compress.export import export_onnx
from mtrec_edge_compress.fake_quantize import (
    fake_quantized,
    products_of,
    round_activations,
    round_rows,
    round_weights,
    rounded_words,
    store_words,
)
from mtrec_edge_compress.graphs import Graphs
from mtrec_edge_compress.lookup_tables import cosine_transform
from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_compress.onnx_graph import IR_VERSION, OPSET
from mtrec_edge_compress.quantize import quantize
from mtrec_edge_compress.recipe import Quantize
from mtrec_edge_compress.rounding import column_scales, round_columns
from mtrec_edge_runtime.session import Graph

TEXTS = id_rows(40)


def wide_student() -> MultiTaskModel:
    """A student one of whose channels is far wider than the rest, and another a few times as wide."""
    model = student_model()
    with torch.no_grad():
        for layer in model.text.backbone.layers:
            layer.output_norm.weight[3], layer.output_norm.weight[5] = 30.0, 3.0
    return model


def vectors(model: MultiTaskModel) -> FloatArray:
    with torch.no_grad():
        ids = [torch.from_numpy(text)[None] for text in TEXTS]
        return np.concatenate([model.encode(text, torch.ones_like(text))["vector"].numpy() for text in ids])


def opened(nodes: list[onnx.NodeProto], folder: Path, weights: dict[str, FloatArray]) -> Graph:
    """A graph from `x` to `y`."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "tokens", 8]) for name in "xy")
    stored = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph, opset = helper.make_graph(nodes, "g", [x], [y], stored), [helper.make_opsetid("", OPSET)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION), folder / "g.onnx")
    return Graph(folder / "g.onnx")


def test_activations_are_rounded_as_onnx_runtime_rounds_them(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "step", "zero"]),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["y"]),
    ]
    graph, rng = opened(nodes, tmp_path, {}), np.random.default_rng(0)
    for shift in (-3.0, 0.0, 0.5, 9.0):  # 9: all above 0, which stays in the range
        x = (rng.normal(size=(1, 5, 8)) + shift).astype(np.float32)
        (expected,) = graph.run({"x": x}, ["y"])
        found = round_activations(torch.from_numpy(x)).numpy()
        assert np.abs(found - expected).max() < 1e-5 < np.abs(x - expected).max()


def test_each_text_has_a_range_of_its_own() -> None:
    texts = torch.randn(3, 4, 8) * torch.tensor([1.0, 10.0, 100.0])[:, None, None]
    alone = torch.cat([round_activations(text[None]) for text in texts])
    assert torch.equal(round_activations(texts), alone)
    assert torch.equal(round_activations(torch.zeros(2, 3, 8)), torch.zeros(2, 3, 8))
    assert round_activations(torch.zeros(0, 8)).shape == (0, 8)


@pytest.mark.parametrize("reduce_range", [True, False])
def test_weights_are_rounded_as_quantize_does_where_inputs_do_not_move_together(reduce_range: bool) -> None:
    weight = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    matrix = weight.numpy().T
    scales = column_scales(matrix, reduce_range=reduce_range)
    integers = round_columns(matrix, scales, np.zeros((10, 10)), reduce_range=reduce_range)
    found = round_weights(weight, reduce_range=reduce_range).numpy()
    assert found == pytest.approx((integers * scales).T, abs=1e-6)


def test_rows_of_eight_and_four_bits_by_hand() -> None:
    table = np.array([[127.0, -64.4], [0.0, 0.0]], np.float32)
    assert round_rows(table, 8).tolist() == [[127.0, -64.0], [0.0, 0.0]]
    levels = np.array([[-15.0, 7.0, 3.0, -1.0]], np.float32)
    assert round_rows(levels, 4) == pytest.approx(levels)
    turn = cosine_transform(4)
    turned = (levels @ turn.T).astype(np.float32)  # a row that is whole steps where it is stored
    assert round_rows(turned, 4, turn) == pytest.approx(turned, abs=1e-5)


def test_words_once_stored_in_few_bits_stay_as_they_are() -> None:
    for bits in (4, 2):
        model, whole = student_model(), student_model()
        table = model.text.backbone.embeddings.word.weight
        store_words(model.text.backbone, bits)
        assert not torch.equal(table, whole.text.backbone.embeddings.word.weight)
        once = table.clone()
        store_words(model.text.backbone, bits)
        assert torch.allclose(table, once, atol=1e-6 * float(once.detach().abs().max()))


def test_words_are_rounded_while_a_student_learns_and_stored_then() -> None:
    """Two ids that share a row: the gradient of what they were rounded to moves the exact row."""
    model = student_model()
    words = model.text.backbone.embeddings.word
    ids = torch.tensor([[3, 7, 3]])
    exact = words(ids).detach()
    with rounded_words(model.text.backbone, 2):
        rounded = words(ids)
        rounded.sum().backward()
    assert not torch.allclose(rounded, exact, atol=1e-3) and torch.equal(rounded[0, 0], rounded[0, 2])
    assert words.weight.grad is not None
    assert words.weight.grad[3].unique().tolist() == [2.0] and words.weight.grad[7].unique().tolist() == [1.0]
    assert torch.allclose(words(ids), rounded, atol=1e-6 * float(exact.abs().max())) and "forward" not in words.__dict__


def test_eight_bits_round_no_words_while_a_student_learns() -> None:
    model = student_model()
    words = model.text.backbone.embeddings.word
    before = words.weight.detach().clone()
    with rounded_words(model.text.backbone, 8):
        assert "forward" not in words.__dict__
    assert torch.equal(words.weight, before)


def test_a_student_of_stored_words_loses_nothing_by_them_in_its_graph(tmp_path: Path) -> None:
    settings = Quantize(word_bits=4, reduce_range=False)
    errors = []
    for bits in (4, 8):
        model = student_model()
        store_words(model.text.backbone, bits)
        folder = tmp_path / str(bits)
        export_onnx(model, folder)
        quantize(folder, folder / "int8", TEXTS, settings)
        graph = Graphs(folder / "int8", "exact")
        found = np.concatenate([graph.run_encoder(text[None])["vector"] for text in TEXTS])
        errors.append(float(1 - (found * vectors(model)).sum(1).mean()))
    assert errors[0] < errors[1] / 3


def test_a_linear_layer_answers_as_onnx_runtimes_integers(tmp_path: Path) -> None:
    """The graph that `quantize` makes of a product, its weights rounded as for inputs that do not move together."""
    rng = np.random.default_rng(0)
    layer = torch.nn.Linear(8, 8)
    weight = layer.weight.detach().numpy()
    scales = column_scales(weight.T, reduce_range=True)
    stored = {
        "w": round_columns(weight.T, scales, np.zeros((8, 8)), reduce_range=True),
        "scales": scales,
        "bias": layer.bias.detach().numpy(),
    }
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "step", "zero"]),
        helper.make_node("MatMulInteger", ["q", "w", "zero"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["step", "scales"], ["both"]),
        helper.make_node("Mul", ["float", "both"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["y"]),
    ]
    x = rng.normal(size=(1, 5, 8)).astype(np.float32)
    (expected,) = opened(nodes, tmp_path, stored).run({"x": x}, ["y"])
    states = torch.from_numpy(x)
    with torch.no_grad():
        exact = layer(states).numpy()
        found = F.linear(round_activations(states), round_weights(layer.weight, reduce_range=True), layer.bias).numpy()
    assert np.abs(found - expected).max() < 1e-5
    assert np.abs(exact - expected).max() > 1e-3


# The rest of the squared distance is weights that `quantize` rounds for the products' sake, here to the nearest: most
# of it where nothing is wide and words have 8 bits.
@pytest.mark.parametrize(
    ("make", "settings", "share"),
    [
        (student_model, Quantize(), 0.9),
        (wide_student, Quantize(), 0.25),
        (student_model, Quantize(word_bits=4), 0.1),
        (wide_student, Quantize(word_bits=4), 0.1),
    ],
)
def test_a_student_answers_as_its_int8_graph_not_as_fp32(
    make: Callable[[], MultiTaskModel], settings: Quantize, share: float, tmp_path: Path
) -> None:
    model = make()
    export_onnx(model, tmp_path)
    quantize(tmp_path, tmp_path / "int8", TEXTS, settings)
    int8 = np.concatenate([Graphs(tmp_path / "int8", "fast").encode([text]).vectors for text in TEXTS])
    fp32 = vectors(model)
    with fake_quantized(model, TEXTS, settings):
        fake = vectors(model)
    assert 0 < np.square(fake - int8).sum() < share * np.square(fp32 - int8).sum()


def test_gradients_pass_straight_through() -> None:
    model = wide_student()
    ids = torch.from_numpy(TEXTS[0])[None]
    exact = _gradients(model, ids)
    with fake_quantized(model, TEXTS, Quantize()):
        rounded = _gradients(model, ids)
    assert exact.keys() == rounded.keys()
    first, second = (torch.cat([part.flatten() for part in found.values()]) for found in (exact, rounded))
    assert 0.95 < F.cosine_similarity(first, second, dim=0) < 1
    word = rounded["text.backbone.embeddings.word.weight"]
    assert (word.abs().sum(1) > 0).nonzero().flatten().tolist() == ids.unique().tolist()


def _gradients(model: MultiTaskModel, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    outputs = model.encode(ids, torch.ones_like(ids))
    (outputs["vector"][0, 0] + outputs["products.tags"].sum()).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_nothing_is_left_behind() -> None:
    model = student_model().train()
    before, state = vectors(model.eval()), {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    with pytest.raises(RuntimeError, match="inside"), fake_quantized(model, TEXTS, Quantize()):
        assert list(model.state_dict()) == list(state) and model.training
        raise RuntimeError("inside")
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all("forward" not in vars(part) and not part._forward_pre_hooks for part in model.modules())
    assert np.array_equal(vectors(model.eval()), before)


def test_small_heads_stay_floats_as_in_the_graph() -> None:
    model = student_model()
    assert len(products_of(model)) == 13  # six of each layer, and the expansion of the factorised words
