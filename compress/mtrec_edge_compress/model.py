"""The model: TextEncoder + UserEncoder + TaskHeads. Teacher and student are the same class.

An item or query text becomes a unit vector `v`; a history of vectors becomes a user vector `u`; small heads score
every (u, v) pair for every pairwise task. Text tasks read `v` (multiclass) or the token states (token).
Knows nothing of files, data or training.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtrec_edge_compress.data.biases import USER_SHRINKAGE
from mtrec_edge_compress.data.schema import TaskSpec
from mtrec_edge_runtime.catalogue import MEAN_VALUE, PRIORS
from mtrec_edge_runtime.tasks import ORDER, Kind, order_name

USER_FACTS = 2  # how much more than usual the user gives, and the history's log length
SHARPNESS = (4.0, 16.0)  # at the start of training
NEAR = 0.5  # the cosine of one event that is believed by half, at the start of training
MOST_DOUBT = 20.0  # a logit: beyond it an event is not believed at all
MEMORIES = 2  # learned ways to add up the affinities of a history
OLDEST, HALF_LIFE = 0.3, 10.0  # the second starts with weights OLDEST + 0.5^(age / HALF_LIFE), ages in events
EVIDENCE = MEMORIES + 1  # features made of affinities
CONTEXT = PRIORS + USER_FACTS + 2 * len(SHARPNESS) + EVIDENCE  # what the heads see beside the two vectors
NEAREST = -EVIDENCE - len(SHARPNESS) - 1  # where the heads' features hold the sharpest kernel density
VALUES = slice(NEAREST + 1, -EVIDENCE)  # where they hold the soft means of the history's values
BIASES = (-EVIDENCE - 2 * len(SHARPNESS) - USER_FACTS, MEAN_VALUE - CONTEXT)  # of the user and the item
NEIGHBOUR_WEIGHT = 0.5  # of that feature in a ranked task's logit, at the start of training
AFFINITY_SCALE = 3.0  # brings the sums of affinities to the range of the other features
AFFINITY_WEIGHT = 2.0  # of each such sum in a ranked task's logit, at the start of training


@dataclass(frozen=True)
class ModelShape:
    """Sizes of everything behind the text backbone."""

    vector_size: int = 128  # D
    max_history: int = 50
    behaviours: int = 1
    user_heads: int = 4
    task_hidden: int = 32  # hidden units of each task's head
    dropout: float = 0.1
    token_window: int = 1  # token states that a token head reads, odd: the token's own between its neighbours'


class TextEncoder(nn.Module):
    """A BERT-family backbone, mean pooling, and a projection to the item vector."""

    def __init__(self, backbone: nn.Module, hidden_size: int, vector_size: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection = nn.Linear(hidden_size, vector_size)

    def look_up(self, ids: Sequence[Tensor]) -> list[Tensor]:
        """Return the word rows (texts, tokens, width) of several groups of ids (texts, tokens): `words` of `forward`.

        Looked up once: the gradient of each look-up is as large as the whole table.
        """
        backbone: Any = self.backbone  # of transformers, or a CompactBert
        rows: Tensor = backbone.get_input_embeddings()(torch.cat([group.flatten() for group in ids]))
        parts = torch.split(rows, [group.numel() for group in ids])
        return [part.view(*group.shape, -1) for part, group in zip(parts, ids, strict=True)]

    def forward(
        self, input_ids: Tensor | None, attention_mask: Tensor, words: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return token states (batch, tokens, hidden), 0 where there is padding, and their mean (batch, hidden).

        `words` are what `look_up` returns, in place of ids.
        """
        states = self.backbone(input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=words)[0]
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        states = states * mask
        return states, states.sum(1) / mask.sum(1)

    def vector(self, pooled: Tensor) -> Tensor:
        """Return unit item vectors (..., D) from pooled states (..., hidden)."""
        return F.normalize(self.projection(pooled), dim=-1)


