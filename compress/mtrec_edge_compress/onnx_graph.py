"""ONNX graphs as data: what may be in one, how its weights are laid out, how many bytes each part takes.

Reads and edits ModelProtos in place; `write_shared` and `byte_ledger` are the two that touch files. Knows nothing of
how weights are quantized.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import external_data_helper, numpy_helper

from mtrec_edge_runtime.errors import StageError

OPSET = 17
IR_VERSION = 8
PURE_DOMAINS = ("", "ai.onnx")
MIN_EXTERNAL_BYTES = 1024  # smaller tensors stay inside the graph
ALIGNMENT = 64  # bytes; a cache line, so that mapped weights start on one
COMPONENTS = ("embeddings", "encoder", "heads", "overhead")
HEAD_SCOPES = ("/projection/", "/text_heads")  # node names carry the module's path

Array = npt.NDArray[Any]


def check_portable(model: Any, name: str) -> None:
    """Raise StageError unless the graph is opset 17, IR 8 and made of `ai.onnx` operators alone."""
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    foreign = sorted({f"{n.domain}.{n.op_type}" for n in model.graph.node if n.domain not in PURE_DOMAINS})
    if foreign or model.functions:
        found = ", ".join(foreign) or f"{len(model.functions)} local functions"
        raise StageError(f"{name}: only ai.onnx operators may be shipped, found {found}; rewrite that layer plainly")
    if set(opsets) - set(PURE_DOMAINS) or max(opsets.values()) != OPSET:
        raise StageError(f"{name}: opset {OPSET} of ai.onnx is shipped, found {opsets}; export it again")
    if model.ir_version != IR_VERSION:
        raise StageError(f"{name}: IR version {IR_VERSION} is shipped, found {model.ir_version}; export it again")


def tidy(model: Any) -> None:
    """Drop what no runtime reads: docs, shape notes, unused weights, unused operator sets, aliases of weights."""
    graph = model.graph
    _resolve_identities(graph)
    used = {name for node in graph.node for name in node.input}
    keep = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:], graph.value_info[:], model.metadata_props[:]
    graph.initializer.extend(keep)
    graph.doc_string = model.doc_string = ""
    model.producer_name, model.producer_version = "mtrec-edge", ""
    domains = {node.domain for node in graph.node}
    opsets = [entry for entry in model.opset_import if entry.domain in domains]
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]


def _resolve_identities(graph: Any) -> None:
    """Read a weight directly where the exporter made an Identity node for each copy of an equal weight."""
    weights = {tensor.name for tensor in graph.initializer}
    alias = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Identity" and n.input[0] in weights}
    alias = {name: source for name, source in alias.items() if name not in {o.name for o in graph.output}}
    kept = [node for node in graph.node if node.output[0] not in alias]
    for node in kept:
        node.input[:] = [alias.get(name, name) for name in node.input]
    replace_nodes(graph, kept)


def shorten_names(model: Any) -> None:
    """Give every tensor between two nodes a short name: the tracer's are a third of a tiny graph's file.

    Names of inputs, outputs, weights and nodes stay, so that a reader still finds their way.
    """
    outputs = {tensor.name for tensor in model.graph.output}
    inner = [name for node in model.graph.node for name in node.output if name and name not in outputs]
    taken = outputs | {tensor.name for tensor in (*model.graph.input, *model.graph.initializer)}
    free = (name for name in map(str, range(len(inner) + len(taken))) if name not in taken)
    short = dict(zip(inner, free, strict=False))
    for node in model.graph.node:
        node.input[:] = [short.get(name, name) for name in node.input]
        node.output[:] = [short.get(name, name) for name in node.output]


def copy_of(model: Any) -> Any:
    """Return a copy of a graph that may be edited."""
    return onnx.ModelProto.FromString(model.SerializeToString(deterministic=True))


def replace_nodes(graph: Any, nodes: list[Any]) -> None:
    """Make `nodes` the graph's nodes; they must stand in an order in which they can run."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString(deterministic=True)) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def readers_of(model: Any) -> dict[str, list[Any]]:
    """Return the nodes that read each tensor, in order."""
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def weights_of(model: Any) -> dict[str, Array]:
    """Return every initializer by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def add_weight(model: Any, name: str, value: Array) -> None:
    """Add an initializer."""
    model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))


def constants_of(model: Any) -> dict[str, Array]:
    """Return the value of every Constant node by the name of its output."""
    constants = [node for node in model.graph.node if node.op_type == "Constant"]
    return {n.output[0]: numpy_helper.to_array(n.attribute[0].t) for n in constants if n.attribute[0].name == "value"}


def write_shared(models: Mapping[Path, Any], weights: Path) -> None:
    """Write the graphs, all of one folder, with their large tensors in the one file `weights`, equal ones once.

    The tensors stand in the order in which the graphs name them, so equal graphs give equal bytes.
    """
    places: dict[bytes, int] = {}
    with weights.open("wb") as file:
        for model in models.values():
            for tensor in model.graph.initializer:
                data = numpy_helper.to_array(tensor).tobytes()
                if len(data) < MIN_EXTERNAL_BYTES:
                    continue
                key = hashlib.sha256(data).digest()
                if key not in places:
                    file.write(b"\0" * (-file.tell() % ALIGNMENT))
                    places[key] = file.tell()
                    file.write(data)
                tensor.ClearField("float_data")
                tensor.ClearField("int32_data")
                tensor.raw_data = b""
                external_data_helper.set_external_data(tensor, weights.name, places[key], len(data))
                tensor.ClearField("raw_data")
    for path, model in models.items():
        path.write_bytes(model.SerializeToString(deterministic=True))


def byte_ledger(*graphs: Path) -> dict[str, int]:
    """Return the bytes of encoder and text heads by component: embeddings, encoder, heads, overhead.

    Weights count where their node belongs, wherever they are stored; overhead is what a graph's file holds besides
    weights (nodes, names, shapes). The sum is what the graphs would weigh with all weights inside.
    """
    ledgers = [_byte_ledger(graph) for graph in graphs]
    return {component: sum(ledger[component] for ledger in ledgers) for component in COMPONENTS}


def _byte_ledger(graph: Path) -> dict[str, int]:
    model = onnx.load(graph, load_external_data=False)
    ledger = dict.fromkeys(COMPONENTS, 0)
    owner = {name: _component(node) for node in model.graph.node for name in node.input}
    owner |= {name: "embeddings" for node in model.graph.node for name in _tables(node)}
    inside = 0
    for tensor in model.graph.initializer:
        size = int(np.prod(tensor.dims)) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        ledger[owner.get(tensor.name, "encoder")] += size
        inside += 0 if external_data_helper.uses_external_data(tensor) else size
    ledger["overhead"] = graph.stat().st_size - inside
    return ledger


def _component(node: Any) -> str:
    if "/embeddings/" in node.name:
        return "embeddings"
    return "heads" if is_head(node) else "encoder"


def is_head(node: Any) -> bool:
    """Whether a node belongs to what follows the token states: the item vector's projection, the text tasks' heads."""
    return any(scope in node.name for scope in HEAD_SCOPES)


def _tables(node: Any) -> list[str]:
    return [node.input[0]] if node.op_type in ("Gather", "Slice") else []
