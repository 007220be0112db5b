"""A tiny dataset as arrays and tokens, tiny models, learners and settings: what the tests of training share."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from tiny_models import dataset
from transformers import BertConfig, BertModel

from mtrec_edge_compress.batches import BatchSource
from mtrec_edge_compress.collaboration import Collaboration, fit_collaboration
from mtrec_edge_compress.data.arrays import Arrays, build_arrays
from mtrec_edge_compress.data.synthetic import make_world
from mtrec_edge_compress.encoding import encode_all
from mtrec_edge_compress.learner import ALIGNMENT, Learner
from mtrec_edge_compress.model import ModelShape, MultiTaskModel
from mtrec_edge_compress.pair_learner import centre_outputs
from mtrec_edge_compress.recipe import Collaborate, Distill, Model, Prune, Recipe, Student
from mtrec_edge_compress.soft_targets import soft_targets
from mtrec_edge_compress.start import new_student
from mtrec_edge_compress.student_learner import StudentLearner, student_learner
from mtrec_edge_compress.tokens import Tokens, tokenize
from mtrec_edge_compress.training_settings import Training
from mtrec_edge_compress.vocabulary import word_vocabulary
from mtrec_edge_compress.weighting import TaskWeighting
from mtrec_edge_runtime.neighbours import no_neighbours
from mtrec_edge_runtime.tokenizer import WordPiece

MAX_TOKENS = 16
CPU = torch.device("cpu")
ENDS = (2, 3)  # [CLS] and [SEP] in every `word_vocabulary`
# fp32 everywhere: the tests compare numbers
SETTINGS = Training(
    epochs=2,
    users=4,
    targets=4,
    negatives=6,
    texts=8,
    learning_rate=1e-3,
    prior_dropout=0.0,
    link_dropout=0.0,
    history_dropout=0.0,
    precision="fp32",
    save_minutes=60.0,
)
COLLABORATE = Collaborate(links=4, parts=2, penalties=(20.0,), tuning_users=50)
RECIPE = Recipe(
    model=Model(vector_size=16, max_tokens=MAX_TOKENS, max_history=8, task_hidden=4, dropout=0.0),
    student=Student(layers=2, embedding_size=16, vocabulary=500, dropout=0.0),
    distill=Distill(represent=SETTINGS, tasks=SETTINGS),
    prune=Prune(
        heads=0.5,
        units=0.5,
        rounds=2,
        importance_steps=2,
        heal=replace(SETTINGS, epochs=1),
        tasks=replace(SETTINGS, epochs=1),
    ),
)


@cache
def tiny_arrays() -> Arrays:
    """Twelve users, thirty movies, two labelled queries."""
    return build_arrays(dataset())


@cache
def world_arrays() -> Arrays:
    """A small synthetic world, with strict cold items."""
    arrays = build_arrays(make_world(1, users=60, items=50, queries=40)[0])
    assert arrays.cold.any()
    return arrays


def without_collaboration(arrays: Arrays, parts: int = 1) -> Collaboration:
    """Return a Collaboration without a single link."""
    nothing = no_neighbours(len(arrays.item_ids))
    return Collaboration(nothing, (nothing,) * parts, np.zeros(len(arrays.user_ids), np.int64))


@cache
def world_collaboration() -> Collaboration:
    """What the world's users did together."""
    return fit_collaboration(world_arrays(), COLLABORATE, seed=0)[0]


def collaboration_for(arrays: Arrays) -> Collaboration:
    """The world's own; of any other dataset none."""
    return world_collaboration() if arrays is world_arrays() else without_collaboration(arrays)


def vocabulary_for(arrays: Arrays) -> list[str]:
    """Every word of the dataset's texts, and single characters."""
    return word_vocabulary([*arrays.item_texts, *arrays.texts], 3000)


def tokens_for(arrays: Arrays) -> Tokens:
    """The dataset's texts as ids."""
    return tokenize(arrays, WordPiece(vocabulary_for(arrays)), MAX_TOKENS)


def tiny_teacher(arrays: Arrays, *, dropout: float = 0.0) -> MultiTaskModel:
    """Two random BERT layers."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary_for(arrays)),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=MAX_TOKENS,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    shape = ModelShape(16, 8, len(arrays.behaviours), 2, 4, dropout)
    return MultiTaskModel(BertModel(config, add_pooling_layer=False), 32, shape, arrays.tasks)


def tiny_learner(arrays: Arrays, *, dropout: float = 0.0, weighting: Any = "static") -> Learner:
    """A learner over `tiny_teacher`."""
    weights = {**{task.name: task.weight for task in arrays.tasks}, ALIGNMENT: 1.0}
    model = tiny_teacher(arrays, dropout=dropout)
    learner = Learner(model, TaskWeighting(weights, weighting), arrays, tokens_for(arrays))
    centre_outputs(learner)
    return learner


def tiny_student_learner(arrays: Arrays, recipe: Recipe = RECIPE) -> StudentLearner:
    """A student of `tiny_teacher`, over the same vocabulary."""
    teacher, tokens = tiny_teacher(arrays).eval(), tokens_for(arrays)
    soft = soft_targets(teacher, tokens, encode_all(teacher, tokens, device=CPU), arrays, CPU)
    student = new_student(recipe, teacher, range(len(vocabulary_for(arrays))), ends=ENDS)
    return student_learner(recipe, student, arrays, tokens, soft)


def source_for(learner: Learner, arrays: Arrays, settings: Training = SETTINGS, **changes: Any) -> BatchSource:
    """The learner's batches."""
    longest = learner.model.max_history
    return BatchSource(arrays, learner.tokens, collaboration_for(arrays), settings, longest, seed=7, **changes)
