"""What one training step sees: windows over users' histories, sampled negatives, and labelled texts.

Every process plans the same global batch from the seed and keeps its own rows, so that two processes learn what one
would. Labels that are missing stay missing (nan or -1). Knows nothing of models or losses.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mtrec_edge_compress.alignment import CoConsumption, Company
from mtrec_edge_compress.collaboration import Collaboration
from mtrec_edge_compress.data.arrays import Arrays, FloatArray, IntArray
from mtrec_edge_compress.padding import length_buckets
from mtrec_edge_compress.text_labels import TextLabels
from mtrec_edge_compress.tokens import Tokens
from mtrec_edge_compress.training_settings import Training
from mtrec_edge_compress.windows import Window, Windows
from mtrec_edge_runtime.tasks import Kind

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class TextBucket:
    """Texts of nearly one length, and where their labelled words stand."""

    rows: Tensor  # (texts,) corpus rows
    input_ids: Tensor  # (texts, tokens)
    attention_mask: Tensor
    word_text: Tensor  # (words,) which text of the bucket
    word_position: Tensor  # (words,) which token
    word_row: Tensor  # (words,) corpus row
    word_number: Tensor  # (words,) which word of that text
    word_labels: dict[str, Tensor]  # token task -> (words,), -1 missing


@dataclass(frozen=True)
class PairBatch:
    """Users of one domain, their histories, and the items to score."""

    domain: str
    place: Tensor  # (users,) in (0, 1): where each stands among all of the batch, over every process; in random order
    rows: Tensor  # (distinct,) corpus rows of every item below
    history: Tensor  # (users, events) index into rows
    behaviour: Tensor
    value: Tensor
    age: Tensor
    history_mask: Tensor
    candidates: Tensor  # (users, targets + negatives) index into rows
    priors: Tensor  # (users, targets + negatives, 3)
    affinity: Tensor  # (users, targets + negatives, events)
    allowed: Tensor  # (users, negatives) 1 where the negative is no observed item of the user
    labels: dict[str, Tensor]  # pairwise task -> (users, targets), nan missing
    counts: dict[str, float]  # pairwise task -> labels in the whole batch, over every process
    positives: dict[str, float]  # ranked task -> positive labels in the whole batch


@dataclass(frozen=True)
class CompanyBatch:
    """One domain's items that are compared with each other; see `alignment.Company`."""

    references: Tensor  # (references,) corpus rows, read from the cache
    fresh: Tensor  # (fresh,) places among the encoded texts
    cached: Tensor  # (cached,) places among the references
    target: Tensor  # (fresh + cached, references)
    other: Tensor  # (fresh + cached, references) 0 where a query meets itself, else 1
    share: Tensor  # (fresh + cached,)


@dataclass(frozen=True)
class CrossBatch:
    """Windows that a cross-encoder has scored; see cross_pairs.py."""

    pairs: PairBatch
    scores: dict[str, Tensor]  # ranked task -> (users, targets + negatives) what orders its catalogue, nan: unknown
    square: dict[str, float]  # likewise -> mean squared margin of the whole sample


@dataclass(frozen=True)
class Batch:
    """One step: the texts encoded with gradients, and perhaps pairs, company and what a cross-encoder said."""

    buckets: tuple[TextBucket, ...]
    text_labels: dict[str, tuple[Tensor, Tensor]]  # multiclass task -> (place among the encoded texts, label)
    text_counts: dict[str, float]  # text task -> labels in the whole batch, over every process
    pairs: PairBatch | None = None
    company: tuple[CompanyBatch, ...] = ()
    cross: CrossBatch | None = None

    @property
    def rows(self) -> Tensor:
        """Return the corpus rows of the encoded texts, (texts,), in the order of the buckets."""
        return torch.cat([b.rows for b in self.buckets]) if self.buckets else torch.zeros(0, dtype=torch.int64)

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        moved: Batch = _to_device(self, device)
        return moved


def _to_device(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _to_device(inner, device) for key, inner in value.items()}
    if isinstance(value, tuple):
        return tuple(_to_device(inner, device) for inner in value)
    if isinstance(value, TextBucket | PairBatch | CompanyBatch | CrossBatch | Batch):
        moved: dict[str, Any] = {f.name: _to_device(getattr(value, f.name), device) for f in fields(value)}
        return type(value)(**moved)
    return value


