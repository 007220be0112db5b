"""Items that stand for new ones: neither teacher nor student reads their texts, and both rank them as unseen items.

An encoder knows more of a text that it learned from than of one that comes later. Of these texts it knows as little, so
the ranker learns what such a vector is worth.
"""

import numpy as np

from mtrec_edge_compress.data.arrays import Arrays, IntArray
from mtrec_edge_compress.recipe import Recipe
from mtrec_edge_compress.text_labels import TextLabels


def unread_items(arrays: Arrays, recipe: Recipe) -> IntArray:
    """Return the catalogue rows, sorted, of `teacher.unread` of the items with TRAIN events, drawn by the seed."""
    seen = np.flatnonzero(arrays.support[0])
    drawn = np.random.default_rng((recipe.seed, 7)).permutation(seen)
    return np.sort(drawn[: round(recipe.teacher.unread * len(seen))])


def read_texts(arrays: Arrays, unread: IntArray) -> IntArray:
    """Return the corpus rows that a student learns from: all that training may read, without the `unread` items."""
    return np.setdiff1d(TextLabels(arrays).pool(every_text=True), unread)
