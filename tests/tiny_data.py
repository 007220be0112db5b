"""A dataset small enough to check by eye: four films, two users, two queries."""

from typing import Any

import polars as pl

from mtrec_edge_compress.data.schema import EVENT_COLUMNS, ITEM_COLUMNS, TEXT_COLUMNS, Dataset, TaskSpec
from mtrec_edge_compress.data.tables import conform, empty
from mtrec_edge_runtime.tasks import Kind

RATING = TaskSpec("films.rating", Kind.REGRESSION, "events", behaviours=("rate",), low=1.0, high=5.0)
LIKE = TaskSpec("films.like", Kind.BINARY, "events", behaviours=("rate",), positive_at=4.0, negatives=True)
GENRE = TaskSpec("films.genre", Kind.MULTICLASS, "items", column="genre", labels=("drama", "comedy"))
TAGS = TaskSpec("queries.tags", Kind.TOKEN, "texts", column="tags", labels=("O", "B-color"))
ALL_TASKS = (RATING, LIKE, GENRE, TAGS)

ITEM = {"item_id": "a", "domain": "films", "title": "Alien", "description": "", "tags": [], "fold": 0, "cold": False}
EVENT = {
    "user_id": "u",
    "item_id": "a",
    "domain": "films",
    "behaviour": "rate",
    "value": 4.0,
    "timestamp": 1,
    "fold": 0,
}
TEXT = {"text_id": "q1", "domain": "queries", "text": "red mug", "tokens": ["red", "mug"], "fold": 0}


def items(*rows: dict[str, Any]) -> pl.DataFrame:
    """Return items like ITEM but for the given fields; `genre` is the label column."""
    return conform(pl.DataFrame([{**ITEM, "genre": None, **row} for row in rows]), ITEM_COLUMNS, labels=["genre"]).cast(
        {"genre": pl.String}
    )


def events(*rows: dict[str, Any]) -> pl.DataFrame:
    """Return events like EVENT but for the given fields."""
    return conform(pl.DataFrame([{**EVENT, **row} for row in rows], infer_schema_length=None), EVENT_COLUMNS)


def texts(*rows: dict[str, Any]) -> pl.DataFrame:
    """Return texts like TEXT but for the given fields; `tags` is the label column."""
    frame = pl.DataFrame([{**TEXT, "tags": ["B-color", "O"], **row} for row in rows])
    return conform(frame, TEXT_COLUMNS, labels=["tags"])


def tiny_dataset(**changes: Any) -> Dataset:
    """Return a split dataset that keeps the contract, with these fields changed."""
    return Dataset(
        **{
            "name": "tiny",
            "items": items(
                {"item_id": "a", "genre": "drama"},
                {"item_id": "b", "title": "Brazil", "genre": "comedy", "tags": ["satire"]},
                {"item_id": "c", "title": "Contact"},
                {"item_id": "d", "title": "Dune"},
            ),
            "events": events({}, {"item_id": "b", "value": 2.0, "timestamp": 2}, {"user_id": "v"}),
            "texts": texts({}, {"text_id": "q2", "text": "mug", "tokens": ["mug"], "tags": ["O"], "fold": 2}),
            "tasks": ALL_TASKS,
            "split_hash": "feed",
            "licence": "ours",
            "seed": 3,
            "notes": ('says "hi"',),
            **changes,
        }
    )


def no_texts() -> pl.DataFrame:
    """Return an empty table of texts."""
    return empty(TEXT_COLUMNS)
