"""Split a dataset once and for all: events by time, items and texts at random, strict cold items.

The only writer of `fold` and `cold`. The hash names the split; it depends on the sources and the seed, not on the key
of the pseudonyms.
"""

import hashlib
from dataclasses import replace
from typing import Literal

import numpy as np
import polars as pl

from mtrec_edge_compress.data.schema import Dataset, Fold, TaskSpec
from mtrec_edge_runtime.errors import DataError
from mtrec_edge_runtime.tasks import Kind

TRAIN_UNTIL, VALIDATION_UNTIL = 0.8, 0.9  # shares of each user's events, of each domain's items and texts
COLD_POSITIVES = 3
EventsBy = Literal["user", "time"]
BY_TIME = "events split at one moment for all users of a domain that has times"


def split(dataset: Dataset, seed: int = 0, *, events_by: EventsBy = "user") -> Dataset:
    """Return the dataset with folds, cold items and the split's hash; official folds of texts are kept.

    `events_by` "user": the first 80 % of each user's events are TRAIN, the next 10 % VALIDATION. "time": the first 80 %
    of each domain's events, so that training ends at one moment for all (Ji et al. 2023, "A critical study on data
    leakage in recommender system offline evaluation"); who came later has no history. A domain without times is split
    within each user either way. Rows of events come out grouped by user (users in order of first appearance), oldest
    first. Events of one moment are ordered at random. Every event of a cold item is TEST.
    """
    items = _mark_cold(_fold_rows(dataset.items, "item_id", seed), _positives(dataset.events, dataset.tasks))
    events = _fold_events(dataset.events, seed, events_by)
    cold = items.filter("cold").select("domain", "item_id").with_columns(pl.lit(True).alias("cold"))
    events = events.join(cold, on=["domain", "item_id"], how="left", maintain_order="left")
    fold = pl.when(pl.col("cold")).then(int(Fold.TEST)).otherwise(pl.col("fold")).cast(pl.Int8).alias("fold")
    events = events.with_columns(fold).drop("cold")
    texts = _fold_rows(dataset.texts, "text_id", seed)
    notes = (*dataset.notes, BY_TIME) if events_by == "time" else dataset.notes
    divided = replace(dataset, items=items, events=events, texts=texts, seed=seed, notes=notes)
    return replace(divided, split_hash=split_hash(divided))


def keep_few(dataset: Dataset, domain: str, count: int) -> Dataset:
    """Return a split dataset with `count` TRAIN events of one domain, drawn at random; its VALIDATION events go too.

    So a domain is met with few events, while the others train on all of theirs; what is tested stays the same.
    Raise DataError when the domain has no event.
    """
    mine = dataset.events["domain"] == domain
    if not mine.any():
        known = ", ".join(dataset.events["domain"].unique().sort())
        raise DataError(f"few events of {domain!r}: the dataset has no event there; it has events of {known}")
    train = np.flatnonzero((mine & (dataset.events["fold"] == int(Fold.TRAIN))).to_numpy())
    kept = np.random.default_rng([dataset.seed, 2]).permutation(train)[:count]
    row = pl.int_range(pl.len())
    stays = (pl.col("domain") != domain) | (pl.col("fold") == int(Fold.TEST)) | row.is_in(kept.tolist())
    note = f"{domain}: {len(kept):,} of {len(train):,} training events kept, drawn at random"
    few = replace(dataset, events=dataset.events.filter(stays), notes=(*dataset.notes, note))
    return replace(few, split_hash=split_hash(few))


def split_hash(dataset: Dataset) -> str:
    """Return the split's name: SHA-256 over every row's keys and fold, users counted in order of appearance."""
    number = dataset.events.select("user_id").unique(maintain_order=True).with_row_index("user")
    events = dataset.events.join(number, on="user_id", how="left", maintain_order="left")
    digest = hashlib.sha256()
    for frame in (
        dataset.items.select("domain", "item_id", "fold", "cold").sort("domain", "item_id"),
        events.select("user", "domain", "item_id", "behaviour", "timestamp", "fold"),
        dataset.texts.select("domain", "text_id", "fold").sort("domain", "text_id"),
    ):
        digest.update(frame.write_csv().encode())
    return digest.hexdigest()[:16]


