"""`export`: the trained model -> `encoder.fp32.onnx`, `text_heads.onnx` and `ranker.onnx`.

Named and shaped as docs/bundle-format.md says. The heads of text tasks stand apart, for a runtime computes every node
of a graph, and who wants an item's vector wants no tags.

Optimum's exporter traces the graphs; every file is checked to be opset 17, IR 8 and pure `ai.onnx`. Writes into one
folder; knows nothing of quantization.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from optimum.exporters.onnx import OnnxConfig
from optimum.exporters.onnx import export as optimum_export
from optimum.utils import NormalizedConfig
from torch import Tensor, nn
from transformers import PretrainedConfig

from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_compress.onnx_graph import OPSET, check_portable, tidy
from mtrec_edge_compress.stated_shapes import state_shapes
from mtrec_edge_runtime.catalogue import PRIORS
from mtrec_edge_runtime.errors import StageError
from mtrec_edge_runtime.manifest import TEXT_HEADS
from mtrec_edge_runtime.tasks import Kind

ENCODER_FP32 = "encoder.fp32.onnx"
RANKER = "ranker.onnx"

Axes = tuple[str | int, ...]  # a dynamic axis by name, a fixed one by size
TABLE_INDICES = ("behaviour", "age", "asked")  # inputs that look up tables which may have one row
SAMPLE_SIZES = {
    "batch": 2,
    "tokens": 7,
    "events": 3,
    "items": 5,
    "asked": 4,
}  # of the traced example; any other size runs too


@dataclass(frozen=True)
class GraphShape:
    """Inputs and outputs of one graph, in order."""

    inputs: dict[str, Axes]
    integers: tuple[str, ...]  # the int64 inputs; the others are float32
    outputs: dict[str, Axes]


def encoder_shape(model: MultiTaskModel) -> GraphShape:
    """Return the encoder's inputs and outputs."""
    inputs: dict[str, Axes] = {"input_ids": ("batch", "tokens"), "attention_mask": ("batch", "tokens")}
    outputs: dict[str, Axes] = {
        "vector": ("batch", model.vector_size),
        "states": ("batch", "tokens", model.hidden_size),
    }
    return GraphShape(inputs, tuple(inputs), outputs)


def text_heads_shape(model: MultiTaskModel) -> GraphShape:
    """Return inputs and outputs of the text tasks' heads. They are offered what the encoder gives; what no task reads
    is no input of the graph.
    """
    outputs: dict[str, Axes] = {}
    for task in model.text_tasks:
        leading: Axes = ("batch", "tokens") if task.kind is Kind.TOKEN else ("batch",)
        outputs[task.name] = (*leading, len(task.labels))
    return GraphShape(encoder_shape(model).outputs, (), outputs)


def ranker_shape(model: MultiTaskModel) -> GraphShape:
    """Return the ranker's inputs and outputs."""
    if not model.pair_tasks:
        raise StageError("export: the dataset has no regression or binary task, so there is nothing to rank; add one")
    per_event: Axes = ("batch", "events")
    inputs: dict[str, Axes] = {
        "history": (*per_event, model.vector_size),
        "behaviour": per_event,
        "value": per_event,
        "age": per_event,
        "history_mask": per_event,
        "candidates": ("batch", "items", model.vector_size),
        "priors": ("batch", "items", PRIORS),
        "affinity": ("batch", "items", "events"),
        "asked": ("asked",),
    }
    return GraphShape(inputs, ("behaviour", "age", "history_mask", "asked"), {"scores": ("batch", "items", "asked")})


class EncoderGraph(nn.Module):
    """`MultiTaskModel.text` as a module of its own, which is what the exporter traces."""

    def __init__(self, model: MultiTaskModel) -> None:
        super().__init__()
        self.model, self.config = model, PretrainedConfig()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """Return the outputs of `encoder.onnx`."""
        states, pooled = self.model.text(input_ids, attention_mask)
        return {"vector": self.model.text.vector(pooled), "states": states}


class TextHeadsGraph(nn.Module):
    """`MultiTaskModel.text_outputs` as a module of its own."""

    def __init__(self, model: MultiTaskModel) -> None:
        super().__init__()
        self.model, self.config = model, PretrainedConfig()

    def forward(self, vector: Tensor, states: Tensor) -> dict[str, Tensor]:
        """Return the outputs of `text_heads.onnx`."""
        return self.model.text_outputs(states, vector)


