"""A dataset as integer arrays: what training, evaluation and the bundle read.

Rows of the catalogue are grouped by domain; events are grouped by user, oldest first. Knows nothing of tokens.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from mtrec_edge_compress.data.biases import USER_SHRINKAGE, alternating_biases
from mtrec_edge_compress.data.schema import Dataset, Fold, TaskSpec
from mtrec_edge_runtime.catalogue import MEAN_VALUE
from mtrec_edge_runtime.errors import DataError
from mtrec_edge_runtime.manifest import Behaviour
from mtrec_edge_runtime.tasks import Kind
from mtrec_edge_runtime.text import item_text

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

PRIOR_SHRINKAGE = 5.0  # pseudo-events at the domain's mean behind an item's mean value
LAYOUT = 3  # counts up when rows are numbered or events read otherwise, so that stages that rest on it are made again


@dataclass(frozen=True)
class History:
    """A user's past events, latest first."""

    items: IntArray  # (events,) catalogue rows
    behaviours: IntArray  # (events,) index into Arrays.behaviours
    values: FloatArray  # (events,) as logged; nan where the behaviour has none
    user: int = -1  # row of Arrays.user_ids; -1: somebody else

    def latest(self, events: int) -> "History":
        """Return the latest `events` of them."""
        return History(self.items[:events], self.behaviours[:events], self.values[:events], self.user)


