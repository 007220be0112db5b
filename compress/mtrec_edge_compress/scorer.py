"""A Scorer over encoded texts and a ranking function: every stage of the ledger is measured through it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from mtrec_edge_compress.data.arrays import Arrays, FloatArray, History, IntArray
from mtrec_edge_compress.encoding import Encoded
from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_runtime.candidates import run_slices
from mtrec_edge_runtime.neighbours import Neighbours

RankInputs = dict[str, npt.NDArray[np.float32] | npt.NDArray[np.int64]]  # the inputs of ranker.onnx by name
RankFunction = Callable[[RankInputs, str], dict[str, FloatArray]]  # of a domain: its outputs -> (batch, items)


NOTHING = np.zeros(1, np.int64)
UNKNOWN = np.full(1, -1)


@dataclass(frozen=True)
class VectorScorer:
    """Scores pairs by item vectors and a ranker; reads text tasks from what was encoded."""

    arrays: Arrays
    encoded: Encoded
    rank: RankFunction
    max_history: int
    neighbours: Neighbours
    catalogue: FloatArray | None = None  # item vectors that stand in for the encoder's own

    def rank_inputs(self, history: History, rows: slice | IntArray) -> RankInputs:
        """Return the ranker's inputs for one user and these catalogue rows, batch 1."""
        vectors = self.encoded.vectors if self.catalogue is None else self.catalogue
        latest = history.latest(self.max_history)
        items, behaviours, value = latest.items, latest.behaviours, self.arrays.surprise(latest)
        mask = np.ones(len(items), np.int64)
        known = items
        if not len(items):  # a user of whom nothing is known: one event that is padding
            items, behaviours, value, mask = NOTHING, NOTHING, np.zeros(1, np.float32), NOTHING
            known = UNKNOWN
        return {
            "history": vectors[items][None],
            "behaviour": behaviours[None],
            "value": value[None],
            "age": np.arange(len(items))[None],
            "history_mask": mask[None],
            "candidates": vectors[rows][None],
            "priors": self.arrays.priors[rows][None],
            "affinity": self.neighbours.affinity(known, rows)[None],
        }

    def pair_scores(self, history: History, domain: str) -> dict[str, FloatArray]:
        """Return each pairwise task of the domain's scores of all its items, ranked in parts as a device does."""
        rows = self.arrays.domains[domain]
        found = [self.rank(self.rank_inputs(history, part), domain) for part in run_slices(rows.start, rows.stop)]
        return {name: np.concatenate([part[name][0] for part in found]) for name in found[0]}

    def class_logits(self, task: str, rows: IntArray) -> FloatArray:
        """Return (rows, labels) of a multiclass task."""
        shift = 0 if self.arrays.task(task).source == "items" else len(self.arrays.item_ids)
        return self.encoded.logits[task][rows + shift]

    def tags(self, task: str, rows: IntArray) -> list[list[str]]:
        """Return one label a word of a token task; a word that was cut, whose logits are 0, gets O as on the device."""
        labels, shift = self.arrays.task(task).labels, len(self.arrays.item_ids)
        outside = labels.index("O") if "O" in labels else 0
        found = [self.encoded.word_logits[task][int(row) + shift] for row in rows]
        return [[labels[best] for best in np.where(logits.any(-1), logits.argmax(-1), outside)] for logits in found]


def torch_ranker(model: MultiTaskModel) -> RankFunction:
    """Return the model's `rank` as a function of arrays."""
    model.eval()
    device = model.center.device

    @torch.no_grad()
    def rank(inputs: RankInputs, domain: str) -> dict[str, FloatArray]:
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)).to(device) for name, array in inputs.items()}
        scores = model.rank(**tensors)
        return {name: score.cpu().numpy() for name, score in scores.items() if name.startswith(f"{domain}.")}

    return rank
