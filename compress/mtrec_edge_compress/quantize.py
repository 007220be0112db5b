"""`quantize`: `encoder.fp32.onnx` -> two INT8 graphs, `encoder.onnx` and `encoder.exact.onnx`, over one `encoder.bin`.

* Words and positions: see lookup_tables.py.
* Matrices: symmetric INT8, one scale an output column; Optimum's ORTQuantizer makes the graph, rounding.py
  the integers. Before, queries, keys and values are fused (fuse_qkv.py) and wide channels evened out (smooth.py).
* Profile `fast` multiplies integers (MatMulInteger) and takes no mask (unmasked.py); profile `exact` turns the same
  integers back into floats. Products may be left in FP32 where INT8 costs too much (sensitivity.py), or where it is
  slower (candidates.py).
* A small projection stays FP32. The weights of text heads and ranker are stored in 16 bits and cast back when these
  graphs are opened: their arithmetic stays FP32, for labels and rankings are their output.

Knows nothing of whether the result is good enough: verify.py measures that.
"""

import tempfile
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from optimum.onnxruntime import ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig
from transformers import PretrainedConfig

from mtrec_edge_compress.activations import activations
from mtrec_edge_compress.candidates import fastest
from mtrec_edge_compress.data.arrays import IntArray
from mtrec_edge_compress.encoder_graph import open_text_heads, text_heads_in
from mtrec_edge_compress.export import ENCODER_FP32, RANKER
from mtrec_edge_compress.fuse_qkv import fuse_qkv
from mtrec_edge_compress.lookup_tables import quantize_tables
from mtrec_edge_compress.onnx_graph import (
    Array,
    add_weight,
    check_portable,
    copy_of,
    is_head,
    readers_of,
    replace_nodes,
    shorten_names,
    tidy,
    weights_of,
    write_shared,
)
from mtrec_edge_compress.products import with_float_products
from mtrec_edge_compress.recipe import Quantize
from mtrec_edge_compress.rounding import column_scales, round_columns
from mtrec_edge_compress.saturation import check_saturation
from mtrec_edge_compress.sensitivity import Fallback, choose_fallback
from mtrec_edge_compress.smooth import ROWS_APART, smooth
from mtrec_edge_compress.unmasked import leave_out_mask
from mtrec_edge_runtime.errors import StageError
from mtrec_edge_runtime.manifest import TEXT_HEADS

DEFAULT = Quantize()

ENCODER_FAST = "encoder.onnx"
ENCODER_EXACT = "encoder.exact.onnx"
ENCODER_WEIGHTS = "encoder.bin"

MIN_HALF_BYTES = 1024  # a smaller weight of text heads and ranker stays FP32
MAX_FP32_HEAD_BYTES = 256 * 1024  # a projection up to this size keeps FP32 weights: rounding buys little, shows at once
MAX_FP32_BYTES = 64 * 1024  # anything else above this size must have become INT8


