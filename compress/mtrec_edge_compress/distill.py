"""Stage 4: a small student learns the teacher's item vectors, then its task outputs.

The student's vectors are trained to lie in the teacher's space: wherever a step does not encode a text itself, it reads
the teacher's vector, so the ranker works on either and a catalogue may hold the teacher's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from mtrec_edge_compress import losses
from mtrec_edge_compress.batches import Batch, BatchSource, PairBatch
from mtrec_edge_compress.collaboration import Collaboration
from mtrec_edge_compress.compact import compact_from_bert
from mtrec_edge_compress.data.arrays import Arrays
from mtrec_edge_compress.data.schema import TaskSpec
from mtrec_edge_compress.encoding import Encoded
from mtrec_edge_compress.fusion import FusedPairs
from mtrec_edge_compress.learner import Learner, order_of, rank_pairs
from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_compress.recipe import Recipe, Training
from mtrec_edge_compress.teacher import load_backbone, task_weights
from mtrec_edge_compress.tokens import Tokens
from mtrec_edge_compress.training import Device, Validate, fit
from mtrec_edge_compress.weighting import TaskWeighting
from mtrec_edge_runtime.tasks import Kind

VECTOR = "vector"  # the name of the vector-matching loss among the tasks' losses


@dataclass(frozen=True)
class SoftTargets:
    """What the teacher says of every corpus row, and the teacher itself for pairs."""

    teacher: MultiTaskModel
    vectors: Tensor  # (rows, D)
    classes: dict[str, Tensor]  # multiclass task -> (rows, labels)
    words: dict[str, Tensor]  # token task -> (all words, labels)
    word_start: Tensor  # (rows + 1,) where each row's words begin in `words`
    fused: FusedPairs | None = None  # several teachers for pairs, in place of the one


def soft_targets(
    teacher: MultiTaskModel,
    encoded: Encoded,
    arrays: Arrays,
    device: torch.device,
    fused: FusedPairs | None = None,
) -> SoftTargets:
    """Lay out what the teacher computed for every text."""
    rows = len(encoded.vectors)
    splits = [()] * len(arrays.item_ids) + list(arrays.text_tokens)
    start = np.concatenate([[0], np.cumsum([len(split) for split in splits])])
    words = {}
    for task in teacher.text_tasks:
        if task.kind is Kind.TOKEN:
            table = np.zeros((start[-1], len(task.labels)), np.float32)
            for row, logits in encoded.word_logits[task.name].items():
                table[start[row] : start[row] + len(logits)] = logits
            words[task.name] = torch.from_numpy(table).to(device)
    assert rows == len(splits)
    return SoftTargets(
        teacher.to(device).eval(),
        torch.from_numpy(encoded.vectors).to(device),
        {name: torch.from_numpy(logits).to(device) for name, logits in encoded.logits.items()},
        words,
        torch.from_numpy(start).to(device),
        fused,
    )


class StudentLearner(Learner):
    """A Learner whose every loss is part gold, part the teacher's word."""

    def __init__(
        self,
        model: MultiTaskModel,
        weighting: TaskWeighting,
        arrays: Arrays,
        tokens: Tokens,
        soft: SoftTargets,
        recipe: Recipe,
    ) -> None:
        super().__init__(model, weighting, arrays, tokens)
        self._soft = (soft,)  # in a tuple, so that the teacher is no submodule
        self.share, self.temperature = recipe.distill.soft_weight, recipe.distill.temperature
        items = len(arrays.item_ids)
        self.of_task = {}  # multiclass task -> (rows,) whether the row is of its source and domain
        for task in model.text_tasks:
            mine = torch.zeros(len(tokens.ids), dtype=torch.bool)
            if task.source == "items":
                mine[arrays.domains[task.domain]] = True
            else:
                mine[items:] = torch.tensor((arrays.dataset.texts["domain"] == task.domain).to_list())
            self.of_task[task.name] = mine

    @property
    def soft(self) -> SoftTargets:
        """Return the teacher's outputs."""
        return self._soft[0]

    def begin_epoch(self, device: torch.device, dtype: torch.dtype) -> None:
        """Do nothing: the cache is the teacher's vectors, which stand still."""

    def cached_vectors(self, rows: Tensor) -> Tensor:
        """Return the teacher's vectors (rows, D)."""
        return self.soft.vectors[rows]

    def text_losses(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Add the vector-matching loss over every fresh text."""
        found, fresh = super().text_losses(batch)
        rows = batch.rows
        found[VECTOR] = losses.cosine_loss(fresh, self.soft.vectors[rows], len(rows) * losses.processes())
        return found, fresh

    def word_loss(
        self, task: TaskSpec, logits: Tensor, label: Tensor, row: Tensor, number: Tensor, count: float
    ) -> Tensor:
        """Return one token task's loss, part gold and part soft."""
        gold = super().word_loss(task, logits, label, row, number, count)
        teacher = self.soft.words[task.name][self.soft.word_start[row] + number]
        entropy = self.scales[task.name].entropy
        soft = losses.soft_class_loss(logits, teacher, self.temperature, entropy, count)
        return (1 - self.share) * gold + self.share * soft

    def class_losses(self, batch: Batch, rows: Tensor, fresh: Tensor) -> dict[str, Tensor]:
        """Return the multiclass losses: gold where a label exists, soft on every text of the task's domain."""
        found = {name: (1 - self.share) * loss for name, loss in super().class_losses(batch, rows, fresh).items()}
        scaled = fresh * self.model.vector_size**0.5
        for task, head in zip(self.model.text_tasks, self.model.text_heads, strict=True):
            if task.kind is not Kind.MULTICLASS:
                continue
            place = torch.nonzero(self.of_task[task.name].to(rows.device)[rows]).flatten()
            if len(place):
                teacher, count = self.soft.classes[task.name][rows[place]], len(place) * losses.processes()
                entropy = self.scales[task.name].entropy
                soft = losses.soft_class_loss(head(scaled[place]), teacher, self.temperature, entropy, count)
                found[task.name] = found.get(task.name, soft.new_zeros(())) + self.share * soft
        return found

    def pair_losses(self, pairs: PairBatch, scores: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the pairwise losses, part gold and part the teacher's scores of every candidate."""
        gold = super().pair_losses(pairs, scores)
        with torch.no_grad():
            teacher = (
                rank_pairs(self.soft.teacher, pairs, self.soft.vectors[pairs.rows])
                if self.soft.fused is None
                else self.soft.fused.scores(pairs)
            )
        return {
            name: (1 - self.share) * loss + self.share * self._soft_pair_loss(self._task(name), pairs, scores, teacher)
            for name, loss in gold.items()
        }

    def _soft_pair_loss(
        self, task: TaskSpec, pairs: PairBatch, scores: dict[str, Tensor], teachers: dict[str, Tensor]
    ) -> Tensor:
        """Match the teacher on targets and negatives: values by squared error, orders by listwise KL."""
        score, teacher = scores[task.name], teachers[task.name]
        exists = ~torch.isnan(pairs.labels[task.name])
        real = torch.cat([exists, pairs.allowed > 0], dim=1)
        scale, processes = self.scales[task.name], losses.processes()
        if task.kind is Kind.REGRESSION:
            return losses.regression_loss(
                score, torch.where(real, teacher, torch.nan), scale.deviation, float(real.sum()) * processes
            )
        width = exists.shape[1]
        explicit = torch.where(exists, torch.sigmoid(teacher[:, :width]), torch.nan)
        rate = min(max(scale.mean, 0.05), 0.95)
        value = losses.binary_loss(score[:, :width], explicit, rate, float(exists.sum()) * processes)
        if not task.negatives:
            return value
        minus = torch.where(real, 0.0, -1e4)
        target = F.log_softmax(order_of(task.name, teachers) + minus, dim=1)
        own = F.log_softmax(order_of(task.name, scores) + minus, dim=1)
        kl = F.kl_div(own, target, log_target=True, reduction="sum")
        return 0.5 * (value + kl / max(len(score) * processes, 1))


def new_student(recipe: Recipe, teacher: MultiTaskModel, token_ids: Sequence[int]) -> MultiTaskModel:
    """Start a student: chosen layers and trimmed, factorised words; user encoder and heads copied from the teacher.

    `token_ids` gives, for each token of the trimmed vocabulary, its id in the vocabulary of the encoder it starts from.
    """
    bert: PreTrainedModel = teacher.text.backbone
    if recipe.student.encoder:
        bert = load_backbone(recipe.student.encoder)
    depth = bert.config.num_hidden_layers
    kept = min(recipe.student.layers, depth)
    layers = sorted({round(i) for i in np.linspace(0, depth - 1, kept)}) if kept > 1 else [depth - 1]
    hidden = bert.config.hidden_size
    size = recipe.student.embedding_size
    backbone = compact_from_bert(
        bert,
        layers,
        token_ids=token_ids,
        embedding_size=size if 0 < size < hidden else hidden,
        positions=recipe.model.max_tokens,
        dropout=recipe.student.dropout,
    )
    shape = replace(teacher.shape, dropout=recipe.student.dropout)
    student = MultiTaskModel(backbone, hidden, shape, teacher.tasks)
    copied = {k: v for k, v in teacher.state_dict().items() if not k.startswith("text.backbone.")}
    if hidden != teacher.hidden_size:
        sized = student.state_dict()
        copied = {k: v for k, v in copied.items() if v.shape == sized[k].shape}
    student.load_state_dict(copied, strict=False)
    return student


def student_learner(
    recipe: Recipe, student: MultiTaskModel, arrays: Arrays, tokens: Tokens, soft: SoftTargets
) -> StudentLearner:
    """Return the learner both phases and the healing after pruning use."""
    weights = {**task_weights(recipe, arrays), VECTOR: recipe.distill.vector_weight}
    return StudentLearner(student, TaskWeighting(weights, "static"), arrays, tokens, soft, recipe)


def student_batches(
    recipe: Recipe,
    learner: StudentLearner,
    arrays: Arrays,
    collaboration: Collaboration,
    settings: Training,
    *,
    with_pairs: bool,
    round_number: int = 0,
) -> BatchSource:
    """Return what a student learns from in one phase: every readable text, and pairs too where asked for."""
    return BatchSource(
        arrays,
        learner.tokens,
        collaboration,
        settings,
        recipe.model.max_history,
        recipe.seed + round_number,
        with_pairs,
        every_text=True,
    )


def distill(
    recipe: Recipe,
    learner: StudentLearner,
    arrays: Arrays,
    collaboration: Collaboration,
    *,
    folder: Path,
    validate: Validate,
    device: Device,
    progress: bool,
) -> dict[str, float]:
    """Train the student: all texts first, then texts and pairs; return the validation metrics of the second phase."""
    settings = recipe.distill
    texts = student_batches(recipe, learner, arrays, collaboration, settings.represent, with_pairs=False)
    fit(
        learner,
        texts,
        settings.represent,
        folder=folder / "represent",
        device=device,
        label="represent",
        progress=progress,
    )
    both = student_batches(recipe, learner, arrays, collaboration, settings.tasks, with_pairs=True)
    return fit(
        learner,
        both,
        settings.tasks,
        folder=folder / "tasks",
        validate=validate,
        device=device,
        label="tasks",
        progress=progress,
    )