@dataclass(frozen=True)
class Arrays:
    """One dataset, ready for arithmetic."""

    dataset: Dataset
    item_ids: tuple[str, ...]
    item_texts: tuple[str, ...]
    domains: dict[str, slice]
    item_fold: npt.NDArray[np.int8]
    cold: npt.NDArray[np.bool_]
    behaviours: tuple[Behaviour, ...]
    user_ids: tuple[str, ...]
    user_start: IntArray  # (users + 1,)
    event_item: IntArray
    event_behaviour: IntArray
    event_value: FloatArray
    event_fold: npt.NDArray[np.int8]
    event_time: IntArray  # seconds; 0 where the source has none
    texts: tuple[str, ...]
    text_tokens: tuple[tuple[str, ...], ...]
    text_fold: npt.NDArray[np.int8]

    @property
    def tasks(self) -> tuple[TaskSpec, ...]:
        """Return the dataset's tasks."""
        return self.dataset.tasks

    def task(self, name: str) -> TaskSpec:
        """Return the task of that name."""
        for task in self.tasks:
            if task.name == name:
                return task
        raise DataError(f"task {name!r} is not in the dataset; it has {', '.join(t.name for t in self.tasks)}")

    def history(self, user: int, fold: Fold) -> History:
        """Return the user's events of the folds before `fold`, latest first."""
        rows = np.arange(self.user_start[user], self.user_start[user + 1])
        rows = rows[self.event_fold[rows] < int(fold)][::-1]
        return History(self.event_item[rows], self.event_behaviour[rows], self.event_value[rows], user)

    @cached_property
    def rows_read(self) -> IntArray:
        """Return the corpus rows, items and behind them texts, that the tasks read, ascending.

        They are those of the tasks' domains, and what users with events there did elsewhere.
        """
        domains = {task.domain for task in self.tasks}
        mine = np.zeros(len(self.item_ids), bool)
        for domain in domains & self.domains.keys():
            mine[self.domains[domain]] = True
        users = np.isin(self.event_user, self.event_user[mine[self.event_item]])
        mine[self.event_item[users]] = True
        texts = np.isin(self.dataset.texts["domain"].to_numpy(), list(domains))
        return np.flatnonzero(np.concatenate([mine, texts]))

    @cached_property
    def event_user(self) -> IntArray:
        """Return each event's user, (events,)."""
        return np.repeat(np.arange(len(self.user_ids)), np.diff(self.user_start))

    @cached_property
    def normal_value(self) -> FloatArray:
        """Return each event's value in its behaviour's units, 0 where there is none, (events,)."""
        return self._normalised(self.event_behaviour, self.event_value)

    def _normalised(self, behaviours: IntArray, values: FloatArray) -> FloatArray:
        mean = np.array([b.mean for b in self.behaviours], np.float32)[behaviours]
        scale = np.array([b.scale for b in self.behaviours], np.float32)[behaviours]
        normal: FloatArray = np.nan_to_num((values - mean) / scale).astype(np.float32)
        return normal

    def surprise(self, history: History) -> FloatArray:
        """Return how much more each event's value is than its item usually gets, 0 where there is none, (events,).

        `(value - mean) / scale` of the behaviour, less the item's prior `mean_value`: what the ranker reads, for a good
        word for what everybody praises says little of who gives it.
        """
        normal = self._normalised(history.behaviours, history.values)
        known = ~np.isnan(history.values)
        return np.where(known, normal - self.priors[history.items, MEAN_VALUE], np.float32(0.0))

    @cached_property
    def train_surprise(self) -> FloatArray:
        """Return `surprise` of the TRAIN events, each left out of what its own item usually gets, (events,).

        Left in, the value would be part of what it is compared with, as that of a new user never is.
        """
        count, value_sum = self.support
        usual = (value_sum[self.event_item] - self.residual) / (count[self.event_item] - 1 + PRIOR_SHRINKAGE)
        train = (self.event_fold == Fold.TRAIN) & ~np.isnan(self.event_value)
        return np.where(train, self.normal_value - usual, 0.0).astype(np.float32)

    @cached_property
    def residual(self) -> FloatArray:
        """Return each TRAIN event's value less its user's bias, 0 for all others, (events,)."""
        valued = np.flatnonzero((self.event_fold == Fold.TRAIN) & ~np.isnan(self.event_value))
        user, value = self.event_user[valued], self.normal_value[valued]
        bias, _ = alternating_biases(
            user,
            self.event_item[valued],
            value,
            users=len(self.user_ids),
            items=len(self.item_ids),
            user_shrink=USER_SHRINKAGE,
            item_shrink=PRIOR_SHRINKAGE,
        )
        residual = np.zeros(len(self.event_value), np.float32)
        residual[valued] = value - bias[user]
        return residual

    @cached_property
    def support(self) -> tuple[IntArray, FloatArray]:
        """Return each item's TRAIN events and the sum of their residuals, both (items,)."""
        items = len(self.item_ids)
        count = np.bincount(self.event_item, self.event_fold == Fold.TRAIN, items).astype(np.int64)
        return count, np.bincount(self.event_item, self.residual, items).astype(np.float32)

    @cached_property
    def most_events(self) -> FloatArray:
        """Return log(1 + events of the most popular item) of each item's domain, (items,)."""
        most = np.zeros(len(self.item_ids), np.float32)
        for rows in self.domains.values():
            most[rows] = max(np.log1p(self.support[0][rows].max(initial=0)), 1.0)
        return most

    @cached_property
    def priors(self) -> FloatArray:
        """Return the catalogue's prior features, (items, 3): see `prior_features`."""
        return prior_features(*self.support, self.most_events)

    def labels(self, name: str) -> npt.NDArray[np.float32] | npt.NDArray[np.int64] | list[IntArray]:
        """Return a task's labels, aligned with its source.

        Events: float32 (events,), nan where the event carries none. Items or texts, multiclass: int64 (rows,), -1
        where missing. Token task: one int64 array a text, a label a word, empty where missing.
        """
        return self._labels[name]

    @cached_property
    def _labels(self) -> dict[str, npt.NDArray[np.float32] | npt.NDArray[np.int64] | list[IntArray]]:
        return {task.name: self._make_labels(task) for task in self.tasks}

    def _make_labels(self, task: TaskSpec) -> npt.NDArray[np.float32] | npt.NDArray[np.int64] | list[IntArray]:
        if task.source == "events":
            carries = [b.domain == task.domain and b.name in task.behaviours for b in self.behaviours]
            mine = np.array(carries, bool)[self.event_behaviour]
            if task.kind is Kind.REGRESSION:
                label = self.event_value
            elif task.positive_at is None:
                label = np.ones_like(self.event_value)
            else:
                positive = (self.event_value >= task.positive_at).astype(np.float32)
                label = np.where(np.isnan(self.event_value), np.float32(np.nan), positive)
            return np.where(mine, label, np.float32(np.nan)).astype(np.float32)
        table = _sorted_items(self.dataset.items) if task.source == "items" else self.dataset.texts
        index = {label: number for number, label in enumerate(task.labels)}
        in_domain = (table["domain"] == task.domain).to_list()
        values = [v if here else None for v, here in zip(table[task.column].to_list(), in_domain, strict=True)]
        if task.kind is Kind.TOKEN:
            return [np.array([index[x] for x in v or ()], np.int64) for v in values]
        return np.array([-1 if v is None else index[v] for v in values], np.int64)


