"""Several teachers as one: the mean of what each says, each made honest first.

A teacher's logits are divided by a temperature fitted on the VALIDATION fold (calibration.py), so that one that is too
sure of itself does not outvote the others; amounts are averaged as they are. Item vectors are the first teacher's:
those of two encoders lie in two spaces. Touches no files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mtrec_edge_compress.batches import PairBatch
from mtrec_edge_compress.calibration import LEAST_EVENTS, best_of, fit_temperatures
from mtrec_edge_compress.data.arrays import Arrays, FloatArray, IntArray
from mtrec_edge_compress.data.schema import Fold, TaskSpec
from mtrec_edge_compress.encoding import Encoded
from mtrec_edge_compress.judgement import Scorer
from mtrec_edge_compress.learner import rank_pairs
from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_compress.pair_evaluation import domain_users
from mtrec_edge_runtime.errors import StageError
from mtrec_edge_runtime.tasks import Kind, order_name

Temperatures = Mapping[str, float]  # score's name -> what its logits are divided by; 1 where it is not there


def check_alike(teachers: Sequence[MultiTaskModel], names: Sequence[str]) -> None:
    """Raise StageError, naming what differs, unless the teachers answer the same questions about the same inputs."""
    first = teachers[0]
    for teacher, name in zip(teachers[1:], names[1:], strict=True):
        differing = {
            "tasks": ([_question(task) for task in first.tasks], [_question(task) for task in teacher.tasks]),
            "tokens in the vocabulary": (word_rows(first), word_rows(teacher)),
            "events of a history": (first.shape.max_history, teacher.shape.max_history),
            "behaviours": (first.shape.behaviours, teacher.shape.behaviours),
        }
        for what, (expected, found) in differing.items():
            if expected != found:
                raise StageError(
                    f"teachers {names[0]} and {name} cannot be fused, they differ in {what}: {expected} and {found}; "
                    "the next step: train both on this dataset with encoders of one vocabulary, or give one --teacher"
                )


def _question(task: TaskSpec) -> str:
    labels = f", {len(task.labels)} labels" if task.labels else ""
    return f"{task.name} ({task.kind.value}{labels}{', ranked' if task.negatives else ''})"


def word_rows(model: MultiTaskModel) -> int:
    """Return how many tokens a model has a vector for."""
    backbone: Any = model.text.backbone
    return int(backbone.get_input_embeddings().weight.shape[0])


def fit_label_temperature(logits: npt.NDArray[np.floating], labels: IntArray) -> float:
    """Return the temperature in [0.1, 10] with the least log loss; `logits` (rows, labels), `labels` (rows,)."""
    logits = np.asarray(logits, np.float64)
    rows = np.arange(len(labels))

    def loss(temperature: float) -> float:
        scaled = logits / temperature
        most = scaled.max(axis=1)
        partition = most + np.log(np.exp(scaled - most[:, None]).sum(axis=1))
        return float(np.mean(partition - scaled[rows, labels]))

    return best_of(loss)


def text_temperatures(encoded: Encoded, arrays: Arrays) -> dict[str, float]:
    """Return text task -> temperature, for those with at least 100 VALIDATION labels (words, for a token task)."""
    found = {}
    for task in arrays.tasks:
        if task.source != "events":
            logits, labels = _labelled(encoded, arrays, task)
            if len(labels) >= LEAST_EVENTS:
                found[task.name] = fit_label_temperature(logits, labels)
    return found


def _labelled(encoded: Encoded, arrays: Arrays, task: TaskSpec) -> tuple[FloatArray, IntArray]:
    """Return the logits (labelled, labels) and labels (labelled,) of the VALIDATION fold."""
    items = task.source == "items"
    rows = np.flatnonzero((arrays.item_fold if items else arrays.text_fold) == Fold.VALIDATION)
    shift, labels = (0 if items else len(arrays.item_ids)), arrays.labels(task.name)
    none = np.zeros((0, len(task.labels)), np.float32)
    logits, own = [none], [np.zeros(0, np.int64)]
    for row in rows.tolist():
        label = np.atleast_1d(labels[row]).astype(np.int64)
        if task.kind is Kind.TOKEN:
            said = encoded.word_logits[task.name].get(row + shift, none)
        else:
            said = encoded.logits[task.name][row + shift][None]
        if len(said) == len(label):
            logits.append(said[label >= 0])
            own.append(label[label >= 0])
    return np.concatenate(logits), np.concatenate(own)


def pair_temperatures(
    scorer: Scorer, arrays: Arrays, *, users_per_domain: int | None = None, seed: int = 0
) -> dict[str, float]:
    """Return score -> temperature of the pair tasks: labels by calibration.py, what orders a catalogue as one choice.

    The latter takes each user's last VALIDATION positive as the label among the items not in the history.
    """
    found = fit_temperatures(scorer, arrays, users_per_domain=users_per_domain, seed=seed)
    ranked = [task for task in arrays.tasks if task.negatives]
    for domain in dict.fromkeys(task.domain for task in ranked):
        own = [task for task in ranked if task.domain == domain]
        users = domain_users(arrays, domain, Fold.VALIDATION, users_per_domain=users_per_domain, seed=seed)
        for name, (logits, labels) in _choices(scorer, arrays, own, users).items():
            if len(labels) >= LEAST_EVENTS:
                found[name] = fit_label_temperature(np.stack(logits), np.array(labels))
    return found


def _choices(
    scorer: Scorer, arrays: Arrays, tasks: Sequence[TaskSpec], users: IntArray
) -> dict[str, tuple[list[FloatArray], list[int]]]:
    """Return what orders the catalogue -> each user's scores of it, and which of its items was chosen."""
    span = arrays.domains[tasks[0].domain]
    found: dict[str, tuple[list[FloatArray], list[int]]] = {}
    for user in users.tolist():
        history = arrays.history(user, Fold.VALIDATION)
        scores = scorer.pair_scores(history, tasks[0].domain)
        events = np.arange(arrays.user_start[user], arrays.user_start[user + 1])
        events = events[arrays.event_fold[events] == Fold.VALIDATION]
        past = history.items[(history.items >= span.start) & (history.items < span.stop)] - span.start
        for task in tasks:
            chosen = arrays.event_item[events[np.asarray(arrays.labels(task.name))[events] == 1]] - span.start
            name = order_name(task.name, scores)
            if len(chosen):
                logits = np.array(scores[name], np.float32)
                logits[past[past != chosen[-1]]] = -1e4
                kept = found.setdefault(name, ([], []))
                kept[0].append(logits)
                kept[1].append(int(chosen[-1]))
    return found


