import hashlib
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from scipy.stats import kendalltau
from tiny_models import MAX_TOKENS, SHAPE, TASKS, VOCABULARY, bert_model, id_rows, student_model, with_tasks

from mtrec_edge_compress import candidates
from mtrec_edge_compress.compact import CompactBert, CompactShape
from mtrec_edge_compress.export import export_onnx
from mtrec_edge_compress.graphs import ENCODERS, Graphs
from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_compress.onnx_graph import byte_ledger, weights_of
from mtrec_edge_compress.quantize import quantize
from mtrec_edge_compress.recipe import Quantize
from mtrec_edge_runtime.errors import StageError
from mtrec_edge_runtime.timing import Sampling

FILES = ("encoder.onnx", "encoder.exact.onnx", "encoder.bin", "text_heads.onnx", "ranker.onnx")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("graphs")
    export_onnx(student_model(), path)
    quantize(path, path / "int8", id_rows())
    return path


def test_every_matrix_of_the_encoder_becomes_int8_in_both_profiles(folder):
    # a layer has query with key and value, out, up, down; two layers and the expansion of the factorised word table
    fast = Counter(node.op_type for node in onnx.load(folder / "int8/encoder.onnx").graph.node)
    exact = Counter(node.op_type for node in onnx.load(folder / "int8/encoder.exact.onnx").graph.node)
    assert fast["MatMulInteger"] == fast["DynamicQuantizeLinear"] == 9 and exact["DequantizeLinear"] == 9
    assert fast["MatMul"] == 4 + 1 and exact["MatMul"] == 9 + 4 + 1  # attention's two a layer; the FP32 projection
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
    outputs = student_model().outputs
    single = Graphs(folder, "fp32", outputs).rank(inputs)
    half = Graphs(folder / "int8", "exact", outputs).rank(inputs)
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
        readers = ("Gather", "Slice", "Cast")
        tables = [weights[n.input[0]] for n in model.graph.node if n.op_type in readers and n.input[0] in weights]
        assert any(table.dtype == np.int8 for table in tables)  # words
        assert any(table.dtype == np.float16 for table in tables)  # positions
        assert all(t.dtype != np.float32 or t.shape[-1] == 1 or t.nbytes < 4096 for t in tables)


def test_both_profiles_store_equal_weights_once(folder):
    fast, exact = (byte_ledger(folder / "int8" / name) for name in ("encoder.onnx", "encoder.exact.onnx"))
    weights = sum(value for part, value in fast.items() if part != "overhead")
    assert (folder / "int8/encoder.bin").stat().st_size < 1.1 * weights
    assert exact["encoder"] <= fast["encoder"]


def test_the_ledger_adds_up_to_one_file(folder):
    paths = [folder / name for name in ("encoder.fp32.onnx", "text_heads.onnx")]
    ledger = byte_ledger(*paths)
    assert sum(ledger.values()) == sum(path.stat().st_size for path in paths)
    words = VOCABULARY * 16 + 16 * 32 + 40 * 32 + 2 * 32  # table, expansion, positions, norm
    assert ledger["embeddings"] == pytest.approx(4 * words, abs=256)
    assert ledger["heads"] == pytest.approx(4 * (33 * 16 + 17 * 3 + 33 * 3), abs=64)


def test_the_ledger_of_what_ships_counts_every_head_as_one(folder):
    ledger = byte_ledger(folder / "int8/text_heads.onnx")
    assert ledger["heads"] == 4 * (16 * 3 + 3 + 32 * 3 + 3) and ledger["encoder"] <= 4  # the vector's scale


