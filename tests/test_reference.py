"""BERT-base beside the student, tried with a small BERT."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import id_rows, student_model
from transformers import BertConfig, BertModel

from mtrec_edge_compress.export import export_onnx
from mtrec_edge_compress.quantize import quantize
from mtrec_edge_compress.reference import compare, make_bert, read_comparison
from mtrec_edge_runtime.session import Graph

SMALL = BertConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128, vocab_size=200)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "bert-base.onnx"
    make_bert(path, SMALL)
    return path


def test_by_default_it_is_bert_base() -> None:
    base = BertConfig()
    assert (base.num_hidden_layers, base.hidden_size, base.vocab_size) == (12, 768, 30_522)


def test_the_graph_is_the_model(bert: Path) -> None:
    torch.manual_seed(0)
    model = BertModel(SMALL, add_pooling_layer=False).eval()
    ids = np.array([[7, 9, 3]])
    with torch.no_grad():
        expected = model(torch.from_numpy(ids)).last_hidden_state
    (states,) = Graph(bert).run({"input_ids": ids, "attention_mask": np.ones_like(ids)}, ["states"])
    assert states == pytest.approx(expected.numpy(), abs=1e-4)
    assert sum(weight.numel() for weight in model.parameters()) * 4 == pytest.approx(bert.stat().st_size, rel=0.1)


def test_it_is_made_once_and_draws_from_no_ones_random_numbers(bert: Path) -> None:
    before, state = bert.stat().st_mtime_ns, torch.get_rng_state()
    make_bert(bert)
    assert bert.stat().st_mtime_ns == before and torch.equal(torch.get_rng_state(), state)
    assert [path.name for path in bert.parent.iterdir()] == ["bert-base.onnx"]


def test_the_ratio_is_of_one_window_and_is_kept(bert: Path, tmp_path: Path) -> None:
    export_onnx(student_model(), tmp_path)
    quantize(tmp_path, tmp_path / "int8", id_rows())
    found = compare(bert, tmp_path / "int8", max_tokens=16)
    assert found.tokens == 16 and found.reference_bytes == bert.stat().st_size
    assert 0 < found.low <= found.ratio <= found.high
    found.write(tmp_path / "comparison.json")
    assert read_comparison(tmp_path / "comparison.json") == found
    assert read_comparison(tmp_path / "none.json") is None
