"""The data contract: what a dataset is, how it is read, written and checked.

A dataset is a folder with `items.parquet`, `events.parquet`, `texts.parquet` and `dataset.toml` (the tasks).
Knows nothing of models.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal

import polars as pl

from mtrec_edge_compress.data.files import read_settings, read_table, toml_text
from mtrec_edge_compress.data.tables import (
    check_columns,
    check_filled,
    check_label_counts,
    check_labels,
    check_range,
    check_references,
    check_unique,
    check_values,
    first_row,
)
from mtrec_edge_runtime.errors import DataError, InputError
from mtrec_edge_runtime.tasks import Kind, Task

FORMAT = 1
SETTINGS_FILE = "dataset.toml"
SETTINGS = ("name", "split_hash", "licence", "seed", "notes")  # keys of dataset.toml beside `format` and the tasks

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


TASK_KEYS: dict[str, Any] = {  # keys of a task in dataset.toml, and the types TOML may give them
    **dict.fromkeys(("name", "kind", "source", "column", "metric"), str),
    **dict.fromkeys(("behaviours", "labels"), list),
    **dict.fromkeys(("positive_at", "low", "high", "weight"), (int, float)),
    "negatives": bool,
}
Source = Literal["events", "items", "texts"]
SOURCE_OF_KIND: dict[Kind, tuple[Source, ...]] = {
    Kind.REGRESSION: ("events",),
    Kind.BINARY: ("events",),
    Kind.MULTICLASS: ("items", "texts"),
    Kind.TOKEN: ("texts",),
}
HEADLINES: dict[Kind, tuple[str, ...]] = {  # metrics that may stand for a task; the first does, where it states none
    Kind.REGRESSION: ("rmse", "mae"),
    Kind.BINARY: ("auc", "gauc"),
    Kind.MULTICLASS: ("macro_f1", "accuracy"),
    Kind.TOKEN: ("span_f1",),
}
RANKED_HEADLINES = ("ndcg@10", "recall@10", "mrr")  # likewise, of a task that orders a catalogue


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
        self._check_label()
        if self.metric and self.metric not in self._headlines():
            raise DataError(
                f"task {self.name}: metric {self.metric!r} cannot stand for it; write one of "
                f"{', '.join(self._headlines())}, or leave it out"
            )

    def _headlines(self) -> tuple[str, ...]:
        """Return the metrics that may stand for the task; the ranked ones need a catalogue that is ordered."""
        return HEADLINES[self.kind] + (RANKED_HEADLINES if self.negatives else ())

    def _check_label(self) -> None:
        try:
            self.device_task()
        except InputError as error:
            raise DataError(str(error)) from error
        if self.source not in SOURCE_OF_KIND[self.kind]:
            allowed = " or ".join(SOURCE_OF_KIND[self.kind])
            raise DataError(f"task {self.name}: a {self.kind} task takes its label from {allowed}, not {self.source}")
        if self.source == "events" and not self.behaviours:
            raise DataError(f"task {self.name}: name the behaviours that carry its label, e.g. behaviours = ['rate']")
        if self.source != "events" and not self.column:
            raise DataError(f"task {self.name}: name the label column of {self.source}, e.g. column = 'category'")
        if self.kind is Kind.REGRESSION and (self.low is None or self.high is None or self.low >= self.high):
            raise DataError(f"task {self.name}: a regression task needs low < high, got {self.low} and {self.high}")
        if self.kind is not Kind.BINARY and (self.negatives or self.positive_at is not None):
            raise DataError(f"task {self.name}: negatives and positive_at belong to binary tasks, this is {self.kind}")
        if self.kind is Kind.BINARY and self.positive_at is None and not self.negatives:
            raise DataError(
                f"task {self.name}: every event would be a positive; write positive_at (the least value that is "
                "one), or negatives = true to learn against unobserved items"
            )
        if not 0 <= self.weight < math.inf:
            raise DataError(f"task {self.name}: weight {self.weight} must be a number >= 0")

    @property
    def domain(self) -> str:
        """The part of the name before the dot."""
        return self.name.split(".")[0]

    @property
    def ordered_apart(self) -> bool:
        """Whether the catalogue is ordered by a score of its own: of a ranked task whose events carry both labels."""
        return self.negatives and self.positive_at is not None

    @property
    def headline(self) -> str:
        """The metric that stands for the task in tables."""
        own = RANKED_HEADLINES if self.negatives else HEADLINES[self.kind]
        return self.metric or own[0]

    def row(self) -> dict[str, Any]:
        """Return the task as `dataset.toml` states it, without what is absent."""
        absent = ("", (), None)
        return {name: value for name, value in asdict(self).items() if value not in absent and value is not False}

    def device_task(self) -> Task:
        """Return what the device needs to know of this task."""
        ranks = self.kind is Kind.BINARY and self.negatives
        return Task(self.name, self.kind, self.labels, self.low, self.high, ranks)


@dataclass(frozen=True)
class Dataset:
    """Three tables and the tasks over them. `read` and `write` are the only ways to and from disk.

    What an adapter returns is not split yet: its `fold` and `cold` columns are null (or hold official folds), and
    only a split dataset passes `check`.
    """

    name: str
    items: pl.DataFrame  # ITEM_COLUMNS and label columns (text; null where missing)
    events: pl.DataFrame  # EVENT_COLUMNS
    texts: pl.DataFrame  # TEXT_COLUMNS and label columns (text, or for a token task a list of texts, one a token)
    tasks: tuple[TaskSpec, ...]
    split_hash: str = ""  # set by split.py; names the split in every result
    licence: str = ""  # as the sources state it
    seed: int = 0
    notes: tuple[str, ...] = field(default=())  # what a reader of results must know, e.g. "random split: no timestamps"

    def content_hash(self) -> str:
        """Return the SHA-256 of the tables and tasks: two datasets that train alike have one hash."""
        digest = hashlib.sha256(repr(self.tasks).encode())
        for table in (self.items, self.events, self.texts):
            digest.update(table.write_ndjson().encode())
        return digest.hexdigest()

    @classmethod
    def read(cls, folder: Path) -> "Dataset":
        """Read and check the dataset in a folder.

        Raises DataError when a file is missing or unreadable, or when `check` finds something.
        """
        settings = read_settings(folder / SETTINGS_FILE, format_=FORMAT)
        for key in settings:
            if key not in (*SETTINGS, "tasks"):
                known = ", ".join(("format", *SETTINGS, "tasks"))
                raise DataError(f"{folder / SETTINGS_FILE}: unknown key {key!r}, known keys: {known}")
        rows = settings.get("tasks", [])
        dataset = cls(
            name=str(settings.get("name", folder.name)),
            items=read_table(folder / "items.parquet"),
            events=read_table(folder / "events.parquet"),
            texts=read_table(folder / "texts.parquet"),
            tasks=tuple(task_from_row(row, where=f"{SETTINGS_FILE}, task {n}") for n, row in enumerate(rows)),
            split_hash=str(settings.get("split_hash", "")),
            licence=str(settings.get("licence", "")),
            seed=int(settings.get("seed", 0)),
            notes=tuple(settings.get("notes", ())),
        )
        dataset.check()
        return dataset

    def write(self, folder: Path) -> None:
        """Check the dataset and write its four files into a folder, which is made when it does not exist."""
        self.check()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SETTINGS_FILE).unlink(missing_ok=True)  # written last: a folder without it is no dataset
        self.items.write_parquet(folder / "items.parquet")
        self.events.write_parquet(folder / "events.parquet")
        self.texts.write_parquet(folder / "texts.parquet")
        top = {"format": FORMAT, **{key: getattr(self, key) for key in SETTINGS}}
        text = toml_text(top, {"tasks": [task.row() for task in self.tasks]})
        (folder / SETTINGS_FILE).write_text(text, encoding="utf-8")

    def check(self) -> None:
        """Raise DataError (file, column, row, next step) for the first breach of the contract."""
        _check_rows("items.parquet", self.items, ITEM_COLUMNS, key="item_id")
        self._check_events()
        _check_rows("texts.parquet", self.texts, TEXT_COLUMNS, key="text_id")
        names = [task.name for task in self.tasks]
        if not names or len(set(names)) < len(names):
            raise DataError(f"{SETTINGS_FILE}: tasks {names}: give at least one task, and each name once")
        for task in self.tasks:
            self._check_task(task)

    def _check_events(self) -> None:
        file = "events.parquet"
        check_columns(file, self.events, EVENT_COLUMNS)
        check_filled(file, self.events, [name for name in EVENT_COLUMNS if name != "value"])
        check_values(file, self.events, "fold", allowed=[int(fold) for fold in Fold])
        key = ("domain", "item_id")
        check_references(file, self.events, key, target=self.items, other="items.parquet")
        row = first_row(self.events, ~pl.col("value").fill_null(0.0).is_finite())
        if row is not None:
            raise DataError(
                f"{file}, column value, row {row}: {self.events[row, 'value']} is not a number: drop the row"
            )
        order = pl.struct("user_id", "domain")
        row = first_row(self.events, pl.col("timestamp") < pl.col("timestamp").shift().over(order))
        if row is not None:
            raise DataError(
                f"{file}, column timestamp, row {row}: earlier than the user's row before: sort by timestamp"
            )

    def _check_task(self, task: TaskSpec) -> None:
        table: pl.DataFrame = getattr(self, task.source)
        file = f"{task.source}.parquet"
        rows = table.with_row_index("row").filter(pl.col("domain") == task.domain)
        if task.source == "events":
            rows = rows.filter(pl.col("behaviour").is_in(list(task.behaviours)))
        elif task.column not in table.columns:
            raise DataError(f"{file} has no column {task.column!r}, the label of {task.name}: add it or drop the task")
        else:
            rows = rows.filter(pl.col(task.column).is_not_null())
        if rows.is_empty():
            raise DataError(f"{file}: no row carries a label of {task.name}: add such rows or drop the task")
        if task.kind is Kind.REGRESSION:
            assert task.low is not None and task.high is not None  # TaskSpec saw to it
            check_range(file, rows, low=task.low, high=task.high, need=task.name)
        elif task.positive_at is not None:
            check_range(file, rows, low=-math.inf, high=math.inf, need=task.name)
        elif task.source != "events":
            self._check_classes(task, rows, file)

    def _check_classes(self, task: TaskSpec, rows: pl.DataFrame, file: str) -> None:
        expected = pl.List(pl.String) if task.kind is Kind.TOKEN else pl.String
        if rows.schema[task.column] != expected:
            found = rows.schema[task.column]
            raise DataError(
                f"{file}, column {task.column}: {task.name} needs {expected}, found {found}: cast the column"
            )
        if task.kind is Kind.TOKEN:
            check_label_counts(file, rows, task.column)
            rows = rows.explode(task.column)
        check_labels(file, rows, task.column, labels=task.labels, need=task.name)


def _check_rows(file: str, table: pl.DataFrame, columns: Mapping[str, Any], *, key: str) -> None:
    check_columns(file, table, columns)
    check_filled(file, table, list(columns))
    check_unique(file, table, ("domain", key))
    check_values(file, table, "fold", allowed=[int(fold) for fold in Fold])


def task_from_row(row: Mapping[str, Any], *, where: str) -> TaskSpec:
    """Return the task that a TOML table states; `where` names the table in messages."""
    for key, value in row.items():
        if key not in TASK_KEYS:
            raise DataError(f"{where}: unknown key {key!r}, known keys: {', '.join(TASK_KEYS)}")
        if not isinstance(value, TASK_KEYS[key]) or (isinstance(value, bool) and TASK_KEYS[key] is not bool):
            raise DataError(f"{where}: {key} = {value!r} has the wrong type: see docs/data.md")
        if isinstance(value, list) and not all(isinstance(entry, str) for entry in value):
            raise DataError(f"{where}: {key} = {value!r}: expected a list of texts, each in quotes")
    for key in ("name", "kind", "source"):
        if key not in row:
            raise DataError(f"{where}: key {key!r} is missing: every task has name, kind and source")
    if row["kind"] not in list(Kind):
        raise DataError(f"{where}: kind {row['kind']!r} is not one of {', '.join(Kind)}")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    return TaskSpec(**{**values, "kind": Kind(row["kind"])})
