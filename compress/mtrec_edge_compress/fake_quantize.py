"""Fake quantization: a student in torch that rounds as its INT8 graph does, and learns as if it did not.

Words of few bits are rounded while pruning heals (`rounded_words`): a table of 2 bits that is rounded only
afterwards is another table. Products are rounded where healing asks for it. Both by the functions that `quantize`
rounds by, wide channels evened out before (smooth.py), and stay floats; the gradient passes straight through. Sources:
Jacob et al., Quantization and training of neural networks for efficient integer-arithmetic-only inference, 2018;
Bengio, Leonard & Courville, Estimating or propagating gradients through stochastic neurons, 2013 (straight-through).

It differs from the graph of profile `fast` in what costs too much at every step: weights are rounded to the nearest,
not for the products' sake (rounding.py), and a padded text's range is that of its padding, too. Every product is
rounded that `quantize` may round, whatever it takes back to FP32 later.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtrec_edge_compress.compact import CompactBert, Embeddings, Layer
from mtrec_edge_compress.data.arrays import FloatArray, IntArray
from mtrec_edge_compress.lookup_tables import (
    MIN_TABLE_BYTES,
    WordBits,
    cosine_transform,
    int8_rows,
    packed_rows,
    unpack_rows,
)
from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_compress.quantize import MAX_FP32_HEAD_BYTES
from mtrec_edge_compress.recipe import Quantize
from mtrec_edge_compress.rounding import LARGEST, column_scales
from mtrec_edge_compress.smooth import APART, APART_STATES, channel_scales

LEVELS = 255  # steps of an unsigned activation


@contextmanager
def fake_quantized(student: MultiTaskModel, texts: Sequence[IntArray], settings: Quantize) -> Iterator[None]:
    """Have a student round its words, activations and weights as INT8 does while the context is open.

    Parameters, their names and the student's class stay as they are, so it is trained and saved as ever.

    Args:
        student: a model over a CompactBert.
        texts: token ids of texts that training may read; they tell, once, how wide each channel is.
        settings: those the graph is quantized with.
    """
    backbone = student.text.backbone
    assert isinstance(backbone, CompactBert)
    products = products_of(student)
    widths = _channel_widths(student, products, texts)
    with ExitStack() as opened:
        normalised = {part for layer in backbone.layers for part in _reading_states(layer)}
        for product, width in zip(products, widths, strict=True):
            scales = torch.from_numpy(channel_scales(width, APART_STATES if product in normalised else APART))
            opened.enter_context(_answering(product, partial(_product, product, scales, settings.reduce_range)))
        opened.enter_context(_looking_up(backbone, settings.word_bits))
        yield


@contextmanager
def rounded_words(backbone: CompactBert, bits: WordBits) -> Iterator[None]:
    """Have a student learn with words of few bits as they will be stored; then store them so.

    The gradient of a rounded word moves the exact one. Of 8 bits there is nothing to learn around. Source: Zhang et
    al., TernaryBERT, 2020, which learns words and matrices of few bits by distillation.
    """
    if bits == 8:
        yield
        return
    with _looking_up(backbone, bits):
        yield
    store_words(backbone, bits)


@torch.no_grad()
def store_words(backbone: CompactBert, bits: WordBits) -> None:
    """Round the word table to what its graph stores; stored again, words stay as they are (within 1e-6)."""
    if _is_rounded(backbone.embeddings.word):
        table = backbone.embeddings.word.weight
        stored = round_rows(table.float().cpu().numpy(), bits, _turn(backbone.embeddings, bits))
        table.copy_(torch.from_numpy(stored))


@contextmanager
def _looking_up(backbone: CompactBert, bits: WordBits) -> Iterator[None]:
    """Have words answer rounded."""
    words = backbone.embeddings.word
    if not _is_rounded(words):
        yield
        return
    with _answering(words, partial(_look_up, words, bits, _turn(backbone.embeddings, bits))):
        yield


def _is_rounded(words: nn.Embedding) -> bool:
    """Return whether `quantize` stores a word table in few bits; a smaller one stays in floats."""
    return words.weight.numel() * 4 >= MIN_TABLE_BYTES


@contextmanager
def _answering(module: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Hide the class's `forward` behind the instance's own; names, parameters and hooks stay."""
    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        module.__dict__.pop("forward")
        if before is not None:
            module.forward = before


def products_of(student: MultiTaskModel) -> list[nn.Linear]:
    """Return the layers that become INT8: the backbone's, and the projection where it is too large to stay FP32."""
    layers = [part for part in student.text.backbone.modules() if isinstance(part, nn.Linear)]
    projection = student.text.projection
    return [*layers, projection] if projection.weight.numel() * 4 > MAX_FP32_HEAD_BYTES else layers


