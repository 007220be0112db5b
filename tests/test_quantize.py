from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from tiny_models import VOCABULARY, bert_model, id_rows, student_model

from mtrec_edge_compress.export import export_onnx
from mtrec_edge_compress.graphs import ENCODERS, Graphs
from mtrec_edge_compress.onnx_graph import byte_ledger, weights_of
from mtrec_edge_compress.quantize import int8_rows, quantize
from mtrec_edge_runtime.errors import StageError

FILES = ("encoder.onnx", "encoder.exact.onnx", "encoder.bin", "ranker.onnx")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("graphs")
    export_onnx(student_model(), path)
    quantize(path, path / "int8", id_rows())
    return path


def test_int8_rows_are_within_half_a_step_and_keep_empty_rows():
    table = np.array([[1.0, -0.5, 0.0], [0.0, 0.0, 0.0], [0.001, 0.002, -0.004]], np.float32)
    rows, scales = int8_rows(table)
    assert rows.dtype == np.int8 and scales.shape == (3, 1)
    assert np.abs(rows * scales - table).max(axis=1) == pytest.approx([0.0, 0.0, 0.0], abs=1 / 254)
    assert np.abs(rows[2] * scales[2] - table[2]).max() <= 0.004 / 254  # a small row keeps its own scale
    assert (rows[1] == 0).all()


def test_every_matrix_of_the_encoder_becomes_int8_in_both_profiles(folder):
    # a layer has query, key, value, out, up, down; two layers and the expansion of the factorised word table
    fast = Counter(node.op_type for node in onnx.load(folder / "int8/encoder.onnx").graph.node)
    exact = Counter(node.op_type for node in onnx.load(folder / "int8/encoder.exact.onnx").graph.node)
    assert fast["MatMulInteger"] == 13 and exact["DequantizeLinear"] == 13
    assert fast["MatMul"] == 4 + 3 and exact["MatMul"] == 13 + 4 + 3  # attention's two a layer; three FP32 heads
    assert fast["Gemm"] == exact["Gemm"] == 0


def test_the_ranker_is_stored_in_halves_and_scores_as_before(folder):
    stored = weights_of(onnx.load(folder / "int8/ranker.onnx")).values()
    assert any(w.dtype == np.float16 for w in stored)
    assert all(w.dtype != np.float32 or w.nbytes < 1024 for w in stored)
    rng = np.random.default_rng(0)
    inputs = {
        "history": rng.normal(size=(1, 3, 16)).astype(np.float32) / 4,
        "behaviour": np.array([[0, 1, 0]]),
        "value": rng.normal(size=(1, 3)).astype(np.float32),
        "age": np.arange(3)[None],
        "history_mask": np.ones((1, 3), np.int64),
        "candidates": rng.normal(size=(1, 7, 16)).astype(np.float32) / 4,
        "priors": rng.random((1, 7, 3)).astype(np.float32),
        "affinity": rng.random((1, 7, 3)).astype(np.float32),
    }
    single, half = Graphs(folder, "fp32").rank(inputs), Graphs(folder / "int8", "exact").rank(inputs)
    assert set(single) == set(half) == {"movies.rating", "movies.like", "movies.like.order"}
    for name, scores in single.items():
        assert 0 < np.abs(scores - half[name]).max() < 5e-3


def test_a_ranker_weight_beyond_sixteen_bits_stops_the_stage(tmp_path):
    model = student_model()
    with torch.no_grad():
        model.heads.inner.weight[0, 0] = 1e6
    export_onnx(model, tmp_path)
    with pytest.raises(StageError, match=r"holds 1e\+06, beyond float16"):
        quantize(tmp_path, tmp_path / "int8", id_rows())


