"""One run of the pipeline: what is compressed, with which settings, into what, and how far it has come.

The stages share it. It tokenizes the dataset once for each vocabulary and judges models by the dataset's own metrics.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from mtrec_edge_compress.collaboration import Collaboration, load_collaboration
from mtrec_edge_compress.data.arrays import Arrays, FloatArray, IntArray
from mtrec_edge_compress.data.schema import Fold
from mtrec_edge_compress.device import Device, open_device
from mtrec_edge_compress.encoding import Encoded, encode_all, model_dtype
from mtrec_edge_compress.evaluate import ERRORS, Evaluation, evaluate
from mtrec_edge_compress.extra_texts import ExtraText, load_extra
from mtrec_edge_compress.latency import read_latencies
from mtrec_edge_compress.ledger import Row, Stage, StageRecord
from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_compress.recipe import Recipe
from mtrec_edge_compress.scorer import RankFunction, VectorScorer, torch_ranker
from mtrec_edge_compress.text_labels import TextLabels
from mtrec_edge_compress.tokens import Tokenizer, Tokens, open_tokenizer, tokenize, tokenize_texts
from mtrec_edge_compress.training import Validate
from mtrec_edge_compress.undo import why_undo
from mtrec_edge_compress.unread import unread_items
from mtrec_edge_runtime.tokenizer import WordPiece

COLLABORATION = "collaborate/collaboration.npz"  # under the work folder that tiers share
EXTRA_TEXTS = "texts.jsonl"  # in the folder of `augment`
PRUNING_LATENCY = "latency.json"  # in the folder of `prune`
MADE_IN: dict[Stage, str] = {"student": "distill", "pruned": "prune", "healed": "heal_int8"}  # row -> pipeline stage
CALIBRATION_TEXTS = 1024  # that show what activations are like
OF_THE_TEACHER = ("collaborate", "teacher", "augment", "cross_encoder")  # stages whose folders tiers share


@dataclass(frozen=True)
class Job:
    """One run: what is compressed, with which settings, into what."""

    recipe: Recipe
    arrays: Arrays
    encoder: str  # hub id or folder
    teachers: tuple[Path, ...]  # checkpoints, instead of training one: the first, and those that join its word
    work: Path
    out: Path
    device: Device
    progress: bool
    records: dict[str, StageRecord] = field(default_factory=dict)  # of the stages that are done, in order
    shared: Path | None = None  # work folder of the teacher, when this is one of several tiers; else `work`
    compared: bool = False  # measure BERT-base beside the student, whether or not the budget asks for it

    @cached_property
    def teacher_tokens(self) -> Tokens:
        """Return the texts under the teacher's vocabulary."""
        return tokenize(self.arrays, open_tokenizer(self.encoder), self.recipe.model.max_tokens)

    @cached_property
    def student_tokens(self) -> Tokens:
        """Return the texts under the trimmed vocabulary."""
        return tokenize(self.arrays, self.student_tokenizer, self.recipe.model.max_tokens)

    @property
    def student_tokenizer(self) -> WordPiece:
        """Return the tokenizer of the trimmed vocabulary."""
        return WordPiece.load(self.folder("distill") / "vocab.txt")

    def calibration_texts(self) -> list[IntArray]:
        """Return token ids of readable texts, drawn at random, that show what a student's activations are like."""
        readable = TextLabels(self.arrays).pool(every_text=True)
        chosen = np.random.default_rng(self.recipe.seed).permutation(readable)[:CALIBRATION_TEXTS]
        return [self.student_tokens.ids[row] for row in chosen]

    @cached_property
    def unread(self) -> IntArray:
        """Return the items that stand for new ones, (rows,)."""
        return unread_items(self.arrays, self.recipe)

    @cached_property
    def extra_texts(self) -> tuple[ExtraText, ...]:
        """Return the texts beyond the corpus, as `augment_texts` left them."""
        return load_extra(self.folder("augment") / EXTRA_TEXTS)

    def tokens_of_extra(self, tokenizer: Tokenizer) -> Tokens:
        """Return the texts beyond the corpus as ids."""
        texts = ((extra.text, extra.words) for extra in self.extra_texts)
        return tokenize_texts(texts, tokenizer, self.recipe.model.max_tokens)

    @cached_property
    def collaboration(self) -> Collaboration:
        """Return what users did together, as `collaborate` left it."""
        return load_collaboration(self.shared_work / COLLABORATION)

    @property
    def shared_work(self) -> Path:
        """Return the work folder that tiers share; of a run that is no tier, its own."""
        return self.shared or self.work

    def folder(self, stage: str) -> Path:
        """Return the folder of a stage."""
        return (self.shared_work if stage in OF_THE_TEACHER else self.work) / stage

    @property
    def prune_undone(self) -> str:
        """Return why the student is shipped as it was before pruning; "" when pruning pays."""
        latencies = read_latencies(self.folder("prune") / PRUNING_LATENCY)
        p50 = {stage: next(iter(times.values()))["p50"] for stage, times in latencies.items()}
        return why_undo({row.stage: row for row in self.rows}, self.arrays.tasks, self.recipe.budget, p50)

    @property
    def shipped(self) -> Stage:
        """Return the stage whose model is exported."""
        if any(row.stage == "healed" for row in self.rows):  # it has a row where it is kept
            return "healed"
        return "student" if self.prune_undone else "pruned"

    @property
    def student(self) -> Path:
        """Return the checkpoint of the model that is exported."""
        return self.folder(MADE_IN[self.shipped]) / "model"

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
        self,
        encoded: Encoded,
        rank: RankFunction,
        *,
        catalogue: FloatArray | None = None,
        fold: Fold = Fold.TEST,
        drawn: bool = False,
    ) -> Evaluation:
        """Measure on one fold."""
        return evaluate(
            self.scorer(encoded, rank, catalogue=catalogue),
            self.arrays,
            fold=fold,
            users_per_domain=self.recipe.evaluation.users_per_domain or None,
            seed=self.recipe.seed,
            drawn=drawn,
        )

    def validator(self, tokens: Tokens, precision: str) -> Validate:
        """Return the function that judges a model on the VALIDATION fold after an epoch."""

        def validate(model: MultiTaskModel, pooled: torch.Tensor | None) -> dict[str, float]:
            encoded = encode_all(
                model,
                tokens,
                device=self.place,
                dtype=model_dtype(self.place, precision),
                pooled=pooled,
                label="validating",
                progress=self.progress,
            )
            scorer = self.scorer(encoded, torch_ranker(model))
            users = self.recipe.evaluation.validation_users or None
            found = evaluate(scorer, self.arrays, fold=Fold.VALIDATION, users_per_domain=users, seed=self.recipe.seed)
            return _headlines(self.arrays, found)

        return validate


def _headlines(arrays: Arrays, found: Evaluation) -> dict[str, float]:
    """Return each task's headline metric and their mean as `score`; an error counts as 1 - error / chance error.

    The score is nan where the fold says nothing of any task: no epoch is better than another then.
    """
    values: dict[str, float] = {}
    gains = []
    for task in arrays.tasks:
        value = found.tasks[task.name].get(task.headline)
        if value is not None:
            values[f"{task.name} {task.headline}"] = value
            chance = found.chance[task.name].get(task.headline, 0.0)
            if task.headline not in ERRORS:
                gains.append(value - chance)
            elif chance:  # 0: the fold's amounts are all the same, and the training mean is right
                gains.append(1 - value / chance)
    return {**values, "score": float(np.mean(gains)) if gains else float("nan")}