def test_the_ledger_of_a_wide_head_in_halves(tmp_path):
    model = student_model()
    model.text_heads[1] = torch.nn.Linear(32, 400)
    model.text_tasks = (model.text_tasks[0], replace(model.text_tasks[1], labels=tuple(map(str, range(400)))))
    export_onnx(model, tmp_path)
    quantize(tmp_path, tmp_path / "int8", id_rows())
    ledger = byte_ledger(tmp_path / "int8/text_heads.onnx")
    assert ledger["heads"] == 2 * 33 * 400 + 4 * 17 * 3 and ledger["encoder"] <= 4
    found, expected = (Graphs(tmp_path / "int8", "exact").encode(id_rows()), Graphs(tmp_path, "fp32").encode(id_rows()))
    pairs = zip(expected.token_logits["products.tags"], found.token_logits["products.tags"], strict=True)
    assert max(np.abs(a - b).max() for a, b in pairs) < 0.1


def test_without_text_tasks_there_is_nothing_to_ship_for_them(tmp_path):
    export_onnx(with_tasks(TASKS[:2]), tmp_path)
    (tmp_path / "int8").mkdir()
    (tmp_path / "int8/text_heads.onnx").write_bytes(b"of a run before")
    quantize(tmp_path, tmp_path / "int8", id_rows())
    assert not (tmp_path / "int8/text_heads.onnx").exists()
    assert Graphs(tmp_path / "int8", "fast").encode(id_rows()).logits == {}


def evened(graph, weight):
    """Return what each channel of the MatMul's input is multiplied by, (in,) or one 1."""
    (floats,) = (n for n in graph.graph.node if n.op_type == "DequantizeLinear" and n.input[0] == weight)
    (product,) = (n for n in graph.graph.node if n.op_type == "MatMul" and n.input[1] == floats.output[0])
    (maker,) = (n for n in graph.graph.node if product.input[0] in n.output)
    even = len(maker.input) > 1 and maker.input[1].endswith(".scales")
    return weights_of(graph)[maker.input[1]] if even else np.ones(1, np.float32)


def linear_layers(backbone):
    """Return the weights (out, in) of a CompactBert as INT8 matrices hold them: query, key and value are one."""
    yield [backbone.embeddings.expand.weight]
    for layer in backbone.layers:
        yield [layer.query.weight, layer.key.weight, layer.value.weight]
        yield from ([part.weight] for part in (layer.attention_out, layer.up, layer.down))


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
        for parts, value in zip(linear_layers(model.text.backbone), matrices.values(), strict=True):
            whole = torch.cat(parts).numpy().T
            assert np.abs(whole - value).max() < np.abs(value).max() / 20  # rounded for the products' sake
            for part, rows in zip(parts, np.split(value.T, len(parts)), strict=True):
                part.copy_(torch.from_numpy(rows.copy()))
    graphs = Graphs(folder / "int8", "exact")
    for ids in id_rows(4):
        with torch.no_grad():
            expected = model.encode(torch.from_numpy(ids[None]), torch.ones(1, len(ids), dtype=torch.int64))
        found = graphs.run_text(ids[None], np.ones((1, len(ids)), np.int64))
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


@pytest.mark.parametrize("settings", [Quantize(), Quantize(word_bits=4, fp32_budget_bytes=20_000)])
def test_quantizing_twice_gives_the_same_bytes(folder, tmp_path, settings):
    first, second = (quantize(folder, tmp_path / name, id_rows(), settings) for name in "ab")
    assert first == second
    for name in FILES:
        hashes = [hashlib.sha256((tmp_path / part / name).read_bytes()).hexdigest() for part in "ab"]
        assert hashes[0] == hashes[1]


def test_words_of_four_bits_take_half_the_bytes_and_the_ledger_shows_it(folder, tmp_path):
    quantize(folder, tmp_path, id_rows(), Quantize(word_bits=4))
    eight, four = (byte_ledger(path / "encoder.onnx")["embeddings"] for path in (folder / "int8", tmp_path))
    assert eight - four == pytest.approx(VOCABULARY * (16 / 2 + 4 - 2), abs=32)  # nibbles, scales in 16 bits
    assert (tmp_path / "encoder.bin").stat().st_size < (folder / "int8/encoder.bin").stat().st_size - eight + four + 128
    expected = Graphs(folder, "fp32").encode(id_rows()).vectors
    for variant in ("fast", "exact"):
        found = Graphs(tmp_path, variant).encode(id_rows()).vectors
        assert (expected * found).sum(axis=1).mean() > 0.99
        assert kendalltau(expected @ expected[0], found @ expected[0]).statistic > 0.9


