import numpy as np
import polars as pl
import pytest

from mtrec_edge_compress.data.arrays import Arrays, History, build_arrays
from mtrec_edge_compress.data.invented_texts import invent_words
from mtrec_edge_compress.data.oracle import Oracle
from mtrec_edge_compress.data.schema import Dataset
from mtrec_edge_compress.data.synthetic import Truth, make_world
from mtrec_edge_compress.evaluate import evaluate
from mtrec_edge_runtime.errors import InputError


@pytest.fixture(scope="module")
def world() -> tuple[Dataset, Truth]:
    return make_world()


@pytest.fixture(scope="module")
def arrays(world: tuple[Dataset, Truth]) -> Arrays:
    return build_arrays(world[0])


def test_the_world_keeps_the_data_contract(world: tuple[Dataset, Truth]) -> None:
    world[0].check()
    assert (len(world[0].items), len(world[0].events), len(world[0].texts)) == (900, 12_000, 600)


def test_shop_and_video_share_users_and_items_and_music_shares_nothing(world: tuple[Dataset, Truth]) -> None:
    for table, column in ((world[0].events, "user_id"), (world[0].items, "item_id")):
        shop, video, music = (
            set(table.filter(pl.col("domain") == domain)[column]) for domain in ("shop", "video", "music")
        )
        assert shop == video
        assert not shop & music


def test_the_same_seed_makes_the_same_world(world: tuple[Dataset, Truth]) -> None:
    again, _ = make_world()
    assert again.split_hash == world[0].split_hash
    assert again.items.equals(world[0].items)
    assert make_world(1)[0].split_hash != world[0].split_hash


def test_the_oracle_is_far_above_chance_everywhere(world: tuple[Dataset, Truth], arrays: Arrays) -> None:
    best = evaluate(Oracle(world[1], arrays), arrays).tasks
    assert best["shop.click"]["ndcg@10"] > 0.3
    assert best["music.listen"]["ndcg@10"] > 0.25
    assert best["video.like"]["auc"] > 0.85
    assert best["video.rating"]["rmse"] < 0.75 < best["video.rating"]["rmse_constant"]
    assert best["shop.category"]["accuracy"] > 0.85
    assert best["music.genre"]["accuracy"] > 0.85
    assert best["queries.tags"]["span_f1"] == 1.0


def test_popularity_is_far_below_the_oracle(arrays: Arrays, world: tuple[Dataset, Truth]) -> None:
    class Popularity(Oracle):
        def pair_scores(self, history: History, domain: str) -> dict[str, np.ndarray]:
            return {"shop.click": self.arrays.priors[self.arrays.domains[domain], 0]}

    reached = evaluate(Popularity(world[1], arrays), arrays, tasks=["shop.click"]).tasks
    assert reached["shop.click"]["ndcg@10"] < 0.1


def test_the_truth_is_the_expectation_of_what_happened(world: tuple[Dataset, Truth]) -> None:
    dataset, truth = world
    rated = dataset.events.filter(pl.col("behaviour") == "rate")
    users = {user: row for row, user in enumerate(truth.users["video"])}
    columns = {item: column for column, item in enumerate(truth.items["video"])}
    rows = [users[u] for u in rated["user_id"]]
    cells = [columns[i] for i in rated["item_id"]]
    values = rated["value"].to_numpy()
    assert truth.pairs["video.rating"][rows, cells].mean() == pytest.approx(values.mean(), abs=0.03)
    liked = 1 / (1 + np.exp(-truth.pairs["video.like"][rows, cells]))
    assert liked.mean() == pytest.approx((values >= 4).mean(), abs=0.02)


def test_the_oracle_refuses_a_history_of_nobody(world: tuple[Dataset, Truth], arrays: Arrays) -> None:
    nobody = History(np.array([1, 1, 1]), np.zeros(3, np.int64), np.zeros(3, np.float32))
    with pytest.raises(InputError, match="no user of the world has this history"):
        Oracle(world[1], arrays).pair_scores(nobody, "shop")


def test_invented_words_are_distinct_and_pronounceable() -> None:
    words = invent_words(np.random.default_rng(0), 500)
    assert len(set(words)) == 500
    assert all(word.isalpha() and word.isascii() and set(word) & set("aeiou") for word in words)
