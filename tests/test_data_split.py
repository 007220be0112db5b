from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_data import RATING, TAGS, events, items, no_texts, texts, tiny_dataset

from mtrec_edge_compress.data.schema import Dataset, Fold
from mtrec_edge_compress.data.split import BY_TIME, keep_few, split
from mtrec_edge_runtime.errors import DataError


def world(users: int = 20, count: int = 40, timestamp: int | None = None) -> Dataset:
    """Every user rates 30 of `count` items, item n at time n (or all at one time)."""
    rng = np.random.default_rng(0)
    rows = [
        {"user_id": f"u{u}", "item_id": f"i{i}", "timestamp": int(i) if timestamp is None else timestamp}
        for u in range(users)
        for i in np.sort(rng.choice(count, 30, replace=False))
    ]
    films = items(*({"item_id": f"i{i}", "title": f"film {i}", "fold": None, "cold": None} for i in range(count)))
    return tiny_dataset(items=films, events=events(*rows), texts=no_texts(), tasks=tiny_dataset().tasks[:2])


def test_each_user_is_split_80_10_10_in_order_of_time() -> None:
    divided = split(world())
    warm = divided.items.filter(~pl.col("cold"))["item_id"].to_list()
    for _, mine in divided.events.group_by("user_id"):
        assert mine["timestamp"].is_sorted()
        known = mine.filter(pl.col("item_id").is_in(warm))
        assert known["fold"].is_sorted()
        assert known.filter(pl.col("fold") == int(Fold.TRAIN)).height <= 24


def test_thirty_events_without_cold_items_give_24_3_3() -> None:
    dataset = world(users=1)  # one event an item: none has the three positives of a cold item
    assert split(dataset).events["fold"].value_counts().sort("fold")["count"].to_list() == [24, 3, 3]


@pytest.mark.parametrize("events_by", ["user", "time"])
def test_what_has_no_time_is_split_beside_what_has_one(events_by) -> None:
    timed = world(users=40)
    clicks = timed.events.with_columns(behaviour=pl.lit("click"), value=None, timestamp=pl.lit(0, pl.Int64))
    shop = timed.items.with_columns(domain=pl.lit("shop"))
    elsewhere = clicks.with_columns(domain=pl.lit("shop"))
    whole = replace(
        timed, items=pl.concat([timed.items, shop]), events=pl.concat([timed.events, clicks, elsewhere], how="vertical")
    )
    divided = split(whole, events_by=events_by)
    warm = divided.events.join(divided.items.filter(~pl.col("cold")), on=["domain", "item_id"], how="semi")
    for (domain, behaviour), mine in warm.group_by("domain", "behaviour"):
        shares = [(mine["fold"] == int(fold)).mean() for fold in Fold]
        assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.05), (domain, behaviour)
    alone = split(timed, events_by=events_by).events
    beside = divided.events.filter((pl.col("behaviour") == "rate") & (pl.col("domain") == "films"))
    key = ["user_id", "item_id"]
    assert alone.sort(key)["timestamp"].to_list() == beside.sort(key)["timestamp"].to_list()


def test_short_histories_are_kept_for_training_first() -> None:
    expected = {1: [0], 2: [0, 0], 3: [0, 0, 1], 4: [0, 0, 0, 1], 5: [0, 0, 0, 0, 2]}
    for count, folds in expected.items():
        rows = events(*({"item_id": "abcde"[n], "timestamp": n} for n in range(count)))
        films = items(*({"item_id": i, "fold": None, "cold": None} for i in "abcde"))
        assert split(tiny_dataset(items=films, events=rows)).events["fold"].to_list() == folds


def test_items_are_split_80_10_10_within_their_domain() -> None:
    films = [{"item_id": f"i{n}", "fold": None, "cold": None} for n in range(50)]
    books = [{**row, "domain": "books"} for row in films[:20]]
    folds = split(tiny_dataset(items=items(*films, *books), events=events({"item_id": "i1"}))).items
    for domain, sizes in {"films": [40, 5, 5], "books": [16, 2, 2]}.items():
        mine = folds.filter(pl.col("domain") == domain)
        assert mine["fold"].value_counts().sort("fold")["count"].to_list() == sizes


def test_cold_items_are_test_items_with_three_positives_and_have_only_test_events() -> None:
    dataset = world()
    divided = split(dataset)
    positives = dataset.events.filter(pl.col("value") >= 4)["item_id"].value_counts()
    enough = set(positives.filter(pl.col("count") >= 3)["item_id"])
    test_items = set(divided.items.filter(pl.col("fold") == int(Fold.TEST))["item_id"])
    cold = set(divided.items.filter("cold")["item_id"])
    assert cold == enough & test_items
    assert len(cold) == 4
    assert divided.events.filter(pl.col("item_id").is_in(list(cold)))["fold"].unique().to_list() == [int(Fold.TEST)]


def test_an_item_nobody_likes_is_not_cold() -> None:
    dataset = world()
    disliked = dataset.events.with_columns(pl.lit(2.0, dtype=pl.Float32).alias("value"))
    assert split(tiny_dataset(items=dataset.items, events=disliked)).items["cold"].sum() == 0
    only_ratings = tiny_dataset(items=dataset.items, events=disliked, tasks=(RATING,))
    assert split(only_ratings).items["cold"].sum() == 4  # without a binary task every event counts