@pytest.mark.parametrize("make", [student_model, bert_model])
def test_no_fp32_embedding_remains(tmp_path, make):
    export_onnx(make(), tmp_path)
    quantize(tmp_path, tmp_path / "int8", id_rows())
    for name in ("encoder.onnx", "encoder.exact.onnx"):
        model = onnx.load(tmp_path / "int8" / name)
        weights = weights_of(model)
        tables = [
            weights[n.input[0]] for n in model.graph.node if n.op_type in ("Gather", "Slice") and n.input[0] in weights
        ]
        assert any(table.dtype == np.int8 for table in tables)  # words
        assert any(table.dtype == np.float16 for table in tables)  # positions
        assert all(t.dtype != np.float32 or t.shape[-1] == 1 or t.nbytes < 4096 for t in tables)


def test_both_profiles_store_equal_weights_once(folder):
    fast, exact = (byte_ledger(folder / "int8" / name) for name in ("encoder.onnx", "encoder.exact.onnx"))
    weights = sum(value for part, value in fast.items() if part != "overhead")
    assert (folder / "int8/encoder.bin").stat().st_size < 1.1 * weights
    assert exact["encoder"] <= fast["encoder"]


def test_the_ledger_adds_up_to_one_file(folder):
    ledger = byte_ledger(folder / "encoder.fp32.onnx")
    assert sum(ledger.values()) == (folder / "encoder.fp32.onnx").stat().st_size
    words = VOCABULARY * 16 + 16 * 32 + 40 * 32 + 2 * 32  # table, expansion, positions, norm
    assert ledger["embeddings"] == pytest.approx(4 * words, abs=256)
    assert ledger["heads"] == pytest.approx(4 * (33 * 16 + 17 * 3 + 33 * 3), abs=64)


def evened(graph, weight):
    """Return what each channel of the MatMul's input is multiplied by, (in,) or one 1."""
    name = weight.replace("_quantized", "_dequantized")
    (product,) = (n for n in graph.graph.node if n.op_type == "MatMul" and n.input[1] == name)
    source = product.input[0].removesuffix("/even")
    return weights_of(graph).get(f"{source}.scales", np.ones(1, np.float32))


def test_exact_profile_equals_torch_with_the_weights_rounded(folder):
    """Put the INT8 weights back into the torch model: the exact profile must give its very outputs."""
    model = student_model()
    graph = onnx.load(folder / "int8/encoder.exact.onnx")
    stored = weights_of(graph)
    tables = {
        name.removesuffix(".int8"): stored[name] * stored[f"{name.removesuffix('.int8')}.scale"]
        for name in stored
        if name.endswith(".int8")
    }
    tables |= {
        name.removesuffix(".half"): value.astype(np.float32) for name, value in stored.items() if name.endswith(".half")
    }
    with torch.no_grad():
        for name, value in tables.items():
            parameter = dict(model.named_parameters())[name.removeprefix("model.")]
            assert np.abs(parameter.numpy() - value).max() < 0.02
            parameter.copy_(torch.from_numpy(value))
        matrices = {
            name: stored[name] * stored[name.replace("_quantized", "_scale")] * evened(graph, name)[:, None]
            for name in stored
            if name.endswith("_quantized")
        }
        linear = [m for m in model.text.backbone.modules() if isinstance(m, torch.nn.Linear)]
        assert len(linear) == len(matrices)
        for layer, value in zip(linear, matrices.values(), strict=True):
            assert (
                np.abs(layer.weight.numpy().T - value).max() < np.abs(value).max() / 20
            )  # rounded for the products' sake
            layer.weight.copy_(torch.from_numpy(value.T.copy()))
    graphs = Graphs(folder / "int8", "exact")
    for ids in id_rows(4):
        with torch.no_grad():
            expected = model.encode(torch.from_numpy(ids[None]), torch.ones(1, len(ids), dtype=torch.int64))
        found = graphs.run_encoder(ids[None], np.ones((1, len(ids)), np.int64))
        assert all(np.abs(found[name] - value.numpy()).max() < 1e-5 for name, value in expected.items())


