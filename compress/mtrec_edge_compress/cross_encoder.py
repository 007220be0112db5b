"""A cross-encoder: reads a user's latest item texts and a candidate's in one sequence, one score a pairwise task.

`[CLS] newest event [SEP] ... [SEP] candidate [SEP]`, token type 1 from the candidate on where the backbone has types.
It reads texts alone: no values of events, no priors, no links. Every pair costs a pass through the backbone, so it
teaches and never ships. Source: Nogueira & Cho, Passage re-ranking with BERT, 2019.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mtrec_edge_compress.batches import Batch, BatchSource, Bools, Dropped, PairBatch
from mtrec_edge_compress.collaboration import Collaboration
from mtrec_edge_compress.data.arrays import Arrays, IntArray
from mtrec_edge_compress.data.balance import sample_negatives
from mtrec_edge_compress.data.schema import TaskSpec
from mtrec_edge_compress.device import Device
from mtrec_edge_compress.model import ranker_outputs
from mtrec_edge_compress.padding import length_batches
from mtrec_edge_compress.pair_learner import PairLearner, centre_outputs
from mtrec_edge_compress.recipe import Recipe
from mtrec_edge_compress.teacher import check_lengths, load_backbone, task_weights
from mtrec_edge_compress.text_labels import TextLabels
from mtrec_edge_compress.tokens import Tokens
from mtrec_edge_compress.training import fit
from mtrec_edge_compress.weighting import TaskWeighting
from mtrec_edge_compress.windows import Window
from mtrec_edge_runtime.tasks import ORDER


def readable_items(arrays: Arrays) -> Bools:
    """Return which items a cross-encoder may read, (items,): neither strict cold nor of the TEST fold."""
    readable = np.zeros(len(arrays.item_ids) + len(arrays.texts), bool)
    readable[TextLabels(arrays).pool(every_text=True)] = True
    items: Bools = readable[: len(arrays.item_ids)]
    return items


@dataclass(frozen=True)
class PairText:
    """One history and candidate as ids."""

    ids: IntArray  # (tokens,)
    candidate: int  # where the candidate's text begins


@dataclass(frozen=True)
class Reader:
    """Makes sequences of item texts that are ids already; an item that may not be read stands in none."""

    tokens: Tokens
    readable: Bools  # (items,)
    events: int
    max_tokens: int

    def sequence(self, history: IntArray, candidate: int) -> PairText:
        """Return the sequence of a history (events,), latest first, and a candidate, all catalogue rows.

        Each of the latest readable events gets an equal share of the tokens, the candidate two and what is left over.
        """
        assert self.readable[candidate]
        latest = history[self.readable[history]][: self.events]
        whole = self.tokens.ids[candidate]
        start, end = whole[:1], whole[-1:]
        room = self.max_tokens - 2 - len(latest)
        share = room // (len(latest) + 2)
        parts = [start]
        for row in latest.tolist():
            parts += [self.tokens.ids[row][1:-1][:share], end]
        before = np.concatenate(parts)
        text = whole[1:-1][: self.max_tokens - len(before) - 1]
        return PairText(np.concatenate([before, text, end]), len(before))


class CrossModel(nn.Module):
    """A backbone, the mean of its states, and one linear output a pairwise task and order."""

    def __init__(self, backbone: nn.Module, hidden_size: int, tasks: Sequence[TaskSpec]) -> None:
        super().__init__()
        self.tasks = self.pair_tasks = tuple(task for task in tasks if task.device_task().pairwise)
        self.outputs = ranker_outputs(tasks)
        self.backbone = backbone
        self.head = nn.Linear(hidden_size, len(self.outputs))
        self.typed = _has_types(backbone)
        self.register_buffer("center", torch.zeros(len(self.outputs)))  # as in MultiTaskModel
        self.register_buffer("scale", torch.ones(len(self.outputs)))
        self.center: Tensor
        self.scale: Tensor

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> Tensor:
        """Return the scores (sequences, outputs); all inputs (sequences, tokens)."""
        if self.typed:
            states = self.backbone(input_ids=ids, attention_mask=mask, token_type_ids=types)[0]
        else:
            states = self.backbone(input_ids=ids, attention_mask=mask)[0]
        known = mask.unsqueeze(-1).to(states.dtype)
        pooled = (states * known).sum(1) / known.sum(1)
        with torch.autocast(pooled.device.type, enabled=False):
            scores: Tensor = self.head(pooled.float()) * self.scale + self.center
            return scores

    def score(self, sequences: Sequence[PairText]) -> Tensor:
        """Return the scores (sequences, outputs), encoded in batches of like lengths."""
        if not sequences:  # a process without a share of the batch still reaches its parameters
            none: Tensor = self.head(self.center.new_zeros(0, self.head.in_features)) * self.scale + self.center
            return none
        lengths = np.array([len(sequence.ids) for sequence in sequences])
        parts, order = [], []
        for rows in length_batches(lengths):
            parts.append(self(*(part.to(self.center.device) for part in padded([sequences[row] for row in rows]))))
            order.append(rows)
        back = np.argsort(np.concatenate(order))
        return torch.cat(parts)[torch.from_numpy(back).to(self.center.device)]


def _has_types(backbone: nn.Module) -> bool:
    """Return whether the backbone tells two kinds of token apart."""
    kinds = getattr(getattr(backbone, "config", None), "type_vocab_size", 0)
    return kinds > 1 and "token_type_ids" in inspect.signature(backbone.forward).parameters


def padded(sequences: Sequence[PairText]) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids, mask and token types, (sequences, longest), padded with 0."""
    shape = (len(sequences), max(len(sequence.ids) for sequence in sequences))
    ids, mask, types = (np.zeros(shape, np.int64) for _ in range(3))
    for number, sequence in enumerate(sequences):
        length = len(sequence.ids)
        ids[number, :length], mask[number, :length] = sequence.ids, 1
        types[number, sequence.candidate : length] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(types)


