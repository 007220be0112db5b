"""A cross-encoder's word on a sample of TRAIN pairs, said once and kept on disk: too slow to be asked at every step.

users.npy      (windows,) rows of Arrays.user_ids
targets.npy    (windows, targets) event rows, -1 padding
negatives.npy  (windows, negatives) catalogue rows, each window's own
scores.npy     (windows, targets + negatives, outputs) nan where not scored
index.json     names of the outputs, written last
"""

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from mtrec_edge_compress.batches import Batch, BatchSource, CrossBatch, Dropped
from mtrec_edge_compress.cross_encoder import CrossBatches, CrossModel, Reader, asked_of, pair_scores
from mtrec_edge_compress.data.arrays import FloatArray, IntArray
from mtrec_edge_compress.windows import Window
from mtrec_edge_runtime.errors import StageError
from mtrec_edge_runtime.tasks import order_name

INDEX = "index.json"


@dataclass(frozen=True)
class CrossPairs:
    """Scored windows."""

    users: IntArray  # (windows,)
    targets: IntArray  # (windows, targets)
    negatives: IntArray  # (windows, negatives)
    scores: FloatArray  # (windows, targets + negatives, outputs)
    outputs: tuple[str, ...]


@torch.no_grad()
def score_windows(
    model: CrossModel, reader: Reader, source: CrossBatches, *, windows: int, progress: bool
) -> CrossPairs:
    """Ask the cross-encoder about a seeded sample of at most this many windows of the TRAIN fold."""
    model.eval()
    rng, width = np.random.default_rng((source.seed, 8)), source.settings.targets
    parts = []
    for group in tqdm(_first(source, rng, windows), desc="cross-encoder scores", disable=not progress, leave=False):
        negatives = source.draw(rng, group)
        users = np.array([window.user for window in group], np.int64)
        targets = np.full((len(group), width), -1, np.int64)
        for number, window in enumerate(group):
            targets[number, : len(window.rows)] = window.rows
        parts.append((users, targets, negatives, _scores(model, reader, source, group, negatives)))
    users, targets, negatives, scores = (np.concatenate(column) for column in zip(*parts, strict=True))
    return CrossPairs(users, targets, negatives, scores, model.outputs)


def _first(source: CrossBatches, rng: np.random.Generator, windows: int) -> list[list[Window]]:
    """Return groups of the first windows, in shuffled order, as many in all as asked for or there are."""
    found: list[list[Window]] = []
    for group in source.groups(rng, source.settings.users):
        if windows <= 0:
            break
        found.append(group[:windows])
        windows -= len(group)
    return found


def _scores(
    model: CrossModel, reader: Reader, source: CrossBatches, windows: list[Window], negatives: IntArray
) -> FloatArray:
    """Return (windows, targets + negatives, outputs), nan where a candidate or an output of its domain is missing."""
    pairs = source.pairs(windows, negatives)
    found = pair_scores(model, reader, pairs)
    unknown = ~asked_of(pairs).numpy()
    scores = np.full((*unknown.shape, len(model.outputs)), np.nan, np.float32)
    for name, score in found.items():
        scores[..., model.outputs.index(name)] = np.where(unknown, np.nan, score.cpu().numpy())
    return scores


def save_cross_pairs(pairs: CrossPairs, folder: Path) -> None:
    """Write the scored windows as .npy files, without pickle."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("users", "targets", "negatives", "scores"):
        np.save(folder / f"{name}.npy", getattr(pairs, name))
    (folder / INDEX).write_text(json.dumps({"outputs": pairs.outputs}))


def load_cross_pairs(folder: Path) -> CrossPairs:
    """Map what `save_cross_pairs` wrote.

    Raises:
        StageError: there is no such folder.
    """
    if not (folder / INDEX).is_file():
        raise StageError(
            f"{folder} holds no scored pairs; the next step: delete {folder.parent / 'stage.json'} and run again"
        )
    users, targets, negatives, scores = (
        np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        for name in ("users", "targets", "negatives", "scores")
    )
    outputs = tuple(json.loads((folder / INDEX).read_text())["outputs"])
    return CrossPairs(users, targets, negatives, scores, outputs)


@dataclass(frozen=True)
class CrossTaught(BatchSource):
    """A student's batches, each with as many scored windows of its domain as it has windows."""

    scored: CrossPairs | None = None

    def _build(self, windows: list[Window], texts: IntArray, rng: np.random.Generator) -> Batch:
        batch = super()._build(windows, texts, rng)
        if self.scored is None or not windows or windows[0].domain not in self._of_domain:
            return batch
        own = self._of_domain[windows[0].domain]
        return replace(batch, cross=self._cross(np.sort(rng.choice(own, min(len(own), len(windows)), replace=False))))

    @cached_property
    def _pairs_source(self) -> BatchSource:
        """Plans pairs of the scored windows, which have a number of targets of their own."""
        assert self.scored is not None
        settings = replace(self.settings, targets=self.scored.targets.shape[1], fresh_targets=0)
        return BatchSource(
            self.arrays,
            self.tokens,
            self.collaboration,
            settings,
            self.max_history,
            self.seed,
            unread=self.unread,
            rank=self.rank,
            world=self.world,
        )

    @cached_property
    def _of_domain(self) -> dict[str, IntArray]:
        """Return domain with a ranked task -> its windows among the scored ones."""
        assert self.scored is not None
        items = self.arrays.event_item[self.scored.targets[:, 0]]
        found = {
            domain: np.flatnonzero((items >= span.start) & (items < span.stop))
            for domain, span in self.arrays.domains.items()
            if domain in {task.domain for task in self.arrays.tasks if task.negatives}
        }
        return {domain: rows for domain, rows in found.items() if len(rows)}

    @cached_property
    def _orders(self) -> dict[str, int]:
        """Return ranked task -> which output orders its catalogue."""
        assert self.scored is not None
        outputs = self.scored.outputs
        return {t.name: outputs.index(order_name(t.name, outputs)) for t in self.arrays.tasks if t.negatives}

    @cached_property
    def _square(self) -> dict[str, float]:
        """Return ranked task -> mean squared margin between the scored targets and negatives of all windows."""
        assert self.scored is not None
        width = self.scored.targets.shape[1]
        found = {}
        for task, number in self._orders.items():
            score = self.scored.scores[..., number]
            margin = score[:, :width, None] - score[:, None, width:]
            known = margin[~np.isnan(margin)]
            found[task] = float(np.square(known, dtype=np.float64).mean()) if len(known) else 1.0
        return {task: max(square, 1e-6) for task, square in found.items()}

    def _cross(self, rows: IntArray) -> CrossBatch:
        """Return this process's share of these scored windows, with nothing hidden."""
        assert self.scored is not None
        users, targets = self.scored.users[rows].tolist(), np.array(self.scored.targets[rows])
        domain = self._domain_of(int(targets[0, 0]))
        windows = [Window(user, domain, own[own >= 0]) for user, own in zip(users, targets, strict=True)]
        negatives, scores = np.array(self.scored.negatives[rows]), np.array(self.scored.scores[rows][self._mine])
        nothing = Dropped.nothing(len(rows), targets.shape[1] + negatives.shape[1])
        return CrossBatch(
            self._pairs_source._pairs(windows, negatives, nothing),
            {
                task: torch.from_numpy(scores[..., number].copy())
                for task, number in self._orders.items()
                if task.split(".")[0] == domain
            },
            self._square,
        )

    def _domain_of(self, event: int) -> str:
        item = self.arrays.event_item[event]
        return next(name for name, span in self.arrays.domains.items() if span.start <= item < span.stop)