def test_exact_profile_gives_a_batch_what_it_gives_each_text(folder):
    graphs = Graphs(folder / "int8", "exact")
    ids = np.stack([text[:3] for text in id_rows(8)])
    together = graphs.run_encoder(ids, np.ones_like(ids))
    padded = graphs.run_encoder(np.pad(ids, ((0, 0), (0, 9))), np.pad(np.ones_like(ids), ((0, 0), (0, 9))))
    for row in range(len(ids)):
        alone = graphs.run_encoder(ids[row : row + 1], np.ones((1, 3), np.int64))
        assert np.abs(together["vector"][row] - alone["vector"][0]).max() < 1e-6
        assert np.abs(padded["vector"][row] - alone["vector"][0]).max() < 1e-6


@pytest.mark.parametrize("variant", ["fast", "exact"])
def test_int8_vectors_stay_close_to_fp32(folder, variant):
    expected = Graphs(folder, "fp32").encode(id_rows()).vectors
    found = Graphs(folder / "int8", variant).encode(id_rows()).vectors
    assert (expected * found).sum(axis=1).min() > 0.999


def test_encode_keeps_the_order_of_mixed_lengths(folder):
    graphs = Graphs(folder, "fp32")
    ids = id_rows(40)
    together = graphs.encode(ids)
    for row in (0, 13, 39):
        alone = graphs.encode([ids[row]])
        assert np.abs(together.vectors[row] - alone.vectors[0]).max() < 1e-6
        assert together.token_logits["products.tags"][row].shape == (len(ids[row]), 3)
        assert np.abs(together.logits["movies.genre"][row] - alone.logits["movies.genre"][0]).max() < 1e-5


def test_quantizing_twice_gives_the_same_bytes(folder, tmp_path):
    quantize(folder, tmp_path, id_rows())
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (folder / "int8" / name).read_bytes()


def test_a_channel_apart_is_quantized_without_it(tmp_path):
    """A channel forty times as wide goes through FP32: INT8 must stay as near as if it were not there."""
    model = student_model()
    with torch.no_grad():
        for layer in model.text.backbone.layers:
            layer.attention_norm.weight[3] = 40.0
            layer.up.weight[:, 3] /= 40.0
    export_onnx(model, tmp_path)
    quantize(tmp_path, tmp_path / "int8", id_rows(seed=1))
    expected = Graphs(tmp_path, "fp32").encode(id_rows()).vectors
    for variant, name in ENCODERS.items():
        if variant != "fp32":
            nodes = onnx.load(tmp_path / "int8" / name).graph.node
            assert sum(node.name.endswith("/Sum") for node in nodes) == 2
            found = Graphs(tmp_path / "int8", variant).encode(id_rows()).vectors
            assert (expected * found).sum(axis=1).mean() > 0.999


def test_eight_bits_are_nearer_than_seven(folder, tmp_path):
    quantize(folder, tmp_path, id_rows(), reduce_range=False)
    expected = Graphs(folder, "fp32").encode(id_rows()).vectors
    seven, eight = (Graphs(path, "exact").encode(id_rows()).vectors for path in (folder / "int8", tmp_path))
    assert np.abs(eight - expected).mean() < np.abs(seven - expected).mean()


class AdditiveTable(torch.nn.Module):
    """A backbone with a large table that is neither looked up nor multiplied by."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone, self.table = backbone, torch.nn.Parameter(torch.randn(600, 32))

    def forward(self, input_ids, attention_mask):
        (states,) = self.backbone(input_ids, attention_mask)
        return (states + torch.tanh(self.table).mean(0),)


def test_a_large_float_that_stays_is_refused(tmp_path):
    model = student_model()
    model.text.backbone = AdditiveTable(model.text.backbone)
    export_onnx(model, tmp_path)
    with pytest.raises(StageError, match=r"still holds model.text.backbone.table as 76,800 bytes of FP32"):
        quantize(tmp_path, tmp_path / "int8", id_rows())