def test_a_split_by_time_ends_training_at_one_moment_for_all() -> None:
    divided = split(world(), events_by="time")
    warm = divided.events.join(divided.items.filter(~pl.col("cold")).select("item_id"), on="item_id")
    latest = warm.group_by("fold").agg(pl.col("timestamp").max()).sort("fold")["timestamp"].to_list()
    earliest = warm.group_by("fold").agg(pl.col("timestamp").min()).sort("fold")["timestamp"].to_list()
    assert len(latest) == 3 and latest[0] <= earliest[1] and latest[1] <= earliest[2]
    share = (divided.events["fold"] == int(Fold.TRAIN)).mean()
    assert isinstance(share, float) and share <= 0.8
    divided.check()
    assert BY_TIME in divided.notes and divided.split_hash != split(world()).split_hash


def test_a_domain_may_be_left_few_events_and_is_tested_on_the_same() -> None:
    whole = split(world())
    few = keep_few(whole, "films", 7)
    few.check()
    test = pl.col("fold") == int(Fold.TEST)
    assert few.events.filter(test).equals(whole.events.filter(test))
    assert few.events.filter(~test)["fold"].to_list() == [int(Fold.TRAIN)] * 7
    assert few.split_hash != whole.split_hash and few.notes[-1].startswith("films: 7 of ")
    assert (
        keep_few(whole, "films", 10**6)
        .events.filter(pl.col("fold") == int(Fold.TRAIN))
        .equals(whole.events.filter(pl.col("fold") == int(Fold.TRAIN)))
    )
    with pytest.raises(DataError, match="'shoes': the dataset has no event there; it has events of films"):
        keep_few(whole, "shoes", 7)


def test_domains_that_share_users_are_split_at_one_moment_others_each_at_its_own() -> None:
    first = world()
    later = first.events.with_columns(domain=pl.lit("shop"), timestamp=pl.col("timestamp") + 20)
    stranger = pl.concat_str(pl.lit("other-"), "user_id")
    apart = first.events.with_columns(domain=pl.lit("music"), timestamp=pl.col("timestamp") + 900, user_id=stranger)
    whole = replace(
        first,
        items=pl.concat([first.items.with_columns(domain=pl.lit(name)) for name in ("films", "shop", "music")]),
        events=pl.concat([first.events, later, apart]),
    )
    divided = split(whole, events_by="time")
    warm = divided.events.join(divided.items.filter(~pl.col("cold")), on=["domain", "item_id"], how="semi")
    for domains in (["films", "shop"], ["music"]):
        own = warm.filter(pl.col("domain").is_in(domains))
        last = own.filter(pl.col("fold") == int(Fold.TRAIN))["timestamp"].max()
        assert own.filter(pl.col("fold") != int(Fold.TRAIN))["timestamp"].min() >= last
        assert (own["fold"] == int(Fold.TRAIN)).mean() == pytest.approx(0.8, abs=0.05)


def test_a_split_by_time_of_a_domain_without_times_is_that_within_each_user() -> None:
    timeless = world(timestamp=0)
    assert split(timeless, events_by="time").events.equals(split(timeless).events)


def test_without_timestamps_the_split_is_random_within_each_user() -> None:
    divided = split(world(users=1, timestamp=0))
    order = [int(item[1:]) for item in divided.events["item_id"]]
    assert order != sorted(order)
    assert divided.events["fold"].is_sorted()
    assert split(world(users=1, timestamp=0), seed=1).events["item_id"].to_list() != divided.events["item_id"].to_list()


def test_official_folds_of_texts_are_kept_and_others_are_drawn() -> None:
    official = split(tiny_dataset()).texts
    assert official["fold"].to_list() == [0, 2]
    rows = [{"text_id": f"q{n}", "text": f"mug {n}", "fold": None} for n in range(20)]
    drawn = split(tiny_dataset(texts=texts(*rows), tasks=(TAGS,))).texts
    assert drawn["fold"].value_counts().sort("fold")["count"].to_list() == [16, 2, 2]


def test_the_hash_names_the_split_and_nothing_else() -> None:
    divided = split(world())
    renamed = world()
    renamed = tiny_dataset(
        items=renamed.items,
        events=renamed.events.with_columns(("person-" + pl.col("user_id").str.reverse()).alias("user_id")),
        texts=no_texts(),
        tasks=renamed.tasks,
    )
    assert split(renamed).split_hash == divided.split_hash  # another key of pseudonyms
    assert split(world(), seed=1).split_hash != divided.split_hash
    assert split(world(users=19)).split_hash != divided.split_hash


@given(st.permutations(range(12)))
def test_folds_of_items_do_not_depend_on_their_order(order: list[int]) -> None:
    rows = [{"item_id": f"i{n}", "fold": None, "cold": None} for n in range(12)]
    event = events({"item_id": "i1"})
    straight = split(tiny_dataset(items=items(*rows), events=event)).items
    shuffled = split(tiny_dataset(items=items(*(rows[n] for n in order)), events=event)).items
    assert shuffled.sort("item_id").equals(straight.sort("item_id"))
    assert shuffled["item_id"].to_list() == [f"i{n}" for n in order]


def test_a_split_dataset_keeps_the_contract() -> None:
    split(world()).check()
