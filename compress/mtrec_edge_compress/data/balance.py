"""Balance labels: class weights against rare classes, sampled negatives against missing ones. Pure functions."""

import numpy as np
import numpy.typing as npt

from mtrec_edge_runtime.errors import InputError

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

MAX_WEIGHT = 10.0  # of the rarest class, in units of the commonest one's


def class_weights(labels: IntArray, num_classes: int) -> FloatArray:
    """Return a weight for each class, (num_classes,): capped inverse frequency, mean 1 over the labelled rows.

    `labels` holds class numbers, -1 where missing. Relative to the commonest class a class weighs
    `min(most / count, MAX_WEIGHT)`; a class without rows has the greatest weight. All 1 without labels.
    """
    known = labels[labels >= 0]
    if known.size and known.max() >= num_classes:
        raise InputError(f"label {known.max()} for {num_classes} classes: labels are numbers under num_classes")
    counts = np.bincount(known, minlength=num_classes)
    if not known.size:
        return np.ones(num_classes, np.float32)
    relative = np.minimum(counts.max() / np.maximum(counts, 1), MAX_WEIGHT)
    weights: FloatArray = (relative * counts.sum() / (relative * counts).sum()).astype(np.float32)
    return weights


def sample_negatives(rng: np.random.Generator, rows: slice, size: int, *, observed: IntArray | None = None) -> IntArray:
    """Draw `size` catalogue rows of a domain, uniformly, with repetition, never one of `observed`.

    `rows` is the domain's slice of the catalogue; `observed` holds rows of items the user has had to do with (any
    order, repeated or of other domains). Raises InputError when no row is left to draw.
    """
    taken = np.unique(observed) if observed is not None else np.zeros(0, np.int64)
    taken = taken[(taken >= rows.start) & (taken < rows.stop)] - rows.start
    free = rows.stop - rows.start - len(taken)
    if free <= 0:
        raise InputError(f"no negative left in rows {rows.start}:{rows.stop}: all {len(taken)} items are observed")
    drawn = rng.integers(0, free, size)  # the drawn-th row that is not taken ...
    before = np.searchsorted(taken - np.arange(len(taken)), drawn, side="right")  # ... has so many taken ones before it
    chosen: IntArray = rows.start + drawn + before
    return chosen