class UserEncoder(nn.Module):
    """Attention pooling over the vectors of the latest events, each with its behaviour, value and age."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        size, heads = shape.vector_size, shape.user_heads
        self.behaviour = nn.Embedding(shape.behaviours, size)
        self.age = nn.Embedding(shape.max_history, size)
        self.value = nn.Parameter(torch.zeros(size))
        self.norm = nn.LayerNorm(size)
        self.attention = nn.Sequential(nn.Linear(size, size), nn.Tanh(), nn.Linear(size, heads))
        self.age_bias = nn.Parameter(torch.zeros(shape.max_history, heads))
        self.merge = nn.Linear(heads * size, size)
        self.residual = nn.Sequential(
            nn.LayerNorm(size), nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size)
        )
        self.dropout = nn.Dropout(shape.dropout)
        for table in (self.behaviour.weight, self.age.weight):
            nn.init.normal_(table, std=0.1)
        with torch.no_grad():  # start as the mean of the history's own vectors
            self.merge.weight.copy_(torch.eye(size).repeat(1, heads) / heads)
            self.merge.bias.zero_()

    def forward(self, history: Tensor, behaviour: Tensor, value: Tensor, age: Tensor, mask: Tensor) -> Tensor:
        """Return user vectors (batch, D) from unit item vectors (batch, events, D); see docs/bundle-format.md.

        Users of whom nothing is known, whose mask is 0 throughout, all have the same learned vector.
        """
        events = history * math.sqrt(history.shape[-1])
        typed = events + self.behaviour(behaviour) + self.age(age) + value.unsqueeze(-1) * self.value
        typed = self.norm(typed)
        logits = self.attention(typed) + self.age_bias[age]  # (batch, events, heads)
        logits = logits + (mask.unsqueeze(-1).to(logits.dtype) - 1.0) * 1e4
        weights = torch.softmax(logits, dim=1).transpose(1, 2)  # (batch, heads, events)
        known = mask.amax(1, keepdim=True).to(typed.dtype)  # 0 for a history that is all padding
        pooled = self.merge(torch.matmul(weights, typed).flatten(1) * known)
        user: Tensor = pooled + self.residual(self.dropout(pooled))
        return user


class AgeTable(nn.Module):
    """A few learned numbers for every behaviour and age: how recency counts differs from domain to domain."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.ages = start.shape[1]
        self.table = nn.Parameter(start.flatten(0, 1))  # (behaviours * ages, numbers)

    def forward(self, behaviour: Tensor, age: Tensor) -> Tensor:
        """Return (batch, events, numbers)."""
        return self.table[behaviour * self.ages + age]


class HistoryMatch(nn.Module):
    """How a candidate relates to the single events of the history: nearest neighbours in the vector space.

    For each of a few sharpnesses t the logits `t (cos(candidate, event) - 1) + bias(behaviour, age)` give two features:
    their log sum exp, the log of a kernel density of the history at the candidate, and the soft mean of the events'
    residuals, a kernel regression of the user's ratings (Nadaraya & Watson, 1964), drawn towards 0 as if one rated
    event of residual 0 lay at a learned distance. No text, no table.
    """

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(SHARPNESS))
        self.doubt = nn.Parameter(torch.full((len(SHARPNESS),), NEAR - 1.0))  # times sharpness, a logit
        self.age_bias = AgeTable(torch.zeros(shape.behaviours, shape.max_history, len(SHARPNESS)))

    def forward(
        self,
        history: Tensor,
        behaviour: Tensor,
        residual: Tensor,
        rated: Tensor,
        age: Tensor,
        mask: Tensor,
        candidates: Tensor,
    ) -> Tensor:
        """Return (batch, items, 2 * sharpnesses); `residual` (batch, events) is 0 where `rated` is 0 and not 1."""
        cosine = torch.matmul(candidates, history.transpose(1, 2))  # (batch, items, events)
        bias = self.age_bias(behaviour, age) - self.sharpness + (mask.unsqueeze(-1).to(cosine.dtype) - 1.0) * 1e4
        known = mask.amax(1).to(cosine.dtype)[:, None, None]  # 0 for a history that is all padding
        residual, rated = residual.unsqueeze(-1), rated.unsqueeze(-1)
        nearest, values = [], []
        for number in range(len(SHARPNESS)):  # apart, so that every reduction runs over the last axis
            logits = cosine * self.sharpness[number] + bias[:, :, number].unsqueeze(1)
            peak = logits.detach().amax(-1, keepdim=True)
            weights = torch.exp(logits - peak)  # log-sum-exp by hand: ONNX Runtime's own takes four times as long
            total = weights.sum(-1, keepdim=True)
            nearest.append((peak + torch.log(total)) * known)
            doubt = torch.exp((self.doubt[number] * self.sharpness[number] - peak).clamp_max(MOST_DOUBT))
            values.append(torch.matmul(weights, residual) / (torch.matmul(weights, rated) + doubt))
        return torch.cat([*nearest, *values], dim=-1)