def prior_features(count: IntArray, value_sum: FloatArray, most_events: FloatArray) -> FloatArray:
    """Return `popularity, mean_value, seen` for items with these TRAIN events, shape `count.shape + (3,)`.

    popularity = log(1 + count) / log(1 + count of the domain's most popular item); mean_value = sum of
    (value - the user's bias) / (count + 5), a shrunk item bias; seen = 1 when count > 0. All 0 for an unseen item.
    """
    popularity = np.log1p(count) / most_events
    mean_value = value_sum / (count + PRIOR_SHRINKAGE)
    return np.stack([popularity, mean_value, count > 0], axis=-1).astype(np.float32)


def read_arrays(folder: Path) -> Arrays:
    """Read a dataset that `prepare` wrote as arrays."""
    return build_arrays(Dataset.read(folder))


def build_arrays(dataset: Dataset) -> Arrays:
    """Turn a checked dataset into arrays."""
    items = _sorted_items(dataset.items)
    domain_of_row = items["domain"].to_list()
    domains = {
        d: slice(domain_of_row.index(d), domain_of_row.index(d) + domain_of_row.count(d))
        for d in dict.fromkeys(domain_of_row)
    }
    behaviours = _behaviours(dataset.events)
    events = _indexed_events(dataset.events, items, behaviours)
    users = events["user_id"].unique(maintain_order=True).to_list()
    counts = events.group_by("user_id", maintain_order=True).len()["len"].to_numpy()
    return Arrays(
        dataset=dataset,
        item_ids=tuple(items["item_id"].to_list()),
        item_texts=tuple(item_text(*fields) for fields in items.select("title", "description", "tags").iter_rows()),
        domains=domains,
        item_fold=items["fold"].to_numpy(),
        cold=items["cold"].to_numpy(),
        behaviours=behaviours,
        user_ids=tuple(users),
        user_start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        event_item=events["item_row"].to_numpy().astype(np.int64),
        event_behaviour=events["behaviour_row"].to_numpy().astype(np.int64),
        event_value=events["value"].fill_null(float("nan")).to_numpy().astype(np.float32),
        event_fold=events["fold"].to_numpy(),
        event_time=events["timestamp"].to_numpy().astype(np.int64),
        texts=tuple(dataset.texts["text"].to_list()),
        text_tokens=tuple(tuple(tokens) for tokens in dataset.texts["tokens"].to_list()),
        text_fold=dataset.texts["fold"].to_numpy(),
    )


def _sorted_items(items: pl.DataFrame) -> pl.DataFrame:
    return items.sort("domain", maintain_order=True)


def _behaviours(events: pl.DataFrame) -> tuple[Behaviour, ...]:
    """Return the behaviours in order of domain and name, normalised by their TRAIN values."""
    train = events.filter(pl.col("fold") == int(Fold.TRAIN))
    table = (
        events.select("domain", "behaviour")
        .unique()
        .join(
            train.group_by("domain", "behaviour").agg(
                pl.col("value").mean().alias("mean"), pl.col("value").std().alias("scale")
            ),
            on=["domain", "behaviour"],
            how="left",
        )
        .sort("domain", "behaviour")
    )
    return tuple(
        Behaviour(domain, name, mean or 0.0, scale if scale and scale > 1e-6 else 1.0, valued=mean is not None)
        for domain, name, mean, scale in table.select("domain", "behaviour", "mean", "scale").iter_rows()
    )


def _indexed_events(events: pl.DataFrame, items: pl.DataFrame, behaviours: tuple[Behaviour, ...]) -> pl.DataFrame:
    """Return the events grouped by user, oldest first, with `item_row` and `behaviour_row`.

    Users stand in order of appearance, not of their pseudonyms: these follow from a key, and what is drawn by a seed
    should be the same whoever prepared the dataset.
    """
    item_row = items.select("domain", "item_id").with_row_index("item_row")
    behaviour_row = pl.DataFrame(
        {"domain": [b.domain for b in behaviours], "behaviour": [b.name for b in behaviours]},
        schema={"domain": pl.String, "behaviour": pl.String},
    ).with_row_index("behaviour_row")
    return (
        events.join(item_row, on=["domain", "item_id"], how="inner", maintain_order="left")
        .join(behaviour_row, on=["domain", "behaviour"], how="inner", maintain_order="left")
        .with_row_index("row")
        .sort(pl.col("row").min().over("user_id"), "timestamp", maintain_order=True)
        .drop("row")
    )
