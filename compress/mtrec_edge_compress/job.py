"""One run of the pipeline: what is compressed, with which settings, into what, and how far it has come.

The stages share it. It tokenizes the dataset once for each vocabulary and judges models by the dataset's own metrics.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from mtrec_edge_compress.collaboration import Collaboration, load_collaboration
from mtrec_edge_compress.data.arrays import Arrays, FloatArray
from mtrec_edge_compress.data.schema import Fold
from mtrec_edge_compress.encoding import Encoded, encode_all, model_dtype
from mtrec_edge_compress.evaluate import Evaluation, evaluate
from mtrec_edge_compress.ledger import Row, StageRecord
from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_compress.recipe import Recipe
from mtrec_edge_compress.scorer import RankFunction, VectorScorer, torch_ranker
from mtrec_edge_compress.tokens import Tokens, open_tokenizer, tokenize
from mtrec_edge_compress.training import Device, Validate, open_device
from mtrec_edge_runtime.tokenizer import WordPiece

COLLABORATION = "collaborate/collaboration.npz"  # under `work`


@dataclass(frozen=True)
class Job:
    """One run: what is compressed, with which settings, into what."""

    recipe: Recipe
    arrays: Arrays
    encoder: str  # hub id or folder
    teacher: Path | None  # a trained teacher's checkpoint, instead of training one
    work: Path
    out: Path
    device: Device
    progress: bool
    more_teachers: tuple[Path, ...] = ()  # checkpoints whose word is joined to the first teacher's
    records: dict[str, StageRecord] = field(default_factory=dict)  # of the stages that are done, in order

    @cached_property
    def teacher_tokens(self) -> Tokens:
        """Return the texts under the teacher's vocabulary."""
        return tokenize(self.arrays, open_tokenizer(self.encoder), self.recipe.model.max_tokens)

    @cached_property
    def student_tokens(self) -> Tokens:
        """Return the texts under the trimmed vocabulary."""
        return tokenize(self.arrays, WordPiece.load(self.work / "distill/vocab.txt"), self.recipe.model.max_tokens)

    @cached_property
    def collaboration(self) -> Collaboration:
        """Return what users did together, as `collaborate` left it."""
        return load_collaboration(self.work / COLLABORATION)

    @property
    def place(self) -> torch.device:
        """Return the device in use."""
        return open_device(self.device)

    @property
    def rows(self) -> list[Row]:
        """Return the ledger's rows so far."""
        return [row for record in self.records.values() for row in record.rows]

    def scorer(self, encoded: Encoded, rank: RankFunction, *, catalogue: FloatArray | None = None) -> VectorScorer:
        """Return what is judged; `catalogue` holds item vectors that stand in for the encoder's own."""
        return VectorScorer(
            self.arrays, encoded, rank, self.recipe.model.max_history, self.collaboration.whole, catalogue
        )

    def judge(
        self, encoded: Encoded, rank: RankFunction, *, catalogue: FloatArray | None = None, intervals: bool = False
    ) -> Evaluation:
        """Measure on the TEST fold."""
        return evaluate(
            self.scorer(encoded, rank, catalogue=catalogue),
            self.arrays,
            fold=Fold.TEST,
            users_per_domain=self.recipe.evaluation.users_per_domain or None,
            seed=self.recipe.seed,
            intervals=intervals,
        )

    def validator(self, tokens: Tokens, precision: str) -> Validate:
        """Return the function that judges a model on the VALIDATION fold after an epoch."""

        def validate(model: MultiTaskModel) -> dict[str, float]:
            encoded = encode_all(
                model,
                tokens,
                device=self.place,
                dtype=model_dtype(self.place, precision),
                label="validating",
                progress=self.progress,
            )
            scorer = self.scorer(encoded, torch_ranker(model))
            users = self.recipe.evaluation.validation_users or None
            found = evaluate(scorer, self.arrays, fold=Fold.VALIDATION, users_per_domain=users, seed=self.recipe.seed)
            return _headlines(self.arrays, found)

        return validate


def _headlines(arrays: Arrays, found: Evaluation) -> dict[str, float]:
    """Return each task's headline metric and their mean as `score`; an error counts as 1 - error / chance error."""
    values: dict[str, float] = {}
    gains = []
    for task in arrays.tasks:
        value = found.tasks[task.name].get(task.headline)
        if value is not None:
            values[f"{task.name} {task.headline}"] = value
            chance = found.chance[task.name].get(task.headline, 0.0)
            gains.append(1 - value / chance if task.headline == "rmse" else value - chance)
    return {**values, "score": float(np.mean(gains)) if gains else 0.0}
