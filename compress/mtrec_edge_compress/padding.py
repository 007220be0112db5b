"""How texts of different lengths share batches: padding costs time, and so does each batch."""

from collections.abc import Iterator

import numpy as np

from mtrec_edge_compress.data.arrays import IntArray

RUN_TOKENS = 4096  # most padded tokens that are encoded together
BUCKET_COST = 40  # what a bucket more costs a training step, in tokens; measured on MiniLM-L6, see docs/decisions.md


def length_batches(lengths: IntArray) -> Iterator[IntArray]:
    """Yield rows sorted by length, at most RUN_TOKENS padded tokens together."""
    order = np.argsort(lengths, kind="stable")
    at = 0
    while at < len(order):
        size = 1
        while at + size < len(order) and lengths[order[at + size]] * (size + 1) <= RUN_TOKENS:
            size += 1
        yield order[at : at + size]
        at += size


def length_buckets(lengths: IntArray) -> list[IntArray]:
    """Return the rows sorted by length and cut where padded tokens and buckets together cost least.

    An exact dynamic programme over the distinct lengths: `cost(buckets) = sum of BUCKET_COST + texts * longest`.
    """
    order = np.argsort(lengths, kind="stable")
    distinct, first = np.unique(lengths[order], return_index=True)
    starts = np.append(first, len(order))  # of each distinct length among the sorted rows
    cost, cut = np.zeros(len(distinct) + 1), np.zeros(len(distinct) + 1, np.int64)
    for end in range(1, len(distinct) + 1):
        whole = cost[:end] + BUCKET_COST + (starts[end] - starts[:end]) * distinct[end - 1]
        cut[end] = whole.argmin()
        cost[end] = whole[cut[end]]
    buckets: list[IntArray] = []
    at = len(distinct)
    while at:
        buckets.insert(0, order[starts[cut[at]] : starts[at]])
        at = int(cut[at])
    return buckets
