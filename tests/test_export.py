from functools import partial

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from tiny_models import MAX_TOKENS, TASKS, VOCABULARY, bert_model, student_model, with_tasks

from mtrec_edge_compress.export import export_onnx
from mtrec_edge_compress.graphs import Graphs
from mtrec_edge_compress.onnx_graph import check_portable
from mtrec_edge_compress.parity import random_ranker_inputs, torch_parity
from mtrec_edge_runtime.errors import StageError
from mtrec_edge_runtime.session import Graph


def axes(tensors):
    return {t.name: [d.dim_param or d.dim_value for d in t.type.tensor_type.shape.dim] for t in tensors}


def test_graphs_have_the_names_and_axes_of_the_bundle_format(tmp_path):
    export_onnx(student_model(), tmp_path)
    encoder = onnx.load(tmp_path / "encoder.fp32.onnx").graph
    assert axes(encoder.input) == {"input_ids": ["batch", "tokens"], "attention_mask": ["batch", "tokens"]}
    between = {"vector": ["batch", 16], "states": ["batch", "tokens", 32]}
    assert axes(encoder.output) == between
    heads = onnx.load(tmp_path / "text_heads.onnx").graph
    assert axes(heads.input) == between
    assert axes(heads.output) == {"movies.genre": ["batch", 3], "products.tags": ["batch", "tokens", 3]}
    ranker = onnx.load(tmp_path / "ranker.onnx").graph
    assert axes(ranker.input) == {
        "history": ["batch", "events", 16],
        "behaviour": ["batch", "events"],
        "value": ["batch", "events"],
        "age": ["batch", "events"],
        "history_mask": ["batch", "events"],
        "candidates": ["batch", "items", 16],
        "priors": ["batch", "items", 3],
        "affinity": ["batch", "items", "events"],
        "asked": ["asked"],
    }
    assert axes(ranker.output) == {"scores": ["batch", "items", "asked"]}


def test_what_the_ranker_is_asked_for_it_gives_in_that_order(tmp_path):
    model, rng = student_model(), np.random.default_rng(0)
    with torch.no_grad():  # amounts in units of their own
        model.center.copy_(torch.arange(len(model.outputs)))
        model.scale.copy_(torch.arange(len(model.outputs)) + 2.0)
    export_onnx(model, tmp_path)
    inputs = random_ranker_inputs(rng, model, batch=2, events=3)
    expected = model.rank(**{name: torch.from_numpy(value) for name, value in inputs.items()})
    for asked in ([0], [2, 0], [1, 1, 2]):
        (scores,) = Graph(tmp_path / "ranker.onnx").run(inputs | {"asked": np.array(asked)}, ["scores"])
        wanted = torch.stack([expected[model.outputs[number]] for number in asked], dim=-1).detach().numpy()
        assert scores.shape == wanted.shape and np.allclose(scores, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [student_model, bert_model, partial(with_tasks, TASKS, window=3)])
def test_exported_graphs_equal_torch_at_every_length_and_batch(tmp_path, make):
    model = make()
    export_onnx(model, tmp_path)
    assert (
        torch_parity(model, Graphs(tmp_path, "fp32", model.outputs), vocabulary=VOCABULARY, max_tokens=MAX_TOKENS)
        < 1e-5
    )


def test_parity_sees_a_changed_weight(tmp_path):
    model = student_model()
    export_onnx(model, tmp_path)
    with torch.no_grad():
        model.text.projection.bias[0] += 0.01
    assert (
        torch_parity(model, Graphs(tmp_path, "fp32", model.outputs), vocabulary=VOCABULARY, max_tokens=MAX_TOKENS)
        > 1e-4
    )


def test_parity_sees_what_is_no_number(tmp_path):
    model = student_model()
    export_onnx(model, tmp_path)
    with torch.no_grad():
        model.text.projection.bias[0] = torch.nan
    graphs = Graphs(tmp_path, "fp32", model.outputs)
    assert torch_parity(model, graphs, vocabulary=VOCABULARY, max_tokens=MAX_TOKENS) == np.inf


def test_parity_is_asked_of_users_without_a_history():
    masks = [
        random_ranker_inputs(np.random.default_rng(0), student_model(), batch=batch, events=4)["history_mask"]
        for batch in (1, 5)
    ]
    assert masks[0].sum() == 4 and masks[1].sum(axis=1).min() == 0 and masks[1].sum(axis=1).max() == 4


def test_export_leaves_the_model_in_training_mode(tmp_path):
    model = student_model().train()
    export_onnx(model, tmp_path / "deep" / "teacher")
    assert all(part.training for part in model.modules())
    assert (tmp_path / "deep" / "teacher" / "encoder.fp32.onnx").is_file()


def test_export_twice_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        export_onnx(student_model(), tmp_path / name)
    for file in ("encoder.fp32.onnx", "text_heads.onnx", "ranker.onnx"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize(("kind", "read"), [("multiclass", "vector"), ("token", "states")])
def test_text_heads_of_one_kind_take_what_they_read(tmp_path, kind, read):
    model = with_tasks(tuple(task for task in TASKS if task.source == "events" or task.kind == kind))
    export_onnx(model, tmp_path)
    assert list(axes(onnx.load(tmp_path / "text_heads.onnx").graph.input)) == [read]
    graphs = Graphs(tmp_path, "fp32", model.outputs)
    assert torch_parity(model, graphs, vocabulary=VOCABULARY, max_tokens=MAX_TOKENS) < 1e-5


def test_without_text_tasks_there_are_no_text_heads(tmp_path):
    export_onnx(student_model(), tmp_path)
    model = with_tasks(TASKS[:2])
    export_onnx(model, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder.fp32.onnx", "ranker.onnx"]
    graphs = Graphs(tmp_path, "fp32", model.outputs)
    assert torch_parity(model, graphs, vocabulary=VOCABULARY, max_tokens=MAX_TOKENS) < 1e-5
    assert graphs.encode([np.array([2, 5, 3])]).logits == {}


def test_a_model_without_pairwise_tasks_is_refused(tmp_path):
    model = with_tasks(TASKS[2:])
    with pytest.raises(StageError, match="no regression or binary task"):
        export_onnx(model, tmp_path)


def tiny_graph(op="Relu", domain="", opset=17, ir=8):
    value = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n"]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"], domain=domain)], "g", value[:1], value[1:])
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (tiny_graph("Gelu", "com.microsoft"), r"only ai.onnx operators .* found com.microsoft.Gelu"),
        (tiny_graph(opset=18), "opset 17 .* found .*18"),
        (tiny_graph(ir=10), "IR version 8 .* found 10"),
    ],
)
def test_a_graph_some_runtime_could_not_load_is_refused(graph, message):
    with pytest.raises(StageError, match=message):
        check_portable(graph, "encoder.onnx")


def test_a_plain_graph_is_accepted():
    check_portable(tiny_graph(), "encoder.onnx")
