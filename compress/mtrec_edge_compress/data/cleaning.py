"""Clean a dataset: texts, duplicates, impossible values, rows that point nowhere. Counts what it drops, by reason."""

from collections import Counter
from dataclasses import dataclass, replace

import polars as pl

from mtrec_edge_compress.data.clean_text import clean_text
from mtrec_edge_compress.data.schema import Dataset, TaskSpec
from mtrec_edge_runtime.tasks import Kind

LATEST = 4_102_444_800  # 2100-01-01 in seconds: a later timestamp is in milliseconds, or wrong


@dataclass(frozen=True)
class Cleaned:
    """A cleaned dataset and how many rows were dropped (or labels cleared) for which reason."""

    dataset: Dataset
    dropped: dict[str, int]  # "events: unknown item" -> rows


def clean(dataset: Dataset) -> Cleaned:
    """Return the dataset with clean texts and only possible, distinct rows; the order of rows is kept.

    Of two items with one id the first stays; of several ratings of one item by one user the latest; of several equal
    events at one moment one; of several equal texts the one in the latest fold, so that no test text is trained on.
    """
    dropped: Counter[str] = Counter()
    items = _clean_items(dataset.items, dataset.tasks, dropped)
    events = _clean_events(dataset.events, items, dataset.tasks, dropped)
    texts = _clean_texts(dataset.texts, dataset.tasks, dropped)
    return Cleaned(replace(dataset, items=items, events=events, texts=texts), dict(dropped))


def _keep(frame: pl.DataFrame, condition: pl.Expr, *, reason: str, dropped: Counter[str]) -> pl.DataFrame:
    kept = frame.filter(condition.fill_null(False))
    if len(kept) < len(frame):
        dropped[reason] += len(frame) - len(kept)
    return kept


def _distinct(frame: pl.DataFrame, key: list[str], *, reason: str, dropped: Counter[str]) -> pl.DataFrame:
    """Keep the last row of each key, in its place."""
    return _keep(frame, pl.struct(key).is_last_distinct(), reason=reason, dropped=dropped)


def _clean_items(items: pl.DataFrame, tasks: tuple[TaskSpec, ...], dropped: Counter[str]) -> pl.DataFrame:
    items = _keep(items, pl.col("item_id").str.len_chars() > 0, reason="items: no id", dropped=dropped)
    first = pl.struct("domain", "item_id").is_first_distinct()
    items = _keep(items, first, reason="items: id seen before", dropped=dropped)
    items = items.with_columns(
        _clean_column(items["title"]), _clean_column(items["description"]), _clean_lists(items["tags"])
    )
    has_text = (pl.col("title") + pl.col("description")).str.len_chars() + pl.col("tags").list.len() > 0
    items = _keep(items, has_text, reason="items: no text", dropped=dropped)
    return _clear_unknown_labels(items, [t for t in tasks if t.source == "items"], table="items", dropped=dropped)


def _clean_events(
    events: pl.DataFrame, items: pl.DataFrame, tasks: tuple[TaskSpec, ...], dropped: Counter[str]
) -> pl.DataFrame:
    has_user = pl.col("user_id").str.len_chars() > 0
    events = _keep(events, has_user, reason="events: no user", dropped=dropped).with_columns(
        pl.col("timestamp").fill_null(0)
    )
    known = items.select("domain", "item_id").with_columns(pl.lit(True).alias("known"))
    events = events.join(known, on=["domain", "item_id"], how="left", maintain_order="left")
    events = _keep(events, pl.col("known"), reason="events: unknown item", dropped=dropped).drop("known")
    possible_time = pl.col("timestamp").is_between(0, LATEST)
    events = _keep(events, possible_time, reason="events: impossible timestamp", dropped=dropped)
    events = _keep(events, _possible_value(tasks), reason="events: impossible or missing value", dropped=dropped)
    rated = _carries([task for task in tasks if _needs_value(task)])
    moment = pl.when(rated).then(None).otherwise(pl.col("timestamp"))  # a later rating replaces an earlier one
    ordered = events.with_row_index("row").sort("timestamp", maintain_order=True).with_columns(moment.alias("moment"))
    key = ["user_id", "domain", "item_id", "behaviour", "moment"]
    kept = _distinct(ordered, key, reason="events: same user, item and behaviour", dropped=dropped)
    return kept.sort("row").drop("row", "moment")