def fold_of_share(share: pl.Expr) -> pl.Expr:
    """Return the fold of a row from its place in its group, a share in (0, 1)."""
    validation = pl.when(share < VALIDATION_UNTIL).then(int(Fold.VALIDATION)).otherwise(int(Fold.TEST))
    return pl.when(share < TRAIN_UNTIL).then(int(Fold.TRAIN)).otherwise(validation).cast(pl.Int8)


def _fold_events(events: pl.DataFrame, seed: int, events_by: EventsBy) -> pl.DataFrame:
    """Order events by user, time and chance, and fold them by their place among the user's or the domain's.

    A domain's behaviour without times is older than no other, so its events are placed among themselves.
    """
    chance = np.random.default_rng([seed, 0]).random(len(events))
    first_seen = pl.col("row").min().over("user_id")
    place = (pl.int_range(pl.len()) + 0.5) / pl.len()
    timeless = (pl.col("timestamp") == 0).all().over("domain", "behaviour")
    alike = pl.when(timeless).then(pl.concat_str("domain", "behaviour", separator="\x1f")).otherwise(pl.lit(""))
    timed = pl.col("timestamp").n_unique().over("domain") > 1
    company = pl.col("domain").replace_strict(_companies(events), return_dtype=pl.Int64)
    at_once = pl.when(timed & ~timeless & pl.lit(events_by == "time")).then(place.over("company", "alike"))
    return (
        events.with_row_index("row")
        .with_columns(
            first_seen.alias("user"), alike.alias("alike"), company.alias("company"), pl.Series("chance", chance)
        )
        .sort("timestamp", "chance")
        .with_columns(at_once.alias("at_once"))
        .sort("user", "timestamp", "chance")
        .with_columns(fold_of_share(pl.coalesce("at_once", place.over("user", "alike"))).alias("fold"))
        .drop("row", "user", "alike", "company", "chance", "at_once")
    )


def _companies(events: pl.DataFrame) -> dict[str, int]:
    """Return a number for each domain, the same for domains that share users, directly or through others."""
    company = {domain: number for number, domain in enumerate(events["domain"].unique(maintain_order=True))}
    for shared in events.group_by("user_id").agg(pl.col("domain").unique())["domain"].unique().to_list():
        joined = {company[domain] for domain in shared}
        company = {domain: min(joined) if number in joined else number for domain, number in company.items()}
    return company


def _fold_rows(frame: pl.DataFrame, key: str, seed: int) -> pl.DataFrame:
    """Fold rows that have no fold yet at random within their domain; the order of rows does not matter, nor changes."""
    chance = pl.concat_str(pl.lit(f"{seed}"), "domain", key, separator="\x1f").map_elements(
        lambda text: hashlib.sha256(text.encode()).hexdigest(), return_dtype=pl.String
    )
    place = (chance.rank("ordinal").over("domain") - 0.5) / pl.len().over("domain")
    return frame.with_columns(pl.coalesce("fold", fold_of_share(place)).cast(pl.Int8).alias("fold"))


def _mark_cold(items: pl.DataFrame, positives: pl.DataFrame) -> pl.DataFrame:
    """Mark the TEST items with enough positives: nothing of them is trained on."""
    counted = items.join(positives, on=["domain", "item_id"], how="left", maintain_order="left")
    enough = pl.col("positives").fill_null(0) >= COLD_POSITIVES
    return counted.with_columns((enough & (pl.col("fold") == int(Fold.TEST))).alias("cold")).drop("positives")


def _positives(events: pl.DataFrame, tasks: tuple[TaskSpec, ...]) -> pl.DataFrame:
    """Return `domain, item_id, positives`: events that are positive for a binary task of their domain.

    In a domain without a binary task every event counts.
    """
    binary = [task for task in tasks if task.kind is Kind.BINARY]
    positive = [~pl.col("domain").is_in([task.domain for task in binary])]
    for task in binary:
        mine = (pl.col("domain") == task.domain) & pl.col("behaviour").is_in(list(task.behaviours))
        positive.append(mine if task.positive_at is None else mine & (pl.col("value") >= task.positive_at))
    chosen = events.filter(pl.any_horizontal(positive).fill_null(False))
    return chosen.group_by("domain", "item_id").agg(pl.len().alias("positives"))
