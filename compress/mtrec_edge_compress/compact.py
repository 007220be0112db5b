"""CompactBert: the student's backbone. Plain BERT arithmetic whose every layer may have its own shape.

It differs from `transformers.BertModel` in three ways that make it small: a factorised word table (vocabulary x E,
then E -> hidden), the token type folded into the positions, and a number of heads and feed-forward units for each
layer. With E = hidden and nothing removed it computes exactly what BertModel does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from mtrec_edge_runtime.errors import StageError


@dataclass(frozen=True)
class CompactShape:
    """Every size of a CompactBert."""

    vocabulary: int
    embedding_size: int  # E; equal to hidden_size means not factorised
    hidden_size: int
    head_size: int
    positions: int  # the served length in tokens
    layers: tuple[tuple[int, int], ...]  # (heads, feed-forward units) of each layer
    norm_eps: float = 1e-12
    dropout: float = 0.1


class Embeddings(nn.Module):
    """Word row -> hidden, plus position, normalised."""

    def __init__(self, shape: CompactShape) -> None:
        super().__init__()
        self.word = nn.Embedding(shape.vocabulary, shape.embedding_size)
        factorised = shape.embedding_size != shape.hidden_size
        self.expand = nn.Linear(shape.embedding_size, shape.hidden_size, bias=False) if factorised else nn.Identity()
        self.position = nn.Parameter(torch.zeros(shape.positions, shape.hidden_size))
        self.norm = nn.LayerNorm(shape.hidden_size, eps=shape.norm_eps)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, input_ids: Tensor | None, words: Tensor | None = None) -> Tensor:
        """Return (batch, tokens, hidden) from ids (batch, tokens), or from word rows (batch, tokens, E).

        Of ids it is their length that is asked for: in a graph, a row must be read by nothing but what comes next.
        """
        if input_ids is not None:
            words, tokens = self.word(input_ids), input_ids.shape[1]
        else:
            assert words is not None
            tokens = words.shape[1]
        states = self.expand(words) + self.position[:tokens]
        normal: Tensor = self.dropout(self.norm(states))
        return normal


class Layer(nn.Module):
    """One transformer layer. `head_gate` and `unit_gate` are ones that pruning differentiates by."""

    def __init__(self, shape: CompactShape, heads: int, units: int) -> None:
        super().__init__()
        self.head_size = shape.head_size
        width = heads * shape.head_size
        self.query = nn.Linear(shape.hidden_size, width)
        self.key = nn.Linear(shape.hidden_size, width)
        self.value = nn.Linear(shape.hidden_size, width)
        self.attention_out = nn.Linear(width, shape.hidden_size)
        self.attention_norm = nn.LayerNorm(shape.hidden_size, eps=shape.norm_eps)
        self.up = nn.Linear(shape.hidden_size, units)
        self.down = nn.Linear(units, shape.hidden_size)
        self.output_norm = nn.LayerNorm(shape.hidden_size, eps=shape.norm_eps)
        self.dropout = nn.Dropout(shape.dropout)
        self.head_gate: Tensor | None = None  # (heads,)
        self.unit_gate: Tensor | None = None  # (units,)

    @property
    def heads(self) -> int:
        """How many attention heads are left."""
        return self.query.out_features // self.head_size

    @property
    def units(self) -> int:
        """How many feed-forward units are left."""
        return self.up.out_features

    def forward(self, states: Tensor, bias: Tensor) -> Tensor:
        """Return new states; `bias` (batch, 1, 1, tokens) is 0 for tokens and very negative for padding."""
        attended = self.dropout(self.attention_out(self._attend(states, bias)))
        states = self.attention_norm(states + attended)
        inner = F.gelu(self.up(states))
        if self.unit_gate is not None:
            inner = inner * self.unit_gate
        out: Tensor = self.output_norm(states + self.dropout(self.down(inner)))
        return out

    def _attend(self, states: Tensor, bias: Tensor) -> Tensor:
        query, key, value = (
            part(states).unflatten(-1, (self.heads, self.head_size)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        weights = torch.softmax(torch.matmul(query * self.head_size**-0.5, key.transpose(2, 3)) + bias, dim=-1)
        context = torch.matmul(self.dropout(weights), value)  # (batch, heads, tokens, head_size)
        if self.head_gate is not None:
            context = context * self.head_gate.view(1, -1, 1, 1)
        return context.transpose(1, 2).flatten(2)


class CompactBert(nn.Module):
    """Embeddings and layers; returns a tuple whose first element is the token states, as transformers does."""

    def __init__(self, shape: CompactShape) -> None:
        super().__init__()
        self.shape = shape
        self.embeddings = Embeddings(shape)
        self.layers = nn.ModuleList(Layer(shape, heads, units) for heads, units in shape.layers)

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the word table, by the name that transformers has for it."""
        return self.embeddings.word

    def forward(
        self, input_ids: Tensor | None, attention_mask: Tensor, inputs_embeds: Tensor | None = None
    ) -> tuple[Tensor]:
        """Return ((batch, tokens, hidden),) from ids (batch, tokens), or from word rows (batch, tokens, E)."""
        states = self.embeddings(input_ids, inputs_embeds)
        bias = (attention_mask[:, None, None, :].to(states.dtype) - 1.0) * 1e4
        for layer in self.layers:
            states = layer(states, bias)
        return (states,)


