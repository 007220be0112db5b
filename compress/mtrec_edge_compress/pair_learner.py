"""What every learner shares: a model, the weighting of its tasks, and the losses of pairwise tasks against labels.

Knows nothing of how a model comes to its scores: a tower has vectors and a ranker (learner.py), a cross-encoder reads
both texts at once (cross_encoder.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mtrec_edge_compress import losses
from mtrec_edge_compress.batches import PairBatch
from mtrec_edge_compress.data.arrays import Arrays
from mtrec_edge_compress.data.balance import class_weights
from mtrec_edge_compress.data.schema import Fold, TaskSpec
from mtrec_edge_compress.weighting import TaskWeighting
from mtrec_edge_runtime.errors import DataError
from mtrec_edge_runtime.tasks import Kind, order_name

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class LabelScale:
    """What a task's TRAIN labels say of a constant predictor."""

    mean: float  # regression: mean label; binary: base rate
    deviation: float  # regression: standard deviation
    entropy: float  # multiclass, token: entropy of the label distribution
    weights: Tensor | None  # multiclass: class weights
    weighed_entropy: float  # multiclass: entropy of the labels as class weights weigh them; token: `entropy`


def label_scale(arrays: Arrays, task: TaskSpec) -> LabelScale:
    """Measure a task's TRAIN labels.

    Raises:
        DataError: the task has no TRAIN label at all, or none to tell apart.
    """
    labels = arrays.labels(task.name)
    if task.source == "events":
        values = np.asarray(labels)[arrays.event_fold == Fold.TRAIN]
        values = values[~np.isnan(values)]
        _some(task, len(values))
        if task.kind is Kind.BINARY and not task.negatives and values.min() == values.max():
            raise DataError(
                f"task {task.name} has one class alone in the training fold; the next step: another positive_at, or "
                "negatives = true"
            )
        return LabelScale(float(values.mean()), float(max(values.std(), 1e-3)), 1.0, None, 1.0)
    fold = arrays.item_fold if task.source == "items" else arrays.text_fold
    train = fold == Fold.TRAIN
    if task.kind is Kind.TOKEN:
        flat = np.concatenate([row for row, keep in zip(labels, train, strict=True) if keep] or [np.zeros(0, np.int64)])
    else:
        flat = np.asarray(labels)[train]
    flat = flat[flat >= 0].astype(np.int64)
    _some(task, len(flat))
    share = np.bincount(flat, minlength=len(task.labels)) / len(flat)
    if task.kind is Kind.TOKEN:
        return LabelScale(0.0, 1.0, _entropy(share), None, _entropy(share))
    weights = class_weights(flat, len(task.labels))
    return LabelScale(0.0, 1.0, _entropy(share), torch.from_numpy(weights), _entropy(share * weights))


def _entropy(share: npt.NDArray[np.float64]) -> float:
    """Return the entropy of shares that add up to 1, at least 0.01: what the best constant loses."""
    some = share[share > 0]
    return float(max(-(some * np.log(some)).sum(), 1e-2))


def _some(task: TaskSpec, count: int) -> None:
    if not count:
        raise DataError(
            f"task {task.name} has no label in the training fold; the next step: check its behaviours or column in "
            "dataset.toml, or leave the task out"
        )


class PairLearner(nn.Module):
    """A model and the weighting of its tasks: what the training loop trains."""

    def __init__(self, model: Any, weighting: TaskWeighting, arrays: Arrays) -> None:
        super().__init__()
        self.model, self.weighting = model, weighting
        self.scales = {task.name: label_scale(arrays, task) for task in model.tasks}
        self.done = 0.0  # share of the training that is behind it
        self.cache: Tensor | None = None  # (rows, hidden) pooled states of every text, where `refresh` makes them

    def refresh(self, device: torch.device, dtype: torch.dtype) -> None:
        """Make anew what depends on the weights as they are: nothing here."""

    def end_epoch(self) -> None:
        """Let the weighting learn from the epoch."""
        self.weighting.end_epoch()

    def save(self, folder: Path) -> None:
        """Write the model's weights, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        new = folder / f"{WEIGHTS}.new"
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in self.model.state_dict().items()}, new)
        new.replace(folder / WEIGHTS)

    def restore(self, folder: Path) -> None:
        """Take the weights that `save` wrote."""
        self.model.load_state_dict(load_file(folder / WEIGHTS))

    def parameters_shared(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Return the parameters that several tasks learn, and those of the tasks' own heads: here all are shared."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad], []

    def pair_losses(self, pairs: PairBatch, scores: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the pairwise tasks' losses against their labels."""
        return {
            name: self.gold_pair_loss(self._task(name), pairs, scores[name], order_of(name, scores))
            for name in pairs.labels
            if pairs.counts[name]
        }

    def gold_pair_loss(self, task: TaskSpec, pairs: PairBatch, score: Tensor, order: Tensor) -> Tensor:
        """Return one pairwise task's loss; a ranked task's parts are averaged so that it still starts near 1.

        What orders the catalogue learns from sampled negatives, the probability of an explicit label from logged events
        alone: a like is rare among all items and common among those a user chose. One score cannot say both.
        Source: Ma et al., Entire space multi-task model, 2018 (the two are told apart).
        """
        label, scale = pairs.labels[task.name], self.scales[task.name]
        width = label.shape[1]
        target = score[:, :width]
        if task.kind is Kind.REGRESSION:
            return losses.regression_loss(target, label, scale.deviation, pairs.counts[task.name])
        parts = []
        explicit = 0.0 < scale.mean < 1.0
        if explicit:
            parts.append(losses.binary_loss(target, label, scale.mean, pairs.counts[task.name]))
        if task.negatives:
            positive, count = (label == 1).to(score.dtype), pairs.positives[task.name]
            first, others = order[:, :width], order[:, width:]
            parts.append(losses.sampled_softmax_loss(first, positive, others, pairs.allowed, count))
            if not explicit:
                parts.append(losses.balanced_negative_loss(target, positive, score[:, width:], pairs.allowed, count))
        return torch.stack(parts).mean()

    def _task(self, name: str) -> TaskSpec:
        found: TaskSpec = next(task for task in self.model.tasks if task.name == name)
        return found


def order_of(task: str, scores: Mapping[str, Tensor]) -> Tensor:
    """Return what orders the catalogue for a task: a score of its own, or the task's."""
    return scores[order_name(task, scores)]


def centre_outputs(learner: PairLearner) -> None:
    """Start the regression outputs at their TRAIN mean and deviation, and single-class binaries at logit 0."""
    model = learner.model
    for number, task in enumerate(model.pair_tasks):
        scale = learner.scales[task.name]
        if task.kind is Kind.REGRESSION:
            model.center[number], model.scale[number] = scale.mean, scale.deviation
