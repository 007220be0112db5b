"""The items one request scores: a whole domain of the catalogue, some of its items, new items, or a mixture.

Reads the catalogue in parts, so that memory does not grow with the domain. Knows nothing of users or tasks.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mtrec_edge_runtime.catalogue import PRIORS, Catalogue
from mtrec_edge_runtime.encoder import Encode, Float32
from mtrec_edge_runtime.errors import InputError
from mtrec_edge_runtime.history import Candidate, NewItem

CANDIDATES_PER_RUN = 4096


def run_slices(start: int, stop: int) -> Iterator[slice]:
    """Yield `start` to `stop` as slices of at most 4,096: what one run of the ranker takes.

    >>> list(run_slices(10, 5000))
    [slice(10, 4106, None), slice(4106, 5000, None)]
    """
    for first in range(start, stop, CANDIDATES_PER_RUN):
        yield slice(first, min(first + CANDIDATES_PER_RUN, stop))


class Candidates:
    """Candidates looked up once. `rows` holds each one's catalogue row, -1 for a new item."""

    def __init__(self, items: Sequence[Candidate] | None, *, domain: str, catalogue: Catalogue, encode: Encode) -> None:
        """Look up `items`, encoding the new ones; None stands for every item of the domain, in catalogue order."""
        self._catalogue = catalogue
        self._ids = catalogue.ids(domain)
        self._start, end = catalogue.domain_rows(domain)
        self._whole = items is None
        self._new: dict[int, NewItem] = {}
        if items is None:
            self.rows = np.arange(self._start, end)
            return
        if isinstance(items, str) or not isinstance(items, Sequence) or not items:
            raise InputError(
                f"candidates={items!r:.60}: give a list of at least one item id or NewItem, or None for all"
            )
        ids = [item for item in items if isinstance(item, str)]
        if len(ids) == len(items):  # soon told of many
            self.rows = catalogue.rows(domain, ids)
            return
        self._new = {at: item for at, item in enumerate(items) if isinstance(item, NewItem)}
        known = catalogue.rows(domain, [item for item in items if not isinstance(item, NewItem)])
        self.rows = np.full(len(items), -1)
        self.rows[np.setdiff1d(np.arange(len(items)), list(self._new))] = known
        self._new_vectors = encode([item.text for item in self._new.values()])

    def __len__(self) -> int:
        """Return the number of candidates."""
        return len(self.rows)

    @property
    def first(self) -> NDArray[np.bool_]:
        """Whether each candidate stands here for the first time, (candidates,); two new items are never one."""
        if self._whole:
            return np.ones(len(self), bool)
        result = self.rows < 0
        result[np.unique(self.rows, return_index=True)[1]] = True
        return result

    def name(self, position: int) -> str:
        """Return the id of a catalogue item or the title of a new one."""
        item = self._new.get(position)
        return self._ids[self.rows[position] - self._start] if item is None else item.title

    def parts(self) -> Iterator[tuple[slice, Float32, Float32]]:
        """Yield slices of at most 4,096 candidates with their vectors (n, D) and priors (n, 3), zero for new items."""
        for part in run_slices(0, len(self)):
            rows = self.rows_of(part)
            if self._new:
                yield part, *self._mixed(part)
            else:
                yield part, self._catalogue.vectors(rows), self._catalogue.priors(rows)

    def rows_of(self, part: slice) -> NDArray[np.intp] | slice:
        """Return the catalogue rows of a part; of a whole domain as a slice of the mapped files, not a gather."""
        return slice(self._start + part.start, self._start + part.stop) if self._whole else self.rows[part]

    def _mixed(self, part: slice) -> tuple[Float32, Float32]:
        rows = self.rows[part]
        known = rows >= 0
        vectors = np.empty((len(rows), self._catalogue.vector_size), np.float32)
        priors = np.zeros((len(rows), PRIORS), np.float32)
        vectors[known] = self._catalogue.vectors(rows[known])
        priors[known] = self._catalogue.priors(rows[known])
        here = [at for at, position in enumerate(self._new) if part.start <= position < part.stop]
        vectors[~known] = self._new_vectors[here]
        return vectors, priors