def compact_from_bert(
    bert: PreTrainedModel,
    layers: Sequence[int],
    *,
    token_ids: Sequence[int],
    embedding_size: int,
    positions: int,
    dropout: float = 0.1,
) -> CompactBert:
    """Return a CompactBert started from a BertModel: chosen layers copied, the word table cut and factorised.

    Args:
        bert: a `transformers` BertModel.
        layers: indices of the layers to keep, in order.
        token_ids: for each student token the teacher's id whose row it starts from.
        embedding_size: E; the hidden size leaves the table whole.
        positions: served length in tokens.
        dropout: dropout of the student.

    Raises:
        StageError: the backbone has no BERT layers to copy.
    """
    check_layers(bert)
    config = bert.config
    head_size = config.hidden_size // config.num_attention_heads
    kept = tuple((config.num_attention_heads, config.intermediate_size) for _ in layers)
    hidden, eps = config.hidden_size, config.layer_norm_eps
    student = CompactBert(CompactShape(len(token_ids), hidden, hidden, head_size, positions, kept, eps, dropout))
    with torch.no_grad():
        _start_embeddings(student.embeddings, bert.embeddings, torch.as_tensor(list(token_ids)))
        for target, index in zip(student.layers, layers, strict=True):
            assert isinstance(target, Layer)
            _copy_layer(target, bert.encoder.layer[index])
    narrow_words(student, embedding_size)
    return student


@torch.no_grad()
def narrow_words(backbone: CompactBert, size: int) -> None:
    """Factorise the word table to rows of `size` numbers: its principal directions, the best rank there is (SVD).

    The rows' mean goes to the positions, which every token has one of. A table as narrow as that stays as it is.
    """
    words = backbone.embeddings
    if size >= words.word.embedding_dim:
        return
    size = min(size, words.word.num_embeddings)
    rows = words.expand(words.word.weight)  # (vocabulary, hidden)
    mean = rows.mean(0)
    left, sizes, right = torch.linalg.svd(rows - mean, full_matrices=False)
    words.word = nn.Embedding(len(rows), size, device=rows.device)
    words.word.weight.copy_(left[:, :size] * sizes[:size])
    words.expand = nn.Linear(size, rows.shape[1], bias=False, device=rows.device)
    words.expand.weight.copy_(right[:size].T)
    words.position.add_(mean)
    backbone.shape = replace(backbone.shape, embedding_size=size)


def check_layers(bert: PreTrainedModel) -> None:
    """Raise StageError when a backbone has no BERT layers to copy."""
    if not hasattr(bert, "encoder") or not hasattr(bert.embeddings, "token_type_embeddings"):
        raise StageError(
            f"a student cannot be started from the layers of {type(bert).__name__}; the next step: use a BertModel "
            "as the teacher's encoder, or give the student one of its own with --set student.encoder=PATH"
        )
    if (activation := bert.config.hidden_act) != "gelu":
        raise StageError(
            f"a student's layers compute gelu, the encoder's {activation!r}; the next step: an encoder with gelu, or "
            "--set student.encoder=PATH"
        )


def _start_embeddings(target: Embeddings, source: Any, token_ids: Tensor) -> None:
    words = source.word_embeddings.weight[token_ids].float()
    positions = source.position_embeddings.weight[: target.position.shape[0]] + source.token_type_embeddings.weight[0]
    target.word.weight.copy_(words)
    target.position.copy_(positions)
    target.norm.load_state_dict(source.LayerNorm.state_dict())


def _copy_layer(target: Layer, source: Any) -> None:
    attention = source.attention
    pairs = (
        (target.query, attention.self.query),
        (target.key, attention.self.key),
        (target.value, attention.self.value),
        (target.attention_out, attention.output.dense),
        (target.attention_norm, attention.output.LayerNorm),
        (target.up, source.intermediate.dense),
        (target.down, source.output.dense),
        (target.output_norm, source.output.LayerNorm),
    )
    for mine, theirs in pairs:
        mine.load_state_dict(theirs.state_dict())
