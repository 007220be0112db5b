"""What one training step sees: windows over users' histories, sampled negatives, and labelled texts.

Every process plans the same global batch from the seed and keeps its own rows, so that two processes learn what one
would. Labels that are missing stay missing (nan or -1). Knows nothing of models or losses.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from torch import Tensor

from mtrec_edge_compress.data.arrays import Arrays, FloatArray, IntArray, prior_features
from mtrec_edge_compress.data.balance import sample_negatives
from mtrec_edge_compress.data.schema import Fold
from mtrec_edge_compress.recipe import Training
from mtrec_edge_compress.tokens import Tokens
from mtrec_edge_runtime.tasks import Kind

BUCKET_TEXTS = 32  # texts padded together, after sorting by length


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
    rows: Tensor  # (distinct,) corpus rows of every item below
    history: Tensor  # (users, events) index into rows
    behaviour: Tensor
    value: Tensor
    age: Tensor
    history_mask: Tensor
    candidates: Tensor  # (users, targets + negatives) index into rows
    priors: Tensor  # (users, targets + negatives, 3)
    allowed: Tensor  # (users, negatives) 1 where the negative is no observed item of the user
    labels: dict[str, Tensor]  # pairwise task -> (users, targets), nan missing
    counts: dict[str, float]  # pairwise task -> labels in the whole batch, over every process
    positives: dict[str, float]  # ranked task -> positive labels in the whole batch


@dataclass(frozen=True)
class Batch:
    """One step: the texts encoded with gradients, and perhaps pairs."""

    buckets: tuple[TextBucket, ...]
    text_labels: dict[str, tuple[Tensor, Tensor]]  # multiclass task -> (place among the encoded texts, label)
    text_counts: dict[str, float]  # text task -> labels in the whole batch, over every process
    pairs: PairBatch | None = None

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        moved = _to_device(self, device)
        assert isinstance(moved, Batch)
        return moved


def _to_device(value: object, device: torch.device) -> object:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _to_device(inner, device) for key, inner in value.items()}
    if isinstance(value, tuple):
        return tuple(_to_device(inner, device) for inner in value)
    if isinstance(value, TextBucket | PairBatch | Batch):
        return replace(value, **{f.name: _to_device(getattr(value, f.name), device) for f in fields(value)})
    return value


@dataclass(frozen=True)
class Window:
    """Consecutive events of one user in one domain that serve as targets."""

    user: int
    domain: str
    rows: IntArray  # event rows


@dataclass(frozen=True)
class BatchSource:
    """Plans the batches of an epoch from a dataset; the same seed and epoch give the same batches."""

    arrays: Arrays
    tokens: Tokens
    settings: Training
    max_history: int
    seed: int
    with_pairs: bool = True
    every_text: bool = False  # also encode unlabelled items: what vector matching wants
    rank: int = 0
    world: int = 1
    _observed: dict[int, IntArray] = field(default_factory=dict, repr=False)

    def steps(self, epoch: int) -> int:
        """Return how many batches the epoch has."""
        return len(self._plan(epoch))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield this process's part of the epoch's batches, from batch `start` on."""
        for number, (windows, texts) in enumerate(self._plan(epoch)):
            if number >= start:
                rng = np.random.default_rng((self.seed, epoch, number, 1))
                yield self._build(windows, texts, rng)

    def _plan(self, epoch: int) -> list[tuple[list[Window], IntArray]]:
        rng = np.random.default_rng((self.seed, epoch))
        groups = self._window_groups(rng) if self.with_pairs else []
        pool = self._text_pool()
        if not groups:
            order = rng.permutation(pool)
            return [([], order[at : at + self.settings.texts]) for at in range(0, len(order), self.settings.texts)]
        wanted = len(groups) * self.settings.texts
        order = (
            np.concatenate([rng.permutation(pool) for _ in range(-(-wanted // max(len(pool), 1)))])
            if len(pool)
            else pool
        )
        return [
            (group, order[number * self.settings.texts : (number + 1) * self.settings.texts])
            for number, group in enumerate(groups)
        ]

    def _text_pool(self) -> IntArray:
        """Return the corpus rows that carry a TRAIN label of a text task (or every row but TEST ones)."""
        items = len(self.arrays.item_ids)
        fold = np.concatenate([self.arrays.item_fold, self.arrays.text_fold])
        if self.every_text:
            return np.flatnonzero(np.concatenate([~self.arrays.cold, self.arrays.text_fold == Fold.TRAIN]))
        labelled = np.zeros(len(fold), bool)
        for task in self.arrays.tasks:
            labels = self.arrays.labels(task.name)
            if task.kind is Kind.TOKEN:
                labelled[items:] |= np.array([len(row) > 0 for row in labels], bool)
            elif task.source == "items":
                labelled[:items] |= np.asarray(labels) >= 0
            elif task.source == "texts":
                labelled[items:] |= np.asarray(labels) >= 0
        return np.flatnonzero(labelled & (fold == Fold.TRAIN))

    def _window_groups(self, rng: np.random.Generator) -> list[list[Window]]:
        """Return shuffled groups of windows, each group of one domain."""
        groups: list[list[Window]] = []
        for domain in self.arrays.domains:
            windows = [w for user in range(len(self.arrays.user_ids)) for w in self._windows(user, domain, rng)]
            order = rng.permutation(len(windows))
            size = self.settings.users
            groups += [[windows[i] for i in order[at : at + size]] for at in range(0, len(order), size)]
        return [groups[i] for i in rng.permutation(len(groups))]

    def _windows(self, user: int, domain: str, rng: np.random.Generator) -> list[Window]:
        rows = self._train_rows(user)
        span = self.arrays.domains[domain]
        items = self.arrays.event_item[rows]
        mine = rows[1:][(items[1:] >= span.start) & (items[1:] < span.stop)]  # the first event has no history
        if not len(mine):
            return []
        size = self.settings.targets
        first = int(rng.integers(1, size + 1))
        cuts = [0, *range(first, len(mine), size), len(mine)]
        return [Window(user, domain, mine[a:b]) for a, b in zip(cuts, cuts[1:], strict=False) if b > a]

    def _train_rows(self, user: int) -> IntArray:
        if user not in self._observed:
            rows = np.arange(self.arrays.user_start[user], self.arrays.user_start[user + 1])
            self._observed[user] = rows[self.arrays.event_fold[rows] == Fold.TRAIN]
        return self._observed[user]

    def _build(self, windows: list[Window], texts: IntArray, rng: np.random.Generator) -> Batch:
        text_counts = self._text_counts(texts)
        fresh = texts[self.rank :: self.world]
        pairs = None
        if windows:
            span = self.arrays.domains[windows[0].domain]
            cold = np.flatnonzero(self.arrays.cold)
            negatives = sample_negatives(rng, span, self.settings.negatives, observed=cold)
            chosen = [rng.permutation(w.rows)[: self.settings.fresh_targets] for w in windows]
            drop = rng.random((len(windows), self.settings.targets + len(negatives))) < self.settings.prior_dropout
            pairs = self._pairs(windows, negatives, drop)
            mine = [self.arrays.event_item[rows] for rows in chosen[self.rank :: self.world]]
            fresh = np.concatenate([fresh, *mine])
        fresh = np.unique(fresh)
        fresh = fresh[np.argsort(self.tokens.lengths[fresh], kind="stable")]
        buckets = tuple(self._bucket(fresh[at : at + BUCKET_TEXTS]) for at in range(0, len(fresh), BUCKET_TEXTS))
        return Batch(buckets, self._class_labels(fresh, texts[self.rank :: self.world]), text_counts, pairs)

    def _text_counts(self, texts: IntArray) -> dict[str, float]:
        counts: dict[str, float] = {}
        for task in self.arrays.tasks:
            labels = self._row_labels(task.name, texts)
            if labels is not None:
                counts[task.name] = float(sum(int((np.atleast_1d(row) >= 0).sum()) for row in labels))
        return counts

    def _row_labels(self, name: str, rows: IntArray) -> list[IntArray] | None:
        """Return TRAIN labels of corpus rows for a text task (empty or -1 where missing), None for a pairwise task."""
        task, items = self.arrays.task(name), len(self.arrays.item_ids)
        if task.source == "events":
            return None
        labels = self.arrays.labels(name)
        fold = self.arrays.item_fold if task.source == "items" else self.arrays.text_fold
        shift = 0 if task.source == "items" else items
        none = np.full(0 if task.kind is Kind.TOKEN else 1, -1, np.int64)
        return [
            np.atleast_1d(labels[row - shift]).astype(np.int64)
            if 0 <= row - shift < len(fold)
            and (row < items) == (task.source == "items")
            and fold[row - shift] == Fold.TRAIN
            else none
            for row in rows
        ]

    def _class_labels(self, fresh: IntArray, texts: IntArray) -> dict[str, tuple[Tensor, Tensor]]:
        place = {int(row): number for number, row in enumerate(fresh)}
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for task in self.arrays.tasks:
            if task.kind is not Kind.MULTICLASS:
                continue
            labels = np.concatenate(self._row_labels(task.name, texts) or [np.zeros(0, np.int64)])
            keep = labels >= 0
            places = np.array([place[int(row)] for row in texts], np.int64)
            found[task.name] = (torch.from_numpy(places[keep]), torch.from_numpy(labels[keep]))
        return found

    def _bucket(self, rows: IntArray) -> TextBucket:
        ids, mask = self.tokens.padded(rows)
        where = [
            (t, int(p), int(row), w)
            for t, row in enumerate(rows)
            for w, p in enumerate(self.tokens.words[row])
            if p >= 0
        ]
        text, position, corpus_row, number = np.array(where, np.int64).reshape(-1, 4).T
        word_labels: dict[str, Tensor] = {}
        for task in self.arrays.tasks:
            if task.kind is Kind.TOKEN:
                labels = self._row_labels(task.name, rows) or []
                flat = [int(labels[t][w]) if w < len(labels[t]) else -1 for t, _, _, w in where]
                word_labels[task.name] = torch.tensor(flat, dtype=torch.int64)
        parts = (torch.from_numpy(np.ascontiguousarray(a)) for a in (text, position, corpus_row, number))
        return TextBucket(torch.from_numpy(rows), ids, mask, *parts, word_labels)

    def _pairs(self, windows: list[Window], negatives: IntArray, drop: np.ndarray) -> PairBatch:
        domain = windows[0].domain
        labels, counts, positives = self._pair_labels(windows, domain)
        mine = slice(self.rank, None, self.world)
        local = windows[mine]
        histories = [self._history_rows(w) for w in local]
        width = max(len(rows) for rows in histories) if histories else 1
        history = _pad([self.arrays.event_item[rows] for rows in histories], width, -1)
        targets = _pad([self.arrays.event_item[w.rows] for w in local], self.settings.targets, -1)
        spread = np.broadcast_to(negatives, (len(local), len(negatives)))
        candidates = np.concatenate([targets, spread], axis=1)
        rows, index = np.unique(np.concatenate([history, candidates], axis=1), return_inverse=True)
        index = index.reshape(len(local), -1)
        priors = self._pair_priors(local, candidates)
        priors[drop[mine]] = 0.0
        tensor = torch.from_numpy
        return PairBatch(
            domain=domain,
            rows=tensor(np.maximum(rows, 0)),  # padding (-1) reads row 0 and is masked
            history=tensor(index[:, :width]),
            behaviour=tensor(_pad([self.arrays.event_behaviour[r] for r in histories], width, 0)),
            value=tensor(_pad([self.arrays.normal_value[r] for r in histories], width, 0).astype(np.float32)),
            age=torch.arange(width).expand(len(local), width),
            history_mask=tensor((history >= 0).astype(np.int64)),
            candidates=tensor(index[:, width:]),
            priors=tensor(priors),
            allowed=tensor(np.stack([self._unobserved(w.user, negatives) for w in local])),
            labels={name: tensor(values[mine]) for name, values in labels.items()},
            counts=counts,
            positives=positives,
        )

    def _pair_labels(
        self, windows: list[Window], domain: str
    ) -> tuple[dict[str, FloatArray], dict[str, float], dict[str, float]]:
        labels: dict[str, FloatArray] = {}
        for task in self.arrays.tasks:
            if task.source == "events" and task.domain == domain:
                values = self.arrays.labels(task.name)
                labels[task.name] = _pad([np.asarray(values)[w.rows] for w in windows], self.settings.targets, np.nan)
        counts = {name: float((~np.isnan(values)).sum()) for name, values in labels.items()}
        positives = {name: float((values == 1).sum()) for name, values in labels.items()}
        return labels, counts, positives

    def _history_rows(self, window: Window) -> IntArray:
        rows = self._train_rows(window.user)
        return rows[rows < window.rows[0]][::-1][: self.max_history]

    def _unobserved(self, user: int, negatives: IntArray) -> FloatArray:
        observed = self.arrays.event_item[self._train_rows(user)]
        return (~np.isin(negatives, observed)).astype(np.float32)

    def _pair_priors(self, windows: list[Window], candidates: IntArray) -> FloatArray:
        """Return priors of candidates; a target's own event is left out of its counts."""
        count, value_sum = self.arrays.support
        safe = np.maximum(candidates, 0)
        counts, sums = count[safe].astype(np.float32), value_sum[safe].astype(np.float32)
        for number, window in enumerate(windows):
            counts[number, : len(window.rows)] -= 1
            sums[number, : len(window.rows)] -= self.arrays.residual[window.rows]
        return prior_features(counts, sums, self.arrays.most_events[safe])


def _pad(rows: list[np.ndarray], width: int, filler: float) -> np.ndarray:
    dtype = rows[0].dtype if rows else np.int64
    out = np.full((len(rows), width), filler, dtype)
    for number, row in enumerate(rows):
        out[number, : len(row)] = row
    return out
