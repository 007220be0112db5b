"""Texts of different lengths in batches: every text once, padding bounded, buckets cut where it costs least."""

from itertools import combinations

import numpy as np
import pytest

from mtrec_edge_compress.padding import BUCKET_COST, RUN_TOKENS, length_batches, length_buckets


def cost(buckets: list[list[int]]) -> int:
    """What `length_buckets` promises to make least; a bucket is a list of lengths."""
    return sum(BUCKET_COST + len(bucket) * max(bucket) for bucket in buckets)


def test_every_text_is_in_one_batch_and_batches_are_bounded() -> None:
    lengths = np.random.default_rng(0).integers(2, 65, 3000)
    batches = list(length_batches(lengths))
    assert sorted(np.concatenate(batches)) == list(range(3000))
    assert all(lengths[rows].max() * len(rows) <= RUN_TOKENS for rows in batches)


@pytest.mark.parametrize("seed", range(8))
def test_buckets_cost_as_little_as_the_best_of_all_cuts(seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(2, 65, 9)
    buckets = length_buckets(lengths)
    assert sorted(np.concatenate(buckets)) == list(range(9))
    in_order = sorted(lengths.tolist())
    best = min(
        cost([in_order[a:b] for a, b in zip((0, *cuts), (*cuts, 9), strict=True)])
        for count in range(9)
        for cuts in combinations(range(1, 9), count)
    )
    assert cost([lengths[rows].tolist() for rows in buckets]) == best


def test_texts_of_one_length_share_a_bucket_and_none_make_none() -> None:
    assert [rows.tolist() for rows in length_buckets(np.full(40, 64))] == [list(range(40))]
    assert length_buckets(np.zeros(0, np.int64)) == []