def test_the_record_says_what_was_measured(folder, tmp_path):
    facts = quantize(folder, tmp_path, id_rows())
    assert facts["safe_without_vnni"] is True and facts["least_headroom"] >= 0
    assert 0 < facts["cosine_error"] < 0.001 and "fp32_products" not in facts


def test_sensitive_products_are_fp32_again_within_the_budget(folder, tmp_path):
    budget = 20_000  # bytes: some products, not all
    facts = quantize(folder, tmp_path, id_rows(), Quantize(fp32_budget_bytes=budget))
    chosen = facts["fp32_products"].split(", ")
    assert 0 < facts["fp32_bytes"] <= budget and facts["cosine_error"] < facts["cosine_error_before"]
    for name, kind in (("encoder.onnx", "MatMulInteger"), ("encoder.exact.onnx", "DequantizeLinear")):
        model = onnx.load(tmp_path / name)
        products = {node.name: node for node in model.graph.node if node.op_type == "MatMul"}
        assert all(weights_of(model)[products[name].input[1]].dtype == np.float32 for name in chosen)
        assert sum(node.op_type == kind for node in model.graph.node) == 9 - len(chosen)
    lost = {}
    for path in (folder / "int8", tmp_path):
        expected, found = (
            Graphs(folder, "fp32").encode(id_rows()).vectors,
            Graphs(path, "fast").encode(id_rows()).vectors,
        )
        lost[path] = 1 - (expected * found).sum(axis=1).mean()
    assert lost[tmp_path] < lost[folder / "int8"]


def test_an_error_that_is_small_enough_costs_nothing(folder, tmp_path):
    facts = quantize(folder, tmp_path, id_rows(), Quantize(fp32_budget_bytes=10**6, max_cosine_error=0.5))
    assert "fp32_products" not in facts
    assert (tmp_path / "encoder.onnx").read_bytes() == (folder / "int8/encoder.onnx").read_bytes()


