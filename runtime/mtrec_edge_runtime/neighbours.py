"""What users did together, as sparse item-to-item weights: how much an event with one item speaks for another.

Reads and writes four files of `catalogue/`, memory-mapped; a row is looked up only for the events of a history.
Knows nothing of how the weights were found, of texts or of graphs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrec_edge_runtime.errors import BundleError
from mtrec_edge_runtime.npy import load_array

MAX_LINKS = 65_535  # of one item: their number is stored in two bytes

Float32 = NDArray[np.float32]
Rows = NDArray[np.intp] | slice


@dataclass(frozen=True)
class Neighbours:
    """A weight matrix (items, items) in compressed rows: a row is the item of an event, a column a candidate."""

    start: NDArray[np.int64]  # (items + 1,) where each row begins among the links
    item: NDArray[Any]  # (links,) catalogue rows, unsigned
    code: NDArray[np.int8]  # (links,) weight = code * scale of its row
    scale: NDArray[np.float16]  # (items,)

    def __len__(self) -> int:
        """Return the number of links."""
        return len(self.item)

    def affinity(self, history: NDArray[Any], candidates: Rows) -> Float32:
        """Return the weights of candidates for each event, float32 (candidates, events).

        `history` (events,) and `candidates` hold catalogue rows, -1 for an item that is not in the catalogue; where
        there is no link the weight is 0.
        """
        known = np.flatnonzero(history >= 0)
        place, item, weight = self._links(history[known])
        event = known[place]
        if isinstance(candidates, slice):
            inside = (item >= candidates.start) & (item < candidates.stop)
            found = np.zeros((candidates.stop - candidates.start, len(history)), np.float32)
            found[item[inside] - candidates.start, event[inside]] = weight[inside]
            return found
        distinct, turn = np.unique(candidates, return_inverse=True)
        at = np.minimum(np.searchsorted(distinct, item), len(distinct) - 1)
        inside = distinct[at] == item
        found = np.zeros((len(distinct), len(history)), np.float32)
        found[at[inside], event[inside]] = weight[inside]
        spread: Float32 = found[turn]
        return spread

    def reach(self, row: int) -> Float32:
        """Return `w + w W`, float32 (items,): what an item's links say of each item, and those of the items they reach.

        `w` is the item's row of the matrix `W`. A weight was fitted beside all other items of a history; of one item
        alone the way over an item in between counts too (of `w + w W + w W W ...`, two steps are kept). The item itself
        gets 0, and so does every item for `row` -1.
        """
        total = np.zeros(len(self.scale), np.float32)
        if row < 0:
            return total
        _, near, weight = self._links(np.array([row]))
        middle, far, onward = self._links(near)
        total += np.bincount(far, weight[middle] * onward, len(total))
        total[near] += weight
        total[row] = 0.0
        return total

    def _links(self, rows: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.int64], Float32]:
        """Return the links that start from these rows: from which of them, to which item and its weight, (links,)."""
        first, end = self.start[rows], self.start[rows + 1]
        count = end - first
        place = np.repeat(np.arange(len(rows)), count)
        link = np.arange(len(place)) + np.repeat(end - np.cumsum(count), count)
        weight = self.code[link].astype(np.float32) * self.scale[rows[place]].astype(np.float32)
        return place, self.item[link].astype(np.int64), weight


def make_neighbours(start: NDArray[Any], item: NDArray[Any], weight: NDArray[Any]) -> Neighbours:
    """Return the matrix with weights rounded to int8, one scale a row: `max |w| / 127`, as float16.

    `start` (items + 1,), `item` and `weight` (links,) are compressed rows. Raises BundleError for a row of more than
    65,535 links and for a weight that is not finite or beyond float16.
    """
    counts = np.diff(start)
    if counts.max(initial=0) > MAX_LINKS:
        raise BundleError(f"neighbours: an item has {counts.max()} links, at most {MAX_LINKS} can be stored")
    largest = np.zeros(len(counts))
    with np.errstate(invalid="ignore", over="ignore"):  # refused below
        np.maximum.at(largest, np.repeat(np.arange(len(counts)), counts), np.abs(weight))
        scale = (largest / 127).astype(np.float16)
    if not np.isfinite(scale).all():
        raise BundleError("neighbours: every weight must be finite, within float16")
    divisor = np.repeat(scale.astype(np.float64), counts)
    code = np.rint(np.divide(weight, divisor, out=np.zeros(len(divisor)), where=divisor > 0))
    wide = np.uint16 if len(counts) <= 1 << 16 else np.uint32
    return Neighbours(start.astype(np.int64), item.astype(wide), np.clip(code, -127, 127).astype(np.int8), scale)


def no_neighbours(items: int) -> Neighbours:
    """Return the matrix without links."""
    return make_neighbours(np.zeros(items + 1, np.int64), np.zeros(0, np.int64), np.zeros(0))


def write_neighbours(folder: str | Path, neighbours: Neighbours) -> None:
    """Write the matrix into `catalogue/` under the bundle's `folder`."""
    place = Path(folder) / "catalogue"
    place.mkdir(parents=True, exist_ok=True)
    arrays = {
        "neighbour_counts": np.diff(neighbours.start).astype(np.uint16),
        "neighbour_items": neighbours.item,
        "neighbour_codes": neighbours.code,
        "neighbour_scales": neighbours.scale,
    }
    for name, array in arrays.items():
        np.save(place / f"{name}.npy", array, allow_pickle=False)


def read_neighbours(folder: str | Path, items: int) -> Neighbours:
    """Map the files of a catalogue of so many items; BundleError when they contradict each other."""
    place = Path(folder) / "catalogue"
    counts = load_array(place / "neighbour_counts.npy", np.uint16, (items,))
    wide = np.uint16 if items <= 1 << 16 else np.uint32
    start = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    links = int(start[-1])
    item = load_array(place / "neighbour_items.npy", wide, (links,))
    code = load_array(place / "neighbour_codes.npy", np.int8, (links,))
    scale = load_array(place / "neighbour_scales.npy", np.float16, (items,))
    if links and int(item.max()) >= items:
        raise BundleError(f"{place}/neighbour_items.npy: row {item.max()} of {items} items; get the bundle again")
    if not np.isfinite(scale).all():
        raise BundleError(f"{place}/neighbour_scales.npy holds a number that is not finite; get the bundle again")
    return Neighbours(start, item, code, scale)