@dataclass(frozen=True)
class CrossBatches(BatchSource):
    """Windows of labelled, readable targets, each with negatives of its own, and no texts beside them."""

    most_steps: int = 1

    @cached_property
    def _pool(self) -> IntArray:
        return np.zeros(0, np.int64)

    @cached_property
    def readable(self) -> Bools:
        """Return which items may be read, (items,)."""
        return readable_items(self.arrays)

    @cached_property
    def _teaches(self) -> Bools:
        """Return which events carry a label and are of a readable item, (events,)."""
        labels = [np.asarray(self.arrays.labels(task.name)) for task in self.arrays.tasks if task.source == "events"]
        labelled: Bools = np.asarray(~np.isnan(np.stack(labels)).all(axis=0))
        return labelled & self.readable[self.arrays.event_item]

    def _plan(self, epoch: int) -> list[tuple[list[Window], IntArray]]:
        rng = np.random.default_rng((self.seed, epoch, 7))
        return [(group, self._pool) for group in self.groups(rng, self.settings.users)[: self.most_steps]]

    def groups(self, rng: np.random.Generator, users: int) -> list[list[Window]]:
        """Return every window in shuffled groups of at most `users` of one domain, with the targets that teach."""
        return [kept for group in self._windows.groups(rng, users) if (kept := self._kept(group))]

    def _kept(self, windows: list[Window]) -> list[Window]:
        kept = [replace(w, rows=w.rows[self._teaches[w.rows]]) for w in windows]
        return [window for window in kept if len(window.rows)]

    def _build(self, windows: list[Window], texts: IntArray, rng: np.random.Generator) -> Batch:
        return Batch((), {}, {}, self.pairs(windows, self.draw(rng, windows)))

    def draw(self, rng: np.random.Generator, windows: list[Window]) -> IntArray:
        """Return negatives of each window, (windows, negatives): readable items of its domain."""
        shape = (len(windows), self.settings.negatives)
        span, taken = self.arrays.domains[windows[0].domain], np.flatnonzero(~self.readable)
        return sample_negatives(rng, span, shape[0] * shape[1], observed=taken).reshape(shape)

    def pairs(self, windows: list[Window], negatives: IntArray) -> PairBatch:
        """Return this process's share of windows of one domain with their own negatives (windows, negatives)."""
        nothing = Dropped.nothing(len(windows), self.settings.targets + negatives.shape[1])
        return self._pairs(windows, negatives, nothing)


