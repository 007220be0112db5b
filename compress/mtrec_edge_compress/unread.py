"""Items that stand for new ones: neither teacher nor student reads their texts, and both rank them as unseen items.

An encoder knows more of a text that it learned from than of one that comes later. Of these texts it knows as little, so
the ranker learns what such a vector is worth.
"""

import numpy as np

from mtrec_edge_compress.data.arrays import Arrays, IntArray


def unread_items(arrays: Arrays, share: float, seed: int) -> IntArray:
    """Return the catalogue rows of a share of the items with TRAIN events, sorted; the same for the same seed."""
    seen = np.flatnonzero(arrays.support[0])
    drawn = np.random.default_rng((seed, 7)).permutation(seen)
    return np.sort(drawn[: round(share * len(seen))])