def test_candidates_are_measured_and_the_fastest_that_passes_is_kept(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(candidates, "SAMPLING", Sampling(samples=20, seconds=0.0, warmup_runs=2, warmup_seconds=0.0))
    facts = quantize(folder, tmp_path, id_rows(), Quantize(candidates=True))
    measured = {row["name"]: row for row in facts["candidates"]}
    assert set(measured) == {"int8", "small_fp32", "fp32"} and measured["int8"]["time"] == 1.0
    assert (
        facts["candidate"] == min((row for row in measured.values() if row["passes"]), key=lambda r: r["time"])["name"]
    )
    assert measured["fp32"]["error"] < measured["int8"]["error"]
    expected = Graphs(folder, "fp32").encode(id_rows()).vectors
    assert (expected * Graphs(tmp_path, "fast").encode(id_rows()).vectors).sum(axis=1).min() > 0.999
    size, usual = ((path / "encoder.onnx").stat().st_size for path in (tmp_path, folder / "int8"))
    weights = [(path / "encoder.bin").stat().st_size for path in (tmp_path, folder / "int8")]
    assert weights[0] <= 1.05 * weights[1] and size < 1.3 * usual


def test_candidates_are_timed_on_texts_that_are_served(tmp_path, monkeypatch):
    monkeypatch.setattr(candidates, "SAMPLING", Sampling(samples=5, seconds=0.0, warmup_runs=1, warmup_seconds=0.0))
    export_onnx(student_model(), tmp_path)
    short = [ids[:8] for ids in id_rows()]
    assert quantize(tmp_path, tmp_path / "int8", short, Quantize(candidates=True))["candidate"]


def test_where_there_is_no_product_nothing_is_quantized(tmp_path):
    """Words alone, as wide as the vector's projection reads: the lookup is INT8, the projection stays in floats."""
    shape = CompactShape(VOCABULARY, 32, 32, 16, MAX_TOKENS, ())
    model = MultiTaskModel(CompactBert(shape), 32, SHAPE, TASKS).eval()
    export_onnx(model, tmp_path)
    quantize(tmp_path, tmp_path / "int8", id_rows())
    for name in ENCODERS.values():
        if (tmp_path / "int8" / name).is_file():
            operators = {node.op_type for node in onnx.load(tmp_path / "int8" / name).graph.node}
            assert not operators & {"MatMulInteger", "DynamicQuantizeLinear"}
    expected = Graphs(tmp_path, "fp32").encode(id_rows()).vectors
    for variant in ("fast", "exact"):
        found = Graphs(tmp_path / "int8", variant).encode(id_rows()).vectors
        assert (expected * found).sum(axis=1).min() > 0.99


def with_wide_channels(*channels):
    model = student_model()
    with torch.no_grad():
        for layer in model.text.backbone.layers:
            layer.attention_norm.weight[list(channels)] = 40.0
            layer.up.weight[:, list(channels)] /= 40.0
    return model


def test_many_channels_apart_are_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr("mtrec_edge_compress.quantize.MAX_FP32_BYTES", 400)  # two channels apart have 512 bytes
    export_onnx(with_wide_channels(3, 7), tmp_path)
    quantize(tmp_path, tmp_path / "int8", id_rows(seed=1))
    weights = weights_of(onnx.load(tmp_path / "int8" / "encoder.onnx"))
    assert any(value.dtype == np.float32 and value.nbytes > 400 for value in weights.values())


def test_a_channel_apart_is_quantized_without_it(tmp_path):
    """A channel forty times as wide goes through FP32: INT8 must stay as near as if it were not there."""
    export_onnx(with_wide_channels(3), tmp_path)
    quantize(tmp_path, tmp_path / "int8", id_rows(seed=1))
    expected = Graphs(tmp_path, "fp32").encode(id_rows()).vectors
    for variant, name in ENCODERS.items():
        if variant != "fp32":
            nodes = onnx.load(tmp_path / "int8" / name).graph.node
            assert sum(node.name.endswith("/Sum") for node in nodes) == 2
            found = Graphs(tmp_path / "int8", variant).encode(id_rows()).vectors
            assert (expected * found).sum(axis=1).mean() > 0.999


def test_eight_bits_are_nearer_than_seven(folder, tmp_path):
    quantize(folder, tmp_path, id_rows(), Quantize(reduce_range=False))
    expected = Graphs(folder, "fp32").encode(id_rows()).vectors
    seven, eight = (Graphs(path, "exact").encode(id_rows()).vectors for path in (folder / "int8", tmp_path))
    assert np.abs(eight - expected).mean() < np.abs(seven - expected).mean()


class AdditiveTable(torch.nn.Module):
    """A backbone with a large table that is neither looked up nor multiplied by."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone, self.table = backbone, torch.nn.Parameter(torch.randn(600, 32))

    def forward(self, input_ids, attention_mask, inputs_embeds):
        (states,) = self.backbone(input_ids, attention_mask, inputs_embeds)
        return (states + torch.tanh(self.table).mean(0),)


def test_a_large_float_that_stays_is_refused(tmp_path):
    model = student_model()
    model.text.backbone = AdditiveTable(model.text.backbone)
    export_onnx(model, tmp_path)
    with pytest.raises(StageError, match=r"still holds model.text.backbone.table as 76,800 bytes of FP32"):
        quantize(tmp_path, tmp_path / "int8", id_rows())