class CrossLearner(PairLearner):
    """Learns the pairwise tasks from labels, as a tower does, by reading."""

    def __init__(self, model: CrossModel, weighting: TaskWeighting, arrays: Arrays, reader: Reader) -> None:
        super().__init__(model, weighting, arrays)
        self.model: CrossModel = model
        self.reader = reader

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted total and each task's loss."""
        assert batch.pairs is not None
        found = self.pair_losses(batch.pairs, pair_scores(self.model, self.reader, batch.pairs))
        return self.weighting(found), found


def asked_of(pairs: PairBatch) -> Tensor:
    """Return which candidates are read, (users, targets + negatives): labelled events and unobserved items."""
    labelled = torch.stack([~torch.isnan(label) for label in pairs.labels.values()]).any(0)
    return torch.cat([labelled, pairs.allowed > 0], dim=1)


def pair_scores(model: CrossModel, reader: Reader, pairs: PairBatch) -> dict[str, Tensor]:
    """Return output -> scores (users, targets + negatives); 0 where `asked_of` says no."""
    rows = pairs.rows.cpu().numpy()
    history, candidates = rows[pairs.history.cpu().numpy()], rows[pairs.candidates.cpu().numpy()]
    known = pairs.history_mask.cpu().numpy() > 0
    asked = asked_of(pairs)
    texts = [
        reader.sequence(history[user][known[user]], candidates[user, place])
        for user, place in torch.nonzero(asked).tolist()
    ]
    found = model.score(texts)
    scores = found.new_zeros((*asked.shape, len(model.outputs)))
    scores[asked] = found
    own = [name.removesuffix(ORDER) in pairs.labels for name in model.outputs]
    return {name: scores[..., number] for number, name in enumerate(model.outputs) if own[number]}


def new_cross_model(recipe: Recipe, arrays: Arrays, encoder: str) -> CrossModel:
    """Return an untrained cross-encoder on a pretrained backbone.

    Raises:
        RecipeError: the backbone reads fewer tokens than a sequence may have.
    """
    torch.manual_seed(recipe.seed)
    backbone = load_backbone(encoder)
    check_lengths(recipe, backbone, encoder)
    return CrossModel(backbone, backbone.config.hidden_size, arrays.tasks)


def cross_batches(recipe: Recipe, arrays: Arrays, tokens: Tokens, collaboration: Collaboration) -> CrossBatches:
    """Return what a cross-encoder learns from."""
    settings = recipe.cross_encoder
    return CrossBatches(
        arrays,
        tokens,
        collaboration,
        settings.training,
        recipe.model.max_history,
        recipe.seed,
        most_steps=settings.steps,
    )


def train_cross_encoder(
    recipe: Recipe, source: CrossBatches, encoder: str, *, folder: Path, device: Device, progress: bool
) -> tuple[CrossModel, Reader]:
    """Fine-tune a cross-encoder on TRAIN windows; return it and what makes its sequences."""
    settings, arrays = recipe.cross_encoder, source.arrays
    model = new_cross_model(recipe, arrays, encoder)
    reader = Reader(source.tokens, source.readable, settings.events, settings.max_tokens)
    learner = CrossLearner(model, TaskWeighting(task_weights(recipe, arrays), "static"), arrays, reader)
    centre_outputs(learner)
    fit(
        learner,
        source,
        settings.training,
        folder=folder,
        device=device,
        label="cross-encoder",
        progress=progress,
    )
    return model, reader