def quantize(folder_fp32: Path, out: Path, texts: Sequence[IntArray], settings: Quantize = DEFAULT) -> dict[str, Any]:
    """Read the graphs that `export_onnx` wrote into `folder_fp32`, write the shipped ones into `out`.

    `texts` are token ids that training may read: they show what activations are like. Returns what the stage's record
    says of it. Raises StageError when a large FP32 tensor or a foreign operator is left. The same input gives the same
    bytes, unless `settings.candidates` asks for what this machine finds fastest.
    """
    out.mkdir(parents=True, exist_ok=True)
    prepared = onnx.load(folder_fp32 / ENCODER_FP32)
    split_gemms(prepared)
    fuse_qkv(prepared)
    quantize_tables(prepared, settings.word_bits)
    names = _matmuls_to_quantize(prepared)
    smooth(prepared, names, texts)
    fast = _dynamic_int8(prepared, names)
    _round_weights(fast, prepared, names, texts, reduce_range=settings.reduce_range)
    leave_out_mask(fast)
    fallback = choose_fallback(
        fast, prepared, names, texts, budget_bytes=settings.fp32_budget_bytes, max_error=settings.max_cosine_error
    )
    facts = _facts_of(fallback)
    fast = with_float_products(fast, prepared, fallback.names, weights="fp32")
    integers = [name for name in names if name not in fallback.names]
    exact = _weight_only(prepared, integers, fast)
    if settings.candidates:
        heads = open_text_heads(folder_fp32)
        fast, facts["candidate"], measured = fastest(fast, prepared, integers, heads, texts)
        facts["candidates"] = [asdict(candidate) for candidate in measured]
    allowed = {node.input[1] for node in prepared.graph.node if node.name in fallback.names}
    for model, name in ((fast, ENCODER_FAST), (exact, ENCODER_EXACT)):
        tidy(model)
        shorten_names(model)
        check_portable(model, name)
        _check_no_large_floats(model, name, allowed)
    write_shared({out / ENCODER_FAST: fast, out / ENCODER_EXACT: exact}, out / ENCODER_WEIGHTS)
    (out / TEXT_HEADS).unlink(missing_ok=True)
    for path in (*text_heads_in(folder_fp32), folder_fp32 / RANKER):
        model = onnx.load(path)
        store_halves(model, path.name)
        (out / path.name).write_bytes(model.SerializeToString(deterministic=True))
    return facts | check_saturation(out / ENCODER_FAST).facts()


def _facts_of(fallback: Fallback) -> dict[str, Any]:
    if not fallback.names:
        return {"cosine_error": fallback.errors[0]}
    return {
        "fp32_products": ", ".join(fallback.names),
        "fp32_bytes": fallback.added_bytes,
        "cosine_error": fallback.errors[-1],
        "cosine_error_before": fallback.errors[0],
    }


def split_gemms(model: Any) -> None:
    """Turn each Gemm with constant weights into MatMul + Add: dynamic quantization knows MatMul alone."""
    weights = weights_of(model)
    nodes: list[Any] = []
    for node in model.graph.node:
        if node.op_type != "Gemm" or node.input[1] not in weights:
            nodes.append(node)
            continue
        options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if options.get("alpha", 1.0) != 1.0 or options.get("beta", 1.0) != 1.0 or options.get("transA", 0):
            raise StageError(f"quantize: {node.name} is a Gemm with {options}; use a plain linear layer there")
        matrix = weights[node.input[1]]
        name = f"{node.input[1]}.matrix"
        add_weight(model, name, matrix.T.copy() if options.get("transB", 0) else matrix)
        scope = node.name.removesuffix("Gemm")
        product = f"{scope}MatMul_output" if len(node.input) == 3 else node.output[0]
        nodes.append(helper.make_node("MatMul", [node.input[0], name], [product], f"{scope}MatMul"))
        if len(node.input) == 3:
            nodes.append(helper.make_node("Add", [product, node.input[2]], [node.output[0]], f"{scope}Add"))
    replace_nodes(model.graph, nodes)


def store_halves(model: Any, graph: str) -> None:
    """Store every large FP32 weight as float16 and a Cast, which ONNX Runtime folds away when it opens the graph.

    Raises StageError, naming the file `graph`, for a weight beyond float16.
    """
    casts = []
    readers = readers_of(model)
    for tensor in model.graph.initializer:
        name, value = tensor.name, numpy_helper.to_array(tensor)
        if value.dtype != np.float32 or value.nbytes < MIN_HALF_BYTES:
            continue
        with np.errstate(over="ignore"):  # refused below
            half = value.astype(np.float16)
        if not np.isfinite(half).all():
            raise StageError(
                f"quantize: {graph}: {name} holds {np.abs(value).max():.3g}, beyond float16; train it again"
            )
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        cast = f"{readers[name][0].name}/Cast"  # named by who reads it, so that byte ledgers know whose weight it is
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], cast, to=onnx.TensorProto.FLOAT))
    replace_nodes(model.graph, [*casts, *model.graph.node])