@dataclass(frozen=True)
class Dropped:
    """What a batch's windows are not shown."""

    priors: Bools  # (windows, candidates) of these
    affinity: Bools  # (windows, candidates) of these
    histories: Bools  # (windows,) of these

    @classmethod
    def nothing(cls, windows: int, candidates: int) -> "Dropped":
        """Return that everything is shown."""
        each = np.zeros((windows, candidates), bool)
        return cls(each, each, np.zeros(windows, bool))


@dataclass(frozen=True)
class BatchSource:
    """Plans the batches of an epoch from a dataset; the same seed and epoch give the same batches."""

    arrays: Arrays
    tokens: Tokens
    collaboration: Collaboration
    settings: Training
    max_history: int
    seed: int
    with_pairs: bool = True
    every_text: bool = False  # also encode unlabelled items: what vector matching wants
    with_company: bool = False  # compare items by their users
    unread: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))  # items not read, shown as unseen ones
    text_passes: float = 1.0  # over the labelled texts in an epoch; windows, where there are any, decide it instead
    length_multiple: int = 1  # texts are padded to a multiple of so many tokens, or to the longest of all
    rank: int = 0
    world: int = 1

    @cached_property
    def _widths(self) -> IntArray:
        """Return how many tokens wide each text is at least padded, (rows,)."""
        lengths = self.tokens.lengths
        widths: IntArray = np.minimum(
            -(-lengths // self.length_multiple) * self.length_multiple, lengths.max(initial=0)
        )
        return widths

    @cached_property
    def _windows(self) -> Windows:
        return Windows(self.arrays, self.settings.targets)

    @cached_property
    def _labels(self) -> TextLabels:
        return TextLabels(self.arrays)

    @cached_property
    def _co_consumption(self) -> CoConsumption:
        return CoConsumption(self.arrays, self.unread)

    @cached_property
    def _pool(self) -> IntArray:
        labelled = self._labels.pool(every_text=self.every_text)
        if self.every_text:  # what stands behind the corpus is there to be read
            corpus = len(self.arrays.item_ids) + len(self.arrays.texts)
            labelled = np.concatenate([labelled, np.arange(corpus, len(self.tokens.ids))])
        read = np.union1d(labelled, self._co_consumption.rows) if self.with_company else labelled
        return np.setdiff1d(read, self.unread)

    @property
    def _texts_a_step(self) -> int:
        """How many labelled texts a step reads, over every process; none of them twice."""
        return max(min(self.settings.texts, len(self._pool)), 1)

    @property
    def _mine(self) -> slice:
        """This process's share of anything listed for all processes."""
        return slice(self.rank, None, self.world)

    def steps(self, epoch: int) -> int:
        """Return how many batches the epoch has."""
        return len(self._plan(epoch))

    def passes(self, epoch: int) -> float:
        """Return how often the epoch draws each labelled text, 0 where there is none."""
        return self.steps(epoch) * self._texts_a_step / len(self._pool) if len(self._pool) else 0.0

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield this process's part of the epoch's batches, from batch `start` on."""
        for number, (windows, texts) in enumerate(self._plan(epoch)):
            if number >= start:
                yield self._build(windows, texts, np.random.default_rng((self.seed, epoch, number, 1)))

    def _plan(self, epoch: int) -> list[tuple[list[Window], IntArray]]:
        """Return each batch's windows and labelled texts, over every process; texts that run out are drawn anew."""
        rng = np.random.default_rng((self.seed, epoch))
        temperature = self.settings.domain_temperature
        groups = self._windows.groups(rng, self.settings.users, temperature=temperature) if self.with_pairs else []
        size, pool = self._texts_a_step, self._pool
        draws = len(groups) * size if groups else math.ceil(self.text_passes * len(pool))
        rounds = -(-draws // len(pool)) if len(pool) else 0
        order = np.concatenate([pool[:0], *(rng.permutation(pool) for _ in range(rounds))])[:draws]
        if not groups:
            return [([], distinct(order[at : at + size])) for at in range(0, len(order), size)]
        return [(group, distinct(order[number * size : (number + 1) * size])) for number, group in enumerate(groups)]

    def _build(self, windows: list[Window], texts: IntArray, rng: np.random.Generator) -> Batch:
        own = texts[self._mine]
        fresh, pairs = own, None
        if windows:
            negatives = self._windows.negatives(rng, windows[0].domain, self.settings.negatives)
            items = self._fresh_items(rng, windows, negatives)
            if self.every_text:  # a student reads nothing that tests look at, in a pair neither
                items = items[np.isin(items, self._pool)]
            items = items[~np.isin(items, self.unread)]
            pairs = self._pairs(windows, negatives, self._drop(rng, len(windows), len(negatives)))
            fresh = np.concatenate([fresh, items])
        company = self._co_consumption.sample(rng, texts, self._mine) if self.with_company else []
        fresh = np.unique(fresh)
        alike = [fresh[places] for places in length_buckets(self._widths[fresh])]
        fresh = np.concatenate([fresh[:0], *alike])
        buckets = tuple(self._bucket(rows) for rows in alike)
        place = {int(row): number for number, row in enumerate(fresh)}
        return Batch(
            buckets,
            self._class_labels(place, own),
            self._labels.counts(texts),
            pairs,
            tuple(_company(part, place) for part in company),
        )

    def _fresh_items(self, rng: np.random.Generator, windows: list[Window], negatives: IntArray) -> IntArray:
        """Return the items encoded with gradients: one share of this process's targets, the same of the negatives.

        A fresh vector differs from a cached one. Were only targets fresh, that difference would tell the label.
        """
        fresh = self.settings.fresh_targets
        targets = [self.arrays.event_item[rng.permutation(window.rows)[:fresh]] for window in windows][self._mine]
        others = negatives[: round(len(negatives) * fresh / self.settings.targets)]
        return np.concatenate([others, *targets]) if targets else negatives[:0]

    def _class_labels(self, place: dict[int, int], texts: IntArray) -> dict[str, tuple[Tensor, Tensor]]:
        """Return each multiclass task's labels of `texts`, and where these stand among the encoded texts."""
        places = np.array([place[int(row)] for row in texts], np.int64)
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for task in self._labels.tasks:
            if task.kind is Kind.MULTICLASS:
                labels = np.array([int(row[0]) for row in self._labels.of(task, texts)], np.int64)
                found[task.name] = (torch.from_numpy(places[labels >= 0]), torch.from_numpy(labels[labels >= 0]))
        return found

    def _bucket(self, rows: IntArray) -> TextBucket:
        ids, mask = self.tokens.padded(rows, int(self._widths[rows].max()))
        where = [(t, int(p), w) for t, row in enumerate(rows) for w, p in enumerate(self.tokens.words[row]) if p >= 0]
        text, position, number = torch.tensor(where, dtype=torch.int64).reshape(-1, 3).T.contiguous()
        word_labels: dict[str, Tensor] = {}
        for task in self._labels.tasks:
            if task.kind is Kind.TOKEN:
                labels = self._labels.of(task, rows)
                flat = [int(labels[t][w]) if w < len(labels[t]) else -1 for t, _, w in where]
                word_labels[task.name] = torch.tensor(flat, dtype=torch.int64)
        corpus = torch.from_numpy(rows)
        return TextBucket(corpus, ids, mask, text, position, corpus[text], number, word_labels)

    def _drop(self, rng: np.random.Generator, windows: int, negatives: int) -> Dropped:
        """Draw what is hidden: an unseen item has no priors and no affinity; where users did little together, or of
        whom nothing is known, no candidate has affinity.
        """
        priors = rng.random((windows, self.settings.targets + negatives)) < self.settings.prior_dropout
        links = rng.random((windows, 1)) < self.settings.link_dropout
        return Dropped(priors, priors | links, rng.random(windows) < self.settings.history_dropout)

    def _pairs(self, windows: list[Window], negatives: IntArray, drop: Dropped) -> PairBatch:
        """Return this process's share of the windows; `negatives` are of all, (negatives,), or each one's own."""
        domain, local = windows[0].domain, windows[self._mine]
        others = np.broadcast_to(negatives, (len(windows), negatives.shape[-1]))[self._mine]
        labels = self._pair_labels(windows, domain)
        shown = np.where(drop.histories[self._mine], 0, self.max_history)
        histories = [self._windows.history(w, longest) for w, longest in zip(local, shown, strict=True)]
        width = max((1, *map(len, histories)))
        history = _pad([self.arrays.event_item[rows] for rows in histories], width, -1)
        targets = _pad([self.arrays.event_item[w.rows] for w in local], self.settings.targets, -1)
        candidates = np.concatenate([targets, others], axis=1)
        rows, index = np.unique(np.concatenate([history, candidates], axis=1), return_inverse=True)
        index = index.reshape(len(local), width + candidates.shape[1])
        new = np.isin(candidates, self.unread)
        priors = self._windows.priors(local, candidates)
        priors[drop.priors[self._mine] | new] = 0.0
        affinity = self._affinity(local, history, candidates)
        affinity[drop.affinity[self._mine] | new] = 0.0
        allowed = [self._windows.unobserved(w.user, items) for w, items in zip(local, others, strict=True)]
        return PairBatch(
            domain=domain,
            place=torch.from_numpy(((np.arange(len(windows)) + 0.5) / len(windows))[self._mine]),
            rows=torch.from_numpy(np.maximum(rows, 0)),  # padding (-1) reads row 0 and is masked
            history=torch.from_numpy(index[:, :width]),
            behaviour=torch.from_numpy(_pad([self.arrays.event_behaviour[r] for r in histories], width, 0)),
            value=torch.from_numpy(_pad_values([self.arrays.train_surprise[r] for r in histories], width, 0.0)),
            age=torch.arange(width).expand(len(local), width),
            history_mask=torch.from_numpy((history >= 0).astype(np.int64)),
            candidates=torch.from_numpy(index[:, width:]),
            priors=torch.from_numpy(priors),
            affinity=torch.from_numpy(affinity),
            allowed=torch.from_numpy(_pad_values(allowed, others.shape[1], 0.0)),
            labels={name: torch.from_numpy(values[self._mine]) for name, values in labels.items()},
            counts={name: float((~np.isnan(values)).sum()) for name, values in labels.items()},
            positives={name: float((values == 1).sum()) for name, values in labels.items()},
        )

    def _affinity(self, windows: list[Window], history: IntArray, candidates: IntArray) -> FloatArray:
        """Return (windows, candidates, events); padding (-1) has none."""
        rows = zip(windows, history, candidates, strict=True)
        found = [self.collaboration.of_training(w.user).affinity(events, items) for w, events, items in rows]
        shape = (0, candidates.shape[1], history.shape[1])
        return np.stack(found) if found else np.zeros(shape, np.float32)

    def _pair_labels(self, windows: list[Window], domain: str) -> dict[str, FloatArray]:
        """Return each pairwise task of the domain's labels (windows, targets), nan where missing."""
        labels = {}
        for task in self.arrays.tasks:
            if task.source == "events" and task.domain == domain:
                values = np.asarray(self.arrays.labels(task.name), np.float32)
                labels[task.name] = _pad_values([values[w.rows] for w in windows], self.settings.targets, np.nan)
        return labels


def distinct(rows: IntArray) -> IntArray:
    """Return the rows once each, in the order in which they first come."""
    kept: IntArray = rows[np.sort(np.unique(rows, return_index=True)[1])]
    return kept


def _company(company: Company, place: dict[int, int]) -> CompanyBatch:
    """Return one domain's company as tensors; `place` says where each row stands among the encoded texts."""
    return CompanyBatch(
        torch.from_numpy(company.references),
        torch.tensor([place[int(row)] for row in company.fresh], dtype=torch.int64),
        torch.from_numpy(company.cached),
        torch.from_numpy(company.target),
        torch.from_numpy(company.other),
        torch.from_numpy(company.share),
    )


def _pad(rows: Sequence[IntArray], width: int, filler: int) -> IntArray:
    out = np.full((len(rows), width), filler, np.int64)
    for number, row in enumerate(rows):
        out[number, : len(row)] = row
    return out


def _pad_values(rows: Sequence[FloatArray], width: int, filler: float) -> FloatArray:
    out = np.full((len(rows), width), filler, np.float32)
    for number, row in enumerate(rows):
        out[number, : len(row)] = row
    return out