class Affinity(nn.Module):
    """What users did together says of a candidate: the affinities of the history's events, added up.

    An event's say is learned: `(gain(behaviour) + slope(behaviour) value) exp(bias(behaviour, age))`, in two ways, as
    EASE with weighted events: the first starts with all ages alike, the second with the latest weighing most. The last
    feature counts the events that say anything: the evidence there is.
    """

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(shape.behaviours, MEMORIES))
        self.slope = nn.Parameter(torch.zeros(shape.behaviours, MEMORIES))
        recent = torch.log(OLDEST + 0.5 ** (torch.arange(shape.max_history) / HALF_LIFE))
        start = torch.stack([torch.zeros(shape.max_history), recent], dim=-1)
        self.age_bias = AgeTable(start.repeat(shape.behaviours, 1, 1))

    def forward(self, affinity: Tensor, behaviour: Tensor, value: Tensor, age: Tensor, mask: Tensor) -> Tensor:
        """Return (batch, items, EVIDENCE); `affinity` (batch, items, events)."""
        say = self.gain[behaviour] + value.unsqueeze(-1) * self.slope[behaviour]
        say = say * torch.exp(self.age_bias(behaviour, age))
        known = mask.unsqueeze(-1).to(affinity.dtype)
        sums = torch.matmul(affinity, say * known) * AFFINITY_SCALE
        events = torch.matmul((affinity != 0).to(affinity.dtype), known)
        return torch.cat([sums, torch.log1p(events) / 2.0], dim=-1)


class TaskHeads(nn.Module):
    """For each output a small MLP and a linear path on `[u*v, |u-v|, context]`."""

    def __init__(self, shape: ModelShape, tasks: int) -> None:
        super().__init__()
        features = 2 * shape.vector_size + CONTEXT
        self.tasks, self.hidden = tasks, shape.task_hidden
        self.inner = nn.Linear(features, tasks * shape.task_hidden)
        self.outer = nn.Parameter(torch.randn(tasks, shape.task_hidden) * 0.1)
        self.linear = nn.Linear(features, tasks)
        self.dropout = nn.Dropout(shape.dropout)
        with torch.no_grad():
            self.linear.weight.mul_(0.1)

    def features(self, user: Tensor, candidates: Tensor, context: Tensor) -> Tensor:
        """Return what the heads read (batch, items, F); `user` (batch, D), `candidates` unit (batch, items, D).

        `context` (batch, items, CONTEXT) holds priors, user facts, match and evidence, in this order.
        """
        u = user.unsqueeze(1)
        v = candidates * math.sqrt(candidates.shape[-1])
        return torch.cat([u * v, (u - v).abs(), context], dim=-1)

    def forward(self, features: Tensor) -> Tensor:
        """Return raw scores (batch, items, tasks) from features (batch, items, F)."""
        hidden = torch.unflatten(F.relu(self.inner(features)), -1, (self.tasks, self.hidden))
        scores: Tensor = (self.dropout(hidden) * self.outer).sum(-1) + self.linear(features)
        return scores


def ranker_outputs(tasks: Sequence[TaskSpec]) -> tuple[str, ...]:
    """Return what a ranker of these tasks can be asked for, by number: pairwise tasks, then orders of their own."""
    pairwise = [task for task in tasks if task.device_task().pairwise]
    return (*(task.name for task in pairwise), *(task.name + ORDER for task in pairwise if task.ordered_apart))