def _reading_states(layer: nn.Module) -> tuple[nn.Module, ...]:
    """Return the products of a layer that read normalised states, whose wide channels the graph leaves longer."""
    assert isinstance(layer, Layer)
    return layer.query, layer.key, layer.value, layer.up


def straight_through(exact: Tensor, rounded: Tensor) -> Tensor:
    """Return the rounded values; their gradient is that of the exact ones."""
    return exact + (rounded - exact).detach()


def round_activations(states: Tensor) -> Tensor:
    """Return states (texts, ..., channels) rounded to 8 unsigned bits, one range a text, as DynamicQuantizeLinear does.

    The range is that of all values of the text and 0: step = (high - low) / 255, 0 stays 0.
    """
    flat = states.detach().flatten(1)
    low, high = flat.amin(1).clamp_max(0), flat.amax(1).clamp_min(0)
    step = (high - low) / LEVELS
    step = torch.where(step == 0, torch.ones_like(step), step)
    zero = torch.round(-low / step).clamp(0, LEVELS)
    step, zero = (part.view(-1, *[1] * (states.dim() - 1)) for part in (step, zero))
    integers = (torch.round(states.detach() / step) + zero).clamp(0, LEVELS)
    return straight_through(states, (integers - zero) * step)


def round_weights(weight: Tensor, *, reduce_range: bool) -> Tensor:
    """Return a weight (out, in) rounded to 8 signed bits, one scale an output."""
    matrix = weight.detach().float().cpu().numpy().T
    scales = column_scales(matrix, reduce_range=reduce_range)
    rounded = np.clip(np.rint(matrix / scales), -LARGEST, LARGEST) * scales
    return straight_through(weight, torch.from_numpy(rounded.T.astype(np.float32)).to(weight.device))


def round_rows(table: FloatArray, bits: WordBits, turn: FloatArray | None = None) -> FloatArray:
    """Return rows of a word table (rows, E) as they are stored; with few bits they may be turned, and turned back."""
    if bits == 8:
        integers, scales = int8_rows(table)
        return integers * scales
    if turn is None:
        return unpack_rows(*packed_rows(table, bits), bits)
    turned: FloatArray = unpack_rows(*packed_rows(table @ turn, bits), bits) @ turn.T
    return turned


def _product(product: nn.Linear, scales: Tensor, reduce_range: bool, states: Tensor) -> Tensor:
    """Return what a layer gives for states (texts, ..., channels) that are evened out by `scales` (channels,).

    Channels of scale 0 are multiplied apart, in floats.
    """
    scales = scales.to(states.device)
    apart = scales == 0
    back = torch.where(apart, 0, 1 / torch.where(apart, 1, scales))
    weight = round_weights(product.weight * back, reduce_range=reduce_range)
    found = F.linear(round_activations(states.float() * scales), weight, product.bias)
    return found + F.linear(states[..., apart], product.weight[:, apart]) if apart.any() else found


def _look_up(words: nn.Embedding, bits: WordBits, turn: FloatArray | None, ids: Tensor) -> Tensor:
    """Return the rows of a word table for ids (texts, tokens)."""
    different, place = torch.unique(ids, return_inverse=True)
    rows = words.weight[different]
    stored = round_rows(rows.detach().float().cpu().numpy(), bits, turn)
    return straight_through(rows, torch.from_numpy(stored).to(rows.device))[place]


def _turn(embeddings: Embeddings, bits: WordBits) -> FloatArray | None:
    """Return what `quantize` turns the rows of a factorised table of few bits by."""
    factorised = isinstance(embeddings.expand, nn.Linear)
    return cosine_transform(embeddings.word.embedding_dim) if bits < 8 and factorised else None


@torch.no_grad()
def _channel_widths(
    student: MultiTaskModel, products: Sequence[nn.Linear], texts: Sequence[IntArray]
) -> list[FloatArray]:
    """Return the greatest magnitude (channels,) of each layer's inputs over the texts."""
    widths = [torch.zeros(product.in_features, device=product.weight.device) for product in products]

    def watch(number: int, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        widths[number] = torch.maximum(widths[number], inputs[0].abs().flatten(0, -2).amax(0))

    hooks = [product.register_forward_pre_hook(partial(watch, number)) for number, product in enumerate(products)]
    was_training = student.training
    student.eval()
    for text in texts:
        ids = torch.from_numpy(np.asarray(text, np.int64))[None].to(student.center.device)
        student.encode(ids, torch.ones_like(ids))
    student.train(was_training)
    for hook in hooks:
        hook.remove()
    return [width.cpu().numpy() for width in widths]