def _needs_value(task: TaskSpec) -> bool:
    return task.source == "events" and (task.kind is Kind.REGRESSION or task.positive_at is not None)


def _carries(tasks: list[TaskSpec]) -> pl.Expr:
    """Return whether an event carries a label of one of the tasks."""
    carried = [pl.lit(False)] + [
        (pl.col("domain") == task.domain) & pl.col("behaviour").is_in(list(task.behaviours)) for task in tasks
    ]
    return pl.any_horizontal(carried)


def _possible_value(tasks: tuple[TaskSpec, ...]) -> pl.Expr:
    """Return whether an event's value is one its tasks can use: finite, present where needed, in the range."""
    conditions = [pl.col("value").is_null() | pl.col("value").is_finite()]
    for task in tasks:
        if _needs_value(task):
            possible = pl.col("value").is_not_null()
            if task.kind is Kind.REGRESSION:
                possible = pl.col("value").is_between(task.low, task.high).fill_null(False)
            conditions.append(~_carries([task]) | possible)
    return pl.all_horizontal(conditions)


def _clean_texts(texts: pl.DataFrame, tasks: tuple[TaskSpec, ...], dropped: Counter[str]) -> pl.DataFrame:
    tokens = [[_clean_token(token) for token in row] for row in texts["tokens"].fill_null([]).to_list()]
    written = [
        " ".join(words) if words else clean_text(text or "")
        for words, text in zip(tokens, texts["text"].to_list(), strict=True)
    ]
    texts = texts.with_columns(
        pl.Series("tokens", tokens, dtype=pl.List(pl.String)), pl.Series("text", written, dtype=pl.String)
    )
    texts = _keep(texts, pl.col("text").str.len_chars() > 0, reason="texts: no text", dropped=dropped)
    for task in tasks:
        if task.kind is Kind.TOKEN:
            labels = pl.col(task.column)
            even = labels.is_null() | (labels.list.len() == pl.col("tokens").list.len())
            texts = _keep(texts, even, reason="texts: labels and tokens differ in number", dropped=dropped)
    texts = _distinct_texts(texts, reason="texts: same text", dropped=dropped)
    return _clear_unknown_labels(texts, [t for t in tasks if t.source == "texts"], table="texts", dropped=dropped)


def without_equal_texts(dataset: Dataset) -> Cleaned:
    """Return the dataset without texts that scrubbing made equal, the one in the latest fold stays."""
    dropped: Counter[str] = Counter()
    texts = _distinct_texts(dataset.texts, reason="texts: same text once scrubbed", dropped=dropped)
    return Cleaned(replace(dataset, texts=texts), dict(dropped))


def _distinct_texts(texts: pl.DataFrame, *, reason: str, dropped: Counter[str]) -> pl.DataFrame:
    latest_last = texts.with_row_index("row").sort("fold", maintain_order=True)
    return _distinct(latest_last, ["domain", "text"], reason=reason, dropped=dropped).sort("row").drop("row")


def _clear_unknown_labels(
    frame: pl.DataFrame, tasks: list[TaskSpec], *, table: str, dropped: Counter[str]
) -> pl.DataFrame:
    """Make labels that a task does not have null; of two tasks over one column the first decides."""
    for task in tasks:
        mine, label = pl.col("domain") == task.domain, pl.col(task.column)
        if task.kind is Kind.TOKEN:
            known = label.list.eval(pl.element().is_in(list(task.labels)).all()).list.first().fill_null(True)
        else:
            known = label.is_in(list(task.labels))
        cleared = frame.with_columns(pl.when(mine & ~known).then(None).otherwise(label).alias(task.column))
        lost = cleared[task.column].null_count() - frame[task.column].null_count()
        if lost:
            dropped[f"{table}: label unknown to {task.name} (row kept)"] += lost
        frame = cleared
    return frame


def _clean_column(column: pl.Series) -> pl.Series:
    return pl.Series(column.name, [clean_text(text or "") for text in column.to_list()], dtype=pl.String)


def _clean_lists(column: pl.Series) -> pl.Series:
    rows = [dict.fromkeys(clean_text(text) for text in texts or [] if text) for texts in column.to_list()]
    return pl.Series(column.name, [[t for t in row if t] for row in rows], dtype=pl.List(pl.String))


def _clean_token(token: str) -> str:
    """Clean a token but keep it one non-empty word: labels belong to words."""
    return "".join(clean_text(token or "").split()) or "?"