def calibrated(encoded: Encoded, temperatures: Temperatures) -> Encoded:
    """Return what was encoded with each task's logits divided by its temperature."""
    return Encoded(
        encoded.vectors,
        {name: logits / np.float32(temperatures.get(name, 1.0)) for name, logits in encoded.logits.items()},
        {
            name: {row: logits / np.float32(temperatures.get(name, 1.0)) for row, logits in found.items()}
            for name, found in encoded.word_logits.items()
        },
    )


def fuse_encoded(parts: Sequence[Encoded]) -> Encoded:
    """Return the mean of calibrated logits; the vectors are the first's."""
    first = parts[0]
    return Encoded(
        first.vectors,
        {name: _mean([part.logits[name] for part in parts]) for name in first.logits},
        {
            name: {row: _mean([part.word_logits[name][row] for part in parts]) for row in found}
            for name, found in first.word_logits.items()
        },
    )


def _mean(logits: Sequence[FloatArray]) -> FloatArray:
    mean: FloatArray = np.mean(logits, axis=0, dtype=np.float32)
    return mean


@dataclass(frozen=True)
class PairTeacher:
    """One teacher of pairs."""

    model: MultiTaskModel  # in eval mode
    vectors: Tensor  # (rows, D) in its own space
    temperatures: Temperatures


@dataclass(frozen=True)
class FusedPairs:
    """Several teachers' scores of pairs as one."""

    teachers: tuple[PairTeacher, ...]

    @torch.no_grad()
    def scores(self, pairs: PairBatch) -> dict[str, Tensor]:
        """Return the batch's scores (users, targets + negatives): the mean of calibrated logits, and of amounts."""
        parts = [
            {name: score / t.temperatures.get(name, 1.0) for name, score in self._of(t, pairs).items()}
            for t in self.teachers
        ]
        return {name: torch.stack([part[name] for part in parts]).mean(0) for name in parts[0]}

    def _of(self, teacher: PairTeacher, pairs: PairBatch) -> dict[str, Tensor]:
        return rank_pairs(teacher.model, pairs, teacher.vectors[pairs.rows])