def _matmuls_to_quantize(model: Any) -> list[str]:
    """Return the names of the MatMuls by a constant matrix, without a small projection."""
    weights = weights_of(model)
    found = [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    return [n.name for n in found if not (is_head(n) and weights[n.input[1]].nbytes <= MAX_FP32_HEAD_BYTES)]


def _dynamic_int8(prepared: Any, names: list[str]) -> Any:
    """Return the graph with the named MatMuls as DynamicQuantizeLinear + MatMulInteger, per column."""
    if not names:  # the quantizer takes "none" for "all"
        return copy_of(prepared)
    config = AutoQuantizationConfig.avx512_vnni(
        is_static=False, per_channel=True, nodes_to_quantize=names, operators_to_quantize=["MatMul"]
    )
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(prepared, Path(folder) / "model.onnx")
        quantizer = ORTQuantizer(Path(folder) / "model.onnx", config=PretrainedConfig())
        quantizer.quantize(config, save_dir=Path(folder) / "int8", file_suffix="")
        return onnx.load(Path(folder) / "int8" / "model.onnx")


def _round_weights(
    fast: Any, prepared: Any, names: list[str], texts: Sequence[IntArray], *, reduce_range: bool
) -> None:
    """Put better integers in place of those that Optimum found for the named MatMuls."""
    chosen = [node for node in prepared.graph.node if node.name in set(names)]
    moments: dict[str, Array] = {}
    for found in activations(prepared, sorted({node.input[0] for node in chosen}), texts):
        for source, rows in found.items():
            moments[source] = moments.get(source, 0.0) + rows.T.astype(np.float64) @ rows
    floats = weights_of(prepared)
    stored = {tensor.name: tensor for tensor in fast.graph.initializer}
    for node in chosen:
        matrix = floats[node.input[1]]
        scales = column_scales(matrix, reduce_range=reduce_range)
        integers = round_columns(matrix, scales, moments[node.input[0]], reduce_range=reduce_range)
        for part, value in (("quantized", integers), ("scale", scales)):
            name = f"{node.input[1]}_{part}"
            stored[name].CopyFrom(numpy_helper.from_array(value, name))


def _weight_only(prepared: Any, names: list[str], fast: Any) -> Any:
    """Return the prepared graph with each named MatMul reading the INT8 weights of `fast` through DequantizeLinear."""
    model = copy_of(prepared)
    integers = weights_of(fast)
    chosen, done = set(names), set()
    nodes: list[Any] = []
    for node in model.graph.node:
        if node.name in chosen:
            weight = node.input[1]
            if weight not in done:
                done.add(weight)
                add_weight(model, f"{weight}_quantized", integers[f"{weight}_quantized"])
                add_weight(model, f"{weight}_scale", integers[f"{weight}_scale"])
                inputs, output = [f"{weight}_quantized", f"{weight}_scale"], f"{weight}_dequantized"
                nodes.append(helper.make_node("DequantizeLinear", inputs, [output], f"{node.name}_weight", axis=1))
            node.input[1] = f"{weight}_dequantized"
        nodes.append(node)
    replace_nodes(model.graph, nodes)
    return model


def _check_no_large_floats(model: Any, name: str, allowed: Collection[str]) -> None:
    heads = {weight for node in model.graph.node if is_head(node) for weight in node.input}
    for tensor, value in weights_of(model).items():
        limit = MAX_FP32_HEAD_BYTES if tensor in heads else MAX_FP32_BYTES
        if tensor in allowed or tensor.endswith((".scale", ROWS_APART)):
            continue
        if value.dtype == np.float32 and value.nbytes > limit:
            raise StageError(
                f"quantize: {name} still holds {tensor} as {value.nbytes:,} bytes of FP32 (at most {limit:,}); "
                "only linear layers and lookup tables become INT8, so build the model of those"
            )
