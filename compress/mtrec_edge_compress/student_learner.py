"""What a student learns from a batch: the teacher's item vectors, and its outputs beside the labels.

The student's vectors are trained to lie in the teacher's space: wherever a step does not encode a text itself, it reads
the teacher's vector, so the ranker works on either and a catalogue may hold the teacher's. A share of the windows may
be read in the student's own vectors instead: what the ranker meets where texts are new.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtrec_edge_compress import losses
from mtrec_edge_compress.batches import Batch, PairBatch, TextBucket
from mtrec_edge_compress.compact import CompactBert
from mtrec_edge_compress.data.arrays import Arrays
from mtrec_edge_compress.data.schema import TaskSpec
from mtrec_edge_compress.encoding import encode_pooled
from mtrec_edge_compress.learner import CROSS, Learner, rank_pairs
from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_compress.pair_learner import order_of
from mtrec_edge_compress.recipe import Recipe
from mtrec_edge_compress.representation import Representation
from mtrec_edge_compress.soft_targets import SoftTargets
from mtrec_edge_compress.teacher import task_weights
from mtrec_edge_compress.tokens import Tokens
from mtrec_edge_compress.unread import read_texts, unread_items
from mtrec_edge_compress.weighting import TaskWeighting
from mtrec_edge_runtime.errors import StageError
from mtrec_edge_runtime.tasks import Kind

VECTOR, RELATION, HIDDEN = "vector", "relation", "hidden"  # names of the matching losses among the tasks' losses


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
        self.inside: Representation | None = None  # looks inside the teacher, in the first phase
        self.soft_weight, self.annealed = recipe.distill.soft_weight, recipe.distill.annealed
        self.share, self.temperature = self.soft_weight, recipe.distill.temperature
        self.own_windows = recipe.distill.own_windows
        self.items = tokens.first(len(arrays.item_ids))  # what pairs are made of
        self._dtype = torch.float32  # what own vectors are made with
        self.read = nn.Buffer(torch.zeros(len(tokens.ids), dtype=torch.bool), persistent=False)  # texts learned from
        self.read[torch.from_numpy(read_texts(arrays, unread_items(arrays, recipe)))] = True

    @property
    def soft(self) -> SoftTargets:
        """Return the teacher's outputs."""
        return self._soft[0]

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted total and each loss; with pairs, the teacher's share is annealed towards gold."""
        annealed = self.annealed * self.done if batch.pairs is not None else 0.0
        self.share = self.soft_weight * (1 - annealed)
        return super().forward(batch)

    def refresh(self, device: torch.device, dtype: torch.dtype) -> None:
        """Forget the own states: they are made again when pairs ask for them. The teacher's vectors stand still."""
        self.cache, self._dtype = None, dtype

    def cached_vectors(self, rows: Tensor) -> Tensor:
        """Return the teacher's vectors (rows, D)."""
        return self.soft.vectors[rows]

    def own_vectors(self, rows: Tensor) -> Tensor:
        """Return the student's vectors (rows, D) of items as the pass began; the projection is differentiated.

        Not those of texts that a student must not read, which are shown to the ranker alone.
        """
        if self.cache is None:
            self.cache = encode_pooled(self.model, self.items, rows.device, self._dtype)
        vectors = super().cached_vectors(rows)
        return torch.where(self.read[rows].unsqueeze(1), vectors, vectors.detach())

    def pair_scores(self, pairs: PairBatch, vectors: Tensor) -> dict[str, Tensor]:
        """Return the domain's scores (users, targets + negatives); in training some windows are read in own vectors.

        Every process makes them together, so whoever asks alone, as `prune` does for importances, is in evaluation.
        """
        if not (self.own_windows and self.training):
            return super().pair_scores(pairs, vectors)
        both = torch.cat([vectors, self.own_vectors(pairs.rows)])
        return super().pair_scores(read_as_own(pairs, self.own_windows), both)

    def text_losses(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Add the vector-matching loss over every fresh text."""
        found, fresh = super().text_losses(batch)
        rows = batch.rows
        found[VECTOR] = losses.cosine_loss(fresh, self.soft.vectors[rows], len(rows) * losses.processes())
        return found, fresh

    def state_losses(self, batch: Batch, bucket: TextBucket, states: Tensor) -> dict[str, Tensor]:
        """Return the losses that look inside the teacher, where they are asked for."""
        if self.inside is None:
            return {}
        share = len(bucket.rows) / (len(batch.rows) * losses.processes())
        relation, hidden = self.inside(bucket, states)
        return {RELATION: relation * share, HIDDEN: hidden * share}

    def word_losses(self, batch: Batch, bucket: TextBucket, words: Tensor) -> dict[str, Tensor]:
        """Return the token losses: gold where a label exists, soft on every word of the task's texts."""
        found = {name: (1 - self.share) * loss for name, loss in super().word_losses(batch, bucket, words).items()}
        for task, head in zip(self.model.text_tasks, self.model.text_heads, strict=True):
            mine = self.soft.asked[task.name][bucket.word_row]
            if task.kind is not Kind.TOKEN or not mine.any():
                continue
            row, number = bucket.word_row[mine], bucket.word_number[mine]
            teacher = self.soft.words[task.name][self.soft.word_start[row] + number]
            asked = sum(float(self.soft.asked[task.name][part.word_row].sum()) for part in batch.buckets)
            soft = losses.soft_class_loss(
                head(words[mine]), teacher, self.temperature, self.scales[task.name].entropy, asked * losses.processes()
            )
            found[task.name] = found.get(task.name, soft.new_zeros(())) + self.share * soft
        return found

    def class_losses(self, batch: Batch, rows: Tensor, fresh: Tensor) -> dict[str, Tensor]:
        """Return the multiclass losses: gold where a label exists, soft on every text of the task's domain."""
        found = {name: (1 - self.share) * loss for name, loss in super().class_losses(batch, rows, fresh).items()}
        scaled = fresh * self.model.vector_size**0.5
        for task, head in zip(self.model.text_tasks, self.model.text_heads, strict=True):
            if task.kind is not Kind.MULTICLASS:
                continue
            place = torch.nonzero(self.soft.asked[task.name][rows]).flatten()
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


def read_as_own(pairs: PairBatch, share: float) -> PairBatch:
    """Return the pairs with a share of their windows pointing behind the distinct rows, where own vectors stand.

    In half of that share all texts are the student's, as on a device that ships its vectors; in the other the
    candidates alone, as new items beside known ones.
    """
    distinct, place = len(pairs.rows), pairs.place.unsqueeze(1)
    new, whole = place < share, place < share / 2
    return replace(pairs, history=pairs.history + distinct * whole, candidates=pairs.candidates + distinct * new)


def student_learner(
    recipe: Recipe, student: MultiTaskModel, arrays: Arrays, tokens: Tokens, soft: SoftTargets
) -> StudentLearner:
    """Return the learner both phases and the healing after pruning use."""
    own, settings = task_weights(recipe, arrays), recipe.distill
    weights = {
        **own,
        VECTOR: settings.vector_weight,
        RELATION: settings.relation_weight,
        HIDDEN: settings.hidden_weight,
        CROSS: recipe.cross_encoder.share,
    }
    return StudentLearner(student, TaskWeighting(weights, "static"), arrays, tokens, soft, recipe)


def compact_backbone(learner: StudentLearner) -> CompactBert:
    """Return the student's backbone.

    Raises:
        StageError: the model is no student.
    """
    backbone = learner.model.text.backbone
    if not isinstance(backbone, CompactBert):
        raise StageError(f"a student is a CompactBert, not {type(backbone).__name__}; distill first")
    return backbone
