"""Random tiny models and a tiny dataset for the tests of export, quantize, verify and bundle."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import nn
from transformers import BertConfig, BertModel

from mtrec_edge_compress.compact import CompactBert, CompactShape
from mtrec_edge_compress.data.schema import EVENT_COLUMNS, ITEM_COLUMNS, TEXT_COLUMNS, Dataset, TaskSpec
from mtrec_edge_compress.data.tables import conform
from mtrec_edge_compress.model import ModelShape, MultiTaskModel
from mtrec_edge_runtime.tasks import Kind

VOCABULARY = 300
MAX_TOKENS = 40
TASKS = (
    TaskSpec("movies.rating", Kind.REGRESSION, "events", behaviours=("rate",), low=0.5, high=5.0),
    TaskSpec("movies.like", Kind.BINARY, "events", behaviours=("rate",), positive_at=4.0, negatives=True),
    TaskSpec("movies.genre", Kind.MULTICLASS, "items", column="genre", labels=("drama", "comedy", "horror")),
    TaskSpec("products.tags", Kind.TOKEN, "texts", column="tags", labels=("O", "B-brand", "I-brand")),
)
SHAPE = ModelShape(vector_size=16, max_history=8, behaviours=2, task_hidden=4)


def student_model(*, vocabulary: int = VOCABULARY, seed: int = 0, hidden: int = 32) -> MultiTaskModel:
    """A CompactBert after pruning: factorised words, layers of unequal shape."""
    torch.manual_seed(seed)
    layers = ((2, 64), (1, 48))
    backbone = CompactBert(CompactShape(vocabulary, 16, hidden, 16, MAX_TOKENS, layers))
    nn.init.normal_(backbone.embeddings.position, std=0.3)
    return MultiTaskModel(backbone, hidden, SHAPE, TASKS).eval()


def with_tasks(tasks: tuple[TaskSpec, ...], *, window: int = 1) -> MultiTaskModel:
    """The student with other tasks, or with token heads that read a window of states."""
    whole = student_model()
    return MultiTaskModel(whole.text.backbone, 32, replace(SHAPE, token_window=window), tasks).eval()


def bert_model() -> MultiTaskModel:
    """A transformers BertModel with one head pruned."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=MAX_TOKENS,
    )
    backbone = BertModel(config, add_pooling_layer=False)
    backbone.encoder.layer[0].attention.prune_heads({1})
    return MultiTaskModel(backbone, 32, SHAPE, TASKS).eval()


def dataset(*, users: int = 12, movies: int = 30) -> Dataset:
    """Two domains; every user rates ten movies (8 train, 1 validation, 1 test), some view products."""
    rng = np.random.default_rng(0)
    titles = [f"movie number {number}" for number in range(movies)]
    genres = [TASKS[2].labels[number % 3] for number in range(movies)]
    items = pl.DataFrame(
        {
            "item_id": [f"m{number}" for number in range(movies)] + [f"p{number}" for number in range(6)],
            "domain": ["movies"] * movies + ["products"] * 6,
            "title": titles + [f"product {number}" for number in range(6)],
            "genre": genres + [None] * 6,
            "fold": [number % 10 // 8 for number in range(movies + 6)],
        }
    ).with_columns(pl.lit("").alias("description"), pl.lit([], pl.List(pl.String)).alias("tags"), cold=pl.lit(False))
    rows = [
        (f"u{user:02}", f"m{item}", "movies", "rate", float(rng.integers(1, 11)) / 2, time, max(0, time - 7))
        for user in range(users)
        for time, item in enumerate(rng.permutation(movies)[:10])
    ]
    rows += [(f"u{user:02}", "p1", "products", "view", None, 20, 0) for user in range(0, users, 3)]
    names = ["user_id", "item_id", "domain", "behaviour", "value", "timestamp", "fold"]
    events = pl.DataFrame(rows, schema=names, orient="row").sort("user_id", "timestamp")
    texts = pl.DataFrame(
        {
            "text_id": ["q1", "q2"],
            "domain": ["products", "products"],
            "text": ["red shoes", "blue hat"],
            "tokens": [["red", "shoes"], ["blue", "hat"]],
            "tags": [["O", "B-brand"], ["B-brand", "O"]],
            "fold": [0, 2],
        }
    )
    frames = (
        conform(items, ITEM_COLUMNS, labels=["genre"]),
        conform(events, EVENT_COLUMNS),
        conform(texts, TEXT_COLUMNS, labels=["tags"]),
    )
    made = Dataset("tiny", *frames, TASKS, split_hash="0" * 16, licence="none: invented")
    made.check()
    return made


def id_rows(count: int = 20, seed: int = 0) -> list[npt.NDArray[np.int64]]:
    """Return random token ids of `count` texts."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, VOCABULARY, length) for length in rng.integers(3, 30, count)]
