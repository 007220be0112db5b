"""The data contract: what a dataset is, how it is read, written and checked.

A dataset is a folder with `items.parquet`, `events.parquet`, `texts.parquet` and `dataset.toml` (the tasks).
Knows nothing of models.
"""

import hashlib
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal

import polars as pl

from mtrec_edge_runtime.errors import DataError, InputError
from mtrec_edge_runtime.tasks import Kind, Task

FORMAT = 1

ITEM_COLUMNS: dict[str, Any] = {
    "item_id": pl.String,  # unique within its domain
    "domain": pl.String,
    "title": pl.String,
    "description": pl.String,  # "" when there is none
    "tags": pl.List(pl.String),  # [] when there are none
    "fold": pl.Int8,  # Fold; label columns of a validation or test item are never trained on
    "cold": pl.Boolean,  # test-fold item with >= 3 positives: none of its events is trained on
}
EVENT_COLUMNS: dict[str, Any] = {
    "user_id": pl.String,  # pseudonymous
    "item_id": pl.String,
    "domain": pl.String,
    "behaviour": pl.String,  # view, click, like, comment, share, purchase, rate, listen ...
    "value": pl.Float32,  # rating or amount; null when the behaviour has none
    "timestamp": pl.Int64,  # seconds; within a user rows are sorted by it; 0 when the source has none
    "fold": pl.Int8,
}
TEXT_COLUMNS: dict[str, Any] = {
    "text_id": pl.String,
    "domain": pl.String,
    "text": pl.String,
    "tokens": pl.List(pl.String),  # words the token labels belong to; [] for a text with one label
    "fold": pl.Int8,
}


class Fold(IntEnum):
    """The part of the split a row belongs to."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2


Source = Literal["events", "items", "texts"]
SOURCE_OF_KIND: dict[Kind, tuple[Source, ...]] = {
    Kind.REGRESSION: ("events",),
    Kind.BINARY: ("events",),
    Kind.MULTICLASS: ("items", "texts"),
    Kind.TOKEN: ("texts",),
}


@dataclass(frozen=True)
class TaskSpec:
    """One task as `dataset.toml` states it: where its label comes from and what it weighs.

    Label of an event for a task: events of another domain or behaviour have none (missing, costs nothing);
    regression takes `value`; binary is `value >= positive_at`, or 1 for every event when `positive_at` is absent.
    """

    name: str  # domain.signal
    kind: Kind
    source: Source
    column: str = ""  # items and texts: the label column
    behaviours: tuple[str, ...] = ()  # events: the behaviours that carry this label
    positive_at: float | None = None  # binary: least value that counts as positive
    negatives: bool = False  # binary: unobserved items serve as sampled negatives, and the task is ranked
    labels: tuple[str, ...] = ()  # multiclass, token
    low: float | None = None  # regression
    high: float | None = None
    weight: float = 1.0  # lambda: importance, losses being scaled alike
    metric: str = ""  # the headline metric; "" takes the kind's own

    def __post_init__(self) -> None:
        """Refuse a task whose parts contradict each other."""
        try:
            self.device_task()
        except InputError as error:
            raise DataError(f"dataset.toml: {error}") from error
        if self.source not in SOURCE_OF_KIND[self.kind]:
            allowed = " or ".join(SOURCE_OF_KIND[self.kind])
            raise DataError(f"task {self.name}: a {self.kind} task takes its label from {allowed}, not {self.source}")
        if self.source == "events" and not self.behaviours:
            raise DataError(f"task {self.name}: name the behaviours that carry its label, e.g. behaviours = ['rate']")
        if self.source != "events" and not self.column:
            raise DataError(f"task {self.name}: name the label column of {self.source}, e.g. column = 'category'")
        if self.kind is Kind.REGRESSION and (self.low is None or self.high is None or self.low >= self.high):
            raise DataError(f"task {self.name}: a regression task needs low < high, got {self.low} and {self.high}")
        if not self.weight >= 0:
            raise DataError(f"task {self.name}: weight {self.weight} must be >= 0")

    @property
    def domain(self) -> str:
        """The part of the name before the dot."""
        return self.name.split(".")[0]

    @property
    def headline(self) -> str:
        """The metric that stands for the task in tables."""
        if self.metric:
            return self.metric
        if self.kind is Kind.BINARY:
            return "ndcg@10" if self.negatives else "auc"
        return {Kind.REGRESSION: "rmse", Kind.MULTICLASS: "macro_f1", Kind.TOKEN: "span_f1"}[self.kind]

    def device_task(self) -> Task:
        """Return what the device needs to know of this task."""
        ranks = self.kind is Kind.BINARY and self.negatives
        return Task(self.name, self.kind, self.labels, self.low, self.high, ranks)


@dataclass(frozen=True)
class Dataset:
    """Three tables and the tasks over them. `read` and `write` are the only ways to and from disk."""

    name: str
    items: pl.DataFrame
    events: pl.DataFrame
    texts: pl.DataFrame
    tasks: tuple[TaskSpec, ...]
    split_hash: str = ""  # set by split.py; names the split in every result
    licence: str = ""  # as the sources state it
    seed: int = 0
    notes: tuple[str, ...] = field(default=())  # what a reader of results must know, e.g. "random split: no timestamps"
