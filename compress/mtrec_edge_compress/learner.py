"""One training step's arithmetic: encode the fresh texts, read the rest from the cache, score, add up the losses.

`Learner` learns from labels (the teacher); `distill.StudentLearner` adds a teacher's outputs. Knows nothing of
optimisers, epochs or files.
"""

import math
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor, nn

from mtrec_edge_compress import losses
from mtrec_edge_compress.batches import Batch, CompanyBatch, CrossBatch, PairBatch, TextBucket
from mtrec_edge_compress.checkpoint import load_model, save_model
from mtrec_edge_compress.data.arrays import Arrays
from mtrec_edge_compress.data.schema import TaskSpec
from mtrec_edge_compress.encoding import encode_pooled
from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_compress.pair_learner import PairLearner, order_of
from mtrec_edge_compress.tokens import Tokens
from mtrec_edge_compress.weighting import TaskWeighting
from mtrec_edge_runtime.tasks import ORDER, Kind

ALIGNMENT = "alignment"  # the name of that loss among the tasks' losses
CROSS = "cross"  # likewise, of the margins that a cross-encoder gave
ALIGNMENT_SHARPNESS = 6.0  # of the cosines; a low one keeps neighbours by words too, see docs/decisions.md


class Learner(PairLearner):
    """A model, the weighting of its tasks, and a cache of pooled text states. Learns from labels.

    A task of `detached` gives no gradient to the text encoder: it learns from item vectors that others have made.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        weighting: TaskWeighting,
        arrays: Arrays,
        tokens: Tokens,
        detached: Collection[str] = (),
    ) -> None:
        super().__init__(model, weighting, arrays)
        self.model: MultiTaskModel = model
        self.detached = frozenset(detached)
        self.tokens = tokens
        self._states: list[Tensor] = []  # where a weighting measures the step's gradients

    def refresh(self, device: torch.device, dtype: torch.dtype) -> None:
        """Fill the cache: one pass over every text without gradients."""
        self.cache = encode_pooled(self.model, self.tokens, device, dtype)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted total and each task's loss."""
        self._states = []
        found, fresh = self.text_losses(batch)
        if batch.pairs is not None:
            vectors = self.insert_fresh(self.cached_vectors(batch.pairs.rows), batch.pairs.rows, batch, fresh)
            scores = self.pair_scores(batch.pairs, vectors)
            found.update(self.pair_losses(batch.pairs, scores))
        if batch.company:
            found[ALIGNMENT] = self.alignment_loss(batch.company, fresh)
        if batch.cross is not None:
            found[CROSS] = self.cross_loss(batch.cross)
        return self.weighting(found, self._states), found

    def save(self, folder: Path) -> None:
        """Write the model as a checkpoint that `load_model` reads."""
        save_model(self.model, folder)

    def restore(self, folder: Path) -> None:
        """Take the weights that `save` wrote."""
        self.model.load_state_dict(load_model(folder).state_dict())

    def parameters_shared(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Return the parameters that several tasks learn, and those of the tasks' own heads."""
        trained = [(name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad]
        own = [parameter for name, parameter in trained if name.startswith(("heads.", "text_heads."))]
        shared = [parameter for name, parameter in trained if not name.startswith(("heads.", "text_heads."))]
        return shared, own

    @property
    def _watches(self) -> bool:
        return self.training and self.weighting.kind == "gradnorm"

    def _watched(self, pooled: Tensor) -> Tensor:
        """Return zeros (texts, hidden) to add to hidden states: their gradient is that of each text's states together.

        Every task passes there, a token task too, whether a text was encoded in the step or read from the cache.
        """
        self._states.append(torch.zeros_like(pooled, requires_grad=True))
        return self._states[-1]

    def alignment_loss(self, company: tuple[CompanyBatch, ...], fresh: Tensor) -> Tensor:
        """Return how far the vectors are from lying near those of items with the same users; `fresh` (texts, D)."""
        total = fresh.new_zeros(())
        with torch.autocast(fresh.device.type, enabled=False):
            for part in company:
                references = self.cached_vectors(part.references)
                queries = torch.cat([fresh[part.fresh], references[part.cached]])
                total = total + losses.alignment_loss(
                    queries, references, part.target, part.other, part.share, ALIGNMENT_SHARPNESS
                )
        return total

    def cross_loss(self, cross: CrossBatch) -> Tensor:
        """Return the mean over ranked tasks of the margins' error between positives and negatives of a window."""
        pairs, parts = cross.pairs, []
        scores = rank_pairs(self.model, pairs, self.cached_vectors(pairs.rows))
        for name, said in cross.scores.items():
            label = pairs.labels[name]
            own, teacher = (margins(score, label.shape[1]) for score in (order_of(name, scores), said))
            is_pair = (label == 1).unsqueeze(2) & (pairs.allowed > 0).unsqueeze(1) & ~torch.isnan(teacher)
            count = float(is_pair.sum()) * losses.processes()
            parts.append(losses.margin_loss(own, teacher, is_pair, cross.square[name], count))
        return torch.stack(parts).mean()

    def text_losses(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Return the text tasks' losses and the fresh vectors (texts, D)."""
        vectors, token_losses = [], dict[str, list[Tensor]]()
        looked_up = self.model.text.look_up([bucket.input_ids for bucket in batch.buckets]) if batch.buckets else []
        for bucket, looked in zip(batch.buckets, looked_up, strict=True):
            states, pooled = self.model.text(None, bucket.attention_mask, looked)
            if self._watches:
                shift = self._watched(pooled)
                states, pooled = states + shift.unsqueeze(1), pooled + shift
            with torch.autocast(pooled.device.type, enabled=False):
                vectors.append(self.model.text.vector(pooled.float()))
                words = self.model.around_words(states.float(), bucket.word_text, bucket.word_position)
                of_bucket = {**self.word_losses(batch, bucket, words), **self.state_losses(batch, bucket, states)}
            for name, loss in of_bucket.items():
                token_losses.setdefault(name, []).append(loss)
        if not vectors:  # a process without a share of the batch still reaches its parameters
            vectors.append(self.model.text.vector(self.model.center.new_zeros(0, self.model.hidden_size)))
            token_losses = self._of_no_words(batch)
        fresh = torch.cat(vectors)
        found = {name: torch.stack(parts).sum() for name, parts in token_losses.items()}
        with torch.autocast(fresh.device.type, enabled=False):
            found.update(self.class_losses(batch, batch.rows, fresh))
        return found, fresh

    def _of_no_words(self, batch: Batch) -> dict[str, list[Tensor]]:
        """Return the token losses of a process without a text of the batch: 0, through each head."""
        none = torch.zeros(0, dtype=torch.long, device=self.model.center.device)
        words = self.model.around_words(self.model.center.new_zeros(1, 1, self.model.hidden_size), none, none)
        return {
            task.name: [head(words).sum()]
            for task, head in zip(self.model.text_tasks, self.model.text_heads, strict=True)
            if task.kind is Kind.TOKEN and batch.text_counts.get(task.name)
        }

    def state_losses(self, batch: Batch, bucket: TextBucket, states: Tensor) -> dict[str, Tensor]:
        """Return losses on the states (texts, tokens, hidden) of one bucket themselves: none here."""
        return {}

    def word_losses(self, batch: Batch, bucket: TextBucket, words: Tensor) -> dict[str, Tensor]:
        """Return the token tasks' losses of one bucket; `words` is what heads read of first pieces."""
        found = {}
        for task, head in zip(self.model.text_tasks, self.model.text_heads, strict=True):
            if task.kind is Kind.TOKEN and (count := batch.text_counts.get(task.name)):
                logits, label = head(self._seen_by(task, words)), bucket.word_labels[task.name]
                found[task.name] = losses.class_loss(logits, label, self.scales[task.name].entropy, count)
        return found

    def class_losses(self, batch: Batch, rows: Tensor, fresh: Tensor) -> dict[str, Tensor]:
        """Return the multiclass tasks' losses; `rows` are the corpus rows of `fresh`."""
        found = {}
        for task, head in zip(self.model.text_tasks, self.model.text_heads, strict=True):
            if task.kind is Kind.MULTICLASS and batch.text_counts.get(task.name):
                place, label = batch.text_labels[task.name]
                logits = head(self._seen_by(task, fresh[place]) * math.sqrt(self.model.vector_size))
                found[task.name] = self.one_class_loss(task, logits, label, rows[place], batch.text_counts[task.name])
        return found

    def one_class_loss(self, task: TaskSpec, logits: Tensor, label: Tensor, row: Tensor, count: float) -> Tensor:
        """Return one multiclass task's loss against its labels."""
        scale = self.scales[task.name]
        weights = None if scale.weights is None else scale.weights.to(logits.device)
        return losses.class_loss(logits, label, scale.weighed_entropy, count, weights)

    def cached_vectors(self, rows: Tensor) -> Tensor:
        """Return item vectors (rows, D) from the cache; the projection is differentiated, the backbone is not."""
        assert self.cache is not None
        with torch.autocast(rows.device.type, enabled=False):
            pooled = self.cache[rows]
            return self.model.text.vector(pooled + self._watched(pooled) if self._watches else pooled)

    def insert_fresh(self, vectors: Tensor, rows: Tensor, batch: Batch, fresh: Tensor) -> Tensor:
        """Return `vectors` with the rows that were encoded in this step put in their place."""
        encoded = batch.rows
        if not len(encoded):
            return vectors
        place = torch.full((len(self.tokens.ids),), -1, device=rows.device)
        place[encoded] = torch.arange(len(encoded), device=rows.device)
        found = place[rows]
        return torch.where((found >= 0).unsqueeze(-1), fresh[found.clamp_min(0)], vectors)

    def pair_scores(self, pairs: PairBatch, vectors: Tensor) -> dict[str, Tensor]:
        """Return the domain's scores (users, targets + negatives)."""
        scores = rank_pairs(self.model, pairs, vectors)
        if self.detached.isdisjoint(pairs.labels):
            return scores
        apart = rank_pairs(self.model, pairs, vectors.detach())
        return {name: (apart if name.removesuffix(ORDER) in self.detached else scores)[name] for name in scores}

    def _seen_by(self, task: TaskSpec, states: Tensor) -> Tensor:
        return states.detach() if task.name in self.detached else states


def margins(score: Tensor, targets: int) -> Tensor:
    """Return each target's score less each negative's, (users, targets, negatives), of (users, targets + negatives)."""
    return score[:, :targets].unsqueeze(2) - score[:, targets:].unsqueeze(1)


def rank_pairs(model: MultiTaskModel, pairs: PairBatch, vectors: Tensor) -> dict[str, Tensor]:
    """Return a model's scores of the batch's domain (users, targets + negatives), in FP32; `vectors` (distinct, D)."""
    with torch.autocast(vectors.device.type, enabled=False):
        scores = model.rank(
            vectors[pairs.history],
            pairs.behaviour,
            pairs.value,
            pairs.age,
            pairs.history_mask,
            vectors[pairs.candidates],
            pairs.priors,
            pairs.affinity,
        )
    return {name: score for name, score in scores.items() if name.removesuffix(ORDER) in pairs.labels}