class RankerGraph(nn.Module):
    """`MultiTaskModel.rank` as a module of its own, in which an output that is not asked for costs nothing.

    A runtime computes every node of a graph, asked for or not, so the heads' weights are gathered by what is. A head's
    linear path is two more hidden units, `relu(x) - relu(-x) = x`, and the units of regression are folded into it.
    """

    def __init__(self, model: MultiTaskModel) -> None:
        super().__init__()
        self.model, self.config = model, PretrainedConfig()
        heads, scale = model.heads, model.scale.unsqueeze(1)
        straight, shift = heads.linear.weight.unsqueeze(1), heads.linear.bias
        inner = torch.unflatten(heads.inner.weight, 0, (heads.tasks, heads.hidden))
        bias = torch.unflatten(heads.inner.bias, 0, (heads.tasks, heads.hidden))
        nothing, one = torch.zeros_like(scale), torch.ones_like(scale)
        self.inner = nn.Parameter(torch.cat([inner, straight, -straight], dim=1).detach())  # (outputs, units, F)
        self.bias = nn.Parameter(torch.cat([bias, nothing, nothing], dim=1).detach())
        self.outer = nn.Parameter((torch.cat([heads.outer, one, -one], dim=1) * scale).detach())
        self.shift = nn.Parameter((shift * model.scale + model.center).detach())

    def forward(
        self,
        history: Tensor,
        behaviour: Tensor,
        value: Tensor,
        age: Tensor,
        history_mask: Tensor,
        candidates: Tensor,
        priors: Tensor,
        affinity: Tensor,
        asked: Tensor,
    ) -> dict[str, Tensor]:
        """Return the scores (batch, items, asked) of the outputs that `asked` numbers."""
        pairs = self.model.pair_features(history, behaviour, value, age, history_mask, candidates, priors, affinity)
        inner, bias = self.inner[asked].flatten(0, 1), self.bias[asked].flatten()
        hidden = torch.relu(torch.addmm(bias, pairs.flatten(0, 1), inner.t()))
        hidden = hidden.view(pairs.shape[0], pairs.shape[1], -1, self.outer.shape[1])
        return {"scores": (hidden * self.outer[asked]).sum(-1) + self.shift[asked]}


class GraphConfig(OnnxConfig):  # type: ignore[misc]
    """Optimum's description of a graph, read off a GraphShape."""

    NORMALIZED_CONFIG_CLASS = NormalizedConfig

    def __init__(self, shape: GraphShape) -> None:
        super().__init__(PretrainedConfig())
        self.shape = shape

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        """Return the dynamic axes of each input."""
        return _dynamic_axes(self.shape.inputs)

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        """Return the dynamic axes of each output."""
        return _dynamic_axes(self.shape.outputs)

    def generate_dummy_inputs(self, framework: str = "pt") -> dict[str, Tensor]:
        """Return the example that is traced: table indices 0, everything else 1, so no row is all padding."""
        return {
            name: torch.full(
                [SAMPLE_SIZES[axis] if isinstance(axis, str) else axis for axis in axes],
                0 if name in TABLE_INDICES else 1,
                dtype=torch.int64 if name in self.shape.integers else torch.float32,
            )
            for name, axes in self.shape.inputs.items()
        }


def export_onnx(model: MultiTaskModel, folder: Path) -> None:
    """Write the graphs of `model` into `folder`; the model stays as it was.

    Raises StageError when a graph would not run on any ONNX Runtime from 1.20 on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    export_graph(EncoderGraph(model), encoder_shape(model), folder / ENCODER_FP32)
    (folder / TEXT_HEADS).unlink(missing_ok=True)
    if model.text_tasks:
        export_graph(TextHeadsGraph(model), text_heads_shape(model), folder / TEXT_HEADS)
    export_graph(RankerGraph(model), ranker_shape(model), folder / RANKER)


def export_graph(module: nn.Module, shape: GraphShape, path: Path) -> None:
    """Write one module as FP32 ONNX with the inputs and outputs of `shape`; the module stays as it was."""
    was_training = [part for part in module.modules() if part.training]
    device = next(module.parameters()).device
    with warnings.catch_warnings():  # the tracer warns of each Python branch; parity is what verify.py measures
        warnings.simplefilter("ignore")
        optimum_export(module.cpu().eval(), GraphConfig(shape), path, opset=OPSET, disable_dynamic_axes_fix=True)
    module.to(device)
    for part in was_training:
        part.training = True
    model = onnx.load(path)
    _name_axes(model, shape)
    tidy(model)
    state_shapes(model)
    check_portable(model, path.name)
    onnx.save(model, path)


def _dynamic_axes(tensors: Mapping[str, Axes]) -> dict[str, dict[int, str]]:
    return {
        name: {place: axis for place, axis in enumerate(axes) if isinstance(axis, str)}
        for name, axes in tensors.items()
    }


def _name_axes(model: Any, shape: GraphShape) -> None:
    """Give every output the shape that was promised: tracing leaves some fixed axes open."""
    for tensor in model.graph.output:
        dims = onnx.helper.make_tensor_value_info(tensor.name, onnx.TensorProto.FLOAT, shape.outputs[tensor.name])
        tensor.CopyFrom(dims)