class MultiTaskModel(nn.Module):
    """One encoder, one user encoder, a head for every task."""

    def __init__(self, backbone: nn.Module, hidden_size: int, shape: ModelShape, tasks: tuple[TaskSpec, ...]) -> None:
        super().__init__()
        self.shape, self.tasks, self.hidden_size = shape, tasks, hidden_size
        self.pair_tasks = tuple(task for task in tasks if task.device_task().pairwise)
        self.text_tasks = tuple(task for task in tasks if not task.device_task().pairwise)
        self.text = TextEncoder(backbone, hidden_size, shape.vector_size)
        self.user = UserEncoder(shape)
        self.match = HistoryMatch(shape)
        self.affinity = Affinity(shape)
        self.outputs = ranker_outputs(tasks)
        self.heads = TaskHeads(shape, max(len(self.outputs), 1))
        around = hidden_size * shape.token_window
        self.text_heads = nn.ModuleList(
            nn.Linear(shape.vector_size if task.kind is Kind.MULTICLASS else around, len(task.labels))
            for task in self.text_tasks
        )
        self._start_heads()
        count = max(len(self.outputs), 1)
        self.register_buffer("center", torch.zeros(count))  # regression: mean and deviation of the TRAIN labels
        self.register_buffer("scale", torch.ones(count))
        self.center: Tensor
        self.scale: Tensor

    def _start_heads(self) -> None:
        """Start a binary output as the cosine of user and item, one that orders as the history's neighbours too.

        What has an amount, or follows from one, starts as the biases of user and item and the neighbours' residuals.
        """
        weight = self.heads.linear.weight
        with torch.no_grad():
            for task in self.pair_tasks:
                if task.kind is Kind.REGRESSION or task.positive_at is not None:
                    number = self.outputs.index(task.name)
                    weight[number, list(BIASES)] = 1.0
                    weight[number, VALUES] = 1.0 / len(SHARPNESS)
                if task.kind is Kind.BINARY:
                    weight[self.outputs.index(task.name), : self.vector_size] = 1.0 / math.sqrt(self.vector_size)
                if task.negatives:
                    number = self.outputs.index(order_name(task.name, self.outputs))
                    weight[number, : self.vector_size] = 1.0 / math.sqrt(self.vector_size)
                    weight[number, NEAREST] = NEIGHBOUR_WEIGHT
                    weight[number, -EVIDENCE:-1] = AFFINITY_WEIGHT

    @property
    def vector_size(self) -> int:
        """D, the length of an item vector."""
        return self.shape.vector_size

    @property
    def max_history(self) -> int:
        """How many of the latest events the user encoder reads."""
        return self.shape.max_history

    def text_outputs(self, states: Tensor, vector: Tensor) -> dict[str, Tensor]:
        """Return each text task's logits: (batch, labels) or (batch, tokens, labels).

        Multi-class tasks read `vector` (batch, D), token tasks `states` (batch, tokens, hidden).
        """
        scaled = vector * math.sqrt(self.vector_size)
        return {
            task.name: head(scaled if task.kind is Kind.MULTICLASS else self.around(states))
            for task, head in zip(self.text_tasks, self.text_heads, strict=True)
        }

    def around(self, states: Tensor) -> Tensor:
        """Return what token heads read (batch, tokens, window * hidden): states among their neighbours, 0 at the ends.

        A convolution over tokens, with the head's matrix as its kernel (Collobert et al., 2011).
        """
        window = self.shape.token_window
        if window == 1:
            return states
        wide = F.pad(states, (0, 0, window // 2, window // 2))
        ends = [shift - window + 1 or None for shift in range(window)]  # counted from behind: no shape in the graph
        return torch.cat([wide[:, shift:end] for shift, end in enumerate(ends)], dim=-1)

    def around_words(self, states: Tensor, text: Tensor, position: Tensor) -> Tensor:
        """Return `around(states)[text, position]`, (words, window * hidden), without that of any other token."""
        window = self.shape.token_window
        wide = F.pad(states, (0, 0, window // 2, window // 2))
        return torch.cat([wide[text, position + shift] for shift in range(window)], dim=-1)

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """Return what `encoder.onnx` and `text_heads.onnx` give: `vector` and every text task's logits."""
        states, pooled = self.text(input_ids, attention_mask)
        vector = self.text.vector(pooled)
        return {"vector": vector, **self.text_outputs(states, vector)}

    def rank(
        self,
        history: Tensor,
        behaviour: Tensor,
        value: Tensor,
        age: Tensor,
        history_mask: Tensor,
        candidates: Tensor,
        priors: Tensor,
        affinity: Tensor,
    ) -> dict[str, Tensor]:
        """Return scores (batch, items) for every one of `outputs`; the inputs are those of `ranker.onnx`."""
        features = self.pair_features(history, behaviour, value, age, history_mask, candidates, priors, affinity)
        raw = self.heads(features) * self.scale + self.center
        return {name: raw[..., number] for number, name in enumerate(self.outputs)}

    def pair_features(
        self,
        history: Tensor,
        behaviour: Tensor,
        value: Tensor,
        age: Tensor,
        history_mask: Tensor,
        candidates: Tensor,
        priors: Tensor,
        affinity: Tensor,
    ) -> Tensor:
        """Return what the heads read of every (user, item) pair, (batch, items, F)."""
        mask = history_mask.to(value.dtype)
        events = mask.sum(1)
        rated = (value != 0).to(mask.dtype) * mask
        bias = (value * mask).sum(1) / (rated.sum(1) + USER_SHRINKAGE)
        facts = torch.stack([bias, torch.log1p(events) / 4.0], dim=-1)
        user = self.user(history, behaviour, value, age, history_mask)
        residual = (value - bias.unsqueeze(1)) * rated
        match = self.match(history, behaviour, residual, rated, age, history_mask, candidates)
        evidence = self.affinity(affinity, behaviour, value, age, history_mask)
        known = facts.unsqueeze(1).expand(-1, candidates.shape[1], -1)
        return self.heads.features(user, candidates, torch.cat([priors, known, match, evidence], dim=-1))
